//! Bringing actors to life: for a new instance, and for all of them when the daemon starts.

use std::{
    collections::HashMap,
    net::TcpListener,
    os::fd::OwnedFd,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, watch};

use super::{
    Context, InstanceStatus, SupervisorError,
    access::TokenSet,
    actor::Actor,
    command::Command,
    context::listener_name,
    create::hold_listener,
    folders,
    launch::{self, KeptHandshake},
    members::Census,
    recovery,
    registry::ActorHandle,
    remote,
    route::{About, AccessEvent, Route, RouteState},
    timers::Timers,
    uses::Uses,
};
use crate::{
    domain::{
        event::Event,
        id::{Generation, InstanceId},
        instance::InstanceRecord,
        lifecycle::{Lifecycle, Policy},
        probe::ProbeTracker,
        state::InstanceState,
        template::Template,
    },
    runtime::{self, Presence, Workload},
    store::TokenRow,
};

/// Commands that may wait for one actor.
const MAILBOX: usize = 16;

/// All that an actor begins with.
pub(super) struct Birth {
    pub(super) record: InstanceRecord,
    pub(super) template: Option<Arc<Template>>,
    pub(super) tokens: TokenSet,
    pub(super) listener: TcpListener,
    /// A duplicate, for a keeper that comes later.
    pub(super) kept: TcpListener,
    /// A child of a former daemon.
    pub(super) workload: Option<Workload>,
    /// Numbers of members that a former daemon left; they were ended.
    pub(super) stale_members: Vec<u32>,
}

/// Makes the actor, opens its access port, enters it.
pub(super) async fn spawn_actor(
    context: &Arc<Context>,
    birth: Birth,
) -> Result<Arc<ActorHandle>, SupervisorError> {
    let Birth {
        mut record,
        template,
        tokens,
        listener,
        kept,
        workload,
        stale_members,
    } = birth;
    let id = record.id;
    let policy = template.as_deref().map(Policy::from).unwrap_or_default();
    let life = Lifecycle::restored(
        record.desired,
        record.state.clone(),
        record.generation,
        record.restart_row,
        record.restarts,
        policy,
    );
    let (route_state, route_watch) = watch::channel(RouteState::Starting);
    let (mailbox, inbox) = mpsc::channel(MAILBOX);
    let waker = mailbox.downgrade();
    let uses: Arc<Uses> = Arc::default();
    let about = template
        .as_deref()
        .map_or_else(About::default, |template| About {
            title: template.title.clone(),
            description: template.description.clone(),
            homepage: template.homepage.clone(),
            version: String::new(),
        });
    let own_mailbox = mailbox.downgrade();
    let (census, census_watch) = watch::channel(Census::from([]));
    let route = Arc::new(Route {
        id,
        name: ArcSwap::from_pointee(record.name.clone()),
        key: record.key,
        arguments: ArcSwapOption::empty(),
        about: ArcSwap::from_pointee(about),
        tokens: ArcSwap::from_pointee(tokens),
        state: route_watch,
        last_accessed_ms: AtomicI64::new(0),
        requests: AtomicU64::new(0),
        sessions: AtomicU64::new(0),
        demand: Arc::default(),
        uses: Arc::clone(&uses),
        // A full mailbox holds something newer than this wish.
        wake: Arc::new(move || {
            uses.want();
            if let Some(mailbox) = waker.upgrade() {
                let _ = mailbox.try_send(Command::Wake);
            }
        }),
        members: ArcSwapOption::empty(),
    });
    let handshake = record.handshake.take();
    let now = context.clock.now();
    let since = if record.updated_at > 0 {
        record.updated_at
    } else {
        now
    };
    let mut actor = Actor {
        since,
        life,
        template,
        route: Arc::clone(&route),
        route_state,
        status: watch::Sender::new(Arc::new(InstanceStatus::before_birth(&record))),
        mailbox: inbox,
        timers: Timers::default(),
        launching: None,
        turn: None,
        child: None,
        probing: None,
        tracker: ProbeTracker::default(),
        woken: None,
        sealed: super::sealed::SealedByVariable::new(),
        unsaved_events: Vec::new(),
        told_unsaved: 0,
        dirty: false,
        retry_due: false,
        save_failures: 0,
        saved_handshake: None,
        delete_replies: Vec::new(),
        leaving: false,
        recipe: None,
        adopting: false,
        members: None,
        census,
        first_member: stale_members.iter().max().map_or(1, |last| last + 1),
        own_mailbox,
        record,
        context: Arc::clone(context),
    };
    let egress = super::egress::ledger(&mailbox);
    let handle = Arc::new(ActorHandle {
        egress,
        denials: Arc::default(),
        mailbox,
        status: actor.status.subscribe(),
        route: Arc::clone(&route),
        listener: Arc::new(kept),
        access_written_ms: AtomicI64::new(0),
        census: census_watch,
    });
    if !context.registry.insert(id, Arc::clone(&handle)) {
        return Err(SupervisorError::Internal(
            "it has an actor already".to_owned(),
        ));
    }
    if !stale_members.is_empty() {
        let count = stale_members.len();
        let message = format!("{count} of a former daemon were ended: their sessions are gone");
        actor.note("session-children-ended", message);
    }
    if let Some(workload) = workload {
        actor.adopt(workload, handshake).await;
    }
    actor.publish();
    if context
        .access
        .send(AccessEvent::Open { route, listener })
        .await
        .is_err()
    {
        tracing::error!(instance = %id, "the gateway is gone; the access port stays closed");
    }
    tokio::spawn(recovery::keep(actor));
    Ok(handle)
}

