//! While everything rests: whether what is there is what must be there, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use super::{
    api::{Api, Reply},
    breaker::{Breaker, is_keeper, keepers},
    caller::{Caller, Outcome},
    driver::{self, rows_of},
    lines::Row,
    model::State,
    world::{Access, World},
};
use crate::harness::Server;

/// What has not come true after so long never will.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(90);

/// One instance as the API shows it.
struct Seen {
    name: String,
    status: String,
    pid: Option<u64>,
    /// Pids of the children of client sessions.
    children: Vec<u64>,
    url: String,
}

/// Heals everything and compares. What is wrong is noted in the world.
pub async fn check(world: &World, breaker: &mut Breaker, api: &Api) {
    world.note("==== checkpoint");
    breaker.heal().await;
    breaker.look_after_serve(world);
    breaker.server.until_ready().await;
    let server = &breaker.server;
    reconcile(world, api).await;
    follow_up(world, api).await;
    lay_ghosts(world, api).await;
    settle_slots(world, api).await;
    let Some(seen) = list(api).await else {
        return world.wrong("the instances cannot be listed");
    };
    compare_list(world, &seen);
    compare_processes(world, server, api).await;
    compare_ports(world, server, &seen).await;
    compare_folders(world, server, &seen).await;
    compare_rows(world, server, &seen).await;
    until_right(world, "the count of lines in memory", || async {
        breaker.complaint_of_count()
    })
    .await;
    check_logs(world, api).await;
    check_calls(world).await;
    world.count("checkpoints");
}

