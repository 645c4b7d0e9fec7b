//! The way back: a backup becomes the data of a daemon that has none.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use flate2::read::GzDecoder;

use super::{
    backup::{Contents, DATABASE, FORMAT, HEADER, Header, INSTANCES, TEMPLATES},
    load_keys, lock_instances,
};
use crate::{
    clock::Clock,
    config::{Config, DatabaseConfig},
    domain::id::{InstanceId, TemplateName},
    secrets,
    store::{self, Store},
};

/// Longest [`HEADER`].
const HEADER_BYTES_MAX: u64 = 64 << 10;

/// Puts a backup where `config` says, for the next start of the daemon: the database, brought up to date, and the
/// folders. Nothing is there before, and nothing is left when it fails.
///
/// # Errors
/// One readable sentence: a daemon runs, there is data already, the file is no backup, is damaged or of a newer minimcp,
/// or the master key is not the one that sealed its credentials.
pub async fn restore(config: &Config, from: &Path) -> anyhow::Result<(Header, Contents)> {
    let file = File::open(from).with_context(|| format!("{} cannot be read", from.display()))?;
    let folders = &config.runtime.instance_dir;
    let _lock = lock_instances(folders)?;
    let staged = Staged {
        folders: folders.join(".restore"),
        database: store::sqlite_file(&config.database).map(|file| with_suffix(&file, ".restore")),
    };
    refuse_what_is_there(folders, &config.database)?;
    fs::DirBuilder::new()
        .create(&staged.folders)
        .with_context(|| format!("the folder {} cannot be made", staged.folders.display()))?;
    let source = from.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || {
        let unpacked = unpack(file, &staged);
        unpacked
            .with_context(|| source.display().to_string())
            .map(|unpacked| (unpacked, staged))
    });
    let ((header, contents), staged) = unpacked.await??;
    if header.database {
        let Some(database) = &staged.database else {
            bail!(
                "{} holds a SQLite database, and database.url is PostgreSQL",
                from.display()
            );
        };
        check(config, database).await?;
    }
    staged.settle(config, header.database)?;
    Ok((header, contents))
}

fn refuse_what_is_there(folders: &Path, database: &DatabaseConfig) -> anyhow::Result<()> {
    if let Some(file) = store::sqlite_file(database) {
        ensure!(
            fs::symlink_metadata(&file).is_err(),
            "{} exists already: a backup is restored where there is nothing, so move it away first",
            file.display()
        );
    }
    for entry in fs::read_dir(folders)? {
        let name = entry?.file_name();
        ensure!(
            name == ".lock" || name == ".restore",
            "{} is not empty: a backup is restored where there is nothing, so move it away first",
            folders.display()
        );
    }
    let unfinished = folders.join(".restore");
    if unfinished.exists() {
        // Of a restore that was killed; we hold the lock.
        fs::remove_dir_all(&unfinished)?;
    }
    Ok(())
}

/// What is unpacked and not yet in its place; it goes with the value.
struct Staged {
    folders: PathBuf,
    database: Option<PathBuf>,
}

impl Staged {
    /// Moves everything to its place, the database last: without it there is nothing for a daemon to find.
    fn settle(&self, config: &Config, has_database: bool) -> anyhow::Result<()> {
        let (folders, database) = (&config.runtime.instance_dir, &config.database);
        let templates = self.folders.join(TEMPLATES);
        if templates.exists() {
            let imports = &config.runtime.imports_dir;
            fs::create_dir_all(imports)
                .with_context(|| format!("the folder {} cannot be made", imports.display()))?;
            for entry in fs::read_dir(&templates)? {
                let name = entry?.file_name();
                // What an operator has put there since goes before.
                if !imports.join(&name).exists() {
                    move_folder(&templates.join(&name), &imports.join(&name))?;
                }
            }
        }
        let unpacked = self.folders.join(INSTANCES);
        if unpacked.exists() {
            for entry in fs::read_dir(&unpacked)? {
                let name = entry?.file_name();
                fs::rename(unpacked.join(&name), folders.join(&name))?;
            }
        }
        File::open(folders)?.sync_all()?;
        if let (true, Some(staged), Some(file)) =
            (has_database, &self.database, store::sqlite_file(database))
        {
            File::open(staged)?.sync_all()?;
            fs::rename(staged, &file)?;
            if let Some(parent) = file
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let mut removed = vec![fs::remove_dir_all(&self.folders)];
        if let Some(database) = &self.database {
            for suffix in ["", "-wal", "-shm"] {
                removed.push(fs::remove_file(with_suffix(database, suffix)));
            }
        }
        for error in removed.into_iter().filter_map(Result::err) {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("what was unpacked cannot be removed: {error}");
            }
        }
    }
}