impl Actor {
    /// Takes over the child of a former daemon, if it is the one the record knows; else ends it.
    pub(super) async fn adopt(&mut self, workload: Workload, handshake: Option<serde_json::Value>) {
        let generation = workload.id().generation;
        let presence = workload.presence();
        let mismatch = if generation != self.life.generation {
            Some("a child of another generation is ended")
        } else if presence == Presence::Stranger {
            Some("a child whose pid is that of another process is ended")
        } else {
            None
        };
        if let Some(mismatch) = mismatch {
            tracing::warn!(instance = %self.record.id, %generation, mismatch);
            end(&workload).await;
            self.begin_without(generation);
            return;
        }
        // Only `running` was written after a finished handshake of this very child.
        let shaken = (self.life.state == InstanceState::Running)
            .then_some(handshake)
            .flatten();
        let shaken = shaken.and_then(|json| serde_json::from_value::<KeptHandshake>(json).ok());
        // To whoever watches nothing happened: it ran, and it runs.
        let goes_on = shaken.is_some() && presence != Presence::Ended;
        let Some(template) = self.template.clone() else {
            tracing::warn!(instance = %self.record.id, "its template is gone; its child is ended");
            end(&workload).await;
            self.begin_without(generation);
            return;
        };
        match launch::attach_adopted(&self.context, &self.record, &template, workload, shaken).await
        {
            Ok((child, recipe)) => {
                self.child = Some(Box::new(child));
                self.recipe = recipe;
                self.adopting = goes_on;
                self.apply(Event::Adopted(generation)).await;
                if presence == Presence::Ended {
                    // Its exit report comes next, behind what is left in its pipes.
                    return;
                }
                self.note("adopted", "it was taken over, running".to_owned());
                let known = self
                    .child
                    .as_ref()
                    .and_then(|child| child.upstream.handshake_snapshot());
                match known {
                    // It answered the former daemon; should it hang now, the next liveness probe finds out.
                    Some(handshake) => self.on_handshake(generation, &handshake).await,
                    None => self.begin_handshake(),
                }
                self.adopting = false;
            }
            // It was ended, and the log says why.
            Err(_) => self.begin_without(generation),
        }
    }

    /// The child of `generation` was ended instead of adopted: the boot command launches the next one, if one is
    /// wanted. The number is spent, also when the store was away as it was given.
    fn begin_without(&mut self, generation: Generation) {
        self.life.state = recovery::without_child(&self.record);
        self.life.generation = self.life.generation.max(generation);
    }
}

/// What a former daemon left with the store and the keeper.
struct Estate {
    tokens: HashMap<InstanceId, Vec<TokenRow>>,
    held: HashMap<String, OwnedFd>,
    workloads: HashMap<InstanceId, Workload>,
    /// Children of client sessions, which ended with that daemon.
    members: HashMap<InstanceId, Vec<Workload>>,
}

impl Estate {
    async fn take_stock(context: &Context) -> Result<Self, SupervisorError> {
        let internal = |error: runtime::RuntimeError| SupervisorError::Internal(error.to_string());
        let mut tokens: HashMap<InstanceId, Vec<TokenRow>> = HashMap::new();
        for (id, row) in context.store.access_tokens().await? {
            tokens.entry(id).or_default().push(row);
        }
        let mut workloads: HashMap<InstanceId, Workload> = HashMap::new();
        let mut members: HashMap<InstanceId, Vec<Workload>> = HashMap::new();
        for workload in context.runtime.adoptable().await.map_err(internal)? {
            let id = workload.id();
            if id.member > 0 {
                members.entry(id.instance).or_default().push(workload);
                continue;
            }
            let rival = match workloads.remove(&id.instance) {
                Some(other) if other.id().generation > id.generation => {
                    workloads.insert(id.instance, other);
                    Some(workload)
                }
                other => {
                    workloads.insert(id.instance, workload);
                    other
                }
            };
            // The older of two children of one instance: its end was asked for and not yet confirmed.
            if let Some(older) = rival {
                end(&older).await;
            }
        }
        let held = context
            .runtime
            .held()
            .await
            .map_err(internal)?
            .into_iter()
            .collect();
        Ok(Self {
            tokens,
            held,
            workloads,
            members,
        })
    }

