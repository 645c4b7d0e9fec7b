//! `minimcp upgrade`: another program takes the daemon's place while instances run on and clients wait.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};
use tokio::process::Command;

use crate::{
    api_restart::asked_by_path,
    harness::{Database, Server, wait_until},
    meetings::{Client, everything, text, until},
    per_session::until_children,
    processes,
    session_survival::end_with_keeper,
    survival::keeper_of,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_minimcp");
const SOON: Duration = Duration::from_secs(60);

/// A daemon whose program is a file of its own. It and its keeper end together, as they do without units.
async fn server(lingers: bool) -> Server {
    let mut server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.leave_instances_running = lingers;
        config.runtime.keeper_linger = lingers;
        config.api.unix_socket = Some(config.api.admin_token_file.with_file_name("api.sock"));
    })
    .await;
    server.replace_program();
    if lingers {
        let keeper = keeper_of(&server).pid;
        assert_eq!(server.stop(), Some(0), "{}", server.log());
        processes::terminate(keeper);
    } else {
        assert_eq!(server.stop(), Some(0), "{}", server.log());
    }
    server.launch().await;
    server
}

/// Exit code, stdout, stderr of `minimcp upgrade` with these options.
pub async fn upgrade(server: &Server, options: &[&str]) -> (Option<i32>, String, String) {
    let said = Command::new(PROGRAM)
        .arg("upgrade")
        .args(options)
        .current_dir(folder_of(server))
        .env_clear()
        .env("MINIMCP_API_URL", server.url())
        .env("MINIMCP_TOKEN_FILE", &server.config().api.admin_token_file)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let said = tokio::time::timeout(SOON, said).await.expect("in time");
    let said = said.expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (said.status.code(), text(said.stdout), text(said.stderr))
}

/// Where its program lies.
fn folder_of(server: &Server) -> &Path {
    let data = server.config().api.admin_token_file.parent();
    data.and_then(Path::parent).expect("as the harness made it")
}

async fn process(server: &Server) -> Value {
    server.get("/diagnostics").await["process"].clone()
}

fn place(process: &Value) -> PathBuf {
    process["program"].as_str().expect("a path").into()
}

