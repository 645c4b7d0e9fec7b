//! Room for one more: who gives way to a launch that its owner's budget or the machine's memory has no room for, and how
//! much those that are awake use.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use super::{
    Context, Supervisor, SupervisorError,
    command::{Command, Relief},
    launch::Waited,
    pressure::rested,
    registry::ActorHandle,
    seats::{Guest, HeldCell},
    turns::{Asking, Permit},
};
use crate::{
    domain::{
        budget::{Budget, Budgets, Held},
        id::{InstanceId, OwnerId},
        pressure::LEFT_ALONE,
        state::StatusWord,
    },
    runtime,
    store::{StoreError, TemplateNeed},
};

/// Between two looks whether somebody can give way.
const LOOK: Duration = Duration::from_millis(250);

/// How many are measured in one go: each costs some reads of /proc, and with thousands awake all together were a load.
const MEASURED_AT_ONCE: usize = 128;

/// Nothing is told of one that no longer waits.
struct Told(HeldCell);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send_if_modified(|held| held.take().is_some());
    }
}

/// What an owner may have, and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerUse {
    /// Whose.
    pub owner: OwnerId,
    /// Instances that are not deleted.
    pub instances: usize,
    /// What is awake of them.
    pub awake: usize,
    /// The resident memory of these in bytes, where some budget or the machine's floor has it measured.
    pub memory_bytes: Option<u64>,
    /// What it may have.
    pub budget: Budget,
}

