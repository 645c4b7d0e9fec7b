//! Small files that only their owner may read: made once, replaced whole, refused when others can read them.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::SecretsError;

/// Far above any key ring; a larger file is some other file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Which permission bits make a file unfit.
#[derive(Clone, Copy)]
pub(super) enum Privacy {
    /// Nobody but the owner may read or write it.
    OwnerOnly,
    /// The group bits may be set: systemd lends a credential by an access list, which shows as group bits.
    SystemdCredential,
}

/// Reads a file that only its owner may read.
///
/// # Errors
/// [`SecretsError::File`], one sentence: it is not there, unreadable, readable by others, no small file.
pub fn read_private(path: &Path) -> Result<Zeroizing<String>, SecretsError> {
    let missing = || SecretsError::File(format!("{} is not there", path.display()));
    read(path, Privacy::OwnerOnly)?.ok_or_else(missing)
}

/// Reads a private file; `None` when there is none.
pub(super) fn read(
    path: &Path,
    privacy: Privacy,
) -> Result<Option<Zeroizing<String>>, SecretsError> {
    let failed =
        |error: io::Error| SecretsError::File(format!("cannot read {}: {error}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Of the open file, not of the path, which could be swapped in between.
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    let forbidden = match privacy {
        Privacy::OwnerOnly => 0o077,
        Privacy::SystemdCredential => 0o007,
    };
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(SecretsError::File(format!(
            "{} is not a small regular file",
            path.display()
        )));
    }
    if mode & forbidden != 0 {
        return Err(SecretsError::File(format!(
            "{} can be read by others (mode {mode:04o}): run chmod 600 on it, and replace the secret if someone may have read it",
            path.display()
        )));
    }
    // Enough room from the start: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize + 1));
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(Some(text))
}

/// Makes a private file with its whole content at once; `false` when there is one already, which stays.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<bool, SecretsError> {
    let failed =
        |error: io::Error| SecretsError::File(format!("cannot make {}: {error}", path.display()));
    if let Some(folder) = folder_of(path) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
    }
    let draft = write_draft(path, content).map_err(failed)?;
    // A link fails where a rename would silently win over another process that starts at the same time.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft).map_err(failed)?;
    match linked {
        Ok(()) => sync_folder(path).map(|()| true).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Replaces a private file: a reader, or a crash, meets the old content or the new one, never a part.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), SecretsError> {
    let failed = |error: io::Error| {
        SecretsError::File(format!("cannot replace {}: {error}", path.display()))
    };
    let draft = write_draft(path, content).map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)?;
    sync_folder(path).map_err(failed)
}

/// Writes a private file beside `path` and waits until it is on disk.
fn write_draft(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let mut name = OsString::from(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let draft = path.with_file_name(name);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(draft)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path).unwrap_or(Path::new(".")))?.sync_all()
}

fn folder_of(path: &Path) -> Option<&Path> {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path)
            .expect("the file is there")
            .permissions()
            .mode()
            & 0o777
    }

    #[test]
    fn a_file_is_made_once_private_and_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/er/key");
        assert!(
            read(&path, Privacy::OwnerOnly)
                .expect("absence is no error")
                .is_none()
        );
        assert!(create(&path, b"first").expect("made"));
        assert!(!create(&path, b"second").expect("not made again"));
        let text = read(&path, Privacy::OwnerOnly)
            .expect("readable")
            .expect("there");
        assert_eq!(text.as_str(), "first");
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(mode_of(path.parent().expect("a folder")), 0o700);
        replace(&path, b"third").expect("replaced");
        let text = read(&path, Privacy::OwnerOnly)
            .expect("readable")
            .expect("there");
        assert_eq!(text.as_str(), "third");
        assert_eq!(mode_of(&path), 0o600);
        let left: Vec<_> = fs::read_dir(path.parent().expect("a folder"))
            .expect("listed")
            .collect();
        assert_eq!(left.len(), 1, "no draft stays behind: {left:?}");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_in_one_sentence() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        create(&path, b"secret words").expect("made");
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode set");
            let error = read(&path, Privacy::OwnerOnly)
                .expect_err("refused")
                .to_string();
            assert!(error.contains("can be read by others"), "{error}");
            assert!(!error.contains("secret words"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).expect("mode set");
        assert!(read(&path, Privacy::SystemdCredential).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("mode set");
        assert!(read(&path, Privacy::SystemdCredential).is_err());
    }

    #[test]
    fn a_folder_or_a_giant_is_no_key_file() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read(folder.path(), Privacy::OwnerOnly).is_err());
        let path = folder.path().join("giant");
        create(&path, &vec![b'a'; FILE_BYTES_MAX as usize + 1]).expect("made");
        assert!(read(&path, Privacy::OwnerOnly).is_err());
    }
}
