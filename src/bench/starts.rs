//! Create to ready, and back after a kill, beside a bare child.

use std::time::{Duration, Instant};

use super::{
    Bench,
    daemon::{Daemon, Instance},
    figures::{Figures, Summary},
    mcp::StdioServer,
};

/// Create to ready: one call of the API and the first `initialize` through the access URL, beside a bare child. In turns;
/// `live` instances are there meanwhile.
///
/// # Errors
/// When one does not become ready.
pub fn compare(
    bench: &mut Bench,
    daemon: &mut Daemon,
    name: &str,
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

        let began = Instant::now();
        let instance = daemon.create(name)?;
        instance.endpoint.initialize()?;
        hosted.push(began.elapsed());
        daemon.delete(&instance)?;
    }
    let bare = Summary::of(bare);
    let figures = &mut bench.figures;
    let title = format!("create to ready, {name}, {live} live");
    figures.heading(&title, Figures::TIMES)?;
    figures.times("bare: spawn, handshake, tool list", bare, None)?;
    figures.times(
        "minimcp: POST /mcps?wait=ready, initialize by URL",
        Summary::of(hosted),
        Some(bare),
    )?;
    Ok(())
}

/// `kill -9` of the server of each of these instances to its next good answer, beside a bare child that is started anew.
///
/// # Errors
/// When one does not come back.
pub fn kills(
    bench: &mut Bench,
    daemon: &mut Daemon,
    instances: &[Instance],
    command: &[String],
    live: usize,
) -> anyhow::Result<()> {
    let (mut bare, mut hosted) = (Vec::new(), Vec::new());
    for instance in instances {
        bare.push(back_without_us(command)?);
        hosted.push(daemon.kill_and_wait(instance)?);
    }
    let bare = Summary::of(bare);
    let figures = &mut bench.figures;
    let title = format!("kill -9 of a server to its next good answer, {live} live");
    figures.heading(&title, Figures::TIMES)?;
    figures.times("bare: reap, spawn, handshake, tool list, call", bare, None)?;
    figures.times(
        "minimcp: new process, call by URL",
        Summary::of(hosted),
        Some(bare),
    )?;
    Ok(())
}

fn back_without_us(command: &[String]) -> anyhow::Result<Duration> {
    let server = StdioServer::start(command)?;
    let began = Instant::now();
    // The end of the value is a `kill -9`.
    drop(server);
    StdioServer::start(command)?.call()?;
    Ok(began.elapsed())
}
