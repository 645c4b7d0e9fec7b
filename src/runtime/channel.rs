//! Packets with descriptors over a unix SEQPACKET socket, and where that socket lies.

use std::{
    io::{self, IoSlice},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind,
        connect, listen, sendmsg, setsockopt, socket, sockopt,
    },
};

/// Room for the packets that a side has not read yet, in bytes.
const BUFFER_BYTES: usize = 256 * 1_024;
/// The kernel passes at most this many descriptors with a packet (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;
/// A header and that many descriptors, and what is lost to alignment.
const CONTROL_BYTES: usize = 64 + DESCRIPTORS_MAX * size_of::<RawFd>();
/// The longest path that fits `sockaddr_un`.
const PATH_MAX: usize = 107;

/// Where the kernel writes what comes along, aligned for its headers.
#[repr(align(16))]
struct Control([u8; CONTROL_BYTES]);

/// What came in.
#[derive(Debug)]
pub(super) struct Received {
    /// Bytes written to the buffer.
    pub(super) len: usize,
    /// Whether the packet was longer than the buffer.
    pub(super) truncated: bool,
    /// The descriptors, close-on-exec.
    pub(super) descriptors: Vec<OwnedFd>,
    /// Descriptors came along and are lost, because this process had no room for them. None of the packet is given.
    pub(super) descriptors_lost: bool,
}

/// A SEQPACKET socket, non-blocking and close-on-exec.
fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    raise_buffer(&socket)?;
    Ok(socket)
}

/// Raises the send buffer, so that a whole large packet fits.
pub(super) fn raise_buffer(socket: &OwnedFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::SndBuf, &BUFFER_BYTES)?)
}

/// Calls `with` with the address of `path`, also when it is longer than a socket address may be.
fn with_address<T>(path: &Path, with: impl FnOnce(&UnixAddr) -> nix::Result<T>) -> io::Result<T> {
    if path.as_os_str().as_bytes().len() <= PATH_MAX {
        return Ok(with(&UnixAddr::new(path)?)?);
    }
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "a socket path needs a name");
    let folder = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
        .open(path.parent().ok_or_else(invalid)?)?;
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(path.file_name().ok_or_else(invalid)?);
    Ok(with(&UnixAddr::new(&short)?)?)
}

/// Connects to the keeper. The socket is non-blocking.
pub(super) fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    with_address(path, |address| connect(socket.as_raw_fd(), address))?;
    Ok(socket)
}

/// Binds and listens; the caller has made sure that nothing is there.
pub(super) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    // No moment at which others could connect: the mode comes with the file.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = with_address(path, |address| bind(socket.as_raw_fd(), address));
    nix::sys::stat::umask(before);
    bound?;
    listen(&socket, Backlog::new(8)?)?;
    Ok(socket)
}

/// Sends one packet, whole or not at all.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    parts: &[&[u8]],
    descriptors: &[BorrowedFd<'_>],
) -> nix::Result<()> {
    let parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None).map(drop)
}

/// Receives one packet; `len` is 0 at the end of the connection.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<Received> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: a `msghdr` of zeros is a valid one, without name, parts and control.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: `message` names `buffer` and `control` with their lengths; both live until the end of this function.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let len = Errno::result(len)?.cast_unsigned();
    let mut descriptors = taken(&message);
    // nix refuses to read a cut list, and what came of it would stay open for ever.
    let descriptors_lost = message.msg_flags & libc::MSG_CTRUNC != 0;
    if descriptors_lost {
        descriptors.clear();
    }
    Ok(Received {
        len,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        descriptors,
        descriptors_lost,
    })
}

