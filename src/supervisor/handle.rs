//! The handle through which the API, the tasks and the daemon speak with the actors.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{broadcast, oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{
    Context, CreateRequest, Glance, Granted, InstanceEvent, InstanceStatus, ListFilter, Seen,
    SupervisorError, Totals,
    command::{Asked, Command, Verb},
    create, keeper_watch,
    members::{listed, under_way},
    registry::ActorHandle,
    restore,
    route::RouteState,
    seats::Guest,
    seen::Published,
};
use crate::{
    domain::{
        duration::HumanDuration, id::InstanceId, instance::InstanceChange, principal::Principal,
        state::StatusWord, violation::Violation,
    },
    runtime::{self, KeeperState},
    store::StoreError,
    wire,
};

type Outcome<T> = Result<T, SupervisorError>;

/// How long a deletion may take before its caller is told to look again: both graces, a kill, and the store.
const DELETE_PATIENCE: Duration = Duration::from_secs(30);
/// So many damaged rows of the smaller tables are named one by one.
const DAMAGED_SHOWN: usize = 20;

/// The supervisor; cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    pub(super) context: Arc<Context>,
}

impl Supervisor {
    /// Restores every recorded instance, adopts the children that the keeper still holds, and answers with how
    /// many came back, and how many of them alive.
    ///
    /// # Errors
    /// When the store or the keeper cannot be read; then nothing has begun, and it may be done again.
    pub async fn start_up(context: impl Into<Arc<Context>>) -> Outcome<(Self, usize, usize)> {
        let context = context.into();
        let (restored, alive) = restore::restore_all(&context).await?;
        let supervisor = Self { context };
        tokio::spawn(keeper_watch::follow_keeper(Arc::clone(&supervisor.context)));
        Ok((supervisor, restored, alive))
    }

    /// Records, leases a port, starts.
    ///
    /// # Errors
    /// Every fault of the request at once; a taken name; no port; the store away.
    pub async fn create(&self, who: &Principal, request: CreateRequest) -> Outcome<Granted> {
        create::create(&self.context, who, request).await
    }

    /// One instance, from memory.
    ///
    /// # Errors
    /// When there is none, or it belongs to someone else.
    pub fn get(&self, _who: &Principal, id: InstanceId) -> Outcome<Seen> {
        Ok(Seen::now(&*self.actor(id)?))
    }

    /// A page in the order of creation; the second value is the cursor of the next page.
    #[must_use]
    pub fn list(
        &self,
        _who: &Principal,
        filter: &ListFilter,
        after: Option<InstanceId>,
        limit: usize,
    ) -> (Vec<Seen>, Option<InstanceId>) {
        self.page(filter, after, limit, Seen::with)
    }

    /// The same, in short.
    #[must_use]
    pub fn glance(
        &self,
        _who: &Principal,
        filter: &ListFilter,
        after: Option<InstanceId>,
        limit: usize,
    ) -> (Vec<Glance>, Option<InstanceId>) {
        self.page(filter, after, limit, Glance::with)
    }

    fn page<T>(
        &self,
        filter: &ListFilter,
        after: Option<InstanceId>,
        limit: usize,
        see: impl Fn(Arc<Published>, &ActorHandle) -> T,
    ) -> (Vec<T>, Option<InstanceId>) {
        let mut page = Vec::new();
        let mut last = None;
        for (id, handle) in self.context.registry.after(after) {
            let status = Arc::clone(&handle.status.borrow());
            if !fits(filter, &status) {
                continue;
            }
            if page.len() >= limit {
                return (page, last);
            }
            page.push(see(status, &handle));
            last = Some(id);
        }
        (page, None)
    }

