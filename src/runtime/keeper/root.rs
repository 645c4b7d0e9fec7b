//! The minimal root of an instance: a small tmpfs on which only what it needs of the host is mounted, read-only, and
//! its own folder. What is not named here is not there at all: no database, no keys, no sockets, no home folders, no
//! folders of other instances.

use std::path::{Path, PathBuf};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};

pub(in crate::runtime) use super::base_root::{DEVICES, shown_to_all};
use super::{
    base_root::{Base, Root, inside, leave_host, tmpfs},
    credential_files,
    tree::{Show, Tree},
};
use crate::domain::sandbox::Sandbox;

/// Size of a private `/tmp` when the plan names none.
const TMP_SIZE_BYTES: u64 = 64 << 20;

/// Every path that a plan names, in the order in which a failure counts them.
pub(super) fn named(sandbox: &Sandbox) -> impl Iterator<Item = &PathBuf> {
    let granted = sandbox.read.iter().chain(&sandbox.write);
    sandbox.program.iter().chain(granted)
}

/// What the root of one instance is made from.
pub(super) struct RootPlan<'a> {
    /// The policy.
    pub(super) sandbox: &'a Sandbox,
    /// What every instance has.
    pub(super) base: &'a Base,
    /// Its own folder, at the same path inside.
    pub(super) folder: &'a Path,
    /// Whether a place for credential files is wanted.
    pub(super) credentials: bool,
    /// Who it is.
    pub(super) uid: u32,
    /// Its group.
    pub(super) gid: u32,
}

/// A step that failed, and at which of the [`named`] paths, if at one.
pub(super) struct Failure {
    pub(super) errno: Errno,
    pub(super) path: Option<usize>,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { errno, path: None }
    }
}

/// A path of the host that the plan shows, copied, and which of the [`named`] it is, if it is one.
pub(super) struct Copied<'a> {
    path: &'a Path,
    index: Option<usize>,
    tree: Tree,
}

/// Where a process is that gets a root.
pub(super) enum Place<'a> {
    /// Beside the host's root, in a mount namespace that is its own.
    BesideHost,
    /// In a root that the host's is no longer in; what it shows of the host was copied before that was entered.
    Apart(Vec<Copied<'a>>),
}

/// Moves this process, alone in a mount namespace that has the rights for it, into a root made by the plan. Its base was
/// laid out there already.
pub(super) fn enter<'a>(plan: &RootPlan<'a>, place: Place<'a>) -> Result<(), Failure> {
    let none: Option<&str> = None;
    // In both cases first: so the mounts have the same order.
    let (copied, is_apart) = match place {
        Place::Apart(copied) => (copied, true),
        Place::BesideHost => (copy_named(plan)?, false),
    };
    let root = match is_apart {
        true => Root::open_apart()?,
        false => Root::open()?,
    };
    if plan.credentials {
        root.place(inside(Path::new(credential_files::INSIDE)), true)?;
    }
    let size = match plan.sandbox.tmp_size_bytes {
        0 => TMP_SIZE_BYTES,
        bytes => bytes,
    };
    let options = format!("mode=1777,size={size},nr_inodes=16k");
    tmpfs("tmp", &options)?;
    tmpfs("dev/shm", &options)?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mut flags = quiet | MsFlags::MS_NOEXEC;
    // The host's root owns the settings below /proc/sys, with or without capabilities.
    flags.set(MsFlags::MS_RDONLY, plan.uid == 0);
    mount(Some("proc"), "proc", Some("proc"), flags, none)?;
    accounts(&root, plan)?;
    for Copied { path, index, tree } in copied {
        let shown = root.place_tree(path, tree);
        shown.map_err(|errno| Failure { errno, path: index })?;
    }
    if !is_apart {
        leave_host()?;
    }
    let flags = quiet | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, "/", none, flags, none)?;
    Ok(())
}

/// Copies the plan's own paths, outer before inner, so that the more precise one holds, and its folder.
pub(super) fn copy_named<'a>(plan: &RootPlan<'a>) -> Result<Vec<Copied<'a>>, Failure> {
    let sandbox = plan.sandbox;
    let program = sandbox
        .program
        .iter()
        .map(|path| (path, true, Show::ReadOnly));
    let read = sandbox
        .read
        .iter()
        .map(|path| (path, false, Show::ReadOnly));
    let write = sandbox
        .write
        .iter()
        .map(|path| (path, false, Show::Writable));
    let mut all: Vec<_> = program.chain(read).chain(write).enumerate().collect();
    all.sort_by_key(|(_, (path, _, _))| path.components().count());
    // What lies below one of these is there already.
    let mut read_only: Vec<&PathBuf> = Vec::new();
    let mut copied = Vec::new();
    let mut copy = |path: &'a Path, index, follow, show| {
        let tree = Tree::copy_if_there(path, follow, show);
        let tree = tree.map_err(|errno| Failure { errno, path: index })?;
        copied.extend(tree.map(|tree| Copied { path, index, tree }));
        Ok::<_, Failure>(())
    };
    for (index, (path, follow, show)) in all {
        let mut before = read_only.iter();
        let there = plan.base.shows(path) || before.any(|shown| path.starts_with(shown));
        if there && show == Show::ReadOnly {
            continue;
        }
        copy(path, Some(index), follow, show)?;
        if show == Show::ReadOnly {
            read_only.push(path);
        }
    }
    copy(plan.folder, None, true, Show::Writable)?;
    Ok(copied)
}

/// Names for the ids that exist inside: programs ask who they are.
fn accounts(root: &Root, plan: &RootPlan<'_>) -> nix::Result<()> {
    let home = plan
        .folder
        .to_str()
        .filter(|home| !home.contains([':', '\n']));
    let (uid, gid, home) = (plan.uid, plan.gid, home.unwrap_or("/tmp"));
    let others = if uid == 0 {
        ""
    } else {
        "root:x:0:0::/root:/usr/sbin/nologin\n"
    };
    let nobody = "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
    let users = format!("mcp:x:{uid}:{gid}::{home}:/bin/sh\n{others}{nobody}");
    let others = if gid == 0 { "" } else { "root:x:0:\n" };
    let groups = format!("mcp:x:{gid}:\n{others}nogroup:x:65534:\n");
    root.write(Path::new("etc/passwd"), &users)?;
    root.write(Path::new("etc/group"), &groups)
}
