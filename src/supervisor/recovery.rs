//! What follows when an actor panics: its task catches it, and the actor begins again from the record.
//!
//! Whatever a panic may have left half changed is read anew from the store. What others hold on to stays: the inbox,
//! the route with its listener and sessions, the published status, and a child that is still at hand.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};

use super::{
    Context, SupervisorError,
    access::TokenSet,
    actor::Actor,
    boot::end,
    command::Command,
    members::{end_held, listed},
    route::{AccessEvent, RouteState},
    timers::Timers,
};
use crate::{
    domain::{
        UnixMs,
        access::TokenSettings,
        event::Event,
        id::{InstanceId, TokenName},
        instance::InstanceRecord,
        lifecycle::{Lifecycle, Policy},
        probe::ProbeTracker,
        state::{DesiredState, InstanceState, StopReason},
    },
    runtime::{self, RuntimeError, Workload, WorkloadId},
    store::TokenRow,
    upstream::Failure,
};

/// A panic that comes sooner after the one before it is not answered with another launch.
const PANIC_WINDOW: Duration = Duration::from_secs(60);

/// The first pause before the record is read again; it doubles up to 64 times of it.
const PAUSE: Duration = Duration::from_millis(250);

/// Runs an actor until its instance is removed or the daemon ends, through panics.
pub(super) async fn keep(actor: &mut Actor) {
    let mut panics = Panics::default();
    loop {
        let life = async {
            // On the heap: it is rare, and a thousand actors should not each keep room for it.
            if panics.in_row > 0 && Box::pin(actor.begin_again(panics.in_row)).await {
                return;
            }
            actor.run().await;
        };
        // Nothing that a panic left half changed is used afterwards: `begin_again` reads it anew or drops it.
        if AssertUnwindSafe(life).catch_unwind().await.is_ok() {
            return;
        }
        panics.note(Instant::now());
        // The panic hook told what it was; the payload goes nowhere else.
        tracing::error!(instance = %actor.record.id, in_row = panics.in_row, "an actor panicked; it begins again from the record");
    }
}

/// Panics of one actor that came soon after each other.
#[derive(Debug, Default)]
struct Panics {
    last: Option<Instant>,
    in_row: u32,
}

impl Panics {
    fn note(&mut self, at: Instant) {
        let soon = self
            .last
            .is_some_and(|last| at.duration_since(last) < PANIC_WINDOW);
        self.in_row = if soon {
            self.in_row.saturating_add(1)
        } else {
            1
        };
        self.last = Some(at);
    }
}

/// How long to wait before the try after `failed` ones.
fn pause(failed: u32) -> Duration {
    PAUSE * (1 << failed.saturating_sub(1).min(6))
}

impl Actor {
    /// Reads the record and goes on from there; after more than one panic in a row without a child, as failed.
    /// `true`: the actor's work is done.
    async fn begin_again(&mut self, panics: u32) -> bool {
        if self.leaving {
            return true;
        }
        self.launching = None;
        self.probing = None;
        self.turn = None;
        self.timers = Timers::default();
        self.tracker = ProbeTracker::default();
        self.save_failures = 0;
        self.retry_due = false;
        self.saved_handshake = None;
        self.let_go_of_lost_child();
        let given_up = panics > 1;
        if given_up {
            // Should one of them be what it cannot bear.
            self.unsaved_events.clear();
            self.told_unsaved = 0;
        }
        self.note("actor-failed", event_text(given_up).to_owned());
        let mut failed = panics.saturating_sub(2);
        let mut shutdown = false;
        loop {
            if failed > 0 {
                match self.refuse_until(Instant::now() + pause(failed)).await {
                    Some(Command::Leave) => return true,
                    Some(_) => shutdown = true,
                    None => {}
                }
            }
            match self.read_anew(given_up).await {
                Ok(true) => return true,
                Ok(false) => break,
                Err(error) => {
                    failed = failed.saturating_add(1);
                    tracing::warn!(instance = %self.record.id, %error, "an actor cannot begin again yet; it will be tried again");
                }
            }
        }
        if shutdown {
            self.apply(Event::Stop(StopReason::Shutdown)).await;
        }
        self.settle().await
    }

    /// A child that was lost with what the panic unwound answers through no route any more.
    fn let_go_of_lost_child(&mut self) {
        let known = self.route_state.borrow().clone();
        if let (
            None,
            RouteState::Ready {
                upstream,
                generation,
            }
            | RouteState::Frozen {
                upstream,
                generation,
            },
        ) = (&self.child, known)
        {
            self.route_state.send_replace(RouteState::Starting);
            upstream.fail_all(Failure::new("its actor failed as it ended", generation));
        }
    }

