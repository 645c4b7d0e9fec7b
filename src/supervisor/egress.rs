//! The ways of children to the network: a gate for each, one record of refusals for each instance.

use std::sync::Arc;

use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{Context, command::Command};
use crate::{
    domain::{egress::Egress, id::InstanceId},
    egress::{Gate, Keys, Ledger},
    runtime::Workload,
    secrets::Redactions,
};

/// What a child may reach, and which keys are added on the way.
pub(super) struct Ways {
    pub(super) egress: Egress,
    pub(super) keys: Keys,
}

impl Ways {
    /// Of `secrets`, the values of credentials by variable, the keys are those that the child does not get.
    pub(super) fn new(
        egress: Egress,
        secrets: &[(String, Zeroizing<String>)],
        redactions: &Arc<Redactions>,
    ) -> Self {
        let held = secrets.iter().filter(|(name, _)| egress.holds_back(name));
        Self {
            keys: Keys {
                values: held.cloned().collect(),
                redactions: Arc::clone(redactions),
            },
            egress,
        }
    }
}

/// A record of what an instance is refused, which tells its actor of news.
pub(super) fn ledger(mailbox: &mpsc::Sender<Command>) -> Arc<Ledger> {
    let ledger = Arc::new(Ledger::default());
    let mailbox = mailbox.downgrade();
    ledger.tell_to(move |sentence| {
        // What finds no room is in the record all the same.
        if let Some(mailbox) = mailbox.upgrade() {
            let _ = mailbox.try_send(Command::Note("egress-refused", sentence.into()));
        }
    });
    ledger
}

/// Opens the gate of a child whose connections are caught.
pub(super) fn open_gate(
    context: &Context,
    id: InstanceId,
    workload: &Workload,
    ways: Ways,
) -> std::io::Result<Option<Gate>> {
    let Some(caught) = workload.take_caught() else {
        return Ok(None);
    };
    let ledger = context
        .registry
        .get(id)
        .map(|handle| Arc::clone(&handle.egress));
    let outside = Arc::clone(&context.outside);
    let Ways { egress, keys } = ways;
    Gate::open(caught, egress, &keys, outside, ledger.unwrap_or_default()).map(Some)
}
