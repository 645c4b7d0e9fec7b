//! Turns in paused time.

use uuid::Uuid;

use super::{super::seats::Floor, *};
use crate::domain::{budget::Budgets, id::InstanceId};

fn turns(ceiling: usize, processors: usize, stalled: Stalled) -> Arc<LaunchTurns> {
    with_seats(
        ceiling,
        processors,
        Seats::new(Budgets::default(), None),
        stalled,
    )
}

fn with_seats(
    ceiling: usize,
    processors: usize,
    seats: Seats,
    stalled: Stalled,
) -> Arc<LaunchTurns> {
    let limit = LaunchLimit::new(ceiling, processors);
    Arc::new(LaunchTurns::with(limit, seats, stalled))
}

/// Another instance of this owner with each call.
fn guest(owner: &str, template: &str) -> Guest {
    Guest {
        id: InstanceId(Uuid::now_v7()),
        owner: OwnerId::new(owner).expect("an owner"),
        template: TemplateName::new(template).expect("a template"),
    }
}

fn asking(demand: Demand, used_at: UnixMs) -> Asking {
    Asking {
        guest: guest("ada", "x"),
        demand,
        used_at,
        held: HeldCell::default(),
    }
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
    let first = turns.acquire(asking(nobody(), 0)).await;
    let (told, mut order) = tokio::sync::mpsc::channel(3);
    let demands = [nobody(), nobody(), nobody()];
    for (number, demand) in demands.iter().cloned().enumerate() {
        let (turns, told) = (Arc::clone(&turns), told.clone());
        tokio::spawn(async move {
            let turn = turns.acquire(asking(demand, 0)).await;
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
    let first = turns.acquire(asking(nobody(), 0)).await;
    let (told, mut order) = tokio::sync::mpsc::channel(5);
    let ask = |number: usize, used_at| {
        let (turns, told) = (Arc::clone(&turns), told.clone());
        tokio::spawn(async move {
            let turn = turns.acquire(asking(nobody(), used_at)).await;
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
        tokio::spawn(async move { give.send(turns.acquire(asking(nobody(), 0)).await).await });
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
    let first = turns.acquire(asking(nobody(), 0)).await;
    let waiting = turns.acquire(asking(nobody(), 0));
    let given_up = tokio::time::timeout(Duration::from_secs(1), waiting).await;
    assert!(given_up.is_err());
    drop(first);
    assert_eq!(turns.count().1, 0);
    drop(turns.acquire(asking(nobody(), 0)).await);
    // One that has its turn and is dropped before it looks.
    let first = turns.acquire(asking(nobody(), 0)).await;
    let mut late = Box::pin(turns.acquire(asking(nobody(), 0)));
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
    let quick = turns.acquire(asking(nobody(), 0)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    quick.ready(&template);
    drop(quick);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(turns.acquire(asking(nobody(), 0)).await);
    }
    let waiting = tokio::spawn({
        let turns = Arc::clone(&turns);
        async move { turns.acquire(asking(nobody(), 0)).await }
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

/// What asks for `guest`, with the cell in which it is told why it is held.
fn told(guest: Guest) -> (Asking, HeldCell) {
    let held = HeldCell::default();
    let asking = Asking {
        guest,
        demand: nobody(),
        used_at: 0,
        held: Arc::clone(&held),
    };
    (asking, held)
}

fn why(cell: &HeldCell) -> String {
    let held = cell.borrow();
    held.as_ref().map_or_else(String::new, ToString::to_string)
}

#[tokio::test(start_paused = true)]
async fn an_owner_over_its_budget_waits_and_holds_up_nobody_else() {
    let budgets = Budgets {
        awake_max: Some(1),
        ..Budgets::default()
    };
    let turns = with_seats(4, 4, Seats::new(budgets, None), Box::new(|| [None; 2]));
    let mut first = turns.acquire(told(guest("ada", "x")).0).await;
    let seat = first.seat.take();
    drop(first);
    let (second, held) = told(guest("ada", "x"));
    let mut second = Box::pin(turns.acquire(second));
    assert!(futures_util::poll!(&mut second).is_pending());
    let said = why(&held);
    assert!(said.starts_with("ada has 1 of 1 instances"), "{said}");
    let of_bob = turns.acquire(told(guest("bob", "x")).0).await;
    assert!(futures_util::poll!(&mut second).is_pending());
    // The one place of ada's is free again, and that is told at once.
    drop(seat);
    assert!(futures_util::poll!(&mut second).is_ready());
    drop(of_bob);
}

#[tokio::test(start_paused = true)]
async fn what_is_launched_leaves_the_machine_its_floor() {
    let available = Arc::new(AtomicU64::new(250));
    let seen = Arc::clone(&available);
    let floor = Floor {
        bytes: 100,
        available: Box::new(move || Some(seen.load(Ordering::Relaxed))),
    };
    let seats = Seats::new(Budgets::default(), Some(floor));
    let turns = with_seats(4, 4, seats, Box::new(|| [None; 2]));
    let large = || guest("ada", "large");
    let known = large();
    let id = known.id;
    let seat = turns.seat(known);
    turns.seats(|seats| seats.measured(id, 100, true));
    drop(seat);
    // 250 less 100 keep the floor; while that one rises, the same again would not, and a small one waits behind it.
    let rising = turns.acquire(told(large()).0).await;
    let ((second, of_second), (small, of_small)) = (told(large()), told(guest("bob", "small")));
    let mut second = Box::pin(turns.acquire(second));
    let mut small = Box::pin(turns.acquire(small));
    assert!(futures_util::poll!(&mut second).is_pending());
    assert!(futures_util::poll!(&mut small).is_pending());
    for cell in [of_second, of_small] {
        let said = why(&cell);
        assert!(said.contains("sleep.memory_floor_bytes"), "{said}");
    }
    // It is up: what it took shows in what is available from now on.
    available.store(200, Ordering::Relaxed);
    drop(rising);
    assert!(futures_util::poll!(&mut second).is_ready());
    tokio::time::sleep(LOOK).await;
    assert!(futures_util::poll!(&mut small).is_ready());
}
