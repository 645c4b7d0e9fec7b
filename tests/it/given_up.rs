//! What `serve` can no longer do once it runs beside a keeper that it did not start.

use std::{fs, time::Duration};

use serde_json::json;

use crate::{
    harness::{Database, Server, wait_until},
    keeper::Keeper,
    mcp::Mcp,
};

#[tokio::test]
async fn a_serve_that_starts_no_keeper_gives_up_starting_programs() {
    let keeper = Keeper::start(&[]);
    let socket = keeper.folder().join("k.sock");
    let server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.keeper_spawn = false;
        config.runtime.keeper_socket = socket;
    })
    .await;
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it lives");
    for thread in threads.flatten() {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(
                status.is_empty() || status.contains(line),
                "{line}: {status}"
            );
        }
    }
    let ready = readiness(&server).await;
    assert_eq!(ready["checks"]["own-system-calls"], "ok", "{ready:#}");
    let has_landlock = minimcp::daemon::landlock_version() > 0;
    if has_landlock {
        assert_eq!(ready["checks"]["own-files"], "ok", "{ready:#}");
        a_template_from_elsewhere_is_not_read(&server).await;
    } else {
        eprintln!("SKIPPED in part: this kernel has no Landlock");
    }
    // All that it is for goes on.
    let instance = server.create(json!({"template": "demo"})).await;
    assert_eq!(
        instance["status"],
        "running",
        "{instance:#}\n{}",
        server.log()
    );
    let mut client = Mcp::connect(&instance).await;
    assert!(!client.tools().await.is_empty());
    // The keeper goes on, so nothing may be left with it.
    let id = instance["id"].as_str().expect("an id");
    let (status, answer) = server
        .call(reqwest::Method::DELETE, &format!("/mcps/{id}"), None)
        .await;
    assert!(status.is_success(), "{answer}");
    let plain = Server::start(Database::Sqlite).await;
    let ready = readiness(&plain).await;
    assert_eq!(
        ready["checks"]["own-files"],
        serde_json::Value::Null,
        "{ready:#}"
    );
    let status = fs::read_to_string(format!("/proc/{}/status", plain.pid())).expect("it lives");
    assert!(
        status.contains("Seccomp:\t0"),
        "one that may have to start a keeper again can: {status}"
    );
}

/// A link among the templates that leads to a folder which is not the daemon's: it may list the name and no more.
async fn a_template_from_elsewhere_is_not_read(server: &Server) {
    // Not in /tmp, where SQLite puts what does not fit into its memory.
    let elsewhere = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let folder = elsewhere.path().join("strange");
    fs::create_dir(&folder).expect("ours");
    let manifest = "schema = 1\nname = \"strange\"\ntitle = \"x\"\ndescription = \"x\"\n[server]\n\
                    transport = \"stdio\"\nbuiltin = \"demo\"\n";
    fs::write(folder.join("template.toml"), manifest).expect("ours");
    let templates = &server.config().runtime.template_dirs[0];
    std::os::unix::fs::symlink(&folder, templates.join("strange")).expect("ours");
    let pid = nix::unistd::Pid::from_raw(server.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("it lives");
    let told = wait_until(Duration::from_secs(30), || {
        let log = server.log();
        let line = log
            .lines()
            .find(|line| line.contains("strange") && line.contains("denied"));
        line.map(str::to_owned)
    });
    assert!(told.is_some(), "{}", server.log());
    fs::remove_file(templates.join("strange")).expect("ours");
}

async fn readiness(server: &Server) -> serde_json::Value {
    let url = format!("{}/readyz", server.url());
    let answer = reqwest::get(url).await.expect("it answers");
    answer.json().await.expect("JSON")
}
