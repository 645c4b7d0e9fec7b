//! The messages between `serve` and the keeper: one packet of a unix SEQPACKET socket each.
//!
//! A packet is a header of fixed length, a JSON body, and a tail of secret bytes that no parser copies.
//! Fields that the reader does not know are skipped, so that an older keeper serves a newer `serve` as long
//! as [`VERSION`] is the same. A body that exceeds a packet travels in a sealed memfd.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        file_argument::FileArgument,
        limits::{Limits, Resources},
        reconcile::ForeignProcess,
        sandbox::Sandbox,
    },
    runtime::{ExitReport, HostReport, Verb, WorkloadId},
};

/// First bytes of every packet.
pub const MAGIC: [u8; 4] = *b"mMCK";
/// Grows when a message changes its meaning; both sides must speak the same.
pub const VERSION: u16 = 2;
/// Length of the header in bytes.
pub const HEADER_LEN: usize = 24;
/// Longest packet in bytes; longer bodies go by memfd.
pub const PACKET_MAX: usize = 64 * 1_024;
/// Longest body, secrets included, in bytes. The kernel takes about 2 MiB of arguments and environment.
pub const BODY_MAX: usize = 4 << 20;
/// Most sockets of one [`Request::SocketsInside`].
pub const SOCKETS_INSIDE_MAX: u8 = 16;
/// Longest name of a held descriptor in bytes.
pub const NAME_MAX: usize = 200;

const FLAG_MEMFD: u8 = 1;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `serve` asks; answered once, by a [`Reply`] with the same request id.
    Request = 1,
    /// The keeper answers.
    Reply = 2,
    /// The keeper tells by itself; the request id is 0.
    Event = 3,
}

/// The checked header of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Whether the body is in the memfd that came as the first descriptor.
    pub in_memfd: bool,
    /// Ties a reply to its request.
    pub request: u64,
    /// Bytes of JSON.
    pub json_len: usize,
    /// Bytes of secrets behind it.
    pub secret_len: usize,
}

/// Why a packet was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than a header, or not ours.
    #[error("this is not a message of minimcp")]
    NotOurs,
    /// Another version of the protocol.
    #[error("the other side speaks protocol version {theirs}, this one speaks {VERSION}")]
    Version {
        /// What the packet says.
        theirs: u16,
    },
    /// A kind or flag that this version does not have.
    #[error("unknown kind or flag")]
    Unknown,
    /// The lengths do not add up.
    #[error("the message says {said} bytes and has {has}")]
    Length {
        /// By its header.
        said: usize,
        /// Really.
        has: usize,
    },
    /// Too long.
    #[error("the message is longer than {0} bytes")]
    TooLong(usize),
    /// Descriptors that came along had no room.
    #[error(
        "the descriptors that came along are lost, because no descriptor is free here (RLIMIT_NOFILE)"
    )]
    DescriptorsLost,
    /// The memfd is missing, unsealed or of another size.
    #[error("the body's memfd is missing or not sealed")]
    Memfd,
    /// The body is not what the kind promises.
    #[error("unreadable body: {0}")]
    Body(String),
}

impl Header {
    /// Body length in bytes, secrets included.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.json_len + self.secret_len
    }

    /// The bytes of this header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = self.kind as u8;
        bytes[7] = if self.in_memfd { FLAG_MEMFD } else { 0 };
        bytes[8..16].copy_from_slice(&self.request.to_le_bytes());
        // Both are below BODY_MAX.
        bytes[16..20].copy_from_slice(&(self.json_len as u32).to_le_bytes());
        bytes[20..24].copy_from_slice(&(self.secret_len as u32).to_le_bytes());
        bytes
    }

    /// Checks everything that the header of `packet` says.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let header: &[u8; HEADER_LEN] = packet.first_chunk().ok_or(Malformed::NotOurs)?;
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if header[..4] != MAGIC {
            return Err(Malformed::NotOurs);
        }
        let theirs = u16::from_le_bytes([header[4], header[5]]);
        if theirs != VERSION {
            return Err(Malformed::Version { theirs });
        }
        let kind = match header[6] {
            1 => Kind::Request,
            2 => Kind::Reply,
            3 => Kind::Event,
            _ => return Err(Malformed::Unknown),
        };
        if header[7] & !FLAG_MEMFD != 0 {
            return Err(Malformed::Unknown);
        }
        let header = Self {
            kind,
            in_memfd: header[7] & FLAG_MEMFD != 0,
            request: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            json_len: u32_at(16) as usize,
            secret_len: u32_at(20) as usize,
        };
        let said = header.json_len.saturating_add(header.secret_len);
        if said > BODY_MAX {
            return Err(Malformed::TooLong(BODY_MAX));
        }
        let has = packet.len() - HEADER_LEN;
        if header.in_memfd != (has == 0 && said > 0) || (!header.in_memfd && has != said) {
            return Err(Malformed::Length { said, has });
        }
        Ok(header)
    }
}

