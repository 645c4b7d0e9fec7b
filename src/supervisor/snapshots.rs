//! What is compared: the database, the keeper, the kernel and the actors, as each tells it now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use tokio::runtime::Handle;

use super::{Supervisor, folders};
use crate::{
    domain::{
        id::InstanceId,
        instance::InstanceRecord,
        reconcile::{
            Actors, Database, Keeper, Kernel, KnownInstance, LiveChild, RecordedInstance, Snapshots,
        },
        state::{InstanceState, StopReason},
    },
    runtime::{self, KeeperState, Workload, WorkloadId},
};

impl From<WorkloadId> for LiveChild {
    fn from(id: WorkloadId) -> Self {
        Self {
            instance: id.instance,
            generation: id.generation,
            member: id.member,
        }
    }
}

impl Supervisor {
    /// [`Self::snapshots`], on a thread of its own: to take in a thousand rows keeps a processor for a tenth of a second, and
    /// no timer would be looked at while a worker of the runtime does that.
    ///
    /// # Errors
    /// When the store or the keeper cannot be read, in one sentence.
    pub(super) async fn snapshots_aside(&self) -> Result<Snapshots, String> {
        let (supervisor, runtime) = (self.clone(), Handle::current());
        tokio::task::spawn_blocking(move || runtime.block_on(supervisor.snapshots()))
            .await
            .map_err(|error| error.to_string())?
    }

    /// # Errors
    /// When the store or the keeper cannot be read, in one sentence.
    async fn snapshots(&self) -> Result<Snapshots, String> {
        let database = self.recorded().await?;
        let keeper = self.held().await?;
        let mut actors = self.acted();
        let packages = &self.context().packages;
        let workloads = keeper.children.iter().map(|child| child.instance);
        let spares = &self.context().spares;
        let ours = workloads.filter(|id| packages.owns(*id) || spares.owns(*id));
        actors.of_no_instance = ours.collect();
        let kernel = self.shown(&database, &actors).await?;
        Ok(Snapshots {
            database,
            keeper,
            kernel,
            actors,
        })
    }

    async fn recorded(&self) -> Result<Database, String> {
        let context = self.context();
        let text = |error: crate::store::StoreError| error.to_string();
        let mut instances = BTreeMap::new();
        let look = |record: InstanceRecord| {
            // A row knows its port by the lease alone; when that is gone, who serves the port still knows.
            let served = || {
                let handle = context.registry.get(record.id)?;
                handle.status.borrow().record.port
            };
            let row = RecordedInstance {
                port: record.port.or_else(served),
                desired: record.desired,
            };
            instances.insert(record.id, row);
        };
        let corrupt = context.store.each_instance(look).await.map_err(text)?;
        context.note_damaged(&corrupt);
        let leases = context.store.port_leases().await.map_err(text)?;
        // Read so that a damaged row among them is named before somebody needs it.
        context.store.access_tokens().await.map_err(text)?;
        context.store.credentials(None).await.map_err(text)?;
        Ok(Database {
            instances,
            leases: leases
                .into_iter()
                .filter(|lease| lease.quarantine_until.is_none())
                .map(|lease| (lease.port, lease.instance))
                .collect(),
            damaged: corrupt.iter().map(|row| row.id.parse().ok()).collect(),
        })
    }

    async fn held(&self) -> Result<Keeper, String> {
        let runtime = &self.context().runtime;
        let text = |error: runtime::RuntimeError| error.to_string();
        let children = runtime.adoptable().await.map_err(text)?;
        let names = runtime.held_names().await.map_err(text)?;
        let listeners = names
            .iter()
            .filter_map(|name| name.strip_prefix("listener/")?.parse().ok());
        Ok(Keeper {
            children: children.iter().map(Workload::id).map(Into::into).collect(),
            listeners: listeners.collect(),
        })
    }

    /// From memory.
    fn acted(&self) -> Actors {
        let context = self.context();
        let mut actors = Actors {
            in_motion: context.registry.in_motion(),
            ports: {
                let pool = context.ports.lock().unwrap_or_else(PoisonError::into_inner);
                pool.leased().clone()
            },
            ..Actors::default()
        };
        for (id, handle) in context.registry.after(None) {
            for member in handle.census.borrow().iter() {
                let child = LiveChild {
                    instance: id,
                    generation: member.generation,
                    member: member.number,
                };
                actors.members.insert(child);
                if member.pid().is_some() {
                    actors.launched_members.insert(child);
                }
            }
            let status = handle.status.borrow();
            let state = &status.record.state;
            if is_going(state) {
                actors.in_motion.insert(id);
            }
            let is_launching = status.pid.is_none() && matches!(state, InstanceState::Starting);
            if is_launching {
                actors.launching.insert(id);
            }
            let has_child = status.pid.is_some() || is_launching;
            let known = KnownInstance {
                generation: has_child.then_some(status.record.generation),
                desired: status.record.desired,
            };
            actors.known.insert(id, known);
        }
        actors
    }

    async fn shown(&self, database: &Database, actors: &Actors) -> Result<Kernel, String> {
        let context = self.context();
        let place = context.config.runtime.instance_dir.clone();
        let keeper = match *context.runtime.state().borrow() {
            KeeperState::Connected { pid, .. } => Some(pid),
            KeeperState::Lost => None,
        };
        let recorded = database.instances.keys();
        let known: BTreeSet<InstanceId> = recorded.chain(actors.known.keys()).copied().collect();
        // Of spares that are just made or ended, too.
        let spares: BTreeSet<InstanceId> = folders::shown(&place, |_| true)
            .into_keys()
            .filter(|id| context.spares.owns(*id))
            .collect();
        let look = move || Kernel {
            cgroups: keeper
                .map(runtime::child_cgroups)
                .unwrap_or_default()
                .into_iter()
                .collect(),
            folders: {
                let mut shown = folders::shown(&place, |id| known.contains(&id));
                shown.retain(|id, _| !spares.contains(id));
                shown
            },
        };
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|error| error.to_string())
    }
}

/// Whether it is being deleted.
fn is_going(state: &InstanceState) -> bool {
    matches!(
        state,
        InstanceState::Stopping {
            reason: StopReason::Deleted,
            ..
        } | InstanceState::Stopped {
            reason: StopReason::Deleted
        }
    )
}
