//! Writing an instance's record and events, at once or as soon as the store is back.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{InstanceEvent, actor::Actor, launch::KeptHandshake, status::FROZEN, timers::Timer};
use crate::{
    domain::{
        id::Generation,
        state::{InstanceState, StatusWord},
    },
    store::{NewEvent, StateWrite, StoreError},
    traces::{self, Span},
    upstream::Handshake,
};

/// Events kept while the store is away; older ones go first.
const UNSAVED_EVENTS_MAX: usize = 64;

/// How long an instance's own progress waits for the store. What a person waits for may take longer.
const OWN_PATIENCE: Duration = Duration::from_secs(2);

impl Actor {
    /// Writes, or remembers to write later.
    pub(super) async fn save(&mut self) {
        self.dirty = true;
        if self.save_failures > 0 && !self.retry_due {
            self.tell_unsaved();
            return;
        }
        self.retry_due = false;
        let saved = match timeout(OWN_PATIENCE, self.try_save()).await {
            Ok(saved) => saved,
            Err(_) => Err(StoreError::Unavailable(
                "it did not answer in time".to_owned(),
            )),
        };
        match saved {
            Ok(()) => {}
            Err(error) => {
                self.save_failures = self.save_failures.saturating_add(1);
                if self.save_failures == 1 {
                    tracing::warn!(instance = %self.record.id, %error, "the record could not be written; it will be tried again");
                }
                self.tell_unsaved();
                let wait_ms = 250_u64 << self.save_failures.min(6);
                let at = Instant::now() + Duration::from_millis(wait_ms);
                self.timers.arm(Timer::PersistAgain, at);
            }
        }
    }

    /// Writes record and events in one transaction.
    pub(super) async fn try_save(&mut self) -> Result<(), StoreError> {
        let now = self.context.clock.now();
        let write = StateWrite {
            id: self.record.id,
            expected_generation: self.life.generation,
            generation: self.life.generation,
            desired: self.life.desired,
            state: self.life.state.clone(),
            lease: self.record.lease,
            restart_row: self.life.restart_row,
            restarts: self.life.restarts,
            last_exit: self.record.last_exit.clone(),
            now,
        };
        // Until the answer is here, and for ever when it is lost, the row may differ from what we hold: it is written
        // again even if the caller gives the change up.
        self.dirty = true;
        let store = &self.context.store;
        let saving = store.save_state(&write, &self.unsaved_events);
        let launch = self.launch_span.as_ref().map(Span::inside);
        let ids = match launch {
            Some(launch) => traces::within(launch, saving).await?,
            None => saving.await?,
        };
        self.dirty = false;
        // Also after a write that a verb asked for: with the timer disarmed, nothing else ends the row of failures.
        self.save_failures = 0;
        self.retry_due = false;
        self.timers.disarm(Timer::PersistAgain);
        let told_before = std::mem::take(&mut self.told_unsaved);
        let saved = std::mem::take(&mut self.unsaved_events);
        for (event, id) in saved.into_iter().zip(ids).skip(told_before) {
            // Nobody listening is fine.
            let _ = self.context.events.send(told(&event, id));
        }
        self.record.updated_at = now;
        self.record.desired = self.life.desired;
        self.record.generation = self.life.generation;
        Ok(())
    }

    /// Writes the events of an instance whose record is gone.
    pub(super) async fn tell_last_words(&mut self) {
        match self.context.store.append_events(&self.unsaved_events).await {
            Ok(ids) => {
                let told_before = std::mem::take(&mut self.told_unsaved);
                for (event, id) in self.unsaved_events.drain(..).zip(ids).skip(told_before) {
                    let _ = self.context.events.send(told(&event, id));
                }
            }
            Err(error) => {
                tracing::warn!(instance = %self.record.id, %error, "its last events could not be written");
                self.tell_unsaved();
            }
        }
    }

    /// Adds an event to what is written next.
    pub(super) fn note(&mut self, kind: &str, message: String) {
        if self.unsaved_events.len() >= UNSAVED_EVENTS_MAX {
            self.unsaved_events.remove(0);
            self.told_unsaved = self.told_unsaved.saturating_sub(1);
        }
        self.unsaved_events.push(NewEvent {
            instance: self.record.id,
            generation: self.life.generation,
            at: self.context.clock.now(),
            kind: kind.to_owned(),
            message,
        });
    }

    /// The event for a new status word.
    pub(super) fn note_transition(&mut self, word: StatusWord) {
        let message = match (&self.life.state, word) {
            (InstanceState::Starting, _) => format!("launch {} begins", self.life.generation),
            (InstanceState::Running, StatusWord::Unhealthy) => {
                "its probes go unanswered".to_owned()
            }
            (InstanceState::Running, StatusWord::Frozen) => FROZEN.to_owned(),
            (InstanceState::Running, _) => "it answers".to_owned(),
            (InstanceState::BackingOff { until }, _) => {
                let wait_ms = until.saturating_sub(self.context.clock.now()).max(0);
                format!(
                    "next launch in {wait_ms} ms; {} ends in a row",
                    self.life.restart_row.failures_in_row
                )
            }
            (InstanceState::Failed { cause }, _) => cause.clone(),
            (InstanceState::Stopping { reason, .. } | InstanceState::Stopped { reason }, _) => {
                super::status::stop_reason_text(*reason).to_owned()
            }
            (InstanceState::Pending, _) => String::new(),
        };
        self.note(word.as_str(), message);
    }

    /// Keeps the handshake for a later daemon, when it differs from the one kept.
    pub(super) async fn save_handshake(&mut self, generation: Generation, handshake: &Handshake) {
        let http_port = self
            .child
            .as_ref()
            .and_then(|child| Some(child.http_port.as_ref()?.number()));
        let kept = KeptHandshake {
            handshake: handshake.clone(),
            http_port,
            basis: self
                .child
                .as_ref()
                .and_then(|child| child.memory.basis.clone()),
        };
        let json = match serde_json::to_value(&kept) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(instance = %self.record.id, %error, "a handshake cannot be written as JSON");
                return;
            }
        };
        let mut hasher = DefaultHasher::new();
        json.to_string().hash(&mut hasher);
        let hash = Some(hasher.finish());
        // Nor is it tried while the record itself waits for the store: a child's life does not wait with it.
        if self.saved_handshake == hash || self.save_failures > 0 {
            return;
        }
        let keeping = self
            .context
            .store
            .save_handshake(self.record.id, generation, &json);
        // A new daemon shakes hands anew where it is missing, which every known server takes.
        match timeout(OWN_PATIENCE, keeping).await {
            Ok(Ok(())) => self.saved_handshake = hash,
            Ok(Err(error)) => {
                tracing::debug!(instance = %self.record.id, %error, "the handshake was not kept")
            }
            Err(_) => {
                tracing::debug!(instance = %self.record.id, "the handshake was not kept in time")
            }
        }
    }

    /// Live listeners hear of events that the store does not have yet, once.
    fn tell_unsaved(&mut self) {
        for event in self.unsaved_events.iter().skip(self.told_unsaved) {
            let _ = self.context.events.send(told(event, 0));
        }
        self.told_unsaved = self.unsaved_events.len();
    }
}

fn told(event: &NewEvent, id: i64) -> InstanceEvent {
    InstanceEvent {
        id,
        instance: event.instance,
        generation: event.generation,
        at: event.at,
        kind: event.kind.clone(),
        message: event.message.clone(),
    }
}