/// Polls until the condition gives nothing to complain of; what it complained of last is a violation.
async fn until_right<F>(world: &World, what: &str, mut complaint: impl FnMut() -> F)
where
    F: Future<Output = Option<String>>,
{
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    while let Some(wrong) = complaint().await {
        if Instant::now() > deadline {
            return world.wrong(format!("{what}: {wrong}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// One round of the daemon's own comparison.
async fn reconcile(world: &World, api: &Api) {
    let rounds = || async {
        let tasks = api.get("/tasks").await.success()?;
        let items = tasks["items"].as_array()?;
        let task = items.iter().find(|task| task["name"] == "reconcile")?;
        Some((
            task["runs"].as_u64()?,
            task["running"].as_bool()?,
            task.clone(),
        ))
    };
    let before = rounds().await.map_or(0, |(runs, ..)| runs);
    let _ = api
        .ask(Method::POST, "/tasks/reconcile/run", None, None)
        .await;
    until_right(world, "the reconciler", || async {
        match rounds().await {
            Some((runs, false, task)) if runs > before => {
                if task["last_result"]["differences"].as_u64() != Some(0) {
                    world.note(format!("reconciled: {}", task["last_result"]));
                    world.count("reconciler corrected something");
                }
                None
            }
            other => Some(format!("no round: {other:?}")),
        }
    })
    .await;
}

/// Creations whose answer did not come before all came to rest.
async fn follow_up(world: &World, api: &Api) {
    let slots = world.state().places.len();
    for slot in 0..slots {
        until_right(world, "what came of a creation", || async {
            let known = driver::is_settled(world, api, slot).await;
            (!known).then(|| format!("slot {slot} cannot be told"))
        })
        .await;
    }
}

/// What came of creations that nobody acknowledged and that were not found at first: whole, so it can be deleted.
async fn lay_ghosts(world: &World, api: &Api) {
    let ghosts = std::mem::take(&mut world.state().ghosts);
    for name in ghosts {
        match api.get(&format!("/mcps/{name}")).await {
            Reply::Answer(status, _) if status.as_u16() == 404 => {}
            Reply::Answer(status, _) if status.is_success() => {
                world.note(format!("{name} came up late"));
                world.count("late creations");
                let gone = api
                    .ask(Method::DELETE, &format!("/mcps/{name}"), None, None)
                    .await;
                if gone.success().is_none() {
                    world.wrong(format!("{name}, which came up late, cannot be deleted"));
                }
            }
            other => world.wrong(format!("about {name}: {other:?}")),
        }
    }
}

/// Waits until each slot's instance is in a state that it may be in.
async fn settle_slots(world: &World, api: &Api) {
    let slots = world.state().places.len();
    for slot in 0..slots {
        let (name, mut model) = {
            let state = world.state();
            let place = &state.places[slot];
            let name = place.access.as_ref().map(|access| access.name.clone());
            (name.or(place.asked_name.clone()), place.model.clone())
        };
        let Some(name) = name else { continue };
        let mut last = Ok(());
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let seen = match api.get(&format!("/mcps/{name}")).await {
                Reply::Answer(status, _) if status.as_u16() == 404 => Some(None),
                Reply::Answer(status, body) if status.is_success() => {
                    Some(body["status"].as_str().map(str::to_owned))
                }
                other => {
                    last = Err(format!("{other:?}"));
                    None
                }
            };
            if let Some(seen) = seen {
                let mut settled = model.clone();
                last = settled.settled(seen.as_deref());
                // A lease that is about to end shows first what was before it.
                if last.is_ok() {
                    model = settled;
                    break;
                }
            }
            if Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
        world.hold(&format!("slot {slot}: {name} settles"), last);
        let mut state = world.state();
        let place = &mut state.places[slot];
        place.model = model;
        if place.model.is_absent() {
            *place = super::world::Place::default();
        }
    }
}

async fn list(api: &Api) -> Option<BTreeMap<String, Seen>> {
    let list = api.get("/mcps?limit=200").await.success()?;
    let seen = |item: &Value| {
        let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
        let seen = Seen {
            name: text("name"),
            status: text("status"),
            pid: item["pid"].as_u64(),
            children: {
                let children = item["session_children"].as_array().into_iter().flatten();
                children.filter_map(|child| child["pid"].as_u64()).collect()
            },
            url: text("access_url"),
        };
        (text("id"), seen)
    };
    Some(list["items"].as_array()?.iter().map(seen).collect())
}

fn compare_list(world: &World, seen: &BTreeMap<String, Seen>) {
    let mut wrong = Vec::new();
    let known: BTreeMap<String, Access> = {
        let state = world.state();
        let accesses = state.places.iter().filter_map(|place| place.access.clone());
        accesses.map(|access| (access.id.clone(), access)).collect()
    };
    for (id, instance) in seen {
        match known.get(id) {
            None => wrong.push(format!(
                "nobody has created {} ({id}), which is {}",
                instance.name, instance.status
            )),
            Some(access) if access.url != instance.url => {
                wrong.push(format!("{} has another URL: {}", access.name, instance.url));
            }
            Some(_) => {}
        }
    }
    for (id, access) in &known {
        if !seen.contains_key(id) {
            wrong.push(format!("{} ({id}) is not listed", access.name));
        }
    }
    for text in wrong {
        world.wrong(text);
    }
}

/// One main process for each running instance, those of its client sessions that it names, one init for each, one keeper,
/// and nothing else.
async fn compare_processes(world: &World, server: &Server, api: &Api) {
    until_right(world, "processes", || async {
        // Asked again each time: the child of a session that ended may need a while to end.
        let Some(seen) = list(api).await else {
            return Some("the instances cannot be listed".to_owned());
        };
        let running = seen
            .values()
            .filter(|instance| instance.status == "running");
        let mains: BTreeSet<u64> = running
            .clone()
            .filter_map(|instance| instance.pid)
            .collect();
        if mains.len() != running.count() {
            return Some("something runs without a process of its own".to_owned());
        }
        let children = seen.values().flat_map(|instance| &instance.children);
        let pids: BTreeSet<u64> = mains.iter().chain(children).copied().collect();
        let all = server.processes();
        let found: BTreeSet<u64> = all
            .iter()
            .filter(|process| process.pid != server.pid() && !is_keeper(process))
            .map(|process| u64::from(process.pid))
            .collect();
        let first = keepers(&all).len();
        let inits = all.iter().filter(|process| is_keeper(process)).count() - first;
        let inits_fit = inits == pids.len() || inits == 0;
        (found != pids || first != 1 || !inits_fit)
            .then(|| format!("{pids:?} should run, there are: {all:#?}"))
    })
    .await;
}

/// The access port of each instance listens, and no other one of the range; the leases say the same.
async fn compare_ports(world: &World, server: &Server, seen: &BTreeMap<String, Seen>) {
    let port_of = |url: &str| {
        let rest = url.strip_prefix("http://127.0.0.1:")?;
        rest.split('/').next()?.parse::<u16>().ok()
    };
    let wanted: Vec<u16> = {
        let mut ports: Vec<u16> = seen.values().filter_map(|i| port_of(&i.url)).collect();
        ports.sort_unstable();
        ports
    };
    until_right(world, "ports", || async {
        let listening = server.access_ports();
        let leases = server.get("/ports").await;
        let leased = leases["leased"].as_array().into_iter().flatten();
        let mut leased: Vec<u64> = leased.filter_map(|lease| lease["port"].as_u64()).collect();
        leased.sort_unstable();
        let same = leased
            .iter()
            .copied()
            .eq(wanted.iter().map(|port| u64::from(*port)));
        (listening != wanted || !same).then(|| {
            format!("{wanted:?} should be; {listening:?} listen and {leased:?} are leased")
        })
    })
    .await;
}

/// A folder for each instance, and no other one.
async fn compare_folders(world: &World, server: &Server, seen: &BTreeMap<String, Seen>) {
    until_right(world, "folders", || async {
        let entries = std::fs::read_dir(&server.config().runtime.instance_dir);
        let entries = entries.expect("it was made at the start");
        let found: BTreeSet<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name != ".lock")
            .collect();
        let stray: Vec<_> = found.iter().filter(|id| !seen.contains_key(*id)).collect();
        (!stray.is_empty()).then(|| format!("of nobody: {stray:?}"))
    })
    .await;
}

/// What the database itself holds.
async fn compare_rows(world: &World, server: &Server, seen: &BTreeMap<String, Seen>) {
    let ids: Vec<String> = seen.keys().cloned().collect();
    until_right(world, "rows", || async {
        let instances = texts(server, "SELECT id FROM instances ORDER BY id").await;
        let leases = "SELECT i.id FROM port_leases p JOIN instances i \
                      ON i.instance_key = p.instance_key ORDER BY i.id";
        let leases = texts(server, leases).await;
        let orphans = "SELECT CAST(port AS TEXT) FROM port_leases \
                       WHERE instance_key IS NULL AND quarantine_until IS NULL";
        let orphans = texts(server, orphans).await;
        (instances != ids || leases != ids || !orphans.is_empty()).then(|| {
            format!("{ids:?} should be; rows {instances:?}, leases {leases:?}, ports {orphans:?}")
        })
    })
    .await;
}

async fn texts(server: &Server, sql: &'static str) -> Vec<String> {
    let url = &server.config().database.url;
    if url.starts_with("sqlite:") {
        let mut file = SqliteConnection::connect(url).await.expect("a file");
        let rows = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&mut file)
            .await;
        file.close().await.expect("it is ours");
        return rows.expect("tables as the migrations make them");
    }
    let mut connection = PgConnection::connect(url).await.expect("it answers");
    let rows = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_all(&mut connection)
        .await;
    connection.close().await.expect("it is ours");
    rows.expect("tables as the migrations make them")
}

/// The log of every instance, whole.
async fn check_logs(world: &World, api: &Api) {
    let slots = world.state().places.len();
    for slot in 0..slots {
        let access = world.state().places[slot].access.clone();
        let Some(access) = access else { continue };
        until_right(world, &format!("the log of {}", access.name), || async {
            let Some(rows) = whole_log(api, &access.id).await else {
                return Some("it cannot be read".to_owned());
            };
            let (outcome, counted) = {
                let mut state = world.state();
                let ledger = &mut state.places[slot].ledger;
                let before = ledger.counted();
                (
                    ledger.read_all(&rows),
                    ledger.counted().saturating_sub(before),
                )
            };
            if counted > 0 {
                let mut state = world.state();
                *state
                    .tally
                    .entry("lines lost and counted".to_owned())
                    .or_default() += counted;
            }
            match outcome {
                Ok(0) => None,
                Ok(missing) => Some(format!("{missing} lines are missing, uncounted")),
                Err(violation) => {
                    world.wrong(format!(
                        "slot {slot}: the log of {}: {violation}",
                        access.name
                    ));
                    None
                }
            }
        })
        .await;
    }
}

async fn whole_log(api: &Api, id: &str) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api
            .get(&format!("/mcps/{id}/logs?limit=1000{cursor}"))
            .await
            .success()?;
        rows.extend(rows_of(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Some(rows),
        }
    }
}

/// What certainly runs.
fn running(world: &World) -> Vec<Access> {
    let state = world.state();
    let runs = |place: &&super::world::Place| place.model.possible().iter().eq([&State::Running]);
    let running = state.places.iter().filter(runs);
    running.filter_map(|place| place.access.clone()).collect()
}

/// Every running instance answers both eras at the URL and with the token of its creation.
async fn check_calls(world: &World) {
    for access in running(world) {
        for stateless in [false, true] {
            let mut caller = Caller::new(&access, stateless);
            let outcome = caller.tool("echo", json!({"text": access.name})).await;
            if outcome != Outcome::Text(access.name.clone()) {
                world.wrong(format!("{} runs and answers {outcome:?}", access.name));
            }
            caller.end().await;
        }
    }
}

/// A client of the session era at every running instance, in the middle of its session.
pub async fn begin_sessions(world: &World) -> Vec<Caller> {
    let mut callers = Vec::new();
    for access in running(world) {
        let mut caller = Caller::new(&access, false);
        let outcome = caller.tool("echo", json!({"text": "before"})).await;
        if outcome == Outcome::Text("before".to_owned()) {
            callers.push(caller);
        } else {
            world.wrong(format!("{}: no session: {outcome:?}", access.name));
        }
    }
    callers
}

/// The same sessions go on.
pub async fn go_on(world: &World, callers: Vec<Caller>) {
    for mut caller in callers {
        let outcome = caller.tool("echo", json!({"text": "after"})).await;
        if outcome != Outcome::Text("after".to_owned()) {
            world.wrong(format!("a session did not outlive serve: {outcome:?}"));
        }
        world.count("sessions that outlived serve");
    }
}

/// The pids of the children of client sessions.
pub async fn children(api: &Api) -> BTreeSet<u64> {
    let seen = list(api).await.unwrap_or_default();
    let children = seen.into_values().flat_map(|instance| instance.children);
    children.collect()
}

/// The pids of what runs, by instance.
pub async fn pids(api: &Api) -> BTreeMap<String, u64> {
    let seen = list(api).await.unwrap_or_default();
    seen.into_iter()
        .filter_map(|(id, seen)| Some((id, seen.pid?)))
        .collect()
}
