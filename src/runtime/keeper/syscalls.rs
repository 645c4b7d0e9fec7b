//! Which system calls a server may make: an allow-list, compiled once for all launches of a keeper.
//!
//! What is not on it fails with `EPERM` and kills nobody: V8 and others try calls that they can do without. It
//! holds what systemd calls `@system-service`, less what reaches into other processes, the kernel's keyrings and
//! io_uring, and less new namespaces. `clone3` says `ENOSYS`, since its flags lie in memory that no filter can
//! read: every C library then takes `clone`, whose flags are looked at.

use std::{
    collections::BTreeMap,
    os::fd::{FromRawFd, OwnedFd},
};

use nix::errno::Errno;
use seccompiler::BpfProgram;

use super::filter_program::{Relation, Test, Verdict, compile};

/// The program, in two forms.
pub(super) struct Filters {
    /// Refuses by itself.
    silent: BpfProgram,
    /// Hands what it refuses to a listener.
    telling: BpfProgram,
}

impl Filters {
    /// Compiles them. `own_ipc`: the instance has an IPC namespace of its own, so that System V memory, messages
    /// and semaphores reach no other process; without one those calls are closed.
    ///
    /// # Errors
    /// A sentence, on a machine that the list was not made for.
    pub(super) fn compile(own_ipc: bool) -> Result<Self, String> {
        let calls = calls(own_ipc);
        Ok(Self {
            silent: compile(&calls, SILENTLY)?,
            telling: compile(&calls, libc::SECCOMP_RET_USER_NOTIF)?,
        })
    }

    /// Installs one of them for this process and all that it starts. This neither allocates nor can be undone. With
    /// `tells`, what is refused waits for the holder of the listener that comes back, where the kernel has that (Linux 5.0).
    pub(super) fn install(&self, tells: bool) -> Result<Option<OwnedFd>, Errno> {
        if let Some(listener) = tells.then(|| listen(&self.telling)).and_then(Result::ok) {
            return Ok(Some(listener));
        }
        seccompiler::apply_filter(&self.silent).map_err(|_| Errno::last())?;
        Ok(None)
    }
}

/// `EPERM`, without a word to anybody.
const SILENTLY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();

/// Installs a program whose refusals are handed to the descriptor that comes back.
fn listen(program: &BpfProgram) -> Result<OwnedFd, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the crate's instructions have the kernel's layout, and the kernel only reads them.
    let raw = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let raw = Errno::result(raw)?;
    let raw = i32::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What the list says, by number.
fn calls(own_ipc: bool) -> BTreeMap<libc::c_long, Verdict> {
    let mut calls = BTreeMap::new();
    let ipc = if own_ipc { SYSTEM_V_IPC } else { &[] };
    for call in FREE.iter().chain(LEGACY).chain(ipc) {
        calls.insert(*call, Verdict::Made);
    }
    calls.insert(libc::SYS_clone3, Verdict::Fails(libc::ENOSYS as u16));
    // New namespaces give capabilities over a part of the kernel that a server has no business in.
    let namespaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET)
        .cast_unsigned();
    let no_namespace = test(0, Relation::Masked(namespaces), 0);
    calls.insert(libc::SYS_clone, Verdict::IfAny(vec![vec![no_namespace]]));
    // Of the address families only those that programs of this kind speak. AF_VSOCK is a way to the
    // hypervisor that no network namespace closes; AF_ALG and AF_PACKET are surface without use.
    let family = |value: libc::c_int| test(0, Relation::Is, value.cast_unsigned());
    let routing = test(2, Relation::Is, libc::NETLINK_ROUTE.cast_unsigned());
    let sockets = vec![
        vec![family(libc::AF_UNIX)],
        vec![family(libc::AF_INET)],
        vec![family(libc::AF_INET6)],
        vec![family(libc::AF_NETLINK), routing],
    ];
    calls.insert(libc::SYS_socket, Verdict::IfAny(sockets));
    let pairs = vec![vec![family(libc::AF_UNIX)]];
    calls.insert(libc::SYS_socketpair, Verdict::IfAny(pairs));
    // Both put words into the mouth of whoever sits at a terminal.
    let quiet = [TIOCSTI, TIOCLINUX].map(|request| test(1, Relation::IsNot, request));
    calls.insert(libc::SYS_ioctl, Verdict::IfAny(vec![quiet.to_vec()]));
    // Their own limits and priorities, not those of other processes.
    for (call, argument) in OWN_ONLY {
        let own = test(*argument, Relation::Is, 0);
        calls.insert(*call, Verdict::IfAny(vec![vec![own]]));
    }
    calls
}

fn test(argument: u8, relation: Relation, value: u32) -> Test {
    Test {
        argument,
        relation,
        value,
    }
}

/// A list of calls by the names of the crate `libc`.
macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// Calls with the argument that names another process, 0 meaning the caller.
const OWN_ONLY: &[(libc::c_long, u8)] = &[
    (libc::SYS_prlimit64, 0),
    (libc::SYS_setpriority, 1),
    (libc::SYS_ioprio_set, 1),
    (libc::SYS_sched_setaffinity, 0),
    (libc::SYS_sched_setattr, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setscheduler, 0),
];

