//! What the database says, what the keeper holds, what the kernel shows and what the supervisor runs, compared: snapshots
//! in, named differences out, each with its healing.
//!
//! A snapshot takes its time, so whatever moves meanwhile looks like a difference. Two rules keep the healing off it: an
//! instance that is just being made or deleted is not judged at all ([`Actors::in_motion`]), and of the rest only what
//! two comparisons in a row agree on ([`agreed`]) is healed. A difference names the launch that it is about, so a child
//! that ended and the next one are two.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    id::{Generation, InstanceId},
    state::DesiredState,
};

/// A child that the keeper holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveChild {
    /// Whose.
    pub instance: InstanceId,
    /// Which launch.
    pub generation: Generation,
    /// 0: the main child; else the number of a member.
    pub member: u32,
}

/// What the row of an instance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedInstance {
    /// The access port that it leases; `None`: no lease names it.
    pub port: Option<u16>,
    /// What was asked for.
    pub desired: DesiredState,
}

/// What the database says.
#[derive(Debug, Clone, Default)]
pub struct Database {
    /// Every instance whose row can be read.
    pub instances: BTreeMap<InstanceId, RecordedInstance>,
    /// Port leases, resting ports left out. `None`: of nobody.
    pub leases: BTreeMap<u16, Option<InstanceId>>,
    /// Ids of rows that cannot be read; `None` among them when not even an id can. Their instances are left alone.
    pub damaged: Vec<Option<InstanceId>>,
}

/// What the keeper holds.
#[derive(Debug, Clone, Default)]
pub struct Keeper {
    /// Children, those that ended and were not yet forgotten included.
    pub children: BTreeSet<LiveChild>,
    /// Instances whose access listener it holds.
    pub listeners: BTreeSet<InstanceId>,
}

/// A process that the keeper did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignProcess {
    /// The host's pid.
    pub pid: u32,
    /// When it began, in clock ticks since the start of the machine: with it the pid means one process.
    pub begun_ticks: u64,
}

/// The cgroup of a child.
#[derive(Debug, Clone, Default)]
pub struct ShownCgroup {
    /// Whose it is by its name; `None`: the name says nothing.
    pub child: Option<LiveChild>,
    /// Who is in it and is no descendant of the keeper.
    pub foreign: BTreeSet<ForeignProcess>,
}

/// A folder of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownFolder {
    /// It was set aside for a deletion.
    pub set_aside: bool,
    /// There is nothing in it.
    pub empty: bool,
}

/// What the kernel shows.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// Cgroups of children by name; none where the keeper has no part of the tree.
    pub cgroups: BTreeMap<String, ShownCgroup>,
    /// Folders with data of instances.
    pub folders: BTreeMap<InstanceId, ShownFolder>,
}

/// What an actor knows of its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownInstance {
    /// The launch whose child it looks after; `None`: there is no child.
    pub generation: Option<Generation>,
    /// What it last wrote of what was asked for.
    pub desired: DesiredState,
}

/// What the supervisor runs.
#[derive(Debug, Clone, Default)]
pub struct Actors {
    /// Instances that have an actor.
    pub known: BTreeMap<InstanceId, KnownInstance>,
    /// Those of them whose child is just being made: the keeper may hold it already or not yet.
    pub launching: BTreeSet<InstanceId>,
    /// Members that somebody answers for, those that are just being made or ended included.
    pub members: BTreeSet<LiveChild>,
    /// Those of them that were launched.
    pub launched_members: BTreeSet<LiveChild>,
    /// Being made or deleted at this moment; whoever does it ends it.
    pub in_motion: BTreeSet<InstanceId>,
    /// Workloads of the keeper that belong to no instance, such as installations of packages.
    pub of_no_instance: BTreeSet<InstanceId>,
    /// Leases in the pool of access ports.
    pub ports: BTreeMap<u16, InstanceId>,
}

/// The snapshots of one comparison.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    /// The database.
    pub database: Database,
    /// The keeper.
    pub keeper: Keeper,
    /// The kernel.
    pub kernel: Kernel,
    /// The supervisor itself.
    pub actors: Actors,
}

