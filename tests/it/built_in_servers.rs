//! The built-in servers as the processes they are: their lists come from files, so what is on the wire is held against
//! the files, and calls must find their tools all the same.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// Sends these requests, one after the other's answer, to `minimcp mcp NAME`, whose stdin ends then.
fn asked(name: &str, environment: &[(&str, &str)], requests: &[Value]) -> Vec<Value> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .args(["mcp", name])
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawned");
    let mut stdin = child.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut answers = Vec::new();
    for request in requests {
        writeln!(stdin, "{request}").expect("written");
        if request.get("id").is_some() {
            let line = lines.next().expect("an answer").expect("text");
            answers.push(serde_json::from_str(&line).expect("one JSON text"));
        }
    }
    drop(stdin);
    assert!(lines.next().is_none(), "no more than was asked for");
    assert!(child.wait().expect("ended").success());
    answers
}

/// The tools of a server by name, as its files have them.
fn written(files: &[&str]) -> BTreeMap<String, Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/mcp-templates");
    let read = |file| std::fs::read_to_string(format!("{folder}/{file}")).expect(file);
    let texts: Vec<String> = files.iter().map(|file| read(*file)).collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    lines
        .map(|line| {
            let tool: Value = serde_json::from_str(line).expect("JSON");
            (tool["name"].as_str().expect("a name").to_owned(), tool)
        })
        .collect()
}

fn assert_listed(answer: &Value, tools: &BTreeMap<String, Value>) {
    let expected: Vec<&Value> = tools.values().collect();
    let listed = answer["result"]["tools"].as_array().expect("tools");
    assert!(!expected.is_empty());
    assert_eq!(listed.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn the_lists_on_the_wire_are_those_of_the_files_and_calls_find_their_tools() {
    let session = |call: Value| {
        vec![
            json!({"jsonrpc": "2.0", "id": "i", "method": "initialize", "params": {
                "protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": {"name": "it", "version": "1"}}}),
            json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
            json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}),
            json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list"}),
        ]
    };
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let stateless =
        [json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}})];
    let github = [
        "github/tools/context.jsonl",
        "github/tools/issues.jsonl",
        "github/tools/pull_requests.jsonl",
        "github/tools/repos.jsonl",
        "github/tools/users.jsonl",
    ];
    for (name, files, tool) in [
        ("figma", &["figma/tools.jsonl"][..], "get_figma_data"),
        ("gmail", &["gmail/tools.jsonl"], "list_email_labels"),
        ("github", &github, "get_me"),
    ] {
        let tools = written(files);
        assert!(tools.contains_key(tool), "{name}");
        let arguments = if name == "figma" {
            json!({"fileKey": "abc"})
        } else {
            json!({})
        };
        let call = json!({"name": tool, "arguments": arguments});
        let answers = asked(name, &[], &session(call));
        assert_listed(&answers[1], &tools);
        assert_listed(&answers[3], &tools);
        // Without a credential the tool itself says what to do: it was found, and it was run.
        let told = answers[2]["result"]["content"][0]["text"].as_str();
        assert_eq!(
            answers[2]["result"]["isError"],
            json!(true),
            "{}",
            answers[2]
        );
        assert!(
            told.is_some_and(|told| told.contains("credential")),
            "{told:?}"
        );
        let answers = asked(name, &[], &stateless);
        assert_listed(&answers[0], &tools);
        assert_eq!(answers[0]["result"]["resultType"], json!("complete"));
    }
}

#[test]
fn only_what_reads_is_listed_when_github_is_read_only() {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let list =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}});
    let mut tools = written(&["github/tools/gists.jsonl", "github/tools/labels.jsonl"]);
    let all = tools.len();
    tools.retain(|_, tool| tool["annotations"]["readOnlyHint"] == json!(true));
    assert!(tools.len() < all);
    let environment = [
        ("GITHUB_TOOLSETS", "labels,gists"),
        ("GITHUB_READ_ONLY", "1"),
    ];
    assert_listed(&asked("github", &environment, &[list])[0], &tools);
}
