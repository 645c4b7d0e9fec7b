//! Which instances have an actor.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock, atomic::AtomicI64},
};

use tokio::sync::{mpsc, watch};

use super::{
    command::Command, denials::DenialLedger, members::Census, route::Route, seen::Published,
};
use crate::{
    domain::{
        id::{InstanceId, InstanceName, OwnerId},
        slug::Slug,
    },
    egress::Ledger,
};

/// The way to one actor.
pub(super) struct ActorHandle {
    /// Commands; bounded.
    pub(super) mailbox: mpsc::Sender<Command>,
    /// The status as last published.
    pub(super) status: watch::Receiver<Arc<Published>>,
    /// What the gateway sees of it.
    pub(super) route: Arc<Route>,
    /// The access listener, kept to be given to a new keeper.
    pub(super) listener: Arc<tokio::net::TcpListener>,
    /// The last use that the store knows of, unix milliseconds.
    pub(super) access_written_ms: AtomicI64,
    /// What it reached and was refused.
    pub(super) egress: Arc<Ledger>,
    /// The system calls that its children were refused.
    pub(super) denials: Arc<DenialLedger>,
    /// Its members.
    pub(super) census: watch::Receiver<Census>,
}

#[derive(Default)]
struct Entries {
    by_id: BTreeMap<InstanceId, Arc<ActorHandle>>,
    by_name: HashMap<(OwnerId, InstanceName), InstanceId>,
    /// Deleted, and what is left of them is being removed.
    leaving: BTreeSet<InstanceId>,
}

/// The rest of an instance is being removed for as long as this lives.
pub(super) struct Leaving<'a> {
    registry: &'a Registry,
    id: InstanceId,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let entries = self.registry.0.write();
        let mut entries = entries.unwrap_or_else(PoisonError::into_inner);
        entries.leaving.remove(&self.id);
    }
}

/// All actors, by id and by name.
#[derive(Default)]
pub(super) struct Registry(RwLock<Entries>);

impl Registry {
    /// Keeps a name for an instance about to be made; `false`: it is taken.
    pub(super) fn reserve_name(
        &self,
        owner: &OwnerId,
        name: &InstanceName,
        id: InstanceId,
    ) -> bool {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = (owner.clone(), name.clone());
        match entries.by_name.get(&key) {
            Some(holder) => *holder == id,
            None => entries.by_name.insert(key, id).is_none(),
        }
    }

    /// Frees a name that `id` holds.
    pub(super) fn release_name(&self, owner: &OwnerId, name: &InstanceName, id: InstanceId) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = (owner.clone(), name.clone());
        if entries.by_name.get(&key) == Some(&id) {
            entries.by_name.remove(&key);
        }
    }

    /// Makes `name` the only one that `id` holds: a renaming may have ended between two steps.
    pub(super) fn settle_name(&self, owner: &OwnerId, name: &InstanceName, id: InstanceId) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = (owner.clone(), name.clone());
        entries
            .by_name
            .retain(|held, holder| *holder != id || *held == key);
        entries.by_name.entry(key).or_insert(id);
    }

    /// Adds an actor; `false`: the instance has one, which stays.
    pub(super) fn insert(&self, id: InstanceId, handle: Arc<ActorHandle>) -> bool {
        use std::collections::btree_map::Entry;
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match entries.by_id.entry(id) {
            Entry::Vacant(place) => {
                place.insert(handle);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Removes an actor.
    pub(super) fn remove(&self, id: InstanceId) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        entries.by_id.remove(&id);
    }

    /// Removes the actor of a deleted instance, of which listener, port and folder go next.
    pub(super) fn remove_last(&self, id: InstanceId) -> Leaving<'_> {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        entries.by_id.remove(&id);
        entries.leaving.insert(id);
        Leaving { registry: self, id }
    }

    /// One actor.
    pub(super) fn get(&self, id: InstanceId) -> Option<Arc<ActorHandle>> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.by_id.get(&id).cloned()
    }

    /// The instance of this name.
    pub(super) fn named(&self, owner: &OwnerId, name: &InstanceName) -> Option<InstanceId> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.by_name.get(&(owner.clone(), name.clone())).copied()
    }

    /// The slugs of all instances of this name, in their order. For messages: it looks at every name.
    pub(super) fn namesakes(&self, name: &InstanceName) -> Vec<Slug> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let held = entries.by_name.keys();
        let mut found: Vec<Slug> = held
            .filter(|(_, of_that)| of_that == name)
            .map(|(owner, name)| Slug::of(owner, name))
            .collect();
        found.sort();
        found
    }

    /// Actors in the order of their ids, from the one after `after` on.
    pub(super) fn after(&self, after: Option<InstanceId>) -> Vec<(InstanceId, Arc<ActorHandle>)> {
        use std::ops::Bound;
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        entries
            .by_id
            .range((from, Bound::Unbounded))
            .map(|(id, handle)| (*id, Arc::clone(handle)))
            .collect()
    }

    /// Instances that are just being made, having a name and no actor, or whose last parts are being removed.
    pub(super) fn in_motion(&self) -> BTreeSet<InstanceId> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let named = entries.by_name.values().copied();
        named
            .filter(|id| !entries.by_id.contains_key(id))
            .chain(entries.leaving.iter().copied())
            .collect()
    }

    /// How many of these are an owner's.
    pub(super) fn names_of(&self, owner: &OwnerId) -> usize {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let held = entries.by_name.keys();
        held.filter(|(of, _)| of == owner).count()
    }

    /// The same of every owner that has some.
    pub(super) fn names_by_owner(&self) -> BTreeMap<OwnerId, usize> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut counts = BTreeMap::new();
        for (owner, _) in entries.by_name.keys() {
            *counts.entry(owner.clone()).or_default() += 1;
        }
        counts
    }

    /// How many names are held: by actors, and by instances about to be made.
    pub(super) fn names(&self) -> usize {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_name
            .len()
    }
}
