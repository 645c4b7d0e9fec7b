//! Memory for the secrets of one launch: pages of their own, so that an init can drop them unwritten.

use std::{io, num::NonZeroUsize, os::fd::BorrowedFd, ptr::NonNull};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// Anonymous pages, wiped when dropped.
pub(super) struct SecretBuffer {
    start: NonNull<u8>,
    len: NonZeroUsize,
    /// Bytes from the start that may hold something.
    used: usize,
}

impl SecretBuffer {
    /// Room for `len` bytes; pages cost nothing until they are written.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let len = NonZeroUsize::new(len).unwrap_or(NonZeroUsize::MIN);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe { mmap_anonymous(None, len, protection, flags)? };
        Ok(Self {
            start: start.cast(),
            len,
            used: 0,
        })
    }

    /// Reads exactly `len` bytes from the beginning of a file.
    pub(super) fn read_from(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let mut buffer = Self::new(len)?;
        let mut at = 0;
        while at < len {
            let room = &mut buffer.room()[at..len];
            match nix::sys::uio::pread(file, room, at as libc::off_t)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => at += read,
            }
        }
        buffer.used = len;
        Ok(buffer)
    }

    /// All of it, to be written to; [`Self::set_used`] afterwards.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.used = self.len.get();
        // SAFETY: `start` is a mapping of `len` bytes that only this value owns; its pages begin as zeros.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len.get()) }
    }

    /// How many bytes from the start hold something.
    pub(super) fn set_used(&mut self, used: usize) {
        self.used = used.min(self.len.get());
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: as in `room`, and `used` is at most `len`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.used) }
    }

    /// Unmaps the pages without writing to them: in a forked process that only unshares what the parent
    /// wipes, while wiping would first copy every page.
    pub(super) fn discard(self) {
        let (start, len) = (self.start, self.len);
        std::mem::forget(self);
        // SAFETY: the mapping was made by `new` with this length, and its only owner was just forgotten.
        let _ = unsafe { munmap(start.cast(), len.get()) };
    }
}

impl Drop for SecretBuffer {
    fn drop(&mut self) {
        let used = self.used;
        self.room()[..used].zeroize();
        // SAFETY: the mapping was made by `new` with this length, and nothing borrows from it any more.
        let _ = unsafe { munmap(self.start.cast(), self.len.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_written() {
        let mut buffer = SecretBuffer::new(10_000).expect("memory");
        buffer.room()[..5].copy_from_slice(b"hello");
        buffer.set_used(5);
        assert_eq!(buffer.bytes(), b"hello");
    }
}
