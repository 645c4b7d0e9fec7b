//! Backups of a daemon that runs, and a daemon that begins again from one.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    harness::{Database, Server},
    mcp::Mcp,
};

/// Runs `minimcp backup` for the data of a server: what it printed, or its sentence.
fn backup(server: &Server, line: &[&str]) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    let text = toml::to_string(server.config()).expect("it can be written");
    fs::write(&file, text).expect("the folder is ours");
    let said = Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .env_clear()
        .arg("backup")
        .args(line)
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    match said.status.code() {
        Some(0) => Ok(text(said.stdout)),
        Some(1) => Err(text(said.stderr)),
        code => panic!("{code:?}: {}", text(said.stderr)),
    }
}

fn database_file(server: &Server) -> PathBuf {
    let url = &server.config().database.url;
    url.strip_prefix("sqlite:").expect("it is SQLite").into()
}

/// Takes away what a daemon keeps of its instances, as a lost disk would.
fn lose_everything(server: &Server) {
    let file = database_file(server);
    for suffix in ["", "-wal", "-shm"] {
        let mut name = file.clone().into_os_string();
        name.push(suffix);
        if let Err(error) = fs::remove_file(&name) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
    let runtime = &server.config().runtime;
    fs::remove_dir_all(&runtime.instance_dir).expect("it is there");
    if runtime.imports_dir.exists() {
        fs::remove_dir_all(&runtime.imports_dir).expect("it is ours");
    }
}

/// What lies beside the data, hidden or not.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is readable");
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.expect("it is readable").file_name();
            name.into_string().expect("UTF-8")
        })
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_backup_of_a_running_daemon_brings_everything_back() {
    let mut server = Server::start(Database::Sqlite).await;
    server
        .post(
            "/credentials",
            json!({"name": "figma", "value": "figd_kept-for-later"}),
        )
        .await;
    let demo = server
        .create(json!({"template": "demo", "name": "kept", "ttl": "1h"}))
        .await;
    let with_key = server
        .create(json!({"template": "figma", "name": "with-key", "credentials": {"FIGMA_API_KEY": "figma"}}))
        .await;
    let program = env!("CARGO_BIN_EXE_minimcp");
    let file = json!({"mcpServers": {"imported": {"command": program, "args": ["mcp", "demo"]}}});
    server
        .post("/imports", json!({"text": file.to_string()}))
        .await;
    let imported = server.get("/templates/imported").await;
    let mut client = Mcp::connect(&demo).await;

    // What a server may have left in its folder.
    let id = demo["id"].as_str().expect("an id");
    let folder = server.config().runtime.instance_dir.join(id);
    fs::create_dir_all(folder.join("notes/ä")).expect("made");
    fs::write(folder.join("notes/ä/text"), "remember").expect("written");
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("secret"), "not-its-own").expect("written");
    symlink(outside.path().join("secret"), folder.join("notes/link")).expect("made");
    symlink(outside.path(), folder.join("notes/way-out")).expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("s")).expect("bound");

    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("backup.tar.gz");
    let file = file.to_str().expect("UTF-8");
    let said: Value =
        serde_json::from_str(&backup(&server, &["save", file, "--json"]).expect("saved"))
            .expect("JSON");
    assert_eq!(said["folders"], 2, "{said:#}");
    assert!(
        said["left_out"][0]
            .as_str()
            .is_some_and(|one| one.starts_with(id) && one.contains("socket")),
        "{said:#}"
    );
    let again = backup(&server, &["save", file]).expect_err("it is there");
    assert!(again.contains("exists already"), "{again}");
    assert_eq!(names_in(place.path()), ["backup.tar.gz"]);
    let running = backup(&server, &["restore", file]).expect_err("a daemon runs");
    assert!(running.contains("another daemon"), "{running}");
    // The daemon and its clients were not disturbed, and what comes after the backup is not in it.
    let answer = client.tool("echo", json!({"text": "still here"})).await;
    assert_eq!(answer.as_deref(), Ok("still here"));
    server
        .create(json!({"template": "demo", "name": "too-late"}))
        .await;

    server.stop();
    let there = backup(&server, &["restore", file]).expect_err("its data is there");
    assert!(there.contains("exists already"), "{there}");
    lose_everything(&server);
    fs::write(outside.path().join("secret"), "changed since").expect("written");
    let said = backup(&server, &["restore", file]).expect("restored");
    assert!(said.contains("2 instances"), "{said}");
    assert_eq!(
        fs::read_to_string(folder.join("notes/ä/text")).expect("it is back"),
        "remember"
    );
    let link = fs::read_link(folder.join("notes/link")).expect("a link, as it was");
    assert_eq!(link, outside.path().join("secret"));
    assert!(folder.join("notes/way-out").is_symlink());

    server.launch().await;
    assert_eq!(server.get("/templates/imported").await, imported);
    for instance in [&demo, &with_key] {
        let id = instance["id"].as_str().expect("an id");
        let now = server
            .wait_status(id, &["running"], std::time::Duration::from_secs(60))
            .await;
        assert_eq!(now["name"], instance["name"]);
        assert_eq!(now["expires_at"], instance["expires_at"]);
        assert_eq!(now["access_url"], instance["access_url"]);
    }
    // The token of then, and a credential that opens: its server does not start without it.
    let mut client = Mcp::connect(&demo).await;
    let answer = client.tool("echo", json!({"text": "back"})).await;
    assert_eq!(answer.as_deref(), Ok("back"));
    let list = server.get("/mcps").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list:#}");
}

