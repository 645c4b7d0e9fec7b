use std::collections::BTreeMap;

use super::*;
use crate::wire::{LastExit, ServerFacts};

fn now() -> Timestamp {
    "2026-11-21T10:00:00Z".parse().expect("a time")
}

pub(in crate::cli) fn instance(name: &str, id: &str) -> Instance {
    Instance {
        id: id.to_owned(),
        name: name.to_owned(),
        owner: "admin".to_owned(),
        slug: name.to_owned(),
        template: "demo".to_owned(),
        status: "running".to_owned(),
        since: "2026-11-21T09:58:30Z".to_owned(),
        reason: None,
        next_action_at: None,
        health: "healthy".to_owned(),
        desired: "running".to_owned(),
        generation: 1,
        port: Some(3001),
        pid: Some(4711),
        remote: None,
        session_children: Vec::new(),
        access_url: "http://127.0.0.1:3001/mcp".to_owned(),
        path_url: format!("http://127.0.0.1:7420/i/{name}/mcp"),
        access_token: None,
        connect_url: None,
        created_at: "2026-11-21T09:58:29Z".to_owned(),
        expires_at: Some("2026-11-21T12:00:00Z".to_owned()),
        restore_until: None,
        last_accessed_at: None,
        freeze_after: None,
        sleep_after: None,
        restarts: 0,
        last_exit: None,
        server: None,
        isolation: BTreeMap::new(),
        egress: None,
        denials: None,
        limits: serde_json::Value::Null,
        credentials: BTreeMap::new(),
        settings: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

fn failed() -> Instance {
    let mut failed = instance("my-github", "0199aaaa-0000-7000-8000-000000000002");
    failed.template = "github".to_owned();
    failed.status = "failed".to_owned();
    failed.health = "unknown".to_owned();
    failed.reason = Some("exited with code 3 five times in a row".to_owned());
    failed.generation = 6;
    failed.restarts = 5;
    failed.pid = None;
    failed.expires_at = None;
    failed.last_accessed_at = Some("2026-11-21T09:00:00Z".to_owned());
    failed.server = Some(ServerFacts {
        name: "github".to_owned(),
        version: "0.1.0".to_owned(),
        protocol_version: "2025-11-25".to_owned(),
        tools: vec!["get_me".to_owned(), "list_issues".to_owned()],
    });
    failed.last_exit = Some(LastExit {
        generation: 6,
        at: "2026-11-21T09:58:30Z".to_owned(),
        cause: "exited with code 3".to_owned(),
        code: Some(3),
        signal: None,
        out_of_memory: false,
        cpu_ms: 40,
        max_rss_kib: 9_000,
        last_stderr: vec!["bad\u{1b}[31m token".to_owned(), "giving up".to_owned()],
    });
    failed.credentials = BTreeMap::from([("GITHUB_TOKEN".to_owned(), "work".to_owned())]);
    failed.settings = BTreeMap::from([("depth".to_owned(), 3.into())]);
    failed
}

#[test]
fn a_list_is_a_table() {
    let items = [
        instance("demo", "0199aaaa-0000-7000-8000-000000000001"),
        failed(),
    ];
    insta::assert_snapshot!(listed(&items, now(), Output::plain()));
}

#[test]
fn an_instance_is_told_in_full() {
    insta::assert_snapshot!(described(&failed(), now()));
}

#[test]
fn a_token_is_shown_where_it_was_made() {
    let mut made = instance("demo", "0199aaaa-0000-7000-8000-000000000001");
    made.access_token = Some("mmcp_0123".to_owned());
    made.connect_url = Some("http://127.0.0.1:3001/mmcp_0123/mcp".to_owned());
    insta::assert_snapshot!(created(&made));
}

#[test]
fn what_did_not_come_up_says_why() {
    assert_eq!(
        not_running(&failed()),
        "my-github is failed: exited with code 3 five times in a row\n  bad\u{1b}[31m token\n  giving up"
    );
}

#[test]
fn an_owner_may_stand_before_the_name() {
    assert_eq!(of_owner("ada/github").as_deref(), Some("ada.github"));
    assert_eq!(of_owner("github"), None);
}

#[test]
fn the_beginning_of_an_id_is_enough_when_it_is_the_only_one() {
    let items = [
        instance("demo", "0199aaaa-0000-7000-8000-000000000001"),
        instance("face", "0199bbbb-0000-7000-8000-000000000002"),
        instance("other", "0199bbbb-0000-7000-8000-000000000003"),
    ];
    let chosen = |text| choose(text, &items).map_err(|failure| failure.to_string());
    assert_eq!(chosen("0199a").as_deref(), Ok(items[0].id.as_str()));
    assert_eq!(chosen("0199A").as_deref(), Ok(items[0].id.as_str()));
    assert_eq!(chosen("face").as_deref(), Ok("face"));
    assert_eq!(chosen("dead").as_deref(), Ok("dead"));
    assert_eq!(
        chosen("0199b"),
        Err("0199b begins the ids of 2 instances: face, other".to_owned())
    );
}

#[test]
fn a_setting_is_json_where_it_reads_as_such() {
    assert_eq!(settings::value("3"), 3);
    assert_eq!(settings::value("true"), true);
    assert_eq!(settings::value("[\"a\"]"), serde_json::json!(["a"]));
    assert_eq!(settings::value("plain text"), "plain text");
    assert_eq!(settings::value("\"3\""), "3");
}
