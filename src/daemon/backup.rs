//! A backup: one compressed tar archive with a copy of the SQLite database and the folders of its instances, made while
//! the daemon runs. The master key is never in it.
//!
//! First comes [`HEADER`], then [`DATABASE`], then `instances/ID/…`, then `templates/NAME/…` of those that were imported. The database is copied first: a folder that is in
//! the archive belongs to an instance that is in the copy.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    config::Config,
    domain::{
        UnixMs,
        id::{InstanceId, TemplateName},
    },
    runtime::{EntryKind, FoundEntry, LeftOut, walk_folder},
    store,
};

/// The name of the first entry, a JSON text of [`Header`].
pub(super) const HEADER: &str = "minimcp-backup.json";
/// The name of the database's entry.
pub(super) const DATABASE: &str = "minimcp.db";
/// What the folders of instances lie below.
pub(super) const INSTANCES: &str = "instances";
/// What imported templates lie below.
pub(super) const TEMPLATES: &str = "templates";
/// The form of archives that is written, and the only one that is read.
pub(super) const FORMAT: u32 = 1;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The form of the archive.
    pub format: u32,
    /// The version of the minimcp that made it.
    pub version: String,
    /// When, in unix milliseconds.
    pub made_at_unix_ms: UnixMs,
    /// Whether the database is in it; without it there are only the folders.
    pub database: bool,
}

/// What was put into a backup, or taken out of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// Instances with a folder.
    pub folders: u64,
    /// Files in these folders.
    pub files: u64,
    /// Bytes of these files, not compressed.
    pub bytes: u64,
    /// What of the folders was left out, and why.
    pub left_out: Vec<String>,
}

/// Makes a backup of what `config` names, as a new file with mode 0600; it is there when it is complete, or not at all.
/// With `folders_only` the database is left to the tools of its own.
///
/// # Errors
/// One readable sentence: the file exists or cannot be written, the database is PostgreSQL and must be copied by its
/// own tools, a folder cannot be read.
pub async fn save(config: &Config, to: &Path, folders_only: bool) -> anyhow::Result<Contents> {
    let database = match (folders_only, store::sqlite_file(&config.database)) {
        (true, _) => None,
        (false, Some(database)) => Some(database),
        (false, None) => bail!(
            "the database is PostgreSQL: copy it with pg_dump, and the folders of the instances with --folders-only"
        ),
    };
    if fs::symlink_metadata(to).is_ok() {
        bail!("{} exists already", to.display());
    }
    let unfinished = Unfinished::beside(to)?;
    let instances = match &database {
        Some(database) => {
            let copied = store::snapshot(database, &unfinished.database()).await;
            Some(copied.context("the database cannot be copied")?)
        }
        None => None,
    };
    let folder = config.runtime.instance_dir.clone();
    let imports = config.runtime.imports_dir.clone();
    let to = to.to_owned();
    let contents = tokio::task::spawn_blocking(move || {
        let archive = unfinished.archive();
        let contents = write(&archive, &unfinished, &folder, &imports, instances)
            .with_context(|| format!("{} cannot be written", to.display()))?;
        // Never over a file that came meanwhile.
        fs::hard_link(&archive, &to).with_context(|| format!("cannot make {}", to.display()))?;
        if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        anyhow::Ok(contents)
    });
    contents.await?
}

/// A folder of our own beside the result, for what is not complete; it goes with the value.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(to: &Path) -> anyhow::Result<Self> {
        let Some(name) = to.file_name() else {
            bail!("{} is no name of a file", to.display());
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let folder = to.with_file_name(hidden);
        fs::DirBuilder::new()
            .create(&folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        let made = Self(folder);
        fs::set_permissions(&made.0, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        Ok(made)
    }

    fn database(&self) -> PathBuf {
        self.0.join(DATABASE)
    }

    fn archive(&self) -> PathBuf {
        self.0.join("archive")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("{} cannot be removed: {error}", self.0.display());
        }
    }
}

/// Writes the archive: all folders, or those of `instances`.
fn write(
    archive: &Path,
    unfinished: &Unfinished,
    folders: &Path,
    imports: &Path,
    instances: Option<Vec<InstanceId>>,
) -> anyhow::Result<Contents> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(archive)?;
    let packed = GzEncoder::new(BufWriter::new(file), Compression::fast());
    let mut tar = tar::Builder::new(packed);
    let header = Header {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        made_at_unix_ms: Clock::System.now(),
        database: instances.is_some(),
    };
    let text = serde_json::to_vec(&header)?;
    tar.append_data(
        &mut of_file(text.len() as u64),
        HEADER,
        io::Cursor::new(text),
    )?;
    if instances.is_some() {
        let copy = File::open(unfinished.database())?;
        let mut header = of_file(copy.metadata()?.len());
        tar.append_data(&mut header, DATABASE, copy)?;
    }
    let mut contents = add_folders(&mut tar, folders, instances)?;
    add_templates(&mut tar, imports, &mut contents.left_out)?;
    let packed = tar.into_inner()?.finish()?;
    let file = packed
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(contents)
}

