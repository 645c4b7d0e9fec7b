//! The keeper's side of a launch, and the probe that finds what this host allows.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr},
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
    time::Instant,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, getegid, geteuid, pipe2},
};

use super::{
    base_root::Base,
    cgroups::{self, Cgroups, Leaf},
    clone::{Forked, Namespaces, fork_into, fork_with},
    credential_files::{Files, Placed, Shelf},
    denials::Sheet,
    descriptors::held,
    failure::Failure,
    identity::{self, Identity, Shared},
    init::{self, InitPlan, Probe},
    layers::{Host, Layers},
    memory_kills,
    payload::Payload,
    plan_check,
    progress::{Stage, await_exec},
    protocol::Launch,
    second_wall,
    secret_buffer::SecretBuffer,
    spares::{Kind, Spare, Spares},
    syscalls::Filters,
    taken_users::TakenUsers,
};
use crate::domain::sandbox::{Layer, Network, Profile, Sandbox};

/// Longest time from the fork to the execve, in milliseconds; only a hung file system takes that long.
pub(super) const LAUNCH_TIMEOUT_MS: u16 = 10_000;

/// A child that runs.
pub(super) struct Launched {
    /// Its init, our direct child.
    pub(super) init: Pid,
    /// Stands for the init.
    pub(super) pidfd: OwnedFd,
    /// The server's pid on the host.
    pub(super) server: u32,
    /// Our end of its stdin.
    pub(super) stdin: OwnedFd,
    /// Our end of its stdout.
    pub(super) stdout: OwnedFd,
    /// Our end of its stderr.
    pub(super) stderr: OwnedFd,
    /// Its cgroup, where it has one.
    pub(super) leaf: Option<Leaf>,
    /// Where the kernel counts what it kills in there for want of memory.
    pub(super) memory: memory_kills::Count,
    /// What holds for it, in words.
    pub(super) isolation: BTreeMap<String, String>,
    /// Of its network namespace, as [`super::network::sockets`] made them.
    pub(super) sockets: Vec<OwnedFd>,
    /// Where its refused system calls are counted.
    pub(super) denials: Option<OwnedFd>,
    /// Its credential files, until its end.
    pub(super) credentials: Option<Placed>,
}

/// What every launch of this keeper shares.
pub(super) struct Launcher {
    /// What the probe found; those of every launch, that of the network aside.
    pub(super) namespaces: Namespaces,
    host: Host,
    filters: Option<Filters>,
    /// Our part of the cgroup tree, or why there is none.
    pub(super) cgroups: Result<Cgroups, String>,
    /// Write end of the status pipe.
    pub(super) status: OwnedFd,
    heap_start: Option<usize>,
    uid: u32,
    gid: u32,
    /// Hidden from every server.
    keeper_socket: CString,
    shelf: Shelf,
    taken_users: TakenUsers,
    own_counter: memory_kills::OwnCounter,
    /// Namespaces for launches to come.
    pub(super) spares: Spares,
}

