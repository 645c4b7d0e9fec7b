//! System calls that children were refused: one record for each instance, which outlives its children.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Supervisor, command::Command};
use crate::{
    domain::UnixMs,
    runtime::{Denials, DeniedCall, Workload, WorkloadId},
};

/// How soon news are told.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Most events of one instance in [`EVENTS_MS`]; beyond it refusals are only counted.
const EVENTS_MAX: usize = 20;
/// In milliseconds.
const EVENTS_MS: i64 = 3_600_000;

/// What an instance was refused since the daemon took its children over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DenialReport {
    /// Refused system calls of all kinds.
    pub total: u64,
    /// The last time.
    pub last_at: Option<UnixMs>,
    /// By kind: name, how often, the last time; the most frequent first.
    pub calls: Vec<(String, u64, UnixMs)>,
}

/// By number: how often, and the last time.
type Tally = BTreeMap<u32, (u64, UnixMs)>;

/// A child that runs.
struct Live {
    workload: Workload,
    /// So many kinds it had been refused when it was last looked at.
    kinds: usize,
}

#[derive(Default)]
struct Counted {
    /// Seldom more than one.
    live: Vec<Live>,
    past: Tally,
    past_others: u64,
    /// Kinds that were told, or are not worth an event.
    told: Vec<u32>,
    told_at: Vec<UnixMs>,
    /// There may be kinds that were not told, whatever the living count.
    is_behind: bool,
    is_used: bool,
}

/// The record of one instance.
#[derive(Default)]
pub(super) struct DenialLedger(Mutex<Counted>);

/// Adds a child to the record, and keeps what it was refused when it is dropped.
pub(super) struct Watched {
    ledger: Arc<DenialLedger>,
    id: WorkloadId,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut counted = self.ledger.counted();
        let last = counted.forget(self.id);
        if let Some(last) = last.and_then(|live| live.workload.denials()) {
            counted.is_behind = true;
            add(&mut counted.past, &last);
            counted.past_others += last.others;
        }
    }
}

fn add(tally: &mut Tally, denials: &Denials) {
    for call in &denials.calls {
        let entry = tally.entry(call.number).or_default();
        entry.0 += call.count;
        entry.1 = entry.1.max(call.last_at);
    }
}

impl DenialLedger {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to count what `workload` is refused, where that is told.
    pub(super) fn watch(self: &Arc<Self>, workload: &Workload) -> Option<Watched> {
        workload.denials()?;
        let mut counted = self.counted();
        counted.is_used = true;
        let live = Live {
            workload: workload.clone(),
            kinds: 0,
        };
        counted.forget(workload.id());
        counted.live.push(live);
        Some(Watched {
            ledger: Arc::clone(self),
            id: workload.id(),
        })
    }

    /// What is known; `None` where nothing is counted.
    pub(super) fn report(&self) -> Option<DenialReport> {
        let counted = self.counted();
        if !counted.is_used {
            return None;
        }
        let (tally, others) = counted.sum();
        let mut calls: Vec<_> = tally
            .into_iter()
            .map(|(number, (count, last_at))| (named(number).name().into_owned(), count, last_at))
            .collect();
        calls.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        let told: u64 = calls.iter().map(|call| call.1).sum();
        Some(DenialReport {
            total: told.saturating_add(others),
            last_at: calls.iter().map(|call| call.2).max(),
            calls,
        })
    }

    /// A sentence for each kind that is new, as far as there may be events.
    fn news(&self, now: UnixMs) -> Vec<String> {
        let mut counted = self.counted();
        if !counted.may_have_news() {
            return Vec::new();
        }
        let (tally, _) = counted.sum();
        counted
            .told_at
            .retain(|at| now.saturating_sub(*at) < EVENTS_MS);
        let mut news = Vec::new();
        for number in tally.into_keys() {
            if counted.told.contains(&number) {
                continue;
            }
            let call = named(number);
            if !call.is_probe() {
                if counted.told_at.len() >= EVENTS_MAX {
                    counted.is_behind = true;
                    break;
                }
                counted.told_at.push(now);
                news.push(format!("denied: the system call {}", call.name()));
            }
            counted.told.push(number);
        }
        news
    }
}

impl Counted {
    fn forget(&mut self, id: WorkloadId) -> Option<Live> {
        let at = self.live.iter().position(|live| live.workload.id() == id)?;
        Some(self.live.swap_remove(at))
    }

    /// Whether there are kinds that were not looked at: a word of each child, since every instance is asked all the time.
    fn may_have_news(&mut self) -> bool {
        let mut news = std::mem::take(&mut self.is_behind);
        for live in &mut self.live {
            let kinds = live.workload.denial_kinds();
            news |= kinds != std::mem::replace(&mut live.kinds, kinds);
        }
        news
    }

    fn sum(&self) -> (Tally, u64) {
        let (mut tally, mut others) = (self.past.clone(), self.past_others);
        for denials in self.live.iter().filter_map(|live| live.workload.denials()) {
            add(&mut tally, &denials);
            others += denials.others;
        }
        (tally, others)
    }
}

fn named(number: u32) -> DeniedCall {
    DeniedCall {
        number,
        count: 0,
        last_at: 0,
    }
}

impl Supervisor {
    /// Tells of new kinds of refused system calls as events, until the daemon goes down.
    pub async fn tell_denials(self) {
        let context = self.context();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !context.is_closing() {
            ticks.tick().await;
            for (_, handle) in context.registry.after(None) {
                for sentence in handle.denials.news(context.clock.now()) {
                    // What finds no room is in the record all the same.
                    let _ = handle
                        .mailbox
                        .try_send(Command::Note("call-denied", sentence.into()));
                }
            }
        }
    }

    /// Of all instances that exist now: refused system calls, and connections and questions that the gate refused.
    #[must_use]
    pub fn count_refusals(&self) -> (u64, u64) {
        let all = self.context().registry.after(None);
        let refusals = all.into_iter().map(|(_, handle)| {
            let calls = handle.denials.report().map_or(0, |report| report.total);
            let hosts = handle.egress.report().map_or(0, |report| report.refused);
            (calls, hosts)
        });
        refusals.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}
