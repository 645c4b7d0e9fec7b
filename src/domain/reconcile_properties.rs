//! What holds of every comparison, whatever the snapshots say.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn id(n: u128) -> InstanceId {
    InstanceId(Uuid::from_u128(n))
}

/// What the healing of a difference does to the snapshots of a moment later.
fn heal(all: &mut Snapshots, difference: &Difference) {
    let holder = |all: &Snapshots, port| all.actors.ports.contains_key(&port);
    match difference {
        Difference::RowWithoutActor(id) | Difference::HalfMadeRow(id) => {
            let row = all.database.instances[id];
            let free = (4_000..).find(|port| !holder(all, *port));
            let port = row.port.or(free).expect("there are many");
            let row = RecordedInstance {
                port: Some(port),
                ..row
            };
            all.database.instances.insert(*id, row);
            all.database.leases.insert(port, Some(*id));
            all.actors.ports.insert(port, *id);
            all.keeper.listeners.insert(*id);
            let mut children = all.keeper.children.iter();
            let adopted = children.rfind(|child| child.instance == *id && child.member == 0);
            let known = KnownInstance {
                generation: adopted.map(|child| child.generation),
                desired: row.desired,
            };
            all.actors.known.insert(*id, known);
        }
        Difference::ActorWithoutRow(id) => {
            all.actors.known.remove(id);
            all.actors.ports.retain(|_, owner| owner != id);
            all.keeper.listeners.remove(id);
            let is_other = |child: &LiveChild| child.instance != *id;
            all.keeper.children.retain(is_other);
            all.actors.launched_members.retain(is_other);
            all.actors.members.retain(is_other);
        }
        Difference::WishNotObeyed(id, desired) => {
            if let Some(known) = all.actors.known.get_mut(id) {
                known.desired = *desired;
            }
        }
        Difference::ChildWithoutOwner(child) => {
            all.keeper.children.remove(child);
        }
        Difference::ChildGone(child) if child.member > 0 => {
            all.actors.members.remove(child);
            all.actors.launched_members.remove(child);
        }
        Difference::ChildGone(child) => {
            // It may have ended with its instance in the same round.
            if let Some(known) = all.actors.known.get_mut(&child.instance) {
                known.generation = None;
            }
        }
        Difference::LeaseWithoutOwner(port, _) => {
            all.database.leases.remove(port);
        }
        Difference::LeaseMissing(port, id) => {
            all.database.leases.insert(*port, Some(*id));
        }
        Difference::PortWithoutOwner(port, _) => {
            all.actors.ports.remove(port);
        }
        Difference::ListenerWithoutOwner(id) => {
            all.keeper.listeners.remove(id);
        }
        Difference::ListenerNotHeld(id) => {
            all.keeper.listeners.insert(*id);
        }
        Difference::ForeignProcess(name, _, process) => {
            let cgroup = all.kernel.cgroups.get_mut(name).expect("it is there");
            cgroup.foreign.remove(process);
        }
        Difference::CgroupWithoutChild(name, _) => {
            all.kernel.cgroups.remove(name);
        }
        Difference::FolderOfDeleted(id) | Difference::EmptyFolder(id) => {
            all.kernel.folders.remove(id);
        }
        Difference::FolderWithoutRow(_) => {}
    }
}

