//! The composition root: builds every room, joins them, and takes them down in order.
//!
//! Up: lock, keys, store, keeper, logs, templates, gateway, supervisor (which adopts what lives), tasks, API.
//! Down: API, instances (or not: they may be left running), gateway, tasks, logs, keeper, store.

pub mod backup;
mod check;
mod counts;
mod held_api;
mod held_file;
mod metrics;
mod notify;
mod own_files;
mod paths;
mod readiness;
mod reload;
mod restore;
mod sessions;
mod start;
mod successor;
mod tasks;
mod traces;
mod waiting;

pub use crate::runtime::{keep_to_few_heaps, take_the_daemons_time_slice};
pub use check::{Checked, check};
pub use own_files::keep_to_own_files;
pub use reload::Reread;
pub use restore::restore;
pub use start::Start;
pub use successor::{Departure, Origin, ended, lifeline, verdict};

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use crate::{
    api::{self, AppParts, AppState, Metrics},
    calls::CallPipeline,
    clock::Clock,
    config::{self, Config},
    connections::{Room, Shares, first_request::FirstRequests},
    gateway::Gateway,
    logs::LogPipeline,
    runtime::{
        self, FileLock, Runtime,
        local::{LocalRuntime, SpawnKeeper},
    },
    secrets::{self, AdminToken, KeyRing},
    store::Store,
    supervisor::{Context, Supervisor},
    tasks::TaskDriver,
    templates::Catalogue,
    traces::Traces,
};
use reload::Reload;
use successor::Desk;

/// Access ports that may wait to be opened or closed by the gateway.
const ACCESS_QUEUE: usize = 64;

/// How long the parts after the instances may take to end, each.
const PART_PATIENCE: Duration = Duration::from_secs(5);

/// How long the collector may take for the last spans: nobody should wait for it.
const TRACES_PATIENCE: Duration = Duration::from_secs(1);

/// How long all instances together may take to stop: the longest graces of a template, and a kill.
const INSTANCES_PATIENCE: Duration = Duration::from_secs(20);

/// The version of Landlock that this host's kernel offers, as its answer to us is; 0: none.
#[must_use]
pub fn landlock_version() -> u32 {
    runtime::landlock_version()
}

/// The running daemon.
pub struct Daemon {
    config: Arc<Config>,
    api_url: String,
    supervisor: Supervisor,
    store: Store,
    runtime: Arc<LocalRuntime>,
    pipeline: LogPipeline,
    call_pipeline: CallPipeline,
    driver: Arc<TaskDriver>,
    traces: Option<Traces>,
    reload: Reload,
    api: JoinHandle<()>,
    api_stop: CancellationToken,
    gateway: JoinHandle<()>,
    gateway_stop: CancellationToken,
    desk: Desk,
    /// Whether the API's unix socket stays in its place.
    unix_stays: Option<Arc<AtomicBool>>,
    _lock: FileLock,
}

