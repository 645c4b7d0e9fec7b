//! Whether the count of the lines in the memory of `serve` outlives what is about to be killed.
//!
//! `serve` counts them in a file in memory, which the keeper holds; `/proc` shows who has one. `serve` lets nobody but root
//! look there, so for others the count is taken for lost as soon as a keeper was ever killed.

use std::{fs, os::unix::fs::MetadataExt};

/// As the file is called in `/proc`.
const NAME: &str = "/memfd:minimcp-log-lines";

/// The numbers of the files in which a process counts lines, or holds such counts of another; `None`: it is gone, or does
/// not let us look.
pub fn files_of(pid: u32) -> Option<Vec<u64>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let counts = entries.flatten().filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with(NAME))
    });
    let numbers = counts.filter_map(|entry| fs::metadata(entry.path()).ok());
    Some(numbers.map(|file| file.ino()).collect())
}

/// Whether a kill of `serve` takes the count of its lines with it: a new keeper was not given the file yet. One that is
/// about to start may have an empty file of its own, while the keeper holds that of the one before it.
pub fn is_lost_with_serve(serve: Option<&[u64]>, keeper: Option<&[u64]>) -> bool {
    match (serve, keeper) {
        // It counts nothing yet.
        (Some([]), _) => false,
        (_, Some([_, ..])) => false,
        _ => true,
    }
}

/// What is wrong at rest, when the keeper holds what `serve` counts in.
pub fn complaint(serve: Option<Vec<u64>>, keeper: Option<Vec<u64>>) -> Option<String> {
    let (serve, keeper) = (serve?, keeper?);
    let held = serve.iter().any(|file| keeper.contains(file));
    (!held).then(|| format!("serve counts lines in {serve:?}, and the keeper holds {keeper:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_lost_with_serve_unless_a_keeper_holds_one_or_there_is_none() {
        assert!(!is_lost_with_serve(Some(&[7]), Some(&[7])));
        assert!(!is_lost_with_serve(Some(&[8]), Some(&[7])), "at its start");
        assert!(!is_lost_with_serve(Some(&[]), Some(&[])), "before it");
        assert!(is_lost_with_serve(Some(&[7]), Some(&[])), "a new keeper");
        assert!(is_lost_with_serve(Some(&[7]), None), "no keeper");
        assert!(is_lost_with_serve(None, Some(&[])), "nobody can tell");
    }

    #[test]
    fn the_files_of_a_process_are_found_by_their_name() {
        let pid = std::process::id();
        let name = std::ffi::CString::new(&NAME["/memfd:".len()..]).expect("no NUL");
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = nix::sys::memfd::memfd_create(name.as_c_str(), flags).expect("a file");
        let file = fs::File::from(file);
        let number = file.metadata().expect("ours").ino();
        let found = files_of(pid).expect("our own");
        assert!(found.contains(&number), "{found:?}");
        drop(file);
        let found = files_of(pid).expect("our own");
        assert!(!found.contains(&number), "{found:?}");
    }

    #[test]
    fn at_rest_the_keeper_holds_what_serve_counts_in() {
        assert_eq!(complaint(Some(vec![7]), Some(vec![7])), None);
        assert_eq!(complaint(None, Some(vec![7])), None, "nobody can tell");
        for (serve, keeper) in [(vec![], vec![]), (vec![7], vec![]), (vec![8], vec![7])] {
            let wrong = complaint(Some(serve.clone()), Some(keeper.clone()));
            assert!(wrong.is_some(), "{serve:?} {keeper:?}");
        }
    }
}
