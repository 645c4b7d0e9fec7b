//! The one integration crate: the rules of the house, and the real binary from outside.

mod access_tokens;
mod api;
mod cli;
mod conformance;
mod fixtures;
mod harness;
mod keeper;
mod leaks;
mod leases;
mod main_route;
mod mcp;
mod meetings;
mod nginx;
mod odd_servers;
mod outage;
mod path_gateway;
mod processes;
mod races;
mod soak;
mod soak_sessions;
mod source;
mod store_contract;
mod survival;
mod templates;
mod tidy;