/// What `serve` asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Request {
    /// The first message of a connection.
    Hello {
        /// Whether this `serve` tells members from main children. For one that does not, members are ended: it could
        /// neither name nor know them.
        #[serde(default)]
        members: bool,
        /// Whether it takes the page of refused system calls of each child, as the last descriptor.
        #[serde(default)]
        denials: bool,
        /// Whether it knows that children may hold still. For one that does not, all go on: it would wait for them in
        /// vain.
        #[serde(default)]
        freezes: bool,
    },
    /// Start a child; descriptors: those to pass on.
    Launch(Box<Launch>),
    /// Do something to a child.
    Perform {
        /// Which.
        id: WorkloadId,
        /// What.
        verb: Verb,
    },
    /// The first workload behind `after`, in the order of ids.
    NextWorkload {
        /// `None`: from the beginning.
        after: Option<WorkloadId>,
    },
    /// Hold the one descriptor that comes along.
    Hold {
        /// Under this name.
        name: String,
    },
    /// The first held descriptor behind `after`, in the order of names.
    NextHeld {
        /// `None`: from the beginning.
        after: Option<String>,
    },
    /// Make unconnected TCP sockets in a child's network namespace; they come along with `Done`.
    SocketsInside {
        /// Whose.
        id: WorkloadId,
        /// 1 to [`SOCKETS_INSIDE_MAX`].
        count: u8,
    },
    /// Close a held descriptor.
    DropHeld {
        /// Its name.
        name: String,
    },
    /// Kill a process in the cgroup of a child that the keeper did not start.
    EndForeign {
        /// The name of the cgroup.
        cgroup: String,
        /// Which.
        process: ForeignProcess,
    },
    /// Remove the cgroup of a child that is not held.
    RemoveCgroup {
        /// Its name.
        cgroup: String,
    },
    /// Go on with the program that lies where the keeper's own did, keeping pid, children and descriptors.
    Upgrade,
}

/// The limits that setrlimit(2) holds. An older keeper refuses any further field in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimits {
    /// As in [`Limits`].
    pub max_processes: u64,
    /// As in [`Limits`].
    pub max_open_files: u64,
    /// As in [`Limits`].
    pub max_file_size_bytes: u64,
    /// As in [`Limits`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_address_space_bytes: Option<u64>,
}

impl From<Limits> for Rlimits {
    fn from(limits: Limits) -> Self {
        Self {
            max_processes: limits.max_processes,
            max_open_files: limits.max_open_files,
            max_file_size_bytes: limits.max_file_size_bytes,
            max_address_space_bytes: limits.max_address_space_bytes,
        }
    }
}

/// A launch without its secrets: the values of `env`, then those of `files`, follow each other in the packet's tail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The key.
    pub id: WorkloadId,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Name, and length of the value in bytes.
    pub env: Vec<(String, usize)>,
    /// Credentials as files: the variable that is to hold the path, and length of the content in bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<(String, usize)>,
    /// Where in the arguments the paths of some of these go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_arguments: Vec<FileArgument>,
    /// Working folder.
    pub cwd: PathBuf,
    /// Limits of each of its processes.
    pub limits: Rlimits,
    /// Limits of all of them together.
    #[serde(default)]
    pub resources: Resources,
    /// What it may reach.
    #[serde(default)]
    pub sandbox: Sandbox,
}

/// What the keeper answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Reply {
    /// To `Hello`.
    Welcome {
        /// The keeper's pid.
        pid: u32,
        /// What it enforces here.
        host: HostReport,
    },
    /// To `Launch`; descriptors: our ends of stdin, stdout, stderr; `caught` sockets; its init's pidfd if `pidfd`.
    Launched {
        /// The server's pid on the host.
        pid: u32,
        /// What holds for it.
        isolation: BTreeMap<String, String>,
        /// How many sockets come along on which its connections are caught: that of its DNS, then listeners. `None`:
        /// it has no network namespace of its own.
        #[serde(default)]
        caught: Option<usize>,
        /// Whether a pidfd comes along; from an older keeper none does.
        #[serde(default)]
        pidfd: bool,
        /// Whether a page of refused system calls comes along, behind all others.
        #[serde(default)]
        denials: bool,
    },
    /// To `Launch`: there is no child.
    NotStarted {
        /// One sentence.
        reason: String,
    },
    /// To `NextWorkload`; descriptors: stdin if `stdin`, stdout, stderr; `caught` sockets; its init's pidfd if `pidfd`.
    Workload {
        /// The key.
        id: WorkloadId,
        /// The server's pid on the host.
        pid: u32,
        /// What holds for it.
        isolation: BTreeMap<String, String>,
        /// Whether its stdin is still open here.
        stdin: bool,
        /// As in `Launched`.
        #[serde(default)]
        caught: Option<usize>,
        /// How it ended, if it did.
        exit: Option<ExitReport>,
        /// Whether a pidfd comes along: not when it has ended, nor from an older keeper.
        #[serde(default)]
        pidfd: bool,
        /// As in `Launched`.
        #[serde(default)]
        denials: bool,
        /// Whether its processes hold still.
        #[serde(default)]
        frozen: bool,
    },
    /// To `NextHeld`; the descriptor comes along.
    Held {
        /// Its name.
        name: String,
    },
    /// To `Upgrade`, by the new program.
    Upgraded {
        /// The version of the former one.
        from: String,
        /// Its own.
        to: String,
        /// What it enforces here.
        host: HostReport,
    },
    /// Done.
    Done,
    /// There is no next one.
    End,
    /// Not done.
    Refused {
        /// One sentence.
        reason: String,
    },
}