fn of_file(bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    header
}

fn add_folders<W: io::Write>(
    tar: &mut tar::Builder<W>,
    folders: &Path,
    instances: Option<Vec<InstanceId>>,
) -> anyhow::Result<Contents> {
    let wanted: Option<HashSet<InstanceId>> = instances.map(|ids| ids.into_iter().collect());
    let mut contents = Contents {
        folders: 0,
        files: 0,
        bytes: 0,
        left_out: Vec::new(),
    };
    if !folders.exists() {
        return Ok(contents);
    }
    let listed = fs::read_dir(folders)
        .with_context(|| format!("the folder {} cannot be read", folders.display()))?;
    let mut ids = Vec::new();
    for entry in listed {
        let name = entry?.file_name();
        // Beside the folders of instances there is the daemon's lock.
        let id = name.to_str().and_then(|name| name.parse().ok());
        ids.extend(id.filter(|id| wanted.as_ref().is_none_or(|wanted| wanted.contains(id))));
    }
    ids.sort_unstable();
    for id in ids {
        let id: InstanceId = id;
        let below = Path::new(INSTANCES).join(id.to_string());
        let folder = folders.join(id.to_string());
        add_folder(tar, &folder, &below, &mut contents)
            .with_context(|| format!("the folder of the instance {id} cannot be read"))?;
    }
    Ok(contents)
}

/// Imported templates, which instances would be lost without; their files are not counted.
fn add_templates<W: io::Write>(
    tar: &mut tar::Builder<W>,
    imports: &Path,
    left_out: &mut Vec<String>,
) -> anyhow::Result<()> {
    if !imports.exists() {
        return Ok(());
    }
    let listed = fs::read_dir(imports)
        .with_context(|| format!("the folder {} cannot be read", imports.display()))?;
    let mut names = Vec::new();
    for entry in listed {
        let name = entry?.file_name();
        let name = name.to_str().and_then(|name| TemplateName::new(name).ok());
        names.extend(name.filter(|name| imports.join(name.as_str()).is_dir()));
    }
    names.sort_unstable();
    for name in names {
        let mut contents = Contents {
            folders: 0,
            files: 0,
            bytes: 0,
            left_out: Vec::new(),
        };
        let below = Path::new(TEMPLATES).join(name.as_str());
        add_folder(tar, &imports.join(name.as_str()), &below, &mut contents)
            .with_context(|| format!("the template {name} cannot be read"))?;
        left_out.append(&mut contents.left_out);
    }
    Ok(())
}

fn add_folder<W: io::Write>(
    tar: &mut tar::Builder<W>,
    folder: &Path,
    below: &Path,
    contents: &mut Contents,
) -> io::Result<()> {
    let itself = match fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() => found,
        // Deleted meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(_) => return Err(io::Error::other("it is no folder")),
        Err(error) => return Err(error),
    };
    add(tar, below, EntryKind::Folder, &itself)?;
    contents.folders += 1;
    let walked = walk_folder(folder, &mut |found: FoundEntry<'_>| {
        if matches!(found.kind, EntryKind::File(_)) {
            contents.files += 1;
            contents.bytes += found.metadata.len();
        }
        add(tar, &below.join(found.path), found.kind, found.metadata)
    });
    let left_out = match walked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        walked => walked?,
    };
    let name = below.file_name().unwrap_or_default().to_string_lossy();
    let told = |one: LeftOut| format!("{name}/{}: {}", one.path.display(), one.reason);
    contents.left_out.extend(left_out.into_iter().map(told));
    Ok(())
}

fn add<W: io::Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    kind: EntryKind,
    metadata: &fs::Metadata,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(metadata);
    match kind {
        EntryKind::Folder => {
            header.set_size(0);
            tar.append_data(&mut header, path, io::empty())
        }
        EntryKind::Link(text) => {
            header.set_size(0);
            tar.append_link(&mut header, path, text)
        }
        EntryKind::File(file) => {
            // As long as it was when it was looked at, whatever its server does to it meanwhile.
            let bytes = metadata.len();
            header.set_size(bytes);
            tar.append_data(&mut header, path, file.chain(io::repeat(0)).take(bytes))
        }
    }
}