/// Takes the descriptors out of a message that the kernel has just filled in.
fn taken(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: `message` names a control buffer that is aligned for its headers, and of which the kernel has said how
    // much it filled.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !at.is_null() {
        // SAFETY: not null, so a whole header lies there, aligned.
        let header = unsafe { *at };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: it computes a length.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = header.cmsg_len.saturating_sub(before) / size_of::<RawFd>();
            // SAFETY: the data of a header begins behind it, in the same buffer.
            let raw: *const RawFd = unsafe { libc::CMSG_DATA(at) }.cast();
            for index in 0..count {
                // SAFETY: the header says that so many descriptors follow it. The kernel has just made them for us,
                // and nobody else knows of them.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(raw.add(index).read_unaligned()) });
            }
        }
        // SAFETY: as for the first one; null behind the last.
        at = unsafe { libc::CMSG_NXTHDR(message, at) };
    }
    descriptors
}

/// Borrows every descriptor of a list.
pub(super) fn borrow_all(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use nix::{
        sys::{
            resource::{Resource, getrlimit, setrlimit},
            socket::socketpair,
            wait::{WaitStatus, waitpid},
        },
        unistd::{ForkResult, fork},
    };

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a pair")
    }

    #[test]
    fn descriptors_come_along_in_their_order() {
        let (ours, theirs) = pair();
        let mut files: Vec<_> = (0..3)
            .map(|_| tempfile::tempfile().expect("a file"))
            .collect();
        for (index, file) in files.iter_mut().enumerate() {
            file.write_all(&vec![b'x'; index]).expect("it is ours");
        }
        let passed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send(ours.as_fd(), &[b"three"], &passed).expect("there is room");
        send(ours.as_fd(), &[b"none"], &[]).expect("there is room");
        let mut buffer = [0; 16];
        let received = receive(theirs.as_fd(), &mut buffer).expect("it is there");
        assert_eq!((received.len, received.truncated), (5, false));
        assert!(!received.descriptors_lost);
        let lengths: Vec<_> = received
            .descriptors
            .iter()
            .map(|file| nix::sys::stat::fstat(file).expect("it is open").st_size)
            .collect();
        assert_eq!(lengths, [0, 1, 2]);
        let received = receive(theirs.as_fd(), &mut buffer[..2]).expect("it is there");
        assert_eq!((received.len, received.truncated), (2, true));
        assert!(received.descriptors.is_empty() && !received.descriptors_lost);
        drop(ours);
        assert_eq!(
            receive(theirs.as_fd(), &mut buffer).expect("its end").len,
            0
        );
    }

    /// What a process without room sees: the packet, and that descriptors are missing. Those that had room are closed.
    #[test]
    fn without_room_the_packet_comes_and_none_of_its_descriptors() {
        let (ours, theirs) = pair();
        let passed = [ours.as_fd(); 3];
        send(ours.as_fd(), &[b"hello"], &passed).expect("there is room");
        // SAFETY: the child calls nothing that allocates or locks, and ends without running anything else.
        match unsafe { fork() }.expect("a fork") {
            ForkResult::Child => {
                let next = nix::unistd::dup(&theirs).map(|fd| fd.as_raw_fd());
                let code = next.map_or(9, |free| seen_with_limit(&theirs, free));
                // SAFETY: as above.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => {
                let ended = waitpid(child, None).expect("it is our child");
                assert_eq!(ended, WaitStatus::Exited(child, 0));
            }
        }
    }

    /// 0 when all is as it should be. `free`: the lowest free number, so that one of three has room.
    fn seen_with_limit(socket: &OwnedFd, free: RawFd) -> i32 {
        let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return 1;
        };
        let limit = libc::rlim_t::from(free.unsigned_abs()) + 1;
        if setrlimit(Resource::RLIMIT_NOFILE, limit, hard).is_err() {
            return 2;
        }
        let mut buffer = [0; 16];
        match receive(socket.as_fd(), &mut buffer) {
            Ok(Received {
                len: 5,
                truncated: false,
                descriptors,
                descriptors_lost: true,
            }) if descriptors.is_empty() => {}
            _ => return 3,
        }
        // What had room is not left open.
        match nix::unistd::dup(socket) {
            Ok(copy) if copy.as_raw_fd() == free => 0,
            _ => 4,
        }
    }
}