/// A rename, or a copy where the two lie on different file systems; templates hold plain files.
fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        renamed => return renamed,
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn unpack(file: File, staged: &Staged) -> anyhow::Result<(Header, Contents)> {
    let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::new(file)));
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    // Never a program that runs as somebody else (setuid, setgid).
    archive.set_mask(0o7000);
    // Everything belongs to who restores it; the keeper hands each folder to the user of its instance.
    archive.set_preserve_ownerships(false);
    let mut entries = archive.entries().context("it is no backup of minimcp")?;
    let header = match entries.next() {
        Some(Ok(entry)) if entry.path_bytes().as_ref() == HEADER.as_bytes() => {
            let text = io::read_to_string(io::Read::take(entry, HEADER_BYTES_MAX))?;
            serde_json::from_str::<Header>(&text).context("it is no backup of minimcp")?
        }
        _ => bail!("it is no backup of minimcp"),
    };
    ensure!(
        header.format == FORMAT,
        "it was made by minimcp {}, in a form that this one does not know",
        header.version
    );
    let mut contents = Contents {
        folders: 0,
        files: 0,
        bytes: 0,
        left_out: Vec::new(),
    };
    let mut has_database = false;
    for entry in entries {
        let mut entry = entry.context("it is damaged")?;
        let path = entry.path().context("it is damaged")?.into_owned();
        if path == Path::new(DATABASE) {
            has_database = true;
            if let Some(database) = &staged.database {
                copy_database(&mut entry, database)?;
            }
            continue;
        }
        ensure!(
            is_of_an_instance(&path) || is_of_a_template(&path),
            "it is damaged: nothing may lie at {}",
            path.display()
        );
        let kind = entry.header().entry_type();
        ensure!(
            kind.is_file() || kind.is_dir() || kind.is_symlink(),
            "it is damaged: {} is neither file, folder nor symbolic link",
            path.display()
        );
        let is_template = path.starts_with(TEMPLATES);
        contents.folders += u64::from(path.components().count() == 2 && !is_template);
        if kind.is_file() && !is_template {
            contents.files += 1;
            contents.bytes += entry.size();
        }
        let inside = entry
            .unpack_in(&staged.folders)
            .with_context(|| format!("{} cannot be unpacked", path.display()))?;
        ensure!(inside, "it is damaged: {} leads elsewhere", path.display());
    }
    ensure!(
        has_database == header.database,
        "it is damaged: the database is missing"
    );
    Ok((header, contents))
}

/// `instances/ID` and what is below it.
fn is_of_an_instance(path: &Path) -> bool {
    let mut parts = path.components();
    let named = matches!(parts.next(), Some(Component::Normal(first)) if first == INSTANCES);
    let id = match parts.next() {
        Some(Component::Normal(id)) => id.to_str().and_then(|id| id.parse::<InstanceId>().ok()),
        _ => None,
    };
    named && id.is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// `templates/NAME` and what is below it.
fn is_of_a_template(path: &Path) -> bool {
    let mut parts = path.components();
    let named = matches!(parts.next(), Some(Component::Normal(first)) if first == TEMPLATES);
    let name = match parts.next() {
        Some(Component::Normal(name)) => {
            name.to_str().and_then(|name| TemplateName::new(name).ok())
        }
        _ => None,
    };
    named && name.is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn copy_database(entry: &mut impl io::Read, to: &Path) -> anyhow::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .with_context(|| format!("{} cannot be written", to.display()))?;
    io::copy(entry, &mut file).context("it is damaged")?;
    Ok(())
}

/// Whether a daemon could use it: its tables, brought up to date, and the key of its credentials.
async fn check(config: &Config, database: &Path) -> anyhow::Result<()> {
    let keys = load_keys(config)?;
    let store = Store::connect(&DatabaseConfig {
        url: format!("sqlite:{}", database.display()),
        ..config.database.clone()
    })
    .await?;
    let checked = secrets::check_keys(&keys, &store, Clock::System.now()).await;
    store.close().await;
    Ok(checked?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lies_outside_the_folders_of_instances() {
        let id = "0198a9c0-0000-7000-8000-000000000001";
        for (path, right) in [
            (format!("instances/{id}"), true),
            (format!("instances/{id}/work/a file"), true),
            ("instances".to_owned(), false),
            (format!("instances/{id}/../../etc"), false),
            (format!("/instances/{id}"), false),
            ("instances/.lock".to_owned(), false),
            (format!("packages/{id}"), false),
            ("master-key".to_owned(), false),
        ] {
            assert_eq!(is_of_an_instance(Path::new(&path)), right, "{path}");
        }
        for (path, right) in [
            ("templates/notes", true),
            ("templates/notes/template.toml", true),
            ("templates", false),
            ("templates/../etc", false),
            ("templates/notes/../../etc", false),
            ("templates/Notes", false),
            ("/templates/notes", false),
        ] {
            assert_eq!(is_of_a_template(Path::new(path)), right, "{path}");
        }
    }
}
