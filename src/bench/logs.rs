//! Log ingest: lines per second from flooding children to the database, beside what that database takes by itself, in
//! the same run.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Bench, Plan,
    daemon::{Daemon, Instance},
    figures::{Summary, rate},
    parts,
    serve::PrivateFolder,
};
use crate::{
    domain::{access::RateLimit, duration::HumanDuration},
    store::floor::{self, OwnDatabase},
};

/// Rows of one transaction, as `logs.batch_rows` has them.
const BATCH: usize = 5_000;
/// How long the last line may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at how many lines are stored.
const LOOK: Duration = Duration::from_millis(10);

/// SQLite, and PostgreSQL where an address is given; one child and many.
///
/// # Errors
/// When a line is lost, a database fails, or the run shall end.
pub fn ingest(bench: &mut Bench, plan: &Plan, postgres: Option<&str>) -> anyhow::Result<()> {
    let batch: Vec<String> = (0..BATCH).map(parts::log_line).collect();
    let batches = (plan.log_lines / BATCH).max(1);
    let lines = batches * BATCH;
    bench.figures.heading("log lines to SQLite", "")?;
    let stop = bench.stop.clone();
    let goes_on = move || !stop.asked();
    let raw = {
        let folder = PrivateFolder::new()?;
        let file = folder.path().join("alone.db");
        block_on(floor::sqlite_takes(&file, &batch, batches, &goes_on))??
    };
    bench.stop.check()?;
    let alone = rate(lines, raw);
    let name = "SQLite alone: 5,000 rows in a transaction";
    bench.figures.number(name, alone, "lines/s")?;
    for children in plan.log_children {
        one(bench, None, children, lines, alone)?;
    }
    bench.figures.heading("log lines to PostgreSQL", "")?;
    let Some(server) = postgres else {
        let remedy = "name one with --postgres";
        bench.figures.missing("PostgreSQL", remedy)?;
        return Ok(());
    };
    let database = |bench: &mut Bench, work: &mut dyn FnMut(&mut Bench, &OwnDatabase) -> _| {
        let name = format!("minimcp_bench_{}", uuid::Uuid::new_v4().simple());
        let database = block_on(OwnDatabase::create(server, &name))??;
        let outcome: anyhow::Result<()> = work(bench, &database);
        // Also after a failure: it is ours, and nobody else would drop it.
        let dropped = block_on(database.drop())?;
        outcome?;
        Ok::<_, anyhow::Error>(dropped?)
    };
    let mut alone = f64::NAN;
    database(bench, &mut |bench, own| {
        let raw = block_on(own.takes(&batch, batches, &goes_on))??;
        bench.stop.check()?;
        alone = rate(lines, raw);
        let name = "PostgreSQL alone: COPY, 5,000 rows in a transaction";
        Ok(bench.figures.number(name, alone, "lines/s")?)
    })?;
    for children in plan.log_children {
        database(bench, &mut |bench, own| {
            one(bench, Some(own.url()), children, lines, alone)
        })?;
    }
    Ok(())
}

fn one(
    bench: &mut Bench,
    database: Option<&str>,
    children: usize,
    lines: usize,
    alone: f64,
) -> anyhow::Result<()> {
    let each = lines / children;
    let command = bench.part(&["flood", &each.to_string()]);
    let mut daemon = Daemon::start_with(bench, &[("flood", &command)], |config| {
        // What one instance may write is not what is measured; a limit that is left out would be the default one.
        config.logs.rate_limit_per_instance = Some(RateLimit {
            requests: u32::try_from(lines).unwrap_or(u32::MAX),
            per: HumanDuration::from_secs(1),
        });
        if let Some(url) = database {
            config.database.url = url.to_owned();
        }
    })?;
    let made = (0..children).map(|_| daemon.create("flood"));
    let instances = made.collect::<anyhow::Result<Vec<Instance>>>()?;
    let before = Counts::of(&mut daemon)?;
    let path = format!("/mcps/{}", instances[0].id);
    let mut client = daemon.client()?;
    let over = AtomicBool::new(false);
    let (took, times) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.get(&path)?;
                times.push(began.elapsed());
                thread::sleep(Duration::from_millis(2)); // not as a load of its own
            }
            anyhow::Ok(times)
        });
        let took = flood(bench, &mut daemon, &instances, &before, each * children);
        over.store(true, Ordering::Relaxed);
        let times = match watch.join() {
            Ok(times) => times,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        anyhow::Ok((took?, times?))
    })?;
    let noun = if children == 1 { "child" } else { "children" };
    let name = format!("minimcp: {children} {noun}, to the last row");
    let ours = rate(each * children, took);
    bench.figures.rate_beside(&name, ours, alone, "lines/s")?;
    let summary = Summary::of(times);
    let name = "  GET /mcps/{id} meanwhile, p50";
    bench.figures.number(name, summary.p50_us, "us")?;
    let name = "  GET /mcps/{id} meanwhile, p99";
    bench.figures.number(name, summary.p99_us, "us")?;
    Ok(())
}

/// One call to each of the children, each of which writes its lines; how long until all of them are stored.
fn flood(
    bench: &Bench,
    daemon: &mut Daemon,
    instances: &[Instance],
    before: &Counts,
    wanted: usize,
) -> anyhow::Result<Duration> {
    let mut connections = Vec::with_capacity(instances.len());
    for instance in instances {
        connections.push((instance, instance.endpoint.initialize()?));
    }
    let began = Instant::now();
    thread::scope(|scope| {
        let calls: Vec<_> = connections
            .into_iter()
            .map(|(instance, mut connection)| {
                scope.spawn(move || instance.endpoint.try_call(&mut connection))
            })
            .collect();
        let answered = calls.into_iter().all(|call| call.join().is_ok_and(|it| it));
        ensure!(answered, "a child that floods its log does not answer");
        Ok(())
    })?;
    loop {
        let now = Counts::of(daemon)?;
        ensure!(now.lost == before.lost, "a line of a log is lost");
        let stored = usize::try_from(now.stored - before.stored)?;
        if stored >= wanted {
            return Ok(began.elapsed());
        }
        bench.stop.check()?;
        ensure!(
            began.elapsed() < PATIENCE,
            "{stored} of {wanted} lines are stored after {} s",
            PATIENCE.as_secs()
        );
        thread::sleep(LOOK); // poll
    }
}

/// Lines of logs.
struct Counts {
    stored: u64,
    lost: u64,
}

impl Counts {
    fn of(daemon: &mut Daemon) -> anyhow::Result<Self> {
        let facts = daemon.json("GET", "/diagnostics", "")?;
        let count = |name: &str| facts["logs"][name].as_u64();
        Ok(Self {
            stored: count("stored").context("no count of stored lines")?,
            lost: count("dropped").context("no count of lost lines")?,
        })
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(work))
}
