//! The end of a bench by a signal: what it has started ends first.

use std::{process::ExitCode, sync::Arc, thread};

use minimcp::bench::Stop;
use tokio::signal::unix::{SignalKind, signal};

/// As a shell reports a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Does the work of a bench. SIGINT, SIGTERM and SIGHUP do not end this process, which would leave daemons and peers
/// behind, but `stop` the work, whose values end what they have started.
pub fn work(
    stop: &Arc<Stop>,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let waiting = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _within = waiting.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    let asked = stop.clone();
    // It ends with this process.
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            waiting.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    if !asked.asked() {
                        eprintln!("ending everything that the bench has started");
                    }
                    asked.ask();
                }
            });
        })?;
    match work() {
        // What went wrong once everything was told to end is no news.
        Err(_) if stop.asked() => Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => Err(error),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}
