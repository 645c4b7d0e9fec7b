//! What the daemon costs, beside the same server without it: `cargo bench --bench side_by_side`.
//!
//! The child is always `minimcp mcp demo` of this build, so each line compares like with like in one run. Figures of
//! one run can be compared with each other, not with those of another machine or day.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How many servers are started, one after the other.
const STARTS: usize = 50;
/// Calls with one outstanding.
const CALLS_ALONE: usize = 5_000;
/// Calls with [`OUTSTANDING`] outstanding.
const CALLS_TOGETHER: usize = 50_000;
/// How many calls wait for their answer at a time.
const OUTSTANDING: usize = 32;

fn main() {
    println!(
        "{:<44} {:>10} {:>10} {:>12}",
        "", "p50", "p99", "per second"
    );
    let starts: Vec<_> = (0..STARTS).map(|_| time_of_start()).collect();
    report("bare spawn to tools listed", starts, None);

    let mut direct = StdioServer::start();
    direct.make_ready();
    let (alone, took) = direct.calls(CALLS_ALONE, 1);
    report("direct stdio, 1 outstanding", alone, Some(took));
    let (together, took) = direct.calls(CALLS_TOGETHER, OUTSTANDING);
    report("direct stdio, 32 outstanding", together, Some(took));
    println!(
        "{:<44} {:>10}",
        "memory of one server (PSS)",
        pss(direct.child.id())
    );
}

/// One line: percentiles of `samples`, and the rate when the whole run's time is given.
fn report(name: &str, mut samples: Vec<Duration>, took: Option<Duration>) {
    samples.sort();
    let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
    let show = |time: Duration| format!("{:.1} us", time.as_secs_f64() * 1e6);
    let rate = took.map_or_else(String::new, |took| {
        #[expect(clippy::cast_precision_loss, reason = "a count of samples is small")]
        let count = samples.len() as f64;
        format!("{:.0}", count / took.as_secs_f64())
    });
    println!(
        "{name:<44} {:>10} {:>10} {rate:>12}",
        show(at(50)),
        show(at(99))
    );
}

fn time_of_start() -> Duration {
    let from = Instant::now();
    let mut server = StdioServer::start();
    server.make_ready();
    from.elapsed()
}

/// Proportional set size from `/proc`, as text with its unit.
fn pss(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.map_or_else(|| "unknown".to_owned(), |rest| rest.trim().to_owned())
}

/// The server as a plain child, spoken with over its pipes.
struct StdioServer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl StdioServer {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_minimcp"))
            .args(["mcp", "demo"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let stdout = BufReader::new(stdout);
        Self {
            child,
            stdin,
            stdout,
        }
    }

    /// Handshake and tool list: what the daemon calls ready.
    fn make_ready(&mut self) {
        let client = json!({"name": "bench", "version": "1"});
        let params =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        self.send(&json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}));
        self.receive();
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        self.send(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}));
        assert!(self.receive()["result"]["tools"].is_array());
    }

    /// Calls `echo` so often, with so many outstanding: the time of each, and of all.
    fn calls(&mut self, count: usize, outstanding: usize) -> (Vec<Duration>, Duration) {
        const FIRST_ID: usize = 1_000;
        let began = Instant::now();
        let mut sent = Vec::with_capacity(count);
        let mut times = Vec::with_capacity(count);
        while times.len() < count {
            while sent.len() < count && sent.len() - times.len() < outstanding {
                let id = FIRST_ID + sent.len();
                sent.push(Instant::now());
                self.send(&call(id));
            }
            let answer = self.receive();
            assert_eq!(answer["result"]["content"][0]["text"], "x", "{answer}");
            let id = answer["id"].as_u64().expect("our ids are numbers");
            let index = usize::try_from(id).expect("our ids are small") - FIRST_ID;
            times.push(sent[index].elapsed());
        }
        (times, began.elapsed())
    }

    fn send(&mut self, message: &Value) {
        let mut line = message.to_string();
        line.push('\n');
        self.stdin
            .write_all(line.as_bytes())
            .expect("the server reads");
    }

    /// The next response; notifications are passed over.
    fn receive(&mut self) -> Value {
        loop {
            let mut line = String::new();
            let bytes = self.stdout.read_line(&mut line).expect("the server writes");
            assert!(bytes > 0, "the server ended");
            let message: Value = serde_json::from_str(&line).expect("it writes JSON");
            if message.get("id").is_some() {
                return message;
            }
        }
    }
}

impl Drop for StdioServer {
    fn drop(&mut self) {
        // It may have ended by itself already; there is nothing else to do about either failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn call(id: usize) -> Value {
    let params = json!({"name": "echo", "arguments": {"text": "x"}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}
