//! A walk through a folder that strangers change meanwhile: everything is reached from the descriptor of the folder
//! that holds it, so that a name which becomes a symbolic link leads nowhere else.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, openat, readlinkat},
    sys::stat::Mode,
};

/// Folders below one another; each holds a descriptor while it is read.
const DEPTH_MAX: usize = 100;

/// A file of at least this length of which no sixteenth is on the disk is mostly holes.
const HOLES_FROM_BYTES: u64 = 256 << 20;

/// What was found, with its path below the folder that is walked.
#[derive(Debug)]
pub struct FoundEntry<'a> {
    /// Relative, in the file system's own bytes.
    pub path: &'a Path,
    /// What it is.
    pub kind: EntryKind,
    /// Of the entry itself, never of what a link leads to.
    pub metadata: &'a Metadata,
}

/// What an entry is.
#[derive(Debug)]
pub enum EntryKind {
    /// A folder; what is in it comes next.
    Folder,
    /// A regular file, open for reading.
    File(File),
    /// A symbolic link, with its text.
    Link(PathBuf),
}

/// What the walk left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Below the folder that is walked.
    pub path: PathBuf,
    /// In words.
    pub reason: String,
}

/// Walks a folder, names in the order of their bytes, and visits everything in it but itself. Left out and told:
/// sockets, pipes and devices, other file systems, what is more than a hundred folders deep, files that are mostly
/// holes, and what this user may not read. What goes away meanwhile does not count. Blocks for the disk.
///
/// # Errors
/// When the folder itself cannot be read, and those of `visit`.
pub fn walk_folder(
    root: &Path,
    visit: &mut dyn FnMut(FoundEntry<'_>) -> io::Result<()>,
) -> io::Result<Vec<LeftOut>> {
    let folder = openat(AT_FDCWD, root, FOLDER, Mode::empty())?;
    let mut walk = Walk {
        device: metadata_of(&folder)?.dev(),
        visit,
        left_out: Vec::new(),
    };
    walk.descend(&folder, Path::new(""), 0)?;
    Ok(walk.left_out)
}

const FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Names the thing itself, whatever it is, without opening it.
const THING: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// The open file of a descriptor, by a way that cannot be moved.
fn by_descriptor(thing: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", thing.as_raw_fd()).into()
}

fn metadata_of(thing: &OwnedFd) -> io::Result<Metadata> {
    // fstat(2) through std: a File that borrows nothing.
    File::from(thing.try_clone()?).metadata()
}

struct Walk<'a> {
    device: u64,
    visit: &'a mut dyn FnMut(FoundEntry<'_>) -> io::Result<()>,
    left_out: Vec<LeftOut>,
}

impl Walk<'_> {
    fn descend(&mut self, folder: &OwnedFd, at: &Path, depth: usize) -> io::Result<()> {
        let mut names: Vec<OsString> = Vec::new();
        for entry in fs::read_dir(by_descriptor(folder))? {
            names.push(entry?.file_name());
        }
        names.sort_unstable();
        for name in names {
            let path = at.join(&name);
            match self.one(folder, &name, &path, depth) {
                Ok(()) | Err(Stop::Gone) => {}
                Err(Stop::LeftOut(reason)) => self.left_out.push(LeftOut { path, reason }),
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        folder: &OwnedFd,
        name: &OsString,
        path: &Path,
        depth: usize,
    ) -> Result<(), Stop> {
        let thing = openat(folder.as_fd(), name.as_os_str(), THING, Mode::empty())?;
        let metadata = &metadata_of(&thing).map_err(Stop::Failed)?;
        if metadata.dev() != self.device {
            return Err(left_out("another file system"));
        }
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let text = readlinkat(thing.as_fd(), "")?;
            return self.visit(path, EntryKind::Link(text.into()), metadata);
        }
        if kind.is_dir() {
            if depth >= DEPTH_MAX {
                return Err(left_out("folders in folders, more than a hundred"));
            }
            let below = openat(folder.as_fd(), name.as_os_str(), FOLDER, Mode::empty())?;
            self.visit(path, EntryKind::Folder, metadata)?;
            return self.descend(&below, path, depth + 1).map_err(Stop::Failed);
        }
        if !kind.is_file() {
            return Err(left_out("a socket, a pipe or a device"));
        }
        if metadata.len() >= HOLES_FROM_BYTES
            && metadata.blocks().saturating_mul(512) < metadata.len() / 16
        {
            return Err(left_out("a file that is mostly holes"));
        }
        // Not by its name: it is a regular file, and stays the one that was looked at.
        let file = match File::open(by_descriptor(&thing)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(left_out("not readable by this user"));
            }
            Err(error) => return Err(Stop::Failed(error)),
        };
        self.visit(path, EntryKind::File(file), metadata)
    }

    fn visit(&mut self, path: &Path, kind: EntryKind, metadata: &Metadata) -> Result<(), Stop> {
        (self.visit)(FoundEntry {
            path,
            kind,
            metadata,
        })
        .map_err(Stop::Failed)
    }
}

