//! The command line from outside: the real binary, as a person and a script use it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases, wait_until},
    mcp::Mcp,
    processes,
};

on_both_databases! {
    an_instance_goes_through_every_verb,
    bad_input_gets_one_sentence_and_makes_nothing,
    json_is_the_apis_own_and_text_for_a_pipe_has_no_colours,
    a_secret_comes_from_a_pipe_and_is_never_shown,
    a_reader_that_goes_away_is_no_failure,
}

/// Long enough for a start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary with nothing of this process's environment, and its home in `home`.
fn minimcp(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minimcp"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

/// What one command said and how it ended.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("stdout is text"),
            err: String::from_utf8(output.stderr).expect("stderr is text"),
        }
    }
}

impl Said {
    /// Asserts the exit code and a part of what was said on stderr, in one sentence without a system's error number.
    #[track_caller]
    fn refused(&self, code: i32, part: &str) {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert!(self.err.contains(part), "{part:?} is not in {:?}", self.err);
        assert!(!self.err.contains("os error"), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        assert_eq!(self.out, "", "nothing on stdout");
    }

    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.done()).expect("stdout is one JSON text")
    }
}

/// A daemon and the commands that talk to it.
struct Shell {
    server: Server,
    home: tempfile::TempDir,
}

impl Shell {
    async fn start(database: Database) -> Self {
        Self {
            server: Server::start(database).await,
            home: tempfile::tempdir().expect("a folder"),
        }
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = minimcp(self.home.path());
        command
            .args(line)
            .env("MINIMCP_API_URL", self.server.url())
            .env(
                "MINIMCP_TOKEN_FILE",
                &self.server.config().api.admin_token_file,
            );
        command
    }

    fn run(&self, line: &[&str]) -> Said {
        self.command(line).output().expect("it starts").into()
    }
}

async fn an_instance_goes_through_every_verb(database: Database) {
    let shell = Shell::start(database).await;
    let made = shell.run(&["run", "demo", "--name", "one", "--label", "a=b", "--json"]);
    let made = made.json();
    assert_eq!(made["status"], "running");
    assert_eq!(made["labels"], json!({"a": "b"}));
    let mut client = Mcp::connect(&made).await;
    let text = json!({"text": "a line of its own"});
    client.tool("log", text).await.expect("it logs");

    let shown = shell.run(&["inspect", "one", "--json"]).json();
    let id = made["id"].as_str().expect("an id");
    assert_eq!(shown, shell.server.get(&format!("/mcps/{id}")).await);
    assert!(
        shell
            .run(&["inspect", &id[..13]])
            .done()
            .contains("Name         one")
    );
    let logged = wait_until(PATIENCE, || {
        let lines = shell.run(&["logs", "one", "--grep", "of its own"]).done();
        (!lines.is_empty()).then_some(lines)
    });
    assert_eq!(logged.as_deref(), Some("a line of its own\n"));

    assert_eq!(
        shell.run(&["extend", "one", "--ttl", "2h"]).done(),
        "one is running, expires in 1h 59m\n"
    );
    assert!(
        shell
            .run(&["stop", "one"])
            .done()
            .starts_with("one is stop")
    );
    shell
        .server
        .wait_status("one", &["stopped"], PATIENCE)
        .await;
    shell
        .run(&["restore", "one"])
        .refused(1, "only an expired instance can be restored");
    assert_eq!(shell.run(&["ls", "-q"]).done().trim_end(), id);
    assert_eq!(
        shell.run(&["ls", "--status", "running"]).done(),
        "No instance matches.\n"
    );
    assert!(
        shell
            .run(&["start", "one"])
            .done()
            .starts_with("one is start")
    );
    let token = shell.run(&["token", "rotate", "one", "--json"]).json();
    assert_ne!(token["access_token"], made["access_token"]);
    let both = shell.run(&["rm", "nosuch", "one"]);
    assert_eq!(both.code, Some(1), "one of them failed");
    assert_eq!(both.out, "one is deleted\n");
    assert!(
        both.err.contains("there is no instance nosuch"),
        "{}",
        both.err
    );
    assert!(
        shell
            .run(&["ls"])
            .done()
            .starts_with("There are no instances")
    );
}

