//! The folders of instances, and how one goes together with its row.
//!
//! A row and a folder cannot go in one step. So the folder of an instance that is being deleted is first set aside
//! (`ID.deleted`), then the row goes, then the folder. A daemon that starts sees by the row what became of that: the
//! folder comes back, or it is removed. A folder that was not set aside is never removed for want of a row, which may
//! well be in another database than the configured one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::Context;
use crate::{
    domain::{id::InstanceId, instance::InstanceRecord, reconcile::ShownFolder},
    store::CorruptRow,
};

/// Ends the name of a folder that was set aside.
const SET_ASIDE: &str = ".deleted";

/// The folder of an instance.
pub(super) fn instance_dir(context: &Context, id: InstanceId) -> PathBuf {
    context.config.runtime.instance_dir.join(id.to_string())
}

fn set_aside_path(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(SET_ASIDE);
    name.into()
}

/// Before the row goes.
pub(super) fn set_aside(folder: &Path) {
    match fs::rename(folder, set_aside_path(folder)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "a folder cannot be set aside before its deletion");
        }
        _ => {}
    }
}

/// Before a launch: the row did not go.
pub(super) fn take_back(folder: &Path) {
    if folder.exists() {
        return;
    }
    match fs::rename(set_aside_path(folder), folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "a folder that was set aside cannot be taken back");
        }
        _ => {}
    }
}

/// Of a spare: until an instance takes it, it looks like one that is being deleted, so that whoever comes after a crash
/// removes it.
///
/// # Errors
/// In one sentence.
pub(super) fn make_for_spare(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(set_aside_path(folder))
        .map_err(|error| format!("the folder of a spare cannot be made: {error}"))
}

/// It is the folder of an instance from now on.
pub(super) fn take_from_spare(folder: &Path) {
    if let Err(error) = fs::remove_dir(set_aside_path(folder)) {
        tracing::warn!(folder = %folder.display(), %error, "the folder of a spare keeps its mark");
    }
}

/// The folders in `place`, by instance. Of those that `is_known` names only that they are there. Blocks.
pub(super) fn shown(
    place: &Path,
    is_known: impl Fn(InstanceId) -> bool,
) -> BTreeMap<InstanceId, ShownFolder> {
    let mut shown = BTreeMap::new();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let aside = name.strip_suffix(SET_ASIDE);
        let Ok(id) = aside.unwrap_or(&name).parse::<InstanceId>() else {
            continue;
        };
        let is_empty = || {
            let entries = fs::read_dir(entry.path());
            entries.is_ok_and(|mut entries| entries.next().is_none())
        };
        let folder = ShownFolder {
            set_aside: aside.is_some(),
            empty: !is_known(id) && is_empty(),
        };
        // Where both are there, the one set aside comes first; the other is seen the next time.
        if folder.set_aside || !shown.contains_key(&id) {
            shown.insert(id, folder);
        }
    }
    shown
}

/// The deletion of an instance that has no row any more is ended.
///
/// # Errors
/// In one sentence.
pub(super) async fn remove_set_aside(folder: &Path) -> Result<(), String> {
    let gone = tokio::fs::remove_dir_all(set_aside_path(folder)).await;
    unless_gone(gone)
}

/// Removes a folder without a row that has nothing in it; one that has stays.
///
/// # Errors
/// In one sentence.
pub(super) async fn remove_empty(folder: &Path) -> Result<(), String> {
    unless_gone(tokio::fs::remove_dir(folder).await)
}

fn unless_gone(removed: io::Result<()>) -> Result<(), String> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("the folder cannot be removed: {error}"))
        }
        _ => Ok(()),
    }
}

/// After the row went.
pub(super) async fn remove(folder: &Path) {
    for folder in [set_aside_path(folder), folder.to_owned()] {
        match tokio::fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "a folder could not be removed; the next start tries again");
            }
            _ => {}
        }
    }
}

/// What is to be done with the folders that were found, by what the database says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    take_back: Vec<InstanceId>,
    remove: Vec<InstanceId>,
    /// Not set aside, and without a row.
    stray: Vec<InstanceId>,
}