enum Stop {
    Gone,
    LeftOut(String),
    Failed(io::Error),
}

fn left_out(reason: &str) -> Stop {
    Stop::LeftOut(reason.to_owned())
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        match errno {
            // Or it is no longer the folder that it was.
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Self::Gone,
            Errno::EACCES | Errno::EPERM => left_out("not readable by this user"),
            errno => Self::Failed(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn found(root: &Path) -> (Vec<String>, Vec<LeftOut>) {
        let mut seen = Vec::new();
        let left_out = walk_folder(root, &mut |entry| {
            let what = match entry.kind {
                EntryKind::Folder => "folder".to_owned(),
                EntryKind::File(file) => io::read_to_string(file)?,
                EntryKind::Link(text) => format!("-> {}", text.display()),
            };
            seen.push(format!("{}: {what}", entry.path.display()));
            Ok(())
        })
        .expect("walked");
        (seen, left_out)
    }

    #[test]
    fn links_are_told_and_never_followed() {
        let outside = tempfile::tempdir().expect("a folder");
        fs::write(outside.path().join("secret"), "not ours").expect("written");
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("a")).expect("made");
        fs::write(root.path().join("a/text"), "ours").expect("written");
        symlink(outside.path(), root.path().join("way-out")).expect("made");
        symlink("nowhere", root.path().join("a/broken")).expect("made");
        let (seen, left_out) = found(root.path());
        let out = format!("way-out: -> {}", outside.path().display());
        assert_eq!(
            seen,
            ["a: folder", "a/broken: -> nowhere", "a/text: ours", &out]
        );
        assert_eq!(left_out, []);
        // Nor when it is the folder itself.
        let link = outside.path().join("link");
        symlink(root.path(), &link).expect("made");
        assert!(walk_folder(&link, &mut |_| Ok(())).is_err());
    }

    #[test]
    fn what_is_no_file_and_what_is_mostly_holes_is_left_out() {
        let root = tempfile::tempdir().expect("a folder");
        let _socket = UnixListener::bind(root.path().join("socket")).expect("bound");
        nix::unistd::mkfifo(&root.path().join("pipe"), Mode::S_IRWXU).expect("made");
        File::create(root.path().join("holes"))
            .and_then(|file| file.set_len(HOLES_FROM_BYTES))
            .expect("made");
        let (seen, left_out) = found(root.path());
        assert_eq!(seen, Vec::<String>::new());
        let names: Vec<_> = left_out.iter().map(|one| one.path.display()).collect();
        assert_eq!(names.len(), 3, "{left_out:?}");
        assert!(left_out[0].reason.contains("holes"), "{left_out:?}");
        assert!(left_out[1].reason.contains("pipe"), "{left_out:?}");
    }

    #[test]
    fn what_goes_away_meanwhile_does_not_count_and_a_fault_of_the_visitor_ends_it() {
        let root = tempfile::tempdir().expect("a folder");
        for name in ["1", "2", "3"] {
            fs::write(root.path().join(name), name).expect("written");
        }
        let mut seen = 0;
        walk_folder(root.path(), &mut |_| {
            seen += 1;
            fs::remove_file(root.path().join("2")).or(Ok(()))
        })
        .expect("walked");
        assert_eq!(seen, 2);
        let error = walk_folder(root.path(), &mut |_| Err(io::Error::other("full")));
        assert_eq!(error.expect_err("told").to_string(), "full");
    }

    #[test]
    fn too_many_folders_in_folders_are_left_out() {
        let root = tempfile::tempdir().expect("a folder");
        let deep: PathBuf = std::iter::repeat_n("d", DEPTH_MAX + 3).collect();
        fs::create_dir_all(root.path().join(deep)).expect("made");
        let (seen, left_out) = found(root.path());
        assert_eq!(seen.len(), DEPTH_MAX);
        assert_eq!(left_out.len(), 1);
    }
}