impl Launcher {
    /// Probes the host by doing, best first; what `without` names is taken for missing. `claimed`: what became of the
    /// claim of a cgroup tree, when this process made it before.
    pub(super) fn new(
        status: OwnedFd,
        without: &[Layer],
        keeper_socket: CString,
        claimed: Option<Result<PathBuf, String>>,
    ) -> Self {
        let allowed = |layer| !without.contains(&layer);
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let with = |(user, mount)| Namespaces {
            user,
            pid: true,
            mount,
            ipc: mount && allowed(Layer::IpcNamespace),
            cgroup: mount && allowed(Layer::IpcNamespace),
            net: false,
        };
        let candidates = [(true, true), (false, true), (true, false), (false, false)];
        let found = candidates.into_iter().map(with).find(|candidate| {
            allowed(Layer::PidNamespace)
                && (!candidate.user || allowed(Layer::UserNamespace))
                && works(*candidate, uid, gid, Probe::Namespaces)
        });
        let namespaces = found.unwrap_or(Namespaces::NONE);
        let net = Namespaces {
            net: true,
            ..namespaces
        };
        let filters = Filters::compile(namespaces.ipc).ok();
        let filters = filters.filter(|_| allowed(Layer::SystemCalls));
        let plain = Namespaces {
            user: false,
            ..namespaces
        };
        let as_another = |own_namespace| {
            let probe = Probe::OwnUser { own_namespace };
            uid == 0 && namespaces.mount && works(plain, uid, gid, probe) && allowed(Layer::OwnUser)
        };
        let own_user_namespace = allowed(Layer::UserNamespace) && as_another(true);
        let is_first = claimed.is_none();
        let cgroups = match (claimed, allowed(Layer::CgroupLimits)) {
            (Some(claimed), _) => claimed.map(Cgroups::again),
            (None, true) => Cgroups::claim(),
            (None, false) => Err("the keeper was told to do without".to_owned()),
        };
        let host = Host {
            namespaces,
            net: namespaces.mount && works(net, uid, gid, Probe::Namespaces),
            private_root: namespaces.mount
                && allowed(Layer::PrivateRoot)
                && works(namespaces, uid, gid, Probe::Root),
            filter: filters.is_some(),
            landlock: match allowed(Layer::Landlock) {
                true => second_wall::abi(),
                false => 0,
            },
            as_root: uid == 0,
            cgroup_limits: cgroups.as_ref().is_ok_and(Cgroups::limits),
            own_user: own_user_namespace || as_another(false),
            own_user_namespace,
        };
        let shelf = Shelf::new(Path::new(OsStr::from_bytes(keeper_socket.as_bytes())));
        // Later, what lies there is that of children who live.
        let shelf = if is_first { shelf.cleared() } else { shelf };
        Self {
            shelf,
            namespaces,
            host,
            filters,
            cgroups,
            status,
            heap_start: init::heap_start(),
            uid,
            gid,
            keeper_socket,
            taken_users: TakenUsers::default(),
            own_counter: memory_kills::OwnCounter::default(),
            spares: Spares::new(),
        }
    }

    /// Layer to state, in words, for a template that asks for nothing special.
    pub(super) fn isolation(&self) -> BTreeMap<String, String> {
        let with = |profile| {
            let sandbox = Sandbox {
                profile,
                network: match self.host.net {
                    true => Network::AllowList,
                    false => Network::Open,
                },
                ..Sandbox::default()
            };
            let identity = match self.host.own_user && profile == Profile::Strict {
                true => Identity::Own(0),
                false => Identity::Keepers(Shared::NotRoot),
            };
            self.host.layers(&sandbox, identity).ok()
        };
        let layers = with(Profile::Strict).or_else(|| with(Profile::Off));
        let mut words = layers.map(|layers| layers.report()).unwrap_or_default();
        if self.host.own_user {
            let each = "a user of each instance alone, from the range in the configuration";
            words.insert("identity".to_owned(), each.to_owned());
        }
        words.extend(cgroups::words(self.cgroups.as_ref()));
        words
    }

    /// Removes the cgroup of a child whose tree is gone.
    pub(super) fn remove(&mut self, leaf: Option<Leaf>) {
        if let (Ok(cgroups), Some(leaf)) = (&mut self.cgroups, leaf) {
            cgroups.remove(leaf);
        }
    }

    /// Removes cgroups whose last processes took their time.
    pub(super) fn sweep(&mut self) {
        if let Ok(cgroups) = &mut self.cgroups {
            cgroups.sweep();
        }
    }

