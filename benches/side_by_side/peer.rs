//! The peer to beat: the program of the Rust crate `mcp-proxy`, started as its own users would, with one stdio server.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use minimcp::bench::mcp::Endpoint;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tempfile::TempDir;

/// The name of its rows.
pub const NAME: &str = "peer: mcp-proxy, the Rust crate";
/// How to get it where it is looked for.
pub const INSTALL: &str = "cargo install mcp-proxy@0.6.0 --root target/bench-peers";
/// A word of its `--help` that the programs of other registries with the same name do not have.
const MARK: &str = "--from-mcp-json";
/// What its tools are named after, with a slash.
const BACKEND: &str = "s0";
/// How long it may take until its server answers, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Finds it: the path given, else on the PATH, else where [`INSTALL`] puts it.
///
/// # Panics
/// When a path is given and is not this program.
pub fn find(given: Option<&Path>) -> Option<PathBuf> {
    if let Some(given) = given {
        let given = std::path::absolute(given).expect("a path that is not empty");
        assert!(
            is_it(&given),
            "--peer {}: not the program of the Rust crate mcp-proxy ({INSTALL})",
            given.display()
        );
        return Some(given);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-peers/bin");
    std::env::split_paths(&path)
        .chain([installed])
        .map(|folder| folder.join("mcp-proxy"))
        .find(|program| program.is_file() && is_it(program))
}

fn is_it(program: &Path) -> bool {
    let help = Command::new(program)
        .arg("--help")
        .stdin(Stdio::null())
        .output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains(MARK))
}

/// A running peer, with its configuration.
pub struct Peer {
    process: Child,
    _folder: TempDir,
}

impl Peer {
    /// Starts one before a server of this command and waits until the server answers a call.
    pub fn start(program: &Path, command: &[String]) -> (Self, Endpoint) {
        let folder = tempfile::Builder::new()
            .prefix("minimcp-bench-peer-")
            .tempdir()
            .expect("a temporary folder");
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .expect("a port is free")
            .port();
        let config = json!({
            "proxy": {"name": "bench", "listen": {"host": "127.0.0.1", "port": port}},
            // Without it, it writes a line for each step of each call.
            "observability": {"log_level": "warn"},
            "backends": [{
                "name": BACKEND, "transport": "stdio", "command": command[0], "args": command[1..],
            }],
        });
        let file = folder.path().join("proxy.toml");
        let text = toml::to_string(&config).expect("a configuration can be written");
        fs::write(&file, text).expect("the folder is ours");
        let log = fs::File::create(folder.path().join("peer.log")).expect("the folder is ours");
        let process = Command::new(program)
            .arg("--config")
            .arg(&file)
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("the peer starts");
        let endpoint = Endpoint {
            tool: format!("{BACKEND}/echo"),
            ..Endpoint::new(format!("127.0.0.1:{port}"), "/".to_owned())
        };
        let mut peer = Self {
            process,
            _folder: folder,
        };
        let deadline = Instant::now() + PATIENCE;
        while !endpoint.answers() {
            let ended = peer.process.try_wait().expect("it is our child");
            let log = || fs::read_to_string(file.with_file_name("peer.log")).unwrap_or_default();
            assert!(ended.is_none(), "the peer ended: {ended:?}\n{}", log());
            assert!(
                Instant::now() < deadline,
                "the peer is not ready\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(5)); // poll
        }
        (peer, endpoint)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SIGTERM first, so that it ends its server; with SIGKILL the server sees the end of its stdin.
        let pid = i32::try_from(self.process.id()).expect("pids are small");
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5)); // poll
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