impl Context {
    /// Waits for a turn and for room, for which others give way. A launch that a request asked for is given up when there
    /// is no room and no request waits any more: [`Waited::Unwanted`].
    pub(super) async fn turn_with_room(&self, asking: Asking, is_wake: bool) -> Waited<Permit> {
        let told = Told(Arc::clone(&asking.held));
        let demand = Arc::clone(&asking.demand);
        let mut held = told.0.subscribe();
        let mut turn = Box::pin(self.launch_turns.acquire(asking));
        loop {
            let why = tokio::select! {
                biased;
                permit = &mut turn => return Waited::Turn(permit),
                why = is_held(&mut held) => why,
            };
            if is_wake && demand.load(Ordering::Relaxed) == 0 {
                return Waited::Unwanted(why);
            }
            self.make_room(&why);
            tokio::select! {
                biased;
                permit = &mut turn => return Waited::Turn(permit),
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Has the least used sleep, of the owner that is held, or of all where the machine's memory is short: one at a time,
    /// and none while another is on its way.
    fn make_room(&self, held: &Held) {
        let owner = held.owner();
        if self
            .launch_turns
            .seats(|seats| seats.is_some_leaving(owner))
        {
            return;
        }
        let Some((id, handle)) = self.least_used(owner, LEFT_ALONE) else {
            return;
        };
        let relief = match owner {
            Some(_) => Relief::OwnerBudget,
            None => Relief::Memory,
        };
        if handle.mailbox.try_send(Command::Rest(relief)).is_ok() {
            self.launch_turns.seats(|seats| seats.asked_to_sleep(id));
        }
    }

    /// Of those that may sleep and nobody uses, the one that rested longest, and at least so long.
    fn least_used(
        &self,
        owner: Option<&OwnerId>,
        at_least: Duration,
    ) -> Option<(InstanceId, Arc<ActorHandle>)> {
        let all = self.registry.after(None).into_iter();
        let resting = all.filter_map(|(id, handle)| {
            let fits = {
                let status = handle.status.borrow();
                status.sleep_after.is_some()
                    && owner.is_none_or(|owner| *owner == status.record.owner)
            };
            let rested = rested(&handle).filter(|rested| fits && *rested >= at_least)?;
            Some((rested, id, handle))
        });
        let (_, id, handle) = resting.max_by_key(|(rested, ..)| *rested)?;
        Some((id, handle))
    }

    /// Refuses a launch that somebody asks for and that would wait until its owner stops something: nobody could give way.
    ///
    /// # Errors
    /// [`SupervisorError::OverBudget`].
    pub(super) fn check_room(&self, guest: &Guest) -> Result<(), SupervisorError> {
        let held = self.launch_turns.seats(|seats| seats.held_by_owner(guest));
        match held {
            Some(held) if self.least_used(held.owner(), Duration::ZERO).is_none() => {
                Err(SupervisorError::OverBudget(format!(
                    "{held}; none of them can be put to sleep now, so stop one first"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Refuses one more instance than `runtime.instances_max` or its owner's budget allows, and one that could not be
    /// launched. Its name is held already, so that many at once cannot pass together.
    ///
    /// # Errors
    /// [`SupervisorError::InstancesExhausted`], [`SupervisorError::OverBudget`].
    pub(super) fn check_one_more(&self, guest: &Guest) -> Result<(), SupervisorError> {
        let most = self.config.runtime.instances_max;
        if self.registry.names() > most {
            return Err(SupervisorError::InstancesExhausted(most));
        }
        let owner = &guest.owner;
        let budget = self.launch_turns.seats(|seats| seats.budgets().of(owner));
        if let Some(most) = budget.instances_max {
            let has = self.registry.names_of(owner).saturating_sub(1);
            if has >= most {
                return Err(SupervisorError::OverBudget(format!(
                    "{owner} has {has} of {most} instances that its budget allows (instances_max); delete one first"
                )));
            }
        }
        self.check_room(guest)
    }
}

/// Why it waits for more than its turn, once it does.
async fn is_held(held: &mut watch::Receiver<Option<Arc<Held>>>) -> Arc<Held> {
    if let Ok(held) = held.wait_for(Option::is_some).await
        && let Some(held) = held.as_ref()
    {
        return Arc::clone(held);
    }
    std::future::pending().await
}

impl Supervisor {
    /// Gives owners other budgets. Whoever is awake past them stays so; the next launch is held to them.
    pub fn replace_budgets(&self, budgets: Budgets) {
        self.context().launch_turns.replace_budgets(budgets);
    }

    /// Has the database keep what was learned of the memory that templates need, where that changed; answers of how many.
    pub(super) async fn keep_needs(&self) -> Result<usize, StoreError> {
        let context = self.context();
        let news = context.launch_turns.seats(|seats| seats.to_be_kept());
        let noted_at = context.clock.now();
        let rows: Vec<_> = news
            .iter()
            .map(|(template, memory_bytes)| TemplateNeed {
                template: template.clone(),
                memory_bytes: *memory_bytes,
                noted_at,
            })
            .collect();
        context.store.save_template_needs(&rows).await?;
        context.launch_turns.seats(|seats| seats.has_kept(news));
        Ok(rows.len())
    }

    /// What each owner has and may have, by name: all with an instance, and all with a budget of their own.
    #[must_use]
    pub fn owners(&self) -> Vec<OwnerUse> {
        let context = self.context();
        let (used, is_measured, budgets) = context.launch_turns.seats(|seats| {
            let budgets = seats.budgets().clone();
            (seats.owners(), seats.measures(), budgets)
        });
        let mut instances = context.registry.names_by_owner();
        for owner in budgets.owner.keys() {
            instances.entry(owner.clone()).or_default();
        }
        let each = instances.into_iter().map(|(owner, instances)| {
            let used = used.get(&owner).copied().unwrap_or_default();
            OwnerUse {
                instances,
                awake: used.awake,
                memory_bytes: is_measured.then_some(used.memory_bytes),
                budget: budgets.of(&owner),
                owner,
            }
        });
        each.collect()
    }

    /// Measures the memory of some of those that are awake, others with each call, where anything hangs on it; answers how
    /// many.
    pub(super) async fn measure_awake(&self) -> usize {
        let turns = Arc::clone(&self.context().launch_turns);
        let wanted = turns.seats(|seats| match seats.measures() {
            true => seats.due_to_be_measured(MEASURED_AT_ONCE),
            false => Vec::new(),
        });
        let found = wanted.into_iter().filter_map(|id| {
            let handle = self.context().registry.get(id)?;
            let (main, is_at_work) = {
                let status = handle.status.borrow();
                (status.pid, status.word != StatusWord::Frozen)
            };
            let members = super::members::listed(&handle.census.borrow());
            let members = members.into_iter().filter_map(|(_, pid)| pid);
            let pids: Vec<u32> = main.into_iter().chain(members).collect();
            Some((id, pids, is_at_work))
        });
        let found: Vec<_> = found.collect();
        let measuring = tokio::task::spawn_blocking(move || {
            let mut measured = 0;
            for (id, pids, is_at_work) in found {
                // One that ended a moment ago uses nothing, and says nothing of what its like need.
                let trees = pids.iter().filter_map(|pid| runtime::usage(*pid).ok());
                let rss_kib: u64 = trees.map(|tree| tree.rss_kib).sum();
                if rss_kib > 0 {
                    let rss_bytes = rss_kib.saturating_mul(1_024);
                    turns.seats(|seats| seats.measured(id, rss_bytes, is_at_work));
                    measured += 1;
                }
            }
            measured
        });
        measuring.await.unwrap_or(0)
    }
}
