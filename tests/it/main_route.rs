//! The main route: create from a template, use the access URL, delete; nothing is left.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases, wait_until},
    mcp::{self, Mcp},
};

on_both_databases! {
    every_official_sdk_lists_and_calls_tools,
    an_instance_is_created_used_and_deleted,
    http_children_are_reached_and_never_see_the_access_token,
    a_child_inherits_nothing_but_what_its_template_gives,
}

async fn an_instance_is_created_used_and_deleted(database: Database) {
    let server = Server::start(database).await;
    let instance = server
        .create(json!({"template": "demo", "name": "first"}))
        .await;
    assert_eq!(instance["status"], "running", "{instance:#}");
    assert_eq!(instance["generation"], 1);
    assert_eq!(server.access_ports().len(), 1);

    let mut client = Mcp::connect(&instance).await;
    assert!(client.tools().await.contains(&"echo".to_owned()));
    let answer = client.tool("echo", json!({"text": "hello"})).await;
    assert_eq!(answer.as_deref(), Ok("hello"));

    let listed = server.get("/mcps").await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    assert!(
        !listed.to_string().contains("access_token"),
        "tokens are shown once"
    );

    let id = instance["id"].as_str().expect("it has an id");
    server.delete(id).await;
    let (status, problem) = server.call(Method::GET, &format!("/mcps/{id}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
    assert_eq!(server.access_ports(), [0_u16; 0]);
    let gone = wait_until(Duration::from_secs(5), || {
        let children = server.processes();
        (!children
            .iter()
            .any(|child| child.command.contains("mcp demo")))
        .then_some(())
    });
    assert!(gone.is_some(), "{:?}", server.processes());
}

async fn every_official_sdk_lists_and_calls_tools(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "demo"})).await;
    for name in mcp::SDKS {
        let arguments = json!({"text": "hello"});
        let Some(report) = mcp::sdk(name, &instance, "echo", &arguments).await else {
            return;
        };
        let tools = report["tools"].as_array().expect("tools are a list");
        assert!(tools.contains(&json!("echo")), "{name}: {report}");
        assert_eq!(report["result"]["content"][0]["text"], "hello", "{name}");
    }
}

async fn http_children_are_reached_and_never_see_the_access_token(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "http-echo"})).await;
    assert_eq!(instance["status"], "running", "{instance:#}");
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "hello"})).await;
    assert_eq!(answer.as_deref(), Ok("hello"));
    let header = json!({"name": "header:authorization"});
    assert_eq!(client.tool("variable", header).await.as_deref(), Ok(""));
}

async fn a_child_inherits_nothing_but_what_its_template_gives(database: Database) {
    let server = Server::start(database).await;
    let secret = json!({"name": "example", "value": "s3cret-value-42"});
    server.post("/credentials", secret).await;
    let instance = server
        .create(json!({"template": "legacy-echo", "credentials": {"EXAMPLE_KEY": "example"}}))
        .await;
    let mut client = Mcp::connect(&instance).await;

    let names = client
        .tool("environment", json!({}))
        .await
        .expect("it answers");
    assert!(!names.contains("MINIMCP"), "{names}");
    assert!(names.contains("EXAMPLE_KEY"), "{names}");
    let value = client
        .tool("variable", json!({"name": "EXAMPLE_KEY"}))
        .await;
    assert_eq!(value.as_deref(), Ok("s3cret-value-42"));

    let descriptors = client
        .tool("descriptors", json!({}))
        .await
        .expect("it answers");
    let descriptors: Value = serde_json::from_str(&descriptors).expect("it is JSON");
    let descriptors = descriptors.as_object().expect("it is a map");
    assert_eq!(
        descriptors.keys().collect::<Vec<_>>(),
        ["0", "1", "2"],
        "{descriptors:?}"
    );

    let folder = client.tool("folder", json!({})).await.expect("it answers");
    let own = server.config().runtime.instance_dir.clone();
    assert!(folder.starts_with(own.to_str().expect("ASCII")), "{folder}");
    assert!(
        !server.log().contains("s3cret-value-42"),
        "the secret is in our log"
    );
}
