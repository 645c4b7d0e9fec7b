//! Packets with descriptors over a unix SEQPACKET socket, and where that socket lies.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::Path,
};

use nix::{
    fcntl::OFlag,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        UnixAddr, bind, connect, listen, recvmsg, sendmsg, setsockopt, socket, sockopt,
    },
};

/// Room for the packets that a side has not read yet, in bytes.
const BUFFER_BYTES: usize = 256 * 1_024;
/// The kernel passes at most this many descriptors with a packet (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;
/// The longest path that fits `sockaddr_un`.
const PATH_MAX: usize = 107;

/// What came in.
#[derive(Debug)]
pub(super) struct Received {
    /// Bytes written to the buffer.
    pub(super) len: usize,
    /// Whether the packet was longer than the buffer.
    pub(super) truncated: bool,
    /// The descriptors, close-on-exec.
    pub(super) descriptors: Vec<OwnedFd>,
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
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            descriptors.extend(raw.into_iter().map(|fd| {
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
                unsafe { OwnedFd::from_raw_fd(fd) }
            }));
        }
    }
    Ok(Received {
        len: message.bytes,
        truncated: message.flags.contains(MsgFlags::MSG_TRUNC),
        descriptors,
    })
}

/// Borrows every descriptor of a list.
pub(super) fn borrow_all(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}