    /// Starts a child and waits until its program runs. The secrets are wiped here in any case.
    pub(super) fn launch(
        &mut self,
        serial: u64,
        launch: &Launch,
        secrets: SecretBuffer,
        secrets_at: usize,
        passed: &[OwnedFd],
    ) -> Result<Launched, String> {
        let values = secrets.bytes().get(secrets_at..).unwrap_or_default();
        plan_check::check(launch, values, passed.len())?;
        let identity = identity::decide(&self.host, launch, &mut self.taken_users)?;
        let layers = self.host.layers(&launch.sandbox, identity)?;
        make_folder(&launch.cwd)?;
        if identity::hand_over(&launch.cwd, identity, launch.sandbox.user_ids, self.uid)? {
            self.taken_users.forget(&launch.cwd);
        }
        let files = Files { launch, values };
        let credentials = self.shelf.place(&layers, serial, files)?;
        let own = layers.own_user();
        let no_pipe = |cause: Errno| format!("no descriptors for its pipes: {}", cause.desc());
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(no_pipe);
        let (child_stdin, stdin) = pipe()?;
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        let for_child = [&child_stdin, &child_stdout, &child_stderr];
        identity::give_pipes(for_child, own).map_err(no_pipe)?;
        for ours in [&stdin, &stdout, &stderr] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(no_pipe)?;
        }
        let flags = SockFlag::SOCK_CLOEXEC;
        let (progress, child_progress) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(no_pipe)?;
        // Each message then carries the sender's pid as we see it, from whatever namespace it comes.
        setsockopt(&progress, sockopt::PassCred, &true).map_err(no_pipe)?;
        let passed: Vec<_> = passed.iter().map(AsRawFd::as_raw_fd).collect();
        let leaf = match &mut self.cgroups {
            Ok(cgroups) => Some(cgroups.leaf(launch.id, &launch.resources)?),
            Err(_) => None,
        };
        let memory = self.memory_count(leaf.as_ref());
        let entrance = leaf.as_ref().map(|leaf| &leaf.entrance);
        // Without one they are refused all the same.
        let sheet = layers.filter.then(Sheet::new).and_then(Result::ok);
        let page = sheet.as_ref().map(Sheet::page);
        let base = layers
            .private_root
            .then(|| Base::look(layers.network.is_gated()));
        let kind = Kind::of(&layers);
        let spare = base.as_ref().zip(kind);
        let spare = spare.and_then(|(base, kind)| self.spares.take(kind, base));
        let namespaces = match &spare {
            // Its user namespace must be entered before.
            Some(spare) if spare.has_user() => Namespaces::NONE,
            Some(spare) => spare.own(),
            None => layers.namespaces,
        };
        let stdio = [&child_stdin, &child_stdout, &child_stderr].map(AsRawFd::as_raw_fd);
        let mut keep = vec![self.status.as_raw_fd(), child_progress.as_raw_fd()];
        keep.extend(stdio.iter().chain(&passed));
        keep.extend(spare.iter().flat_map(Spare::descriptors));
        let forked = match fork_with(namespaces, entrance, &keep) {
            Ok(forked) => forked,
            Err(cause) => {
                drop(sheet.map(Sheet::into_file));
                self.remove(leaf);
                return Err(format!("cannot fork: {cause}"));
            }
        };
        let Forked::Parent { pid, pidfd } = forked else {
            if let Some(spare) = spare.as_ref().filter(|spare| spare.has_user()) {
                spare.fork_init(child_progress.as_raw_fd());
            }
            let plan = InitPlan {
                layers,
                serial,
                status: self.status.as_raw_fd(),
                payload: Payload {
                    launch,
                    stdio,
                    passed: &passed,
                    uid: own.unwrap_or(self.uid),
                    gid: own.unwrap_or(self.gid),
                    layers,
                    filters: self.filters.as_ref(),
                    credentials: credentials.as_ref().map(|placed| placed.folder.as_path()),
                    denials: page,
                },
                secrets,
                secrets_at,
                heap_start: self.heap_start,
                keeper_socket: &self.keeper_socket,
                base: base.as_ref(),
                spare: spare.as_ref(),
            };
            init::run(plan, child_progress)
        };
        drop((
            secrets,
            child_progress,
            child_stdin,
            child_stdout,
            child_stderr,
        ));
        let denials = sheet.map(Sheet::into_file);
        drop(spare);
        let mut init = (pid, pidfd);
        let outcome = await_exec(&progress, &mut init);
        if let Some(kind) = kind {
            self.spares.want(kind, Instant::now());
        }
        match outcome {
            Ok((server, sockets)) => Ok(Launched {
                init: init.0,
                pidfd: held(init.1),
                server,
                stdin: held(stdin),
                stdout: held(stdout),
                stderr: held(stderr),
                memory,
                isolation: self.report(
                    layers,
                    leaf.as_ref(),
                    &launch.sandbox,
                    credentials.as_ref(),
                ),
                leaf,
                sockets: sockets.into_iter().map(held).collect(),
                denials: denials.map(held),
                credentials,
            }),
            Err(failure) => {
                let (init, pidfd) = init;
                kill_tree(&pidfd, self.namespaces);
                // It ends now by SIGKILL or of its own; not reaping it would leave a zombie.
                let _ = waitpid(init, None);
                self.remove(leaf);
                if matches!(failure, Failure::At(Stage::Ahead, ..)) {
                    self.spares.give_up();
                }
                Err(failure.sentence(launch))
            }
        }
    }

    fn memory_count(&mut self, leaf: Option<&Leaf>) -> memory_kills::Count {
        let cgroups = self.cgroups.as_ref().ok();
        let counter = cgroups.zip(leaf).and_then(|(all, leaf)| all.counter(leaf));
        counter.map_or_else(|| self.own_counter.count(), memory_kills::Count::in_cgroup)
    }

    fn report(
        &self,
        layers: Layers,
        leaf: Option<&Leaf>,
        sandbox: &Sandbox,
        credentials: Option<&Placed>,
    ) -> BTreeMap<String, String> {
        let mut words = layers.report();
        if let Some(placed) = credentials {
            words.insert("credential-files".to_owned(), placed.words(&layers));
        }
        if layers.filter {
            let told =
                "system calls are counted; what Landlock refuses no kernel before 6.15 tells";
            words.insert("denials".to_owned(), told.to_owned());
        }
        if let Some(reason) = &sandbox.profile_reason {
            let word = format!("{}: {reason}", sandbox.profile.word());
            words.insert("profile".to_owned(), word);
        }
        match (leaf, &self.cgroups) {
            (Some(leaf), _) => {
                // Where both hold the number of processes, each is told.
                let by_rlimit = words.get("limit-processes").cloned().unwrap_or_default();
                words.extend(leaf.words.clone());
                if let (Some(by_cgroup), true) = (
                    words.get_mut("limit-processes"),
                    by_rlimit.starts_with("on"),
                ) {
                    match by_cgroup.starts_with("on") {
                        true => by_cgroup.push_str(" and RLIMIT_NPROC"),
                        false => *by_cgroup = by_rlimit,
                    }
                }
            }
            (None, Err(reason)) => {
                words.insert("cgroup".to_owned(), format!("off: {reason}"));
                let off = "off: only a cgroup holds it";
                words.insert("limit-memory".to_owned(), off.to_owned());
                words.insert("limit-cpu".to_owned(), off.to_owned());
            }
            (None, Ok(_)) => {}
        }
        words
    }
}

/// SIGKILL to the init of a namespace, or the signal that lets a subreaper kill its tree.
pub(super) fn kill_tree(pidfd: &OwnedFd, namespaces: Namespaces) {
    let signal = if namespaces.pid {
        libc::SIGKILL
    } else {
        libc::SIGUSR2
    };
    send_signal(pidfd, signal);
}

/// pidfd_send_signal(2); a process that already ended is no error.
pub(super) fn send_signal(pidfd: &OwnedFd, signal: libc::c_int) {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a valid descriptor, and no information to read.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            0,
        )
    };
}

fn works(namespaces: Namespaces, uid: u32, gid: u32, probe: Probe) -> bool {
    match fork_into(namespaces) {
        Ok(Forked::Child) => init::probe(namespaces, uid, gid, probe),
        Ok(Forked::Parent { pid, .. }) => {
            matches!(waitpid(pid, None), Ok(WaitStatus::Exited(_, 0)))
        }
        Err(_) => false,
    }
}

fn make_folder(folder: &Path) -> Result<(), String> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(|cause| {
        format!(
            "cannot make the working folder {}: {cause}",
            folder.display()
        )
    })
}