/// Without an IPC namespace these reach every process of the same user.
const SYSTEM_V_IPC: &[libc::c_long] = calls! {
    SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_shmat SYS_shmctl
    SYS_shmdt SYS_shmget
};

/// Allowed with any arguments, on every machine.
const FREE: &[libc::c_long] = calls! {
    SYS_accept SYS_accept4 SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_getres SYS_clock_gettime
    SYS_clock_nanosleep SYS_clone3 SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit
    SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat
    SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock
    SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv
    SYS_get_mempolicy SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid
    SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom
    SYS_getresgid SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid
    SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch
    SYS_io_cancel SYS_io_destroy SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioprio_get
    SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat
    SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_mbind
    SYS_membarrier SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap
    SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink
    SYS_mremap SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2
    SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll
    SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2 SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read
    SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages
    SYS_removexattr SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending
    SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity
    SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_yield
    SYS_seccomp SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_mempolicy SYS_set_robust_list
    SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setregid
    SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr
    SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync
    SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create SYS_timer_delete
    SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime
    SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice
    SYS_wait4 SYS_waitid SYS_write SYS_writev
};

/// The older forms that only this machine has.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[libc::c_long] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_wait
    SYS_eventfd SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat
    SYS_mkdir SYS_mknod SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select
    SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[libc::c_long] = &[];

#[cfg(test)]
mod tests {
    use super::{super::filter_program::outcome_here, *};

    #[test]
    fn both_programs_hold_the_list_and_nothing_that_reaches_into_others() {
        let filters = Filters::compile(true).expect("this machine is known");
        let lengths = [&filters.silent, &filters.telling].map(Vec::len);
        assert!(
            lengths.iter().all(|len| *len < 600),
            "{lengths:?} instructions"
        );
        let with = calls(true);
        let without = calls(false);
        let said = |call: libc::c_long, args: [u32; 6]| {
            let call = u32::try_from(call).expect("a number");
            let [silent, telling] = [&filters.silent, &filters.telling]
                .map(|program| outcome_here(program, call, args));
            let alike = match silent {
                SILENTLY => telling == libc::SECCOMP_RET_USER_NOTIF,
                same => telling == same,
            };
            assert!(alike, "{call}: {silent:#x} and {telling:#x}");
            silent
        };
        let made = libc::SECCOMP_RET_ALLOW;
        for call in FREE
            .iter()
            .chain(LEGACY)
            .filter(|call| **call != libc::SYS_clone3)
        {
            assert_eq!(said(*call, [7; 6]), made, "{call}");
        }
        let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
        assert_eq!(said(libc::SYS_clone3, [0; 6]), enosys);
        let with_flags = |flags: libc::c_int| [flags.cast_unsigned(), 0, 0, 0, 0, 0];
        let thread = libc::CLONE_VM | libc::CLONE_THREAD;
        assert_eq!(said(libc::SYS_clone, with_flags(thread)), made);
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET, libc::CLONE_NEWNS] {
            assert_eq!(said(libc::SYS_clone, with_flags(thread | flag)), SILENTLY);
        }
        let socket = |family: libc::c_int, protocol: libc::c_int| {
            let args = [family, 1, protocol, 0, 0, 0].map(libc::c_int::cast_unsigned);
            said(libc::SYS_socket, args)
        };
        assert_eq!(socket(libc::AF_INET6, libc::IPPROTO_TCP), made);
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_ROUTE), made);
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_AUDIT), SILENTLY);
        assert_eq!(socket(libc::AF_VSOCK, 0), SILENTLY);
        assert_eq!(said(libc::SYS_ioctl, [0, TIOCSTI, 0, 0, 0, 0]), SILENTLY);
        assert_eq!(said(libc::SYS_ioctl, [0, TIOCLINUX, 0, 0, 0, 0]), SILENTLY);
        assert_eq!(said(libc::SYS_ioctl, [0, 0x5401, 0, 0, 0, 0]), made);
        assert_eq!(said(libc::SYS_prlimit64, [0; 6]), made);
        assert_eq!(said(libc::SYS_prlimit64, [1, 0, 0, 0, 0, 0]), SILENTLY);
        // The numbers of x32, which the same machine has.
        assert_eq!(said(0x4000_0000 + libc::SYS_read, [0; 6]), SILENTLY);
        for closed in [
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_process_madvise,
            libc::SYS_pidfd_getfd,
            libc::SYS_kcmp,
            libc::SYS_add_key,
            libc::SYS_keyctl,
            libc::SYS_request_key,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_userfaultfd,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_mount_setattr,
            libc::SYS_open_by_handle_at,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_syslog,
            libc::SYS_quotactl,
            libc::SYS_acct,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_personality,
            libc::SYS_fanotify_init,
        ] {
            assert_eq!(said(closed, [0; 6]), SILENTLY, "{closed} is closed");
            assert!(!with.contains_key(&closed), "{closed} is closed");
        }
        assert!(with.contains_key(&libc::SYS_shmget));
        assert!(!without.contains_key(&libc::SYS_shmget));
    }
}
