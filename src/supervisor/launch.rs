//! From a record to a running child: resolve the command, open the secrets, hand the plan to the keeper.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    Context,
    capabilities::{self, Memory},
    denials::Watched,
    egress::Ways,
    folders::{self, instance_dir},
    private_port::PrivatePort,
    remote,
    route::ArgumentsHook,
    sealed::{SealedByVariable, open_all, read_sealed},
    seats::Seat,
    turns::{Asking, Permit},
};
use crate::{
    domain::{
        budget::Held,
        exit::ExitStatus,
        id::Generation,
        instance::InstanceRecord,
        template::{Template, Transport},
    },
    egress::Gate,
    logs::{Capture, LogSource, LogStream},
    packages::Package,
    runtime::{KeeperState, LaunchError, LaunchPlan, RuntimeError, Workload, WorkloadId},
    secrets::redaction::Redactions,
    templates::Resolved,
    upstream::{Handshake, NoiseSink, Upstream, UpstreamOptions},
};

/// A turn to launch, given back when the child is ready or takes long.
pub(super) struct Turn {
    pub(super) permit: Permit,
    /// Why nothing can be launched in it.
    pub(super) obstacle: Option<String>,
}

/// How the wait for a turn ended.
pub(super) enum Waited<T> {
    /// It came.
    Turn(T),
    /// There is no room, and no request waits for it any more.
    Unwanted(Arc<Held>),
    /// The daemon goes down.
    Over,
}

/// A launched child, or why there is none.
pub(super) type LaunchOutcome = Result<Box<Launched>, ExitStatus>;

/// A child of one generation and all that hangs on it.
pub(super) struct Child {
    pub(super) generation: Generation,
    pub(super) workload: Workload,
    pub(super) upstream: Arc<Upstream>,
    pub(super) captures: Vec<Capture>,
    /// The private port of an HTTP server.
    pub(super) http_port: Option<PrivatePort>,
    /// Its secrets, as they are hidden in what is told.
    pub(super) redactions: Arc<Redactions>,
    /// Its way to the network, where that goes through the gate; ends with it.
    pub(super) _gate: Option<Gate>,
    /// Keeps count of what it is refused.
    pub(super) _watched: Option<Watched>,
    /// Its upstream told that it can never answer again.
    pub(super) told_silent: bool,
    /// What it offers, where that is kept.
    pub(super) memory: Memory,
    /// Its place among those that are awake, where it is a main child.
    pub(super) _seat: Option<Seat>,
}

impl Child {
    /// The last lines of its stderr; of stdout too where that is a log.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.captures.iter().flat_map(Capture::last_lines).collect()
    }
}

/// A handshake as the store keeps it, for the daemon that adopts the child.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct KeptHandshake {
    pub(super) handshake: Handshake,
    /// The private port of an HTTP server.
    pub(super) http_port: Option<u16>,
    /// On what basis it was launched, where what it offers is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) basis: Option<String>,
}

/// What the children of an instance are launched from: the main child and, per session, its members.
pub(super) struct Recipe {
    pub(super) record: InstanceRecord,
    pub(super) generation: Generation,
    pub(super) template: Arc<Template>,
    pub(super) resolved: Resolved,
    pub(super) sealed: SealedByVariable,
}

impl Recipe {
    /// To be kept where client sessions get members.
    pub(super) fn for_members(self) -> Option<Arc<Self>> {
        let members_max = self.template.server.members_max();
        members_max.map(|_| Arc::new(self))
    }
}

/// What a launch brings back.
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) sealed: SealedByVariable,
    pub(super) template: Arc<Template>,
    pub(super) recipe: Option<Arc<Recipe>>,
}

/// Waits for the package that is missing, for a turn with room and, where one is needed, for a keeper. `is_wake`: a
/// request asked for it.
pub(super) fn await_turn(
    context: Arc<Context>,
    package: Option<Package>,
    needs_keeper: bool,
    asking: Asking,
    is_wake: bool,
) -> BoxFuture<'static, Waited<Turn>> {
    Box::pin(async move {
        // Not in the turn: an installation takes long, and others need not wait for it.
        let obstacle = match &package {
            Some(package) => context.packages.ensure(package).await.err(),
            None => None,
        };
        let permit = match context.turn_with_room(asking, is_wake).await {
            Waited::Turn(permit) => permit,
            Waited::Unwanted(held) => return Waited::Unwanted(held),
            Waited::Over => return Waited::Over,
        };
        if needs_keeper {
            let mut keeper = context.runtime.state();
            let is_there = |state: &KeeperState| matches!(state, KeeperState::Connected { .. });
            if keeper.wait_for(is_there).await.is_err() {
                return Waited::Over;
            }
        }
        Waited::Turn(Turn { permit, obstacle })
    })
}

