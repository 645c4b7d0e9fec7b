//! What every actor shares.

use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::{Semaphore, broadcast, mpsc};

use super::{
    InstanceEvent, SupervisorError,
    private_port::PrivatePorts,
    reconcile::Reconciled,
    registry::Registry,
    remote::Trust,
    route::AccessEvent,
    seats::{Floor, Seats},
    spares::Spares,
    turns::LaunchTurns,
};
use crate::{
    clock::Clock,
    config::{Config, PublicUrl},
    domain::{id::InstanceId, latency::Latency, port::PortPool, slug::Slug},
    egress::{HostResolver, Outside},
    logs::Logs,
    packages::Installer,
    runtime::{self, Runtime},
    secrets::KeyRing,
    store::{CorruptRow, Store},
    templates::Catalogue,
};

/// How many events a slow listener may lag behind before it must read the store.
const EVENTS_QUEUED: usize = 1_024;
/// What an access port needs at least: its listener, the copy for the keeper, and one each to look and to send.
const LISTENER_DESCRIPTORS: u64 = 4;

/// The rooms that the supervisor works with, and what its actors share.
pub struct Context {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Where everything is kept.
    pub store: Store,
    /// Opens credentials for a launch.
    pub keys: Arc<KeyRing>,
    /// Where children live.
    pub runtime: Arc<dyn Runtime>,
    /// Takes log lines.
    pub logs: Logs,
    /// What may be run.
    pub catalogue: Arc<Catalogue>,
    /// Installs the packages that templates name.
    pub packages: Arc<Installer>,
    /// Wall time.
    pub clock: Clock,
    pub(super) access: mpsc::Sender<AccessEvent>,
    path_base: String,
    pub(super) events: broadcast::Sender<InstanceEvent>,
    pub(super) registry: Registry,
    pub(super) ports: Mutex<PortPool>,
    pub(super) private_ports: PrivatePorts,
    /// What TLS to servers elsewhere trusts.
    pub(super) trust: Trust,
    /// What the gates of all children share.
    pub(super) outside: Arc<Outside>,
    /// Turns to launch, so that hundreds of starts do not fight for the processors.
    pub(super) launch_turns: Arc<LaunchTurns>,
    /// Children that new instances may begin with.
    pub(super) spares: Spares,
    /// Turns to be asked what one offers: after a restart, hundreds would be asked in the same moment.
    pub(super) learning_turns: Semaphore,
    pub(super) closing: AtomicBool,
    /// Rows that could not be read when the store was last looked through, in words.
    pub(super) damaged: Mutex<Vec<String>>,
    /// What the comparisons found since the daemon started.
    pub(super) reconciled: Reconciled,
    /// Launches since the daemon started.
    pub(super) launches: AtomicU64,
    /// Launches by the restart policy, among these.
    pub(super) restarts: AtomicU64,
    /// Sleepers that a request woke.
    pub(super) wakes: AtomicU64,
    /// Those that slept early because memory was short.
    pub(super) pressed: AtomicU64,
    /// Those that slept early because another of their owner's was wanted.
    pub(super) gave_way: AtomicU64,
    /// Servers that offered something else after a launch than was kept of them.
    pub(super) capability_changes: AtomicU64,
    /// How long it took from the request until the server had shaken hands.
    pub(super) wake_times: Latency,
    /// How long it took to let one that held still go on.
    pub(super) thaw_times: Latency,
    /// How long the keeper took to start a process.
    pub(super) spawn_times: Latency,
}

