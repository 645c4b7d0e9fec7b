//! Turns to launch: so many as [`LaunchLimit`] says, first to whoever a client waits for, then to whoever waited long, then to
//! whoever was used last. So after a start of the machine those come back first that are missed. For whom its owner's budget
//! has no room waits on while those of other owners pass; for the machine's memory all wait in their order, so that the
//! large ones get their turn too.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Supervisor,
    seats::{Guest, HeldCell, Seat, Seats},
};
use crate::{
    domain::{
        UnixMs,
        budget::{Budgets, Held},
        id::{OwnerId, TemplateName},
        latency::Latency,
        launch_limit::{LaunchLimit, LaunchLoad},
    },
    runtime,
};

/// Between two looks at how busy the host is, while somebody waits.
const LOOK: Duration = Duration::from_millis(250);

/// Who waited so long comes before those that were used later: nobody waits for ever.
const WAITED_LONG: Duration = Duration::from_secs(60);

/// Requests that wait for an instance now. It goes before those that nobody waits for.
pub(super) type Demand = Arc<AtomicU64>;

/// The microseconds so far in which some process waited: for a processor, for memory.
type Stalled = Box<dyn Fn() -> [Option<u64>; 2] + Send + Sync>;

/// Gives out turns. Shared by all actors.
pub(super) struct LaunchTurns {
    state: Mutex<State>,
    stalled: Stalled,
    /// How long it took from the turn until the server had shaken hands.
    pub(super) ready_times: Latency,
}

struct State {
    limit: LaunchLimit,
    in_use: usize,
    /// In the order of asking.
    waiting: VecDeque<Waiter>,
    /// Somebody looks at the load for all.
    is_watched: bool,
    looked: Option<(Instant, [Option<u64>; 2])>,
    /// The shortest time from turn to readiness, by template.
    shortest: BTreeMap<TemplateName, Duration>,
    /// Sum and number of slowdowns since the last look.
    slowdowns: (f64, u32),
    /// Who is awake.
    seats: Seats,
}

/// What a launch asks for a turn with.
pub(super) struct Asking {
    /// What is to be launched.
    pub(super) guest: Guest,
    /// Requests that wait for it: it goes before those that nobody waits for.
    pub(super) demand: Demand,
    /// When a client last used it; 0: never.
    pub(super) used_at: UnixMs,
    /// Where it is told why it waits for more than its turn.
    pub(super) held: HeldCell,
}

struct Waiter {
    asking: Asking,
    since: Instant,
    granted: oneshot::Sender<Permit>,
}

/// One turn; dropping it gives it on.
pub(super) struct Permit {
    /// `None`: it was given back already.
    turns: Option<Arc<LaunchTurns>>,
    since: Instant,
    key: u64,
    /// The place of what is launched, for as long as it is awake.
    pub(super) seat: Option<Seat>,
}

impl LaunchTurns {
    /// At most `ceiling` turns, on the processors of this host, to those that `seats` has room for.
    pub(super) fn new(ceiling: usize, seats: Seats) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let limit = LaunchLimit::new(ceiling, processors);
        let stalled = || [runtime::cpu_stalled_us(), runtime::memory_stalled_us()];
        Self::with(limit, seats, Box::new(stalled))
    }

    fn with(limit: LaunchLimit, seats: Seats, stalled: Stalled) -> Self {
        let state = State {
            limit,
            in_use: 0,
            waiting: VecDeque::new(),
            is_watched: false,
            looked: None,
            shortest: BTreeMap::new(),
            slowdowns: (0.0, 0),
            seats,
        };
        Self {
            state: Mutex::new(state),
            stalled,
            ready_times: Latency::default(),
        }
    }

    /// Waits for a turn, and for room. Dropping the future leaves the queue.
    pub(super) async fn acquire(self: &Arc<Self>, asking: Asking) -> Permit {
        let (granted, turn) = oneshot::channel();
        self.lock().waiting.push_back(Waiter {
            asking,
            since: Instant::now(),
            granted,
        });
        self.grant();
        self.watch();
        match turn.await {
            Ok(permit) => permit,
            // No waiter is dropped without its turn.
            Err(_) => std::future::pending().await,
        }
    }

    /// How many launches may go on, how many do, and how many wait for their turn.
    fn count(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.limit.turns(), state.in_use, state.waiting.len())
    }

    /// A place for what is awake already, whether there is room or not.
    pub(super) fn seat(self: &Arc<Self>, guest: Guest) -> Seat {
        let key = self.lock().seats.take(guest, false);
        Seat::new(Arc::clone(self), key)
    }

    /// Gives a place up.
    pub(super) fn leave(self: &Arc<Self>, key: u64) {
        self.lock().seats.leave(key);
        self.grant();
    }

    /// What owners may have from now on; who waits for room may have some now.
    pub(super) fn replace_budgets(self: &Arc<Self>, budgets: Budgets) {
        self.lock().seats.replace_budgets(budgets);
        self.grant();
    }

    /// Looks at who is awake, or notes something of it.
    pub(super) fn seats<T>(&self, look: impl FnOnce(&mut Seats) -> T) -> T {
        look(&mut self.lock().seats)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives out what is free.
    fn grant(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            let Some(waiter) = state.next() else {
                return;
            };
            state.in_use += 1;
            let key = state.seats.take(waiter.asking.guest, true);
            drop(state);
            let permit = Permit {
                turns: Some(Arc::clone(self)),
                since: Instant::now(),
                key,
                seat: Some(Seat::new(Arc::clone(self), key)),
            };
            // Who no longer waits gives it back, and the next round gives it on.
            if let Err(mut permit) = waiter.granted.send(permit) {
                permit.turns = None;
                if let Some(seat) = permit.seat.take() {
                    seat.given_back();
                }
                let mut state = self.lock();
                state.in_use -= 1;
                state.seats.leave(key);
            }
        }
    }

    /// Looks at the load from time to time for as long as somebody waits.
    fn watch(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.is_watched || state.waiting.is_empty() {
            return;
        }
        state.is_watched = true;
        state.looked = Some((Instant::now(), (self.stalled)()));
        drop(state);
        let turns = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                if !turns.look() {
                    return;
                }
                turns.grant();
            }
        });
    }

    /// One look; `false`: nobody waits any more.
    fn look(&self) -> bool {
        let now = (Instant::now(), (self.stalled)());
        let mut state = self.lock();
        state.waiting.retain(|waiter| !waiter.granted.is_closed());
        let before = state.looked.replace(now);
        let stalled = |at: usize| {
            let (before, now) = (before?, now);
            stalled_percent((before.0, before.1[at]), (now.0, now.1[at]))
        };
        let (stalled_percent, memory_stalled_percent) = (stalled(0), stalled(1));
        let (sum, count) = std::mem::take(&mut state.slowdowns);
        let load = LaunchLoad {
            is_full: !state.waiting.is_empty() && state.in_use >= state.limit.turns(),
            stalled_percent,
            memory_stalled_percent,
            slowdown: (count > 0).then(|| sum / f64::from(count)),
        };
        state.limit.observe(load);
        state.is_watched = !state.waiting.is_empty();
        state.is_watched
    }
}

