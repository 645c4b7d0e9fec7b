//! The one integration crate: the rules of the house, and the real binary from outside.

mod access_tokens;
mod actor_panics;
mod api;
mod backup;
mod calls;
mod cgroups;
mod cli;
mod clients;
mod conformance;
mod disk;
mod egress;
mod fixtures;
mod harness;
#[cfg(target_arch = "x86_64")]
mod hostile;
mod http_calls;
mod http_children;
mod http_sse;
mod keeper;
mod keeper_lost;
mod leaks;
mod leases;
mod main_route;
mod mcp;
mod meetings;
mod memory;
#[cfg(target_arch = "x86_64")]
mod missing_layers;
mod nginx;
mod odd_servers;
mod outage;
mod packages;
mod path_gateway;
mod per_session;
mod processes;
mod races;
mod session_ends;
mod soak;
mod soak_sessions;
mod source;
mod stateless_client;
mod store_contract;
mod survival;
mod templates;
mod third_party;
mod tidy;
