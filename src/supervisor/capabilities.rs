//! The capability cache: what the server of an instance offers is asked after each launch and before it falls asleep,
//! kept in the database in the server's own words, and recalled while no server is there to answer.
//!
//! Kept is what a stdio server says whose clients share one process. A server over HTTP, here or elsewhere, answers
//! clients of its own era itself, with sessions of its own; of one with a process for each session, each process speaks
//! for itself.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Context,
    actor::Actor,
    route::{AccessEvent, Recall, Recalled},
    sealed::{SealedByVariable, read_sealed},
    timers::Timer,
};
use crate::{
    domain::{
        capability::{ListChange, ListKind},
        id::Generation,
        instance::InstanceRecord,
        state::StatusWord,
        template::Template,
    },
    store::{CapabilityRow, StoreError},
    upstream::{Handshake, Offer, Upstream, list_entries},
};

/// How long a server may take to tell all that it offers.
const ASKING_MAX: Duration = Duration::from_secs(10);
/// So many servers at most are asked at a time; one that does not answer holds up the next for [`ASKING_MAX`].
pub(super) const ASKED_AT_ONCE_MAX: usize = 8;
/// A server of which nothing is kept yet is asked so long after it is ready: its first clients go before.
const FIRST_AFTER: Duration = Duration::from_secs(1);
/// How long a child's life waits for the store to forget something.
const FORGETTING_MAX: Duration = Duration::from_secs(2);

/// What is known of what one child offers.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// All that was known to decide it, when the child was launched; `None`: it is not kept.
    pub(super) basis: Option<String>,
    /// When it was asked last, whatever came of it.
    asked_at: Option<Instant>,
    /// What it says now was held against what was kept before.
    is_compared: bool,
}

impl Memory {
    /// Of a child of such a template that was launched on this basis.
    pub(super) fn of(template: &Template, basis: Option<String>) -> Self {
        Self {
            basis: basis.filter(|_| template.server.caches_capabilities()),
            ..Self::default()
        }
    }
}

/// Stands for all that is known to decide what a server offers: template, settings, credentials, and the program when it
/// is our own.
pub(super) fn basis(
    template: &Template,
    record: &InstanceRecord,
    sealed: &SealedByVariable,
) -> Option<String> {
    let spec = &record.spec;
    let known = (
        env!("CARGO_PKG_VERSION"),
        template,
        &spec.settings,
        &spec.credentials,
        // Each value that is put has a nonce of its own.
        sealed
            .iter()
            .map(|(name, secret)| (name, &secret.nonce[..]))
            .collect::<Vec<_>>(),
    );
    let text = serde_json::to_vec(&known).ok()?;
    let digest = Sha256::digest(text);
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What came of asking a server.
pub(super) struct Learnt {
    generation: Generation,
    /// How it differs from what was kept before.
    outcome: Result<Vec<Change>, String>,
}

pub(super) type Learning = BoxFuture<'static, Learnt>;

/// One difference.
enum Change {
    /// It tells something else of itself.
    Handshake,
    List(ListChange),
}

async fn learn(
    context: &Context,
    instance_key: i64,
    basis: String,
    upstream: &Upstream,
) -> Result<Vec<Change>, String> {
    // Nobody closes it.
    let _turn = context.learning_turns.acquire().await;
    let asked = timeout(ASKING_MAX, upstream.offer()).await;
    let offer = asked
        .map_err(|_| "it did not tell in time what it offers".to_owned())?
        .map_err(|error| error.to_string())?;
    let now = CapabilityRow {
        basis,
        heard_at: context.clock.now(),
        handshake: serde_json::to_string(&*offer.handshake).map_err(|error| error.to_string())?,
        lists: offer.lists.clone(),
    };
    let text = |error: StoreError| error.to_string();
    let store = &context.store;
    let before = store.capabilities(instance_key).await.map_err(text)?;
    let is_same = before.as_ref().is_some_and(|before| {
        let same_time = CapabilityRow {
            heard_at: before.heard_at,
            ..now.clone()
        };
        *before == same_time
    });
    // What nobody may keep for any time is as good from any time.
    let ages = offer
        .lists
        .iter()
        .flatten()
        .any(|list| list.contains("\"ttlMs\""))
        || offer.handshake.raw.contains("\"ttlMs\"");
    if !is_same || ages {
        store
            .save_capabilities(instance_key, &now)
            .await
            .map_err(text)?;
    }
    Ok(before.map_or(Vec::new(), |before| changes(&before, &offer)))
}

/// How an offer differs from what was kept.
fn changes(before: &CapabilityRow, now: &Offer) -> Vec<Change> {
    let known: Option<Handshake> = serde_json::from_str(&before.handshake).ok();
    let mut changes = Vec::new();
    if known
        .as_ref()
        .is_none_or(|known| known.raw != now.handshake.raw)
    {
        changes.push(Change::Handshake);
    }
    for kind in ListKind::ALL {
        // A list that is not known on one side says nothing, unless the server has no such list.
        let side = |list: &'_ Option<String>, handshake: Option<&Handshake>| match list {
            Some(list) => Some(list.clone()),
            None => {
                let has = handshake.is_none_or(|known| known.has_capability(kind.capability()));
                (!has).then(|| format!("{{\"{}\":[]}}", kind.member()))
            }
        };
        let before = side(&before.lists[kind.place()], known.as_ref());
        let now = side(&now.lists[kind.place()], Some(&now.handshake));
        if let (Some(before), Some(now)) = (before, now)
            && let (Some(before), Some(now)) =
                (list_entries(kind, &before), list_entries(kind, &now))
        {
            changes.extend(ListChange::between(kind, &before, &now).map(Change::List));
        }
    }
    changes
}

