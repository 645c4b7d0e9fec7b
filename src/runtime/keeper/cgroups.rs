//! A cgroup of its own for each child, where the part of the cgroup v2 tree that we are in was given to us
//! (`Delegate=yes` of systemd): limits of all its processes together, and one order that kills them all.
//!
//! ```text
//! minimcp-keeper.service/           given to us; the controllers are passed on from here
//!   keeper/                         we: a cgroup that passes controllers on must hold no process itself
//!   child-INSTANCE-GENERATION[.N]/  a child with its init, from its fork until its tree is gone
//! ```

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, open},
    sys::{stat::Mode, wait::waitpid},
};

use super::{
    cgroup_names::{CHILD, OWN, folder_in, name_of},
    clone::{Forked, Namespaces, fork_into_cgroup},
    descriptors::held,
    freezer,
    reclaim::Means,
};
use crate::{domain::limits::Resources, runtime::WorkloadId};

/// Names of extended attributes by which systemd says that a cgroup was given away (systemd.resource-control(5)).
const DELEGATED: [&std::ffi::CStr; 2] = [c"user.delegate", c"trusted.delegate"];
/// The period of `cpu.max` in microseconds, the kernel's own.
const CPU_PERIOD_US: u64 = 100_000;

/// The part of the tree that is ours.
pub(super) struct Cgroups {
    folder: PathBuf,
    /// Those that children get.
    controllers: Vec<&'static str>,
    /// How pages are taken back from a child that holds still, or why not.
    reclaim: Result<Means, String>,
    /// Ended, and not yet gone.
    leftover: Vec<PathBuf>,
}

/// The cgroup of one child.
pub(super) struct Leaf {
    folder: PathBuf,
    /// For the fork into it.
    pub(super) entrance: OwnedFd,
    /// What it holds, in words, by the name that `isolation` has for it.
    pub(super) words: BTreeMap<String, String>,
}

impl Cgroups {
    /// Takes the part of the tree that was given to us, by doing what will be done with it.
    ///
    /// # Errors
    /// Why there is none, as the end of a sentence.
    pub(super) fn claim() -> Result<Self, String> {
        let folder = own_folder().ok_or("there is no cgroup v2 tree here")?;
        if !is_delegated(&folder) {
            return Err(NOT_DELEGATED.to_owned());
        }
        let ours = std::process::id().to_string();
        let inside = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        if inside.trim() != ours {
            return Err(
                "other processes share the keeper's cgroup; give it a unit of its own".into(),
            );
        }
        let own = folder.join(OWN);
        make(&own).map_err(|cause| format!("{NOT_DELEGATED} ({cause})"))?;
        write(&own, "cgroup.procs", &ours)
            .map_err(|cause| format!("the keeper cannot move within its cgroup: {cause}"))?;
        let there = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
        let controllers = ["memory", "pids", "cpu", "io"]
            .into_iter()
            .filter(|name| there.split_whitespace().any(|there| there == *name))
            .filter(|name| write(&folder, "cgroup.subtree_control", &format!("+{name}")).is_ok())
            .collect();
        let mut cgroups = Self::with(folder, controllers);
        cgroups.clear_old();
        cgroups.probe()?;
        Ok(cgroups)
    }

    /// Goes on in the part of the tree that this process claimed before its program was another.
    pub(super) fn again(folder: PathBuf) -> Self {
        let passed_on = fs::read_to_string(folder.join("cgroup.subtree_control"));
        let passed_on = passed_on.unwrap_or_default();
        let controllers = ["memory", "pids", "cpu", "io"].into_iter();
        let controllers =
            controllers.filter(|name| passed_on.split_whitespace().any(|there| there == *name));
        let controllers = controllers.collect();
        Self::with(folder, controllers)
    }

    fn with(folder: PathBuf, controllers: Vec<&'static str>) -> Self {
        let reclaim = Means::find(&folder, controllers.contains(&"memory"));
        Self {
            folder,
            controllers,
            reclaim,
            leftover: Vec::new(),
        }
    }

