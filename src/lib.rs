//! MiniMCP: a daemon that runs other people's MCP servers safely. See ARCHITECTURE.md for the map.

pub mod api;
pub mod bench;
pub mod calls;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod connections;
pub mod daemon;
pub mod domain;
pub mod egress;
pub mod gateway;
pub mod interchange;
pub mod logs;
pub mod mcp_servers;
pub mod packages;
pub mod runtime;
pub mod secrets;
pub mod spool;
pub mod store;
pub mod supervisor;
pub mod tally;
pub mod tasks;
pub mod templates;
pub mod traces;
pub mod upstream;
pub mod wire;

#[cfg(test)]
#[path = "../tests/fuzz/corpus.rs"]
mod corpus;