/// What the keeper tells by itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// A child ended and its tree is gone.
    Exited {
        /// Which.
        id: WorkloadId,
        /// How.
        report: ExitReport,
    },
    /// Pages were taken back from children that hold still. A `serve` that never asked for it passes over it.
    Reclaimed {
        /// So many since it was told last.
        bytes: u64,
    },
}

/// Writes a packet without secrets, ready to send. Only our own small answers take this way.
#[must_use]
pub fn encode<T: Serialize>(kind: Kind, request: u64, body: &T) -> Vec<u8> {
    let json = serde_json::to_vec(body)
        .unwrap_or_else(|_| b"{\"type\":\"refused\",\"reason\":\"unwritable\"}".to_vec());
    let header = Header {
        kind,
        in_memfd: false,
        request,
        json_len: json.len(),
        secret_len: 0,
    };
    let mut packet = header.encode().to_vec();
    packet.extend_from_slice(&json);
    packet
}

/// Reads the JSON part of a body.
///
/// # Errors
/// [`Malformed::Body`], in words that never hold more than the position of the fault.
pub fn decode_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Malformed> {
    serde_json::from_slice(json).map_err(|fault| {
        Malformed::Body(format!(
            "{:?} at column {}",
            fault.classify(),
            fault.column()
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Vec<u8> {
        encode(Kind::Reply, 7, &Reply::Done)
    }

    #[test]
    fn what_is_written_reads_back() {
        let packet = packet();
        let header = Header::decode(&packet).expect("our own packet");
        assert_eq!((header.kind, header.request), (Kind::Reply, 7));
        let body: Reply = decode_json(&packet[HEADER_LEN..]).expect("our own body");
        assert!(matches!(body, Reply::Done));
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let json = br#"{"type":"hold","name":"a","colour":"blue"}"#;
        assert!(matches!(decode_json(json), Ok(Request::Hold { name }) if name == "a"));
    }

    #[test]
    fn a_hello_from_before_there_were_members_is_understood_and_the_other_way_round() {
        assert!(matches!(
            decode_json(br#"{"type":"hello"}"#),
            Ok(Request::Hello {
                members: false,
                denials: false,
                freezes: false
            })
        ));
        #[derive(Deserialize)]
        #[serde(tag = "type", rename_all = "kebab-case")]
        enum Old {
            Hello,
        }
        let json = serde_json::to_vec(&Request::Hello {
            members: true,
            denials: true,
            freezes: true,
        })
        .expect("writable");
        assert!(matches!(decode_json(&json), Ok(Old::Hello)));
    }

    #[test]
    fn each_fault_has_its_name() {
        let with = |at: usize, byte: u8| {
            let mut packet = packet();
            packet[at] = byte;
            Header::decode(&packet)
        };
        assert_eq!(with(0, b'x'), Err(Malformed::NotOurs));
        assert_eq!(with(4, 9), Err(Malformed::Version { theirs: 9 }));
        assert_eq!(with(6, 9), Err(Malformed::Unknown));
        assert_eq!(with(7, 2), Err(Malformed::Unknown));
        assert!(matches!(with(16, 0), Err(Malformed::Length { .. })));
        assert!(matches!(with(23, 0xff), Err(Malformed::TooLong(_))));
        assert_eq!(Header::decode(&packet()[..10]), Err(Malformed::NotOurs));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Header::decode(&bytes);
            let mut ours = packet();
            for (at, byte) in bytes.iter().enumerate() {
                let at = at % ours.len();
                ours[at] ^= byte;
            }
            let _ = Header::decode(&ours);
        }
    }
}