    /// Restores one record; whether its child was still there.
    async fn restore(
        &mut self,
        context: &Arc<Context>,
        record: InstanceRecord,
    ) -> Result<bool, SupervisorError> {
        let id = record.id;
        let held = self.held.remove(&listener_name(id)).map(TcpListener::from);
        let workload = self.workloads.remove(&id);
        let workload = workload.or_else(|| remote::left(context, &record));
        let alive = workload.is_some();
        let tokens = TokenSet::restored(self.tokens.remove(&id).unwrap_or_default());
        let mut stale_members = Vec::new();
        for member in self.members.remove(&id).unwrap_or_default() {
            end(&member).await;
            stale_members.push(member.id().member);
        }
        let left = Left {
            tokens,
            held,
            workload,
            stale_members,
        };
        restore_one(context, record, left).await?;
        Ok(alive)
    }
}

/// What a former daemon left of one instance.
struct Left {
    tokens: TokenSet,
    held: Option<TcpListener>,
    workload: Option<Workload>,
    stale_members: Vec<u32>,
}

/// Ends a child that nobody takes over.
pub(super) async fn end(workload: &Workload) {
    if let Err(error) = workload.kill_tree().await.and(workload.forget().await) {
        tracing::warn!(workload = ?workload.id(), %error, "a child could not be ended");
    }
}

/// Restores every recorded instance; answers how many came back and how many of them with their child alive.
///
/// # Errors
/// When the store or the keeper cannot be read. A single corrupt record is told and left out.
pub(super) async fn restore_all(context: &Arc<Context>) -> Result<(usize, usize), SupervisorError> {
    // Before anything has an effect, so that a start that finds no database can be done again.
    let (records, corrupt) = context.store.instances().await?;
    let leases = context.store.port_leases().await?;
    let mut estate = Estate::take_stock(context).await?;
    context.note_damaged(&corrupt);
    folders::settle(context, &records, &corrupt).await;
    for lease in leases {
        let mut pool = context.ports.lock().unwrap_or_else(PoisonError::into_inner);
        match (lease.instance, lease.quarantine_until) {
            (Some(holder), _) => pool.restore_lease(lease.port, holder),
            (None, Some(until)) => pool.restore_quarantine(lease.port, until),
            (None, None) => {}
        }
    }
    let (mut restored, mut alive) = (0, 0);
    for record in records {
        let id = record.id;
        match estate.restore(context, record).await {
            Ok(was_alive) => {
                restored += 1;
                alive += usize::from(was_alive);
            }
            Err(error) => {
                tracing::error!(instance = %id, %error, "an instance could not be restored")
            }
        }
    }
    for stranger in estate
        .workloads
        .values()
        .chain(estate.members.values().flatten())
    {
        tracing::warn!(instance = %stranger.id().instance, "a child without a record is ended");
        end(stranger).await;
    }
    for name in estate
        .held
        .keys()
        .filter(|name| name.starts_with("listener/"))
    {
        if let Err(error) = context.runtime.drop_held(name).await {
            tracing::warn!(name, %error, "a listener without a record could not be closed");
        }
    }
    Ok((restored, alive))
}

/// Brings one recorded instance to life that has no actor.
pub(super) async fn restore_by_id(
    context: &Arc<Context>,
    id: InstanceId,
) -> Result<(), SupervisorError> {
    let Some(record) = context.store.instance(id).await? else {
        return Ok(());
    };
    let holder = context.registry.named(&record.owner, &record.name);
    if holder == Some(id) {
        // It is being created at this moment: recorded, and its actor about to begin.
        return Ok(());
    }
    Estate::take_stock(context)
        .await?
        .restore(context, record)
        .await
        .map(drop)
}

async fn restore_one(
    context: &Arc<Context>,
    mut record: InstanceRecord,
    left: Left,
) -> Result<(), SupervisorError> {
    let Left {
        tokens,
        held,
        workload,
        stale_members,
    } = left;
    let id = record.id;
    let listener = match (held, record.port) {
        (Some(listener), _) => listener,
        (None, Some(port)) => {
            let listener =
                runtime::bind_listener(context.config.gateway.address, port).map_err(|error| {
                    SupervisorError::Internal(format!(
                        "its access port {port} cannot be opened again: {error}"
                    ))
                })?;
            hold_listener(context, id, &listener).await;
            listener
        }
        (None, None) => {
            return Err(SupervisorError::Internal(
                "its record has no access port".to_owned(),
            ));
        }
    };
    let kept = listener
        .try_clone()
        .map_err(|error| SupervisorError::Internal(error.to_string()))?;
    if workload.is_none() {
        record.state = recovery::without_child(&record);
    }
    context
        .registry
        .reserve_name(&record.owner, &record.name, id);
    let template = context
        .catalogue
        .get(&record.template)
        .map(|entry| entry.template);
    let handle = spawn_actor(
        context,
        Birth {
            record,
            template,
            tokens,
            listener,
            kept,
            workload,
            stale_members,
        },
    )
    .await?;
    let _ = handle.mailbox.send(Command::Boot).await;
    Ok(())
}