fn snapshots() -> impl Strategy<Value = Snapshots> {
    let ids = || (0_u128..6).prop_map(id);
    let desired = || prop_oneof![Just(DesiredState::Running), Just(DesiredState::Stopped)];
    let children = || {
        proptest::collection::btree_set(
            (ids(), 1_u64..3, 0_u32..3).prop_map(|(instance, generation, member)| LiveChild {
                instance,
                generation: Generation(generation),
                member,
            }),
            0..8,
        )
    };
    let rows = proptest::collection::btree_map(
        ids(),
        (any::<bool>(), desired()).prop_map(|(leases, desired)| (leases, desired)),
        0..6,
    );
    let known = proptest::collection::btree_map(
        ids(),
        (proptest::option::of(1_u64..3), desired()).prop_map(|(generation, desired)| {
            KnownInstance {
                generation: generation.map(Generation),
                desired,
            }
        }),
        0..6,
    );
    let leases = proptest::collection::btree_map(10_u16..14, proptest::option::of(ids()), 0..4);
    let folders = proptest::collection::btree_map(
        ids(),
        (any::<bool>(), any::<bool>())
            .prop_map(|(set_aside, empty)| ShownFolder { set_aside, empty }),
        0..6,
    );
    let cgroups = proptest::collection::vec((children(), any::<bool>()), 0..2);
    let motion = proptest::collection::btree_set(ids(), 0..2);
    let ports = proptest::collection::btree_map(20_u16..24, ids(), 0..4);
    let listeners = proptest::collection::btree_set(ids(), 0..6);
    let launched = children();
    (
        (rows, known, leases, children(), launched),
        (folders, cgroups, motion, ports, listeners),
    )
        .prop_map(
            |(
                (rows, known, leases, live, launched),
                (folders, cgroups, in_motion, ports, listeners),
            )| {
                // The port of an instance is its number, so that leases fit some and not others.
                let number = |id: &InstanceId| u16::try_from(id.0.as_u128()).unwrap_or(0);
                let instances = rows
                    .into_iter()
                    .map(|(id, (leases, desired))| {
                        let port = leases.then(|| number(&id));
                        (id, RecordedInstance { port, desired })
                    })
                    .collect();
                let process = ForeignProcess {
                    pid: 9,
                    begun_ticks: 1,
                };
                let shown = cgroups.into_iter().flat_map(|(children, foreign)| {
                    children.into_iter().map(move |child| {
                        let cgroup = ShownCgroup {
                            child: Some(child),
                            foreign: foreign.then_some(process).into_iter().collect(),
                        };
                        (format!("{child:?}"), cgroup)
                    })
                });
                let is_member = |child: &LiveChild| child.member > 0;
                let launched: BTreeSet<LiveChild> = launched
                    .into_iter()
                    .filter(|child| is_member(child) && known.contains_key(&child.instance))
                    .collect();
                Snapshots {
                    database: Database {
                        instances,
                        leases,
                        damaged: Vec::new(),
                    },
                    keeper: Keeper {
                        children: live,
                        listeners,
                    },
                    kernel: Kernel {
                        cgroups: shown.collect(),
                        folders,
                    },
                    actors: Actors {
                        known,
                        members: launched.clone(),
                        launched_members: launched,
                        in_motion,
                        ports,
                        ..Actors::default()
                    },
                }
            },
        )
}

proptest! {
    /// A child is killed only when nobody answers for it.
    #[test]
    fn no_owned_child_is_killed(all in snapshots()) {
        for difference in compare(&all) {
            if let Difference::ChildWithoutOwner(child) = difference {
                let known = all.actors.known.get(&child.instance);
                let is_main = child.member == 0;
                prop_assert!(!is_main || known.and_then(|known| known.generation) != Some(child.generation));
                prop_assert!(!all.actors.members.contains(&child));
            }
        }
    }

    /// Nothing of an instance that is just being made or deleted is touched.
    #[test]
    fn what_moves_is_left_alone(all in snapshots()) {
        for difference in compare(&all) {
            let moves = difference.instance().is_some_and(|id| all.actors.in_motion.contains(&id));
            prop_assert!(!moves, "{difference:?}");
        }
    }

    /// Whoever counts them knows every one.
    #[test]
    fn every_kind_is_listed(all in snapshots()) {
        for difference in compare(&all) {
            let kind = (difference.kind(), difference.healing());
            prop_assert!(Difference::KINDS.contains(&kind), "{kind:?}");
        }
    }

    /// No data goes: a folder with something in it only if it was set aside, and then only without a row.
    #[test]
    fn no_data_is_removed(all in snapshots()) {
        for difference in compare(&all) {
            if let Difference::FolderOfDeleted(id) | Difference::EmptyFolder(id) = difference {
                let folder = all.kernel.folders[&id];
                prop_assert!(folder.set_aside || folder.empty);
                prop_assert!(!all.database.instances.contains_key(&id));
            }
        }
    }

    /// Healing comes to an end: after a few rounds nothing differs but what is left to people.
    #[test]
    fn a_few_rounds_heal_everything(all in snapshots()) {
        let mut all = all;
        for _ in 0..4 {
            for difference in compare(&all) {
                heal(&mut all, &difference);
            }
        }
        let left: Vec<Difference> = compare(&all)
            .into_iter()
            .filter(|difference| difference.healing() == Healing::Healed)
            .collect();
        prop_assert!(left.is_empty(), "{left:?}");
    }
}
