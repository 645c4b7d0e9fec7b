//! Everything breaks at once, in an order drawn from a seed, over both databases; a model knows what must be true.
//!
//! Slots are driven through creates, stops, starts, leases, restores, deletes and floods of lines; clients of both eras
//! call all the time; meanwhile children, `serve` and the keeper are killed and the database goes away. Now and then
//! everything rests, and what is there is held against the model: instances and their states, processes, ports, leases,
//! folders, rows, every line of every log, URLs and answers.
//!
//! `MINIMCP_CHAOS_SEED` takes the same way again, `MINIMCP_CHAOS_SECONDS` makes it longer, `MINIMCP_CHAOS_KILLS` is the
//! number of kills of `serve` alone; `tests/chaos` sets them. What is asked, in which order, follows from the seed alone;
//! what meets what does not, because processes are as fast as they are.

mod api;
pub mod breaker;
mod caller;
mod checkpoint;
mod count;
pub mod driver;
pub mod lines;
mod model;
mod steps;
mod world;

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use minimcp::{config::Config, domain::duration::HumanDuration};
use tokio::task::JoinSet;

use self::{
    api::Api,
    breaker::Breaker,
    steps::Mood,
    world::{Telltale, World},
};
use crate::harness::Database;

/// Instances at a time.
const SLOTS: usize = 6;
/// Clients of one slot, half of each era.
const CALLERS: usize = 2;
/// Length of a run in the normal suite, in seconds.
const SECONDS: u64 = 15;
/// Kills of `serve` alone in the normal suite.
const KILLS: u64 = 12;
/// So long at most between two checkpoints.
const CHECK_EVERY: Duration = Duration::from_secs(12);
/// Kills of `serve` between two checkpoints.
const KILLS_PER_CHECK: u64 = 20;

/// How long a run goes on.
#[derive(Debug, Clone, Copy)]
enum Length {
    Time(Duration),
    Kills(u64),
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// What differs from the harness: limits that are reached within seconds, and the API's port out of the range from
/// which the kernel gives ports to our own clients while `serve` is down.
fn configure(config: &mut Config, postgres: Option<String>) {
    config.api.port = config.runtime.port_max;
    config.runtime.port_max -= 1;
    if let Some(address) = postgres {
        let target = breaker::postgres_place();
        config.database.url = config.database.url.replace(&target, &address);
    }
    config.database.acquire_timeout = HumanDuration::from_secs(1);
    config.database.statement_timeout = HumanDuration::from_secs(2);
    // Small enough to overflow in an outage, so that lines are lost and must be counted.
    config.logs.queue_bytes = 256 << 10;
    config.logs.spool_bytes = 1 << 20;
    config.logs.batch_rows = usize::try_from(lines::BATCH_LINES).expect("small");
    let folder = &config.runtime.template_dirs[0];
    write_template(folder, "restless", "");
    // More than are ever left by clients that did not hear the answer to `initialize`.
    let apart = "sessions = \"per-session\"\nsession_children_max = 200";
    write_template(folder, "restless-apart", apart);
}

/// The template of a slot's instances: in every third one each client session has a child of its own.
fn template_of(slot: usize) -> &'static str {
    match slot % 3 {
        2 => "restless-apart",
        _ => "restless",
    }
}

/// The demo server that is launched again however often it was killed.
fn write_template(folder: &Path, name: &str, sessions: &str) {
    let text = format!(
        r#"schema = 1
name = "{name}"
title = "Restless"
description = "The demo server, which may be killed as often as one likes."

[server]
transport = "stdio"
builtin = "demo"
{sessions}

[sandbox]
network = "none"

[restart]
policy = "always"
backoff_initial = "20ms"
backoff_max = "50ms"
burst = 1000
"#
    );
    let folder = folder.join(name);
    fs::create_dir_all(&folder).expect("the folder is ours");
    fs::write(folder.join("template.toml"), text).expect("the folder is ours");
}

