//! The init of an instance: PID 1 of its pid namespace, or else the subreaper of its processes.
//!
//! It is a fork of the keeper that never executes a program of its own, so nearly all of its pages are the
//! keeper's. It must stay so: after the server is started it neither allocates nor writes to memory beyond
//! its stack. It reaps, forwards SIGTERM, and when the server ends it reports how and ends itself, upon
//! which the kernel kills what is left in the namespace.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::{
        prctl,
        socket::{AddressFamily, SockFlag, SockType, socketpair},
    },
};

use super::{
    base_root::Base,
    clone::{Forked, Namespaces, fork_into, lend_memory},
    credential_files::{self, Files},
    denials, identity,
    layers::Layers,
    mounts, network, oom_score,
    payload::{self, Payload, Program},
    privileges,
    progress::{Failed, Stage, report},
    root::{self, Place, RootPlan},
    secret_buffer::SecretBuffer,
    spares::Spare,
    watch::{Started, watch_over},
};
use crate::domain::sandbox::{Profile, Sandbox};

/// The user that a probe becomes; the kernel's own for files of nobody.
const NOBODY: u32 = 65_534;

/// Everything that an init and its server get.
pub(super) struct InitPlan<'a> {
    /// What it gets of isolation.
    pub(super) layers: Layers,
    /// Names the launch in the status record.
    pub(super) serial: u64,
    /// Write end of the status pipe.
    pub(super) status: RawFd,
    /// What the server executes, and with what.
    pub(super) payload: Payload<'a>,
    /// Holds the values of its environment, from `secrets_at` on.
    pub(super) secrets: SecretBuffer,
    /// Where they begin.
    pub(super) secrets_at: usize,
    /// Where the heap begins, if known.
    pub(super) heap_start: Option<usize>,
    /// What a server must never reach.
    pub(super) keeper_socket: &'a CStr,
    /// What the host has of a root of its own, where it gets one.
    pub(super) base: Option<&'a Base>,
    /// The namespaces that were made ahead for it; what it has of others it is in already.
    pub(super) spare: Option<&'a Spare>,
}

/// Runs an init; the keeper's fork calls this and nothing else.
/// `progress` is our end of the socket for [`Stage`] messages.
pub(super) fn run(plan: InitPlan<'_>, progress: OwnedFd) -> ! {
    match start(plan, &progress) {
        Ok(started) => {
            // The keeper waits for the last copy to be closed.
            drop(progress);
            // Only now: what `start` had allocated is freed.
            forget_heap(started.heap_start);
            watch_over(&started)
        }
        Err((stage, errno)) => {
            report(progress.as_raw_fd(), stage, errno as i32);
            exit(1)
        }
    }
}

/// What a probe tries, beside the namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// The namespaces alone.
    Namespaces,
    /// A root of its own in them.
    Root,
    /// The same as another user, with a user namespace of its own or without one.
    OwnUser { own_namespace: bool },
}

/// Tries the namespaces in a fork made for it; the exit code tells.
pub(super) fn probe(namespaces: Namespaces, uid: u32, gid: u32, probe: Probe) -> ! {
    let private_root = probe != Probe::Namespaces;
    let (owner, group) = match probe {
        Probe::OwnUser { .. } => (NOBODY, NOBODY),
        _ => (uid, gid),
    };
    let maps = !namespaces.user || write_maps(uid, gid).is_ok();
    let root = || {
        let base = Base::look(false);
        let plan = RootPlan {
            sandbox: &Sandbox::default(),
            base: &base,
            // Any folder that is there will do.
            folder: std::path::Path::new("/usr"),
            credentials: false,
            uid: owner,
            gid: group,
        };
        base.lay_out().is_ok() && root::enter(&plan, Place::BesideHost).is_ok()
    };
    let works =
        maps && match (private_root, namespaces.mount) {
            (true, _) => root(),
            (false, true) => mounts::proc_of_its_own().is_ok(),
            (false, false) => true,
        } && (!namespaces.net || network::probe().is_ok());
    let works = works
        && match probe {
            Probe::OwnUser { own_namespace } => {
                identity::become_user(NOBODY, own_namespace).is_ok()
            }
            _ => true,
        };
    // A namespace whose init cannot fork is of no use.
    let works = works && matches!(fork_into(Namespaces::NONE), Ok(forked) if !is_child(&forked));
    exit(i32::from(!works))
}

fn is_child(forked: &Forked) -> bool {
    if matches!(forked, Forked::Child) {
        exit(0)
    }
    false
}