#[tokio::test]
async fn a_backup_that_does_not_fit_leaves_nothing_behind() {
    let mut server = Server::start(Database::Sqlite).await;
    server
        .post(
            "/credentials",
            json!({"name": "key", "value": "sealed-with-that-key"}),
        )
        .await;
    server.create(json!({"template": "demo"})).await;
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("backup.tar.gz");
    let file = path.to_str().expect("UTF-8");
    backup(&server, &["save", file]).expect("saved");
    server.stop();
    lose_everything(&server);
    let data = database_file(&server)
        .parent()
        .expect("a folder")
        .to_owned();
    let unrestored = |server: &Server, file: &str| {
        let sentence = backup(server, &["restore", file]).expect_err("it does not fit");
        assert!(!database_file(server).exists(), "{sentence}");
        let instances = names_in(&server.config().runtime.instance_dir);
        assert_eq!(instances, [".lock"], "{sentence}");
        let left: Vec<_> = names_in(&data)
            .into_iter()
            .filter(|name| name.contains("restore"))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "{sentence}");
        sentence
    };

    let whole = fs::read(&path).expect("it is there");
    let cut = place.path().join("cut.tar.gz");
    fs::write(&cut, &whole[..whole.len() / 2]).expect("written");
    let sentence = unrestored(&server, cut.to_str().expect("UTF-8"));
    assert!(sentence.contains("damaged"), "{sentence}");
    let other = place.path().join("other");
    fs::write(&other, "something else").expect("written");
    let sentence = unrestored(&server, other.to_str().expect("UTF-8"));
    assert!(sentence.contains("no backup of minimcp"), "{sentence}");

    let key = fs::read(&server.config().secrets.key_file).expect("it is there");
    fs::remove_file(&server.config().secrets.key_file).expect("removed");
    let sentence = unrestored(&server, file);
    assert!(sentence.contains("put it back"), "{sentence}");
    assert!(
        !server.config().secrets.key_file.exists(),
        "a new key was left"
    );
    fs::write(&server.config().secrets.key_file, key).expect("written");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(
        &server.config().secrets.key_file,
        fs::Permissions::from_mode(0o600),
    )
    .expect("ours");
    backup(&server, &["restore", file]).expect("now it fits");
}

#[tokio::test]
async fn postgresql_is_left_to_its_own_tools_and_the_folders_are_not() {
    if !Database::available().contains(&Database::Postgres) {
        return;
    }
    let server = Server::start(Database::Postgres).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("folders.tar.gz");
    let file = file.to_str().expect("UTF-8");
    let sentence = backup(&server, &["save", file]).expect_err("it cannot");
    assert!(sentence.contains("pg_dump"), "{sentence}");
    assert_eq!(names_in(place.path()), Vec::<String>::new());
    let said = backup(&server, &["save", file, "--folders-only"]).expect("saved");
    assert!(said.contains("1 instances"), "{said}: {instance:#}");
}
