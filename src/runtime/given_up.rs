//! What `serve` gives up once it runs beside a keeper of another unit: it starts no program then, so whoever should take
//! it over through its sockets cannot either, nor reach into other processes or into the kernel's rarer doors.

use std::{collections::BTreeMap, io};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter_all_threads};

/// Refuses the calls of [`GIVEN_UP`] to this process, with all its threads, until it ends; they fail with `EPERM`. No
/// program could gain privileges by its file any more either (`no_new_privs`).
///
/// # Errors
/// On a machine or a kernel without such filters.
pub fn give_up_unneeded() -> io::Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let rules: BTreeMap<libc::c_long, Vec<_>> =
        GIVEN_UP.iter().map(|call| (*call, Vec::new())).collect();
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch);
    let program = filter
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)?;
    apply_filter_all_threads(&program).map_err(io::Error::other)
}

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Programs, other processes, namespaces and mounts, keyrings, modules, and interfaces that no part of `serve` uses.
const GIVEN_UP: &[libc::c_long] = calls! {
    SYS_execve SYS_execveat SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_pidfd_getfd
    SYS_kcmp SYS_unshare SYS_setns SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_open_tree SYS_move_mount SYS_fsopen
    SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr SYS_open_by_handle_at SYS_add_key SYS_request_key SYS_keyctl
    SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
    SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_swapon SYS_swapoff SYS_acct
    SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex SYS_sethostname SYS_setdomainname SYS_quotactl
    SYS_syslog SYS_personality SYS_fanotify_init SYS_migrate_pages SYS_move_pages SYS_vhangup
};