fn start(plan: InitPlan<'_>, progress: &OwnedFd) -> Result<Started, Failed> {
    let namespaces = plan.layers.namespaces;
    let own_namespace = namespaces.pid;
    // Without a namespace SIGKILL would leave the server behind: use one that we can catch.
    let last_wish = if own_namespace {
        nix::sys::signal::Signal::SIGKILL
    } else {
        nix::sys::signal::Signal::SIGUSR2
    };
    prctl::set_pdeathsig(last_wish).map_err(|errno| (Stage::Keeper, errno))?;
    prctl::set_child_subreaper(!own_namespace).map_err(|errno| (Stage::Keeper, errno))?;
    block_all_signals();
    if reader_is_gone(plan.status) {
        // The keeper died before our PDEATHSIG was set.
        exit(1);
    }
    oom_score::raise();
    let gated = plan.payload.launch.sandbox.network.is_gated();
    let v6 = match plan.spare {
        Some(spare) => {
            // The mounts come when nothing more is needed of the host's /proc.
            let beside = CloneFlags::all() - CloneFlags::CLONE_NEWUSER - CloneFlags::CLONE_NEWNS;
            spare.enter(beside).map_err(|errno| (Stage::Ahead, errno))?;
            spare.made.v6
        }
        None => {
            if namespaces.user {
                write_maps(plan.payload.uid, plan.payload.gid)
                    .map_err(|errno| (Stage::Maps, errno))?;
            }
            let prepared = namespaces.net.then(|| network::prepare(gated));
            let prepared = prepared
                .transpose()
                .map_err(|errno| (Stage::Network, errno))?;
            prepared.unwrap_or(false)
        }
    };
    if namespaces.net {
        let caught = gated.then_some(&plan.payload.launch.sandbox.caught);
        network::sockets(caught, v6)
            .and_then(|sockets| network::hand_out(progress.as_raw_fd(), &sockets))
            .map_err(|errno| (Stage::Network, errno))?;
    }
    let owns_namespace = namespaces.user || plan.layers.user_namespace_later;
    let caps = owns_namespace && plan.layers.profile != Profile::Off;
    // Where its own /proc is read-only, by that of the host.
    let by_host = (caps && plan.payload.uid == 0).then(privileges::namespace_caps);
    set_view(&plan, progress)?;
    let by_own = (caps && by_host.is_none()).then(privileges::namespace_caps);
    if let Some(uid) = plan.layers.own_user() {
        identity::become_user(uid, plan.layers.user_namespace_later)
            .and_then(|()| prctl::set_pdeathsig(last_wish))
            .map_err(|errno| (Stage::Identity, errno))?;
        if reader_is_gone(plan.status) {
            // Becoming another user had cleared our PDEATHSIG.
            exit(1);
        }
    }
    if let Some(caps) = by_host.or(by_own).flatten() {
        privileges::cap_namespace(&caps);
    }
    // The name is cosmetic, and how the tree is found again by `usage`.
    let _ = prctl::set_name(crate::runtime::usage::INIT_NAME_C);
    let InitPlan {
        serial,
        status,
        payload,
        secrets,
        secrets_at,
        heap_start,
        ..
    } = plan;
    // Nothing is counted where there is no way to hand the listener over.
    let handing = payload.denials.and_then(|page| {
        let pair = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        );
        pair.ok().map(|(ours, theirs)| (ours, theirs, page))
    });
    let program = {
        let values = secrets.bytes().get(secrets_at..);
        Program::of(&payload, values.unwrap_or_default())
    };
    let to = handing.as_ref().map(|(_, theirs, _)| theirs.as_raw_fd());
    let server = || payload::run(&payload, &program, progress.as_raw_fd(), to, own_namespace);
    match lend_memory(server) {
        Ok(pid) => {
            drop(program);
            secrets.discard();
            let denials = handing.and_then(|(ours, theirs, page)| {
                drop(theirs);
                Some((denials::take_over(&ours)?.into_raw_fd(), page))
            });
            if plan.layers.no_capabilities {
                // All that it still does needs none: its server has the same user. A failure costs the server nothing.
                let _ = prctl::set_no_new_privs().and_then(|()| privileges::drop_capabilities());
            }
            for descriptor in payload.descriptors() {
                // SAFETY: this process owns its copies of these descriptors, and nothing else here uses them.
                unsafe { libc::close(descriptor) };
            }
            Ok(Started {
                server: pid.as_raw(),
                serial,
                status,
                own_namespace,
                heap_start,
                denials,
            })
        }
        Err(cause) => Err((
            Stage::Fork,
            Errno::from_raw(cause.raw_os_error().unwrap_or(0)),
        )),
    }
}

