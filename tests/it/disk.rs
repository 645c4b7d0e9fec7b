//! A folder that outgrows its budget: the instance fails with the cause, its data stays, and a neighbour lives on.

use std::{fs, time::Duration};

use serde_json::json;

use crate::harness::{Database, Server};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_instance_past_its_disk_budget_fails_with_the_cause() {
    let own = tempfile::tempdir().expect("a temporary folder");
    let manifest = "schema = 1\nname = \"frugal\"\ntitle = \"T\"\ndescription = \"D\"\n[server]\n\
                    transport = \"stdio\"\nbuiltin = \"demo\"\n[limits]\nmax_disk_bytes = 1048576\n\
                    [restart]\npolicy = \"always\"\n";
    fs::create_dir(own.path().join("frugal")).expect("ours");
    fs::write(own.path().join("frugal/template.toml"), manifest).expect("ours");
    let folder = own.path().to_owned();
    let server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.template_dirs.push(folder);
    })
    .await;
    let greedy = server.create(json!({"template": "frugal"})).await;
    let neighbour = server.create(json!({"template": "frugal"})).await;
    assert_eq!(greedy["limits"]["max_disk_bytes"], 1_048_576, "{greedy:#}");
    let id = greedy["id"].as_str().expect("it has an id");
    let file = server.config().runtime.instance_dir.join(id).join("data");
    fs::write(&file, vec![7; 3 << 20]).expect("the folder is there");

    server.post("/tasks/disk-use/run", json!({})).await;
    let failed = server.wait_status(id, &["failed"], SOON).await;
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("limits.max_disk_bytes"), "{failed:#}");
    assert_eq!(fs::metadata(&file).expect("data stays").len(), 3 << 20);
    let path = format!("/mcps/{}", neighbour["id"].as_str().expect("it has an id"));
    let now = server.get(&path).await;
    assert_eq!(
        (&now["pid"], &now["status"]),
        (&neighbour["pid"], &json!("running"))
    );

    // By hand it starts again, once there is room.
    fs::remove_file(&file).expect("ours");
    server.post(&format!("/mcps/{id}/start"), json!({})).await;
    server.wait_status(id, &["running"], SOON).await;
    server.post("/tasks/disk-use/run", json!({})).await;
    server.wait_status(id, &["running"], SOON).await;
}
