//! The network namespace of an instance whose connections go through the gate: every synthetic address is local, and
//! what listens there is made here and handed out. A socket stays in the namespace that it was made in, so `serve`
//! accepts inside without ever being there.

use std::{
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::{
        socket::{
            AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage,
            bind, connect, listen, recv, setsockopt, socket, socketpair, sockopt,
        },
        wait::waitpid,
    },
};

use super::{
    clone::{Forked, Namespaces, fork_with},
    init::exit,
    privileges,
    progress::{Stage, report_with},
};
use crate::{
    domain::egress::{Catch, SYNTHETIC_V4, SYNTHETIC_V6},
    runtime::channel,
};

/// Connections that wait to be accepted on one port.
const BACKLOG: i32 = 128;
/// Where the server's resolver asks; named by its `resolv.conf`.
const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// The loopback's index in a new namespace.
const LOOPBACK: u32 = 1;
/// How long a fork may take to enter a namespace and make sockets, in milliseconds.
const MAKING_MS: u16 = 2_000;
/// Most ports that are listened on: so many descriptors fit one packet, others beside them.
const PORTS_MAX: usize = 128;
/// `SIOCGSKNS` of linux/sockios.h: the network namespace of a socket.
const SIOCGSKNS: libc::c_ulong = 0x894c;
/// `NS_GET_USERNS` of linux/nsfs.h: the user namespace that owns a namespace.
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// Text of the files by which programs find their resolver: path, content.
pub(super) const RESOLVER_FILES: [(&str, &str); 3] = [
    (
        "/etc/resolv.conf",
        "nameserver 127.0.0.1\nsearch .\noptions timeout:3 attempts:3\n",
    ),
    (
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    ),
    (
        "/etc/hosts",
        "127.0.0.1 localhost\n::1 ip6-localhost ip6-loopback\n",
    ),
];

/// Sets the namespace that this process is alone in up, as far as it is the same for every instance; `gated`: for
/// connections through the gate. What comes back: whether it knows the synthetic addresses of version 6, without which
/// names have addresses of version 4 only.
pub(super) fn prepare(gated: bool) -> Result<bool, Errno> {
    privileges::loopback_up()?;
    if !gated {
        return Ok(false);
    }
    make_local(IpAddr::V4(SYNTHETIC_V4.0), SYNTHETIC_V4.1)?;
    Ok(make_local(IpAddr::V6(SYNTHETIC_V6.0), SYNTHETIC_V6.1).is_ok())
}

/// The sockets of a prepared namespace, in this order: one that only stands for the namespace, and where connections are
/// caught the DNS socket and one listener for each port. `v6`: as [`prepare`] found it.
pub(super) fn sockets(caught: Option<&Catch>, v6: bool) -> Result<Vec<OwnedFd>, Errno> {
    let mut sockets = vec![stream(AddressFamily::Inet)?];
    let Some(caught) = caught else {
        return Ok(sockets);
    };
    for address in caught
        .addresses
        .iter()
        .filter(|address| !address.is_loopback())
    {
        match address {
            IpAddr::V4(_) => make_local(*address, 32)?,
            IpAddr::V6(_) if v6 => make_local(*address, 128)?,
            IpAddr::V6(_) => {}
        }
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let dns = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    bind(dns.as_raw_fd(), &SockaddrStorage::from(DNS))?;
    sockets.push(dns);
    for port in caught.ports.iter().take(PORTS_MAX) {
        sockets.push(listener(*port, v6)?);
    }
    Ok(sockets)
}

/// Listens on every address, of both versions where there are both.
fn listener(port: u16, v6: bool) -> Result<OwnedFd, Errno> {
    let (family, any) = match v6 {
        true => (AddressFamily::Inet6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        false => (AddressFamily::Inet, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    };
    let socket = stream(family)?;
    if v6 {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    bind(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(any, port)),
    )?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

fn stream(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None)
}

/// Makes all addresses of a network local (AnyIP): `ip route add local NETWORK dev lo`.
fn make_local(network: IpAddr, prefix: u8) -> Result<(), Errno> {
    let route = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let request = route_request(network, prefix);
    let sent = nix::unistd::write(&route, &request)?;
    if sent != request.len() {
        return Err(Errno::EIO);
    }
    let mut answer = [0_u8; 512];
    let len = recv(route.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // A header of 16 bytes, then the negative error number; 0 is the acknowledgement.
    let code: &[u8; 4] = answer
        .get(16..20)
        .filter(|_| len >= 20)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Errno::EIO)?;
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        // It is there already: a host listed twice in two forms.
        code if -code == libc::EEXIST => Ok(()),
        code => Err(Errno::from_raw(-code)),
    }
}

/// An `RTM_NEWROUTE` message: `nlmsghdr`, `rtmsg`, `RTA_DST`, `RTA_OIF` (rtnetlink(7)).
fn route_request(network: IpAddr, prefix: u8) -> Vec<u8> {
    let (family, address) = match network {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    // The universe's scope is what version 6 wants, the host's is what version 4 wants of local routes.
    let scope = match network {
        IpAddr::V4(_) => libc::RT_SCOPE_HOST,
        IpAddr::V6(_) => libc::RT_SCOPE_UNIVERSE,
    };
    let mut body = vec![
        family as u8,
        prefix,
        0,
        0,
        libc::RT_TABLE_LOCAL,
        libc::RTPROT_STATIC,
        scope,
        libc::RTN_LOCAL,
    ];
    body.extend_from_slice(&0_u32.to_ne_bytes());
    for (kind, value) in [
        (libc::RTA_DST, address),
        (libc::RTA_OIF, LOOPBACK.to_ne_bytes().to_vec()),
    ] {
        body.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(&value);
    }
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let len = size_of::<libc::nlmsghdr>() + body.len();
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&(len as u32).to_ne_bytes());
    message.extend_from_slice(&libc::RTM_NEWROUTE.to_ne_bytes());
    message.extend_from_slice(&(flags as u16).to_ne_bytes());
    // Number and sender: there is one message and one answer.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&body);
    message
}

/// Sends the sockets of a namespace to the keeper.
pub(super) fn hand_out(progress: RawFd, made: &[OwnedFd]) -> Result<(), Errno> {
    let raw: Vec<RawFd> = made.iter().map(AsRawFd::as_raw_fd).collect();
    report_with(progress, Stage::Sockets, 0, &raw)
}

/// Makes `count` unconnected TCP sockets in the namespace that `inside` was made in, by a fork that enters it.
///
/// # Errors
/// When the namespace cannot be entered, or there are no descriptors left.
pub(super) fn sockets_inside(inside: &OwnedFd, count: usize) -> Result<Vec<OwnedFd>, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    let failed = |cause: std::io::Error| Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO));
    let keep = [inside, &theirs].map(AsRawFd::as_raw_fd);
    let forked = fork_with(Namespaces::NONE, None, &keep).map_err(failed)?;
    let Forked::Parent { pid, pidfd } = forked else {
        let made = enter(inside).and_then(|()| {
            let sockets: Result<Vec<_>, _> =
                (0..count).map(|_| stream(AddressFamily::Inet)).collect();
            hand_out(theirs.as_raw_fd(), &sockets?)
        });
        exit(i32::from(made.is_err()))
    };
    drop(theirs);
    let mut ready = [PollFd::new(
        std::os::fd::AsFd::as_fd(&ours),
        PollFlags::POLLIN,
    )];
    let answered = poll(&mut ready, PollTimeout::from(MAKING_MS));
    let received = match answered {
        Ok(1..) => channel::receive(std::os::fd::AsFd::as_fd(&ours), &mut [0; 8]),
        Ok(_) => Err(Errno::ETIMEDOUT),
        Err(errno) => Err(errno),
    };
    super::launch::send_signal(&pidfd, libc::SIGKILL);
    let _ = waitpid(pid, None);
    match received?.descriptors {
        sockets if sockets.len() == count => Ok(sockets),
        _ => Err(Errno::EPERM),
    }
}