/// Gives the instance its own view of files and processes, as far as the layers say.
fn set_view(plan: &InitPlan<'_>, progress: &OwnedFd) -> Result<(), Failed> {
    let launch = plan.payload.launch;
    let layers = &plan.layers;
    if layers.namespaces.ipc && layers.profile != Profile::Off {
        // Cosmetic: a name that resolves everywhere.
        let _ = nix::unistd::sethostname("localhost");
    }
    if layers.private_root {
        let base = plan.base.ok_or((Stage::Root, Errno::EINVAL))?;
        let root_plan = RootPlan {
            sandbox: &launch.sandbox,
            base,
            folder: &launch.cwd,
            credentials: plan.payload.credentials.is_some(),
            uid: plan.payload.uid,
            gid: plan.payload.gid,
        };
        let failed = |failure: root::Failure| {
            if let Some(index) = failure.path.and_then(|index| i32::try_from(index).ok()) {
                report(progress.as_raw_fd(), Stage::Place, index);
            }
            (Stage::Root, failure.errno)
        };
        let place = match plan.spare {
            Some(spare) if spare.made.apart => {
                Place::Apart(root::copy_named(&root_plan).map_err(failed)?)
            }
            _ => Place::BesideHost,
        };
        match plan.spare {
            Some(spare) => {
                let entered = spare.enter(CloneFlags::CLONE_NEWNS);
                entered.map_err(|errno| (Stage::Ahead, errno))?;
                for descriptor in spare.descriptors() {
                    // SAFETY: this process owns its copies of them, and never drops those of the keeper.
                    unsafe { libc::close(descriptor) };
                }
            }
            None => base.lay_out().map_err(|errno| (Stage::Root, errno))?,
        }
        root::enter(&root_plan, place).map_err(failed)?;
    } else if layers.namespaces.mount {
        let hidden = match layers.profile {
            Profile::Off => &[],
            _ => launch.sandbox.hidden.as_slice(),
        };
        mounts::proc_of_its_own()
            .and_then(|()| mounts::hide(plan.keeper_socket))
            .and_then(|()| mounts::hide_all(hidden, &launch.cwd))
            .and_then(|()| match launch.sandbox.network.is_gated() {
                true => mounts::resolver_files(&launch.cwd),
                false => Ok(()),
            })
            .map_err(|errno| (Stage::Proc, errno))?;
    }
    match plan.payload.credentials {
        Some(folder) if layers.namespaces.mount => {
            let values = plan.secrets.bytes().get(plan.secrets_at..);
            let files = Files {
                launch,
                values: values.unwrap_or_default(),
            };
            let Payload { uid, gid, .. } = plan.payload;
            credential_files::mount_on(folder, files, uid, gid)
                .map_err(|errno| (Stage::Credentials, errno))
        }
        _ => Ok(()),
    }
}

/// The address where the heap of this process begins.
pub(super) fn heap_start() -> Option<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[heap]"))?;
    usize::from_str_radix(line.split('-').next()?, 16).ok()
}

/// Gives the pages of the heap back. They are copies or shared with the keeper, which goes on writing to
/// its own: without this, every init would keep old pages alive. Nothing may be allocated or freed later.
fn forget_heap(start: Option<usize>) {
    let Some(start) = start else { return };
    // SAFETY: sbrk(0) only tells the end of the heap. From here on this process runs `watch_over` alone,
    // which uses nothing but its stack, so that nobody reads the pages that become zero.
    unsafe {
        let end = libc::sbrk(0) as usize;
        if let Some(len) = end.checked_sub(start) {
            libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED);
        }
    }
}

fn block_all_signals() {
    let all = nix::sys::signal::SigSet::all();
    let _ = all.thread_set_mask();
}

/// Closes every descriptor that is not in the list.
pub(super) fn close_all_but(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut first = 0_u32;
    for descriptor in keep.iter().copied() {
        let descriptor = descriptor as u32;
        if descriptor > first {
            close_range(first, descriptor - 1, 0);
        }
        first = first.max(descriptor + 1);
    }
    close_range(first, u32::MAX, 0);
}

/// close_range(2).
pub(super) fn close_range(first: u32, last: u32, flags: u32) {
    // SAFETY: this process is about to use only the descriptors that its caller left out.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
}

/// Whether the keeper, which reads the status pipe, has ended.
pub(super) fn reader_is_gone(pipe: RawFd) -> bool {
    let mut poll = libc::pollfd {
        fd: pipe,
        events: 0,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents & libc::POLLERR != 0
}

/// Maps our uid and gid to themselves in the new user namespace.
pub(super) fn write_maps(uid: u32, gid: u32) -> Result<(), Errno> {
    // The files of an undumpable process belong to root. For these few writes we become dumpable; the other
    // instances cannot see this process, and the user's own programs may read its memory anyway.
    prctl::set_dumpable(true)?;
    let write = |path: &str, text: String| {
        std::fs::write(path, text)
            .map_err(|cause| Errno::from_raw(cause.raw_os_error().unwrap_or(0)))
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    prctl::set_dumpable(false)
}

/// Ends at once, without running anything that the keeper registered for its own end.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) does not return.
    unsafe { libc::_exit(code) }
}
