//! Whom the kernel ends first when the host runs out of memory.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
};

use nix::sys::prctl;

/// What init and server get in `oom_score_adj` (proc(5)), in thousandths of the host's memory: each counts as if it used a
/// tenth of it more than it does. So a server goes before `serve`, the keeper and the database, and of servers of about
/// the same size the largest; but a stranger that fills the host goes before all of them.
pub(super) const OOM_SCORE_ADJ: i32 = 100;

/// Raises the score of this process, which its children inherit; one that is higher stays. Raising needs no privilege.
/// What is denied here leaves the score as it was: that is no reason not to launch.
pub(super) fn raise() {
    // The files of an undumpable process belong to root.
    let _ = prctl::set_dumpable(true);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/oom_score_adj");
    let _ = prctl::set_dumpable(false);
    let Ok(mut file) = file else { return };
    let mut text = [0; 16];
    let length = file.read(&mut text).unwrap_or(0);
    if is_lower(text.get(..length).unwrap_or_default()) {
        let _ = write!(file, "{OOM_SCORE_ADJ}");
    }
}

/// Whether what the kernel shows is below ours. What cannot be read is taken for it.
fn is_lower(shown: &[u8]) -> bool {
    let shown = std::str::from_utf8(shown).unwrap_or_default().trim();
    shown.parse().unwrap_or(0) < OOM_SCORE_ADJ
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_only_ever_raised() {
        assert!(is_lower(b"0\n"));
        assert!(is_lower(b"-1000\n"));
        assert!(is_lower(b"99\n"));
        assert!(is_lower(b""));
        assert!(!is_lower(b"100\n"));
        assert!(!is_lower(b"1000\n"));
    }
}
