//! The connection of one `serve`: packets in, a bounded queue of packets out.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{getsockopt, sockopt},
        stat::fstat,
    },
    unistd::geteuid,
};

use super::{
    protocol::{HEADER_LEN, Header, Kind, Malformed, PACKET_MAX, Reply, encode},
    secret_buffer::SecretBuffer,
};
use crate::runtime::channel;

/// While so many answers wait to be read, no further request is taken.
const ANSWERS_WAITING_MAX: usize = 32;

/// A connected `serve`.
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    /// Whether its first message was a hello.
    pub(super) greeted: bool,
    out: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// A request with its body still in bytes.
pub(super) struct Packet {
    pub(super) header: Header,
    /// The body; where it begins is `body_at`.
    pub(super) buffer: SecretBuffer,
    pub(super) body_at: usize,
    /// What came along, without the body's memfd.
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Packet {
    /// The JSON of the body.
    pub(super) fn json(&self) -> &[u8] {
        let end = self.body_at + self.header.json_len;
        self.buffer
            .bytes()
            .get(self.body_at..end)
            .unwrap_or_default()
    }
}

/// What a readable socket gave.
pub(super) enum Incoming {
    /// Nothing yet.
    Nothing,
    /// The other side is gone.
    Closed,
    /// A request.
    Packet(Packet),
    /// Something else, and the request id if it could be read.
    Malformed(u64, Malformed),
}

impl Peer {
    /// Takes over a connection that [`Self::check`] let pass.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            greeted: false,
            out: VecDeque::new(),
        }
    }

    /// Whether a connection comes from our own user or root.
    pub(super) fn check(socket: &OwnedFd) -> Result<(), String> {
        let peer = getsockopt(socket, sockopt::PeerCredentials)
            .map_err(|errno| format!("cannot tell who connects: {}", errno.desc()))?;
        if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
            return Err(format!("user {} may not use this keeper", peer.uid()));
        }
        channel::raise_buffer(socket).map_err(|cause| cause.to_string())
    }

    /// Whether the other side still has its end open.
    pub(super) fn is_alive(&self) -> bool {
        let mut states = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let polled = poll(&mut states, PollTimeout::ZERO);
        polled.is_ok() && states[0].revents().is_some_and(|state| state.is_empty())
    }

    /// Whether a request may be taken now.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < ANSWERS_WAITING_MAX
    }

    /// Whether something waits to be sent.
    pub(super) fn has_backlog(&self) -> bool {
        !self.out.is_empty()
    }

    /// Queues an answer.
    pub(super) fn answer(&mut self, request: u64, reply: &Reply, descriptors: Vec<OwnedFd>) {
        let packet = encode(Kind::Reply, request, reply);
        self.out.push_back((packet, descriptors));
    }

    /// Sends what waits; `Err` when the connection is broken.
    pub(super) fn flush(&mut self) -> Result<(), Errno> {
        while let Some((packet, descriptors)) = self.out.front() {
            let descriptors = channel::borrow_all(descriptors);
            match channel::send(self.socket.as_fd(), &[packet], &descriptors) {
                Ok(()) => drop(self.out.pop_front()),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Sends one packet at once; `false` when it must wait. Only when there is no backlog.
    pub(super) fn try_send(&self, packet: &[u8]) -> Result<bool, Errno> {
        match channel::send(self.socket.as_fd(), &[packet], &[]) {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Reads one packet.
    pub(super) fn read(&self) -> Incoming {
        let Ok(mut buffer) = SecretBuffer::new(PACKET_MAX) else {
            return Incoming::Closed;
        };
        let received = match channel::receive(self.socket.as_fd(), buffer.room()) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => {
                buffer.set_used(0);
                return Incoming::Nothing;
            }
            Err(_) => return Incoming::Closed,
        };
        buffer.set_used(received.len);
        if received.len == 0 && received.descriptors.is_empty() && !received.descriptors_lost {
            return Incoming::Closed;
        }
        let bytes = buffer.bytes();
        let request = request_id(bytes);
        if received.truncated {
            return Incoming::Malformed(request, Malformed::TooLong(PACKET_MAX));
        }
        let header = match Header::decode(bytes) {
            Ok(header) if header.kind == Kind::Request => header,
            Ok(_) => return Incoming::Malformed(request, Malformed::Unknown),
            Err(fault) => return Incoming::Malformed(request, fault),
        };
        if received.descriptors_lost {
            return Incoming::Malformed(request, Malformed::DescriptorsLost);
        }
        let mut descriptors = received.descriptors;
        if !header.in_memfd {
            return Incoming::Packet(Packet {
                header,
                buffer,
                body_at: HEADER_LEN,
                descriptors,
            });
        }
        if descriptors.is_empty() {
            return Incoming::Malformed(request, Malformed::Memfd);
        }
        match read_sealed(&descriptors.remove(0), header.body_len()) {
            Ok(buffer) => Incoming::Packet(Packet {
                header,
                buffer,
                body_at: 0,
                descriptors,
            }),
            Err(fault) => Incoming::Malformed(request, fault),
        }
    }
}

/// The request id of a packet that may otherwise be wrong.
fn request_id(packet: &[u8]) -> u64 {
    let bytes = packet.get(8..16).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn read_sealed(file: &OwnedFd, len: usize) -> Result<SecretBuffer, Malformed> {
    let needed = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| Malformed::Memfd)?;
    let size = fstat(file).map_err(|_| Malformed::Memfd)?.st_size;
    if !SealFlag::from_bits_truncate(seals).contains(needed) || usize::try_from(size) != Ok(len) {
        return Err(Malformed::Memfd);
    }
    SecretBuffer::read_from(file.as_fd(), len).map_err(|_| Malformed::Memfd)
}
