//! The peers: programs that put stdio servers behind MCP over HTTP, each started as its own users would. Nothing here
//! runs anything.

use std::path::Path;

use minimcp::bench::mcp::Endpoint;
use serde_json::json;

/// One of them.
#[derive(Debug)]
pub struct Kind {
    /// What its rows are named after, and `--only`.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// Its file. Programs of three registries are called `mcp-proxy`.
    pub program: &'static str,
    /// A word of its `--help` that no other has.
    mark: &'static str,
    /// How to get it where it is looked for.
    pub install: &'static str,
    /// Whether one process hosts many servers; else each has a process of its own.
    pub is_host_of_many: bool,
    /// What it is started with, on this port, before so many servers of this command, with files in this folder.
    launch: fn(u16, usize, &[String], &Path) -> Launch,
    /// The path of the URL of the server with this number.
    path: fn(usize) -> String,
    /// The name of the tool `echo` of the server with this number.
    tool: fn(usize) -> String,
}

/// What starts a peer.
#[derive(Debug, Default)]
pub struct Launch {
    /// After the program.
    pub arguments: Vec<String>,
    /// The text of [`CONFIG`], where it reads one.
    pub config: Option<String>,
}

/// The name of the file with a peer's configuration.
pub const CONFIG: &str = "config";

/// The fastest of them.
pub const FASTEST: &Kind = &Kind {
    name: "mcp-proxy-rust",
    title: "mcp-proxy, the Rust crate",
    program: "mcp-proxy",
    mark: "--from-mcp-json",
    install: "cargo install mcp-proxy@0.6.0 --root target/bench-peers",
    is_host_of_many: true,
    launch: |port, servers, command, folder| {
        let backend = |number| json!({"name": server(number), "transport": "stdio", "command": command[0], "args": command[1..]});
        let config = json!({
            "proxy": {"name": "bench", "listen": {"host": "127.0.0.1", "port": port}},
            // Without it, it writes a line for each step of each call.
            "observability": {"log_level": "warn"},
            "backends": (0..servers).map(backend).collect::<Vec<_>>(),
        });
        Launch {
            arguments: words(&["--config", &folder.join(CONFIG).to_string_lossy()]),
            config: toml::to_string(&config).ok(),
        }
    },
    path: |_| "/".to_owned(),
    tool: |number| format!("{}/echo", server(number)),
};

/// All of them.
pub const ALL: [&Kind; 4] = [
    FASTEST,
    &Kind {
        name: "supergateway",
        title: "supergateway (Node), with sessions",
        program: "supergateway",
        mark: "--outputTransport",
        install: "npm install --prefix target/bench-peers supergateway@4.0.0",
        is_host_of_many: false,
        launch: |port, _, command, _| Launch {
            arguments: words(&[
                "--stdio",
                &command.join(" "),
                "--outputTransport",
                "streamableHttp",
                "--stateful",
                "--logLevel",
                "none",
                "--port",
                &port.to_string(),
            ]),
            config: None,
        },
        path: |_| "/mcp".to_owned(),
        tool: |_| "echo".to_owned(),
    },
    &Kind {
        name: "mcp-proxy-node",
        title: "mcp-proxy, the npm package",
        program: "mcp-proxy",
        mark: "--streamEndpoint",
        install: "npm install --prefix target/bench-peers/node mcp-proxy@6.7.19",
        is_host_of_many: false,
        launch: |port, _, command, _| {
            let port = port.to_string();
            let mut arguments = words(&["--host", "127.0.0.1", "--port", &port, "--"]);
            arguments.extend_from_slice(command);
            Launch {
                arguments,
                config: None,
            }
        },
        path: |_| "/mcp".to_owned(),
        tool: |_| "echo".to_owned(),
    },
    &Kind {
        name: "mcp-proxy-python",
        title: "mcp-proxy, the Python package",
        program: "mcp-proxy",
        mark: "--named-server-config",
        install: "python3 -m venv target/bench-peers/python && target/bench-peers/python/bin/pip install mcp-proxy==0.13.0",
        is_host_of_many: true,
        launch: |port, servers, command, folder| {
            let one = |number| {
                let how = json!({"command": command[0], "args": command[1..]});
                (server(number), how)
            };
            let servers: serde_json::Map<_, _> = (0..servers).map(one).collect();
            let config = folder.join(CONFIG);
            let (port, config) = (port.to_string(), config.to_string_lossy());
            Launch {
                arguments: words(&[
                    "--log-level",
                    "WARNING",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    &port,
                    "--named-server-config",
                    &config,
                ]),
                config: Some(json!({"mcpServers": servers}).to_string()),
            }
        },
        path: |number| format!("/servers/{}/mcp", server(number)),
        tool: |_| "echo".to_owned(),
    },
];

fn server(number: usize) -> String {
    format!("s{number}")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Kind {
    /// Whether a program of its name that says this to `--help` is it.
    pub fn is_told_by(&self, help: &str) -> bool {
        help.contains(self.mark)
    }

    /// What starts it; see the field.
    pub fn launch(&self, port: u16, servers: usize, command: &[String], folder: &Path) -> Launch {
        (self.launch)(port, servers, command, folder)
    }

    /// Where its server with this number is, the first of a process being 0.
    pub fn endpoint(&self, port: u16, number: usize) -> Endpoint {
        Endpoint {
            tool: (self.tool)(number),
            ..Endpoint::new(format!("127.0.0.1:{port}"), (self.path)(number))
        }
    }
}
