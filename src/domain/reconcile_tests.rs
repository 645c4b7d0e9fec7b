use uuid::Uuid;

use super::*;

fn id(n: u128) -> InstanceId {
    InstanceId(Uuid::from_u128(n))
}

fn child(n: u128, generation: u64) -> LiveChild {
    LiveChild {
        instance: id(n),
        generation: Generation(generation),
        member: 0,
    }
}

fn row(port: Option<u16>) -> RecordedInstance {
    RecordedInstance {
        port,
        desired: DesiredState::Running,
    }
}

fn known(generation: Option<u64>) -> KnownInstance {
    KnownInstance {
        generation: generation.map(Generation),
        desired: DesiredState::Running,
    }
}

fn of_child(child: LiveChild) -> ShownCgroup {
    ShownCgroup {
        child: Some(child),
        foreign: BTreeSet::new(),
    }
}

const DATA: ShownFolder = ShownFolder {
    set_aside: false,
    empty: false,
};

/// One instance that runs and one that does not, and all agree.
fn whole() -> Snapshots {
    Snapshots {
        database: Database {
            instances: [(id(1), row(Some(3001))), (id(2), row(Some(3002)))].into(),
            leases: [(3001, Some(id(1))), (3002, Some(id(2)))].into(),
            damaged: Vec::new(),
        },
        keeper: Keeper {
            children: [child(1, 2)].into(),
            listeners: [id(1), id(2)].into(),
        },
        kernel: Kernel {
            cgroups: [("child-1".to_owned(), of_child(child(1, 2)))].into(),
            folders: [(id(1), DATA), (id(2), DATA)].into(),
        },
        actors: Actors {
            known: [(id(1), known(Some(2))), (id(2), known(None))].into(),
            ports: [(3001, id(1)), (3002, id(2))].into(),
            ..Actors::default()
        },
    }
}

/// The differences after one change of what agrees.
fn after(change: impl FnOnce(&mut Snapshots)) -> Vec<Difference> {
    let mut all = whole();
    change(&mut all);
    compare(&all)
}

#[test]
fn agreement_needs_nothing() {
    assert_eq!(compare(&whole()), []);
    assert_eq!(compare(&Snapshots::default()), []);
}

#[test]
fn each_difference_has_its_name() {
    use Difference as D;
    let found = after(|all| {
        all.actors.known.remove(&id(2));
    });
    assert_eq!(found, [D::RowWithoutActor(id(2))]);
    let found = after(|all| {
        all.actors.known.remove(&id(2));
        all.actors.ports.remove(&3002);
        all.keeper.listeners.remove(&id(2));
        all.database.leases.remove(&3002);
        all.database.instances.insert(id(2), row(None));
    });
    assert_eq!(found, [D::HalfMadeRow(id(2))]);
    let found = after(|all| {
        all.database.instances.remove(&id(1));
        all.database.leases.remove(&3001);
    });
    assert_eq!(found, [D::ActorWithoutRow(id(1))]);
    let found = after(|all| {
        let row = all.database.instances.get_mut(&id(1)).expect("it is there");
        row.desired = DesiredState::Stopped;
    });
    assert_eq!(found, [D::WishNotObeyed(id(1), DesiredState::Stopped)]);
    let found = after(|all| {
        all.keeper.children.insert(child(1, 1));
        all.keeper.children.insert(child(2, 7));
        all.keeper.children.insert(child(8, 1));
    });
    let strangers = [child(1, 1), child(2, 7), child(8, 1)];
    assert_eq!(found, strangers.map(D::ChildWithoutOwner));
    let found = after(|all| {
        all.keeper.children.clear();
        all.kernel.cgroups.clear();
    });
    assert_eq!(found, [D::ChildGone(child(1, 2))]);
    let found = after(|all| {
        all.database.leases.insert(3005, Some(id(7)));
        all.database.leases.insert(3006, None);
    });
    let expected = [
        D::LeaseWithoutOwner(3005, Some(id(7))),
        D::LeaseWithoutOwner(3006, None),
    ];
    assert_eq!(found, expected);
    let found = after(|all| {
        all.database.leases.remove(&3002);
    });
    assert_eq!(found, [D::LeaseMissing(3002, id(2))]);
    let found = after(|all| {
        all.actors.ports.insert(3007, id(7));
    });
    assert_eq!(found, [D::PortWithoutOwner(3007, id(7))]);
    let found = after(|all| {
        all.keeper.listeners.insert(id(7));
    });
    assert_eq!(found, [D::ListenerWithoutOwner(id(7))]);
    let found = after(|all| {
        all.keeper.listeners.remove(&id(2));
    });
    assert_eq!(found, [D::ListenerNotHeld(id(2))]);
}

