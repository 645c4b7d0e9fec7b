//! The ways of children to the network: a gate for each, one record of refusals for each instance.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Context, command::Command};
use crate::{
    domain::{egress::Egress, id::InstanceId},
    egress::{Gate, Ledger},
    runtime::Workload,
};

/// A record of what an instance is refused, which tells its actor of news.
pub(super) fn ledger(mailbox: &mpsc::Sender<Command>) -> Arc<Ledger> {
    let ledger = Arc::new(Ledger::default());
    let mailbox = mailbox.downgrade();
    ledger.tell_to(move |sentence| {
        // What finds no room is in the record all the same.
        if let Some(mailbox) = mailbox.upgrade() {
            let _ = mailbox.try_send(Command::Note("egress-refused", sentence));
        }
    });
    ledger
}

/// Opens the gate of a child whose connections are caught.
pub(super) fn open_gate(
    context: &Context,
    id: InstanceId,
    workload: &Workload,
    egress: Egress,
) -> std::io::Result<Option<Gate>> {
    let Some(caught) = workload.take_caught() else {
        return Ok(None);
    };
    let ledger = context
        .registry
        .get(id)
        .map(|handle| Arc::clone(&handle.egress));
    let outside = Arc::clone(&context.outside);
    Gate::open(caught, egress, outside, ledger.unwrap_or_default()).map(Some)
}
