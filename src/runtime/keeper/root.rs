//! The minimal root of an instance: a small tmpfs on which only what it needs of the host is mounted, read-only, and
//! its own folder. What is not named here is not there at all: no database, no keys, no sockets, no home folders, no
//! folders of other instances.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, mkdirat, mknodat},
    unistd::{chdir, pivot_root, symlinkat},
};

use super::{
    credential_files,
    network::RESOLVER_FILES,
    tree::{Show, Tree},
};
use crate::domain::sandbox::Sandbox;

/// Where the root is put together: there in any case, and nothing that is shown lies below it.
const WORKSHOP: &str = "/proc";
/// Size of a private `/tmp` when the plan names none.
const TMP_SIZE_BYTES: u64 = 64 << 20;

/// Folders with programs and libraries. Where the host has a link (`/bin` to `usr/bin`), so has the instance.
const RUNTIME: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
];

/// What programs read of `/etc`. Not there: anything that can hold a secret.
const SETTINGS: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/chromium.d",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// Nodes that give nothing away.
pub(in crate::runtime) const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "dev/fd"),
    ("fd/0", "dev/stdin"),
    ("fd/1", "dev/stdout"),
    ("fd/2", "dev/stderr"),
    ("../tmp", "var/tmp"),
];

/// What is shown to every server of the host's tree, for whoever restricts the same by other means.
pub(in crate::runtime) fn shown_to_all() -> impl Iterator<Item = &'static Path> {
    RUNTIME.iter().chain(SETTINGS).map(Path::new)
}

/// Every path that a plan names, in the order in which a failure counts them.
pub(super) fn named(sandbox: &Sandbox) -> impl Iterator<Item = &PathBuf> {
    let granted = sandbox.read.iter().chain(&sandbox.write);
    sandbox.program.iter().chain(granted)
}

/// What the root of one instance is made from.
pub(super) struct RootPlan<'a> {
    /// The policy.
    pub(super) sandbox: &'a Sandbox,
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

/// Moves this process, alone in a mount namespace that has the rights for it, into a root made by the plan.
pub(super) fn enter(plan: &RootPlan<'_>) -> Result<(), Failure> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let tmpfs =
        |at: &str, options: &str| mount(Some("tmpfs"), at, Some("tmpfs"), quiet, Some(options));
    tmpfs(WORKSHOP, "mode=755,size=1m,nr_inodes=4k")?;
    chdir(WORKSHOP)?;
    let mut root = Root {
        top: open(
            ".",
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?,
        read_only: Vec::new(),
    };
    for folder in [
        "tmp", "dev/shm", "proc", "etc", "run", "var", "home", "root",
    ] {
        root.place(Path::new(folder), true)?;
    }
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
    let mut flags = quiet | MsFlags::MS_NOEXEC;
    // The host's root owns the settings below /proc/sys, with or without capabilities.
    flags.set(MsFlags::MS_RDONLY, plan.uid == 0);
    mount(Some("proc"), "proc", Some("proc"), flags, none)?;
    for (target, at) in LINKS {
        symlinkat(*target, &root.top, *at)?;
    }
    for path in DEVICES {
        root.show(Path::new(path), true, Show::Device)?;
    }
    let gated = plan.sandbox.network.is_gated();
    let ours = |path: &str| gated && RESOLVER_FILES.iter().any(|(own, _)| *own == path);
    for path in RUNTIME.iter().chain(SETTINGS).filter(|path| !ours(path)) {
        root.mirror(Path::new(path))?;
    }
    root.accounts(plan)?;
    if gated {
        for (path, text) in RESOLVER_FILES {
            root.write(inside(Path::new(path)), text)?;
        }
    }
    root.show_named(plan)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    let flags = quiet | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, "/", none, flags, none)?;
    Ok(())
}

/// The root while it is put together.
struct Root {
    top: OwnedFd,
    /// Shown so far, read-only: what lies below is there already.
    read_only: Vec<PathBuf>,
}