impl Supervisor {
    /// How many launches may go on at the same time now, how many do, and how many wait for their turn.
    #[must_use]
    pub fn launch_turns(&self) -> (usize, usize, usize) {
        self.context().launch_turns.count()
    }
}

impl State {
    /// Whose turn it is now, if there is one. Whom there is no room for is told why.
    fn next(&mut self) -> Option<Waiter> {
        if self.in_use >= self.limit.turns() || self.waiting.is_empty() {
            return None;
        }
        if !self.seats.holds() {
            let at = self.first(&BTreeSet::new())?;
            return self.waiting.remove(at);
        }
        let available = self.seats.available();
        let mut held_owners = BTreeSet::new();
        loop {
            let at = self.first(&held_owners)?;
            let guest = &self.waiting[at].asking.guest;
            if let Some(held) = self.seats.held_by_owner(guest) {
                let (held, owner) = (Arc::new(held), guest.owner.clone());
                let own = self.waiting.iter();
                let own = own.filter(|one| one.asking.guest.owner == owner);
                own.for_each(|one| one.tell(&held));
                held_owners.insert(owner);
                continue;
            }
            let Some(held) = self.seats.held_by_machine(guest, available) else {
                return self.waiting.remove(at);
            };
            let held = Arc::new(held);
            for one in &self.waiting {
                if !held_owners.contains(&one.asking.guest.owner) {
                    let own = self.seats.held_by_machine(&one.asking.guest, available);
                    one.tell(&own.map_or_else(|| Arc::clone(&held), Arc::new));
                }
            }
            return None;
        }
    }

    /// Who comes first of those whose owners are not held.
    fn first(&self, held_owners: &BTreeSet<OwnerId>) -> Option<usize> {
        let free = || {
            let all = self.waiting.iter().enumerate();
            all.filter(|(_, one)| !held_owners.contains(&one.asking.guest.owner))
        };
        let is_wanted = |one: &Waiter| one.asking.demand.load(Ordering::Relaxed) > 0;
        if let Some((at, _)) = free().find(|(_, one)| is_wanted(one)) {
            return Some(at);
        }
        let (at, first) = free().next()?;
        if first.since.elapsed() > WAITED_LONG {
            return Some(at);
        }
        // Of several that were used at the same time, the one that asked first.
        let last_used = free().rev().max_by_key(|(_, one)| one.asking.used_at);
        last_used.map(|(at, _)| at)
    }
}

impl Waiter {
    fn tell(&self, held: &Arc<Held>) {
        self.asking.held.send_if_modified(|told| {
            let is_new = told.as_ref() != Some(held);
            *told = Some(Arc::clone(held));
            is_new
        });
    }
}

impl Permit {
    /// The child that was launched in it is ready: how long that took counts.
    pub(super) fn ready(&self, template: &TemplateName) {
        let Some(turns) = &self.turns else { return };
        let took = self.since.elapsed().max(Duration::from_millis(1));
        turns.ready_times.observe(took);
        let mut state = turns.lock();
        let shortest = state.shortest.entry(template.clone()).or_insert(took);
        *shortest = took.min(*shortest);
        let slowdown = took.as_secs_f64() / shortest.as_secs_f64();
        state.slowdowns.0 += slowdown;
        state.slowdowns.1 += 1;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            let mut state = turns.lock();
            state.in_use -= 1;
            state.seats.has_risen(self.key);
            drop(state);
            turns.grant();
        }
    }
}

/// The share of the time between two looks in which some process waited for a processor, in percent.
fn stalled_percent(before: (Instant, Option<u64>), now: (Instant, Option<u64>)) -> Option<f64> {
    let stalled = Duration::from_micros(now.1?.saturating_sub(before.1?));
    let time = now.0.duration_since(before.0);
    (!time.is_zero()).then(|| 100.0 * stalled.as_secs_f64() / time.as_secs_f64())
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
