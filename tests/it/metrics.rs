//! What `/metrics` gives is what `systemd/monitoring/README.md` lists, and the dashboard and the alerts use nothing else.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::json;

use crate::{
    harness::{Database, Server, on_both_databases},
    mcp::Mcp,
};

const LIST: &str = include_str!("../../systemd/monitoring/README.md");
const DASHBOARD: &str = include_str!("../../systemd/monitoring/dashboard.json");
const ALERTS: &str = include_str!("../../systemd/monitoring/alerts.yml");

/// What a metric is: its type and the names of its labels.
type Kinds = BTreeMap<String, (String, BTreeSet<String>)>;

on_both_databases! {
    the_list_of_metrics_is_what_a_daemon_gives,
}

/// The table of the list.
fn listed() -> Kinds {
    let rows = LIST.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[2]
            .split(',')
            .map(|label| label.trim().trim_matches('`'));
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        let name = cells[0].trim_end_matches('`').to_owned();
        assert!(!cells[3].is_empty(), "{name} has no meaning");
        (name, (cells[1].to_owned(), labels.collect()))
    })
    .collect()
}

/// The metrics of an OpenMetrics text, counters with the suffix of their samples.
fn given(text: &str) -> Kinds {
    let mut kinds = Kinds::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            family = format!("{name}{suffix}");
            kinds.insert(family.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let labels = line
                .split_once('{')
                .and_then(|(_, rest)| rest.rsplit_once('}'));
            let Some((labels, _)) = labels else { continue };
            // No value of these labels holds a comma or a quote.
            let names = labels
                .split(',')
                .map(|pair| pair.split('=').next().unwrap_or(""));
            let names = names.filter(|name| *name != "le").map(str::to_owned);
            let known = kinds.get_mut(&family).expect("samples follow their type");
            known.1.extend(names);
        }
    }
    kinds
}

/// Everything in a text that looks like one of our metrics.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("minimcp_"))
        .map(str::to_owned)
        .collect()
}

async fn the_list_of_metrics_is_what_a_daemon_gives(database: Database) {
    let server = Server::start(database).await;
    let instance = server
        .create(json!({"template": "demo", "name": "first"}))
        .await;
    let mut client = Mcp::connect(&instance).await;
    client
        .tool("echo", json!({"text": "x"}))
        .await
        .expect("it echoes");
    // Refused: without a token, and an instance that was stopped. Both are told with the id of their request.
    let url = instance["access_url"].as_str().expect("it has a URL");
    let request = crate::harness::http_client().post(url);
    let request = request.header("x-request-id", "mine-1");
    let refused = request.send().await.expect("an answer");
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["x-request-id"], "mine-1");
    let down = server
        .create(json!({"template": "demo", "name": "second"}))
        .await;
    let id = down["id"].as_str().expect("it has an id");
    let stopped = Mcp::connect(&down).await;
    server.post("/mcps/second/stop", json!({})).await;
    let patience = std::time::Duration::from_secs(60);
    server.wait_status(id, &["stopped"], patience).await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let failed = stopped.send(&list).await;
    assert_eq!(failed.status(), 503);
    let request_id = failed.headers()["x-request-id"].to_str().expect("text");
    let log = server.log();
    let mut lines = log.lines();
    let told = lines.find(|line| line.contains(request_id));
    assert!(told.is_some_and(|line| line.contains(id)), "{log}");
    let answer = server.send(Method::GET, "/metrics", None).await;
    let text = answer.text().await.expect("text");
    assert_eq!(given(&text), listed());
    let value = |sample: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(sample));
        let value = line.unwrap_or_else(|| panic!("no {sample}:\n{text}"));
        value.trim().parse::<f64>().expect("a number")
    };
    // What was done was counted.
    for (sample, least) in [
        ("minimcp_instances{status=\"running\"} ", 1.0),
        ("minimcp_launches_total ", 1.0),
        ("minimcp_spawn_duration_seconds_count ", 1.0),
        ("minimcp_ready_duration_seconds_count ", 1.0),
        ("minimcp_gateway_answers_total{status=\"200\"} ", 2.0),
        ("minimcp_gateway_errors_total{cause=\"no-token\"} ", 1.0),
        ("minimcp_gateway_errors_total{cause=\"stopped\"} ", 1.0),
        ("minimcp_gateway_request_duration_seconds_count ", 2.0),
        ("minimcp_call_outcomes_total{outcome=\"ok\"} ", 1.0),
        ("minimcp_call_duration_seconds_count ", 1.0),
        ("minimcp_database_statement_duration_seconds_count ", 1.0),
        (
            "minimcp_instance_resident_memory_bytes{name=\"first\"} ",
            4_096.0,
        ),
        ("minimcp_process_open_fds ", 3.0),
        ("minimcp_process_max_fds ", 3.0),
        ("minimcp_log_store_available ", 1.0),
    ] {
        assert!(value(sample) >= least, "{sample}{}", value(sample));
    }
    // The buckets of a histogram rise to its count.
    let buckets = text
        .lines()
        .filter(|line| line.starts_with("minimcp_database_statement_duration_seconds_bucket"));
    let counts: Vec<f64> = buckets
        .map(|line| {
            line.rsplit(' ')
                .next()
                .expect("a value")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(counts.is_sorted(), "{counts:?}");
    let count = value("minimcp_database_statement_duration_seconds_count ");
    assert!(
        counts.last().is_some_and(|last| (last - count).abs() < 0.5),
        "{counts:?} {count}"
    );
    // What is deleted leaves no label behind.
    server.delete("first").await;
    let text = server
        .send(Method::GET, "/metrics", None)
        .await
        .text()
        .await
        .expect("text");
    assert!(!text.contains("name=\"first\""), "{text}");
}

#[test]
fn dashboard_and_alerts_use_metrics_that_are_on_the_list() {
    let listed = listed();
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut panels = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let names = named(target["expr"].as_str().expect("an expression"));
            assert!(!names.is_empty(), "{target}");
            panels += 1;
        }
    }
    assert!(panels > 20, "{panels}");
    let alerts = ALERTS
        .lines()
        .filter(|line| line.trim_start().starts_with("expr: "));
    assert_eq!(alerts.clone().count(), ALERTS.matches("- alert: ").count());
    for name in named(DASHBOARD).union(&named(ALERTS)) {
        let family = name.trim_end_matches("_bucket");
        let is_histogram = |name: &str| {
            listed
                .get(name)
                .is_some_and(|(kind, _)| kind == "histogram")
        };
        let known = match family == name {
            true => listed.contains_key(name) && !is_histogram(name),
            false => is_histogram(family),
        };
        assert!(known, "{name} is not on the list");
    }
}