/// The file that a process runs.
fn running_file(pid: u32) -> String {
    let link = fs::read_link(format!("/proc/{pid}/exe")).expect("it lives");
    link.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_sessions_and_calls_go_on_under_the_new_program() {
    for lingers in [false, true] {
        let server = server(lingers).await;
        let mut instances = Vec::new();
        for template in ["stateless", "wishes", "http-echo"] {
            instances.push(server.create(json!({"template": template})).await);
        }
        instances.push(server.create(json!({"template": "keeps-state"})).await);
        let (mut client, _) = Client::in_session(&instances[0], everything()).await;
        let (mut counting, _) = Client::in_session(&instances[3], json!({})).await;
        let child = until_children(&server, &instances[3], 1).await;
        let one = json!({"number": 1});
        assert_eq!(text(counting.tool(2, "add", one.clone())).await, "1");
        let keeper = keeper_of(&server).pid;
        for turn in 0..2 {
            let params = json!({"name": "sleep", "arguments": {"ms": 500, "name": "a"}});
            let called = tokio::spawn(client.request(2, "tools/call", params).send());
            until(&client, "sleeping", r#"["a"]"#).await;
            let before = process(&server).await;
            let (code, out, err) = upgrade(&server, &["--binary", PROGRAM, "--json"]).await;
            assert_eq!(code, Some(0), "{out}{err}\n{}", server.log());
            let report: Value = serde_json::from_str(&out).expect("JSON");
            assert_eq!(report["kept"], 4, "{report}");
            assert_eq!(report["lost"], json!([]), "{report}");
            for waits in report["waits"].as_array().expect("a list") {
                assert!(waits["asked"].as_u64() > Some(0), "{report}");
                assert_eq!(waits["failed"], 0, "{report}\n{}", server.log());
            }
            let answer = called.await.expect("joined").expect("an answer");
            let answer = answer.text().await.expect("a body");
            assert!(answer.contains("slept"), "{answer}\n{}", server.log());
            let after = process(&server).await;
            assert_eq!(after["pid"], server.pid(), "turn {turn}");
            assert_ne!(after["started_at"], before["started_at"]);
            assert_eq!(after["program"], before["program"]);
            // Both run the file that was put there.
            let there = place(&after).display().to_string();
            assert_eq!(keeper_of(&server).pid, keeper);
            assert_eq!(running_file(keeper), there, "{}", server.log());
            assert_eq!(running_file(server.pid()), there);
            for instance in &instances {
                let id = instance["id"].as_str().expect("an id");
                let now = server.wait_status(id, &["running"], SOON).await;
                assert_eq!(now["pid"], instance["pid"], "{}", server.log());
            }
            client.reconnect();
            let said = text(client.tool(4, "echo", json!({"text": "on"}))).await;
            assert_eq!(said, "on", "the session goes on");
            counting.reconnect();
            let total = text(counting.tool(3, "add", one.clone())).await;
            assert_eq!(total, (turn + 2).to_string(), "and so does its child");
            assert_eq!(until_children(&server, &instances[3], 1).await, child);
            let socket = server.config().api.unix_socket.clone();
            let by_path = asked_by_path(&socket.expect("as it was configured")).await;
            assert_eq!(by_path.expect("an answer"), "HTTP/1.1 200 OK");
        }
        let again = server.create(json!({"template": "demo"})).await;
        assert_eq!(again["status"], "running", "it launches: {again:#}");
        if lingers {
            end_with_keeper(server);
        }
        // Else its end is the keeper's, which the harness looks after.
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_dies_at_its_start_takes_no_instance_along() {
    let mut server = server(false).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let there = place(&process(&server).await);
    let file = fs::metadata(&there).expect("it is there").ino();
    let keeper = keeper_of(&server).pid;
    // Whoever waits for the lock of the daemon's folder has it when the former program is gone, so the new one cannot start.
    let lock = server.config().runtime.instance_dir.join(".lock");
    let mut holder = std::process::Command::new("flock")
        .arg(&lock)
        .args(["cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("util-linux is everywhere");
    let (code, out, err) = upgrade(&server, &["--binary", PROGRAM]).await;
    assert_eq!(
        (code, out.as_str()),
        (Some(1), ""),
        "{err}\n{}",
        server.log()
    );
    for part in [
        "ended at its start",
        "the former program is at",
        "within 10 minutes",
    ] {
        assert!(err.contains(part), "{part}: {err}");
    }
    let status = server.until_ended().await;
    assert_eq!(status.code(), Some(1), "{}", server.log());
    assert!(
        server.log().contains("another daemon may be using"),
        "{}",
        server.log()
    );
    let now = fs::metadata(&there).expect("it is there").ino();
    assert_eq!(now, file, "the former program is in its place");
    assert_eq!(keeper_of(&server).pid, keeper, "it waits");
    drop(holder.stdin.take());
    holder.wait().expect("it is our child");

    server.launch().await;
    let id = instance["id"].as_str().expect("an id");
    let now = server.wait_status(id, &["running"], SOON).await;
    assert_eq!(now["pid"], instance["pid"], "{}", server.log());
    assert_eq!(keeper_of(&server).pid, keeper);
    // From now on it ends with the daemon again.
    server.kill();
    let gone = wait_until(SOON, || server.processes().is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", server.processes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_would_not_serve_changes_nothing() {
    let server = server(false).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let before = process(&server).await;
    let there = place(&before);
    let file = fs::metadata(&there).expect("it is there").ino();
    let script = there.with_file_name("script");
    fs::write(&script, "#!/bin/sh\necho minimcp 9.0.0\n").expect("the folder is ours");
    let no_minimcp = std::env::current_exe().expect("a test runs");
    let unchanged = async |part: &str, (code, out, err): (Option<i32>, String, String)| {
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(
            err.contains(part) && !err.contains("os error"),
            "{part}: {err}"
        );
        assert_eq!(process(&server).await, before, "{}", server.log());
        let now = fs::metadata(&there).expect("it is there").ino();
        assert_eq!(now, file, "the former program is in its place");
        let id = instance["id"].as_str().expect("an id");
        let now = server.get(&format!("/mcps/{id}")).await;
        assert_eq!(
            (&now["pid"], &now["status"]),
            (&instance["pid"], &json!("running"))
        );
    };
    for (binary, part) in [
        (&script, "no ELF"),
        (&no_minimcp, "no minimcp"),
        (&there.with_file_name("missing"), "cannot be read"),
    ] {
        let binary = binary.display().to_string();
        let said = upgrade(&server, &["--binary", &binary]).await;
        unchanged(part, said).await;
    }
    // A database that a newer one has changed is not for this program.
    let url = server.config().database.url.clone();
    let mut database = SqliteConnection::connect(&url).await.expect("it is there");
    let mut run = async |sql: &'static str| {
        sqlx::query(sql)
            .execute(&mut database)
            .await
            .expect("it is written");
    };
    run("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', TRUE, x'00', 1)").await;
    for options in [&["--binary", PROGRAM][..], &[]] {
        unchanged("newer minimcp", upgrade(&server, options).await).await;
    }
    run("DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    // A name in the folder where it is given.
    fs::copy(PROGRAM, there.with_file_name("fresh")).expect("the folder is ours");
    let (code, out, err) = upgrade(&server, &["--binary", "fresh"]).await;
    assert_eq!(code, Some(0), "{err}\n{}", server.log());
    assert!(out.contains("The running instance kept"), "{out}");
}
