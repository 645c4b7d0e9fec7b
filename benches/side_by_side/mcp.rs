//! The words of MCP that are sent, and a client of each transport.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Barrier,
    time::{Duration, Instant},
};

use super::http::Connection;

pub const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const TOOLS: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
/// Calls that are made before the clock runs.
const WARM_UP: usize = 200;

fn call(id: usize) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"x"}}}}}}"#
    )
}

fn check(answer: &str) {
    assert!(answer.contains("\"result\""), "not a result: {answer}");
}

/// The times of single calls, and of all together.
pub struct Load {
    pub times: Vec<Duration>,
    pub took: Duration,
}

/// A server as a plain child of ours, spoken with over its pipes.
pub struct StdioServer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    line: String,
}

impl StdioServer {
    /// Starts it and does what the daemon calls ready: handshake and tool list.
    pub fn start<S: AsRef<OsStr>>(command: &[S]) -> Self {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut server = Self {
            child,
            stdin,
            stdout,
            line: String::new(),
        };
        server.send(INITIALIZE.to_owned());
        check(server.receive());
        server.send(INITIALIZED.to_owned());
        server.send(TOOLS.to_owned());
        check(server.receive());
        server
    }

    /// Calls `echo` so often, with so many outstanding.
    pub fn load(&mut self, count: usize, outstanding: usize) -> Load {
        self.calls(WARM_UP, outstanding);
        self.calls(count, outstanding)
    }

    fn calls(&mut self, count: usize, outstanding: usize) -> Load {
        let began = Instant::now();
        let mut sent = Vec::with_capacity(count);
        let mut times = Vec::with_capacity(count);
        while times.len() < count {
            while sent.len() < count && sent.len() - times.len() < outstanding {
                let line = call(sent.len());
                sent.push(Instant::now());
                self.send(line);
            }
            let answer = self.receive();
            check(answer);
            let at = answer.find("\"id\":").expect("an answer has an id") + 5;
            let digits = answer[at..].trim_start();
            let end = digits.find(|c: char| !c.is_ascii_digit());
            let id: usize = digits[..end.unwrap_or(digits.len())]
                .parse()
                .expect("our ids are numbers");
            times.push(sent[id].elapsed());
        }
        Load {
            times,
            took: began.elapsed(),
        }
    }

    fn send(&mut self, mut line: String) {
        line.push('\n');
        self.stdin
            .write_all(line.as_bytes())
            .expect("the server reads");
    }

    fn receive(&mut self) -> &str {
        self.line.clear();
        let bytes = self
            .stdout
            .read_line(&mut self.line)
            .expect("the server writes");
        assert!(bytes > 0, "the server ended");
        self.line.trim_end()
    }
}

impl Drop for StdioServer {
    fn drop(&mut self) {
        // It may have ended by itself already; there is nothing else to do about either failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An MCP endpoint over HTTP.
#[derive(Clone)]
pub struct Endpoint {
    pub host: String,
    pub path: String,
    pub token: Option<String>,
}

impl Endpoint {
    /// A new connection, without a session.
    pub fn connect(&self) -> Connection {
        let mut connection = Connection::open(&self.host).expect("the endpoint listens");
        if let Some(token) = &self.token {
            connection
                .fixed
                .push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        connection
    }

    /// A new connection with a new session.
    pub fn initialize(&self) -> Connection {
        let mut connection = self.connect();
        let answer = connection
            .send("POST", &self.path, INITIALIZE)
            .expect("initialize is answered");
        check(&answer.text());
        if let Some(session) = answer.session {
            connection.fixed.push_str(&format!(
                "Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-06-18\r\n"
            ));
        }
        connection
    }

    /// One call on a connection with a session; whether it had a result.
    pub fn try_call(&self, connection: &mut Connection) -> bool {
        connection
            .send("POST", &self.path, &call(1))
            .is_ok_and(|answer| answer.status == 200 && answer.text().contains("\"result\""))
    }

    /// Calls `echo` so often, on so many connections at a time, each with a session of its own.
    pub fn load(&self, count: usize, connections: usize) -> Load {
        let barrier = Barrier::new(connections + 1);
        let one = || {
            let mut connection = self.initialize();
            let mut call = |id| {
                let began = Instant::now();
                let answer = connection
                    .send("POST", &self.path, &call(id))
                    .expect("a call is answered");
                let time = began.elapsed();
                check(&answer.text());
                time
            };
            for id in 0..WARM_UP / connections {
                call(id);
            }
            barrier.wait();
            (0..count / connections).map(call).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
            barrier.wait();
            let began = Instant::now();
            let times = threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("its calls were answered"))
                .collect();
            Load {
                times,
                took: began.elapsed(),
            }
        })
    }
}
