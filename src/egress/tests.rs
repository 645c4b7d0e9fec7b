//! Gates over sockets of this host's loopback: what a child would do, without a namespace.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;

/// Long enough for a busy machine; nothing waits for it in vain.
const PATIENCE: Duration = Duration::from_secs(30);

/// Names as a stranger's name server would have them.
struct Fake(HashMap<&'static str, Vec<IpAddr>>);

impl Resolve for Fake {
    fn resolve(&self, name: Arc<str>) -> BoxFuture<'_, io::Result<Vec<IpAddr>>> {
        let found = self.0.get(&*name).cloned();
        Box::pin(async move { found.ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }
}

/// A gate whose listener is at a loopback address, which stands for the only exact name of its rules.
struct Scene {
    _gate: Gate,
    ledger: Arc<Ledger>,
    dns: SocketAddr,
    door: SocketAddr,
    host: TcpListener,
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

impl Scene {
    /// `rule` may hold `PORT`, that of the door. The host is opened to the operator's private addresses.
    async fn with(rules: &[&str], names: &[(&'static str, &str)]) -> Self {
        let host = TcpListener::bind(loopback()).await.expect("a port");
        let dns = UdpSocket::bind(loopback()).expect("a port");
        dns.set_nonblocking(true).expect("it can be");
        // The host must have the same port at another address, as it has outside.
        let port = host.local_addr().expect("bound").port();
        let door = std::net::TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), port))
            .expect("the same port");
        door.set_nonblocking(true).expect("it can be");
        let rules = rules
            .iter()
            .map(|rule| rule.replace("PORT", &port.to_string()));
        let egress = Egress {
            hosts: rules.map(|rule| rule.parse().expect("a rule")).collect(),
            ..Egress::default()
        };
        let names = names
            .iter()
            .map(|(name, address)| (*name, vec![address.parse().expect("an address")]));
        let outside = Outside {
            resolver: Arc::new(Fake(names.collect())),
            opened: vec![format!("127.0.0.1:{port}").parse().expect("one")],
            connections_max: 4,
            sent_bytes_per_hour: 100_000,
            clock: Clock::System,
        };
        let ledger = Arc::new(Ledger::default());
        let (dns_at, door_at) = (dns.local_addr(), door.local_addr());
        let caught = Caught {
            dns,
            listeners: vec![door],
        };
        let gate = Gate::open(
            caught,
            egress,
            &Keys::default(),
            Arc::new(outside),
            Arc::clone(&ledger),
        )
        .expect("it opens");
        Self {
            _gate: gate,
            ledger,
            dns: dns_at.expect("bound"),
            door: door_at.expect("bound"),
            host,
        }
    }

    fn refused(&self) -> Vec<(String, &'static str)> {
        let report = self.ledger.report().expect("a gate was opened");
        report
            .refused_hosts
            .into_iter()
            .map(|host| (host.host, host.reason.unwrap_or("")))
            .collect()
    }

    /// Asks for a name; the address in the answer, or its code.
    async fn ask(&self, name: &str, kind: u8) -> Result<Vec<u8>, u8> {
        let socket = tokio::net::UdpSocket::bind(loopback())
            .await
            .expect("a port");
        let mut packet = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(label.len() as u8);
            packet.extend_from_slice(label.as_bytes());
        }
        packet.extend_from_slice(&[0, 0, kind, 0, 1]);
        socket.send_to(&packet, self.dns).await.expect("sent");
        let mut answer = [0; 512];
        let len = timeout(PATIENCE, socket.recv(&mut answer))
            .await
            .expect("in time")
            .expect("an answer");
        match (answer[3] & 15, answer[7]) {
            (0, 1) => Ok(answer[packet.len() + 12..len].to_vec()),
            (code, _) => Err(code),
        }
    }
}

async fn is_reset(mut stream: TcpStream) -> bool {
    let mut byte = [0];
    let read = timeout(PATIENCE, stream.read(&mut byte))
        .await
        .expect("in time");
    read.is_err_and(|cause| cause.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn only_allowed_names_have_addresses() {
    let scene = Scene::with(&["api.example.com:443", "*.cdn.example.com:443"], &[]).await;
    let address = scene
        .ask("API.example.com", 1)
        .await
        .expect("it is allowed");
    assert_eq!(address[..2], [198, 18 | (address[1] & 1)]);
    assert!(scene.ask("x.cdn.example.com", 1).await.is_ok());
    assert_eq!(
        scene.ask("api.example.com", 28).await,
        Err(0),
        "there is no version 6 at this door"
    );
    assert_eq!(scene.ask("api.example.com", 16).await, Err(0), "no texts");
    for name in [
        "evil.example.com",
        "x.y.cdn.example.com",
        "metadata.google.internal",
        "c2VjcmV0.evil.com",
    ] {
        assert_eq!(scene.ask(name, 1).await, Err(3), "{name}");
    }
    let refused = scene.refused();
    assert_eq!(refused.len(), 4);
    assert_eq!(
        refused[0],
        (
            "evil.example.com".to_owned(),
            "it is not among the allowed hosts"
        )
    );
}

#[tokio::test]
async fn an_allowed_address_is_reached_both_ways_to_its_ends() {
    let scene = Scene::with(&["127.0.0.2:PORT"], &[]).await;
    // 127.0.0.2 is private and not opened: refused by the address, although a rule names it.
    assert!(is_reset(TcpStream::connect(scene.door).await.expect("the door")).await);
    assert!(scene.refused()[0].1.contains("private address"));
}

/// Lets `carry` take a connection for `name`, as if it had come to the name's synthetic address.
async fn connect_as(
    scene: &Scene,
    rules: &[&str],
    names: &[(&'static str, &str)],
    name: &str,
) -> (TcpStream, Arc<Ledger>) {
    let port = scene.door.port();
    let rules = rules
        .iter()
        .map(|rule| rule.replace("PORT", &port.to_string()));
    let egress = Egress {
        hosts: rules.map(|rule| rule.parse().expect("a rule")).collect(),
        ..Egress::default()
    };
    let ledger = Arc::new(Ledger::default());
    ledger.begin(&egress);
    let names = names
        .iter()
        .map(|(name, address)| (*name, vec![address.parse().expect("an address")]));
    let outside = Outside {
        resolver: Arc::new(Fake(names.collect())),
        opened: vec![format!("127.0.0.1:{port}").parse().expect("one")],
        connections_max: 4,
        sent_bytes_per_hour: 100_000,
        clock: Clock::System,
    };
    let inner = Inner {
        desks: Vec::new(),
        names: Mutex::new(Names::of(&egress)),
        connections: Arc::new(Semaphore::new(4)),
        outside: Arc::new(outside),
        egress,
        ledger: Arc::clone(&ledger),
        stop: CancellationToken::new(),
    };
    let (client, inside) = pair().await;
    let name: Arc<str> = name.into();
    tokio::spawn(connection::carry_to(
        Arc::new(inner),
        inside,
        connection::Target::Name(name),
        port,
    ));
    (client, ledger)
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(loopback()).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("connected"), accepted.expect("accepted").0)
}

const API: &str = "api.example.com";

#[tokio::test]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let scene = Scene::with(&[], &[]).await;
    let (mut client, ledger) = connect_as(
        &scene,
        &["api.example.com:PORT"],
        &[(API, "127.0.0.1")],
        API,
    )
    .await;
    let (mut server, _) = scene.host.accept().await.expect("it comes");
    client
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .await
        .expect("sent");
    client.shutdown().await.expect("its way ends");
    let mut asked = String::new();
    timeout(PATIENCE, server.read_to_string(&mut asked))
        .await
        .expect("in time")
        .expect("read");
    assert_eq!(asked, "GET / HTTP/1.0\r\n\r\n");
    server
        .write_all(b"hello")
        .await
        .expect("the other way is open");
    drop(server);
    let mut said = String::new();
    timeout(PATIENCE, client.read_to_string(&mut said))
        .await
        .expect("in time")
        .expect("read");
    assert_eq!(said, "hello");
    let report = ledger.report().expect("begun");
    assert_eq!(
        (report.sent_bytes, report.received_bytes, report.refused),
        (18, 5, 0)
    );
    assert_eq!(
        report.reached_hosts[0].host,
        format!("{API}:{}", scene.door.port())
    );
}

#[tokio::test]
async fn a_host_that_speaks_first_is_heard() {
    let scene = Scene::with(&[], &[]).await;
    let (mut client, _) = connect_as(
        &scene,
        &["api.example.com:PORT"],
        &[(API, "127.0.0.1")],
        API,
    )
    .await;
    let (mut server, _) = scene.host.accept().await.expect("it comes");
    server.write_all(b"220 mail\r\n").await.expect("sent");
    let mut said = [0; 10];
    timeout(PATIENCE, client.read_exact(&mut said))
        .await
        .expect("in time")
        .expect("read");
    assert_eq!(&said, b"220 mail\r\n");
}

#[tokio::test]
async fn tls_must_ask_for_the_name_that_was_asked_for() {
    let scene = Scene::with(&[], &[]).await;
    for (asked, passes) in [
        (API, true),
        ("other.example.com", false),
        ("192.0.2.1", false),
    ] {
        let (mut client, ledger) = connect_as(
            &scene,
            &["api.example.com:PORT"],
            &[(API, "127.0.0.1")],
            API,
        )
        .await;
        let (mut server, _) = scene.host.accept().await.expect("it comes");
        let hello = hello::tests::hello(asked);
        client.write_all(&hello).await.expect("sent");
        if passes {
            let mut heard = vec![0; hello.len()];
            timeout(PATIENCE, server.read_exact(&mut heard))
                .await
                .expect("in time")
                .expect("read");
            assert_eq!(heard, hello, "byte by byte");
        } else {
            assert!(is_reset(client).await, "{asked}");
            let mut heard = Vec::new();
            let _ = timeout(PATIENCE, server.read_to_end(&mut heard))
                .await
                .expect("in time");
            assert!(heard.is_empty(), "nothing of it went out");
            let refused = ledger.report().expect("begun").refused_hosts;
            assert!(
                refused[0]
                    .reason
                    .is_some_and(|why| why.contains("another name")),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn names_that_lead_inside_lead_nowhere() {
    let scene = Scene::with(&[], &[]).await;
    for inside in [
        "127.0.0.5",
        "169.254.169.254",
        "10.0.0.1",
        "100.100.100.200",
        "::1",
        "::ffff:127.0.0.5",
        "fd00:ec2::254",
    ] {
        let (client, ledger) =
            connect_as(&scene, &["api.example.com:PORT"], &[(API, inside)], API).await;
        assert!(is_reset(client).await, "{inside}");
        let refused = ledger.report().expect("begun").refused_hosts;
        assert!(
            refused[0]
                .reason
                .is_some_and(|why| why.contains("private address")),
            "{inside}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn other_ports_and_other_names_are_refused() {
    let scene = Scene::with(&[], &[]).await;
    for (rule, why) in [
        ("api.example.com:1", "at other ports"),
        ("b.example.com:PORT", "not among"),
    ] {
        let (client, ledger) = connect_as(&scene, &[rule], &[(API, "127.0.0.1")], API).await;
        assert!(is_reset(client).await, "{rule}");
        let refused = ledger.report().expect("begun").refused_hosts;
        assert!(
            refused[0].reason.is_some_and(|reason| reason.contains(why)),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn no_more_goes_out_than_an_hour_has() {
    let scene = Scene::with(&[], &[]).await;
    let (mut client, ledger) = connect_as(
        &scene,
        &["api.example.com:PORT"],
        &[(API, "127.0.0.1")],
        API,
    )
    .await;
    let (mut server, _) = scene.host.accept().await.expect("it comes");
    let much = vec![b'x'; 300_000];
    let (_, heard) = tokio::join!(client.write_all(&much), async {
        let mut heard = Vec::new();
        let _ = timeout(PATIENCE, server.read_to_end(&mut heard))
            .await
            .expect("in time");
        heard.len()
    });
    assert!(heard <= 100_000, "{heard}");
    let refused = ledger.report().expect("begun").refused_hosts;
    assert!(
        refused[0]
            .reason
            .is_some_and(|why| why.contains("too many bytes")),
        "{refused:?}"
    );
}
