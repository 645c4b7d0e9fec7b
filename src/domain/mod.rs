//! The pure core: what an instance is, and what must happen to it next.
//!
//! Nothing here reads a clock, does I/O or awaits: `now` is an argument, decisions are return values.
//! Times are UTC unix milliseconds ([`UnixMs`]); durations are milliseconds.

pub mod access;
pub mod broker;
pub mod budget;
pub mod call;
pub mod capability;
pub mod credential;
pub mod duration;
pub mod egress;
pub mod event;
pub mod exit;
pub mod file_argument;
pub mod id;
pub mod instance;
pub mod latency;
pub mod launch_limit;
mod layer;
pub mod lease;
pub mod lifecycle;
pub mod limits;
pub mod member;
pub mod oauth;
pub mod own_user;
pub mod package;
pub mod policy;
pub mod port;
pub mod pressure;
pub mod principal;
pub mod private_address;
pub mod probe;
pub mod reconcile;
pub mod restart;
pub mod sandbox;
mod sandbox_network;
pub mod sleep;
pub mod slug;
pub mod state;
pub mod template;
pub mod verb;
pub mod violation;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
pub type UnixMs = i64;
