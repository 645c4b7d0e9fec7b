//! The folder that pictures are written into: always within the one that the server runs in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A folder within the server's own.
pub(crate) struct Folder {
    /// Where it is.
    path: PathBuf,
    /// The same, seen from the server's own folder.
    shown: PathBuf,
}

impl Folder {
    /// The folder `relative` within the one that this process runs in; it is made if need be.
    pub(crate) fn within_own(relative: &str) -> Result<Self, String> {
        let own = std::env::current_dir()
            .map_err(|_| "the server has no folder of its own".to_owned())?;
        Self::within(&own, relative)
    }

    fn within(own: &Path, relative: &str) -> Result<Self, String> {
        let shown: PathBuf = relative
            .split('/')
            .filter(|name| !name.is_empty() && *name != ".")
            .collect();
        if relative.starts_with('/')
            || shown
                .iter()
                .any(|name| Self::check_name(&name.to_string_lossy()).is_err())
        {
            return Err("localPath must be a folder within the server's own, such as images/icons, of names of \
                        letters, digits, spaces, '-', '_' and '.'"
                .to_owned());
        }
        let path = own.join(&shown);
        let cannot = |error: io::Error| format!("localPath cannot be written: {}", error.kind());
        fs::create_dir_all(&path).map_err(cannot)?;
        // A link in the way could lead elsewhere.
        let (own, path) = (
            own.canonicalize().map_err(cannot)?,
            path.canonicalize().map_err(cannot)?,
        );
        if !path.starts_with(&own) {
            return Err("localPath leads out of the server's own folder".to_owned());
        }
        Ok(Self { path, shown })
    }

    /// Whether `name` may be that of a file.
    pub(crate) fn check_name(name: &str) -> Result<(), String> {
        let good = (1..=200).contains(&name.len())
            && !name.starts_with('.')
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.'));
        if good {
            Ok(())
        } else {
            Err("fileName must be of letters, digits, spaces, '-', '_' and '.', and not begin with '.'".to_owned())
        }
    }

    /// Writes a file, in one piece or not at all; the answer is its path seen from the server's own folder.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<String, String> {
        Self::check_name(name)?;
        let cannot = |error: io::Error| format!("{name} cannot be written: {}", error.kind());
        let unfinished = self.path.join(format!(".{name}.part"));
        let _none = fs::remove_file(&unfinished);
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&unfinished)
            .and_then(|mut file| io::Write::write_all(&mut file, bytes))
            // What stands there already, a link too, gives way; nothing is written through a link.
            .and_then(|()| fs::rename(&unfinished, self.path.join(name)));
        if let Err(error) = written {
            let _gone = fs::remove_file(&unfinished);
            return Err(cannot(error));
        }
        Ok(self.shown.join(name).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_within_the_folder_and_nowhere_else() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let (own, other) = (base.path().join("own"), base.path().join("other"));
        fs::create_dir(&own).expect("a folder");
        fs::create_dir(&other).expect("a folder");
        let folder = Folder::within(&own, "images/./icons/").expect("a good folder");
        assert_eq!(
            folder.write("a.png", b"one"),
            Ok("images/icons/a.png".to_owned())
        );
        assert_eq!(
            folder.write("a.png", b"two"),
            Ok("images/icons/a.png".to_owned())
        );
        assert_eq!(
            fs::read(own.join("images/icons/a.png")).ok(),
            Some(b"two".to_vec())
        );
        for bad in ["../other", "/etc", "a/../../b", "a/.ssh", "a\\b", "a\0b"] {
            assert!(Folder::within(&own, bad).is_err(), "{bad}");
        }
        for bad in ["", "..", ".bashrc", "a/b", "a\nb"] {
            assert!(folder.write(bad, b"x").is_err(), "{bad}");
        }
        // Links lead nowhere.
        std::os::unix::fs::symlink(&other, own.join("out")).expect("a link");
        assert!(Folder::within(&own, "out").is_err());
        fs::write(other.join("target"), b"kept").expect("a file");
        std::os::unix::fs::symlink(other.join("target"), own.join("images/icons/b.png"))
            .expect("a link");
        folder
            .write("b.png", b"new")
            .expect("it takes the link's place");
        assert_eq!(fs::read(other.join("target")).ok(), Some(b"kept".to_vec()));
        let left: Vec<_> = fs::read_dir(own.join("images/icons"))
            .expect("readable")
            .flatten()
            .collect();
        assert_eq!(left.len(), 2, "nothing unfinished stays");
    }
}