    /// How pages are taken back from a child that holds still.
    ///
    /// # Errors
    /// Why they cannot be, as the end of a sentence.
    pub(super) fn reclaim(&self) -> Result<Means, &String> {
        self.reclaim.as_ref().copied()
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the cgroup of a child, with its limits.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn leaf(&mut self, id: WorkloadId, resources: &Resources) -> Result<Leaf, String> {
        self.sweep();
        self.leaf_named(&name_of(id), resources)
            .map_err(|cause| format!("cannot make its cgroup: {cause}"))
    }

    fn leaf_named(&self, name: &str, resources: &Resources) -> io::Result<Leaf> {
        let folder = self.folder.join(name);
        make(&folder)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let entrance = held(open(&folder, flags, Mode::empty())?);
        let words = self.limit(&folder, resources);
        Ok(Leaf {
            folder,
            entrance,
            words,
        })
    }

    /// Sets the limits; what this host cannot hold is told, and the rlimits remain.
    fn limit(&self, folder: &Path, resources: &Resources) -> BTreeMap<String, String> {
        let mut words = BTreeMap::new();
        for limit in limits(resources) {
            let Some(value) = limit.value else {
                let state = "off: its template sets none";
                words.entry(limit.name.into()).or_insert(state.to_owned());
                continue;
            };
            let state = if !self.controllers.contains(&limit.controller) {
                let controller = limit.controller;
                format!("off: the controller {controller} was not given to the keeper")
            } else if let Err(cause) = write(folder, limit.file, &value) {
                format!("off: {} cannot be set: {cause}", limit.file)
            } else {
                format!("on: {}, by {} of its cgroup", limit.shown, limit.file)
            };
            words.insert(limit.name.into(), state);
        }
        if self.controllers.contains(&"memory") {
            // Half a server is no server: all its processes end together. Swap must not stretch the limit without end.
            let _ = write(folder, "memory.oom.group", "1");
            if let Some(bytes) = resources.memory_bytes {
                let _ = write(folder, "memory.swap.max", &bytes.to_string());
            }
        }
        words.insert("cgroup".into(), self.word());
        words
    }

    /// What children get, in words.
    pub(super) fn word(&self) -> String {
        match self.controllers.as_slice() {
            [] => "on: its own, without controllers: nothing in it is limited".to_owned(),
            some => format!("on: its own, with {}", some.join(", ")),
        }
    }

    /// Whether every limit of a cgroup can be held.
    pub(super) fn limits(&self) -> bool {
        ["memory", "pids", "cpu"]
            .iter()
            .all(|name| self.controllers.contains(name))
    }

    /// Where the kernel counts what it kills in a child's cgroup, if it does.
    pub(super) fn counter(&self, leaf: &Leaf) -> Option<PathBuf> {
        let counts = self.controllers.contains(&"memory");
        counts.then(|| leaf.folder.join("memory.events.local"))
    }

    /// Removes the cgroup of a child whose tree is gone, now or later.
    pub(super) fn remove(&mut self, leaf: Leaf) {
        self.leftover.push(leaf.folder);
        self.sweep();
    }

    /// Removes the cgroup of this name, whose child nobody holds, with all that is in it, now or later.
    pub(super) fn remove_named(&mut self, name: &str) {
        let folder = self.folder.join(name);
        if folder.is_dir() && !self.leftover.contains(&folder) {
            self.leftover.push(folder);
        }
        self.sweep();
    }

    /// Tries again to remove what could not be removed yet.
    pub(super) fn sweep(&mut self) {
        self.leftover.retain(|folder| match remove_tree(folder) {
            Err(cause) if cause.raw_os_error() == Some(libc::EBUSY) => {
                let _ = write(folder, "cgroup.kill", "1");
                true
            }
            _ => false,
        });
    }

    /// Those of a keeper before us, which died with all that it had started.
    fn clear_old(&mut self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().as_bytes().starts_with(CHILD.as_bytes()) {
                self.leftover.push(entry.path());
            }
        }
        self.sweep();
    }

    fn probe(&mut self) -> Result<(), String> {
        let failed =
            |cause: io::Error| format!("nothing can be started in a cgroup of its own: {cause}");
        let leaf = self
            .leaf_named(&format!("{CHILD}probe"), &Resources::default())
            .map_err(failed)?;
        let forked = fork_into_cgroup(Namespaces::NONE, Some(&leaf.entrance));
        let tried = match forked {
            Ok(Forked::Child) => super::init::exit(0),
            Ok(Forked::Parent { pid, .. }) => waitpid(pid, None).map(drop).map_err(io::Error::from),
            Err(cause) => Err(cause),
        };
        self.remove(leaf);
        tried.map_err(failed)
    }
}

/// What a child's cgroup can hold here, in words, by the names that `isolation` has for it.
pub(super) fn words(claimed: Result<&Cgroups, &String>) -> [(String, String); 3] {
    let off = |reason: &String| format!("off: {reason}");
    let (cgroup, freezer) = match claimed {
        Ok(cgroups) => (cgroups.word(), "on: by its cgroup".to_owned()),
        Err(reason) => (off(reason), off(reason)),
    };
    let reclaim = claimed.and_then(Cgroups::reclaim);
    let reclaim = reclaim.map_or_else(off, |means| means.word().to_owned());
    [
        ("cgroup".to_owned(), cgroup),
        ("freezer".to_owned(), freezer),
        ("reclaim".to_owned(), reclaim),
    ]
}

const NOT_DELEGATED: &str =
    "the keeper's part of the cgroup tree was not given to it (Delegate=yes of its unit)";

impl Leaf {
    /// The cgroup of a child that runs, known by its folder.
    pub(super) fn again(folder: PathBuf) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let entrance = held(open(&folder, flags, Mode::empty())?);
        Ok(Self {
            folder,
            entrance,
            words: BTreeMap::new(),
        })
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets everything in it hold still (cgroup v2, `cgroup.freeze`, Linux 5.2), and waits until it does.
    ///
    /// # Errors
    /// Why it goes on, in one sentence.
    pub(super) fn freeze(&self) -> Result<(), String> {
        freezer::freeze(&self.folder).inspect_err(|_| self.thaw())
    }