impl Daemon {
    /// Starts everything; when this answers, the API listens and every instance that should run is on its way.
    /// A database server that does not answer is tried again, each time with a word in the log.
    ///
    /// # Errors
    /// One readable sentence: a port in use, a folder that cannot be written, a wrong key.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_with(config, Start::default()).await
    }

    /// The same, for a process of which more is known.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(config: Config, start: Start) -> anyhow::Result<Self> {
        let Start {
            own_files,
            origin,
            lifeline,
            reread,
        } = start;
        runtime::harden_process().context("this process cannot be hardened")?;
        let exe = successor::own_program().context("the path of this program cannot be found")?;
        let config = Arc::new(config);
        let lock = lock_instances(&config.runtime.instance_dir)?;
        // Taken first: a port in use is told before anything is started.
        let bound = held_api::bind(&config).await?;
        let clock = Clock::System;
        let keys = load_keys(&config)?;
        let keys = Arc::new(keys);
        let admin_token = AdminToken::load_or_create(&config.api.admin_token_file)?;
        let store =
            waiting::for_database(&config, async || Store::connect(&config.database).await).await?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            database = store.kind(),
            "starting"
        );
        let check = async || secrets::check_keys(&keys, &store, clock.now()).await;
        waiting::for_database(&config, check).await?;
        let spawn = config.runtime.keeper_spawn.then(|| SpawnKeeper {
            exe: exe.clone(),
            linger: config.runtime.keeper_linger,
        });
        let socket = &config.runtime.keeper_socket;
        let runtime = Arc::new(LocalRuntime::connect_again(socket, spawn, lifeline).await?);
        // One with a keeper of its own unit gives up to start programs.
        let desk = Desk::new(origin.filter(|_| config.runtime.keeper_spawn));
        let process = successor::facts(&desk, &exe, clock.now());
        upgrade_keeper(&runtime).await;
        let own_calls = (!config.runtime.keeper_spawn)
            .then(|| runtime::give_up_unneeded().map_err(|cause| cause.to_string()));
        match &own_calls {
            Some(Ok(())) => {
                tracing::info!("this process gives up to start programs and to reach into others");
            }
            Some(Err(cause)) => {
                tracing::warn!(cause, "this process keeps rights that it does not need");
            }
            None => {}
        }
        // What was started goes again when a later part fails: nobody would ever end it.
        let (undo, began_keeper) = (Arc::clone(&runtime), runtime.began_keeper());
        let started = async move {
            let as_runtime: Arc<dyn Runtime> = runtime.clone();
            let listeners = held_api::take(&as_runtime, bound, &config).await?;
            let api_url = format!("http://{}", shown(listeners.address()?));
            let pipeline = counts::start_logs(&config.logs, &store, &as_runtime).await?;
            let whole = config.clone();
            let load = move || {
                Catalogue::load(&whole.runtime, exe)
                    .with_packages(&whole.packages.dir)
                    .under(whole.ceiling())
            };
            let catalogue = tokio::task::spawn_blocking(load).await?;
            let catalogue = Arc::new(catalogue);
            for fault in catalogue.faults() {
                tracing::error!(%fault, "a template is left out");
            }
            let (access, access_inbox) = mpsc::channel(ACCESS_QUEUE);
            let traces = traces::start(&config)?;
            let gateway_stop = CancellationToken::new();
            let gateway = Gateway::new(config.gateway.clone());
            let call_pipeline = counts::start_calls(&config.calls, &store, &as_runtime).await?;
            let call_measures = Arc::<metrics::CallMeasures>::default();
            if config.calls.enabled || traces.is_some() {
                let sink =
                    metrics::call_sink(&config, call_pipeline.calls(), Arc::clone(&call_measures));
                gateway.record_calls(sink);
            }
            sessions::keep(&gateway, &as_runtime, gateway_stop.clone()).await;
            let measures = gateway.measures();
            let shared_gateway = Arc::clone(&gateway);
            let first = FirstRequests::default();
            let shares = Shares::of(runtime::descriptors_max());
            let gateway = tokio::spawn(gateway.run(
                access_inbox,
                Room::new(shares.access),
                first.clone(),
                gateway_stop.clone(),
            ));
            let context = Context::new(
                Arc::clone(&config),
                store.clone(),
                Arc::clone(&keys),
                Arc::clone(&as_runtime),
                pipeline.logs(),
                Arc::clone(&catalogue),
                clock,
                access,
                &api_url,
            )
            .with_environment(config::environment());
            let context = Arc::new(context);
            let start_up = async || Supervisor::start_up(Arc::clone(&context)).await;
            let (supervisor, restored, alive) = waiting::for_database(&config, start_up).await?;
            tracing::info!(restored, alive, "instances restored");
            tokio::spawn(supervisor.clone().tell_denials());
            tokio::spawn(supervisor.clone().keep_spares());
            let list = tasks::all(&config, &store, &supervisor, &keys, clock);
            let driver = Arc::new(TaskDriver::start(list, &config.tasks).await?);
            tasks::begin(&driver)?;
            let api_stop = CancellationToken::new();
            let mutations = TaskTracker::new();
            let state = AppState::new(AppParts {
                supervisor: supervisor.clone(),
                store: store.clone(),
                keys: Arc::clone(&keys),
                logs: pipeline.logs(),
                tasks: Arc::clone(&driver),
                templates: Arc::clone(&catalogue),
                admin_token,
                log_bytes_max: config.logs.retention_bytes_total,
                spools: metrics::spools(&config, pipeline.logs(), call_pipeline.calls()),
                config: config.api.clone(),
                metrics: Metrics::new(metrics::sources(
                    &supervisor,
                    pipeline.logs(),
                    (call_pipeline.calls(), call_measures),
                    measures,
                    store.clone(),
                    Arc::clone(&driver),
                )),
                process,
                upgrade: successor::asked(&desk),
                readiness: readiness::checks(&store, &supervisor, own_files, own_calls),
                shutdown: api_stop.clone(),
                mutations: mutations.clone(),
            });
            let paths = paths::router(
                shared_gateway,
                &config,
                supervisor.clone(),
                shares,
                api_stop.clone(),
            );
            held_api::keep(&as_runtime, &listeners, api_stop.clone()).await;
            let unix_stays = listeners.unix.as_ref();
            let unix_stays = unix_stays.map(|socket| Arc::clone(&socket.stays));
            if let Err(error) = runtime.settle().await {
                tracing::warn!(%error, "the keeper cannot be told that this program serves");
            }
            let api = tokio::spawn(api::serve(
                listeners,
                // Merged last: none of the API's layers lies around the path gateway, which has checks and limits of its own.
                api::router(state).merge(paths),
                mutations,
                Room::new(shares.api),
                first,
                api_stop.clone(),
            ));
            tracing::info!(url = api_url, "the API listens");
            let reload = Reload {
                catalogue,
                supervisor: supervisor.clone(),
                config: Arc::clone(&config),
                reread,
            };
            Ok(Self {
                config,
                api_url,
                supervisor,
                store,
                runtime,
                pipeline,
                call_pipeline,
                driver,
                traces,
                reload,
                api,
                api_stop,
                gateway,
                gateway_stop,
                desk,
                unix_stays,
                _lock: lock,
            })
        };
        let started: anyhow::Result<Self> = Box::pin(started).await;
        match (&started, began_keeper) {
            (Ok(_), _) => {}
            (Err(_), true) => undo.shutdown(true).await,
            // With the instances of a program before this one: it waits for the next.
            (Err(_), false) => drop(undo.hand_over().await),
        }
        started
    }

    /// Where the API listens, such as `http://127.0.0.1:7420`.
    #[must_use]
    pub fn api_url(&self) -> String {
        self.api_url.clone()
    }

    /// The administrator's token, read from its file: this process keeps only its hash.
    ///
    /// # Errors
    /// When the file cannot be read any more.
    pub fn admin_token(&self) -> std::io::Result<Zeroizing<String>> {
        let text = Zeroizing::new(std::fs::read_to_string(&self.config.api.admin_token_file)?);
        Ok(Zeroizing::new(text.trim().to_owned()))
    }

    /// The handle to the instances.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Serves until `shutdown` resolves or another program is to take over, then stops in order. The answer: the place to
    /// be taken, with all instances running.
    ///
    /// # Errors
    /// When a part ended by itself, or something was left behind.
    pub async fn run_until(
        mut self,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<Option<Departure>> {
        let watchdog = notify::ready();
        let reloads = self.reload.begin();
        let ended_early = tokio::select! {
            () = shutdown => None,
            () = self.desk.wanted() => None,
            _ = &mut self.api => Some("the API server"),
            _ = &mut self.gateway => Some("the gateway"),
        };
        if self.desk.is_wanted() {
            notify::reloading();
        } else {
            notify::stopping();
        }
        tracing::info!("stopping");
        reloads.abort();
        if !self.desk.is_wanted() {
            watchdog.abort();
        }
        let (left, departure) = self.stop(ended_early.is_none()).await;
        if let Some(part) = ended_early {
            anyhow::bail!("{part} ended by itself; the log says why");
        }
        if left > 0 {
            anyhow::bail!("{left} instances did not stop in time and were killed with the keeper");
        }
        Ok(departure)
    }

    /// Answers how many instances were still up when they were out of time, and what is left for another program.
    async fn stop(mut self, api_runs: bool) -> (usize, Option<Departure>) {
        let successor = self
            .desk
            .origin()
            .filter(|_| self.desk.is_wanted())
            .cloned();
        let leave = self.config.runtime.leave_instances_running || successor.is_some();
        if let (Some(stays), true) = (&self.unix_stays, leave) {
            stays.store(true, Ordering::Relaxed);
        }
        self.api_stop.cancel();
        if !leave {
            held_api::let_go(&*self.runtime).await;
        }
        let drain = self.config.gateway.drain_timeout.std() + 2 * PART_PATIENCE;
        if leave {
            // Calls come to their answers while their children can still be heard; on both listeners.
            notify::still_stopping(drain, "waiting for calls under way");
            self.gateway_stop.cancel();
            end_within(&mut self.gateway, "the gateway", drain).await;
        }
        if api_runs {
            end_within(&mut self.api, "the API server", PART_PATIENCE).await;
        }
        let left = self.supervisor.shut_down(leave, INSTANCES_PATIENCE).await;
        self.gateway_stop.cancel();
        end_within(&mut self.gateway, "the gateway", PART_PATIENCE).await;
        if !self.driver.shutdown(PART_PATIENCE).await {
            tracing::warn!("a background task did not end in time");
        }
        let closed = self.pipeline.close(PART_PATIENCE).await;
        if closed.spool_bytes > 0 || closed.dropped > 0 {
            tracing::warn!(?closed, "log lines wait in the spool, or were lost");
        }
        let closed = self.call_pipeline.close(PART_PATIENCE).await;
        if closed.spool_bytes > 0 || closed.dropped > 0 {
            tracing::warn!(?closed, "call records wait in the spool, or were lost");
        }
        if let Some(traces) = self.traces.take() {
            traces.stop(TRACES_PATIENCE).await;
        }
        let departure = match successor {
            Some(origin) => Some(Departure {
                origin,
                lifeline: self.runtime.hand_over().await,
            }),
            None => {
                // A keeper with a unit of its own is its service manager's to end.
                self.runtime
                    .shutdown(!leave && self.config.runtime.keeper_spawn)
                    .await;
                None
            }
        };
        self.store.close().await;
        (left, departure)
    }
}

