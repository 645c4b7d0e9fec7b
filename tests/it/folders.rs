//! A deletion that was cut off between the row and the folder is ended by the next start; without a row alone nothing is.

use std::{fs, time::Duration};

use serde_json::json;

use crate::harness::{Database, Server, on_both_databases};

on_both_databases! {
    a_deletion_that_was_cut_off_is_ended_or_undone_by_what_the_row_says,
}

async fn a_deletion_that_was_cut_off_is_ended_or_undone_by_what_the_row_says(database: Database) {
    let mut server = Server::start(database).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let id = instance["id"].as_str().expect("it has an id").to_owned();
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    let place = server.config().runtime.instance_dir.clone();
    let folder = |name: &str| place.join(name);
    // Its row is there: the deletion came to nothing.
    fs::write(folder(&id).join("notes"), "kept").expect("the folder is ours");
    fs::rename(folder(&id), folder(&format!("{id}.deleted"))).expect("ours");
    // No row: one that was set aside, and one that was not.
    let [aside, stray] = [(); 2].map(|()| uuid::Uuid::now_v7().to_string());
    fs::create_dir_all(folder(&format!("{aside}.deleted")).join("deep")).expect("ours");
    fs::create_dir(folder(&stray)).expect("ours");

    server.launch().await;
    server
        .wait_status(&id, &["running"], Duration::from_secs(30))
        .await;
    let notes = fs::read_to_string(folder(&id).join("notes"));
    assert_eq!(notes.ok().as_deref(), Some("kept"));
    assert!(!folder(&format!("{aside}.deleted")).exists());
    assert!(folder(&stray).exists(), "it may be of another database");
    assert!(
        server.log().contains(&stray),
        "it is told: {}",
        server.log()
    );
    server.delete(&id).await;
    assert!(!folder(&id).exists() && !folder(&format!("{id}.deleted")).exists());
}