/// Something that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// A row that nobody looks after.
    RowWithoutActor(InstanceId),
    /// A row that nobody looks after and that leases no port: its creation broke off, or its lease was taken away.
    HalfMadeRow(InstanceId),
    /// An actor whose row is gone: it was deleted behind our back.
    ActorWithoutRow(InstanceId),
    /// The row says another wish than the one that its actor wrote last.
    WishNotObeyed(InstanceId, DesiredState),
    /// A child that nobody looks after: of a deleted or stopped instance, or of another launch than its owner's.
    ChildWithoutOwner(LiveChild),
    /// A child that its owner believes in and the keeper does not have.
    ChildGone(LiveChild),
    /// A lease of nobody, or of an instance that does not serve the port.
    LeaseWithoutOwner(u16, Option<InstanceId>),
    /// A port that is served and not leased.
    LeaseMissing(u16, InstanceId),
    /// A port that the pool takes for leased by an instance that is not there.
    PortWithoutOwner(u16, InstanceId),
    /// An access listener of an instance that is not there.
    ListenerWithoutOwner(InstanceId),
    /// An access listener that the keeper does not hold: the port would close with `serve`.
    ListenerNotHeld(InstanceId),
    /// A process in the cgroup of a child that the keeper did not start.
    ForeignProcess(String, InstanceId, ForeignProcess),
    /// A cgroup whose child is gone.
    CgroupWithoutChild(String, Option<InstanceId>),
    /// A folder that was set aside for a deletion, whose row is gone.
    FolderOfDeleted(InstanceId),
    /// An empty folder without a row.
    EmptyFolder(InstanceId),
    /// A folder with data and without a row. The database may be the wrong one, so it stays.
    FolderWithoutRow(InstanceId),
}

/// What is done about a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Healing {
    /// It is put right.
    Healed,
    /// It is told and left as it is, for people to decide.
    Kept,
}

