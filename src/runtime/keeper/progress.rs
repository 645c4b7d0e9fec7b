//! What an init tells the keeper: how far its set-up is, and how its server ended.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, sendmsg,
        },
        wait::waitpid,
    },
    unistd::Pid,
};

use super::{failure::Failure, launch::LAUNCH_TIMEOUT_MS};

/// Most descriptors that an init hands to the keeper (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;

/// What the set-up was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// Nothing failed: the server is about to execute its program.
    Ready = 0,
    /// Waiting for a keeper that is gone.
    Keeper,
    /// Writing the maps of the user namespace.
    Maps,
    /// Mounting /proc.
    Proc,
    /// Forking the server.
    Fork,
    /// Making the new session.
    Session,
    /// Placing the descriptors.
    Descriptors,
    /// Setting limits.
    Limits,
    /// Setting `no_new_privs`.
    Privileges,
    /// Entering the working folder.
    Folder,
    /// Executing the program.
    Exec,
    /// Not a failure: the path of the plan, by its number, that the next one is about.
    Place,
    /// Making its root.
    Root,
    /// Setting its network up.
    Network,
    /// Setting Landlock's rules.
    Landlock,
    /// Installing the filter of system calls.
    Filter,
    /// Becoming its own user.
    Identity,
    /// Not a failure: the sockets of its network namespace come along.
    Sockets,
    /// Laying its credential files out.
    Credentials,
    /// Not a failure: the pid of the init that was forked in the place of the sender, whose pidfd comes along.
    Init,
    /// Entering namespaces that were made ahead.
    Ahead,
}

impl Stage {
    /// The stage of this number.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Ready,
            Self::Keeper,
            Self::Maps,
            Self::Proc,
            Self::Fork,
            Self::Session,
            Self::Descriptors,
            Self::Limits,
            Self::Privileges,
            Self::Folder,
            Self::Exec,
            Self::Place,
            Self::Root,
            Self::Network,
            Self::Landlock,
            Self::Filter,
            Self::Identity,
            Self::Sockets,
            Self::Credentials,
            Self::Init,
            Self::Ahead,
        ]
        .into_iter()
        .find(|stage| *stage as u8 == byte)
    }
}

/// A step that failed, and why.
pub(super) type Failed = (Stage, Errno);

/// What an init writes to the status pipe when its server ended; one atomic write.
#[derive(serde::Serialize, serde::Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StatusRecord {
    /// Which launch.
    pub(super) serial: u64,
    /// As wait4(2) gives it.
    pub(super) wait_status: i32,
    /// User CPU time in milliseconds.
    pub(super) user_cpu_ms: u64,
    /// System CPU time in milliseconds.
    pub(super) system_cpu_ms: u64,
    /// Largest resident set in KiB.
    pub(super) max_rss_kib: u64,
    /// Nothing is left of the tree but the init that writes this, and it ends next.
    #[serde(default)]
    pub(super) alone: bool,
}

/// `alone`, beside the 32 bits of the status: inits of a former program leave it out, and former keepers do not look.
const ALONE: u64 = 1 << 32;

impl StatusRecord {
    /// Its length in bytes.
    pub(super) const LEN: usize = 40;

    pub(super) fn new(serial: u64, wait_status: i32, usage: &libc::rusage) -> Self {
        let ms = |time: libc::timeval| (time.tv_sec * 1_000 + time.tv_usec / 1_000) as u64;
        Self {
            serial,
            wait_status,
            user_cpu_ms: ms(usage.ru_utime),
            system_cpu_ms: ms(usage.ru_stime),
            max_rss_kib: usage.ru_maxrss as u64,
            alone: false,
        }
    }

    /// Its bytes, to be written at once.
    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let words = [
            self.serial,
            u64::from(self.wait_status.cast_unsigned()) | if self.alone { ALONE } else { 0 },
            self.user_cpu_ms,
            self.system_cpu_ms,
            self.max_rss_kib,
        ];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads one record.
    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let word = |index: usize| {
            bytes[index * 8..index * 8 + 8]
                .iter()
                .rev()
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        Self {
            serial: word(0),
            wait_status: word(1) as u32 as i32,
            user_cpu_ms: word(2),
            system_cpu_ms: word(3),
            max_rss_kib: word(4),
            alone: word(1) & ALONE != 0,
        }
    }
}

