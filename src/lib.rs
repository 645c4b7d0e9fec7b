//! MiniMCP: a daemon that runs other people's MCP servers safely. See ARCHITECTURE.md for the map.

pub mod config;
pub mod domain;
pub mod supervisor;
pub mod wire;
