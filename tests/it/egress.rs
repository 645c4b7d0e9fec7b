//! What servers reach through the gate, and what not: stock clients without any proxy setting, and attacks.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};

use crate::{
    fixtures,
    harness::{Database, Server, reachable_by_all},
    mcp::Mcp,
};

/// Somebody without any right; no user of a usual host has this id.
const NOBODY_UID: u32 = 4_242;
/// The only name in the certificate.
pub const NAME: &str = "api.test.example";
const PATIENCE: Duration = Duration::from_secs(60);

/// An HTTPS server on a port of this machine's loopback, with a certificate of its own.
pub struct Site {
    pub port: u16,
    folder: tempfile::TempDir,
}

impl Site {
    fn start() -> Self {
        Self::answering(|_| {
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".to_owned()
        })
    }

    /// One that gives `answer` to what it was asked, both as texts of HTTP/1.1.
    pub fn answering(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("ours");
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ])
            .args([
                "-days",
                "2",
                "-subj",
                "/CN=minimcp-it",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
            ])
            .args(["-addext", &format!("subjectAltName=DNS:{NAME}")])
            // Trusted for what it is, and no authority over others.
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .current_dir(folder.path())
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{made:?}");
        let certificate = CertificateDer::from_pem_file(folder.path().join("cert.pem"));
        let key = PrivateKeyDer::from_pem_file(folder.path().join("key.pem"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the usual versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.expect("just made")],
                key.expect("just made"),
            )
            .expect("they belong together");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, answer) = (Arc::clone(&config), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let session = ServerConnection::new(config).expect("a session");
                    let mut stream = StreamOwned::new(session, stream);
                    let mut asked = [0; 4_096];
                    let len = stream.read(&mut asked).unwrap_or_default();
                    if len > 0 {
                        let answer = answer(&String::from_utf8_lossy(&asked[..len]));
                        let _ = stream.write_all(answer.as_bytes());
                        stream.conn.send_close_notify();
                        let _ = stream.flush();
                    }
                });
            }
        });
        Self { port, folder }
    }

    pub fn certificate(&self) -> String {
        let path = self.folder.path().join("cert.pem");
        path.to_str().expect("a plain path").to_owned()
    }

    /// A daemon whose operator opens this site alone, and knows names that lead inside.
    async fn daemon(&self, uid: Option<u32>) -> Server {
        let folder = self.folder.path().to_owned();
        let port = self.port;
        Server::start_as(Database::Sqlite, uid, |config| {
            config.sandbox.allow_private = vec![format!("127.0.0.1:{port}").parse().expect("one")];
            config.sandbox.read = vec![folder];
            config.sandbox.widest_network = minimcp::domain::sandbox::Network::Learn;
            config.sandbox.deny_hosts = vec!["denied.test.example".parse().expect("a name")];
            config.sandbox.connections_max = 20;
            config.sandbox.host_addresses = [
                "api.test.example=127.0.0.1",
                "denied.test.example=127.0.0.1",
                "metadata.test.example=169.254.169.254",
                "loops.test.example=127.0.0.1",
                "mapped.test.example=::ffff:127.0.0.1",
            ]
            .map(|own| own.parse().expect(own))
            .into();
        })
        .await
    }

    /// An instance that may reach the site, and hosts that lead inside.
    fn body(&self, template: &str, api_port: u16) -> Value {
        let port = self.port;
        let hosts = [
            format!("{NAME}:{port}"),
            format!("*.test.example:{api_port}"),
            format!("denied.test.example:{port}"),
            "metadata.test.example:80".to_owned(),
            "169.254.169.254:80".to_owned(),
        ];
        json!({"template": template, "settings": {"ca_file": self.certificate(), "hosts": hosts}})
    }
}

async fn ready(server: &Server, body: Value) -> (Value, Mcp) {
    let instance = server.create(body).await;
    assert_eq!(
        instance["status"],
        "running",
        "{instance:#}\n{}",
        server.log()
    );
    let client = Mcp::connect(&instance).await;
    (instance, client)
}

async fn tool(client: &mut Mcp, name: &str, arguments: Value) -> String {
    let answer = client.tool(name, arguments).await;
    answer.unwrap_or_else(|error| format!("no answer: {error}"))
}

async fn egress(server: &Server, instance: &Value) -> Value {
    let id = instance["id"].as_str().expect("an id");
    server.get(&format!("/mcps/{id}")).await["egress"].clone()
}

fn refused<'a>(egress: &'a Value, host: &str) -> Option<&'a str> {
    let hosts = egress["refused_hosts"].as_array()?;
    let found = hosts.iter().find(|refused| refused["host"] == host)?;
    found["reason"].as_str()
}

