//! A wall clock that is set forward and back under a running daemon. A library of ours stands before the C library in
//! `serve` and adds an offset, which the test writes into a file, to what the kernel says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::{SOON, until};
use crate::{
    harness::{Database, Server, on_both_databases},
    mcp::Mcp,
};

on_both_databases! {
    leases_follow_a_clock_that_is_set_forward,
    nothing_stands_still_when_the_clock_is_set_back,
}

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile int64_t *offset_s;
static int (*kernel)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    kernel = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY | O_CLOEXEC);
    void *page = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    offset_s = page == MAP_FAILED ? 0 : page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = kernel(clock, now);
    if (!failed && clock == CLOCK_REALTIME && offset_s) now->tv_sec += *offset_s;
    return failed;
}
"#;

/// A daemon, and the file with its clock's offset.
pub async fn with_a_clock_of_its_own(database: Database) -> (Server, PathBuf) {
    let mut file = PathBuf::new();
    let mut server = Server::begin_under(database, |config| {
        let data = config.runtime.instance_dir.parent().expect("it has one");
        file = data.join("clock-offset");
        set(&file, 0);
        let library = build(data);
        config
            .tasks
            .insert("reconcile".to_owned(), "* * * * * *".to_owned());
        [
            "env".to_owned(),
            format!("LD_PRELOAD={}", library.display()),
            format!("CLOCK_OFFSET_FILE={}", file.display()),
        ]
        .to_vec()
    })
    .await;
    server.until_ready().await;
    (server, file)
}

fn build(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    fs::write(&source, LIBRARY).expect("the folder is ours");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status();
    assert!(built.is_ok_and(|status| status.success()), "cc builds it");
    library
}

/// Written in place: the page is mapped.
pub fn set(file: &Path, offset_s: i64) {
    use std::os::unix::fs::FileExt;
    let open = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(file);
    let open = open.expect("the folder is ours");
    open.write_all_at(&offset_s.to_ne_bytes(), 0).expect("ours");
}

fn ms(value: &Value) -> i64 {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    let time: jiff::Timestamp = text.parse().expect("RFC 3339");
    time.as_millisecond()
}

async fn rounds(server: &Server) -> u64 {
    let tasks = server.get("/tasks").await;
    let items = tasks["items"].as_array().expect("a list").iter();
    let mut task = items.filter(|task| task["name"] == "reconcile");
    task.next()
        .and_then(|task| task["runs"].as_u64())
        .expect("it counts")
}

async fn leases_follow_a_clock_that_is_set_forward(database: Database) {
    let (server, file) = with_a_clock_of_its_own(database).await;
    let leased = server
        .create(json!({"template": "demo", "ttl": "20h"}))
        .await;
    let lasting = server
        .create(json!({"template": "demo", "ttl": "30d"}))
        .await;
    let mut client = Mcp::connect(&lasting).await;

    set(&file, 25 * 3_600);
    // Nobody asks anything of it: it finds out by itself.
    let id = leased["id"].as_str().expect("it has an id");
    let expired = server.wait_status(id, &["expired"], SOON).await;
    assert!(
        ms(&expired["since"]) >= ms(&leased["expires_at"]),
        "{expired:#}"
    );
    let id = lasting["id"].as_str().expect("it has an id");
    let now = server.get(&format!("/mcps/{id}")).await;
    assert_eq!(now["status"], "running", "{now:#}");
    assert_eq!(now["pid"], lasting["pid"], "it was never touched");
    let answer = client.tool("echo", json!({"text": "still here"})).await;
    assert_eq!(answer.as_deref(), Ok("still here"), "the session goes on");
    let events = server.get(&format!("/mcps/{id}/events?limit=200")).await;
    let mut kinds = events["items"].as_array().expect("a list").iter();
    assert!(
        kinds.all(|event| event["kind"] != "lease-warning"),
        "{events:#}"
    );
    let before = rounds(&server).await;
    until(&server, "tasks go on", || async {
        rounds(&server).await > before + 1
    })
    .await;
}

async fn nothing_stands_still_when_the_clock_is_set_back(database: Database) {
    let (server, file) = with_a_clock_of_its_own(database).await;
    let first = server
        .create(json!({"template": "demo", "ttl": "1h"}))
        .await;
    let mut client = Mcp::connect(&first).await;
    let id = first["id"].as_str().expect("it has an id");

    set(&file, -25 * 3_600);
    let before = rounds(&server).await;
    until(&server, "tasks go on", || async {
        rounds(&server).await > before + 1
    })
    .await;
    let answer = client.tool("echo", json!({"text": "still here"})).await;
    assert_eq!(answer.as_deref(), Ok("still here"));
    crate::outage::write_lines(&mut client, "back", 50).await;
    let lines = crate::outage::lines_with(&server, id, "back", 50).await;
    assert_eq!(lines[49], "back (50)", "the order is that of the lines");
    let now = server.get(&format!("/mcps/{id}")).await;
    assert_eq!(now["status"], "running", "{now:#}");
    assert_eq!(now["pid"], first["pid"], "it was never touched");
    // Restarts and leases are measured from now on.
    server.post(&format!("/mcps/{id}/restart"), json!({})).await;
    until(&server, "it is launched again", || async {
        let now = server.get(&format!("/mcps/{id}")).await;
        now["status"] == "running" && now["generation"] == 2
    })
    .await;
    server
        .post(&format!("/mcps/{id}/extend"), json!({"ttl": "1s"}))
        .await;
    server.wait_status(id, &["expired"], SOON).await;
}
