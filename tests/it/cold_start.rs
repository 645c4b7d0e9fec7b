//! Many servers of other people created at once: all of them become ready, and one that a client comes for goes before
//! those that nobody waits for. `tests/cold_start` does it with 104, over an empty store of packages, and tells times.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use minimcp::domain::duration::HumanDuration;
use serde_json::{Value, json};

use crate::{
    fixtures,
    harness::{Database, Server},
    mcp::Mcp,
};

/// All starts on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

const TEMPLATES: [&str; 4] = ["memory", "time", "sequential-thinking", "duckduckgo"];

async fn starting(server: &Server) -> usize {
    let list = server.get("/mcps?limit=100").await;
    let items = list["items"].as_array().expect("a list");
    let running = items.iter().filter(|item| item["status"] == "running");
    items.len() - running.count()
}

#[tokio::test]
async fn all_are_ready_and_one_that_a_client_waits_for_goes_first() {
    if fixtures::third_party().is_none() {
        return;
    }
    let server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.search_path = fixtures::third_party_search_path();
        config.runtime.launches_max = 2;
        config.gateway.wake_budget = HumanDuration::from_secs(PATIENCE.as_secs());
    })
    .await;
    let bodies = (0..20).map(|number| {
        let template = TEMPLATES[number % TEMPLATES.len()];
        json!({"template": template, "name": format!("{template}-{number}")})
    });
    let created: Vec<Value> = stream::iter(bodies)
        .map(|body| server.post("/mcps", body))
        .buffered(8)
        .collect()
        .await;

    let last = created.last().expect("twenty were created");
    let mut client = Mcp::connect(last).await;
    let behind = starting(&server).await;
    assert!(
        behind >= 3,
        "it was created last, and only {behind} of 20 were started after it"
    );
    assert!(!client.tools().await.is_empty());
    for instance in &created {
        let id = instance["id"].as_str().expect("it has an id");
        let there = server
            .wait_status(id, &["running", "failed"], PATIENCE)
            .await;
        assert_eq!(there["status"], "running", "{there:#}");
    }
    assert_eq!(starting(&server).await, 0);
}