/// Launches a child of `generation`; an error says in one sentence why there is none.
pub(super) fn launch(
    context: Arc<Context>,
    record: &InstanceRecord,
    generation: Generation,
    known: SealedByVariable,
) -> BoxFuture<'static, LaunchOutcome> {
    let record = record.clone();
    context.launches.fetch_add(1, Ordering::Relaxed);
    Box::pin(async move {
        try_launch(&context, &record, generation, known)
            .await
            .map(Box::new)
    })
}

async fn try_launch(
    context: &Context,
    record: &InstanceRecord,
    generation: Generation,
    known: SealedByVariable,
) -> Result<Launched, ExitStatus> {
    let template = context
        .catalogue
        .get(&record.template)
        .ok_or_else(|| not_started(format!("there is no template {} any more", record.template)))?
        .template;
    let port = match template.server.transport {
        Transport::Remote => {
            return remote::launch(context, record, generation, template, known).await;
        }
        Transport::Stdio => None,
        Transport::Http => {
            let runtime = &context.config.runtime;
            let picked = context
                .private_ports
                .pick(&(runtime.port_min..=runtime.port_max));
            let none = || not_started("no private port is free for its HTTP server");
            Some(picked.ok_or_else(none)?)
        }
    };
    let number = port.as_ref().map(PrivatePort::number);
    let recipe = Recipe {
        resolved: resolve(context, record, number)?,
        sealed: read_sealed(context, record, known).await?,
        record: record.clone(),
        generation,
        template,
    };
    let id = WorkloadId::main(record.id, generation);
    let mut child = start(context, &recipe, id, port).await?;
    let basis = capabilities::basis(&recipe.template, record, &recipe.sealed);
    child.memory = Memory::of(&recipe.template, basis);
    Ok(Launched {
        child,
        sealed: recipe.sealed.clone(),
        template: Arc::clone(&recipe.template),
        recipe: recipe.for_members(),
    })
}

pub(super) fn resolve(
    context: &Context,
    record: &InstanceRecord,
    port: Option<u16>,
) -> Result<Resolved, ExitStatus> {
    let folder = instance_dir(context, record.id);
    folders::take_back(&folder);
    context
        .catalogue
        .resolve(&record.template, &record.spec, &folder, port)
        .map_err(|error| not_started(error.to_string()))
}

/// Launches one child by a recipe.
pub(super) async fn start(
    context: &Context,
    recipe: &Recipe,
    id: WorkloadId,
    port: Option<PrivatePort>,
) -> Result<Child, ExitStatus> {
    let record = &recipe.record;
    let secrets = match open_all(context, record, &recipe.sealed) {
        // Sealed anew with another key since the main child was launched.
        Err(_) if id.member > 0 => {
            let sealed = read_sealed(context, record, recipe.sealed.clone()).await?;
            open_all(context, record, &sealed)?
        }
        opened => opened?,
    };
    let egress = &recipe.resolved.sandbox.egress;
    // What stays outside has a placeholder among the plain ones.
    let given = secrets.iter().filter(|(name, _)| !egress.holds_back(name));
    let (files, given): (Vec<_>, Vec<_>) = given
        .cloned()
        .partition(|(name, _)| recipe.template.delivers_as_file(name));
    let of_settings = recipe.resolved.files.iter();
    let files = of_settings
        .map(|(name, text)| (name.clone(), Zeroizing::new(text.clone())))
        .chain(files)
        .collect();
    let plain = recipe
        .resolved
        .env
        .iter()
        .map(|(name, value)| (name.clone(), Zeroizing::new(value.clone())));
    let plan = LaunchPlan {
        id,
        argv: recipe.resolved.argv.clone(),
        env: plain.chain(given).collect(),
        files,
        file_arguments: recipe.resolved.file_arguments.clone(),
        cwd: recipe.resolved.cwd.clone(),
        limits: recipe.template.limits,
        sandbox: recipe.resolved.sandbox.clone(),
        passed: Vec::new(),
    };
    let redactions = Arc::new(Redactions::new(secrets.iter().cloned()));
    let ways = Ways::new(egress.clone(), &secrets, &redactions);
    drop(secrets);
    let program = Path::new(&recipe.resolved.argv[0]);
    context.packages.note_use(program, context.clock.now());
    let began = Instant::now();
    let launched = match context.spares.take(id, recipe).await {
        Some(spare) => Ok(spare),
        None => context.runtime.launch(plan).await,
    };
    if launched.is_ok() {
        context.spawn_times.observe(began.elapsed());
    }
    let workload = launched.map_err(|error| match error {
        LaunchError::NotStarted(reason) => not_started(reason),
        // It would refuse the same plan again and again, without a pause in between.
        LaunchError::Runtime(RuntimeError::Refused(reason)) => {
            not_started(format!("the keeper refused it: {reason}"))
        }
        // The next launch waits for the next keeper.
        LaunchError::Runtime(_) => ExitStatus::KeeperLost,
    })?;
    attach(
        context,
        record,
        &recipe.template,
        port,
        workload,
        redactions,
        ways,
    )
    .await
    .map_err(|error| not_started(error.to_string()))
}

