//! What can be asked of an actor.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{SupervisorError, seen::Published, tokens::TokenChange};
use crate::domain::{
    duration::HumanDuration, id::Generation, instance::InstanceChange, state::DesiredState, verb,
};

/// An answer to a command.
pub(super) type Reply = oneshot::Sender<Result<Arc<Published>, SupervisorError>>;

/// A verb of the API that changes one instance.
#[derive(Debug)]
pub(super) enum Verb {
    /// Should run.
    Start,
    /// Should not run.
    Stop,
    /// Stop, then start.
    Restart,
    /// A new deadline.
    Extend(Option<HumanDuration>),
    /// Bring it back after its lease ran out.
    Restore(Option<HumanDuration>),
    /// Another name, other labels, another time until it sleeps.
    Patch(InstanceChange),
    /// Other access tokens.
    Token(TokenChange),
    /// Stop it, then remove it. The reply comes once it is gone.
    Delete,
}

impl Verb {
    /// What the state has a say in.
    pub(super) fn kind(&self) -> verb::Verb {
        match self {
            Self::Start | Self::Stop | Self::Restart | Self::Extend(_) => verb::Verb::Run,
            Self::Restore(_) => verb::Verb::Restore,
            Self::Patch(_) | Self::Token(_) => verb::Verb::Change,
            Self::Delete => verb::Verb::Delete,
        }
    }

    /// For sentences.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Extend(_) => "extend",
            Self::Restore(_) => "restore",
            Self::Patch(_) => "change",
            Self::Token(_) => "change the access tokens of",
            Self::Delete => "delete",
        }
    }
}

/// What one sleeps early for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relief {
    /// The machine is short of memory.
    Memory,
    /// Another of its owner's is wanted, and the owner may not have both awake.
    OwnerBudget,
}

/// A verb, and where its outcome goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) verb: Verb,
    pub(super) reply: Reply,
}

/// A message to an actor. Small: each of a thousand inboxes has room for 32 of them from its beginning.
#[derive(Debug)]
pub(super) enum Command {
    /// From the API.
    Do(Box<Asked>),
    /// Run, if that is what was asked for before the daemon started.
    Boot,
    /// A request came for it: run, if it sleeps.
    Wake,
    /// Room is needed: sleep, if nobody uses it and it may.
    Rest(Relief),
    /// The daemon goes down and takes the instance along.
    Shutdown,
    /// The daemon goes down, the child stays.
    Leave,
    /// Something happened to a part of the instance: a stable word and a sentence.
    Note(&'static str, Box<str>),
    /// The reconciler found the child of this launch gone without an exit report.
    ChildLost(Generation),
    /// The reconciler found another wish in the record than the one last written.
    Wished(DesiredState),
    /// The child of this launch went past a limit that only its end can hold: the cause.
    Breach(Generation, Box<str>),
}

const _: () = assert!(size_of::<Command>() <= 40);
