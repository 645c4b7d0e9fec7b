//! Compares the store, the keeper and the actors, and puts right what differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::Duration,
};

use serde_json::json;
use tokio::time::timeout;

use super::{
    Supervisor, boot, command::Command, context::listener_name, handle::is_up, route::AccessEvent,
};
use crate::domain::{
    id::{Generation, InstanceId},
    reconcile::{Correction, LiveChild, Views, diff},
    state::InstanceState,
};
use crate::runtime::Workload;

/// How long the end of an instance without a row is waited for in one round, at each of its two steps.
const RETIRE_PATIENCE: Duration = Duration::from_secs(20);

impl Supervisor {
    /// One round; answers what was found and corrected. Whatever moves while the views are read looks like a
    /// difference, so only what two looks in a row agree on is touched.
    ///
    /// # Errors
    /// When the store or the keeper cannot be read.
    pub async fn reconcile(&self) -> Result<serde_json::Value, String> {
        let first: BTreeSet<Correction> = diff(&self.views().await?).into_iter().collect();
        if first.is_empty() {
            return Ok(json!({"differences": 0}));
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let agreed: Vec<Correction> = diff(&self.views().await?)
            .into_iter()
            .filter(|correction| first.contains(correction))
            .collect();
        let mut done = Vec::new();
        for correction in agreed {
            tracing::warn!(?correction, "the views differ; correcting");
            self.correct(&correction).await?;
            self.tell(&correction).await;
            done.push(format!("{correction:?}"));
        }
        Ok(json!({"differences": done.len(), "corrected": done}))
    }

    /// Tells the instance's history what was healed, where it has one.
    async fn tell(&self, correction: &Correction) {
        let (id, message) = match correction {
            Correction::StartActor(id) => {
                (id, "it was recorded, and nobody looked after it".to_owned())
            }
            // Its history went with its row.
            Correction::StopActor(_) => return,
            Correction::KillChild(child) => (
                &child.instance,
                format!(
                    "a child of launch {} that nobody looked after was killed",
                    child.generation
                ),
            ),
            Correction::LostChild(child) => (
                &child.instance,
                format!(
                    "the child of launch {} was gone without a word",
                    child.generation
                ),
            ),
            Correction::ReleasePort(port, id) => (id, format!("port {port} was leased in vain")),
            Correction::LeasePort(port, id) => (
                id,
                format!("its access port {port} was not leased to it any more"),
            ),
        };
        if let Some(handle) = self.context().registry.get(*id) {
            let _ = handle
                .mailbox
                .send(Command::Note("reconciled", message))
                .await;
        }
    }

    /// Ends an instance whose row is gone, with its child and its URL. Its folder stays: nobody asked for the end of that.
    async fn retire(&self, id: InstanceId) {
        let context = self.context();
        let Some(handle) = context.registry.get(id) else {
            return;
        };
        let _ = handle.mailbox.send(Command::Shutdown).await;
        let mut status = handle.status.clone();
        let down = status.wait_for(|status| !is_up(status.word));
        if timeout(RETIRE_PATIENCE, down).await.is_err() {
            // The next round goes on.
            return;
        }
        let _ = handle.mailbox.send(Command::Leave).await;
        if timeout(RETIRE_PATIENCE, handle.mailbox.closed())
            .await
            .is_err()
        {
            return;
        }
        let record = handle.status.borrow().record.clone();
        let _ = context.access.send(AccessEvent::Close { id }).await;
        context
            .registry
            .release_name(&record.owner, &record.name, id);
        context.registry.remove(id);
        if let Err(error) = context.runtime.drop_held(&listener_name(id)).await {
            tracing::debug!(instance = %id, %error, "the keeper did not drop the listener");
        }
        if let Some(port) = record.port {
            let mut pool = context.ports.lock().unwrap_or_else(PoisonError::into_inner);
            pool.release(port, id, context.clock.now());
        }
    }

    async fn views(&self) -> Result<Views, String> {
        let context = self.context();
        let text = |error: crate::store::StoreError| error.to_string();
        let (records, corrupt) = context.store.instances().await.map_err(text)?;
        context.note_damaged(&corrupt);
        // What cannot be read may be any instance's row if even its id is damaged.
        let damaged: Option<BTreeSet<InstanceId>> =
            corrupt.iter().map(|row| row.id.parse().ok()).collect();
        let unreadable = |id: InstanceId| {
            let known = records.iter().any(|record| record.id == id);
            !known && damaged.as_ref().is_none_or(|ids| ids.contains(&id))
        };
        let leases = context.store.port_leases().await.map_err(text)?;
        let live = context
            .runtime
            .adoptable()
            .await
            .map_err(|error| error.to_string())?;
        let mut acted: BTreeMap<InstanceId, Option<Generation>> = BTreeMap::new();
        let mut launching = BTreeSet::new();
        let (mut members, mut launched_members) = (BTreeSet::new(), BTreeSet::new());
        for (id, handle) in context.registry.after(None) {
            if unreadable(id) {
                continue;
            }
            for member in handle.census.borrow().iter() {
                let child = LiveChild {
                    instance: id,
                    generation: member.generation,
                    member: member.number,
                };
                members.insert(child);
                if member.pid().is_some() {
                    launched_members.insert(child);
                }
            }
            let status = handle.status.borrow();
            let is_launching =
                status.pid.is_none() && matches!(status.record.state, InstanceState::Starting);
            if is_launching {
                launching.insert(id);
            }
            let has_child = status.pid.is_some() || is_launching;
            acted.insert(id, has_child.then_some(status.record.generation));
        }
        Ok(Views {
            recorded: records
                .iter()
                .map(|record| {
                    // A row knows its port by the lease alone; when that is gone, who serves the port still knows.
                    let served = || {
                        let handle = context.registry.get(record.id)?;
                        handle.status.borrow().record.port
                    };
                    (record.id, record.port.or_else(served))
                })
                .collect(),
            acted,
            launching,
            members,
            launched_members,
            live: live
                .iter()
                .map(Workload::id)
                .filter(|id| !unreadable(id.instance) && !context.packages.owns(id.instance))
                .map(|id| LiveChild {
                    instance: id.instance,
                    generation: id.generation,
                    member: id.member,
                })
                .collect(),
            leases: leases
                .into_iter()
                .filter_map(|row| Some((row.port, row.instance?)))
                .filter(|(_, id)| !unreadable(*id))
                .collect(),
        })
    }

    async fn correct(&self, correction: &Correction) -> Result<(), String> {
        let context = self.context();
        let now = context.clock.now();
        match correction {
            Correction::StartActor(id) => {
                boot::restore_by_id(context, *id)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Correction::StopActor(id) => self.retire(*id).await,
            Correction::KillChild(child) => {
                let workloads = context
                    .runtime
                    .adoptable()
                    .await
                    .map_err(|error| error.to_string())?;
                for workload in workloads {
                    let id = workload.id();
                    let found = LiveChild {
                        instance: id.instance,
                        generation: id.generation,
                        member: id.member,
                    };
                    if found == *child {
                        workload
                            .kill_tree()
                            .await
                            .map_err(|error| error.to_string())?;
                        workload.forget().await.map_err(|error| error.to_string())?;
                    }
                }
            }
            Correction::LostChild(child) if child.member > 0 => {
                if let Some(handle) = context.registry.get(child.instance) {
                    let census = handle.census.borrow();
                    let lost = census.iter().find(|member| {
                        (member.number, member.generation) == (child.member, child.generation)
                    });
                    if let Some(member) = lost {
                        member.lose();
                    }
                }
            }
            Correction::LostChild(child) => {
                if let Some(handle) = context.registry.get(child.instance) {
                    let _ = handle
                        .mailbox
                        .send(Command::ChildLost(child.generation))
                        .await;
                }
            }
            Correction::ReleasePort(port, _) => {
                context
                    .store
                    .release_port(*port, now)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Correction::LeasePort(port, id) => {
                context
                    .store
                    .lease_port(*id, *port, now)
                    .await
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}