/// `damaged`: ids of rows that cannot be read; `None` among them when not even an id can.
fn plan(
    names: impl IntoIterator<Item = String>,
    recorded: &BTreeSet<InstanceId>,
    damaged: &[Option<InstanceId>],
) -> Plan {
    let mut plan = Plan::default();
    for name in names {
        let aside = name.strip_suffix(SET_ASIDE);
        let Ok(id) = aside.unwrap_or(&name).parse::<InstanceId>() else {
            continue;
        };
        let has_row = recorded.contains(&id);
        let may_have_row = damaged.iter().any(|row| row.is_none_or(|row| row == id));
        match (aside.is_some(), has_row) {
            (true, true) => plan.take_back.push(id),
            (true, false) if !may_have_row => plan.remove.push(id),
            (false, false) if !may_have_row => plan.stray.push(id),
            _ => {}
        }
    }
    plan
}

/// At the start, before anything is launched: ends what a former daemon had begun.
pub(super) async fn settle(context: &Context, records: &[InstanceRecord], damaged: &[CorruptRow]) {
    let recorded = records.iter().map(|record| record.id).collect();
    let damaged: Vec<_> = damaged.iter().map(|row| row.id.parse().ok()).collect();
    let place = &context.config.runtime.instance_dir;
    let names = match fs::read_dir(place) {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()),
        Err(error) => {
            tracing::warn!(folder = %place.display(), %error, "the folders of instances cannot be listed");
            return;
        }
    };
    let plan = plan(names, &recorded, &damaged);
    for id in plan.take_back {
        take_back(&instance_dir(context, id));
    }
    for id in plan.remove {
        tracing::info!(instance = %id, "the folder of a deleted instance goes");
        remove(&instance_dir(context, id)).await;
    }
    if let [first, ..] = plan.stray.as_slice() {
        tracing::warn!(
            "{} folders in {} are of no instance of this database (one is {first}); they are left as they are",
            plan.stray.len(),
            place.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> InstanceId {
        InstanceId(Uuid::from_u128(number))
    }

    #[test]
    fn only_what_was_set_aside_and_has_no_row_is_removed() {
        let names = [
            format!("{}", id(1)),
            format!("{}.deleted", id(2)),
            format!("{}.deleted", id(3)),
            format!("{}", id(4)),
            ".lock".to_owned(),
            "notes.deleted".to_owned(),
        ];
        let recorded = [id(1), id(2)].into();
        let planned = plan(names.clone(), &recorded, &[]);
        let expected = Plan {
            take_back: vec![id(2)],
            remove: vec![id(3)],
            stray: vec![id(4)],
        };
        assert_eq!(planned, expected);
        let planned = plan(names.clone(), &recorded, &[Some(id(3))]);
        assert_eq!((planned.remove, planned.stray), (vec![], vec![id(4)]));
        let planned = plan(names, &recorded, &[None]);
        assert_eq!((planned.remove, planned.stray), (vec![], vec![]));
    }

    #[tokio::test]
    async fn what_is_shown_is_looked_into_only_where_nobody_knows_it_and_goes_only_when_empty() {
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: String| place.path().join(name);
        for name in [
            id(1).to_string(),
            id(2).to_string(),
            id(3).to_string(),
            format!("{}.deleted", id(3)),
            "notes".to_owned(),
        ] {
            fs::create_dir(at(name)).expect("ours");
        }
        fs::write(at(id(2).to_string()).join("notes"), "kept").expect("ours");
        let folder = |set_aside, empty| ShownFolder { set_aside, empty };
        let expected = [
            (id(1), folder(false, false)),
            (id(2), folder(false, false)),
            (id(3), folder(true, true)),
        ];
        let found = shown(place.path(), |known| known == id(1));
        assert_eq!(found, expected.into());
        assert_eq!(remove_set_aside(&at(id(3).to_string())).await, Ok(()));
        assert!(at(id(3).to_string()).exists());
        assert_eq!(remove_empty(&at(id(3).to_string())).await, Ok(()));
        assert_eq!(remove_empty(&at(id(3).to_string())).await, Ok(()));
        assert!(remove_empty(&at(id(2).to_string())).await.is_err());
        assert!(at(id(2).to_string()).join("notes").exists());
    }

    #[tokio::test]
    async fn a_folder_goes_aside_and_comes_back_with_what_is_in_it_or_goes() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join(id(1).to_string());
        fs::create_dir(&folder).expect("ours");
        fs::write(folder.join("notes"), "kept").expect("ours");
        set_aside(&folder);
        assert!(!folder.exists());
        set_aside(&folder);
        take_back(&folder);
        take_back(&folder);
        let notes = fs::read_to_string(folder.join("notes"));
        assert_eq!(notes.ok().as_deref(), Some("kept"));
        set_aside(&folder);
        remove(&folder).await;
        assert_eq!(fs::read_dir(place.path()).expect("ours").count(), 0);
    }
}
