//! Credentials that a server gets as files instead of variables.
//!
//! In a mount namespace they lie on a ramfs of the instance alone: it is never swapped (a tmpfs can be kept from that by
//! the host's root only), nobody else sees it, and it ends with the namespace, whoever killed what. Without a mount
//! namespace they lie in a folder that only our user may enter, on a tmpfs where there is one; then they are removed by
//! us: when the child has ended, and at our start what a keeper left behind that was killed.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    mount::{MsFlags, mount},
    sys::{
        stat::Mode,
        statfs::{TMPFS_MAGIC, statfs},
    },
    unistd::{Gid, Uid, fchown, geteuid},
};

use super::{layers::Layers, protocol::Launch};

/// Where they lie in a root of its own.
pub(super) const INSIDE: &str = "/run/credentials";
/// Where a tmpfs is to be expected that any user may use.
const SHARED_MEMORY: &str = "/dev/shm";

/// What is written: the names of variables, and the values behind those of the environment.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    /// Names and lengths.
    pub(super) launch: &'a Launch,
    /// All values of the launch.
    pub(super) values: &'a [u8],
}

impl<'a> Files<'a> {
    fn each(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let before = self.launch.env.iter().map(|(_, len)| *len).sum();
        self.launch
            .files
            .iter()
            .scan(before, move |at, (name, len)| {
                let value = self.values.get(*at..*at + len)?;
                *at += len;
                Some((name.as_str(), value))
            })
    }
}

/// Whether a file can have this name. It is the name of a variable as well.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(plain)
}

/// Mounts a ramfs on `folder`, which is made if it is missing, writes the files for their owner and closes it for
/// writing. The mount namespace is that of the instance alone.
pub(super) fn mount_on(folder: &Path, files: Files<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    let failed = |cause: io::Error| Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO));
    if fs::symlink_metadata(folder).is_err() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let none: Option<&str> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("ramfs"),
        folder,
        Some("ramfs"),
        flags,
        Some("mode=700"),
    )?;
    let flags_of_folder = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let top = open(folder, flags_of_folder | OFlag::O_CLOEXEC, Mode::empty())?;
    let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    for (name, value) in files.each() {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&top, name, flags, Mode::from_bits_truncate(0o400))?;
        fchown(&file, user, group)?;
        fs::File::from(file).write_all(value).map_err(failed)?;
    }
    fchown(&top, user, group)?;
    let closed = flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, folder, none, closed, none)
}

/// The keeper's folder for them, where instances have no root of their own.
pub(super) struct Shelf {
    folder: PathBuf,
}

/// Where the files of one launch are, or will be.
pub(super) struct Placed {
    /// Their folder, as the server sees it.
    pub(super) folder: PathBuf,
    /// They lie there already, on the host, and go when this is dropped.
    on_host: bool,
}

