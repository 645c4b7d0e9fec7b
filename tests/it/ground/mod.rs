//! The ground gives way below a running daemon: a full disk, no descriptors, no processes, a clock that jumps. Access
//! URLs go on, what cannot be done is refused with the reason, nothing acknowledged is lost, and all is well afterwards.

pub mod clock;
mod descriptors;
mod disk;
mod forks;
mod read_only;

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Server;

/// What has not come true after so long never will.
const SOON: Duration = Duration::from_secs(60);

/// Polls until the condition holds.
async fn until<F: Future<Output = bool>>(
    server: &Server,
    what: &str,
    mut holds: impl FnMut() -> F,
) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await; // poll
    }
}

/// Stores a credential of about 4 KiB; whether it was, or why not.
async fn store_credential(server: &Server, name: &str) -> Result<(), Value> {
    let body = json!({"name": name, "value": "x".repeat(4_000)});
    let (status, answer) = server.call(Method::POST, "/credentials", Some(body)).await;
    if status.is_success() {
        Ok(())
    } else {
        Err(answer)
    }
}

/// The names of all stored credentials.
async fn credentials(server: &Server) -> Vec<String> {
    let list = server.get("/credentials").await;
    let items = list["items"].as_array().expect("a list").iter();
    let mut names: Vec<String> = items
        .map(|item| item["name"].as_str().expect("it has a name").to_owned())
        .collect();
    names.sort();
    names
}

/// Words of a command that runs the daemon after a line of shell.
fn after(line: &str) -> Vec<String> {
    let script = format!("{line} && exec \"$@\"");
    ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

/// Says so where a test needs root.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: only root can take this ground away");
    }
    is_root
}
