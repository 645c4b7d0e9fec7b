//! Recorded instances come back: all when the daemon starts, one that the comparison found without an actor.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::TcpListener,
    os::fd::OwnedFd,
    sync::{Arc, PoisonError},
};

use super::{
    Context, SupervisorError,
    access::TokenSet,
    boot::{Birth, end, spawn_actor},
    command::Command,
    context::listener_name,
    folders,
    listener::{hold_listener, served},
    recovery, remote,
};
use crate::{
    domain::{id::InstanceId, instance::InstanceRecord},
    runtime::{self, Workload},
    store::{TemplateNeed, TokenRow},
};

/// What a former daemon left with the store and the keeper.
struct Estate {
    tokens: HashMap<InstanceId, Vec<TokenRow>>,
    held: HashMap<String, OwnedFd>,
    workloads: HashMap<InstanceId, Workload>,
    /// Children of client sessions.
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
        let keeper = &*context.runtime;
        let children = runtime::ask_again(keeper, || keeper.adoptable()).await;
        for workload in children.map_err(internal)? {
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
        let held = runtime::ask_again(keeper, || keeper.held()).await;
        let held = held.map_err(internal)?.into_iter().collect();
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
        let left = Left {
            tokens,
            held,
            workload,
            members: self.members.remove(&id).unwrap_or_default(),
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
    members: Vec<Workload>,
}

/// Restores every recorded instance; answers how many came back and how many of them with their child alive.
///
/// # Errors
/// When the store or the keeper cannot be read. A single corrupt record is told and left out.
pub(super) async fn restore_all(context: &Arc<Context>) -> Result<(usize, usize), SupervisorError> {
    // Before anything has an effect, so that a start that finds no database can be done again.
    let (mut records, corrupt) = context.store.instances().await?;
    let leases = context.store.port_leases().await?;
    let needs = context.store.template_needs().await?;
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
    // Before the first launch: those that live on have their places, and what their like need is known.
    let turns = &context.launch_turns;
    let there = records.iter();
    let there = there.filter(|record| estate.workloads.contains_key(&record.id));
    let places: Vec<_> = there.map(|record| turns.seat(record.into())).collect();
    for record in &records {
        if let Some(exit) = &record.last_exit {
            turns.seats(|seats| seats.remember(&record.template, exit));
        }
    }
    recall_needs(context, needs).await;
    // Those that were used last ask first for a turn to launch.
    records.sort_by_key(|record| Reverse(record.last_accessed_at));
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
    drop(places);
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

/// Takes over what a former daemon measured, and forgets it of templates that are no more.
async fn recall_needs(context: &Context, needs: Vec<TemplateNeed>) {
    for need in needs {
        if context.catalogue.get(&need.template).is_some() {
            let turns = &context.launch_turns;
            turns.seats(|seats| seats.know(need.template, need.memory_bytes));
        } else if let Err(error) = context.store.forget_template_need(&need.template).await {
            tracing::debug!(%error, template = %need.template, "what it needed is not forgotten yet");
        }
    }
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
    if let Some(port) = record.port {
        // What the database says was acknowledged, so it goes before what the pool remembers.
        let mut pool = context.ports.lock().unwrap_or_else(PoisonError::into_inner);
        pool.restore_lease(port, id);
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
        members,
    } = left;
    let id = record.id;
    let listener = match (held, record.port) {
        (Some(listener), Some(_)) => listener,
        (held, None) => {
            let (port, listener) = regain_port(context, id, held).await?;
            record.port = Some(port);
            hold_listener(context, id, &listener).await;
            listener
        }
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
    };
    let listener =
        served(listener).map_err(|error| SupervisorError::Internal(error.to_string()))?;
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
            workload,
            members,
        },
    )
    .await?;
    let _ = handle.mailbox.send(Command::Boot).await;
    Ok(())
}

/// Leases a port to an instance whose row names none: the one that the keeper still holds open for it, else another.
async fn regain_port(
    context: &Context,
    id: InstanceId,
    held: Option<TcpListener>,
) -> Result<(u16, TcpListener), SupervisorError> {
    let now = context.clock.now();
    let pool = || context.ports.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(listener) = held
        && let Ok(address) = listener.local_addr()
        && context
            .store
            .lease_port(id, address.port(), now)
            .await
            .is_ok()
    {
        pool().restore_lease(address.port(), id);
        return Ok((address.port(), listener));
    }
    let (port, listener) = context.open_port(id)?;
    if let Err(error) = context.store.lease_port(id, port, now).await {
        pool().release(port, id, now);
        return Err(error.into());
    }
    tracing::warn!(instance = %id, port, "its record had no access port; it has another one now");
    Ok((port, listener))
}
