//! Packages of npm and PyPI as the source of templates: installed once, for real, and used without the network.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{
    harness::{Database, Server},
    mcp::Mcp,
};

/// An installation over a slow line on a busy machine.
const INSTALLED: Duration = Duration::from_secs(300);

const MEMORY: &str = "npm:@modelcontextprotocol/server-memory@2026.8.31";
const TIME: &str = "pypi:mcp-server-time==2026.10.19";

/// Writes a template whose program only its package brings, and whose server has no network.
fn template(folder: &Path, name: &str, program: &str, package: &str) {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).expect("the folder is ours");
    let text = format!(
        "schema = 1\nname = \"{name}\"\ntitle = \"{name}\"\ndescription = \"A server of a package.\"\n\
         [server]\ntransport = \"stdio\"\ncommand = [\"{program}\"]\npackage = \"{package}\"\n\
         [sandbox]\nnetwork = \"none\"\n[health]\nstart_timeout = \"60s\"\n"
    );
    fs::write(folder.join("template.toml"), text).expect("the folder is ours");
}

/// A daemon that finds no server by itself, only what installs them.
async fn start() -> (Server, PathBuf) {
    let mut packages = PathBuf::new();
    let server = Server::start_with(Database::Sqlite, |config| {
        let templates = config.runtime.template_dirs[0].clone();
        template(&templates, "memory-package", "mcp-server-memory", MEMORY);
        template(&templates, "time-package", "mcp-server-time", TIME);
        let missing = "npm:@modelcontextprotocol/no-such-server@1.0.0";
        template(&templates, "missing-package", "no-such-server", missing);
        template(&templates, "misnamed-package", "not-its-program", MEMORY);
        let path = std::env::var_os("PATH").unwrap_or_default();
        config.runtime.search_path = std::env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .collect();
        packages.clone_from(&config.packages.dir);
    })
    .await;
    (server, packages)
}

async fn template_of(server: &Server, name: &str) -> Value {
    server.get(&format!("/templates/{name}")).await
}

fn marks(packages: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(packages).into_iter().flatten().flatten();
    let mut marks: Vec<PathBuf> = all
        .map(|entry| entry.path().join("installed.json"))
        .filter(|mark| mark.is_file())
        .collect();
    marks.sort();
    marks
}

#[tokio::test]
async fn a_package_of_npm_is_installed_once_and_used_without_the_network() {
    let (server, packages) = start().await;
    let before = template_of(&server, "memory-package").await;
    assert_eq!(before["available"], true, "{before:#}");
    assert_eq!(before["package"]["state"], "missing");
    assert_eq!(before["package"]["source"], MEMORY);

    let body = || json!({"template": "memory-package"});
    let (one, other) = tokio::join!(server.create(body()), server.create(body()));
    for instance in [&one, &other] {
        let id = instance["id"].as_str().expect("it has an id");
        server.wait_status(id, &["running"], INSTALLED).await;
        let events = server.get(&format!("/mcps/{id}/events")).await;
        let told = events["items"].as_array().expect("a list").iter();
        let told: Vec<&Value> = told.filter(|event| event["kind"] == "installing").collect();
        assert_eq!(told.len(), 1, "{events:#}");
        let mut client = Mcp::connect(instance).await;
        assert!(client.tools().await.contains(&"create_entities".to_owned()));
    }
    assert_eq!(marks(&packages).len(), 1);
    let installations = server.log().matches(": installed package=").count();
    assert_eq!(installations, 1, "{}", server.log());
    let after = template_of(&server, "memory-package").await;
    assert_eq!(after["package"]["state"], "installed");

    // What has no mark was cut off: it is made again, and used again.
    fs::remove_file(&marks(&packages)[0]).expect("ours");
    let id = one["id"].as_str().expect("it has an id");
    server.post(&format!("/mcps/{id}/restart"), json!({})).await;
    crate::harness::wait_until(INSTALLED, || (marks(&packages).len() == 1).then_some(()))
        .expect("it was installed again");
    server.wait_status(id, &["running"], INSTALLED).await;
    let mut client = Mcp::connect(&one).await;
    assert!(client.tools().await.contains(&"create_entities".to_owned()));

    // As what lost its program.
    let folder = marks(&packages)[0].parent().map(Path::to_owned);
    let program = folder
        .expect("a folder")
        .join("node_modules/.bin/mcp-server-memory");
    fs::remove_file(&program).expect("ours");
    server.post(&format!("/mcps/{id}/restart"), json!({})).await;
    crate::harness::wait_until(INSTALLED, || program.is_file().then_some(()))
        .expect("it was installed again");
    server.wait_status(id, &["running"], INSTALLED).await;
    Mcp::connect(&one).await;

    // The same package under another template is there already, and has no such program.
    let answer = server
        .call(
            reqwest::Method::POST,
            "/mcps",
            Some(json!({"template": "misnamed-package"})),
        )
        .await;
    assert_eq!(answer.0, 409, "{answer:?}");
    let text = answer.1.to_string();
    assert!(text.contains("has no program not-its-program"), "{text}");
}