async fn run(database: Database, mood: Mood, length: Length) {
    let seed = number("MINIMCP_CHAOS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::from(now.expect("after 1970").subsec_nanos())
    });
    let again = format!("MINIMCP_CHAOS_SEED={seed} on {database:?}, {mood:?}, {length:?}");
    eprintln!("{again}");
    let mut breaker = Breaker::start(database).await;
    let api = Api::of(&breaker.server);
    let world = Arc::new(World::new(SLOTS));
    let mut tasks = JoinSet::new();
    for slot in 0..SLOTS {
        let (world_of_driver, api) = (Arc::clone(&world), api.clone());
        tasks.spawn(async move {
            driver::drive(&world_of_driver, &api, slot, steps::asks(seed, slot)).await;
        });
        for caller in 0..CALLERS {
            let world = Arc::clone(&world);
            tasks.spawn(async move { caller::call_all_the_time(&world, slot, caller).await });
        }
    }
    let telltale = Telltale {
        again,
        world: &world,
    };
    break_things(
        &world,
        &mut breaker,
        &api,
        steps::faults(seed, SLOTS, mood),
        length,
    )
    .await;
    last_checks(&world, &mut breaker, &api).await;
    world.end();
    while let Some(ended) = tasks.join_next().await {
        ended.expect("nothing panics");
    }
    let tally = world.state().tally.clone();
    eprintln!("{tally:#?}");
    assert!(
        tally.get("calls answered") > Some(&0),
        "nobody was answered"
    );
    assert!(tally.get("created") > Some(&0), "nothing was created");
    drop(telltale);
}

/// Breaks one thing after the other, with checkpoints, for as long as it shall take.
async fn break_things(
    world: &World,
    breaker: &mut Breaker,
    api: &Api,
    faults: impl Iterator<Item = steps::Step<steps::Fault>>,
    length: Length,
) {
    let begun = Instant::now();
    let mut checked = Instant::now();
    let mut kills = 0;
    world.open();
    for fault in faults {
        world::pause(fault.pause_ms).await;
        breaker.break_one(world, api, fault.what).await;
        kills += u64::from(fault.what == steps::Fault::KillServe);
        let (over, due) = match length {
            Length::Time(time) => (begun.elapsed() > time, checked.elapsed() > CHECK_EVERY),
            Length::Kills(most) => (
                kills >= most,
                kills > 0
                    && kills.is_multiple_of(KILLS_PER_CHECK)
                    && fault.what == steps::Fault::KillServe,
            ),
        };
        if over || due {
            breaker.heal().await;
            world.rest().await;
            checkpoint::check(world, breaker, api).await;
            assert_sound(world);
            checked = Instant::now();
            world.open();
        }
        if over {
            return world.rest().await;
        }
    }
}

/// What the next `serve` finds is what there was, after a kill and after an orderly end; and at last nothing is left.
async fn last_checks(world: &World, breaker: &mut Breaker, api: &Api) {
    checkpoint::check(world, breaker, api).await;
    let before = checkpoint::pids(api).await;
    let sessions = checkpoint::begin_sessions(world).await;
    let children = checkpoint::children(api).await;
    breaker.break_one(world, api, steps::Fault::KillServe).await;
    checkpoint::check(world, breaker, api).await;
    checkpoint::go_on(world, sessions).await;
    let still = checkpoint::children(api).await;
    if !children.is_subset(&still) {
        world.wrong(format!(
            "of the children of sessions {children:?} only {still:?} outlived serve"
        ));
    }
    for _ in &children {
        world.count("children of sessions that outlived serve");
    }
    let after = checkpoint::pids(api).await;
    if before != after {
        world.wrong(format!(
            "taken over by a new serve: {before:?}, then {after:?}"
        ));
    }
    breaker
        .break_one(world, api, steps::Fault::RestartServe)
        .await;
    checkpoint::check(world, breaker, api).await;
    let left: Vec<_> = {
        let mut state = world.state();
        let places = state.places.iter_mut();
        places
            .filter_map(|place| std::mem::take(place).access)
            .collect()
    };
    for access in left {
        breaker.server.delete(&access.id).await;
    }
    checkpoint::check(world, breaker, api).await;
    assert_sound(world);
}

fn assert_sound(world: &World) {
    let violations = world.violations();
    assert!(
        violations.is_empty(),
        "violated:\n  {}",
        violations.join("\n  ")
    );
}

fn seconds() -> Length {
    Length::Time(Duration::from_secs(
        number("MINIMCP_CHAOS_SECONDS").unwrap_or(SECONDS),
    ))
}

fn kills() -> Length {
    Length::Kills(number("MINIMCP_CHAOS_KILLS").unwrap_or(KILLS))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_breaks_on_sqlite() {
    run(Database::Sqlite, Mood::Everything, seconds()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_breaks_on_postgres() {
    if Database::available().contains(&Database::Postgres) {
        run(Database::Postgres, Mood::Everything, seconds()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_is_killed_over_and_over_on_sqlite() {
    run(Database::Sqlite, Mood::KillsOfServe, kills()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_is_killed_over_and_over_on_postgres() {
    if Database::available().contains(&Database::Postgres) {
        run(Database::Postgres, Mood::KillsOfServe, kills()).await;
    }
}