async fn bad_input_gets_one_sentence_and_makes_nothing(database: Database) {
    let shell = Shell::start(database).await;
    let refuse = |line: &[&str], code, part| shell.run(line).refused(code, part);
    refuse(&["run", "nosuch"], 1, "there is no template nosuch");
    refuse(&["run", "demo", "--name", "A B"], 1, "is not valid");
    refuse(&["run", "demo", "--ttl", "0"], 1, "more than zero");
    refuse(&["run", "demo", "--ttl", "-5"], 2, "not a duration");
    refuse(&["run", "demo", "--ttl", "10x"], 2, "not a duration");
    refuse(&["run", "demo", "--ttl", "900d"], 1, "at most 30d");
    refuse(
        &["run", "github"],
        1,
        "GitHub personal access token is needed",
    );
    refuse(
        &["run", "demo", "--credential", "KEY=none"],
        1,
        "you have no credential none",
    );
    refuse(&["credential", "put", "x"], 2, "the value is empty");
    refuse(&["credential", "put", "x", "secret"], 2, "unexpected");
    refuse(&["inspect", "nosuch"], 1, "there is no instance nosuch");
    refuse(
        &["tasks", "run", "nosuch"],
        1,
        "there are: access-times, call-retention, collect-packages, disk-use",
    );
    let once = shell.run(&["run", "demo", "--ttl", "0"]).err;
    assert_eq!(
        once.matches("more than zero").count(),
        1,
        "a single fault is told once: {once}"
    );
    let listed = shell.server.get("/mcps").await;
    assert_eq!(listed["items"], json!([]), "nothing half made");

    let wrong = shell
        .command(&["ls"])
        .env("MINIMCP_TOKEN", "wrong")
        .output();
    Said::from(wrong.expect("it starts")).refused(4, "the token is not valid");
    refuse(
        &["ls", "--api-url", "http://127.0.0.1:1"],
        3,
        "no MiniMCP daemon answers at http://127.0.0.1:1: connection refused",
    );
}

async fn json_is_the_apis_own_and_text_for_a_pipe_has_no_colours(database: Database) {
    let shell = Shell::start(database).await;
    for (line, path) in [
        ("ls", "/mcps"),
        ("templates", "/templates"),
        ("credential ls", "/credentials"),
        ("key list", "/keys"),
    ] {
        let mut words: Vec<&str> = line.split(' ').collect();
        let text = shell.run(&words).done();
        assert!(!text.contains('\u{1b}'), "{line}: {text}");
        words.push("--json");
        let json = shell.run(&words).json();
        assert_eq!(json, shell.server.get(path).await, "{line}");
    }
}

async fn a_secret_comes_from_a_pipe_and_is_never_shown(database: Database) {
    let shell = Shell::start(database).await;
    let value = shell.home.path().join("value");
    fs::write(&value, "s3cret-value-77\n").expect("our folder");
    let piped = shell
        .command(&["credential", "put", "work"])
        .stdin(fs::File::open(&value).expect("written above"))
        .output();
    assert_eq!(
        Said::from(piped.expect("it starts")).done(),
        "work is stored\n"
    );
    let again = ["credential", "put", "work", "--file", "value", "--json"];
    let stored = shell.run(&again).done();
    let listed = shell.run(&["credential", "ls", "--json"]).done();
    assert!(stored.contains("\"work\"") && listed.contains("\"work\""));
    assert!(!stored.contains("s3cret") && !listed.contains("s3cret"));
    assert_eq!(
        shell.run(&["credential", "rm", "work"]).done(),
        "work is deleted\n"
    );
}

