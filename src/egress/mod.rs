//! The gate: the only way out of a network namespace of an instance's own; and the way to servers elsewhere.
//!
//! Inside, every name that is allowed has a synthetic address, and whatever connects there ends at a listener that the
//! keeper made. Here the address is turned into its name again, the name is resolved outside, what is private is
//! refused, and bytes are copied. A server needs no proxy setting, and what it does not name it cannot reach.

mod broker;
mod broker_body;
mod broker_client;
mod broker_headers;
mod bucket;
mod connection;
mod dial;
mod dns;
mod doors;
mod hello;
mod ledger;
mod names;
mod oauth;
mod relay;
mod resolve;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Semaphore, task::AbortHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{broker::Desk, dns::Answer, doors::Doors, names::Names};
pub use self::{
    broker::Keys,
    dial::{DialError, Dialer},
    ledger::{EgressReport, HostCount, Ledger},
    resolve::{HostResolver, Resolve},
};
use crate::{
    clock::Clock,
    domain::{egress::Egress, private_address::Opened},
    runtime::Caught,
};

/// What the gates of all children share.
pub struct Outside {
    /// Turns names into addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Private addresses that are reached all the same.
    pub opened: Vec<Opened>,
    /// Most connections of one child at the same time.
    pub connections_max: usize,
    /// Most bytes that one instance sends in an hour.
    pub sent_bytes_per_hour: u64,
    /// Wall time, for records.
    pub clock: Clock,
}

/// The gate of one child; dropping it ends all its connections.
pub struct Gate {
    stop: CancellationToken,
    task: AbortHandle,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
        self.stop.cancel();
    }
}

/// One gate, as its task and its connections see it.
struct Inner {
    outside: Arc<Outside>,
    egress: Egress,
    names: Mutex<Names>,
    /// Where plain HTTP is spoken, for keys that stay outside.
    desks: Vec<Arc<Desk>>,
    ledger: Arc<Ledger>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Gate {
    /// Begins to answer what was caught, by the rules of `egress`; what is refused and reached goes into `ledger`. `keys`
    /// are those that brokers add.
    ///
    /// # Errors
    /// When a socket cannot be registered with the runtime.
    pub fn open(
        caught: Caught,
        mut egress: Egress,
        keys: &Keys,
        outside: Arc<Outside>,
        ledger: Arc<Ledger>,
    ) -> io::Result<Self> {
        // One that was launched by another template knows of no broker, and goes its own way.
        let ports = caught
            .listeners
            .iter()
            .filter_map(|at| at.local_addr().ok());
        let ports: Vec<u16> = ports.map(|address| address.port()).collect();
        egress.brokers.retain(|broker| ports.contains(&broker.port));
        ledger.begin(&egress);
        let stop = CancellationToken::new();
        let mut doors = Doors::of(caught)?;
        let inner = Arc::new(Inner {
            names: Mutex::new(Names::of(&egress)),
            desks: broker::desks(&egress.brokers, keys),
            connections: Arc::new(Semaphore::new(outside.connections_max)),
            outside,
            egress,
            ledger,
            stop: stop.clone(),
        });
        // The block holds them once; an `async fn` that takes them would hold them twice.
        let task = tokio::spawn(async move { doors.keep(&inner).await }).abort_handle();
        Ok(Self { stop, task })
    }
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, host: &str, why: ledger::Why) {
        self.ledger.refuse(host, why, self.outside.clock.now());
    }

    /// What a question for `name` is answered with.
    fn answer(&self, question: &dns::Question, v6: bool) -> Answer {
        let Some(name) = question.host.as_deref() else {
            return Answer::NoSuchName;
        };
        if let Err(refused) = self.egress.resolves(name) {
            self.ledger
                .refuse(name, refused.into(), self.outside.clock.now());
            return Answer::NoSuchName;
        }
        let slot = match question.kind {
            dns::A => self.names().slot_of(name, Instant::now()),
            dns::AAAA if v6 => self.names().slot_of(name, Instant::now()),
            _ => return Answer::NoRecord,
        };
        match (slot, question.kind) {
            (None, _) => Answer::Failure,
            (Some(slot), dns::A) => Answer::V4(names::v4(slot)),
            (Some(slot), _) => Answer::V6(names::v6(slot)),
        }
    }
}

#[cfg(test)]
mod tests;
