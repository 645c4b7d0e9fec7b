//! Turns to launch: so many as [`LaunchLimit`] says, first to whoever a client waits for, then to whoever waited long, then to
//! whoever was used last. So after a start of the machine those come back first that are missed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::Supervisor;
use crate::{
    domain::{
        UnixMs,
        id::TemplateName,
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
}

struct Waiter {
    demand: Demand,
    used_at: UnixMs,
    since: Instant,
    granted: oneshot::Sender<Permit>,
}

/// One turn; dropping it gives it on.
pub(super) struct Permit {
    /// `None`: it was given back already.
    turns: Option<Arc<LaunchTurns>>,
    since: Instant,
}

impl LaunchTurns {
    /// At most `ceiling` turns, on the processors of this host.
    pub(super) fn new(ceiling: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let limit = LaunchLimit::new(ceiling, processors);
        let stalled = || [runtime::cpu_stalled_us(), runtime::memory_stalled_us()];
        Self::with(limit, Box::new(stalled))
    }

    fn with(limit: LaunchLimit, stalled: Stalled) -> Self {
        let state = State {
            limit,
            in_use: 0,
            waiting: VecDeque::new(),
            is_watched: false,
            looked: None,
            shortest: BTreeMap::new(),
            slowdowns: (0.0, 0),
        };
        Self {
            state: Mutex::new(state),
            stalled,
            ready_times: Latency::default(),
        }
    }

    /// Waits for a turn. `used_at` is when a client last used it; 0: never. Dropping the future leaves the queue.
    pub(super) async fn acquire(self: &Arc<Self>, demand: Demand, used_at: UnixMs) -> Permit {
        let (granted, turn) = oneshot::channel();
        self.lock().waiting.push_back(Waiter {
            demand,
            used_at,
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
            drop(state);
            let permit = Permit {
                turns: Some(Arc::clone(self)),
                since: Instant::now(),
            };
            // Who no longer waits gives it back, and the next round gives it on.
            if let Err(mut permit) = waiter.granted.send(permit) {
                permit.turns = None;
                self.lock().in_use -= 1;
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
    /// Whose turn it is now, if there is one.
    fn next(&mut self) -> Option<Waiter> {
        if self.in_use >= self.limit.turns() {
            return None;
        }
        let wanted = |waiter: &Waiter| waiter.demand.load(Ordering::Relaxed) > 0;
        let at = self.waiting.iter().position(wanted).unwrap_or_else(|| {
            let first = self.waiting.front();
            if first.is_none_or(|first| first.since.elapsed() > WAITED_LONG) {
                return 0;
            }
            // Of several that were used at the same time, the one that asked first.
            let waiting = self.waiting.iter().enumerate().rev();
            let last_used = waiting.max_by_key(|(_, waiter)| waiter.used_at);
            last_used.map_or(0, |(at, _)| at)
        });
        self.waiting.remove(at)
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
            turns.lock().in_use -= 1;
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
mod tests {
    use super::*;

    fn turns(ceiling: usize, processors: usize, stalled: Stalled) -> Arc<LaunchTurns> {
        Arc::new(LaunchTurns::with(
            LaunchLimit::new(ceiling, processors),
            stalled,
        ))
    }

    fn nobody() -> Demand {
        Demand::default()
    }

    /// Lets every task run that can.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_a_client_waits_for_goes_first() {
        let turns = turns(1, 1, Box::new(|| [None; 2]));
        let first = turns.acquire(nobody(), 0).await;
        let (told, mut order) = tokio::sync::mpsc::channel(3);
        let demands = [nobody(), nobody(), nobody()];
        for (number, demand) in demands.iter().cloned().enumerate() {
            let (turns, told) = (Arc::clone(&turns), told.clone());
            tokio::spawn(async move {
                let turn = turns.acquire(demand, 0).await;
                told.send(number).await.expect("the test listens");
                drop(turn);
            });
            settle().await;
        }
        assert_eq!(turns.count(), (1, 1, 3));
        // It waits for its turn already when the request comes.
        demands[2].fetch_add(1, Ordering::Relaxed);
        drop(first);
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.extend(order.recv().await);
        }
        assert_eq!(seen, [2, 0, 1]);
        assert_eq!(turns.count().1, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_used_last_goes_before_the_others_and_who_waited_long_before_these() {
        let turns = turns(1, 1, Box::new(|| [None; 2]));
        let first = turns.acquire(nobody(), 0).await;
        let (told, mut order) = tokio::sync::mpsc::channel(5);
        let ask = |number: usize, used_at| {
            let (turns, told) = (Arc::clone(&turns), told.clone());
            tokio::spawn(async move {
                let turn = turns.acquire(nobody(), used_at).await;
                told.send(number).await.expect("the test listens");
                drop(turn);
            })
        };
        ask(0, 5);
        settle().await;
        tokio::time::sleep(WAITED_LONG).await;
        for (number, used_at) in [(1, 10), (2, 0), (3, 30), (4, 30)] {
            ask(number, used_at);
            settle().await;
        }
        drop(first);
        let mut seen = Vec::new();
        while seen.len() < 5 {
            seen.extend(order.recv().await);
        }
        assert_eq!(seen, [0, 3, 4, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_grow_while_the_host_has_room_and_shrink_when_it_has_none() {
        let busy = Arc::new(AtomicU64::new(0));
        let share = Arc::clone(&busy);
        let passed = AtomicU64::new(0);
        let last = Mutex::new(Instant::now());
        let stalled = move || {
            let mut last = last.lock().expect("no test panicked with it");
            let step = u64::try_from(last.elapsed().as_micros()).expect("short");
            *last = Instant::now();
            let step = step * share.load(Ordering::Relaxed) / 100;
            [Some(passed.fetch_add(step, Ordering::Relaxed) + step), None]
        };
        let turns = turns(8, 2, Box::new(stalled));
        let (give, mut got) = tokio::sync::mpsc::channel(20);
        for _ in 0..20 {
            let (turns, give) = (Arc::clone(&turns), give.clone());
            tokio::spawn(async move { give.send(turns.acquire(nobody(), 0).await).await });
        }
        settle().await;
        assert_eq!(turns.count(), (2, 2, 18));
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(turns.count().0, 5, "a turn more with each look");
        tokio::time::sleep(LOOK * 10).await;
        assert_eq!(turns.count(), (8, 8, 12));
        busy.store(95, Ordering::Relaxed);
        tokio::time::sleep(LOOK * 10).await;
        assert_eq!(turns.count(), (1, 8, 12), "those that have a turn keep it");
        busy.store(0, Ordering::Relaxed);
        for _ in 0..20 {
            drop(got.recv().await.expect("everybody gets a turn"));
        }
        assert_eq!(turns.count().1, 0);
        assert_eq!(turns.count().2, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_takes_no_turn_along() {
        let turns = turns(1, 1, Box::new(|| [None; 2]));
        let first = turns.acquire(nobody(), 0).await;
        let waiting = turns.acquire(nobody(), 0);
        let given_up = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        assert!(given_up.is_err());
        drop(first);
        assert_eq!(turns.count().1, 0);
        drop(turns.acquire(nobody(), 0).await);
        // One that has its turn and is dropped before it looks.
        let first = turns.acquire(nobody(), 0).await;
        let mut late = Box::pin(turns.acquire(nobody(), 0));
        assert!(futures_util::poll!(&mut late).is_pending());
        drop(first);
        assert_eq!(turns.count().1, 1);
        drop(late);
        assert_eq!(turns.count().1, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn starts_that_take_ever_longer_take_turns_away() {
        let turns = turns(4, 4, Box::new(|| [None; 2]));
        let template = TemplateName::new("x").expect("a valid name");
        let quick = turns.acquire(nobody(), 0).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        quick.ready(&template);
        drop(quick);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(turns.acquire(nobody(), 0).await);
        }
        let waiting = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.acquire(nobody(), 0).await }
        });
        tokio::time::sleep(LOOK * 4).await;
        assert_eq!(
            turns.count(),
            (4, 4, 1),
            "none of them was ready, so nothing is known"
        );
        for turn in &held {
            turn.ready(&template);
        }
        tokio::time::sleep(LOOK).await;
        assert_eq!(turns.count(), (3, 4, 1));
        drop(held);
        drop(waiting.await.expect("it gets its turn"));
        assert_eq!(turns.count().1, 0);
    }
}