impl Drop for Placed {
    fn drop(&mut self) {
        if self.on_host {
            // Were it to fail, our next start removes them.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Shelf {
    /// That of the keeper behind `socket`: beside the socket if that is in memory, else in the shared memory of the host.
    pub(super) fn new(socket: &Path) -> Self {
        let mut beside = socket.as_os_str().to_owned();
        beside.push(".credentials");
        let beside = PathBuf::from(beside);
        let in_memory = |folder: &Path| {
            statfs(folder).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
        };
        let folder = match beside.parent() {
            Some(parent) if in_memory(parent) => beside,
            _ if in_memory(Path::new(SHARED_MEMORY)) => Path::new(SHARED_MEMORY).join(format!(
                "minimcp-{}-{:016x}",
                geteuid(),
                fingerprint(socket)
            )),
            _ => beside,
        };
        Self { folder }
    }

    /// Removes what a former keeper left there.
    pub(super) fn cleared(self) -> Self {
        self.clear();
        self
    }

    /// Removes it with all that is in it, if it is ours.
    fn clear(&self) {
        if let Ok(found) = fs::symlink_metadata(&self.folder)
            && found.is_dir()
            && found.uid() == geteuid().as_raw()
        {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    /// Makes it, for our user alone. A name that somebody else took first is refused.
    fn make(&self) -> Result<(), String> {
        let shown = self.folder.display();
        let cannot = |cause: io::Error| format!("cannot make {shown} for its credentials: {cause}");
        match fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
                return Err(cannot(cause));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(&self.folder).map_err(cannot)?;
        let ours = found.is_dir() && found.uid() == geteuid().as_raw();
        match ours && found.permissions().mode() & 0o077 == 0 {
            true => Ok(()),
            false => Err(format!(
                "{shown} is not a folder of the keeper's user alone, so no credentials are put there"
            )),
        }
    }

    /// Decides where the files of a launch go; without a mount namespace of its own they are written now. `None`: it has
    /// none.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn place(
        &self,
        layers: &Layers,
        serial: u64,
        files: Files<'_>,
    ) -> Result<Option<Placed>, String> {
        if files.launch.files.is_empty() {
            return Ok(None);
        }
        if layers.private_root {
            return Ok(Some(Placed {
                folder: INSIDE.into(),
                on_host: false,
            }));
        }
        self.make()?;
        if layers.namespaces.mount {
            return Ok(Some(Placed {
                folder: self.folder.clone(),
                on_host: false,
            }));
        }
        let placed = Placed {
            folder: self.folder.join(serial.to_string()),
            on_host: true,
        };
        let written = fs::DirBuilder::new()
            .mode(0o700)
            .create(&placed.folder)
            .and_then(|()| {
                files.each().try_for_each(|(name, value)| {
                    fs::OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(0o400)
                        .open(placed.folder.join(name))?
                        .write_all(value)
                })
            });
        written.map_err(|cause| {
            let shown = placed.folder.display();
            format!("cannot write its credentials to {shown}: {cause}")
        })?;
        Ok(Some(placed))
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Placed {
    /// What [`Self::known`] told of it.
    pub(super) fn again((folder, on_host): (PathBuf, bool)) -> Self {
        Self { folder, on_host }
    }

    /// Its folder, and whether it lies on the host.
    pub(super) fn known(&self) -> (PathBuf, bool) {
        (self.folder.clone(), self.on_host)
    }

    /// How they are kept, in words.
    pub(super) fn words(&self, layers: &Layers) -> String {
        let folder = self.folder.display();
        match layers.namespaces.mount {
            true => format!("in {folder}, in memory that only this instance sees"),
            false => format!(
                "in {folder}, for the keeper's user alone: this host gives no mount namespace"
            ),
        }
    }
}

/// FNV-1a: tells the folders of two keepers of one user apart, and stays the same from one version to the next.
fn fingerprint(path: &Path) -> u64 {
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            id::{Generation, InstanceId},
            sandbox::Sandbox,
        },
        runtime::{
            WorkloadId,
            keeper::{
                identity::{Identity, Shared},
                layers::ALL,
            },
        },
    };

    fn launch() -> Launch {
        Launch {
            id: WorkloadId::main(InstanceId(uuid::Uuid::nil()), Generation(1)),
            argv: vec!["/bin/true".into()],
            env: vec![("A".into(), 3)],
            files: vec![("KEY".into(), 5), ("CERT".into(), 2)],
            file_arguments: Vec::new(),
            cwd: "/tmp".into(),
            limits: crate::domain::limits::Limits::default().into(),
            resources: crate::domain::limits::Resources::default(),
            sandbox: Sandbox::default(),
        }
    }

    #[test]
    fn values_stand_behind_those_of_the_environment() {
        let launch = launch();
        let files = Files {
            launch: &launch,
            values: b"envhello42",
        };
        let all: Vec<_> = files.each().collect();
        assert_eq!(all, [("KEY", &b"hello"[..]), ("CERT", &b"42"[..])]);
        let cut = Files {
            launch: &launch,
            values: b"envhell",
        };
        assert_eq!(cut.each().count(), 0);
    }

    #[test]
    fn names_are_those_of_variables() {
        for name in ["KEY", "a_1"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "..", "a/b", "a b", "a\0", "ä"] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn without_a_mount_namespace_they_lie_in_a_folder_of_ours_and_go_with_the_launch_and_at_the_next_start()
     {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("keeper.sock");
        let shelf = Shelf::new(&socket);
        let identity = Identity::Keepers(Shared::NotRoot);
        let mut layers = ALL
            .layers(&Sandbox::default(), identity)
            .expect("all layers hold");
        let launch = launch();
        let files = Files {
            launch: &launch,
            values: b"envhello42",
        };
        let inside = shelf.place(&layers, 7, files).expect("nothing to do");
        assert_eq!(inside.expect("two").folder, Path::new(INSIDE));
        assert!(!shelf.folder.exists());
        layers.private_root = false;
        layers.namespaces.mount = false;
        let placed = shelf.place(&layers, 7, files).expect("it is ours");
        let placed = placed.expect("two files");
        let key = placed.folder.join("KEY");
        assert_eq!(fs::read(&key).expect("written"), b"hello");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(
            (mode(&key), mode(&placed.folder), mode(&shelf.folder)),
            (0o400, 0o700, 0o700)
        );
        let second = shelf.place(&layers, 8, files).expect("it is ours");
        drop(placed);
        assert!(!key.exists());
        // As if the keeper had been killed: nothing is dropped.
        let left = second.as_ref().expect("two files").folder.join("CERT");
        assert!(left.exists());
        std::mem::forget(second);
        let fresh = Shelf::new(&socket).cleared();
        assert_eq!(fresh.folder, shelf.folder);
        assert!(!left.exists());
        fs::create_dir(&fresh.folder).expect("ours");
        fs::set_permissions(&fresh.folder, fs::Permissions::from_mode(0o755)).expect("ours");
        let Err(refused) = fresh.place(&layers, 9, files) else {
            panic!("others may look into it");
        };
        assert!(refused.contains("alone"), "{refused}");
    }
}
