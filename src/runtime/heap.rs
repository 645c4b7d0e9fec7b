//! Memory of this process that is of no use to it: heaps for threads that never run at once, what malloc(3) keeps of what was
//! freed, and code that ran once.

use std::{fs, io};

/// As many heaps as there are processors, for all threads of this process; before others are started. malloc would make one
/// for each of the first threads, up to eight for a processor (mallopt(3), `M_ARENA_MAX`). A connection to a database is
/// served by a thread of its own, so what belongs to one instance lay scattered among several heaps, and none of them could
/// give pages back. Only as many threads run at once as there are processors.
pub fn keep_to_few_heaps() {
    #[cfg(target_env = "gnu")]
    {
        let processors = std::thread::available_parallelism();
        let heaps = processors.map_or(1, |count| libc::c_int::try_from(count.get()).unwrap_or(1));
        // SAFETY: it sets a number, under the lock of the allocator.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) };
    }
}

/// Gives free pages of the heaps back to the kernel (malloc_trim(3)), and the pages of code: those that are used come back
/// from the page cache, by the next call. Answers by how many bytes the resident memory went down. Takes milliseconds.
///
/// # Errors
/// When /proc cannot be read.
pub fn give_back_memory() -> io::Result<u64> {
    let before = resident_bytes()?;
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches only what the allocator holds free, under its locks.
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = fs::read("/proc/self/maps")?;
    for (begin, length) in code_of(&String::from_utf8_lossy(&maps)) {
        // SAFETY: pages of a file, mapped by the loader without the right to write: what is dropped is read from it again.
        // This process never unmaps code (nothing in it calls dlclose), so nothing else has come to lie there meanwhile.
        unsafe { libc::madvise(begin as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
    Ok(before.saturating_sub(resident_bytes()?))
}

/// Beginning and length of the mappings that are code of a file.
fn code_of(maps: &str) -> Vec<(usize, usize)> {
    let code = maps.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (range, rights) = (words.next()?, words.next()?);
        let path = words.nth(3)?;
        if rights != "r-xp" || !path.starts_with('/') {
            return None;
        }
        let (begin, end) = range.split_once('-')?;
        let begin = usize::from_str_radix(begin, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        Some((begin, end.checked_sub(begin)?))
    });
    code.collect()
}

fn resident_bytes() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("/proc/self/statm has no second number"))?;
    // SAFETY: it asks for a number.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(pages.saturating_mul(u64::try_from(page_bytes).unwrap_or(4_096)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_a_file_may_be_run_from_and_not_written() {
        let maps = "\
55d0-55d1 r--p 00000000 fe:00 12 /usr/bin/minimcp
55d1000-55d3000 r-xp 00001000 fe:00 12    /usr/bin/minimcp
55d3000-55d4000 rw-p 00003000 fe:00 12    /usr/bin/minimcp
7f00-7f10 rwxp 00000000 00:00 0
7f20-7f30 r-xp 00000000 00:00 0
7f40000-7f41000 r-xp 00000000 fe:00 13    /usr/lib/libc.so.6 (deleted)
7fff000-7fff200 r-xp 00000000 00:00 0     [vdso]
";
        let expected = [(0x55d_1000, 0x2000), (0x7f4_0000, 0x1000)];
        assert_eq!(code_of(maps), expected);
    }

    #[test]
    fn what_was_freed_goes_back_to_the_kernel_and_code_goes_on() {
        // Larger than what malloc maps by itself, in pieces that it does not; every second piece stays.
        let mut most = 0;
        // Tests beside this one take memory meanwhile.
        for _ in 0..10 {
            let mut pieces: Vec<Option<Box<[u8; 16_384]>>> =
                (0..4_096).map(|_| Some(Box::new([7; 16_384]))).collect();
            for piece in pieces.iter_mut().step_by(2) {
                *piece = None;
            }
            most = most.max(give_back_memory().expect("/proc is there"));
            assert!(pieces.iter().flatten().all(|piece| piece[9] == 7));
        }
        // Half of what lies between the pieces that stay, at least: pages that a piece shares with the next one stay, too.
        assert!(most >= 2_048 * 8_192, "{most} bytes");
    }
}
