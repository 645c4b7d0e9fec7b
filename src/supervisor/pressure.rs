//! When memory is short, instances that may sleep do so earlier than they would, the least used first: before the kernel
//! has to choose.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};

use super::{
    Supervisor,
    actor::Actor,
    command::{Command, Relief},
    members::listed,
    registry::ActorHandle,
    route::RouteState,
};
use crate::domain::{
    pressure::{Memory, available_bytes, least_used, some_avg10},
    sleep::Tiers,
};

const PRESSURE_FILE: &str = "/proc/pressure/memory";
pub(super) const MEMINFO_FILE: &str = "/proc/meminfo";

async fn read<T>(file: &str, understand: fn(&str) -> Option<T>) -> Result<T, String> {
    let text = tokio::fs::read_to_string(Path::new(file))
        .await
        .map_err(|error| format!("{file} cannot be read: {error}"))?;
    understand(&text).ok_or_else(|| format!("{file} does not say it"))
}

impl Supervisor {
    /// Last, because the database may be slow; one that is away is asked again with the next look.
    async fn keep_what_was_measured(&self) {
        if let Err(error) = self.keep_needs().await {
            tracing::debug!(%error, "what templates need is not kept yet");
        }
    }

    /// Looks how short of memory the machine is, and has the least used instances sleep if it is too short.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn relieve_memory(&self) -> Result<Value, String> {
        let context = self.context();
        let measured = self.measure_awake().await;
        let policy = &context.config.sleep;
        let (pressure, floor) = (policy.memory_pressure, policy.memory_floor_bytes);
        if pressure.is_none() && floor.is_none() {
            let off = "neither sleep.memory_pressure nor sleep.memory_floor_bytes is set";
            self.keep_what_was_measured().await;
            return Ok(json!({"off": off, "measured": measured}));
        }
        let memory = Memory {
            some_avg10: match pressure {
                Some(_) => Some(read(PRESSURE_FILE, some_avg10).await?),
                None => None,
            },
            available_bytes: match floor {
                Some(_) => Some(read(MEMINFO_FILE, available_bytes).await?),
                None => None,
            },
        };
        let mut asked = 0_u64;
        if memory.is_short(pressure, floor) {
            context.spares.give_up(context).await;
            let mut resting = Vec::new();
            for (_, handle) in context.registry.after(None) {
                let may_sleep = handle.status.borrow().sleep_after.is_some();
                if let Some(rested) = rested(&handle).filter(|_| may_sleep) {
                    resting.push((rested, handle));
                }
            }
            for handle in least_used(resting) {
                // A full mailbox holds something that says more of it.
                asked += u64::from(
                    handle
                        .mailbox
                        .try_send(Command::Rest(Relief::Memory))
                        .is_ok(),
                );
            }
        }
        self.keep_what_was_measured().await;
        Ok(json!({
            "some_avg10": memory.some_avg10,
            "available_bytes": memory.available_bytes,
            "asked_to_sleep": asked,
            "measured": measured,
        }))
    }
}

/// How long nobody used an instance that runs; `None`: somebody does, or it does not run.
pub(super) fn rested(handle: &ActorHandle) -> Option<Duration> {
    let uses = &handle.route.uses;
    let state = handle.route.state.borrow();
    let (RouteState::Ready { upstream, .. } | RouteState::Frozen { upstream, .. }) = &*state else {
        return None;
    };
    let is_busy = uses.under_way() > 0
        || uses.is_subscribed()
        || upstream.client_calls() > 0
        || !listed(&handle.census.borrow()).is_empty();
    let last = uses.last();
    let ended = upstream.last_call_ended().unwrap_or(last);
    (!is_busy).then(|| last.max(ended).elapsed())
}

impl Actor {
    /// Room is needed: it sleeps now, if nobody uses it.
    pub(super) async fn rest_early(&mut self, relief: Relief) {
        if self.sleep_after().is_none() {
            return;
        }
        let now = Tiers {
            freeze_after: None,
            sleep_after: Some(Duration::ZERO),
        };
        if self.rest(now).await {
            let (kind, message, count) = match relief {
                Relief::Memory => (
                    "memory-pressure",
                    "memory is short, and it was among those that rested longest",
                    &self.context.pressed,
                ),
                Relief::OwnerBudget => (
                    "owner-budget",
                    "another of its owner's was wanted, and it was the one that rested longest",
                    &self.context.gave_way,
                ),
            };
            count.fetch_add(1, Ordering::Relaxed);
            self.note(kind, message.to_owned());
        }
    }
}
