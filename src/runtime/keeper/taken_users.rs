//! Which users of instances are taken: the owners of their folders. All of them were looked at for each new instance once,
//! which took longer the more there were; so what was seen is remembered.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::domain::own_user::UserIds;

/// Whose the folders beside each other were when they were looked at.
#[derive(Default)]
pub(super) struct TakenUsers {
    folders: PathBuf,
    /// By name: number of the file, and a user of the range.
    known: BTreeMap<OsString, (u64, u32)>,
}

impl TakenUsers {
    /// The users that have a folder in `folders`. One that is of the range stays so until it is gone or
    /// [`Self::forget`] is called: only the keeper gives folders away. The others are looked at each time.
    pub(super) fn of(&mut self, folders: &Path, ids: UserIds) -> BTreeSet<u32> {
        if self.folders != folders {
            *self = Self {
                folders: folders.to_owned(),
                known: BTreeMap::new(),
            };
        }
        let former = std::mem::take(&mut self.known);
        let entries = fs::read_dir(folders).into_iter().flatten().flatten();
        let owned = entries.filter_map(|entry| {
            let (name, number) = (entry.file_name(), entry.ino());
            let seen = former.get(&name).filter(|(of, _)| *of == number);
            let uid = match seen {
                Some((_, uid)) => *uid,
                None => entry.metadata().ok()?.uid(),
            };
            ids.contains(uid).then_some((name, (number, uid)))
        });
        self.known = owned.collect();
        self.known.values().map(|(_, uid)| *uid).collect()
    }

    /// This folder may have changed hands.
    pub(super) fn forget(&mut self, folder: &Path) {
        if let Some(name) = folder.file_name() {
            self.known.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    const IDS: UserIds = UserIds {
        min: 70_000,
        max: 70_009,
    };

    #[test]
    fn what_was_seen_is_remembered_until_it_changes_hands() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give folders away");
            return;
        }
        let all = tempfile::tempdir().expect("a folder");
        let folder = |name: &str, uid: u32| {
            let folder = all.path().join(name);
            fs::create_dir_all(&folder).expect("ours");
            chown(&folder, Some(uid), None).expect("root may");
            folder
        };
        let mut taken_users = TakenUsers::default();
        let mut taken = || taken_users.of(all.path(), IDS);
        let one = folder("one", 70_001);
        let two = folder("two", 0);
        assert_eq!(taken(), BTreeSet::from([70_001]));
        folder("two", 70_002);
        assert_eq!(
            taken(),
            BTreeSet::from([70_001, 70_002]),
            "it was not of the range before"
        );
        folder("one", 70_003);
        taken_users.forget(&one);
        let mut taken = || taken_users.of(all.path(), IDS);
        assert_eq!(taken(), BTreeSet::from([70_002, 70_003]));
        fs::remove_dir(&two).expect("ours");
        assert_eq!(taken(), BTreeSet::from([70_003]));
        let other = tempfile::tempdir().expect("a folder");
        assert_eq!(taken_users.of(other.path(), IDS), BTreeSet::new());
    }
}
