//! Which installed packages are removed: what nothing refers to, once it is old, or while all together are too large.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Installer, MARK, Package};
use crate::{
    domain::{UnixMs, duration::HumanDuration},
    runtime,
};

/// One folder of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its name below the store.
    pub(super) name: String,
    /// All its files together.
    pub(super) bytes: u64,
    /// When a child was last launched from it.
    pub(super) used_at: UnixMs,
    /// Whether a template names it, or a process runs from it.
    pub(super) is_needed: bool,
}

/// What was removed, and what stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// The folders that are gone.
    pub removed: Vec<String>,
    /// What that freed.
    pub freed_bytes: u64,
    /// Folders that stay.
    pub kept: usize,
    /// Their size.
    pub kept_bytes: u64,
}

/// The names of those to remove, with why. What is needed stays, whatever its age and size.
pub(super) fn surplus(
    stored: &[Stored],
    now: UnixMs,
    unused_max: HumanDuration,
    total_bytes_max: u64,
) -> Vec<(String, &'static str)> {
    let unused_max = i64::try_from(unused_max.ms()).unwrap_or(i64::MAX);
    let mut free: Vec<&Stored> = stored.iter().filter(|one| !one.is_needed).collect();
    free.sort_by_key(|one| (one.used_at, &one.name));
    let mut total: u64 = stored.iter().map(|one| one.bytes).sum();
    let mut gone = Vec::new();
    for one in free {
        let why = if now.saturating_sub(one.used_at) > unused_max {
            "it was not used for packages.unused_max"
        } else if total > total_bytes_max {
            "all together are larger than packages.total_bytes_max"
        } else {
            continue;
        };
        total -= one.bytes;
        gone.push((one.name.clone(), why));
    }
    gone
}

impl Installer {
    /// A child is launched from the program `file`: its package, if it lies in one, is in use. Blocks for a moment.
    pub fn note_use(&self, file: &Path, now: UnixMs) {
        let Some(name) = file
            .strip_prefix(&self.store)
            .ok()
            .and_then(|rest| rest.iter().next())
        else {
            return;
        };
        let noted = fs::File::options()
            .write(true)
            .open(self.store.join(name).join(MARK));
        let noted = noted.and_then(|mark| mark.set_modified(time_of(now)));
        if let Err(error) = noted {
            tracing::debug!(?name, %error, "the use of a package could not be noted");
        }
    }

    /// Removes what is surplus. `named` are the packages of all templates. Blocks while it measures and deletes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn collect(&self, named: &[Package], now: UnixMs) -> io::Result<Collected> {
        let named: BTreeSet<PathBuf> = named
            .iter()
            .map(|package| package.folder(&self.store))
            .collect();
        let running = runtime::folders_in_command_lines(&self.store);
        let mut stored = Vec::new();
        let entries = match fs::read_dir(&self.store) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Collected::default());
            }
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let Some(text) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if !path.is_dir() {
                continue;
            }
            stored.push(Stored {
                name: text.to_owned(),
                bytes: size_of(&path),
                used_at: used_at(&path),
                is_needed: named.contains(&path)
                    || running.contains(path.as_path())
                    || self.lock_running().contains_key(&path),
            });
        }
        let gone: BTreeMap<String, &str> = surplus(
            &stored,
            now,
            self.config.unused_max,
            self.config.total_bytes_max,
        )
        .into_iter()
        .collect();
        let mut collected = Collected::default();
        for one in stored {
            let removed = gone
                .get(&one.name)
                .is_some_and(|why| self.remove(&one, why));
            if removed {
                collected.freed_bytes += one.bytes;
                collected.removed.push(one.name);
            } else {
                collected.kept += 1;
                collected.kept_bytes += one.bytes;
            }
        }
        collected.removed.sort();
        Ok(collected)
    }

    /// Whether it is gone. It counts no more as soon as its mark is gone, so a removal that is cut off does no harm.
    fn remove(&self, one: &Stored, why: &str) -> bool {
        let folder = self.store.join(&one.name);
        {
            // No installation begins meanwhile.
            let running = self.lock_running();
            if running.contains_key(&folder) {
                return false;
            }
            if fs::remove_file(folder.join(MARK)).is_err() && folder.join(MARK).exists() {
                return false;
            }
        }
        match fs::remove_dir_all(&folder) {
            Ok(()) => {
                tracing::info!(
                    package = one.name,
                    bytes = one.bytes,
                    why,
                    "a package was removed"
                );
                true
            }
            Err(error) => {
                tracing::warn!(package = one.name, %error, "a package could not be removed");
                false
            }
        }
    }
}

/// When its mark was written or last touched; without one, when the folder was.
fn used_at(folder: &Path) -> UnixMs {
    let times = [folder.join(MARK), folder.to_owned()];
    let mut times = times
        .iter()
        .filter_map(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok());
    let time = times
        .next()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.map_or(0, |time| {
        i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
    })
}

fn time_of(now: UnixMs) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(now).unwrap_or(0))
}

/// The lengths of all files below; what cannot be read does not count.
fn size_of(folder: &Path) -> u64 {
    let (mut bytes, mut queue) = (0, vec![folder.to_owned()]);
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // Of a link the link itself, which leads to nothing else.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                queue.push(entry.path());
            } else {
                bytes += meta.len();
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, bytes: u64, used_at: UnixMs, is_needed: bool) -> Stored {
        Stored {
            name: name.to_owned(),
            bytes,
            used_at,
            is_needed,
        }
    }

    fn names(stored: &[Stored], total_bytes_max: u64) -> Vec<String> {
        let gone = surplus(
            stored,
            100_000,
            HumanDuration::from_secs(50),
            total_bytes_max,
        );
        gone.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_is_old_goes_and_then_the_longest_unused_until_the_rest_fits() {
        let all = [
            stored("needed", 1_000, 0, true),
            stored("old", 10, 49_999, false),
            stored("edge", 10, 50_000, false),
            stored("fresh", 10, 90_000, false),
        ];
        assert_eq!(names(&all, u64::MAX), ["old"]);
        assert_eq!(names(&all, 1_020), ["old"]);
        assert_eq!(names(&all, 1_019), ["old", "edge"]);
        assert_eq!(names(&all, 1_000), ["old", "edge", "fresh"]);
        assert_eq!(
            names(&all, 0),
            ["old", "edge", "fresh"],
            "never what is needed"
        );
        assert_eq!(names(&[], 0), Vec::<String>::new());
    }
}
