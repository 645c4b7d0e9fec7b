//! Credentials as files: read by the server that they are for, by nobody else, and nowhere once it is gone.

use std::{
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use minimcp::{
    domain::{
        file_argument::FileArgument,
        own_user::UserIds,
        sandbox::{Profile, Sandbox},
    },
    runtime::{LaunchPlan, Runtime, Workload, local::LocalRuntime},
};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    harness::{Database, Server, on_both_databases},
    keeper::{Keeper, plan, read_line, within},
    leaks::assert_nowhere,
    mcp::Mcp,
};

on_both_databases! {
    a_server_and_its_sessions_read_their_key_and_nobody_else_does,
}

const PATIENCE: Duration = Duration::from_secs(60);

/// What the keeper does without, and the profile.
const GROUNDS: [(&[&str], Profile); 5] = [
    (&[], Profile::Strict),
    (&[], Profile::Relaxed),
    (&["--without", "own-user"], Profile::Strict),
    (&["--without", "private-root"], Profile::Strict),
    (&["--no-pid-namespace"], Profile::Strict),
];

fn secret() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn with_key(keeper: &Keeper, profile: Profile, script: &str, value: &str) -> LaunchPlan {
    let mut plan = plan(keeper.folder(), &["sh", "-c", script]);
    plan.cwd = keeper.folder().join(plan.id.instance.to_string());
    plan.files = vec![("KEY_FILE".into(), Zeroizing::new(value.to_owned()))];
    plan.argv
        .extend(["sh".to_owned(), "--key=, again".to_owned()]);
    let index = plan.argv.len() - 1;
    plan.file_arguments = vec![FileArgument {
        index,
        at: "--key=".len(),
        file: "KEY_FILE".to_owned(),
    }];
    plan.sandbox = Sandbox {
        profile,
        user_ids: Some(UserIds {
            min: 70_000,
            max: 79_999,
        }),
        ..Sandbox::default()
    };
    plan
}

/// Every regular file below the folder, and what it holds.
fn contents(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => all.extend(contents(&path)),
            Ok(found) if found.is_file() => {
                let content = fs::read(&path).unwrap_or_default();
                all.push((path, String::from_utf8_lossy(&content).into_owned()));
            }
            _ => {}
        }
    }
    all
}

/// Where on the host the value is: in the folder of the keeper, which is on disk, or in its shelf in memory.
fn found(keeper: &Keeper, value: &str) -> Vec<PathBuf> {
    let shared = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let ours = shared.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let uid = entry.metadata().map(|found| found.uid()).ok();
        name.starts_with("minimcp-") && uid == fs::metadata("/proc/self").map(|own| own.uid()).ok()
    });
    let folders = ours.map(|entry| entry.path());
    let folders = folders.chain([keeper.folder().to_owned()]);
    let all = folders.flat_map(|folder| contents(&folder));
    let holds = all.filter(|(_, content)| content.contains(value));
    holds.map(|(path, _)| path).collect()
}

async fn line_of(child: &Workload) -> String {
    read_line(child.take_pipes().expect("fresh").stdout).await
}

async fn launch(runtime: &LocalRuntime, plan: LaunchPlan) -> Workload {
    let id = plan.id;
    let launched = runtime.launch(plan).await;
    launched.unwrap_or_else(|error| panic!("{id}: {error}"))
}

