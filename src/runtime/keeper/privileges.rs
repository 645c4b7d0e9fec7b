//! What a server must not keep: capabilities; and what its user namespace must not allow.

use std::os::fd::OwnedFd;

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Capabilities are numbered below this.
const CAPABILITIES_END: libc::c_int = 64;
/// `SECBIT_NOROOT` and its lock, of linux/securebits.h: uid 0 gets no capability by an execve.
const NO_ROOT: libc::c_ulong = 0b11;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Empties every capability set of this process. To be called after `no_new_privs` was set, so that where the bounding
/// set may not be emptied nothing can be gained from it either.
pub(super) fn drop_capabilities() -> Result<(), Errno> {
    // The first two need CAP_SETPCAP; a process without it has no capability that they could bring back.
    // SAFETY: prctl(2) with plain integers.
    unsafe {
        libc::prctl(libc::PR_SET_SECUREBITS, NO_ROOT, 0, 0, 0);
        for capability in 0..CAPABILITIES_END {
            // Stops at the first number that this kernel does not know.
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                break;
            }
        }
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        );
    }
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let nothing = [Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: version 3 reads one header and two data structures; it writes only to a header of an unknown version.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, nothing.as_ptr()) };
    Errno::result(set).map(drop)
}

/// The folder of the caps of a user namespace, in the `/proc` that is seen now. That of the host has each name once for
/// every user namespace that there is, and the kernel looks through all of them; an instance's own has each once.
pub(super) fn namespace_caps() -> Option<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open("/proc/sys/user", flags, Mode::empty()).ok()
}

/// Caps in the instance's own user namespace: no further namespaces, and no more inotify than programs use, so that
/// one instance does not use up what all of a user share. Where `/proc/sys` is read-only they stay as they are.
pub(super) fn cap_namespace(folder: &OwnedFd) {
    for (name, most) in [
        ("max_user_namespaces", "0"),
        ("max_pid_namespaces", "0"),
        ("max_net_namespaces", "0"),
        ("max_mnt_namespaces", "0"),
        ("max_ipc_namespaces", "0"),
        ("max_uts_namespaces", "0"),
        ("max_cgroup_namespaces", "0"),
        ("max_time_namespaces", "0"),
        ("max_inotify_instances", "64"),
        ("max_inotify_watches", "65536"),
    ] {
        if let Ok(file) = openat(
            folder,
            name,
            OFlag::O_WRONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            let _ = nix::unistd::write(&file, most.as_bytes());
        }
    }
}

/// Sets the loopback of a new network namespace up.
pub(super) fn loopback_up() -> Result<(), Errno> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: a valid socket and a whole ifreq, which the call only reads.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(set).map(drop)
}