async fn only_what_is_allowed_is_reached(uid: Option<u32>) {
    let site = Site::start();
    let server = site.daemon(uid).await;
    let api_port = server.config().api.port;
    let (instance, mut client) = ready(&server, site.body("reaches", api_port)).await;
    let network = instance["isolation"]["network"]
        .as_str()
        .unwrap_or_default();
    assert!(network.starts_with("allow-list"), "{network}");

    let port = site.port;
    let url = json!({"url": format!("https://{NAME}:{port}/")});
    assert_eq!(tool(&mut client, "fetch", url.clone()).await, "hello");
    assert_eq!(
        tool(&mut client, "fetch_by_node", url.clone()).await,
        "hello"
    );
    if uid.is_none() && fixtures::deps().is_some() {
        assert_eq!(tool(&mut client, "fetch_by_httpx", url).await, "hello");
    }
    let addresses = tool(&mut client, "resolve", json!({"name": NAME})).await;
    assert!(addresses.contains("198.1"), "{addresses}");
    assert_eq!(
        tool(&mut client, "serve_locally", json!({"port": 5_555})).await,
        "open"
    );

    let to = |name: &str, port: u16| json!({"name": name, "port": port});
    let synthetic = addresses
        .split(' ')
        .find(|address| !address.contains(':'))
        .expect("one of version 4");
    for (attack, arguments, stopped, host, why) in [
        // Names: one that nobody allowed, a tunnel, one that the operator denies.
        (
            "connect",
            to("evil.example", 443),
            "gai -2",
            "evil.example",
            "not among",
        ),
        (
            "connect",
            to("c2vjcmv0.tunnel.example", 443),
            "gai -2",
            "c2vjcmv0.tunnel.example",
            "not among",
        ),
        (
            "connect",
            to("denied.test.example", port),
            "gai -2",
            "denied.test.example",
            "deny_hosts",
        ),
        (
            "connect",
            to("a.b.test.example", api_port),
            "gai -2",
            "a.b.test.example",
            "not among",
        ),
        // Names that lead inside: the metadata service, the daemon's own API.
        (
            "connect",
            to("metadata.test.example", 80),
            "ECONNRESET",
            "metadata.test.example:80",
            "private",
        ),
        (
            "connect",
            to("loops.test.example", api_port),
            "ECONNRESET",
            "loops.test.example",
            "private",
        ),
        (
            "connect",
            to("mapped.test.example", api_port),
            "ECONNRESET",
            "mapped.test.example",
            "private",
        ),
        // Addresses: one that a rule names but is private, others at once.
        (
            "connect",
            to("169.254.169.254", 80),
            "ECONNRESET",
            "169.254.169.254:80",
            "private",
        ),
        ("connect", to("1.1.1.1", 443), "ENETUNREACH", "", ""),
        ("connect", to("10.0.0.1", 443), "ENETUNREACH", "", ""),
        ("connect", to("2606:4700::1111", 443), "ENETUNREACH", "", ""),
        // Its own loopback is not this machine's.
        ("connect", to("127.0.0.1", 22), "ECONNREFUSED", "", ""),
        ("connect", to("::1", 22), "ECONNREFUSED", "", ""),
        // Ports: one that is caught and not allowed, one that nobody listens on.
        (
            "connect",
            to(NAME, 443),
            "ECONNRESET",
            "api.test.example:443",
            "other ports",
        ),
        ("connect", to(NAME, 22), "ECONNREFUSED", "", ""),
        // A synthetic address that stands for no name.
        ("connect", to("198.18.0.0", 443), "ECONNRESET", "", ""),
        ("datagram", to("1.1.1.1", 53), "ENETUNREACH", "", ""),
        ("datagram", to("2606:4700::1111", 53), "ENETUNREACH", "", ""),
        ("datagram", to(synthetic, 443), "ECONNREFUSED", "", ""),
        ("ping", json!({"name": synthetic}), "EACCES", "", ""),
        // TLS that asks for what another rule would not allow.
        (
            "tls",
            json!({"name": NAME, "port": port, "asked": "evil.example"}),
            "ECONNRESET",
            "api.test.example",
            "another name",
        ),
    ] {
        let answer = tool(&mut client, attack, arguments.clone()).await;
        assert_eq!(
            answer,
            format!("stopped: {stopped}"),
            "{attack} {arguments}"
        );
        if why.is_empty() {
            continue;
        }
        // The port of some rules is known here only.
        let host = match host {
            "loops.test.example" | "mapped.test.example" => format!("{host}:{api_port}"),
            "api.test.example" => format!("{host}:{port}"),
            host => host.to_owned(),
        };
        // It is written when the reset is on its way already.
        let mut last = Value::Null;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            last.clone_from(&egress(&server, &instance).await);
            let told = refused(&last, &host).is_some_and(|reason| reason.contains(why));
            if told {
                break;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{host}: {why}: {last:#}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
    }
    let alive = tool(
        &mut client,
        "many",
        json!({"name": NAME, "port": port, "count": 60}),
    )
    .await;
    let alive: usize = alive.parse().unwrap_or_else(|_| panic!("{alive}"));
    assert!(
        (1..=20).contains(&alive),
        "{alive}: no more are carried at once"
    );
    let crowded = egress(&server, &instance).await;
    let reason = refused(&crowded, &format!("{NAME}:{port}"));
    assert!(
        reason.is_some_and(|reason| reason.contains("too many connections")),
        "{crowded:#}"
    );
    let id = instance["id"].as_str().expect("an id");
    let events = server.get(&format!("/mcps/{id}/events?limit=200")).await;
    let told = events["items"].to_string();
    assert!(
        told.contains("blocked: evil.example: it is not among the allowed hosts"),
        "{events:#}"
    );
    // It still goes on as before.
    let url = json!({"url": format!("https://{NAME}:{port}/")});
    assert_eq!(tool(&mut client, "fetch", url).await, "hello");
}

#[tokio::test]
async fn only_what_is_allowed_is_reached_as_whom_the_tests_run() {
    only_what_is_allowed_is_reached(None).await;
}

#[tokio::test]
async fn only_what_is_allowed_is_reached_as_a_plain_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: this is a plain user already");
        return;
    }
    if !reachable_by_all(Path::new(env!("CARGO_BIN_EXE_minimcp"))) {
        eprintln!("SKIPPED as a plain user: the program lies where only root may look");
        return;
    }
    only_what_is_allowed_is_reached(Some(NOBODY_UID)).await;
}

