//! The imperative shell: one actor per instance, and the handle through which everyone speaks with them.
//!
//! The actor is the only owner of its instance's state. It takes commands, exits, timers and probe results in
//! one place, asks [`Lifecycle::step`](crate::domain::lifecycle::Lifecycle::step) what follows, and performs
//! it. Everyone else reads its published status.

pub mod access;
mod actor;
mod adoption;
mod boot;
mod capabilities;
mod check;
mod command;
mod context;
mod create;
mod cures;
mod denials;
mod directory;
mod disk;
mod effects;
mod egress;
mod error;
mod folders;
mod freeze;
mod handle;
mod keeper_watch;
mod launch;
mod launch_span;
mod listener;
mod looks;
mod making_room;
mod measures;
mod member;
mod members;
mod packages;
mod persist;
mod pressure;
mod private_port;
mod profiles;
mod reconcile;
mod recovery;
mod registry;
mod remote;
mod restore;
pub mod route;
mod sealed;
mod seats;
mod seen;
pub mod session_child;
mod sleep;
mod snapshots;
mod spares;
mod status;
mod timers;
mod tokens;
mod turns;
mod unused_packages;
pub mod uses;
mod wishes;

pub use crate::packages::PackageState;
pub use check::{CheckOutcome, CheckReport};
pub use context::Context;
pub use create::check_patch;
pub use denials::DenialReport;
pub use error::SupervisorError;
pub use handle::Supervisor;
pub use making_room::OwnerUse;
pub use reconcile::Outcome as ReconcileOutcome;
pub use seen::{Glance, Seen};
pub use status::{
    CreateRequest, Granted, InstanceEvent, InstanceStatus, ListFilter, ServerFacts, Totals,
};
pub use tokens::TokenStatus;