#[test]
fn each_difference_of_the_kernel_has_its_name() {
    use Difference as D;
    let process = ForeignProcess {
        pid: 77,
        begun_ticks: 5,
    };
    let found = after(|all| {
        let cgroup = all.kernel.cgroups.get_mut("child-1");
        cgroup.expect("it is there").foreign.insert(process);
    });
    let foreign = D::ForeignProcess("child-1".into(), id(1), process);
    assert_eq!(found, [foreign]);
    let found = after(|all| {
        let mut left = of_child(child(1, 1));
        // Whoever is in it goes with it.
        left.foreign.insert(process);
        all.kernel.cgroups.insert("child-0".into(), left);
        let nameless = ShownCgroup::default();
        all.kernel.cgroups.insert("child-x".into(), nameless);
    });
    let expected = [
        D::CgroupWithoutChild("child-0".into(), Some(id(1))),
        D::CgroupWithoutChild("child-x".into(), None),
    ];
    assert_eq!(found, expected);
    let found = after(|all| {
        let folder = |set_aside, empty| ShownFolder { set_aside, empty };
        all.kernel.folders.insert(id(1), folder(true, false));
        all.kernel.folders.insert(id(7), folder(true, false));
        all.kernel.folders.insert(id(8), folder(false, true));
        all.kernel.folders.insert(id(9), DATA);
    });
    let expected = [
        D::FolderOfDeleted(id(7)),
        D::EmptyFolder(id(8)),
        D::FolderWithoutRow(id(9)),
    ];
    assert_eq!(found, expected);
    assert_eq!(found[2].healing(), Healing::Kept);
}

#[test]
fn a_member_is_killed_only_when_nobody_answers_for_it_and_gone_only_once_launched() {
    let member = |number| LiveChild {
        member: number,
        ..child(1, 2)
    };
    let with = |live: &[LiveChild]| {
        after(|all| {
            all.actors.members = [member(1), member(2), member(3)].into();
            all.actors.launched_members = [member(1), member(2)].into();
            all.keeper.children.extend(live);
        })
    };
    assert_eq!(with(&[member(1), member(2)]), []);
    let expected = [
        Difference::ChildWithoutOwner(member(9)),
        Difference::ChildGone(member(2)),
    ];
    assert_eq!(with(&[member(1), member(9)]), expected);
}

#[test]
fn a_child_that_is_just_being_made_is_neither_gone_nor_a_stranger() {
    let launching = |all: &mut Snapshots| {
        all.actors.known.insert(id(2), known(Some(4)));
        all.actors.launching.insert(id(2));
    };
    assert_eq!(after(launching), []);
    let held = |all: &mut Snapshots| {
        launching(all);
        all.keeper.children.insert(child(2, 4));
    };
    assert_eq!(after(held), []);
}

#[test]
fn an_installation_belongs_to_no_instance_and_is_nobodys_stranger() {
    let found = after(|all| {
        all.keeper.children.insert(child(7, 0));
        all.actors.of_no_instance.insert(id(7));
        let cgroup = of_child(child(7, 0));
        all.kernel.cgroups.insert("child-7".into(), cgroup);
    });
    assert_eq!(found, []);
}

#[test]
fn what_may_be_the_instance_of_a_row_that_cannot_be_read_is_left_alone() {
    let without_row = |all: &mut Snapshots| {
        all.database.instances.remove(&id(1));
        all.kernel.folders.insert(id(9), DATA);
    };
    let found = after(|all| {
        without_row(all);
        all.database.damaged = vec![Some(id(1))];
    });
    assert_eq!(found, [Difference::FolderWithoutRow(id(9))]);
    let found = after(|all| {
        without_row(all);
        all.database.damaged = vec![None];
    });
    assert_eq!(found, []);
}

#[test]
fn only_what_is_seen_twice_is_healed() {
    let gone = |generation| Difference::ChildGone(child(1, generation));
    let first = [gone(1), Difference::RowWithoutActor(id(2))];
    // The child of another launch is another difference.
    assert_eq!(agreed(&first, vec![gone(2)]), []);
    assert_eq!(agreed(&first, vec![gone(1), gone(2)]), [gone(1)]);
    assert_eq!(agreed(&[], vec![gone(1)]), []);
}
