//! Templates that are written by the daemon: what was imported, in `runtime.imports_dir`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use uuid::Uuid;

use super::{Catalogue, Fault, Loaded, read};
use crate::domain::id::TemplateName;

/// Names that are tried for one template.
const NAMES_TRIED: u32 = 100;

/// Under which name a template is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name.
    pub name: TemplateName,
    /// The text of its manifest under that name.
    pub text: String,
    /// Its file.
    pub file: PathBuf,
    /// Whether the very same template is there already.
    pub is_there: bool,
}

impl Catalogue {
    /// A name for a template that is to be called `wanted`: that one, or with a number, so that no other template is
    /// covered and none of `taken` is used again. `text_of` gives the manifest under a name. Reads files, so not for an async thread.
    ///
    /// # Errors
    /// What `text_of` refuses, or a sentence when no name is free.
    pub fn place<E: From<String>>(
        &self,
        wanted: &TemplateName,
        taken: &BTreeSet<TemplateName>,
        text_of: impl Fn(&TemplateName) -> Result<String, E>,
    ) -> Result<Place, E> {
        for number in 1..=NAMES_TRIED {
            let name = match number {
                1 => Ok(wanted.clone()),
                _ => {
                    let short: String = wanted.as_str().chars().take(36).collect();
                    TemplateName::new(format!("{}-{number}", short.trim_end_matches('-')))
                }
            };
            let name = name.map_err(|error| error.to_string())?;
            if taken.contains(&name) {
                continue;
            }
            let text = text_of(&name)?;
            let file = self.imports.join(name.as_str()).join("template.toml");
            let known = self.get(&name);
            let is_there = fs::read_to_string(&file).is_ok_and(|there| there == text);
            let is_ours = known
                .as_ref()
                .is_some_and(|entry| entry.file.as_ref() == Some(&file));
            if (is_there && is_ours) || (known.is_none() && !file.exists()) {
                return Ok(Place {
                    name,
                    text,
                    file,
                    is_there,
                });
            }
        }
        Err(format!("{wanted} and {NAMES_TRIED} names like it are taken").into())
    }

    /// The faults of a manifest, each a sentence with its key.
    #[must_use]
    pub fn faults_of(place: &Place) -> Vec<Fault> {
        read(&place.text, place.name.as_str(), &place.file)
            .err()
            .unwrap_or_default()
    }

    /// Writes a template and takes it into use. Writes files, so not for an async thread.
    ///
    /// # Errors
    /// The manifest's faults, or why its file cannot be written.
    pub fn add_imported(&self, place: &Place) -> Result<(), String> {
        let template = read(&place.text, place.name.as_str(), &place.file).map_err(|faults| {
            let told: Vec<String> = faults
                .iter()
                .map(|fault| format!("{}: {}", fault.key, fault.message))
                .collect();
            told.join("; ")
        })?;
        write(&place.file, &place.text).map_err(|error| {
            format!(
                "{} cannot be written: {}",
                place.file.display(),
                error.kind()
            )
        })?;
        self.loaded.rcu(|loaded| {
            let mut loaded = Loaded::clone(loaded);
            self.add(
                &mut loaded,
                template.clone(),
                None,
                Some(place.file.clone()),
            );
            Arc::new(loaded)
        });
        Ok(())
    }
}

/// Writes a new file: whole or not at all, and never over one that came meanwhile.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let draft = folder.join(format!(".{}", Uuid::now_v7()));
    let linked = File::create_new(&draft)
        .and_then(|mut open| {
            open.write_all(text.as_bytes())?;
            open.sync_all()
        })
        .and_then(|()| fs::hard_link(&draft, file));
    let removed = fs::remove_file(&draft);
    linked.and(removed)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_never_written_over_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("notes/template.toml");
        write(&file, "first").expect("written");
        let refused = write(&file, "second").expect_err("it is there");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&file).ok().as_deref(), Some("first"));
        let left = fs::read_dir(folder.path().join("notes")).expect("readable");
        assert_eq!(left.count(), 1, "no draft is left");
    }
}