impl Root {
    /// The file or folder of this path inside, made if it is missing. Nothing is followed: a server could have
    /// planted a link in a folder of its own.
    fn place(&self, path: &Path, is_folder: bool) -> nix::Result<OwnedFd> {
        let look = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let names: Vec<&OsStr> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let mut at = openat(&self.top, ".", look, Mode::empty())?;
        for (index, name) in names.iter().enumerate() {
            let folder = is_folder || index + 1 < names.len();
            at = match openat(&at, *name, look, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    if folder {
                        mkdirat(&at, *name, Mode::from_bits_truncate(0o755))?;
                    } else {
                        mknodat(
                            &at,
                            *name,
                            SFlag::S_IFREG,
                            Mode::from_bits_truncate(0o644),
                            0,
                        )?;
                    }
                    openat(&at, *name, look, Mode::empty())?
                }
                found => found?,
            };
        }
        Ok(at)
    }

    /// Shows a path of the host at the same path inside. What the host does not have, the instance does not either.
    fn show(&mut self, path: &Path, follow: bool, show: Show) -> nix::Result<()> {
        let tree = match Tree::copy(path, follow, show) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            tree => tree?,
        };
        let target = self.place(path, tree.is_folder)?;
        tree.attach(target.as_fd())?;
        if show == Show::ReadOnly {
            self.read_only.push(path.to_owned());
        }
        Ok(())
    }

    /// As [`Self::show`], but a link into the runtime stays a link: programs read the name of a time zone from it,
    /// and a link costs less than a mount.
    fn mirror(&mut self, path: &Path) -> nix::Result<()> {
        if let Ok(target) = fs::read_link(path) {
            let parent = path.parent().unwrap_or(Path::new("/"));
            if normal(&parent.join(&target)).starts_with("/usr") {
                if let Some(folder) = path.parent() {
                    self.place(folder, true)?;
                }
                return symlinkat(&target, &self.top, inside(path));
            }
        }
        self.show(path, true, Show::ReadOnly)
    }

    /// The plan's own paths, outer before inner, so that the more precise one holds.
    fn show_named(&mut self, plan: &RootPlan<'_>) -> Result<(), Failure> {
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
        for (index, (path, follow, show)) in all {
            let there = self.read_only.iter().any(|shown| path.starts_with(shown));
            if there && show == Show::ReadOnly {
                continue;
            }
            let shown = self.show(path, follow, show);
            shown.map_err(|errno| Failure {
                errno,
                path: Some(index),
            })?;
        }
        self.show(plan.folder, true, Show::Writable)?;
        Ok(())
    }

    /// Names for the ids that exist inside: programs ask who they are.
    fn accounts(&self, plan: &RootPlan<'_>) -> nix::Result<()> {
        let home = plan
            .folder
            .to_str()
            .filter(|home| !home.contains([':', '\n']));
        let (uid, gid, home) = (plan.uid, plan.gid, home.unwrap_or("/tmp"));
        let root = if uid == 0 {
            ""
        } else {
            "root:x:0:0::/root:/usr/sbin/nologin\n"
        };
        let nobody = "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
        let users = format!("mcp:x:{uid}:{gid}::{home}:/bin/sh\n{root}{nobody}");
        let root = if gid == 0 { "" } else { "root:x:0:\n" };
        let groups = format!("mcp:x:{gid}:\n{root}nogroup:x:65534:\n");
        self.write(Path::new("etc/passwd"), &users)?;
        self.write(Path::new("etc/group"), &groups)
    }

    /// Makes a file of our own.
    fn write(&self, path: &Path, text: &str) -> nix::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&self.top, path, flags, Mode::from_bits_truncate(0o444))?;
        let written = fs::File::from(file).write_all(text.as_bytes());
        written.map_err(|cause| Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO)))
    }
}

fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Resolves `..` by the text alone.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_by_their_text() {
        assert_eq!(
            normal(Path::new("/etc/../usr/lib/os-release")),
            Path::new("/usr/lib/os-release")
        );
        assert_eq!(normal(Path::new("/etc/../../run/x")), Path::new("/run/x"));
        assert_eq!(inside(Path::new("/etc/passwd")), Path::new("etc/passwd"));
    }

    #[test]
    fn nothing_that_is_shown_to_all_holds_secrets() {
        for path in shown_to_all() {
            for secret in [
                "/etc/shadow",
                "/etc/ssl/private",
                "/etc/minimcp",
                "/root",
                "/home",
                "/var",
                "/run",
            ] {
                assert!(
                    !Path::new(secret).starts_with(path),
                    "{} shows {secret}",
                    path.display()
                );
            }
        }
    }
}