impl Difference {
    /// Every kind, with what is done about it.
    pub const KINDS: [(&'static str, Healing); 16] = [
        ("row-without-actor", Healing::Healed),
        ("half-made-row", Healing::Healed),
        ("actor-without-row", Healing::Healed),
        ("wish-not-obeyed", Healing::Healed),
        ("child-without-owner", Healing::Healed),
        ("child-gone", Healing::Healed),
        ("lease-without-owner", Healing::Healed),
        ("lease-missing", Healing::Healed),
        ("port-without-owner", Healing::Healed),
        ("listener-without-owner", Healing::Healed),
        ("listener-not-held", Healing::Healed),
        ("foreign-process", Healing::Healed),
        ("cgroup-without-child", Healing::Healed),
        ("folder-of-deleted", Healing::Healed),
        ("empty-folder", Healing::Healed),
        ("folder-without-row", Healing::Kept),
    ];

    /// A stable word, for events, metrics and reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RowWithoutActor(_) => "row-without-actor",
            Self::HalfMadeRow(_) => "half-made-row",
            Self::ActorWithoutRow(_) => "actor-without-row",
            Self::WishNotObeyed(..) => "wish-not-obeyed",
            Self::ChildWithoutOwner(_) => "child-without-owner",
            Self::ChildGone(_) => "child-gone",
            Self::LeaseWithoutOwner(..) => "lease-without-owner",
            Self::LeaseMissing(..) => "lease-missing",
            Self::PortWithoutOwner(..) => "port-without-owner",
            Self::ListenerWithoutOwner(_) => "listener-without-owner",
            Self::ListenerNotHeld(_) => "listener-not-held",
            Self::ForeignProcess(..) => "foreign-process",
            Self::CgroupWithoutChild(..) => "cgroup-without-child",
            Self::FolderOfDeleted(_) => "folder-of-deleted",
            Self::EmptyFolder(_) => "empty-folder",
            Self::FolderWithoutRow(_) => "folder-without-row",
        }
    }

    /// The instance that it is about, which need not exist; `None`: of no instance.
    #[must_use]
    pub fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::RowWithoutActor(id)
            | Self::HalfMadeRow(id)
            | Self::ActorWithoutRow(id)
            | Self::WishNotObeyed(id, _)
            | Self::LeaseMissing(_, id)
            | Self::PortWithoutOwner(_, id)
            | Self::ListenerWithoutOwner(id)
            | Self::ListenerNotHeld(id)
            | Self::ForeignProcess(_, id, _)
            | Self::FolderOfDeleted(id)
            | Self::EmptyFolder(id)
            | Self::FolderWithoutRow(id) => Some(*id),
            Self::ChildWithoutOwner(child) | Self::ChildGone(child) => Some(child.instance),
            Self::LeaseWithoutOwner(_, id) | Self::CgroupWithoutChild(_, id) => *id,
        }
    }

    /// What is done about it.
    #[must_use]
    pub fn healing(&self) -> Healing {
        match self {
            Self::FolderWithoutRow(_) => Healing::Kept,
            _ => Healing::Healed,
        }
    }

    /// What was wrong and what is done, in one sentence without a full stop.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::RowWithoutActor(_) => {
                "it was recorded and nobody looked after it; it is looked after again".into()
            }
            Self::HalfMadeRow(_) => {
                "it was recorded without an access port, as by a creation that broke off; it gets a port of its own"
                    .into()
            }
            Self::ActorWithoutRow(_) => {
                "its record was deleted behind our back; its child ends and its port closes".into()
            }
            Self::WishNotObeyed(_, DesiredState::Running) => {
                "its record says that it should run; it is started".into()
            }
            Self::WishNotObeyed(_, DesiredState::Stopped) => {
                "its record says that it should not run; it is stopped".into()
            }
            Self::ChildWithoutOwner(child) => format!(
                "a child of launch {} that nobody looked after was killed",
                child.generation
            ),
            Self::ChildGone(child) => format!(
                "the child of launch {} was gone without a word; it counts as ended",
                child.generation
            ),
            Self::LeaseWithoutOwner(port, Some(_)) => {
                format!("port {port} was leased in vain; it is released")
            }
            Self::LeaseWithoutOwner(port, None) => {
                format!("port {port} was leased to nobody; it is released")
            }
            Self::LeaseMissing(port, _) => {
                format!("its access port {port} was not leased to it any more; it is leased again")
            }
            Self::PortWithoutOwner(port, _) => {
                format!("port {port} was kept for an instance that is not there; it is released")
            }
            Self::ListenerWithoutOwner(_) => {
                "the keeper held its access port open after its end; it is closed".into()
            }
            Self::ListenerNotHeld(_) => {
                "the keeper did not hold its access port; it does again".into()
            }
            Self::ForeignProcess(cgroup, _, process) => format!(
                "process {} in the cgroup {cgroup} was not started by the keeper; it is killed",
                process.pid
            ),
            Self::CgroupWithoutChild(cgroup, _) => {
                format!("the cgroup {cgroup} outlived its child; it is removed")
            }
            Self::FolderOfDeleted(_) => {
                "its folder outlived its deletion; it is removed".into()
            }
            Self::EmptyFolder(_) => "an empty folder without a record is removed".into(),
            Self::FolderWithoutRow(_) => {
                "there is a folder with its data and no record of it in this database; it is left as it is".into()
            }
        }
    }
}

/// What two comparisons in a row found.
#[must_use]
pub fn agreed(first: &[Difference], second: Vec<Difference>) -> Vec<Difference> {
    let first: BTreeSet<&Difference> = first.iter().collect();
    let mut both = second;
    both.retain(|difference| first.contains(difference));
    both
}

/// Compares; the answer is in a fixed order and empty when all agree.
#[must_use]
pub fn compare(snapshots: &Snapshots) -> Vec<Difference> {
    let mut found = Vec::new();
    rows_and_actors(snapshots, &mut found);
    children(snapshots, &mut found);
    ports(snapshots, &mut found);
    of_the_kernel(snapshots, &mut found);
    found.retain(|difference| {
        difference
            .instance()
            .is_none_or(|id| snapshots.may_be_judged(id))
    });
    found
}

impl Snapshots {
    fn is_recorded(&self, id: InstanceId) -> bool {
        self.database.instances.contains_key(&id)
    }

    /// Neither moves nor may have a row that cannot be read.
    fn may_be_judged(&self, id: InstanceId) -> bool {
        let may_be_damaged = || {
            let mut damaged = self.database.damaged.iter();
            !self.is_recorded(id) && damaged.any(|row| row.is_none_or(|row| row == id))
        };
        !self.actors.in_motion.contains(&id) && !may_be_damaged()
    }