    /// How many instances have each status word.
    #[must_use]
    pub fn count_by_status(&self) -> BTreeMap<&'static str, usize> {
        let mut counts: BTreeMap<_, _> = StatusWord::ALL
            .iter()
            .map(|word| (word.as_str(), 0))
            .collect();
        for (_, handle) in self.context.registry.after(None) {
            *counts
                .entry(handle.status.borrow().word.as_str())
                .or_default() += 1;
        }
        counts
    }

    /// Should run.
    ///
    /// # Errors
    /// When its lease ran out, or the store is away.
    pub async fn start(&self, _who: &Principal, id: InstanceId) -> Outcome<Seen> {
        self.command(id, Verb::Start).await
    }

    /// Should not run.
    ///
    /// # Errors
    /// When its lease ran out, or the store is away.
    pub async fn stop(&self, _who: &Principal, id: InstanceId) -> Outcome<Seen> {
        self.command(id, Verb::Stop).await
    }

    /// Stop, then start.
    ///
    /// # Errors
    /// When its lease ran out, or the store is away.
    pub async fn restart(&self, _who: &Principal, id: InstanceId) -> Outcome<Seen> {
        self.command(id, Verb::Restart).await
    }

    /// Stops it, removes it, gives the port back; answers when it is gone.
    ///
    /// # Errors
    /// When there is none, or the store is away.
    pub async fn delete(&self, _who: &Principal, id: InstanceId) -> Outcome<()> {
        let deadline = Instant::now() + DELETE_PATIENCE;
        match timeout_at(deadline, self.command(id, Verb::Delete)).await {
            Ok(done) => done.map(|_| ()),
            Err(_) => Err(SupervisorError::Busy),
        }
    }

    /// A new deadline, counted from now; `None`: the TTL last asked for.
    ///
    /// # Errors
    /// When its lease ran out already, the TTL is over the maximum, or the store is away.
    pub async fn extend(
        &self,
        _who: &Principal,
        id: InstanceId,
        ttl: Option<HumanDuration>,
    ) -> Outcome<Seen> {
        self.command(id, Verb::Extend(positive(ttl)?)).await
    }

    /// Brings an expired instance back: same id, URL and token.
    ///
    /// # Errors
    /// When it is not expired, its restore window is over, or the store is away.
    pub async fn restore(
        &self,
        _who: &Principal,
        id: InstanceId,
        ttl: Option<HumanDuration>,
    ) -> Outcome<Seen> {
        self.command(id, Verb::Restore(positive(ttl)?)).await
    }

    /// Renames, relabels, changes when it sleeps; see [`super::check_patch`].
    ///
    /// # Errors
    /// When the name is taken, or the store is away.
    pub async fn patch(
        &self,
        _who: &Principal,
        id: InstanceId,
        change: InstanceChange,
    ) -> Outcome<Seen> {
        self.command(id, Verb::Patch(change)).await
    }

    /// Waits until it runs, failed, stopped or expired, or until `patience` is over; answers what it is then.
    ///
    /// # Errors
    /// When there is no such instance.
    pub async fn wait_settled(
        &self,
        _who: &Principal,
        id: InstanceId,
        patience: HumanDuration,
    ) -> Outcome<Seen> {
        let actor = self.actor(id)?;
        let _waits = actor.route.wait();
        let mut status = actor.status.clone();
        let deadline = Instant::now() + patience.std();
        let settled = |status: &Arc<Published>| {
            !matches!(
                status.word,
                StatusWord::Pending
                    | StatusWord::Starting
                    | StatusWord::BackingOff
                    | StatusWord::Stopping
            ) || (status.word == StatusWord::BackingOff && status.remote.is_some())
        };
        // An actor that ended meanwhile, like a patience that is over: what was last known is the answer.
        let _ = timeout_at(deadline, status.wait_for(settled)).await;
        Ok(Seen::now(&actor))
    }

    /// What it uses now; its calls are the store's to count.
    ///
    /// # Errors
    /// When there is no such instance.
    pub async fn stats(&self, _who: &Principal, id: InstanceId) -> Outcome<wire::Stats> {
        let handle = self.actor(id)?;
        let (main, key) = {
            let status = handle.status.borrow();
            (status.pid, status.record.key)
        };
        let members = listed(&handle.census.borrow());
        let pids = main
            .into_iter()
            .chain(members.iter().filter_map(|(_, pid)| *pid));
        let pids: Vec<u32> = pids.collect();
        // A child that ended a moment ago uses nothing.
        let measure = move || {
            pids.into_iter()
                .filter_map(|pid| runtime::usage(pid).ok())
                .sum()
        };
        let usage: runtime::TreeUsage = tokio::task::spawn_blocking(measure)
            .await
            .map_err(|error| SupervisorError::Internal(error.to_string()))?;
        let (in_flight, overdue) = match &*handle.route.state.borrow() {
            RouteState::Ready { upstream, .. } | RouteState::Frozen { upstream, .. } => {
                (upstream.calls(), upstream.overdue())
            }
            _ => (0, 0),
        };
        let (own_in_flight, own_overdue) = under_way(&handle.census.borrow());
        Ok(wire::Stats {
            rss_kib: usage.rss_kib,
            cpu_ms: usage.cpu_ms,
            processes: usage.processes,
            sessions: handle.route.sessions.load(Ordering::Relaxed),
            session_children: members.len() as u64,
            calls_in_flight: (in_flight + own_in_flight) as u64,
            calls_overdue: overdue + own_overdue,
            requests: handle.route.requests.load(Ordering::Relaxed),
            log_lines: self.context.logs.lines_of(key),
            calls: wire::CallStats::default(),
        })
    }

    /// The access ports.
    #[must_use]
    pub fn ports(&self) -> crate::domain::port::PortPool {
        self.context
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends every quarantine that is over.
    pub fn sweep_quarantine(&self) {
        let now = self.context.clock.now();
        self.context
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sweep(now);
    }

    /// Writes when instances were last used, as far as it is newer than what was written; answers how many.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn write_access_times(&self) -> Result<usize, StoreError> {
        let mut used = Vec::new();
        for (id, handle) in self.context.registry.after(None) {
            let at = handle.route.last_accessed_ms.load(Ordering::Relaxed);
            if at > handle.access_written_ms.load(Ordering::Relaxed) {
                used.push((id, at, handle));
            }
        }
        let rows: Vec<_> = used.iter().map(|(id, at, _)| (*id, *at)).collect();
        if !rows.is_empty() {
            self.context.store.touch_accessed(&rows).await?;
        }
        for (_, at, handle) in &used {
            handle.access_written_ms.store(*at, Ordering::Relaxed);
        }
        Ok(used.len())
    }

    /// Everything that happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<InstanceEvent> {
        self.context.events.subscribe()
    }

    /// Numbers of all instances together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            launches: self.context.launches.load(Ordering::Relaxed),
            restarts: self.context.restarts.load(Ordering::Relaxed),
            ..Totals::default()
        };
        for (_, handle) in self.context.registry.after(None) {
            totals.requests += handle.route.requests.load(Ordering::Relaxed);
            totals.sessions += handle.route.sessions.load(Ordering::Relaxed);
            totals.session_children += handle.census.borrow().len() as u64;
        }
        totals
    }

    /// Rows that cannot be read, each in a sentence; their instances are neither started nor touched, and those of other
    /// tables count as not there.
    #[must_use]
    pub fn damaged_records(&self) -> Vec<String> {
        let damaged = self.context.damaged.lock();
        let mut told = damaged.unwrap_or_else(PoisonError::into_inner).clone();
        let others = self.context.store.damaged_rows();
        let more = others.len().saturating_sub(DAMAGED_SHOWN);
        told.extend(others.into_iter().take(DAMAGED_SHOWN).map(|row| {
            format!(
                "the row {} of table {} is damaged in column {}; it counts as not there until it is repaired or removed",
                row.id, row.table, row.column
            )
        }));
        if more > 0 {
            told.push(format!("{more} more are in the log of the daemon"));
        }
        told
    }

    /// Whether a keeper is connected.
    #[must_use]
    pub fn keeper(&self) -> watch::Receiver<KeeperState> {
        self.context.runtime.state()
    }

    /// The rooms below, for the background tasks.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Refuses new instances from now on and ends every actor; with `leave`, their children stay.
    /// Answers how many children were still there when `patience` was over.
    pub async fn shut_down(&self, leave: bool, patience: Duration) -> usize {
        self.context.closing.store(true, Ordering::Relaxed);
        self.context.spares.close(&self.context).await;
        let deadline = Instant::now() + patience;
        let actors = self.context.registry.after(None);
        for (_, handle) in &actors {
            let command = if leave {
                Command::Leave
            } else {
                Command::Shutdown
            };
            let _ = timeout_at(deadline, handle.mailbox.send(command)).await;
        }
        let mut remaining = 0;
        for (_, handle) in &actors {
            let mut status = handle.status.clone();
            if !leave {
                let down =
                    timeout_at(deadline, status.wait_for(|status| !is_up(status.word))).await;
                remaining += usize::from(down.is_err());
                let _ = timeout_at(deadline, handle.mailbox.send(Command::Leave)).await;
            }
            let _ = timeout_at(deadline, handle.mailbox.closed()).await;
        }
        remaining
    }

    pub(super) fn actor(&self, id: InstanceId) -> Outcome<Arc<ActorHandle>> {
        self.context
            .registry
            .get(id)
            .ok_or_else(|| SupervisorError::NotFound(id.to_string()))
    }

    pub(super) async fn command(&self, id: InstanceId, verb: Verb) -> Outcome<Seen> {
        let handle = self.actor(id)?;
        if matches!(verb, Verb::Start | Verb::Restart | Verb::Restore(_)) {
            let guest = Guest::from(&handle.status.borrow().record);
            self.context.check_room(&guest)?;
            handle.route.asked.note(crate::traces::Parent::current);
        }
        let (reply, answer) = oneshot::channel();
        handle
            .mailbox
            .try_send(Command::Do(Box::new(Asked { verb, reply })))
            .map_err(|error| match error {
                tokio::sync::mpsc::error::TrySendError::Full(_) => SupervisorError::Busy,
                tokio::sync::mpsc::error::TrySendError::Closed(_) => {
                    SupervisorError::NotFound(id.to_string())
                }
            })?;
        // The actor ended before it answered: deleted, or the daemon goes down. Or it panicked.
        let answer = answer.await.unwrap_or_else(|_| {
            Err(if self.context.is_closing() {
                SupervisorError::ShuttingDown
            } else if self.context.registry.get(id).is_some() {
                SupervisorError::ActorFailed
            } else {
                SupervisorError::NotFound(id.to_string())
            })
        });
        Ok(Seen::with(answer?, &handle))
    }
}

pub(super) fn is_up(word: StatusWord) -> bool {
    matches!(
        word,
        StatusWord::Starting
            | StatusWord::Running
            | StatusWord::Unhealthy
            | StatusWord::Frozen
            | StatusWord::Stopping
    )
}

fn fits(filter: &ListFilter, status: &InstanceStatus) -> bool {
    filter.status.is_none_or(|word| word == status.word)
        && filter
            .template
            .as_ref()
            .is_none_or(|name| name == status.record.template.as_str())
        && filter
            .owner
            .as_ref()
            .is_none_or(|name| name == status.record.owner.as_str())
}

/// A TTL of zero would expire at once, which is never what was meant.
fn positive(ttl: Option<HumanDuration>) -> Outcome<Option<HumanDuration>> {
    match ttl {
        Some(ttl) if ttl.ms() == 0 => Err(SupervisorError::Invalid(vec![Violation::new(
            "/ttl",
            "out-of-range",
            "the time to live must be more than zero",
        )])),
        ttl => Ok(ttl),
    }
}