#[tokio::test]
async fn on_every_ground_the_key_is_there_for_its_server_alone_and_ends_with_it() {
    for (without, profile) in GROUNDS {
        let ground = format!("{without:?} {profile:?}");
        let mut keeper = Keeper::start(without);
        let runtime = keeper.connect().await;
        let value = secret();
        let script = "[ \"$1\" = \"--key=$KEY_FILE, again\" ] || echo \"argument $1\"; printf '%s %s %s ' \"$KEY_FILE\" \"$(cat \"$KEY_FILE\")\" \"$(stat -c %a \"$KEY_FILE\")\"; \
            grep -q \"$(cat \"$KEY_FILE\")\" /proc/self/environ && printf inside || printf outside; echo; exec sleep 900";
        let child = launch(&runtime, with_key(&keeper, profile, script, &value)).await;
        let line = line_of(&child).await;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [path, read, mode, environment] = words.as_slice() else {
            panic!("{ground}: {line:?}");
        };
        assert_eq!(
            (*read, *mode, *environment),
            (value.as_str(), "400", "outside"),
            "{ground}"
        );
        let has_namespace = !without.contains(&"--no-pid-namespace");
        assert_eq!(
            path.starts_with("/run/credentials/"),
            has_namespace && profile == Profile::Strict && !without.contains(&"private-root"),
            "{ground}: {path}"
        );
        let words = child.isolation().get("credential-files");
        let words = words.expect("it is told");
        assert_eq!(
            words.contains("only this instance"),
            has_namespace,
            "{ground}: {words}"
        );
        assert_eq!(found(&keeper, &value).is_empty(), has_namespace, "{ground}");

        // The neighbour has a key too, under the same name, and looks for the other.
        let other = secret();
        let script = format!(
            "cat {path} /proc/{}/root{path} \"$KEY_FILE\" /proc/[0-9]*/environ 2>/dev/null | tr '\\0\\n' '  '; echo",
            child.pid()
        );
        let neighbour = launch(&runtime, with_key(&keeper, profile, &script, &other)).await;
        let seen = line_of(&neighbour).await;
        assert!(
            seen.contains(&other) && !seen.contains(&value),
            "{ground}: {seen}"
        );
        within(neighbour.exited()).await;
        assert!(found(&keeper, &other).is_empty(), "{ground}");

        // Killed, with another launch that goes on: the next keeper finds nothing.
        let last = launch(
            &runtime,
            with_key(&keeper, profile, "echo up; exec sleep 900", &other),
        )
        .await;
        assert_eq!(line_of(&last).await, "up\n");
        child.kill_tree().await.expect("connected");
        within(child.exited()).await;
        assert!(found(&keeper, &value).is_empty(), "{ground}");
        keeper.kill();
        within(last.exited()).await;
        keeper.start_again(without);
        assert!(found(&keeper, &other).is_empty(), "{ground}");
    }
}

async fn ask(client: &mut Mcp, tool: &str, arguments: Value) -> String {
    let answer = client.tool(tool, arguments).await;
    answer.unwrap_or_else(|error| panic!("{tool}: {error}"))
}

