//! The mount calls that work on descriptors (open_tree(2), mount_setattr(2), move_mount(2); Linux 5.12): what was
//! looked up once is what is mounted, whatever happens to the names meanwhile.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::{Component, Path},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::{Mode, SFlag, fstat},
};

// From linux/mount.h; the crate `libc` does not have them.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// How a path of the host is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// To be read and executed.
    ReadOnly,
    /// To be written as well.
    Writable,
    /// A device node.
    Device,
}

/// A detached copy of a part of the host's tree.
pub(super) struct Tree {
    mount: OwnedFd,
    /// Whether a folder, or a file, is to be made for it.
    pub(super) is_folder: bool,
}

impl Tree {
    /// Copies what lies at `path` and below, other mounts included. Nothing but `show` can be done with it, and
    /// what is mounted on the host later does not appear. `ELOOP` when a symbolic link is on the way and `follow`
    /// is false.
    pub(super) fn copy(path: &Path, follow: bool, show: Show) -> nix::Result<Self> {
        let place = if follow {
            open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?
        } else {
            open_without_links(path)?
        };
        let kind = kind(&place)?;
        let flags = OPEN_TREE_CLONE
            | OPEN_TREE_CLOEXEC
            | (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as libc::c_uint;
        // SAFETY: a valid descriptor and an empty C string.
        let made =
            unsafe { libc::syscall(libc::SYS_open_tree, place.as_raw_fd(), c"".as_ptr(), flags) };
        let made = Errno::result(made)?;
        // SAFETY: the kernel has just made this descriptor for us.
        let mount = unsafe { OwnedFd::from_raw_fd(made as libc::c_int) };
        let attributes = MountAttr {
            attr_set: match show {
                Show::ReadOnly => MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
                Show::Writable => MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
                Show::Device => MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
            },
            attr_clr: 0,
            propagation: libc::MS_PRIVATE,
            userns_fd: 0,
        };
        // SAFETY: a valid descriptor, an empty C string, and a structure of the size that is told.
        let set = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
                &raw const attributes,
                size_of::<MountAttr>(),
            )
        };
        Errno::result(set)?;
        Ok(Self {
            mount,
            is_folder: kind == SFlag::S_IFDIR,
        })
    }

    /// The same; `None` when there is nothing at `path`.
    pub(super) fn copy_if_there(
        path: &Path,
        follow: bool,
        show: Show,
    ) -> nix::Result<Option<Self>> {
        match Self::copy(path, follow, show) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            tree => tree.map(Some),
        }
    }

    /// Mounts it on `target`, an open file or folder of the same kind.
    pub(super) fn attach(self, target: BorrowedFd<'_>) -> nix::Result<()> {
        // SAFETY: two valid descriptors and two empty C strings.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.mount.as_fd().as_raw_fd(),
                c"".as_ptr(),
                target.as_raw_fd(),
                c"".as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
            )
        };
        Errno::result(moved).map(drop)
    }
}

fn kind(place: &OwnedFd) -> nix::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(place)?.st_mode) & SFlag::S_IFMT)
}

/// Opens a path part by part. Not by openat2(2), which `RestrictSUIDSGID=` of systemd forbids.
fn open_without_links(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut place = open("/", flags, Mode::empty())?;
    for part in path.components() {
        if let Component::Normal(name) = part {
            place = openat(&place, name, flags, Mode::empty())?;
            if kind(&place)? == SFlag::S_IFLNK {
                return Err(Errno::ELOOP);
            }
        }
    }
    Ok(place)
}