/// A keeper whose program was replaced since it began goes on as the new one, with all its children. Before anything
/// else is asked of it.
async fn upgrade_keeper(runtime: &LocalRuntime) {
    if !runtime.keeper_is_replaced() {
        return;
    }
    match runtime.upgrade_keeper().await {
        Ok(done) => {
            tracing::info!(
                from = done.from,
                to = done.to,
                "the keeper goes on as the new program"
            );
        }
        Err(error) => {
            tracing::warn!(%error, "the keeper goes on as the former program");
        }
    }
}

async fn end_within(task: &mut JoinHandle<()>, part: &str, patience: Duration) {
    if task.is_finished() {
        return;
    }
    let abort = task.abort_handle();
    match tokio::time::timeout(patience, task).await {
        Ok(Ok(())) => {}
        // It was awaited to its end already, or it panicked, which the panic hook told.
        Ok(Err(error)) => tracing::debug!(part, %error, "ended"),
        Err(_) => {
            tracing::warn!(part, "did not end in time");
            abort.abort();
        }
    }
}

/// One daemon for one folder of instances: a second one would fight over children, ports and rows.
fn lock_instances(dir: &Path) -> anyhow::Result<FileLock> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("the folder {} cannot be made", dir.display()))?;
    runtime::lock_file(&dir.join(".lock"))
        .with_context(|| format!("another daemon may be using {}", dir.display()))
}

/// The master key, from wherever this process is given it.
fn load_keys(config: &Config) -> anyhow::Result<KeyRing> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let given_key = std::env::var("MINIMCP_MASTER_KEY").ok().map(Zeroizing::new);
    Ok(KeyRing::load(
        &config.secrets.key_file,
        given_key.as_ref().map(|key| key.as_str()),
        credentials.as_deref(),
    )?)
}

/// An address as a client on this machine writes it.
fn shown(address: std::net::SocketAddr) -> std::net::SocketAddr {
    if address.ip().is_unspecified() {
        std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, address.port()))
    } else {
        address
    }
}