impl Actor {
    /// The child is ready: it will be asked what it offers, at once where something else may have been answered for it.
    pub(super) fn plan_learning(&mut self) {
        if self.memory().is_none() {
            return;
        }
        match self.route.recall.may() && !self.adopting {
            true => self.begin_learning(),
            false => self.timers.arm(Timer::Learn, Instant::now() + FIRST_AFTER),
        }
    }

    fn memory(&mut self) -> Option<&mut Memory> {
        let child = self.child.as_deref_mut()?;
        child.memory.basis.is_some().then_some(&mut child.memory)
    }

    /// Asks the child, unless that is going on.
    pub(super) fn begin_learning(&mut self) {
        self.timers.disarm(Timer::Learn);
        let Some(child) = self.child.as_deref_mut() else {
            return;
        };
        let (None, Some(basis)) = (&self.learning, child.memory.basis.clone()) else {
            return;
        };
        child.memory.asked_at = Some(Instant::now());
        let (generation, upstream) = (child.generation, Arc::clone(&child.upstream));
        let (context, key) = (Arc::clone(&self.context), self.record.key);
        // A task of its own: what waits for the store's only writer must go on while this actor waits for it as well.
        let task = tokio::spawn(async move { learn(&context, key, basis, &upstream).await });
        let task = AbortOnDropHandle::new(task);
        self.learning = Some(Box::pin(async move {
            let outcome = task.await.unwrap_or_else(|error| Err(error.to_string()));
            Learnt {
                generation,
                outcome,
            }
        }));
    }

    /// Asks again when the child said that something changed, or was not asked yet.
    pub(super) fn learn_again_if_changed(&mut self) {
        let Some(child) = self.child.as_deref() else {
            return;
        };
        if child.upstream.lists_changed() || !child.memory.is_compared {
            self.begin_learning();
        }
    }

    /// Before it rests: `true` when it is asked first, because it was used, or told of a change, since it was asked last.
    /// One that holds still was asked before, and could not answer.
    pub(super) fn learns_before_rest(&mut self, used: Instant) -> bool {
        if self.life.frozen {
            return false;
        }
        let Some(child) = self.child.as_deref() else {
            return false;
        };
        let memory = &child.memory;
        let is_old = memory.asked_at.is_none_or(|asked_at| asked_at <= used)
            || child.upstream.lists_changed();
        if memory.basis.is_some() && is_old {
            self.begin_learning();
        }
        self.learning.is_some()
    }

    pub(super) async fn on_learnt(&mut self, learnt: Learnt) {
        self.learning = None;
        let generation = learnt.generation;
        let is_first = match self.memory() {
            Some(memory) => !memory.is_compared,
            None => return,
        };
        match learnt.outcome {
            Ok(changes) => {
                if let Some(memory) = self.memory() {
                    memory.is_compared = true;
                }
                self.route.recall.set(true);
                // What a server changes while it runs, it tells its clients itself.
                if is_first && !changes.is_empty() {
                    self.tell_changes(generation, &changes).await;
                }
            }
            Err(error) => {
                tracing::debug!(instance = %self.record.id, %generation, error, "what it offers could not be kept");
                // Something else may have been kept, and would be answered.
                self.route.recall.set(false);
            }
        }
        self.look_at_sleep_again();
    }

