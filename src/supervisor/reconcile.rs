//! Rounds of the comparison: what differs is healed, told and counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{InstanceEvent, Supervisor};
use crate::{
    domain::{
        id::{Generation, InstanceId},
        reconcile::{Difference, Healing, Snapshots, agreed, compare},
    },
    store::NewEvent,
};

/// Between the two comparisons that must agree.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Differences that a report lists of each outcome; the numbers count all.
const LISTED_MAX: usize = 50;

/// How it went with a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was put right.
    Healed,
    /// It could not be put right; the next round tries again.
    Failed,
    /// It is left to people.
    Kept,
}

impl Outcome {
    /// A stable word, for metrics and reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Healed => "healed",
            Self::Failed => "failed",
            Self::Kept => "kept",
        }
    }

    /// The kind of its event.
    fn event(self) -> &'static str {
        match self {
            Self::Healed => "reconciled",
            Self::Failed => "reconcile-failed",
            Self::Kept => "reconcile-kept",
        }
    }
}

/// What the rounds of this daemon found.
#[derive(Debug, Default)]
pub(super) struct Reconciled(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    counts: BTreeMap<(&'static str, Outcome), u64>,
    /// What the last round could not heal or left: it is told once.
    standing: BTreeSet<Difference>,
}

impl Reconciled {
    /// Takes in one round; answers those that are to be told.
    fn take(&self, round: &[(Difference, Outcome, Option<String>)]) -> Vec<usize> {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        let mut standing = BTreeSet::new();
        for (at, (difference, outcome, _)) in round.iter().enumerate() {
            let is_new = !found.standing.contains(difference);
            // What is left to people is one thing, however often it is seen.
            if is_new || *outcome != Outcome::Kept {
                let count = found.counts.entry((difference.kind(), *outcome));
                *count.or_default() += 1;
            }
            if is_new || *outcome == Outcome::Healed {
                told.push(at);
            }
            if *outcome != Outcome::Healed {
                standing.insert(difference.clone());
            }
        }
        found.standing = standing;
        told
    }
}

impl Supervisor {
    /// One round; answers what was compared, found and done. Whatever moves while the snapshots are taken looks like a
    /// difference, so only what two comparisons in a row agree on is touched.
    ///
    /// # Errors
    /// When the store or the keeper cannot be read.
    pub async fn reconcile(&self) -> Result<Value, String> {
        let first = self.snapshots_aside().await?;
        let differences = compare(&first);
        if differences.is_empty() {
            self.context().reconciled.take(&[]);
            return Ok(report(&first, &[]));
        }
        tokio::time::sleep(SECOND_LOOK).await;
        let second = self.snapshots_aside().await?;
        // Looked at behind the snapshot: what is let go for the next daemon looks as if nobody looked after it.
        if self.context().is_closing() {
            return Ok(report(&second, &[]));
        }
        let agreed = agreed(&differences, compare(&second));
        let mut round = Vec::with_capacity(agreed.len());
        for difference in agreed {
            let (outcome, error) = match (difference.healing(), self.heal(&difference).await) {
                (Healing::Kept, _) => (Outcome::Kept, None),
                (Healing::Healed, Ok(())) => (Outcome::Healed, None),
                // One that cannot be healed never keeps the others from it.
                (Healing::Healed, Err(error)) => (Outcome::Failed, Some(error)),
            };
            round.push((difference, outcome, error));
        }
        for at in self.context().reconciled.take(&round) {
            if let Some((difference, outcome, error)) = round.get(at) {
                self.tell(difference, *outcome, error.as_deref()).await;
            }
        }
        Ok(report(&second, &round))
    }

    /// How often each kind of difference came to each outcome since the daemon started; those that never did, too.
    #[must_use]
    pub fn count_reconciled(&self) -> Vec<(&'static str, Outcome, u64)> {
        let found = self.context().reconciled.0.lock();
        let found = found.unwrap_or_else(PoisonError::into_inner);
        let mut counts = Vec::new();
        for (kind, healing) in Difference::KINDS {
            let outcomes: &[Outcome] = match healing {
                Healing::Healed => &[Outcome::Healed, Outcome::Failed],
                Healing::Kept => &[Outcome::Kept],
            };
            for outcome in outcomes {
                let count = found.counts.get(&(kind, *outcome));
                counts.push((kind, *outcome, count.copied().unwrap_or(0)));
            }
        }
        counts
    }

    /// Says it in the log and in the events: those of the instance, which may be gone, or those of no instance (the nil
    /// id).
    async fn tell(&self, difference: &Difference, outcome: Outcome, error: Option<&str>) {
        let mut message = difference.sentence();
        if let Some(error) = error {
            message = format!("{message}; this failed: {error}");
        }
        let kind = difference.kind();
        let id = difference.instance().unwrap_or(InstanceId(Uuid::nil()));
        match outcome {
            Outcome::Healed => tracing::warn!(instance = %id, kind, "{message}"),
            Outcome::Failed => tracing::error!(instance = %id, kind, "{message}"),
            Outcome::Kept => tracing::warn!(instance = %id, kind, "{message}"),
        }
        // Its actor tells what it did about it.
        if matches!(difference, Difference::WishNotObeyed(..)) {
            return;
        }
        let context = self.context();
        let generation = match difference {
            Difference::ChildWithoutOwner(child) | Difference::ChildGone(child) => child.generation,
            _ => context.registry.get(id).map_or(Generation(0), |handle| {
                handle.status.borrow().record.generation
            }),
        };
        let event = NewEvent {
            instance: id,
            generation,
            at: context.clock.now(),
            kind: outcome.event().to_owned(),
            message: format!("{kind}: {message}"),
        };
        // While the store is away nothing is compared, so this is a moment's failure.
        let number = match context
            .store
            .append_events(std::slice::from_ref(&event))
            .await
        {
            Ok(ids) => ids.first().copied().unwrap_or(0),
            Err(error) => {
                tracing::warn!(%error, "an event could not be written");
                0
            }
        };
        // Nobody listening is fine.
        let _ = context.events.send(InstanceEvent {
            id: number,
            instance: event.instance,
            generation: event.generation,
            at: event.at,
            kind: event.kind,
            message: event.message,
        });
    }
}

/// For people and for `doctor`.
fn report(seen: &Snapshots, round: &[(Difference, Outcome, Option<String>)]) -> Value {
    let of = |outcome: Outcome| round.iter().filter(move |(_, found, _)| *found == outcome);
    let listed = |outcome: Outcome| {
        let list = of(outcome).take(LISTED_MAX).map(|(difference, _, error)| {
            let mut one = json!({
                "kind": difference.kind(),
                "instance": difference.instance().map(|id| id.to_string()),
                "what": difference.sentence(),
            });
            if let Some(error) = error {
                one["error"] = json!(error);
            }
            one
        });
        Value::Array(list.collect())
    };
    let kept = of(Outcome::Kept).count();
    json!({
        "compared": {
            "instances": seen.database.instances.len(),
            "leases": seen.database.leases.len(),
            "children": seen.keeper.children.len(),
            "listeners": seen.keeper.listeners.len(),
            "cgroups": seen.kernel.cgroups.len(),
            "folders": seen.kernel.folders.len(),
            "actors": seen.actors.known.len(),
        },
        "differences": round.len() - kept,
        "healed": listed(Outcome::Healed),
        "failed": listed(Outcome::Failed),
        "kept": listed(Outcome::Kept),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_told_once_and_what_is_healed_each_time() {
        let id = InstanceId(Uuid::from_u128(1));
        let kept = (Difference::FolderWithoutRow(id), Outcome::Kept, None);
        let failed = (
            Difference::RowWithoutActor(id),
            Outcome::Failed,
            Some("why".to_owned()),
        );
        let healed = (Difference::ListenerNotHeld(id), Outcome::Healed, None);
        let round = [kept.clone(), failed.clone(), healed];
        let reconciled = Reconciled::default();
        assert_eq!(reconciled.take(&round), [0, 1, 2]);
        assert_eq!(reconciled.take(&round), [2]);
        // It was gone for a round and is back.
        assert_eq!(reconciled.take(&[]), [0; 0]);
        assert_eq!(reconciled.take(&[kept.clone(), failed.clone()]), [0, 1]);
        // What failed before is told when it is healed.
        let now_healed = (failed.0, Outcome::Healed, None);
        assert_eq!(reconciled.take(&[kept, now_healed]), [1]);
        let counts = &reconciled.0.lock().expect("no panic").counts;
        assert_eq!(counts[&("folder-without-row", Outcome::Kept)], 2);
        assert_eq!(counts[&("row-without-actor", Outcome::Failed)], 3);
        assert_eq!(counts[&("listener-not-held", Outcome::Healed)], 2);
    }

    #[test]
    fn a_report_counts_all_and_lists_some() {
        let many = (0..60).map(|n| {
            let id = InstanceId(Uuid::from_u128(n));
            (Difference::EmptyFolder(id), Outcome::Healed, None)
        });
        let mut round: Vec<_> = many.collect();
        let id = InstanceId(Uuid::from_u128(99));
        round.push((Difference::FolderWithoutRow(id), Outcome::Kept, None));
        let report = report(&Snapshots::default(), &round);
        assert_eq!(report["differences"], 60);
        assert_eq!(report["healed"].as_array().map(Vec::len), Some(LISTED_MAX));
        assert_eq!(report["kept"][0]["kind"], "folder-without-row");
    }
}