    /// Lets everything in it go on.
    pub(super) fn thaw(&self) {
        let _ = write(&self.folder, freezer::FREEZE, "0");
    }

    /// Whether everything in it is to hold still.
    pub(super) fn is_frozen(&self) -> bool {
        let asked = fs::read_to_string(self.folder.join(freezer::FREEZE));
        asked.is_ok_and(|asked| asked.trim() == "1")
    }

    /// Kills everything in it at once (`cgroup.kill`, Linux 5.14); whoever calls this kills by other means as well.
    pub(super) fn kill(&self) {
        let _ = write(&self.folder, "cgroup.kill", "1");
    }
}

/// One limit as the kernel takes it.
struct Limit {
    /// As `isolation` has it.
    name: &'static str,
    controller: &'static str,
    file: &'static str,
    value: Option<String>,
    shown: String,
}

fn limits(resources: &Resources) -> [Limit; 6] {
    let limit = |name, controller, file, number: Option<u64>, unit: &str| Limit {
        name,
        controller,
        file,
        value: number.map(|number| number.to_string()),
        shown: number
            .map(|number| format!("{number}{unit}"))
            .unwrap_or_default(),
    };
    let percent = resources.cpu_percent;
    let quota = percent.map(|percent| format!("{} {CPU_PERIOD_US}", percent * CPU_PERIOD_US / 100));
    [
        limit(
            "limit-memory",
            "memory",
            "memory.max",
            resources.memory_bytes,
            " bytes",
        ),
        limit(
            "limit-memory-high",
            "memory",
            "memory.high",
            resources.memory_high_bytes,
            " bytes",
        ),
        // The init counts as well.
        Limit {
            value: resources
                .processes
                .map(|most| most.saturating_add(1).to_string()),
            ..limit(
                "limit-processes",
                "pids",
                "pids.max",
                resources.processes,
                "",
            )
        },
        Limit {
            value: quota,
            ..limit("limit-cpu", "cpu", "cpu.max", percent, " % of a CPU")
        },
        limit("weight-cpu", "cpu", "cpu.weight", resources.cpu_weight, ""),
        limit("weight-io", "io", "io.weight", resources.io_weight, ""),
    ]
}

/// The folder of the cgroup v2 that we are in.
fn own_folder() -> Option<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let found = |mount| folder_in(mount, "cgroup2", path);
    mounts
        .lines()
        .find_map(found)
        .filter(|folder| folder.is_dir())
}

/// Whether we may do in it as we like. What a plain user may write to was given to that user; root may write
/// everywhere, so there somebody must have said it.
fn is_delegated(folder: &Path) -> bool {
    // The root of the tree has no such file, and belongs to the host.
    if !folder.join("cgroup.events").exists() {
        return false;
    }
    if !nix::unistd::geteuid().is_root() {
        return true;
    }
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else {
        return false;
    };
    DELEGATED.into_iter().any(|name| {
        let mut value = [0_u8; 8];
        // SAFETY: two C strings, and a buffer that is as long as is told.
        let len = unsafe {
            let buffer = value.as_mut_ptr().cast();
            libc::getxattr(path.as_ptr(), name.as_ptr(), buffer, value.len())
        };
        len == 1 && value[0] == b'1'
    })
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// A cgroup with those below it, which a stranger may have made.
fn remove_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

pub(super) fn write(folder: &Path, file: &str, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).open(folder.join(file))?;
    io::Write::write_all(&mut file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limits::Limits;

    #[test]
    fn limits_are_written_as_the_kernel_takes_them() {
        let resources = Limits {
            max_processes: 10,
            max_memory_bytes: Some(1 << 20),
            max_cpu_percent: Some(250),
            ..Limits::default()
        }
        .resources();
        let written: Vec<_> = limits(&resources)
            .into_iter()
            .filter_map(|limit| Some((limit.file, limit.value?)))
            .collect();
        let expected = [
            ("memory.max", "1048576"),
            ("pids.max", "11"),
            ("cpu.max", "250000 100000"),
        ];
        assert_eq!(
            written,
            expected.map(|(file, value)| (file, value.to_owned()))
        );
    }

    #[test]
    fn what_cannot_be_held_is_told_with_its_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let cgroups = Cgroups {
            folder: folder.path().to_owned(),
            controllers: vec!["pids"],
            reclaim: Err("a trial".to_owned()),
            leftover: Vec::new(),
        };
        let child = folder.path().join("child");
        fs::create_dir(&child).expect("ours");
        fs::write(child.join("pids.max"), "max").expect("ours");
        let words = cgroups.limit(&child, &Limits::default().resources());
        assert_eq!(
            words["limit-processes"],
            "on: 256, by pids.max of its cgroup"
        );
        assert_eq!(
            fs::read_to_string(child.join("pids.max")).ok().as_deref(),
            Some("257")
        );
        assert!(
            words["limit-memory"].contains("memory was not given"),
            "{words:?}"
        );
        assert_eq!(words["limit-cpu"], "off: its template sets none");
        assert_eq!(words["cgroup"], "on: its own, with pids");
        assert!(!cgroups.limits());
    }
}