/// Tells the keeper how far the set-up is; errors are ignored, since the keeper then sees the end only.
pub(super) fn report(progress: RawFd, stage: Stage, errno: i32) {
    let errno = errno.to_le_bytes();
    let message = [stage as u8, errno[0], errno[1], errno[2], errno[3]];
    // SAFETY: the buffer is valid for its length.
    unsafe {
        libc::send(
            progress,
            message.as_ptr().cast(),
            message.len(),
            libc::MSG_NOSIGNAL,
        )
    };
}

/// Tells something that is not a failure, with descriptors.
pub(super) fn report_with(
    progress: RawFd,
    stage: Stage,
    number: i32,
    descriptors: &[RawFd],
) -> Result<(), Errno> {
    let [a, b, c, d] = number.to_le_bytes();
    send_with(progress, &[stage as u8, a, b, c, d], descriptors)
}

/// Sends a message with descriptors.
pub(super) fn send_with(socket: RawFd, message: &[u8], descriptors: &[RawFd]) -> Result<(), Errno> {
    let parts = [io::IoSlice::new(message)];
    let rights = [ControlMessage::ScmRights(descriptors)];
    sendmsg::<()>(socket, &parts, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Stage, number, sender, descriptors.
type Told = (Stage, i32, u32, Vec<OwnedFd>);

/// What an init says next; `None`: every copy of its end is closed.
fn receive_stage(progress: &OwnedFd) -> nix::Result<Option<Told>> {
    let mut bytes = [0_u8; 5];
    let mut control = nix::cmsg_space!(UnixCredentials, [RawFd; DESCRIPTORS_MAX]);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(progress.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let (mut pid, mut descriptors) = (0, Vec::new());
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::ScmCredentials(sender) => pid = sender.pid().cast_unsigned(),
            ControlMessageOwned::ScmRights(raw) => {
                // SAFETY: the kernel has just made them for us, and nobody else knows of them.
                descriptors.extend(
                    raw.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
            _ => {}
        }
    }
    let stage = Stage::from_byte(bytes[0]).unwrap_or(Stage::Keeper);
    let errno = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    Ok(Some((stage, errno, pid, descriptors)))
}

/// Waits until the server executes its program. `init` is the fork that was made, and then the init that it forked in its place, if it did.
pub(super) fn await_exec(
    progress: &OwnedFd,
    init: &mut (Pid, OwnedFd),
) -> Result<(u32, Vec<OwnedFd>), Failure> {
    let (mut server, mut place, mut sockets) = (None, None, Vec::new());
    loop {
        let mut ready = [PollFd::new(progress.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(LAUNCH_TIMEOUT_MS)) {
            Ok(0) => return Err(Failure::TimedOut),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return Err(Failure::DiedInSetup),
        }
        match receive_stage(progress) {
            Ok(Some((Stage::Ready, _, pid, _))) => server = Some(pid),
            Ok(Some((Stage::Sockets, .., made))) => sockets = made,
            Ok(Some((Stage::Init, pid, _, mut pidfd))) => {
                let pidfd = pidfd.pop().ok_or(Failure::DiedInSetup)?;
                let former = std::mem::replace(init, (Pid::from_raw(pid), pidfd));
                let _ = waitpid(former.0, None);
            }
            Ok(Some((Stage::Place, index, ..))) => place = usize::try_from(index).ok(),
            Ok(Some((stage, errno, ..))) => {
                return Err(Failure::At(stage, Errno::from_raw(errno), place));
            }
            // The last copy of the other end was closed by a successful execve, or by a death.
            Ok(None) => {
                return server
                    .map(|server| (server, sockets))
                    .ok_or(Failure::DiedInSetup);
            }
            Err(Errno::EINTR) => {}
            Err(_) => return Err(Failure::DiedInSetup),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let record = StatusRecord {
            serial: 0x0102_0304_0506_0708,
            wait_status: 9,
            user_cpu_ms: 1,
            system_cpu_ms: u64::MAX,
            max_rss_kib: 3,
            alone: false,
        };
        assert_eq!(StatusRecord::decode(&record.encode()), record);
        for wait_status in [9, -1] {
            let alone = StatusRecord {
                wait_status,
                alone: true,
                ..record
            };
            assert_eq!(StatusRecord::decode(&alone.encode()), alone);
        }
    }

    #[test]
    fn every_stage_has_a_number() {
        for byte in 0..=20 {
            assert_eq!(Stage::from_byte(byte).map(|stage| stage as u8), Some(byte));
        }
        assert_eq!(Stage::from_byte(21), None);
    }
}
