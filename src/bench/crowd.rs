//! As many instances as fit the plan, created by several clients at once; and single ones that begin with a warm spare, with
//! none live and with all of those.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};

use super::{
    Bench, Plan,
    daemon::{Client, Daemon, Instance},
    figures::{Figures, Summary, rate},
    mcp::StdioServer,
};
use crate::domain::id::TemplateName;

/// Clients that create at the same time: more than processors, so that none of them waits for a client.
const CLIENTS: usize = 8;
/// Bare servers that are started at most: each is two open files, of which there may be no more than 1,024.
const BARE_MAX: usize = 300;
/// The template of which one server is started ahead.
const SPARED: &str = "spared";
/// How long that may take.
/// More than a minute, which the daemon waits before it tries a template again that failed.
const SPARE_TIMEOUT: Duration = Duration::from_secs(90);
/// How often it is looked for: seldom, since a look makes the text of all metrics.
const LOOK: Duration = Duration::from_millis(20);

/// The rows of a daemon of their own.
///
/// # Errors
/// When it does not do what is measured, or the run shall end.
pub fn measure(bench: &mut Bench, plan: &Plan) -> anyhow::Result<()> {
    let null = bench.null_server();
    let spared = TemplateName::new(SPARED).map_err(|fault| anyhow!("{SPARED}: {fault}"))?;
    let templates = [("null", null.as_slice()), (SPARED, null.as_slice())];
    let mut daemon = Daemon::start_with(bench, &templates, |config| {
        config.runtime.warm_spares.insert(spared, 1);
    })?;
    let_begin_with_spares(bench, &mut daemon, &null, 0, plan.starts)?;
    let count = plan.sizes.last().copied().unwrap_or(1);
    let bare = bare_at_once(bench, &null, count.min(BARE_MAX))?;
    let (instances, took) = at_once(bench, &daemon, count)?;
    let figures = &mut bench.figures;
    let title = format!("{count} instances of null, {CLIENTS} clients at once");
    figures.heading(&title, "")?;
    figures.number("bare: spawn, handshake, tool list", bare, "/s")?;
    let hosted = rate(instances.len(), took);
    let name = "minimcp: POST /mcps?wait=ready, initialize by URL";
    figures.rate_beside(name, hosted, bare, "/s")?;
    let seconds = took.as_secs_f64();
    figures.number("until all of them have answered", seconds, "s")?;
    let_begin_with_spares(bench, &mut daemon, &null, count, plan.starts)
}

/// Create to ready where a spare waits, beside a bare child, in turns.
fn let_begin_with_spares(
    bench: &mut Bench,
    daemon: &mut Daemon,
    command: &[String],
    live: usize,
    count: usize,
) -> anyhow::Result<()> {
    let (mut bare, mut hosted) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let began = Instant::now();
        let server = StdioServer::start(command)?;
        bare.push(began.elapsed());
        drop(server);

        await_spare(bench, daemon)?;
        let began = Instant::now();
        let instance = daemon.create(SPARED)?;
        instance.endpoint.initialize()?;
        hosted.push(began.elapsed());
        daemon.delete(&instance)?;
    }
    let bare = Summary::of(bare);
    let figures = &mut bench.figures;
    let title = format!("the same with a warm spare, null, {live} live");
    figures.heading(&title, Figures::TIMES)?;
    figures.times("bare: spawn, handshake, tool list", bare, None)?;
    let name = "minimcp: POST /mcps?wait=ready, initialize by URL";
    figures.times(name, Summary::of(hosted), Some(bare))?;
    Ok(())
}

fn await_spare(bench: &Bench, daemon: &mut Daemon) -> anyhow::Result<()> {
    let began = Instant::now();
    while !daemon.has_warm_spare()? {
        bench.stop.check()?;
        ensure!(
            began.elapsed() < SPARE_TIMEOUT,
            "the daemon of the bench makes no warm spare"
        );
        thread::sleep(LOOK); // poll
    }
    Ok(())
}

/// Servers started in a second by so many threads, all kept until the last is there.
fn bare_at_once(bench: &Bench, command: &[String], count: usize) -> anyhow::Result<f64> {
    let (servers, took) = shared_out(bench, count, |_| StdioServer::start(command))?;
    Ok(rate(servers.len(), took))
}

/// Instances that were created and have answered, and how long all of it took.
fn at_once(
    bench: &Bench,
    daemon: &Daemon,
    count: usize,
) -> anyhow::Result<(Vec<Instance>, Duration)> {
    let clients: Result<Vec<Client>, _> = (0..CLIENTS).map(|_| daemon.client()).collect();
    let clients: Vec<_> = clients?.into_iter().map(std::sync::Mutex::new).collect();
    shared_out(bench, count, |thread| {
        let client = clients.get(thread).context("a client for each thread")?;
        let mut client = client.lock().map_err(|_| anyhow!("a client panicked"))?;
        let instance = client.create("null")?;
        instance.endpoint.initialize()?;
        Ok(instance)
    })
}

/// Does `work` so often in all, by [`CLIENTS`] threads; each is given its number.
fn shared_out<T: Send>(
    bench: &Bench,
    count: usize,
    work: impl Fn(usize) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<(Vec<T>, Duration)> {
    let (next, work, stop) = (AtomicUsize::new(0), &work, &bench.stop);
    let began = Instant::now();
    let done: anyhow::Result<Vec<Vec<T>>> = thread::scope(|scope| {
        let next = &next;
        let thread = |number| {
            move || {
                let mut done = Vec::new();
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    stop.check()?;
                    done.push(work(number)?);
                }
                Ok(done)
            }
        };
        let threads: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(thread(number)))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let joined = thread.join();
            joined.map_err(|_| anyhow!("a thread of the bench panicked"))?
        });
        joined.collect()
    });
    let took = began.elapsed();
    Ok((done?.into_iter().flatten().collect(), took))
}