    /// Nobody waits in vain while the record cannot be read. Answers with what asks the actor to end.
    async fn refuse_until(&mut self, deadline: Instant) -> Option<Command> {
        let mut end = None;
        while let Ok(command) = timeout_at(deadline, self.mailbox.recv()).await {
            match command {
                Some(Command::Do(asked)) => {
                    let _ = asked.reply.send(Err(SupervisorError::ActorFailed));
                }
                None | Some(Command::Leave) => return Some(Command::Leave),
                Some(Command::Shutdown) => end = Some(Command::Shutdown),
                Some(Command::Note(kind, message)) => self.note(kind, message.into()),
                // Asked for again with what follows a reading of the record, or by whoever needs it.
                Some(
                    Command::Boot
                    | Command::Wake
                    | Command::Rest(_)
                    | Command::ChildLost(_)
                    | Command::Wished(_)
                    | Command::Breach(..),
                ) => {}
            }
        }
        end
    }

    /// One try; `Ok(true)`: the instance is removed.
    async fn read_anew(&mut self, given_up: bool) -> Result<bool, SupervisorError> {
        let context = Arc::clone(&self.context);
        let id = self.record.id;
        let Some(mut record) = context.store.instance(id).await? else {
            // It was being deleted: the rest of that is still to be done.
            self.life.state = InstanceState::Stopped {
                reason: StopReason::Deleted,
            };
            return match self.finish_deletion().await {
                true => Ok(true),
                false => Err(SupervisorError::ActorFailed),
            };
        };
        let tokens = context.store.access_tokens().await?;
        let held = match self.child {
            Some(_) => None,
            None => held_child(&context, id).await?,
        };
        // Members have an owner of their own, which no panic of the actor touches; one without it is nobody's.
        let owned = listed(&self.census.borrow());
        let orphaned = |held: WorkloadId| {
            let is_owned = owned.iter().any(|(number, _)| *number == held.member);
            held.instance == id && held.member > 0 && !is_owned
        };
        let internal = |error: RuntimeError| SupervisorError::Internal(error.to_string());
        end_held(&context, orphaned).await.map_err(internal)?;
        let stored = record.state.clone();
        let handshake = record.handshake.take();
        self.template = context
            .catalogue
            .get(&record.template)
            .map(|entry| entry.template);
        self.life = Lifecycle::restored(
            record.desired,
            stored.clone(),
            // One that was given out while the store was away is spent too.
            record.generation.max(self.life.generation),
            record.restart_row,
            record.restarts,
            self.template
                .as_deref()
                .map(Policy::from)
                .unwrap_or_default(),
        );
        context
            .registry
            .settle_name(&record.owner, &record.name, id);
        self.route.slug.store(Arc::new(record.slug()));
        self.record = record;
        self.settle_tokens(tokens).await;
        if given_up {
            self.give_up(held).await;
        } else if self.child.is_some() {
            self.keep_child(stored).await;
        } else if let Some(workload) = held {
            self.adopt(workload, handshake).await;
        } else {
            self.life.state = without_child(&self.record);
        }
        self.refuse_lost_deletions();
        self.publish();
        if given_up {
            self.arm_lease();
        } else {
            self.obey(Command::Boot).await;
        }
        Ok(false)
    }

    /// The child's pipes and calls were never let go of: it goes on as if nothing had been.
    async fn keep_child(&mut self, stored: InstanceState) {
        let Some(child) = &mut self.child else { return };
        // Should it be silent, the new life has not heard of it.
        child.told_silent = false;
        let generation = child.generation;
        // Whether it held still went with the old life; an older keeper, which could not let it, refuses this.
        let _ = child.workload.thaw().await;
        let handshake = child.upstream.handshake_snapshot();
        self.apply(Event::Adopted(generation)).await;
        match handshake {
            Some(handshake) => self.on_handshake(generation, &handshake).await,
            None => self.begin_handshake(),
        }
        match stored {
            InstanceState::Stopping {
                then_start: true, ..
            } => self.apply(Event::Restart).await,
            InstanceState::Stopping { reason, .. } => self.apply(Event::Stop(reason)).await,
            _ => {}
        }
    }

    /// Ends whatever child there is; a start by hand launches the next.
    async fn give_up(&mut self, held: Option<Workload>) {
        let cause = "its actor panicked again within a minute".to_owned();
        if let Some(child) = self.child.take() {
            end(&child.workload).await;
            let failure = Failure::new(cause.clone(), child.generation);
            child.upstream.fail_all(failure);
        }
        if let Some(workload) = held {
            self.life.generation = self.life.generation.max(workload.id().generation);
            end(&workload).await;
        }
        self.life.state = match (&self.record.state, self.record.desired) {
            (InstanceState::Stopped { .. }, _) | (_, DesiredState::Stopped) => {
                without_child(&self.record)
            }
            (_, DesiredState::Running) => InstanceState::Failed { cause },
        };
        self.since = self.context.clock.now();
        self.note_transition(self.life.word());
        self.dirty = true;
    }