/// Fails and names the modules below a folder whose bytecode the interpreter would not take: it compares the time and the
/// length of the source (PEP 552).
const EVERY_MODULE_IS_COMPILED: &str = r"
import importlib.util, os, pathlib, struct, sys
sources = list(pathlib.Path(sys.argv[1]).rglob('*.py'))
stale = []
for source in sources:
    found = source.stat()
    try:
        head = pathlib.Path(importlib.util.cache_from_source(str(source))).read_bytes()[:16]
    except FileNotFoundError:
        head = b''
    now = importlib.util.MAGIC_NUMBER + struct.pack('<III', 0, int(found.st_mtime), found.st_size)
    if head != now:
        stale.append(str(source))
print(len(sources), stale[:9])
sys.exit(len(stale) > 0 or len(sources) < 100)
";

#[tokio::test]
async fn a_package_of_pypi_is_installed_ahead_and_started_without_the_network() {
    let (server, packages) = start().await;
    let begun = server
        .post("/templates/time-package/install", json!({}))
        .await;
    assert_eq!(begun["package"]["state"], "installing", "{begun:#}");
    crate::harness::wait_until(INSTALLED, || (marks(&packages).len() == 1).then_some(()))
        .expect("it was installed");
    let mark = fs::read_to_string(&marks(&packages)[0]).expect("readable");
    let mark: Value = serde_json::from_str(&mark).expect("JSON");
    assert_eq!(mark["source"], TIME);
    assert_eq!(mark["lock_sha256"].as_str().map(str::len), Some(64));
    // Servers see it read-only, and what is not compiled now they would compile at every start.
    let folder = marks(&packages)[0].with_file_name("venv");
    let compiled = std::process::Command::new(folder.join("bin/python3"))
        .args(["-c", EVERY_MODULE_IS_COMPILED])
        .arg(&folder)
        .output()
        .expect("it has a Python");
    let said = String::from_utf8_lossy(&compiled.stdout);
    assert!(compiled.status.success(), "{said}");

    let instance = server.create(json!({"template": "time-package"})).await;
    let id = instance["id"].as_str().expect("it has an id");
    server.wait_status(id, &["running"], INSTALLED).await;
    let mut client = Mcp::connect(&instance).await;
    assert!(
        client
            .tools()
            .await
            .contains(&"get_current_time".to_owned())
    );
    // A second time nothing happens.
    let again = server
        .post("/templates/time-package/install", json!({}))
        .await;
    assert_eq!(again["package"]["state"], "installed");
}

#[tokio::test]
async fn packages_that_nothing_refers_to_are_removed() {
    let (server, packages) = start().await;
    let store = |name: &str| {
        let folder = packages.join(name);
        fs::create_dir_all(&folder).expect("the folder is ours");
        fs::write(folder.join("serve.sh"), "read wait\n").expect("the folder is ours");
        let mark = fs::File::create(folder.join("installed.json")).expect("the folder is ours");
        let long_ago = SystemTime::now() - Duration::from_secs(400 * 24 * 3_600);
        mark.set_modified(long_ago).expect("it is ours");
        folder
    };
    let named = store("npm-@modelcontextprotocol+server-memory@2026.8.31");
    let unused = store("npm-left-behind@1.0.0");
    let running = store("npm-running@1.0.0");
    let fresh = store("npm-fresh@1.0.0");
    let mark = fs::File::options()
        .write(true)
        .open(fresh.join("installed.json"));
    let mark = mark.expect("it is ours");
    mark.set_modified(SystemTime::now()).expect("it is ours");
    let mut process = std::process::Command::new("/bin/sh")
        .arg(running.join("serve.sh"))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("there is a shell");

    server.post("/tasks/collect-packages/run", json!({})).await;
    crate::harness::wait_until(INSTALLED, || (!unused.exists()).then_some(()))
        .expect("it is removed");
    assert!(named.exists(), "a template names it");
    assert!(running.exists(), "a process runs from it");
    assert!(fresh.exists(), "it was used today");
    process.kill().expect("it is ours");
    process.wait().expect("it is ours");
}

#[tokio::test]
async fn a_package_that_is_not_there_fails_its_instance_with_the_installers_words() {
    let (server, packages) = start().await;
    let instance = server
        .call(
            reqwest::Method::POST,
            "/mcps",
            Some(json!({"template": "missing-package"})),
        )
        .await;
    assert_eq!(instance.0, 201, "{instance:?}");
    let id = instance.1["id"].as_str().expect("it has an id").to_owned();
    let failed = server.wait_status(&id, &["failed"], INSTALLED).await;
    let text = failed.to_string();
    assert!(text.contains("could not be installed"), "{failed:#}");
    assert!(text.contains("no-such-server"), "{failed:#}");
    let template = template_of(&server, "missing-package").await;
    assert_eq!(template["package"]["state"], "failed", "{template:#}");
    assert_eq!(marks(&packages).len(), 0);
    let left = fs::read_dir(&packages).map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing half made is left");
    assert_eq!(
        server
            .processes()
            .iter()
            .filter(|process| process.command.contains("npm"))
            .count(),
        0
    );
}
