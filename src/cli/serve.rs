//! `serve`: the daemon as a service.

use std::{io::IsTerminal as _, os::fd::RawFd, path::PathBuf, process::ExitCode};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{
    arguments::{ConfigFile, LogFormat},
    configuration, connection,
    failure::Failure,
    output::Output,
};
use crate::{
    config::{Config, DEFAULT_FILE},
    daemon::{self, Daemon, Departure, Origin, Reread, Start},
};

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeOptions {
    /// The configuration [default: /etc/minimcp/config.toml, if it exists].
    #[arg(long, env = "MINIMCP_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How log lines on stderr look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Say whether this program would serve with the configuration and its database; nothing is started or changed.
    #[arg(long)]
    check: bool,
    /// Of a program that becomes this one: what keeps its keeper alive.
    #[arg(long, value_name = "FD", hide = true)]
    keeper_lifeline: Option<RawFd>,
}

pub(super) fn run(options: &ServeOptions, out: Output) -> Result<ExitCode, Failure> {
    // Before this program opens anything.
    let lifeline = options.keeper_lifeline.filter(|_| !options.check);
    let lifeline = lifeline.map(daemon::lifeline).transpose()?;
    let origin = Origin::of_this_process(std::env::args_os().skip(1))?;
    let config = configuration::load(&ConfigFile {
        config: options.config.clone(),
    })?;
    if options.check {
        return check(&config, out);
    }
    start_log(options.log_format, SERVE_LOG)?;
    // Before the runtime starts its threads: each has the restriction of the one that started it.
    let own_files = (!config.runtime.keeper_spawn).then(|| keep_to_own_files(&config, options));
    let start = Start {
        own_files,
        origin: Some(origin),
        lifeline,
        reread: Some(Reread {
            file: options.config.clone(),
            hangups: None,
        }),
    };
    let runtime = runtime()?;
    let departure = runtime.block_on(serve(config, start))?;
    // A thread that still blocks must not hold up the next program.
    runtime.shutdown_background();
    match departure {
        Some(departure) => Err(departure.go().into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Serves until it is told to end. The answer: to end for another program.
async fn serve(config: Config, mut start: Start) -> Result<Option<Departure>, Failure> {
    let mut signals = Signals::listen()?;
    if let Some(reread) = &mut start.reread {
        reread.listen();
    }
    let discovery = config.clone();
    let daemon = tokio::select! {
        started = Daemon::start_with(config, start) => started?,
        () = signals.next() => return Ok(None),
    };
    let word = connection::discovery_of(&discovery, daemon.api_url());
    let file = connection::serve_discovery_file(&connection::environment);
    let mut before = None;
    if let Some(file) = &file {
        match word.write(file) {
            Ok(found) => before = found,
            Err(error) => tracing::warn!("cannot write {}: {error}", file.display()),
        }
    }
    let ended = daemon.run_until(signals.shutdown()).await;
    // The next program has the same process.
    let stays = matches!(ended, Ok(Some(_)));
    if let Some(file) = file.filter(|_| !stays) {
        word.withdraw(&file, before.as_ref());
    }
    Ok(ended?)
}

/// Says whether this program would serve.
fn check(config: &Config, out: Output) -> Result<ExitCode, Failure> {
    let checked = runtime()?.block_on(daemon::check(config))?;
    let text = if out.json {
        serde_json::to_string(&checked).map_err(|error| Failure::Failed(error.to_string()))?
    } else {
        let mut text = format!(
            "minimcp {} would serve; migrations that it would apply first: {}.",
            checked.version, checked.pending_migrations
        );
        for fault in &checked.template_faults {
            text.push_str(&format!("\nA template would be left out: {fault}"));
        }
        text
    };
    out.line(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// One that starts its keeper itself could hand the restriction on to a later one.
fn keep_to_own_files(config: &Config, options: &ServeOptions) -> Result<bool, String> {
    let file = options.config.clone();
    let file = file.unwrap_or_else(|| DEFAULT_FILE.into());
    let word = connection::serve_discovery_file(&connection::environment);
    let held = daemon::keep_to_own_files(
        config,
        Some(&file),
        word.as_deref(),
        connection::environment,
    );
    match &held {
        Ok(true) => tracing::info!("this process keeps to its own files"),
        Ok(false) => {
            tracing::warn!("this process keeps to its own files, as far as the kernel can")
        }
        Err(cause) => tracing::warn!(cause, "this process does not keep to its own files"),
    }
    held
}

/// What `serve` tells of its work; the scheduler's own steps say nothing to an operator.
const SERVE_LOG: &str = "info,tokio_cron_scheduler=warn";

/// The runtime of the daemon.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    // Its threads have the time slices of the one that starts them.
    daemon::take_the_daemons_time_slice();
    daemon::keep_to_few_heaps();
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// Log lines to stderr; `MINIMCP_LOG` says which (`info`, `debug`, `minimcp::gateway=trace`, …).
pub(super) fn start_log(format: LogFormat, default: &str) -> Result<(), Failure> {
    let text = connection::environment("MINIMCP_LOG").unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| Failure::Usage(format!("MINIMCP_LOG={text:?}: {error}")))?;
    let terminal = std::io::stderr().is_terminal();
    let color = terminal && connection::environment("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would be told on stderr, which is what failed: a closed terminal is no reason to panic.
        .log_internal_errors(false)
        .with_ansi(color);
    // The journal stamps each line itself (systemd.exec(5), JOURNAL_STREAM).
    let journal = connection::environment("JOURNAL_STREAM").is_some();
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text if journal => log.without_time().init(),
        LogFormat::Text => log.init(),
    }
    Ok(())
}

/// What ends the daemon: SIGINT and SIGTERM. Listening begins with the value, so that none is lost while the daemon starts.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// For what runs in a terminal and ends with it.
    hangup: Option<Signal>,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// The same, and SIGHUP: the end of the terminal.
    pub(super) fn listen_in_terminal() -> Result<Self, Failure> {
        Ok(Self {
            hangup: Some(signal(SignalKind::hangup())?),
            ..Self::listen()?
        })
    }

    /// The next of either.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hung_up(&mut self.hangup) => {}
        }
    }

    /// Resolves at the first signal; the second ends the process at once: someone lost patience, and what runs below
    /// us ends with us, since the keeper holds a lifeline.
    pub(super) async fn shutdown(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(INTERRUPTED_TWICE);
        });
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => {
            hangup.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// As a shell reports a process that SIGINT ended.
const INTERRUPTED_TWICE: i32 = 130;
