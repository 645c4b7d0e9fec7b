//! One daemon that gets more and more instances of `null`: what they hold, and how it does with so many.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use super::{
    Bench, Plan, Section,
    daemon::{Daemon, Instance},
    figures::{Figures, Summary, rate},
    leases,
    mcp::StdioServer,
    memory::{self, Held},
    starts,
};

/// What was just done settles: log rows are written, caches are given back.
pub const SETTLE: Duration = Duration::from_secs(2);
/// Between two looks at whether the run shall end.
const LOOK: Duration = Duration::from_millis(100);

/// The rows of these sections at each size of the plan.
///
/// # Errors
/// When the daemon does not do what is measured, or the run shall end.
pub fn measure(bench: &mut Bench, plan: &Plan, sections: &BTreeSet<Section>) -> anyhow::Result<()> {
    let null = bench.null_server();
    let mut daemon = Daemon::start(bench, &[("null", &null)])?;
    let mut instances: Vec<Instance> = Vec::new();
    let mut serve_kib = Vec::new();
    for size in &plan.sizes {
        let began = Instant::now();
        let before = instances.len();
        while instances.len() < *size {
            let instance = daemon.create("null")?;
            instance.endpoint.initialize()?;
            instances.push(instance);
        }
        let took = began.elapsed();
        if sections.contains(&Section::Memory) {
            // What the daemon does each minute: whether that minute is over is no figure of its own.
            daemon.send("POST", "/tasks/give-back-memory/run", "")?;
            rest(bench, SETTLE)?;
            let memory = memory::of(&daemon)?;
            let figures = &mut bench.figures;
            let noun = if *size == 1 { "instance" } else { "instances" };
            let title = format!("{size} {noun} of null, free memory given back");
            figures.heading(&title, Figures::MEMORY)?;
            figures.held("bare: the server alone", bare(&null)?)?;
            figures.memory(*size, &memory)?;
            serve_kib.push((*size, memory.serve.anonymous_kib));
            let created = rate(instances.len() - before, took);
            figures.number("creations per second, one at a time", created, "/s")?;
        }
        if sections.contains(&Section::Starts) {
            starts::compare(bench, &mut daemon, "null", &null, *size, plan.starts)?;
        }
        if sections.contains(&Section::Restarts) {
            // Those that were not there at the size before: none is killed twice.
            let killed = plan.kills.min(instances.len() - before);
            let killed = &instances[before..before + killed];
            starts::kills(bench, &mut daemon, killed, &null, *size)?;
        }
    }
    if sections.contains(&Section::Memory) {
        let title = format!("serve with {} live", instances.len());
        bench.figures.heading(&title, "")?;
        growth(&mut bench.figures, &serve_kib)?;
        idle(bench, &daemon, plan.idle)?;
    }
    if sections.contains(&Section::Api) {
        api(bench, &mut daemon, &instances, plan.api_calls)?;
    }
    if sections.contains(&Section::Leases) {
        leases::ends(bench, &mut daemon, &instances)?;
    }
    Ok(())
}

/// What a server holds that nobody hosts.
fn bare(command: &[String]) -> anyhow::Result<Held> {
    let mut server = StdioServer::start(command)?;
    server.call()?;
    Ok(Held::by(server.pid()))
}

/// What one instance more costs `serve`.
fn growth(figures: &mut Figures, serve_kib: &[(usize, u64)]) -> anyhow::Result<()> {
    if let [(fewer, before), .., (more, after)] = *serve_kib {
        #[expect(clippy::cast_precision_loss, reason = "memory in KiB is small")]
        let each = (after as f64 - before as f64) / (more - fewer) as f64;
        figures.number("serve's own memory for one instance more", each, "KiB")?;
    }
    Ok(())
}

/// What `serve` does when nobody wants anything.
fn idle(bench: &mut Bench, daemon: &Daemon, time: Duration) -> anyhow::Result<()> {
    let before = memory::cpu_ms(daemon.pid());
    rest(bench, time)?;
    #[expect(clippy::cast_precision_loss, reason = "some seconds at most")]
    let busy_ms = memory::cpu_ms(daemon.pid()).saturating_sub(before) as f64;
    let percent = busy_ms / time.as_secs_f64() / 10.0;
    bench
        .figures
        .number("serve's CPU time while idle", percent, "% of a CPU")?;
    Ok(())
}

fn api(
    bench: &mut Bench,
    daemon: &mut Daemon,
    instances: &[Instance],
    calls: usize,
) -> anyhow::Result<()> {
    let figures = &mut bench.figures;
    let title = format!("the API at {} live", instances.len());
    figures.heading(&title, Figures::TIMES)?;
    if let Some(first) = instances.first() {
        let one = daemon.times_of(&format!("/mcps/{}", first.id), calls)?;
        figures.times("GET /mcps/{id}", Summary::of(one), None)?;
    }
    let all = daemon.times_of("/mcps?limit=1000", calls)?;
    figures.times("GET /mcps?limit=1000", Summary::of(all), None)?;
    let short = daemon.times_of("/mcps?limit=1000&view=summary", calls)?;
    let title = "GET /mcps?limit=1000&view=summary";
    figures.times(title, Summary::of(short), None)?;
    Ok(())
}

/// Does nothing for so long.
///
/// # Errors
/// When the run shall end.
pub fn rest(bench: &Bench, time: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    while let Some(left) = time.checked_sub(began.elapsed()) {
        bench.stop.check()?;
        thread::sleep(left.min(LOOK));
    }
    Ok(())
}
