//! A server on the official TypeScript SDK, to see what is left of our cost with a child as people run them.

use std::path::{Path, PathBuf};

/// How to get the SDK where it is looked for.
pub const INSTALL: &str = "./tests/run puts the SDK into target/test-deps; Node 20 or later";

/// A program for Node, and what the sandbox must show to it.
pub struct NodeServer {
    pub command: Vec<String>,
    pub reads: Vec<PathBuf>,
}

/// The program given, else our own with the SDK of the tests; `None` when Node or the SDK is not there.
///
/// # Panics
/// When a program is given and is no file.
pub fn find(given: Option<&Path>) -> Option<NodeServer> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let node = std::env::split_paths(&path)
        .map(|folder| folder.join("node"))
        .find(|program| program.is_file())?;
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let command = |rest: &[&Path]| {
        let words = [node.as_path()].into_iter().chain(rest.iter().copied());
        words
            .map(|word| word.to_str().expect("plain paths").to_owned())
            .collect()
    };
    if let Some(given) = given {
        let program = given
            .canonicalize()
            .unwrap_or_else(|error| panic!("--node-server {}: {error}", given.display()));
        let folder = program.parent().expect("a file lies in a folder");
        return Some(NodeServer {
            reads: vec![folder.to_path_buf()],
            command: command(&[&program]),
        });
    }
    let deps = std::env::var_os("MINIMCP_TEST_DEPS")
        .map_or_else(|| tree.join("target/test-deps"), PathBuf::from)
        .join("node");
    if !deps.join("node_modules/@modelcontextprotocol/sdk").is_dir() {
        return None;
    }
    let program = tree.join("benches/side_by_side/node_echo.mjs");
    Some(NodeServer {
        command: command(&[&program, &deps]),
        reads: vec![program, deps],
    })
}
