//! nginx with the block of the README, in front of a running daemon.

use std::{fs, net::TcpListener, process::Stdio, time::Duration};

use serde_json::json;
use tokio::process::{Child, Command};

use crate::{
    harness::{Database, Server, http_client, wait_until},
    mcp::{self, Mcp},
    path_gateway::{at, first_progress_comes_before_the_answer, text},
    source,
};

/// The fenced block of the README in this language.
fn block(language: &str) -> String {
    let readme = fs::read_to_string(source::root().join("README.md")).expect("a README");
    let start = format!("```{language}\n");
    let (_, rest) = readme.split_once(&start).expect("the README has the block");
    rest.split("```").next().unwrap_or_default().to_owned()
}

/// A running nginx; it ends with the value.
struct Nginx {
    _process: Child,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    /// In front of `server`; `None` when it is not installed.
    fn start(server: &Server) -> Option<Self> {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx"]
            .into_iter()
            .find(|path| fs::exists(path).unwrap_or(false));
        let Some(program) = program else {
            eprintln!("SKIPPED behind nginx: run ./tests/run");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().display().to_string();
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port is free")
            .port();
        let upstream = format!("127.0.0.1:{}", server.config().api.port);
        let location = block("nginx").replace("127.0.0.1:7420", &upstream);
        assert!(location.contains(&upstream), "{location}");
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;\n\
             uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
             server {{ listen 127.0.0.1:{port};\n{location}}} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).expect("the folder is ours");
        let process = Command::new(program)
            .args(["-e", &format!("{root}/error.log"), "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx starts");
        let up = wait_until(Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let log = fs::read_to_string(folder.path().join("error.log"));
        assert!(up.is_some(), "nginx does not listen: {log:?}");
        Some(Self {
            _process: process,
            _folder: folder,
            port,
        })
    }
}

#[tokio::test]
async fn the_block_of_the_readme_serves_every_instance_without_holding_streams_back() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.gateway.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    })
    .await;
    let instance = server
        .create(json!({"template": "demo", "name": "behind"}))
        .await;
    let Some(nginx) = Nginx::start(&server) else {
        return;
    };
    let url = format!("http://127.0.0.1:{}/i/behind/mcp", nginx.port);
    let seen = at(&instance, &url);
    let mut client = Mcp::connect(&seen).await;
    let said = client.tool("echo", json!({"text": "behind nginx"})).await;
    assert_eq!(said.as_deref(), Ok("behind nginx"));
    let call = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {
        "name": "sleep", "arguments": {"seconds": 2, "steps": 2}, "_meta": {"progressToken": "p"}}});
    first_progress_comes_before_the_answer(client.send(&call).await).await;

    let http = http_client();
    let card = http.get(format!("{url}/server-card"));
    let card = card
        .bearer_auth(text(&instance, "access_token"))
        .send()
        .await;
    let card: serde_json::Value = card.expect("an answer").json().await.expect("JSON");
    // nginx told by which name it was asked, and was believed.
    assert_eq!(card["remotes"][0]["url"], url, "{card:#}");
    // Nothing but the instances is passed on.
    let api = http
        .get(format!("http://127.0.0.1:{}/healthz", nginx.port))
        .send()
        .await;
    assert_eq!(api.expect("an answer").status(), 404);

    for sdk in mcp::SDKS {
        let arguments = json!({"text": sdk});
        let Some(report) = mcp::sdk(sdk, &seen, "echo", &arguments).await else {
            return;
        };
        assert_eq!(report["result"]["content"][0]["text"], **sdk, "{report:#}");
    }
}

#[test]
fn the_configuration_of_the_readme_is_valid() {
    let text = block("toml");
    let config = minimcp::config::Config::parse(&text, std::path::Path::new("README.md"));
    let config = config.expect("every key is known");
    assert!(config.gateway.public_url.is_some() && !config.gateway.trusted_proxies.is_empty());
}