async fn a_reader_that_goes_away_is_no_failure(database: Database) {
    let shell = Shell::start(database).await;
    let mut child = shell
        .command(&["templates", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let mut err = String::new();
    let mut pipe = child.stderr.take().expect("piped");
    pipe.read_to_string(&mut err).expect("text");
    let code = child.wait().expect("it ends").code();
    assert_eq!((code, err.as_str()), (Some(0), ""));
}

/// A quickstart with `--json`, and the line that it printed when it was ready.
struct Quickstart {
    process: Child,
    _stdout: BufReader<ChildStdout>,
    report: Value,
}

/// Ranges of access ports below the ephemeral ones and above the harness's, one for each test: a port that another
/// test takes meanwhile would change a URL.
const FIRST_RANGE: &str = "31000-31009";
const SECOND_RANGE: &str = "31010-31019";

fn quickstart_command(home: &Path, data: &Path, ports: &str, api_port: u16) -> Command {
    let mut command = minimcp(home);
    command
        .args(["quickstart", "--json", "--ports", ports, "--port"])
        .arg(api_port.to_string())
        .arg("--data-dir")
        .arg(data);
    command
}

impl Quickstart {
    fn start(home: &Path, data: &Path, ports: &str) -> Self {
        let mut process = quickstart_command(home, data, ports, 0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        let report = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("not the line of a quickstart: {line:?}: {error}"));
        Self {
            process,
            _stdout: stdout,
            report,
        }
    }

    fn stop(self) {
        processes::terminate(self.process.id());
        self.ended();
    }

    /// Its end in order.
    fn ended(mut self) {
        let ended = wait_until(PATIENCE, || self.process.try_wait().expect("our child"));
        assert_eq!(ended.and_then(|status| status.code()), Some(0));
    }
}

#[tokio::test]
async fn a_second_quickstart_finds_the_same_and_nothing_is_left_behind() {
    let root = tempfile::tempdir().expect("a folder");
    let (home, data) = (root.path(), root.path().join("data"));
    let mut reports = Vec::new();
    for _ in 0..2 {
        let quickstart = Quickstart::start(home, &data, FIRST_RANGE);
        let report = quickstart.report.clone();
        let mut client = Mcp::connect(&report).await;
        let answer = client.tool("echo", json!({"text": "hello"})).await;
        assert_eq!(answer.as_deref(), Ok("hello"));
        // A command of the same user finds it without being told where.
        let listed = minimcp(home)
            .args(["ls", "--json"])
            .output()
            .expect("starts");
        assert_eq!(Said::from(listed).json()["items"][0]["name"], "demo");
        let other = quickstart_command(home, &data, FIRST_RANGE, 0).output();
        let pid = format!("another quickstart (process {})", report["pid"]);
        Said::from(other.expect("it starts")).refused(1, &pid);
        quickstart.stop();
        let left = wait_until(PATIENCE, || {
            let left = processes::of_folder(root.path());
            left.is_empty().then_some(())
        });
        assert!(left.is_some(), "{:?}", processes::of_folder(root.path()));
        assert_eq!(processes::unix_sockets(root.path()), Vec::<String>::new());
        assert!(!home.join(".local/share/minimcp/api.json").exists());
        reports.push(report);
    }
    for key in ["access_url", "access_token", "connect_url", "data_dir"] {
        assert_eq!(reports[0][key], reports[1][key], "{key}");
    }

    // Whoever rotates the token goes on with the new one, and the next quickstart prints one that is taken.
    let quickstart = Quickstart::start(home, &data, FIRST_RANGE);
    let rotated = minimcp(home)
        .args(["token", "rotate", "demo", "default", "--json"])
        .output();
    let rotated = Said::from(rotated.expect("starts")).json();
    quickstart.stop();
    let quickstart = Quickstart::start(home, &data, FIRST_RANGE);
    let report = quickstart.report.clone();
    assert_ne!(report["access_token"], reports[0]["access_token"]);
    for token in [&report["access_token"], &rotated["access_token"]] {
        let mut instance = report.clone();
        instance["access_token"] = token.clone();
        let mut client = Mcp::connect(&instance).await;
        let answer = client.tool("echo", json!({"text": "hello"})).await;
        assert_eq!(answer.as_deref(), Ok("hello"));
    }

    // The end of the terminal is its end.
    processes::signal_hangup(quickstart.process.id());
    quickstart.ended();
    assert_eq!(processes::of_folder(root.path()), []);
}

/// The keeper is there by then.
#[test]
fn a_serve_that_fails_late_leaves_nothing_running() {
    let root = tempfile::tempdir().expect("a folder");
    let spool = root.path().join("spool");
    fs::write(&spool, "no folder").expect("our folder");
    let mut config = minimcp::config::Config::default();
    config.api.port = crate::harness::free_port();
    config.api.admin_token_file = root.path().join("admin-token");
    config.database.url = format!("sqlite:{}", root.path().join("minimcp.db").display());
    config.runtime.instance_dir = root.path().join("instances");
    config.runtime.keeper_socket = root.path().join("keeper.sock");
    config.secrets.key_file = root.path().join("master-key");
    config.logs.spool_dir = spool;
    let file = root.path().join("config.toml");
    let text = toml::to_string(&config).expect("a configuration can be written");
    fs::write(&file, text).expect("our folder");
    let mut serve = minimcp(root.path());
    let said = serve.args(["serve", "--config"]).arg(&file).output();
    Said::from(said.expect("it starts")).refused(1, "the spool in");
    assert!(
        root.path().join("minimcp.db").exists(),
        "it failed too early"
    );
    let left = wait_until(PATIENCE, || {
        processes::of_folder(root.path()).is_empty().then_some(())
    });
    assert!(left.is_some(), "{:?}", processes::of_folder(root.path()));
}

#[test]
fn trouble_with_a_quickstart_is_one_sentence_and_leaves_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let (home, data) = (root.path(), root.path().join("data"));
    let attempt = |data: &Path, port| -> Said {
        let output = quickstart_command(home, data, SECOND_RANGE, port).output();
        output.expect("it starts").into()
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    attempt(&data, port).refused(
        1,
        &format!("port {port} of 127.0.0.1, the API's, is in use"),
    );
    assert!(!data.exists(), "a folder for nothing");

    let file = root.path().join("file");
    fs::write(&file, "").expect("our folder");
    attempt(&file, 0).refused(1, "it is not a folder; choose another with --data-dir");

    Quickstart::start(home, &data, SECOND_RANGE).stop();
    for (name, content, part) in [
        ("master-key", "garbage\n", "master-key is malformed"),
        (
            "admin-token",
            "short\n",
            "does not hold an administrator token",
        ),
    ] {
        let kept = fs::read(data.join(name)).expect("the first run made it");
        fs::write(data.join(name), content).expect("ours");
        attempt(&data, 0).refused(1, part);
        fs::write(data.join(name), kept).expect("ours");
    }
    assert_eq!(processes::of_folder(root.path()), []);
    Quickstart::start(home, &data, SECOND_RANGE).stop();
}

#[test]
fn the_check_of_a_configuration_reads_its_templates() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("templates/notes");
    fs::create_dir_all(&folder).expect("the folder is ours");
    let config = home.path().join("config.toml");
    let dirs = home.path().join("templates");
    let text = format!("[runtime]\ntemplate_dirs = [{dirs:?}]\n");
    fs::write(&config, text).expect("the folder is ours");
    let check = || {
        let mut command = minimcp(home.path());
        let output = command
            .args(["config", "check", "--config"])
            .arg(&config)
            .output();
        Said::from(output.expect("it runs"))
    };
    let manifest = folder.join("template.toml");
    fs::write(&manifest, "schema = 1\nname = \"other\"\n").expect("the folder is ours");
    let said = check();
    said.refused(2, "the configuration is valid, but its templates have");
    assert!(said.err.contains("notes/template.toml"), "{}", said.err);
    fs::remove_file(&manifest).expect("it is there");
    assert_eq!(check().code, Some(0), "{}", check().err);
}