    /// A deletion whose wish did not reach the store is not under way any more.
    fn refuse_lost_deletions(&mut self) {
        let deleting = matches!(
            self.life.state,
            InstanceState::Stopping {
                reason: StopReason::Deleted,
                ..
            } | InstanceState::Stopped {
                reason: StopReason::Deleted
            }
        );
        if !deleting {
            for reply in self.delete_replies.drain(..) {
                let _ = reply.send(Err(SupervisorError::ActorFailed));
            }
        }
    }

    /// A change of tokens that the store took holds here too. Where nothing differs, the tokens stay the same
    /// objects, to which the sessions belong.
    async fn settle_tokens(&mut self, rows: Vec<(InstanceId, TokenRow)>) {
        let id = self.record.id;
        let own = rows.into_iter().filter(|(holder, _)| *holder == id);
        let stored = TokenSet::restored(own.map(|(_, row)| row).collect());
        let present = self.route.tokens.load_full();
        let now = self.context.clock.now();
        if facts(&stored, now) == facts(&present, now) {
            return;
        }
        self.route.tokens.store(Arc::new(stored));
        // What the old objects opened ends.
        let tokens = present.tokens();
        tokens
            .iter()
            .fold(TokenSet::clone(&present), TokenSet::without);
        let changed = AccessEvent::TokensChanged { id };
        let _ = self.context.access.send(changed).await;
    }
}

/// What a record's state means once its child is known to be gone.
pub(super) fn without_child(record: &InstanceRecord) -> InstanceState {
    match (&record.state, record.desired) {
        (InstanceState::Stopped { .. }, _) => record.state.clone(),
        (
            InstanceState::Stopping {
                reason: StopReason::Idle,
                then_start: false,
            },
            DesiredState::Running,
        ) => InstanceState::Stopped {
            reason: StopReason::Idle,
        },
        (InstanceState::Stopping { reason, .. }, DesiredState::Stopped) => {
            InstanceState::Stopped { reason: *reason }
        }
        (_, DesiredState::Stopped) => InstanceState::Stopped {
            reason: StopReason::Requested,
        },
        (_, DesiredState::Running) => InstanceState::Pending,
    }
}

type TokenFacts = (TokenName, TokenSettings, Vec<([u8; 32], Option<UnixMs>)>);

/// What two sets must agree on to be the same.
fn facts(set: &TokenSet, now: UnixMs) -> Vec<TokenFacts> {
    let of_token = |token| {
        let valid = set
            .secrets_of(token)
            .map(|secret| (secret.hash, secret.overlap_until))
            .filter(|(_, until)| until.is_none_or(|until| until > now));
        let settings = TokenSettings::clone(&token.settings.load());
        (token.name.clone(), settings, valid.collect())
    };
    let mut facts: Vec<TokenFacts> = set.tokens().iter().map(of_token).collect();
    facts.sort_by(|a, b| a.0.cmp(&b.0));
    facts
}

/// The newest main child of an instance that the keeper holds; older ones are ended.
async fn held_child(
    context: &Context,
    id: InstanceId,
) -> Result<Option<Workload>, SupervisorError> {
    let keeper = &*context.runtime;
    let all = runtime::ask_again(keeper, || keeper.adoptable()).await;
    let all = all.map_err(|error| SupervisorError::Internal(error.to_string()))?;
    let mut own: Vec<Workload> = all
        .into_iter()
        .filter(|workload| workload.id().instance == id && workload.id().member == 0)
        .collect();
    own.sort_by_key(|workload| workload.id().generation);
    let newest = own.pop();
    for older in &own {
        end(older).await;
    }
    Ok(newest)
}

fn event_text(given_up: bool) -> &'static str {
    if given_up {
        "its actor panicked again within a minute; a start by hand launches it"
    } else {
        "its actor panicked and began again from the record"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_in_a_row_while_each_comes_soon_after_the_one_before() {
        let begin = Instant::now();
        let mut panics = Panics::default();
        let mut in_row = |after_s| {
            panics.note(begin + Duration::from_secs(after_s));
            panics.in_row
        };
        assert_eq!([in_row(0), in_row(59), in_row(118)], [1, 2, 3]);
        assert_eq!([in_row(178), in_row(179)], [1, 2]);
    }

    #[test]
    fn pauses_grow_and_have_an_end() {
        assert_eq!(pause(1), Duration::from_millis(250));
        assert_eq!(pause(2), Duration::from_millis(500));
        assert_eq!(pause(u32::MAX), Duration::from_secs(16));
    }
}
