//! What a child was refused by its filter of system calls, as its init counts it in a page that is read here.

use std::{borrow::Cow, os::fd::OwnedFd};

use nix::sys::uio::pread;

use crate::domain::UnixMs;

/// Most kinds that are told apart.
pub const KINDS_MAX: usize = 64;
/// Length of the page.
pub(super) const PAGE_BYTES: usize = 4_096;
/// The word that holds how many kinds there are.
pub(super) const KINDS_WORD: usize = 0;
/// The word that holds how many refusals there are of further kinds.
pub(super) const OTHERS_WORD: usize = 1;
/// Where the kinds begin.
pub(super) const KINDS_AT: usize = 8;
/// Words of one kind: number of the call, how often, the last time in unix milliseconds.
pub(super) const KIND_WORDS: usize = 3;

const _: () = assert!((KINDS_AT + KINDS_MAX * KIND_WORDS) * 8 <= PAGE_BYTES);

/// One kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeniedCall {
    /// The call's number on this machine.
    pub number: u32,
    /// How often.
    pub count: u64,
    /// The last time.
    pub last_at: UnixMs,
}

/// All refusals of one child.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Denials {
    /// In the order in which they came first.
    pub calls: Vec<DeniedCall>,
    /// Of further kinds.
    pub others: u64,
}

/// Where the refusals of one child are counted.
#[derive(Debug)]
pub struct DenialSheet(OwnedFd);

impl From<OwnedFd> for DenialSheet {
    fn from(file: OwnedFd) -> Self {
        Self(file)
    }
}

impl DenialSheet {
    /// How many kinds are told apart so far: a word of the page, for whoever looks often.
    #[must_use]
    pub fn kinds(&self) -> usize {
        let mut word = [0; 8];
        let at = i64::try_from(KINDS_WORD * 8).unwrap_or(0);
        match pread(&self.0, &mut word, at) {
            Ok(8) => usize::try_from(u64::from_ne_bytes(word))
                .unwrap_or(KINDS_MAX)
                .min(KINDS_MAX),
            _ => 0,
        }
    }

    /// What is counted now. What cannot be read counts nothing.
    #[must_use]
    pub fn read(&self) -> Denials {
        // Most children are refused nothing, and a list asks all of them: a word instead of a page.
        if self.kinds() == 0 {
            return Denials::default();
        }
        let mut bytes = [0; PAGE_BYTES];
        if !matches!(pread(&self.0, &mut bytes, 0), Ok(PAGE_BYTES)) {
            return Denials::default();
        }
        let word = |index: usize| {
            let bytes = bytes.get(index * 8..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
        };
        let kinds = usize::try_from(word(KINDS_WORD)).unwrap_or(KINDS_MAX);
        let call = |index: usize| {
            let at = KINDS_AT + index * KIND_WORDS;
            DeniedCall {
                number: u32::try_from(word(at)).unwrap_or(u32::MAX),
                count: word(at + 1),
                last_at: UnixMs::try_from(word(at + 2)).unwrap_or(UnixMs::MAX),
            }
        };
        Denials {
            calls: (0..kinds.min(KINDS_MAX)).map(call).collect(),
            others: word(OTHERS_WORD),
        }
    }
}

impl DeniedCall {
    /// Its name, or its number where this build knows none.
    #[must_use]
    pub fn name(&self) -> Cow<'static, str> {
        let number = libc::c_long::from(self.number);
        let known = NAMES.iter().chain(LEGACY).find(|(own, _)| *own == number);
        known.map_or_else(
            || Cow::Owned(format!("number {}", self.number)),
            |(_, name)| Cow::Borrowed(name.trim_start_matches("SYS_")),
        )
    }

    /// Whether programs of good will try it at their start and do without.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        let number = libc::c_long::from(self.number);
        PROBES.contains(&number)
    }
}

/// Runtimes look whether these work and do without: libuv for one (`uv__iou_init` in src/unix/linux.c), with it Node and
/// uvloop of Python. Nothing else was refused at a normal start of the servers that are shipped as templates, for Node,
/// Python and Rust (tests/it/third_party).
const PROBES: &[libc::c_long] = &[libc::SYS_io_uring_setup];

macro_rules! names {
    ($($name:ident)*) => { &[$((libc::$name, stringify!($name))),*] };
}

/// What the filter does not list, or lists with some arguments only.
const NAMES: &[(libc::c_long, &str)] = names! {
    SYS_acct SYS_add_key SYS_adjtimex SYS_bpf SYS_chroot SYS_clock_adjtime SYS_clock_settime SYS_clone
    SYS_delete_module SYS_fanotify_init SYS_fanotify_mark SYS_finit_module SYS_fsconfig SYS_fsmount SYS_fsopen
    SYS_fspick SYS_init_module SYS_io_uring_enter SYS_io_uring_register SYS_io_uring_setup SYS_ioctl SYS_ioprio_set
    SYS_kcmp SYS_kexec_load SYS_keyctl SYS_lookup_dcookie SYS_memfd_secret SYS_migrate_pages SYS_mount SYS_mount_setattr
    SYS_move_mount SYS_move_pages SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_name_to_handle_at SYS_nfsservctl
    SYS_open_by_handle_at SYS_open_tree SYS_perf_event_open SYS_personality SYS_pidfd_getfd SYS_pivot_root SYS_prlimit64
    SYS_process_madvise SYS_process_mrelease SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace SYS_quotactl
    SYS_quotactl_fd SYS_reboot SYS_request_key SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam
    SYS_sched_setscheduler SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_setdomainname SYS_sethostname SYS_setns
    SYS_setpriority SYS_settimeofday SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_socket SYS_socketpair SYS_swapoff
    SYS_swapon SYS_syslog SYS_umount2 SYS_unshare SYS_userfaultfd SYS_vhangup
};

/// Those that only this machine has.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[(libc::c_long, &str)] = names! {
    SYS_ioperm SYS_iopl SYS_kexec_file_load SYS_modify_ldt SYS_sysfs SYS_uselib SYS_ustat SYS__sysctl
};
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[(libc::c_long, &str)] = &[];