/// Enters the network namespace of a socket, and before that the user namespace that it belongs to.
fn enter(inside: &OwnedFd) -> Result<(), Errno> {
    let opened = |on: &OwnedFd, request: libc::c_ulong| {
        // SAFETY: neither request reads or writes memory; both make a descriptor.
        let raw = unsafe { libc::ioctl(on.as_raw_fd(), request as _) };
        let raw = Errno::result(raw)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok::<_, Errno>(unsafe { OwnedFd::from_raw_fd(raw) })
    };
    let net = opened(inside, SIOCGSKNS)?;
    let user = opened(&net, NS_GET_USERNS)?;
    // Our own: then there is nothing to enter.
    match setns(&user, CloneFlags::CLONE_NEWUSER) {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(errno),
    }
    setns(&net, CloneFlags::CLONE_NEWNET)
}

/// Whether all of this works, in a fork made for the probe.
pub(super) fn probe() -> Result<(), Errno> {
    let caught = Catch {
        ports: vec![443],
        addresses: Vec::new(),
    };
    let sockets = sockets(Some(&caught), prepare(true)?)?;
    // A connection to a synthetic address must end at our listener.
    let client = stream(AddressFamily::Inet)?;
    let IpAddr::V4(first) = IpAddr::V4(SYNTHETIC_V4.0) else {
        return Err(Errno::EAFNOSUPPORT);
    };
    let target = SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + 9)), 443);
    match connect(client.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    let listener = sockets.last().ok_or(Errno::EIO)?;
    let mut ready = [PollFd::new(
        std::os::fd::AsFd::as_fd(listener),
        PollFlags::POLLIN,
    )];
    match poll(&mut ready, PollTimeout::from(MAKING_MS))? {
        0 => Err(Errno::ETIMEDOUT),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_asked_for_in_the_kernels_words() {
        let v4 = route_request(IpAddr::V4(SYNTHETIC_V4.0), SYNTHETIC_V4.1);
        assert_eq!(v4.len(), 16 + 12 + 8 + 8);
        assert_eq!(v4[..4], 44_u32.to_ne_bytes());
        assert_eq!((v4[16], v4[17]), (libc::AF_INET as u8, 15));
        assert_eq!(v4[32..36], [198, 18, 0, 0]);
        let v6 = route_request(IpAddr::V6(SYNTHETIC_V6.0), SYNTHETIC_V6.1);
        assert_eq!(v6.len(), 16 + 12 + 20 + 8);
        assert_eq!((v6[16], v6[17]), (libc::AF_INET6 as u8, 96));
    }

    #[test]
    fn programs_are_told_where_their_resolver_is() {
        for (path, text) in RESOLVER_FILES {
            assert!(text.ends_with('\n'), "{path}");
        }
        assert!(
            RESOLVER_FILES[0]
                .1
                .contains(&format!("nameserver {}", DNS.ip()))
        );
    }
}