impl Context {
    /// Brings the rooms together. `access` is the gateway's inbox; `api_url` is where the API listens, without a final
    /// slash.
    #[must_use]
    #[expect(
        clippy::too_many_arguments,
        reason = "the composition root names each room once"
    )]
    pub fn new(
        config: Arc<Config>,
        store: Store,
        keys: Arc<KeyRing>,
        runtime: Arc<dyn Runtime>,
        logs: Logs,
        catalogue: Arc<Catalogue>,
        clock: Clock,
        access: mpsc::Sender<AccessEvent>,
        api_url: &str,
    ) -> Self {
        let public = config.gateway.public_url.as_ref();
        let path_base = public.map_or(api_url, PublicUrl::as_str).to_owned();
        let ports = PortPool::new(config.runtime.port_min, config.runtime.port_max);
        let packages = Installer::new(
            Arc::clone(&runtime),
            config.packages.clone(),
            config.runtime.search_path.clone(),
            config.ceiling().hidden,
        );
        let sandbox = &config.sandbox;
        let own_names = sandbox.host_addresses.iter();
        let own_names = own_names.map(|own| (own.name.clone(), own.address));
        let outside = Arc::new(Outside {
            resolver: Arc::new(HostResolver::new(own_names.collect())),
            opened: sandbox.allow_private.clone(),
            connections_max: sandbox.connections_max,
            sent_bytes_per_hour: sandbox.sent_bytes_per_hour,
            clock,
        });
        let floor = config.sleep.memory_floor_bytes.map(Floor::of_the_host);
        let seats = Seats::new(config.budgets.clone(), floor);
        let launch_turns = Arc::new(LaunchTurns::new(config.runtime.launches_max, seats));
        Self {
            config,
            store,
            keys,
            runtime,
            logs,
            catalogue,
            packages: Arc::new(packages),
            clock,
            access,
            path_base,
            events: broadcast::Sender::new(EVENTS_QUEUED),
            registry: Registry::default(),
            ports: Mutex::new(ports),
            private_ports: PrivatePorts::default(),
            trust: Trust::default(),
            outside,
            launch_turns,
            spares: Spares::default(),
            learning_turns: Semaphore::new(super::capabilities::ASKED_AT_ONCE_MAX),
            closing: AtomicBool::new(false),
            damaged: Mutex::default(),
            reconciled: Reconciled::default(),
            launches: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            pressed: AtomicU64::new(0),
            gave_way: AtomicU64::new(0),
            capability_changes: AtomicU64::new(0),
            wake_times: Latency::default(),
            thaw_times: Latency::default(),
            spawn_times: Latency::default(),
        }
    }

    /// Gives installers what `packages.environment` names of the daemon's environment.
    #[must_use]
    pub fn with_environment(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        if let Some(packages) = Arc::get_mut(&mut self.packages) {
            packages.take_environment(variables);
        }
        self
    }

    /// Remembers which rows cannot be read, and tells of those that were not known before.
    pub(super) fn note_damaged(&self, rows: &[CorruptRow]) {
        let text = |row: &CorruptRow| {
            format!(
                "the row {} of table {} is damaged in column {}; its instance is left as it is",
                row.id, row.table, row.column
            )
        };
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let now: Vec<String> = rows.iter().map(text).collect();
        for row in now.iter().filter(|row| !damaged.contains(row)) {
            tracing::error!("{row} until it is repaired and the daemon started again");
        }
        *damaged = now;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Leases a port and binds the access listener in one go, so that no one can come between.
    ///
    /// # Errors
    /// No port of the range is free; or no descriptor, without which every port would look as if it were taken.
    pub(super) fn open_port(&self, id: InstanceId) -> Result<(u16, TcpListener), SupervisorError> {
        let address = self.config.gateway.address;
        if runtime::descriptors_run_out(LISTENER_DESCRIPTORS) {
            return Err(SupervisorError::DescriptorsExhausted(
                runtime::descriptors_max(),
            ));
        }
        let mut bound = None;
        let mut pool = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let leased = pool.lease(id, self.clock.now(), |port| {
            // Asking first also finds a stranger on another address, which would confuse whoever reads the URL.
            if !portpicker::is_free_tcp(port) {
                return true;
            }
            bound = runtime::bind_listener(address, port).ok();
            bound.is_none()
        });
        let (min, max) = pool.range();
        match (leased, bound) {
            (Ok(port), Some(listener)) => Ok((port, listener)),
            (Ok(port), None) => Err(SupervisorError::Internal(format!(
                "port {port} was leased but not bound"
            ))),
            (Err(none), _) => Err(SupervisorError::PortsExhausted {
                min,
                max,
                leased: none.leased,
                quarantined: none.quarantined,
                foreign: none.foreign,
            }),
        }
    }

    /// The URL of an access port, without the token.
    pub(super) fn access_url(&self, port: Option<u16>) -> String {
        match port {
            Some(port) => format!("{}/mcp", self.access_origin(port)),
            None => String::new(),
        }
    }

    /// The same endpoint on the API's address; it changes with the name.
    pub(super) fn path_url(&self, slug: &Slug) -> String {
        format!("{}/i/{slug}/mcp", self.path_base)
    }

    /// The access URL with the token inside.
    pub(super) fn connect_url(&self, port: Option<u16>, token: &str) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(match port {
            Some(port) => format!("{}/{token}/mcp", self.access_origin(port)),
            None => String::new(),
        })
    }

    fn access_origin(&self, port: u16) -> String {
        let gateway = &self.config.gateway;
        match (&gateway.public_host, gateway.address) {
            (Some(host), _) => format!("http://{host}:{port}"),
            (None, address) if address.is_unspecified() => format!("http://127.0.0.1:{port}"),
            (None, std::net::IpAddr::V6(address)) => format!("http://[{address}]:{port}"),
            (None, address) => format!("http://{address}:{port}"),
        }
    }
}

/// The name under which the keeper holds an instance's access listener.
pub(super) fn listener_name(id: InstanceId) -> String {
    format!("listener/{id}")
}