fn sha256(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the server finds, which is the same each time.
async fn assert_reads(client: &mut Mcp, value: &str) -> String {
    let found: Value = serde_json::from_str(&ask(client, "key", json!({})).await).expect("JSON");
    let path = found["path"].as_str().expect("text").to_owned();
    assert_eq!(
        found,
        json!({"path": path, "sha256": sha256(value), "mode": "0o400", "own": true, "done": [],
            "in_environment": false, "variable": "in-a-variable"})
    );
    path
}

async fn a_server_and_its_sessions_read_their_key_and_nobody_else_does(database: Database) {
    let mut server = Server::start(database).await;
    let (token, other) = (secret(), secret());
    let value =
        format!("{{\n  \"type\": \"authorized_user\",\n  \"refresh_token\": \"{token}\"\n}}\n");
    for (name, value) in [
        ("key", &value),
        ("other", &other),
        ("plain", &"in-a-variable".to_owned()),
    ] {
        server
            .post("/credentials", json!({"name": name, "value": value}))
            .await;
    }
    let shown = server.get("/templates/takes-file").await;
    let delivered: Vec<&Value> = shown["credentials"]
        .as_array()
        .expect("a list")
        .iter()
        .collect();
    assert_eq!(
        (&delivered[0]["delivery"], &delivered[1]["delivery"]),
        (&json!("file"), &json!("env"))
    );
    let body = |name: &str| {
        json!({"template": "takes-file", "ttl": "1h",
        "credentials": {"KEY_FILE": name, "EXAMPLE_KEY": "plain"}})
    };
    let instance = server.create(body("key")).await;
    assert_eq!(
        instance["status"],
        "running",
        "{instance:#}\n{}",
        server.log()
    );
    let words = instance["isolation"]["credential-files"]
        .as_str()
        .unwrap_or_default();
    assert!(words.starts_with("in /run/credentials"), "{instance:#}");
    // Each session has a child of its own.
    let (mut one, mut two) = (Mcp::connect(&instance).await, Mcp::connect(&instance).await);
    let path = assert_reads(&mut one, &value).await;
    assert_reads(&mut two, &value).await;
    // A setting as a file: the same for all, and no secret.
    let mut with_config = body("other");
    with_config["settings"] = json!({"config": "[section]\n\tkey = \"v\u{fc}\"\n"});
    let neighbour = server.create(with_config).await;
    let mut stranger = Mcp::connect(&neighbour).await;
    assert_eq!(assert_reads(&mut stranger, &other).await, path);
    let config = sha256("[section]\n\tkey = \"v\u{fc}\"\n");
    let file = ask(
        &mut stranger,
        "look",
        json!({"path": "/run/credentials/CONFIG_FILE"}),
    )
    .await;
    assert_eq!(file, config);
    let file = ask(
        &mut one,
        "look",
        json!({"path": "/run/credentials/CONFIG_FILE"}),
    )
    .await;
    assert_eq!(file, sha256("# nothing\n"), "its default");
    let too_much = json!({"template": "takes-file", "credentials": {"KEY_FILE": "key"},
        "settings": {"config": "x".repeat(65_537)}});
    let (status, refused) = server.call(Method::POST, "/mcps", Some(too_much)).await;
    assert_eq!(status, 422, "{refused}");
    // What it sees of other processes is its own.
    for other in ["/proc/1/environ".to_owned(), format!("/proc/1/root{path}")] {
        let answer = ask(&mut stranger, "look", json!({"path": other})).await;
        assert_ne!(answer, sha256(&value), "{other}");
    }

    // Said whole, by lines and in parts: no log has it.
    ask(&mut one, "say", json!({})).await;
    let id = instance["id"].as_str().expect("an id").to_owned();
    let deadline = Instant::now() + PATIENCE;
    while !server
        .get(&format!("/mcps/{id}/logs"))
        .await
        .to_string()
        .contains("that was all")
    {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
    assert_nowhere(&server, &instance, &[token.clone(), other.clone()]).await;

    // The next launches have it too, and a new daemon's.
    let path = format!("/mcps/{id}");
    server.post(&format!("{path}/restart"), json!({})).await;
    server.wait_status(&id, &["running"], PATIENCE).await;
    assert_reads(&mut Mcp::connect(&instance).await, &value).await;
    server.kill();
    server.launch().await;
    server.wait_status(&id, &["running"], PATIENCE).await;
    assert_reads(&mut Mcp::connect(&instance).await, &value).await;
    server.post(&format!("{path}/stop"), json!({})).await;
    server.wait_status(&id, &["stopped"], PATIENCE).await;
    assert_nowhere(&server, &instance, &[token, other]).await;
}

/// A keeper for a daemon to find, as on a host that gives less.
fn lesser_keeper(socket: &Path, without: &[&str]) -> Child {
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .args(["keeper", "--announce", "--socket"])
        .arg(socket)
        .args(["--parent-fd", "0"])
        .args(without)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program is built");
    let mut line = String::new();
    let mut stdout = keeper.stdout.take().expect("piped");
    stdout.read_to_string(&mut line).expect("readable");
    assert_eq!(line, "ready\n");
    keeper
}

#[tokio::test]
async fn a_daemon_whose_host_lacks_a_root_for_each_server_keeps_the_key_all_the_same() {
    let mut keeper = None;
    let server = Server::start_with(Database::Sqlite, |config| {
        let without = ["--without", "private-root"];
        keeper = Some(lesser_keeper(&config.runtime.keeper_socket, &without));
    })
    .await;
    let value = secret();
    for (name, value) in [("key", value.as_str()), ("plain", "in-a-variable")] {
        server
            .post("/credentials", json!({"name": name, "value": value}))
            .await;
    }
    let body = json!({"template": "takes-file", "ttl": "1h",
        "credentials": {"KEY_FILE": "key", "EXAMPLE_KEY": "plain"}});
    let instance = server.create(body).await;
    assert_eq!(
        instance["status"],
        "running",
        "{instance:#}\n{}",
        server.log()
    );
    assert!(
        instance["isolation"]["private-root"]
            .as_str()
            .is_some_and(|word| word.starts_with("off"))
    );
    let path = assert_reads(&mut Mcp::connect(&instance).await, &value).await;
    assert!(!Path::new(&path).exists(), "{path} is on the host");
    assert_nowhere(&server, &instance, &[value]).await;
    drop(server);
    let mut keeper = keeper.expect("it was started");
    drop(keeper.stdin.take());
    keeper.wait().expect("it is our child");
}