#[tokio::test]
async fn the_gate_outlives_a_serve_that_dies() {
    let site = Site::start();
    let mut server = site.daemon(None).await;
    let api_port = server.config().api.port;
    let (instance, mut client) = ready(&server, site.body("reaches", api_port)).await;
    let url = json!({"url": format!("https://{NAME}:{}/", site.port)});
    assert_eq!(tool(&mut client, "fetch", url.clone()).await, "hello");
    let before = tool(&mut client, "resolve", json!({"name": NAME})).await;
    server.kill();
    server.launch().await;
    let id = instance["id"].as_str().expect("an id");
    let now = server.get(&format!("/mcps/{id}")).await;
    assert_eq!(now["pid"], instance["pid"], "it is the same child: {now:#}");
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(tool(&mut client, "fetch", url).await, "hello");
    let after = tool(&mut client, "resolve", json!({"name": NAME})).await;
    assert_eq!(after, before, "a name keeps its address");
    let answer = tool(
        &mut client,
        "connect",
        json!({"name": "evil.example", "port": 443}),
    )
    .await;
    assert_eq!(answer, "stopped: gai -2");
}

#[tokio::test]
async fn a_server_that_learns_tells_what_it_needs() {
    let site = Site::start();
    let server = site.daemon(None).await;
    let mut body = site.body("learns", server.config().api.port);
    body["settings"]["hosts"] = json!([format!("other.test.example:{}", site.port)]);
    let (instance, mut client) = ready(&server, body).await;
    let url = json!({"url": format!("https://{NAME}:{}/", site.port)});
    assert_eq!(
        tool(&mut client, "fetch", url).await,
        "hello",
        "no rule names it"
    );
    let answer = tool(
        &mut client,
        "connect",
        json!({"name": "metadata.test.example", "port": 80}),
    )
    .await;
    assert_eq!(answer, "stopped: ECONNRESET", "what is private stays so");
    let learned = wait_for_reached(&server, &instance).await;
    assert_eq!(learned, format!("{NAME}:{}", site.port));
    let told = Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .args(["inspect", instance["id"].as_str().expect("an id")])
        .env("MINIMCP_API_URL", server.url())
        .env("MINIMCP_TOKEN", server.admin_token())
        .output()
        .expect("the program runs");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains(&format!("hosts = [\"{learned}\"]")), "{told}");
    let printed = Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .args(["template", "learned", "learns"])
        .env("MINIMCP_API_URL", server.url())
        .env("MINIMCP_TOKEN", server.admin_token())
        .output()
        .expect("the program runs");
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(
        printed.contains(&format!("    \"{learned}\",\n")),
        "{printed}"
    );
}

async fn wait_for_reached(server: &Server, instance: &Value) -> String {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let egress = egress(server, instance).await;
        if let Some(host) = egress["reached_hosts"][0]["host"].as_str() {
            return host.to_owned();
        }
        assert!(tokio::time::Instant::now() < deadline, "{egress:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

#[tokio::test]
async fn an_http_server_is_reached_inside_and_by_nobody_else() {
    let server = Server::start(Database::Sqlite).await;
    let (instance, mut client) = ready(&server, json!({"template": "http-echo"})).await;
    let network = instance["isolation"]["network"]
        .as_str()
        .unwrap_or_default();
    assert!(network.starts_with("allow-list"), "{network}");
    let answer = client.tool("echo", json!({"text": "hi"})).await;
    assert_eq!(answer.as_deref(), Ok("hi"));
    // Its port is one of the instance's own network namespace.
    let pid = instance["pid"].as_u64().expect("a pid");
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let ports = table
        .lines()
        .filter(|line| line.contains(" 0A "))
        .filter_map(|line| {
            let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
            u16::from_str_radix(port, 16).ok()
        });
    let own: Vec<u16> = ports.filter(|port| *port != 80 && *port != 443).collect();
    assert_eq!(own.len(), 1, "{table}");
    let outside = crate::processes::listening_ports();
    for port in &own {
        assert!(!outside.contains(port), "{port} listens on this machine");
    }
}