    async fn tell_changes(&mut self, generation: Generation, changes: &[Change]) {
        let texts = changes.iter().map(|change| match change {
            Change::Handshake => "it tells something else of itself".to_owned(),
            Change::List(change) => change.to_string(),
        });
        let texts: Vec<String> = texts.collect();
        let text = match &self.child {
            Some(child) => child.redactions.redact(&texts.join(" | ")).into_owned(),
            None => return,
        };
        self.note("capabilities-changed", text);
        self.context
            .capability_changes
            .fetch_add(1, Ordering::Relaxed);
        let mut news: Vec<&'static str> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Handshake => None,
                Change::List(change) => Some(change.kind.news()),
            })
            .collect();
        news.dedup();
        let event = AccessEvent::ListsChanged {
            id: self.record.id,
            generation,
            news,
        };
        if self.context.access.send(event).await.is_err() {
            tracing::debug!(instance = %self.record.id, "the gateway is gone; nobody hears of the change");
        }
    }

    /// The child ended. What it said last is no more what it offered, when it told of a change and was not asked since.
    pub(super) async fn forget_if_changed(&mut self, upstream: &Upstream) {
        self.learning = None;
        self.timers.disarm(Timer::Learn);
        if !upstream.lists_changed() || !self.route.recall.may() {
            return;
        }
        self.route.recall.set(false);
        let forgetting = self.context.store.forget_capabilities(self.record.key);
        if !matches!(timeout(FORGETTING_MAX, forgetting).await, Ok(Ok(()))) {
            tracing::debug!(instance = %self.record.id, "the store still has what it offered before it changed");
        }
    }
}

/// How the gateway asks what is kept of an instance.
pub(super) fn recall(context: &Arc<Context>, record: &InstanceRecord) -> Recall {
    let (context, id) = (Arc::downgrade(context), record.id);
    // Of one that was never launched nothing is kept; of others it turns out when it is asked for.
    Recall::new(record.generation.0 > 0, move |kind| {
        let context = context.upgrade();
        Box::pin(async move {
            let context = context?;
            let handle = context.registry.get(id)?;
            let status = Arc::clone(&handle.status.borrow());
            // One that ended by itself may have had its reasons: its clients should hear them.
            let is_on_its_way = matches!(
                status.word,
                StatusWord::Asleep
                    | StatusWord::Frozen
                    | StatusWord::Stopping
                    | StatusWord::Pending
                    | StatusWord::Starting
            );
            if !is_on_its_way {
                return None;
            }
            let record = &status.record;
            let template = context.catalogue.get(&record.template)?.template;
            let kept = context.store.capability(record.key, kind).await.ok()?;
            let Some(kept) = kept else {
                handle.route.recall.set(false);
                return None;
            };
            let sealed = read_sealed(&context, record, SealedByVariable::new())
                .await
                .ok()?;
            let now = basis(&template, record, &sealed);
            if !template.server.caches_capabilities() || now.as_ref() != Some(&kept.basis) {
                return None;
            }
            let age_ms = context.clock.now().saturating_sub(kept.heard_at);
            Some(Recalled {
                handshake: serde_json::from_str(&kept.handshake).ok()?,
                list: kept.list,
                age_ms: u64::try_from(age_ms).unwrap_or(0),
            })
        })
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::upstream::Era;

    fn told(capabilities: &str, tools: Option<&str>) -> (CapabilityRow, Offer) {
        let raw = format!(
            r#"{{"protocolVersion":"2025-11-25","capabilities":{capabilities},"serverInfo":{{"name":"n","version":"1"}}}}"#
        );
        let handshake = Arc::new(Handshake::read(Era::Legacy, &raw).unwrap());
        let lists = [tools.map(str::to_owned), None, None, None];
        let row = CapabilityRow {
            basis: "b".to_owned(),
            heard_at: 1,
            handshake: serde_json::to_string(&*handshake).unwrap(),
            lists: lists.clone(),
        };
        (row, Offer { handshake, lists })
    }

    fn texts(before: &CapabilityRow, now: &Offer) -> Vec<String> {
        let all = changes(before, now).into_iter().map(|change| match change {
            Change::Handshake => "handshake".to_owned(),
            Change::List(change) => change.to_string(),
        });
        all.collect()
    }

    #[test]
    fn only_lists_that_are_known_on_both_sides_are_compared() {
        let one = r#"{"tools":[{"name":"a"}]}"#;
        let (before, same) = told(r#"{"tools":{}}"#, Some(one));
        assert!(texts(&before, &same).is_empty());
        let (unknown, other) = told(r#"{"tools":{}}"#, None);
        assert!(texts(&before, &other).is_empty());
        assert!(texts(&unknown, &same).is_empty());
        let two = r#"{"tools":[{"name":"b"},{"name":"a","x":1.0}]}"#;
        let (_, changed) = told(r#"{"tools":{}}"#, Some(two));
        assert_eq!(texts(&before, &changed), ["tools: added b; changed a"]);
        // One that has no tools any more has none.
        let (_, without) = told("{}", None);
        assert_eq!(texts(&before, &without), ["handshake", "tools: removed a"]);
    }
}
