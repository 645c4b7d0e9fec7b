//! `minimcp import`, `minimcp connect` and `minimcp template schema`, as a person uses them.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::harness::{Database, Server};

struct Shell {
    server: Server,
    home: tempfile::TempDir,
}

impl Shell {
    /// Exit code, stdout, stderr of a command that reads `stdin`.
    fn run(&self, line: &[&str], stdin: &str) -> (Option<i32>, String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_minimcp"))
            .args(line)
            .env_clear()
            .env("HOME", self.home.path())
            .env("MINIMCP_API_URL", self.server.url())
            .env(
                "MINIMCP_TOKEN_FILE",
                &self.server.config().api.admin_token_file,
            )
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut pipe = child.stdin.take().expect("it is a pipe");
        // One that reads nothing has closed it.
        let _ = pipe.write_all(stdin.as_bytes());
        drop(pipe);
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (status.code(), text(stdout), text(stderr))
    }
}

#[tokio::test]
async fn a_file_is_tried_written_elsewhere_and_imported() {
    let shell = Shell {
        server: Server::start(Database::Sqlite).await,
        home: tempfile::tempdir().expect("a folder"),
    };
    let file = json!({"mcpServers": {"echo": {"command": env!("CARGO_BIN_EXE_minimcp"), "args": ["mcp", "demo"],
        "env": {"ECHO_TOKEN": "s3cret-of-echo"}}, "box": {"command": "docker", "args": ["run", "mcp/x"]}}});
    let file = file.to_string();
    fs::write(shell.home.path().join("mcp.json"), &file).expect("the folder is ours");

    let (code, out, err) = shell.run(&["import", "mcp.json", "--dry-run", "--server", "echo"], "");
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(
        out.contains("echo: would become the template echo"),
        "{out}"
    );
    assert!(
        out.contains("credential ECHO_TOKEN: its value is in the file"),
        "{out}"
    );

    let line = ["import", "-", "--server", "echo", "--dir", "mine"];
    let (code, out, err) = shell.run(&line, &file);
    assert_eq!(code, Some(0), "{out}{err}");
    let written = shell.home.path().join("mine/echo/template.toml");
    let manifest = fs::read_to_string(&written).expect("it was written");
    assert!(
        manifest.contains("ECHO_TOKEN") && !manifest.contains("s3cret"),
        "{manifest}"
    );
    let (code, out, _) = shell.run(&["template", "check", "mine/echo"], "");
    assert_eq!((code, out.trim()), (Some(0), "mine/echo: valid"));
    let (code, _, err) = shell.run(&line, &file);
    assert_eq!(code, Some(1), "what is there stays");
    assert!(err.contains("cannot be written"), "{err}");

    let (code, out, err) = shell.run(&["import", "mcp.json", "--start"], "");
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("1 of 2 servers"), "{err}");
    assert!(
        out.contains("box: not imported") && out.contains("container image mcp/x"),
        "{out}"
    );
    assert!(
        out.contains("credential ECHO_TOKEN: stored as echo.ECHO_TOKEN"),
        "{out}"
    );
    assert!(
        out.contains("Access URL") && !out.contains("s3cret"),
        "{out}"
    );

    for (line, code, part) in [
        (&["import", "absent.json"][..], 2, "cannot read absent.json"),
        (&["import", "-"], 1, "neither JSON, TOML nor YAML"),
        (
            &["import", "mcp.json", "--from", "codex"],
            1,
            "config.toml of Codex",
        ),
        (
            &["import", "mcp.json", "--server", "nobody"],
            1,
            "box, echo",
        ),
        (&["import", "mcp.json", "--from", "toml"], 2, "mcp-servers"),
        (
            &["import", "mcp.json", "--start", "--dry-run"],
            2,
            "cannot be used with",
        ),
        (&["connect", "nobody"], 1, "there is no instance"),
        (&["connect", "echo", "--client", "emacs"], 2, "claude-code"),
    ] {
        let (status, out, err) = shell.run(line, "just words");
        assert_eq!(status, Some(code), "{line:?}: {out}{err}");
        assert!(
            err.contains(part) && !err.contains("panicked"),
            "{line:?}: {err}"
        );
    }

    let (code, out, err) = shell.run(&["connect", "echo", "--client", "codex"], "");
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("bearer_token_env_var = \"MINIMCP_ECHO_TOKEN\""),
        "{out}"
    );
    assert!(
        err.contains("~/.codex/config.toml") && err.contains("MINIMCP_ECHO_TOKEN"),
        "{err}"
    );
    let (code, out, err) = shell.run(&["connect", "echo", "--new-token", "laptop"], "");
    assert_eq!(code, Some(0), "{err}");
    let config: Value = serde_json::from_str(&out).expect("stdout is what to paste");
    let entry = &config["mcpServers"]["echo"];
    let bearer = entry["headers"]["Authorization"]
        .as_str()
        .expect("a header");
    let answer = reqwest::Client::new()
        .post(entry["url"].as_str().expect("an address"))
        .header("Authorization", bearer)
        .header("Accept", "application/json, text/event-stream")
        .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list",
            "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}}}}))
        .header("MCP-Protocol-Version", "2026-07-28")
        .header("Mcp-Method", "tools/list")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), 200, "the new token opens it");
}

#[test]
fn the_schema_is_printed_without_a_daemon() {
    let said = Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .args(["template", "schema"])
        .output()
        .expect("it starts");
    let schema: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(schema, minimcp::templates::manifest_schema());
}
