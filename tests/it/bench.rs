//! `minimcp bench`: figures that hold together, and nothing left behind, however it ends. How fast anything is, no test says.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::processes;

/// How long anything here may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("minimcp-it-bench-")
        .tempdir()
        .expect("a temporary folder")
}

/// The verb, which keeps everything below `folder`.
fn begin(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .arg("bench")
        .args(arguments)
        .env_clear()
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

fn assert_nothing_is_left(folder: &Path) {
    assert_eq!(processes::of_folder(folder), []);
    let left: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder is ours")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The row of a group, by the beginnings of both names.
fn row<'a>(figures: &'a [Value], group: &str, name: &str) -> &'a Value {
    let begins = |row: &Value, key: &str, with: &str| {
        row[key].as_str().is_some_and(|text| text.starts_with(with))
    };
    figures
        .iter()
        .find(|row| begins(row, "group", group) && begins(row, "name", name))
        .unwrap_or_else(|| panic!("no row {name:?} in {group:?}: {figures:#?}"))
}

fn number(row: &Value, key: &str) -> f64 {
    let number = row[key].as_f64().filter(|number| number.is_finite());
    number.unwrap_or_else(|| panic!("{key} of {row:#}"))
}

fn assert_ratio(ratio: f64, ours: f64, base: f64) {
    assert!(
        (ratio - ours / base).abs() < 1e-9 * ratio.abs(),
        "{ours} / {base} is not {ratio}"
    );
}

#[test]
fn figures_hold_together_and_nothing_is_left() {
    let folder = folder();
    let arguments = "--quick --divide 20 --instances 2 --only starts,calls,memory,restarts --json";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = begin(folder.path(), &arguments)
        .wait_with_output()
        .expect("it ends");
    assert!(output.status.success(), "{}", words(&output));
    assert_nothing_is_left(folder.path());
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!(told["machine"]["minimcp"], env!("CARGO_PKG_VERSION"));
    let figures = told["figures"].as_array().expect("rows");

    for group in [
        "create to ready, null, 0 live",
        "create to ready, demo, 0 live",
        "create to ready, null, 2 live",
        "kill -9 of a server",
    ] {
        let (bare, ours) = (row(figures, group, "bare"), row(figures, group, "minimcp"));
        for one in [bare, ours] {
            assert!(number(one, "p50_us") > 0.0, "{one}");
            assert!(number(one, "p99_us") >= number(one, "p50_us"), "{one}");
        }
        let ratio = number(ours, "p50_ratio");
        assert_ratio(ratio, number(ours, "p50_us"), number(bare, "p50_us"));
    }
    for group in [
        "calls to null, 1 at a time",
        "calls to null, 32 at a time",
        "calls to demo, 1 at a time",
        "calls to demo, 32 at a time",
    ] {
        let (direct, floor) = (row(figures, group, "direct"), row(figures, group, "floor"));
        assert!(number(direct, "added_us").abs() < 1e-9, "{direct}");
        for era in [
            "minimcp: the access URL, with sessions",
            "minimcp: the access URL, stateless",
        ] {
            let ours = row(figures, group, era);
            assert!(number(ours, "per_second") > 0.0, "{ours}");
            for (ratio, of) in [("p50_to_floor", "p50_us"), ("rate_to_floor", "per_second")] {
                assert_ratio(number(ours, ratio), number(ours, of), number(floor, of));
            }
        }
    }
    for process in ["serve", "keeper", "init", "server", "bare"] {
        let held = row(figures, "2 instances of null", process);
        assert!(number(held, "rss_kib") > 0.0, "{held}");
    }
    let inits = row(figures, "2 instances of null", "init");
    assert_eq!(inits["processes"], 2, "{inits}");
}

#[test]
fn whoever_interrupts_it_finds_nothing_left() {
    let folder = folder();
    // The daemon rests for two seconds before its memory is looked at, and ten for its CPU time: it is met alive.
    let bench = begin(folder.path(), &["--only", "memory", "--instances", "3"]);
    let deadline = Instant::now() + PATIENCE;
    let init_lives = || {
        let all = processes::of_folder(folder.path());
        let keepers = all.iter().filter(|one| one.command.contains(" keeper "));
        keepers.count() > 1
    };
    while !init_lives() {
        assert!(Instant::now() < deadline, "no instance came up");
        std::thread::sleep(Duration::from_millis(10)); // poll
    }
    processes::interrupt(bench.id());
    let output = bench.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", words(&output));
    assert_eq!(output.status.signal(), None);
    assert!(words(&output).contains("ending everything"));
    assert_nothing_is_left(folder.path());
}

#[test]
fn a_failure_is_one_sentence_and_leaves_nothing() {
    let folder = folder();
    // Nothing listens on port 1 of the loopback.
    let postgres = "postgres://nobody@127.0.0.1:1/nothing";
    let arguments = "--quick --divide 1000 --only logs --postgres";
    let mut arguments: Vec<&str> = arguments.split(' ').collect();
    arguments.push(postgres);
    let output = begin(folder.path(), &arguments)
        .wait_with_output()
        .expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    let sentence = words(&output);
    assert!(
        sentence.starts_with("minimcp: ") && sentence.contains("the connection to the database"),
        "{sentence}"
    );
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("SQLite alone"), "{table}");
    assert_nothing_is_left(folder.path());
}
