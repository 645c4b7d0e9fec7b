//! Bringing an actor to life, with the child of a former daemon where there is one.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use super::{
    Context, InstanceStatus, SupervisorError,
    access::TokenSet,
    actor::Actor,
    adoption::attach_adopted,
    command::Command,
    effects::log_failure,
    launch::{Child, KeptHandshake},
    members::Census,
    recovery,
    registry::ActorHandle,
    route::{About, AccessEvent, Route, RouteState},
    session_child::LeftMembers,
    timers::Timers,
    uses::Uses,
};
use crate::{
    domain::{
        event::Event,
        id::Generation,
        instance::InstanceRecord,
        lifecycle::{Lifecycle, Policy},
        probe::ProbeTracker,
        state::InstanceState,
        template::Template,
    },
    runtime::{Presence, Workload},
};

/// Commands that may wait for one actor.
const MAILBOX: usize = 16;

/// All that an actor begins with.
pub(super) struct Birth {
    pub(super) record: InstanceRecord,
    pub(super) template: Option<Arc<Template>>,
    pub(super) tokens: TokenSet,
    pub(super) listener: Arc<TcpListener>,
    /// A child of a former daemon.
    pub(super) workload: Option<Workload>,
    /// Members of a former daemon.
    pub(super) members: Vec<Workload>,
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
        workload,
        members,
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
        slug: ArcSwap::from_pointee(record.slug()),
        key: record.key,
        arguments: ArcSwapOption::empty(),
        about: ArcSwap::from_pointee(about),
        tokens: ArcSwap::from_pointee(tokens),
        state: route_watch,
        last_accessed_ms: AtomicI64::new(0),
        requests: AtomicU64::new(0),
        sessions: AtomicU64::new(0),
        demand: Arc::default(),
        held: Arc::default(),
        uses: Arc::clone(&uses),
        // A full mailbox holds something newer than this wish.
        wake: Arc::new(move || {
            uses.want();
            if let Some(mailbox) = waker.upgrade() {
                let _ = mailbox.try_send(Command::Wake);
            }
        }),
        asked: crate::traces::Asked::now(),
        members: ArcSwapOption::empty(),
        left: LeftMembers::awaited(),
        recall: super::capabilities::recall(context, &record),
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
        status: watch::Sender::new(Arc::new(InstanceStatus::before_birth(&record).into())),
        mailbox: inbox,
        timers: Timers::default(),
        launching: None,
        turn: None,
        child: None,
        probing: None,
        learning: None,
        tracker: ProbeTracker::default(),
        launch_span: None,
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
        first_member: 1,
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
        listener: Arc::clone(&listener),
        access_written_ms: AtomicI64::new(0),
        census: census_watch,
    });
    if !context.registry.insert(id, Arc::clone(&handle)) {
        return Err(SupervisorError::Internal(
            "it has an actor already".to_owned(),
        ));
    }
    // First: what is shown of the main child lets them live or end.
    actor.adopt_members(members).await;
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
    // The block holds it once; an `async fn` that takes it would hold it twice.
    tokio::spawn(async move { recovery::keep(&mut actor).await });
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
        match attach_adopted(&self.context, &self.record, &template, workload, shaken).await {
            Ok((child, recipe)) => {
                let seat = self.context.launch_turns.seat((&self.record).into());
                self.child = Some(Box::new(Child {
                    _seat: Some(seat),
                    ..child
                }));
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
                let frozen = self.child.as_ref();
                let frozen = frozen.is_some_and(|child| child.workload.was_frozen());
                match known {
                    // It answered the former daemon; should it hang now, the next liveness probe finds out.
                    Some(handshake) => {
                        self.on_handshake(generation, &handshake).await;
                        if frozen {
                            self.go_on_frozen().await;
                        }
                    }
                    None => {
                        if let Some(child) = self.child.as_ref().filter(|_| frozen) {
                            log_failure(&self.record.id, child.workload.thaw().await);
                        }
                        self.begin_handshake();
                    }
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

/// Ends a child that nobody takes over.
pub(super) async fn end(workload: &Workload) {
    if let Err(error) = workload.kill_tree().await.and(workload.forget().await) {
        tracing::warn!(workload = ?workload.id(), %error, "a child could not be ended");
    }
}