/// Connects logs and MCP to a child's pipes. On failure the child is ended.
pub(super) async fn attach(
    context: &Context,
    record: &InstanceRecord,
    template: &Template,
    port: Option<PrivatePort>,
    workload: Workload,
    redactions: Arc<Redactions>,
    ways: Ways,
) -> std::io::Result<Child> {
    let number = port.as_ref().map(PrivatePort::number);
    let hidden = Arc::clone(&redactions);
    let attached = try_attach(context, record, template, number, &workload, hidden);
    let attached = attached.and_then(|(upstream, captures)| {
        let gate = super::egress::open_gate(context, record.id, &workload, ways)?;
        Ok((upstream, captures, gate))
    });
    match attached {
        Ok((upstream, captures, gate)) => {
            let generation = workload.id().generation;
            let handle = context.registry.get(record.id);
            Ok(Child {
                _watched: handle.and_then(|handle| handle.denials.watch(&workload)),
                generation,
                workload,
                upstream,
                captures,
                http_port: port,
                redactions,
                _gate: gate,
                told_silent: false,
                memory: Memory::default(),
                _seat: None,
            })
        }
        Err(error) => {
            let ended = workload.kill_tree().await.and(workload.forget().await);
            tracing::error!(instance = %record.id, %error, ?ended, "a child's pipes cannot be used; it was ended");
            Err(error)
        }
    }
}

fn try_attach(
    context: &Context,
    record: &InstanceRecord,
    template: &Template,
    port: Option<u16>,
    workload: &Workload,
    redactions: Arc<Redactions>,
) -> std::io::Result<(Arc<Upstream>, Vec<Capture>)> {
    let pipes = workload
        .take_pipes()
        .ok_or_else(|| std::io::Error::other("the keeper gave no pipes"))?;
    let source = LogSource {
        instance: record.id,
        key: record.key,
        generation: workload.id().generation,
        member: workload.id().member,
    };
    let options = upstream_options(context, template);
    arguments_hook(context, record, template, &redactions);
    let logs = &context.logs;
    let mut captures = vec![logs.capture(
        source,
        LogStream::Stderr,
        pipes.stderr,
        Arc::clone(&redactions),
    )?];
    let noise: NoiseSink = {
        let (logs, redactions) = (logs.clone(), Arc::clone(&redactions));
        Arc::new(move |line| logs.note(source, LogStream::Stdout, line, &redactions))
    };
    let upstream = match template.server.transport {
        Transport::Stdio => Upstream::over_stdio(pipes.stdin, pipes.stdout, options, noise)?,
        Transport::Http => {
            captures.push(logs.capture(
                source,
                LogStream::Stdout,
                pipes.stdout,
                Arc::clone(&redactions),
            )?);
            let port =
                port.ok_or_else(|| std::io::Error::other("its private port is not known"))?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let inside = workload.has_own_network().then(|| workload.clone());
            let path = template.server.path.clone();
            Upstream::over_http(address, path, inside, options, noise)
        }
        Transport::Remote => return Err(std::io::Error::other("its server is not here")),
    };
    Ok((upstream, captures))
}

/// The limits of a connection to a server of this template.
pub(super) fn upstream_options(context: &Context, template: &Template) -> UpstreamOptions {
    let gateway = &context.config.gateway;
    UpstreamOptions {
        line_limit_bytes: gateway.line_limit_bytes,
        call_timeout: gateway.call_timeout.std(),
        handshake_timeout: template.health.start_timeout.std(),
        era: template.server.era,
        unclaimed_requests: template.server.unclaimed_requests,
        keeps_lists: template.server.caches_capabilities(),
    }
}

/// Lets the arguments of calls be recorded without secrets, where the template wants them recorded.
pub(super) fn arguments_hook(
    context: &Context,
    record: &InstanceRecord,
    template: &Template,
    redactions: &Arc<Redactions>,
) {
    if let Some(handle) = context.registry.get(record.id) {
        let redactions = Arc::clone(redactions);
        let hook: ArgumentsHook = Box::new(move |text| redactions.redact(text).into_owned());
        let wanted = template.calls.record_arguments.then(|| Arc::new(hook));
        handle.route.arguments.store(wanted);
    }
}

pub(super) fn not_started(reason: impl Into<String>) -> ExitStatus {
    ExitStatus::NotStarted {
        reason: reason.into(),
    }
}
