//! What the folder of an instance takes on the disk, measured on a schedule, and the end of a child that takes too much.
//! A quota of the file system would hold at once, but needs root and a file system that was made for it.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Supervisor, command::Command, folders::instance_dir};
use crate::domain::limits::Limits;

/// Files and folders that are looked at in one instance's folder at most: about a second of work.
const ENTRIES_MAX: u64 = 500_000;

/// Folders that one thread measures in a row: to hand each of them over would cost more than to measure it.
const FOLDERS_AT_ONCE: usize = 64;
/// How long it goes on with the next one: what is found is acted on behind it.
const IN_A_ROW: Duration = Duration::from_millis(100);

/// What was found in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Use {
    /// So many bytes of the disk.
    Bytes(u64),
    /// More files than are counted.
    TooMany,
    /// A folder that cannot be looked into; what it holds is not known.
    Hidden(PathBuf),
}

/// Why a child must end, in one sentence; `None`: it keeps to its budget.
fn breach(limits: &Limits, found: &Use) -> Option<String> {
    let max = limits.max_disk_bytes?;
    match found {
        Use::Bytes(bytes) if *bytes <= max => None,
        Use::Bytes(bytes) => Some(format!(
            "its folder takes {bytes} bytes of the disk, more than the {max} of limits.max_disk_bytes"
        )),
        Use::TooMany => Some(format!(
            "its folder holds more than {ENTRIES_MAX} files, which are not counted further for limits.max_disk_bytes"
        )),
        Use::Hidden(path) => Some(format!(
            "{} may not be looked into, so its folder cannot be measured for limits.max_disk_bytes",
            path.display()
        )),
    }
}

/// Sums up what the disk holds for a folder: blocks, not lengths, so that a sparse file counts as what it is. Follows no
/// link and stays on one file system. A file with several names counts in parts.
fn measure(top: &Path) -> Use {
    let Ok(found) = fs::symlink_metadata(top) else {
        return Use::Bytes(0);
    };
    let (device, mut bytes, mut entries) = (found.dev(), 0_u64, 0_u64);
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        let names = match fs::read_dir(&folder) {
            Ok(names) => names,
            Err(cause) if cause.kind() == std::io::ErrorKind::PermissionDenied => {
                return Use::Hidden(folder);
            }
            // It went away meanwhile.
            Err(_) => continue,
        };
        for entry in names.flatten() {
            entries += 1;
            if entries > ENTRIES_MAX {
                return Use::TooMany;
            }
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.dev() != device {
                continue;
            }
            if found.is_dir() {
                folders.push(entry.path());
            }
            // stat(2): blocks of 512 bytes, whatever the file system's own are.
            let own = found.blocks().saturating_mul(512);
            bytes = bytes.saturating_add(if found.is_dir() {
                own
            } else {
                own / found.nlink().max(1)
            });
        }
    }
    Use::Bytes(bytes)
}

/// Measures these folders in their order, the first one in any case, until it took long enough.
fn measure_some(folders: &[Option<PathBuf>]) -> Vec<Option<Use>> {
    let began = Instant::now();
    let in_time = |index: usize| index == 0 || began.elapsed() < IN_A_ROW;
    let some = folders.iter().enumerate();
    let some = some.take_while(|(index, _)| in_time(*index));
    some.map(|(_, folder)| folder.as_deref().map(measure))
        .collect()
}

impl Supervisor {
    /// Measures the folder of every instance with a child, one after the other, and ends those over their budget.
    ///
    /// # Errors
    /// When the measuring itself breaks off.
    pub async fn check_disk_use(&self) -> Result<serde_json::Value, String> {
        let context = self.context();
        let (mut measured, mut total, mut ended) = (0_u64, 0_u64, Vec::new());
        let mut left: VecDeque<_> = context.registry.after(None).into();
        while !left.is_empty() {
            let some = left.iter().take(FOLDERS_AT_ONCE).map(|(id, handle)| {
                let status = handle.status.borrow();
                let has_child = status.pid.is_some();
                has_child.then(|| instance_dir(context, *id))
            });
            let some: Vec<Option<PathBuf>> = some.collect();
            let known: Vec<_> = left
                .iter()
                .take(some.len())
                .map(|(_, handle)| {
                    let status = handle.status.borrow();
                    (status.record.generation, status.limits)
                })
                .collect();
            let found = tokio::task::spawn_blocking(move || measure_some(&some));
            let found = found.await.map_err(|error| error.to_string())?;
            let done = left.drain(..found.len()).zip(known).zip(found);
            for (((id, handle), (generation, limits)), found) in done {
                let Some(found) = found else { continue };
                measured += 1;
                if let Use::Bytes(bytes) = found {
                    total = total.saturating_add(bytes);
                }
                if let Some(cause) = breach(&limits, &found) {
                    tracing::warn!(instance = %id, cause, "a budget is exceeded");
                    ended.push(id.to_string());
                    let breach = Command::Breach(generation, cause.into());
                    let _ = handle.mailbox.send(breach).await;
                }
            }
        }
        Ok(json!({"measured": measured, "bytes": total, "ended": ended}))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn blocks_are_counted_and_links_are_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("inside/deep");
        fs::create_dir_all(&inside).expect("ours");
        fs::write(inside.join("file"), vec![1; 100_000]).expect("ours");
        let sparse = fs::File::create(inside.join("sparse")).expect("ours");
        sparse.set_len(1 << 40).expect("ours");
        let outside = tempfile::tempdir().expect("a folder");
        fs::write(outside.path().join("big"), vec![1; 4_000_000]).expect("ours");
        symlink(outside.path(), inside.join("link")).expect("ours");
        let Use::Bytes(bytes) = measure(folder.path()) else {
            panic!("it can be measured");
        };
        assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
        assert_eq!(measure(&folder.path().join("absent")), Use::Bytes(0));
    }

    #[test]
    fn what_cannot_be_looked_into_is_named() {
        if fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            eprintln!("SKIPPED: root looks into everything");
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).expect("ours");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("ours");
        assert_eq!(measure(folder.path()), Use::Hidden(closed));
    }

    #[test]
    fn the_cause_names_the_limit() {
        let limits = Limits {
            max_disk_bytes: Some(1_000),
            ..Limits::default()
        };
        assert_eq!(breach(&limits, &Use::Bytes(1_000)), None);
        for over in [Use::Bytes(1_001), Use::TooMany, Use::Hidden("/x".into())] {
            let cause = breach(&limits, &over).expect("too much");
            assert!(cause.contains("limits.max_disk_bytes"), "{cause}");
        }
        let unlimited = Limits {
            max_disk_bytes: None,
            ..limits
        };
        assert_eq!(breach(&unlimited, &Use::TooMany), None);
    }
}
