//! System calls that are refused, counted by the init that answers them.
//!
//! What the filter does not list is not refused by the kernel at once but handed to the init (seccomp_unotify(2)), which
//! counts it and answers with the same `EPERM`; it never lets a call go on. It cannot be reached by what it watches, and
//! where it is gone the kernel refuses by itself. The counts lie in one page that the keeper and `serve` read.

use std::{
    ffi::c_void,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap, munmap},
    },
    unistd::ftruncate,
};

use crate::runtime::denials::{
    KIND_WORDS, KINDS_AT, KINDS_MAX, KINDS_WORD, OTHERS_WORD, PAGE_BYTES,
};

/// The page of one child, before its init is forked: a memfd, and where it is mapped.
pub(super) struct Sheet {
    file: OwnedFd,
    page: Page,
}

/// A mapping that forks share.
#[derive(Clone, Copy)]
pub(super) struct Page(NonNull<c_void>);

impl Sheet {
    /// An empty page.
    pub(super) fn new() -> Result<Self, Errno> {
        let file = memfd_create(c"minimcp-denials", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&file, PAGE_BYTES as i64)?;
        let len = std::num::NonZeroUsize::new(PAGE_BYTES).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping of a file that is as long, at an address of the kernel's choice.
        let page = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Self {
            file,
            page: Page(page),
        })
    }

    /// What the init writes to.
    pub(super) fn page(&self) -> Page {
        self.page
    }

    /// Unmaps it here; the descriptor is for those who read.
    pub(super) fn into_file(self) -> OwnedFd {
        // SAFETY: mapped by `new` with this length, and nothing here refers to it any more.
        let _ = unsafe { munmap(self.page.0, PAGE_BYTES) };
        self.file
    }
}

impl Page {
    fn word(self, index: usize) -> &'static AtomicU64 {
        debug_assert!(index < PAGE_BYTES / 8);
        // SAFETY: the mapping is PAGE_BYTES long, aligned to a page, and an init never unmaps it. Others only read the
        // same words, through a descriptor.
        unsafe { &*self.0.as_ptr().cast::<AtomicU64>().add(index) }
    }

    /// Counts one refusal. Neither allocates nor fails; beyond [`KINDS_MAX`] kinds they are counted together.
    fn count(self, call: u64, now_ms: u64) {
        let known = self.word(KINDS_WORD).load(Ordering::Relaxed);
        let known = usize::try_from(known).unwrap_or(KINDS_MAX).min(KINDS_MAX);
        let entry = |index: usize| KINDS_AT + index * KIND_WORDS;
        let found =
            (0..known).find(|index| self.word(entry(*index)).load(Ordering::Relaxed) == call);
        let index = match found {
            Some(index) => index,
            None if known == KINDS_MAX => {
                self.word(OTHERS_WORD).fetch_add(1, Ordering::Relaxed);
                return;
            }
            None => known,
        };
        self.word(entry(index)).store(call, Ordering::Relaxed);
        self.word(entry(index) + 1).fetch_add(1, Ordering::Relaxed);
        self.word(entry(index) + 2).store(now_ms, Ordering::Relaxed);
        if found.is_none() {
            self.word(KINDS_WORD)
                .store(known as u64 + 1, Ordering::Release);
        }
    }
}

/// Answers one call that waits at `listener`.
pub(super) fn refuse(listener: RawFd, page: Page) {
    // SAFETY: both are plain integers; the kernel wants the first one zeroed, writes to it and reads the second.
    unsafe {
        let mut call: libc::seccomp_notif = std::mem::zeroed();
        if libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut call) != 0 {
            // Whoever called was killed meanwhile.
            return;
        }
        // Before it is answered: who was refused finds it counted.
        page.count(u64::from(call.data.nr.cast_unsigned()), now_ms());
        let mut answer: libc::seccomp_notif_resp = std::mem::zeroed();
        answer.id = call.id;
        answer.error = -libc::EPERM;
        libc::ioctl(
            listener,
            libc::SECCOMP_IOCTL_NOTIF_SEND as _,
            &raw mut answer,
        );
    }
}

fn now_ms() -> u64 {
    // SAFETY: plain integers, which the call only writes to.
    let now = unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        now
    };
    (now.tv_sec * 1_000 + now.tv_nsec / 1_000_000).cast_unsigned()
}

/// Hands the listener of the filter, which the server's process has just installed, to its init.
pub(super) fn hand_over(to: RawFd, listener: &OwnedFd) -> Result<(), Errno> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let raw = [listener.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&raw)];
    let parts = [std::io::IoSlice::new(&[0])];
    sendmsg::<()>(to, &parts, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// What [`hand_over`] sent; `None`: the other side ended without.
pub(super) fn take_over(from: &OwnedFd) -> Option<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0];
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
    let mut parts = message.cmsgs().ok()?;
    let raw = parts.find_map(|part| match part {
        ControlMessageOwned::ScmRights(raw) => raw.first().copied(),
        _ => None,
    })?;
    // SAFETY: the kernel has just made it for us, and nobody else knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::denials::DenialSheet;

    #[test]
    fn what_is_counted_is_read_by_kind() {
        let sheet = Sheet::new().expect("memory");
        let page = sheet.page();
        page.count(libc::SYS_ptrace as u64, 5);
        page.count(libc::SYS_mount as u64, 6);
        page.count(libc::SYS_ptrace as u64, 7);
        for call in 0..200 {
            page.count(10_000 + call, 8);
        }
        let sheet = DenialSheet::from(sheet.into_file());
        let report = sheet.read();
        assert_eq!(sheet.kinds(), report.calls.len());
        let first = &report.calls[0];
        assert_eq!(
            (first.name(), first.count, first.last_at),
            ("ptrace".into(), 2, 7)
        );
        assert_eq!(report.calls[1].name(), "mount");
        assert_eq!(report.calls.len(), KINDS_MAX);
        assert_eq!(report.others, 200 + 2 - KINDS_MAX as u64);
        let sum: u64 = report.calls.iter().map(|call| call.count).sum();
        assert_eq!(sum + report.others, 203);
    }
}