    /// Whether somebody answers for an instance of this id, by row or by actor.
    fn exists(&self, id: InstanceId) -> bool {
        self.is_recorded(id) || self.actors.known.contains_key(&id)
    }
}

fn rows_and_actors(all: &Snapshots, found: &mut Vec<Difference>) {
    for (id, row) in &all.database.instances {
        match (all.actors.known.get(id), row.port) {
            (None, Some(_)) => found.push(Difference::RowWithoutActor(*id)),
            (None, None) => found.push(Difference::HalfMadeRow(*id)),
            (Some(known), _) if known.desired != row.desired => {
                found.push(Difference::WishNotObeyed(*id, row.desired));
            }
            (Some(_), _) => {}
        }
    }
    let known = all.actors.known.keys();
    let without_row = known.filter(|id| !all.is_recorded(**id));
    found.extend(without_row.map(|id| Difference::ActorWithoutRow(*id)));
}

fn children(all: &Snapshots, found: &mut Vec<Difference>) {
    let actors = &all.actors;
    for child in &all.keeper.children {
        if actors.members.contains(child) || actors.of_no_instance.contains(&child.instance) {
            continue;
        }
        let known = actors.known.get(&child.instance);
        // A row without an actor adopts its child itself when the actor starts.
        let awaits_actor = known.is_none() && all.is_recorded(child.instance);
        let is_owned =
            child.member == 0 && known.and_then(|known| known.generation) == Some(child.generation);
        if !awaits_actor && !is_owned {
            found.push(Difference::ChildWithoutOwner(*child));
        }
    }
    for (instance, known) in &actors.known {
        let Some(generation) = known.generation else {
            continue;
        };
        let child = LiveChild {
            instance: *instance,
            generation,
            member: 0,
        };
        if !all.keeper.children.contains(&child) && !actors.launching.contains(instance) {
            found.push(Difference::ChildGone(child));
        }
    }
    let gone = actors.launched_members.difference(&all.keeper.children);
    found.extend(gone.map(|member| Difference::ChildGone(*member)));
}

fn ports(all: &Snapshots, found: &mut Vec<Difference>) {
    let rows = &all.database.instances;
    for (port, owner) in &all.database.leases {
        let row = owner.and_then(|owner| rows.get(&owner));
        if row.is_none_or(|row| row.port != Some(*port)) {
            found.push(Difference::LeaseWithoutOwner(*port, *owner));
        }
    }
    for (id, row) in rows {
        if let Some(port) = row.port
            && !all.database.leases.contains_key(&port)
        {
            found.push(Difference::LeaseMissing(port, *id));
        }
    }
    for (port, owner) in &all.actors.ports {
        if !all.exists(*owner) {
            found.push(Difference::PortWithoutOwner(*port, *owner));
        }
    }
    let listeners = &all.keeper.listeners;
    let strangers = listeners.iter().filter(|id| !all.exists(**id));
    found.extend(strangers.map(|id| Difference::ListenerWithoutOwner(*id)));
    let known = all.actors.known.keys();
    let missing = known.filter(|id| all.is_recorded(**id) && !listeners.contains(id));
    found.extend(missing.map(|id| Difference::ListenerNotHeld(*id)));
}

fn of_the_kernel(all: &Snapshots, found: &mut Vec<Difference>) {
    for (name, cgroup) in &all.kernel.cgroups {
        match cgroup.child {
            Some(child) if all.keeper.children.contains(&child) => {
                found.extend(cgroup.foreign.iter().map(|process| {
                    Difference::ForeignProcess(name.clone(), child.instance, *process)
                }));
            }
            child => {
                let instance = child.map(|child| child.instance);
                found.push(Difference::CgroupWithoutChild(name.clone(), instance));
            }
        }
    }
    for (id, folder) in &all.kernel.folders {
        if all.exists(*id) {
            continue;
        }
        found.push(match folder {
            ShownFolder {
                set_aside: true, ..
            } => Difference::FolderOfDeleted(*id),
            ShownFolder { empty: true, .. } => Difference::EmptyFolder(*id),
            ShownFolder { .. } => Difference::FolderWithoutRow(*id),
        });
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "reconcile_properties.rs"]
mod properties;
