//! The part of an instance's root that every instance has: folders with programs, settings, devices.
//!
//! What the host has of it is looked at first, and laid out then: so what was laid out ahead of a launch can be held
//! against what a launch would lay out now.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
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
    network::RESOLVER_FILES,
    tree::{Show, Tree},
};

/// Where the root is put together: there in any case, and nothing that is shown lies below it.
const WORKSHOP: &str = "/proc";

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

/// What the host has of the part that all have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    /// The files by which programs find their resolver are ours.
    gated: bool,
    found: Vec<Found>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    path: &'static Path,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// A link into the runtime stays a link: programs read the name of a time zone from it, and a link costs less than a
    /// mount.
    Link(PathBuf),
    /// Shown read-only: device and number of the file that it is now. A file that takes its place has another one.
    Mounted(u64, u64),
    /// The same of a device.
    Device(u64, u64),
}

impl Base {
    /// Looks at what is there; `gated`: for a network through the gate.
    pub(super) fn look(gated: bool) -> Self {
        let identity = |path: &Path| fs::metadata(path).ok().map(|at| (at.dev(), at.ino()));
        let devices = DEVICES.iter().map(Path::new);
        let devices = devices.filter_map(|path| {
            let (device, number) = identity(path)?;
            let what = What::Device(device, number);
            Some(Found { path, what })
        });
        let ours = |path: &Path| {
            let mut files = RESOLVER_FILES.iter();
            gated && files.any(|(own, _)| Path::new(own) == path)
        };
        let shown = shown_to_all().filter(|path| !ours(path));
        let shown = shown.filter_map(|path| {
            let what = match link_into_runtime(path) {
                Some(target) => What::Link(target),
                None => {
                    let (device, number) = identity(path)?;
                    What::Mounted(device, number)
                }
            };
            Some(Found { path, what })
        });
        Self {
            gated,
            found: devices.chain(shown).collect(),
        }
    }

    /// Lays it out where [`Root::open`] finds it, in a mount namespace that this process is alone in and has the rights for.
    pub(super) fn lay_out(&self) -> nix::Result<()> {
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
        tmpfs(WORKSHOP, "mode=755,size=1m,nr_inodes=4k")?;
        let root = Root::open()?;
        for folder in [
            "tmp", "dev/shm", "proc", "etc", "run", "var", "home", "root",
        ] {
            root.place(Path::new(folder), true)?;
        }
        for (target, at) in LINKS {
            symlinkat(*target, &root.top, *at)?;
        }
        for Found { path, what } in &self.found {
            match what {
                What::Link(target) => {
                    if let Some(folder) = path.parent() {
                        root.place(folder, true)?;
                    }
                    symlinkat(target, &root.top, inside(path))?;
                }
                What::Mounted(..) => root.show(path, true, Show::ReadOnly)?,
                What::Device(..) => root.show(path, true, Show::Device)?,
            }
        }
        if self.gated {
            for (path, text) in RESOLVER_FILES {
                root.write(inside(Path::new(path)), text)?;
            }
        }
        Ok(())
    }

    /// Whether it shows this path read-only, perhaps with all that lies around it.
    pub(super) fn shows(&self, path: &Path) -> bool {
        let mut found = self.found.iter();
        found.any(|one| matches!(one.what, What::Mounted(..)) && path.starts_with(one.path))
    }
}

/// Where a link leads, if that is in the runtime.
fn link_into_runtime(path: &Path) -> Option<PathBuf> {
    let target = fs::read_link(path).ok()?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    normal(&parent.join(&target))
        .starts_with("/usr")
        .then_some(target)
}

/// What was laid out becomes the root of this process, which is alone in its mount namespace, and the host's is gone from
/// there. The kernel then waits for all processors (`umount2`: 0.1 to 1.5 ms), so a launch is spared it where it can be.
pub(super) fn leave_host() -> nix::Result<()> {
    chdir(WORKSHOP)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// Mounts an empty file system in memory.
pub(super) fn tmpfs(at: &str, options: &str) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options))
}

/// The root while it is put together; it is the working folder meanwhile.
pub(super) struct Root {
    pub(super) top: OwnedFd,
}

impl Root {
    /// The one that was laid out in this mount namespace.
    pub(super) fn open() -> nix::Result<Self> {
        Self::open_at(WORKSHOP)
    }

    /// The same after [`leave_host`].
    pub(super) fn open_apart() -> nix::Result<Self> {
        Self::open_at("/")
    }

    fn open_at(place: &str) -> nix::Result<Self> {
        chdir(place)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top = open(".", flags, Mode::empty())?;
        Ok(Self { top })
    }

    /// The file or folder of this path inside, made if it is missing. Nothing is followed: a server could have
    /// planted a link in a folder of its own.
    pub(super) fn place(&self, path: &Path, is_folder: bool) -> nix::Result<OwnedFd> {
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
    pub(super) fn show(&self, path: &Path, follow: bool, show: Show) -> nix::Result<()> {
        let tree = Tree::copy_if_there(path, follow, show)?;
        tree.map_or(Ok(()), |tree| self.place_tree(path, tree))
    }

    /// Mounts what was copied of the host at the same path inside.
    pub(super) fn place_tree(&self, path: &Path, tree: Tree) -> nix::Result<()> {
        let target = self.place(path, tree.is_folder)?;
        tree.attach(target.as_fd())
    }

    /// Makes a file of our own.
    pub(super) fn write(&self, path: &Path, text: &str) -> nix::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&self.top, path, flags, Mode::from_bits_truncate(0o444))?;
        let written = fs::File::from(file).write_all(text.as_bytes());
        written.map_err(|cause| Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// As it is named from the top of the root.
pub(super) fn inside(path: &Path) -> &Path {
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

    #[test]
    fn another_file_in_its_place_is_seen() {
        let (open, gated) = (Base::look(false), Base::look(true));
        assert_eq!(open, Base::look(false));
        assert_ne!(open, gated);
        assert!(open.shows(Path::new("/usr/bin/env")));
        assert!(!open.shows(Path::new("/home/somebody")));
        let mut other = open.clone();
        let mounted = other.found.iter_mut().find_map(|one| match &mut one.what {
            What::Mounted(_, number) => Some(number),
            _ => None,
        });
        *mounted.expect("there is /usr") += 1;
        assert_ne!(open, other);
    }
}
