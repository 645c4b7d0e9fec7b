//! No descriptor is free any more: strangers hold connections open.

use std::net::TcpStream;

use serde_json::json;

use super::{credentials, store_credential, until};
use crate::{
    harness::{Database, Server},
    mcp::Mcp,
};

/// So many may `serve` have, and far more connections are opened.
const DESCRIPTORS: usize = 192;

#[tokio::test]
async fn a_daemon_without_free_descriptors_comes_back_with_all_that_it_had() {
    let line = format!("ulimit -n {DESCRIPTORS}");
    let mut server = Server::begin_under(Database::Sqlite, |_| super::after(&line)).await;
    server.until_ready().await;
    let instance = server.create(json!({"template": "demo"})).await;
    let id = instance["id"].as_str().expect("it has an id").to_owned();
    let mut client = Mcp::connect(&instance).await;
    assert!(store_credential(&server, "before").await.is_ok());

    let api = server.config().api.port;
    let open = || (0..2 * DESCRIPTORS).map(|_| TcpStream::connect(("127.0.0.1", api)));
    let strangers: Vec<_> = open().collect();
    assert!(
        strangers.iter().all(Result::is_ok),
        "the kernel queues them"
    );
    let held = || crate::soak::held(server.pid()).descriptors;
    // Only root may look; others see what follows.
    if nix::unistd::geteuid().is_root() {
        until(&server, "they are taken", || async {
            held() + 8 >= DESCRIPTORS
        })
        .await;
    }
    // Connections that are open go on.
    let answer = client.tool("echo", json!({"text": "still here"})).await;
    assert_eq!(answer.as_deref(), Ok("still here"));

    drop(strangers);
    until(&server, "credentials are taken", || async {
        store_credential(&server, "after").await.is_ok()
    })
    .await;
    assert_eq!(credentials(&server).await, ["after", "before"]);
    let second = server.create(json!({"template": "demo"})).await;
    assert_eq!(second["status"], "running", "{second:#}");
    let now = server.get(&format!("/mcps/{id}")).await;
    assert_eq!(now["pid"], instance["pid"], "it was never touched: {now:#}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
