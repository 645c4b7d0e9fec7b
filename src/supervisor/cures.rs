//! What heals each difference.

use std::{os::fd::AsFd, sync::PoisonError, time::Duration};

use tokio::time::timeout;

use super::{
    Supervisor,
    command::Command,
    context::listener_name,
    folders::{instance_dir, remove_empty, remove_set_aside},
    handle::is_up,
    restore,
    route::AccessEvent,
};
use crate::{
    domain::{
        id::InstanceId,
        reconcile::{Difference, LiveChild},
    },
    runtime::{CgroupStray, RuntimeError},
    store::StoreError,
};

/// How long the end of an instance without a row is waited for in one round, at each of its two steps.
const RETIRE_PATIENCE: Duration = Duration::from_secs(20);

impl Supervisor {
    /// Heals one difference; what is kept is left alone.
    ///
    /// # Errors
    /// Why it is not healed, in one sentence.
    pub(super) async fn heal(&self, difference: &Difference) -> Result<(), String> {
        let context = self.context();
        let now = context.clock.now();
        let of_store = |error: StoreError| error.to_string();
        let of_keeper = |error: RuntimeError| error.to_string();
        match difference {
            Difference::RowWithoutActor(id) | Difference::HalfMadeRow(id) => {
                let restored = restore::restore_by_id(context, *id).await;
                restored.map_err(|error| error.to_string())
            }
            Difference::ActorWithoutRow(id) => self.retire(*id).await,
            Difference::WishNotObeyed(id, desired) => {
                self.tell_actor(*id, Command::Wished(*desired)).await;
                Ok(())
            }
            Difference::ChildWithoutOwner(child) => self.end_child(*child).await,
            Difference::ChildGone(child) => {
                self.lose_child(*child).await;
                Ok(())
            }
            Difference::LeaseWithoutOwner(port, Some(id)) => {
                let released = context.store.release_port(*port, now).await;
                self.release(*port, *id);
                released.map(drop).map_err(of_store)
            }
            Difference::LeaseWithoutOwner(port, None) => {
                let released = context.store.release_port_of_nobody(*port, now).await;
                released.map(drop).map_err(of_store)
            }
            Difference::LeaseMissing(port, id) => {
                let leased = context.store.lease_port(*id, *port, now).await;
                leased.map_err(of_store)
            }
            Difference::PortWithoutOwner(port, id) => {
                self.release(*port, *id);
                Ok(())
            }
            Difference::ListenerWithoutOwner(id) => {
                let dropped = context.runtime.drop_held(&listener_name(*id)).await;
                dropped.map_err(of_keeper)
            }
            Difference::ListenerNotHeld(id) => {
                let Some(handle) = context.registry.get(*id) else {
                    return Ok(());
                };
                let name = listener_name(*id);
                let held = context.runtime.hold(&name, handle.listener.as_fd()).await;
                held.map_err(of_keeper)
            }
            Difference::ForeignProcess(cgroup, _, process) => {
                let stray = CgroupStray::Process(cgroup.clone(), *process);
                context.runtime.tidy(stray).await.map_err(of_keeper)
            }
            Difference::CgroupWithoutChild(cgroup, _) => {
                let stray = CgroupStray::Cgroup(cgroup.clone());
                context.runtime.tidy(stray).await.map_err(of_keeper)
            }
            Difference::FolderOfDeleted(id) => remove_set_aside(&instance_dir(context, *id)).await,
            Difference::EmptyFolder(id) => remove_empty(&instance_dir(context, *id)).await,
            Difference::FolderWithoutRow(_) => Ok(()),
        }
    }

    async fn tell_actor(&self, id: InstanceId, command: Command) {
        if let Some(handle) = self.context().registry.get(id) {
            // One that ends just now needs no word.
            let _ = handle.mailbox.send(command).await;
        }
    }

    fn release(&self, port: u16, id: InstanceId) {
        let context = self.context();
        let mut pool = context.ports.lock().unwrap_or_else(PoisonError::into_inner);
        pool.release(port, id, context.clock.now());
    }

    async fn end_child(&self, child: LiveChild) -> Result<(), String> {
        let text = |error: RuntimeError| error.to_string();
        let workloads = self.context().runtime.adoptable().await.map_err(text)?;
        for workload in workloads {
            if LiveChild::from(workload.id()) == child {
                workload.kill_tree().await.map_err(text)?;
                workload.forget().await.map_err(text)?;
            }
        }
        Ok(())
    }

    async fn lose_child(&self, child: LiveChild) {
        if child.member == 0 {
            let lost = Command::ChildLost(child.generation);
            return self.tell_actor(child.instance, lost).await;
        }
        let Some(handle) = self.context().registry.get(child.instance) else {
            return;
        };
        let census = handle.census.borrow();
        let lost = census
            .iter()
            .find(|member| (member.number, member.generation) == (child.member, child.generation));
        if let Some(member) = lost {
            member.lose();
        }
    }

    /// Ends an instance whose row is gone, with its child and its URL. Its folder stays if there is anything in it:
    /// nobody asked for the end of that.
    async fn retire(&self, id: InstanceId) -> Result<(), String> {
        const GOES_ON: &str = "it takes long to end; the next comparison goes on";
        let context = self.context();
        let Some(handle) = context.registry.get(id) else {
            return Ok(());
        };
        let _ = handle.mailbox.send(Command::Shutdown).await;
        let mut status = handle.status.clone();
        let down = status.wait_for(|status| !is_up(status.word));
        if timeout(RETIRE_PATIENCE, down).await.is_err() {
            return Err(GOES_ON.to_owned());
        }
        let _ = handle.mailbox.send(Command::Leave).await;
        if timeout(RETIRE_PATIENCE, handle.mailbox.closed())
            .await
            .is_err()
        {
            return Err(GOES_ON.to_owned());
        }
        let record = handle.status.borrow().record.clone();
        let _ = context.access.send(AccessEvent::Close { id }).await;
        context
            .registry
            .release_name(&record.owner, &record.name, id);
        context.registry.remove(id);
        if let Err(error) = context.runtime.drop_held(&listener_name(id)).await {
            tracing::debug!(instance = %id, %error, "the keeper did not drop the listener");
        }
        if let Some(port) = record.port {
            self.release(port, id);
        }
        if let Err(error) = remove_empty(&instance_dir(context, id)).await {
            tracing::debug!(instance = %id, error, "its folder stays");
        }
        Ok(())
    }
}
