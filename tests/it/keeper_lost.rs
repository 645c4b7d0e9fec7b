//! A keeper that dies: what it had started ends, that is told when it is true, and a new keeper is found.

use std::{process::Command, time::Duration};

use minimcp::{
    domain::exit::ExitStatus,
    runtime::{KeeperState, Presence, Runtime, local::LocalRuntime},
};

use crate::{
    keeper::{BOTH, Keeper, marked, plan, read_line, sh, within},
    spares,
};

/// So many processes that the kernel takes its time to kill them all.
const FAMILY: usize = 60;

async fn lost(runtime: &LocalRuntime) {
    let mut state = runtime.state();
    within(state.wait_for(|state| matches!(state, KeeperState::Lost)))
        .await
        .expect("the runtime lives");
}

async fn connected(runtime: &LocalRuntime) {
    let mut state = runtime.state();
    within(state.wait_for(|state| matches!(state, KeeperState::Connected { .. })))
        .await
        .expect("the runtime lives");
}

#[tokio::test]
async fn an_end_is_told_when_the_whole_tree_is_gone_and_a_new_keeper_is_found() {
    for options in BOTH {
        let mut keeper = Keeper::start(options);
        let runtime = keeper.connect().await;
        let marker = uuid::Uuid::new_v4().to_string();
        let script = format!(
            "for i in $(seq {FAMILY}); do setsid sh -c 'trap \"\" TERM; sleep 900; : {marker}' & done; echo up; wait"
        );
        let child = sh(&keeper, &runtime, &script).await;
        let pipes = child.take_pipes().expect("fresh");
        assert_eq!(read_line(pipes.stdout).await, "up\n");
        assert_eq!(child.presence(), Presence::Here);
        // A process in the middle of its exec has no command line for a moment.
        within(async {
            while marked(&marker).len() < FAMILY {
                tokio::task::yield_now().await;
            }
        })
        .await;

        keeper.kill();
        let report = within(child.exited()).await;
        assert_eq!(marked(&marker), Vec::<u32>::new(), "{options:?}");
        assert_eq!(report.status, ExitStatus::KeeperLost);
        assert_eq!(child.presence(), Presence::Ended);
        lost(&runtime).await;
        let again = plan(keeper.folder(), &["sh", "-c", "exit 3"]);
        assert!(runtime.launch(again).await.is_err(), "there is no keeper");

        keeper.start_again(options);
        connected(&runtime).await;
        let child = sh(&keeper, &runtime, "exit 4").await;
        let status = within(child.exited()).await.status;
        assert_eq!(status, ExitStatus::Exited { code: 4 });
    }
}

#[tokio::test]
async fn an_adopted_child_comes_with_its_pidfd() {
    for options in BOTH {
        let keeper = Keeper::start(options);
        let first = keeper.connect().await;
        let lives = sh(&keeper, &first, "exec sleep 900").await.id();
        let ended = sh(&keeper, &first, "exit 5").await;
        within(ended.exited()).await;
        first.shutdown(false).await;

        let second = keeper.connect().await;
        let all = within(second.adoptable()).await.expect("a keeper");
        assert_eq!(all.len(), 2);
        for child in all {
            let expected = if child.id() == lives {
                Presence::Here
            } else {
                Presence::Ended
            };
            assert_eq!(child.presence(), expected, "{options:?} {child:?}");
            child.kill_tree().await.expect("connected");
            within(child.exited()).await;
            assert_eq!(child.presence(), Presence::Ended, "{options:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_killed_is_seen_by_its_pidfd_and_its_report() {
    let keeper = Keeper::start(BOTH[0]);
    let runtime = keeper.connect().await;
    let child = sh(&keeper, &runtime, "exec sleep 900").await;
    let killed = Command::new("kill")
        .args(["-KILL", &child.pid().to_string()])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    let report = within(child.exited()).await;
    assert_eq!(report.status, ExitStatus::Signaled { signal: 9 });
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while child.presence() != Presence::Ended {
            tokio::task::yield_now().await;
        }
    });
    assert!(ended.await.is_ok());
}

/// What the epoll of a process watches; only root may look into a keeper.
fn watched_by(pid: u32) -> Option<usize> {
    let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?;
    let texts = infos.filter_map(|info| std::fs::read_to_string(info.ok()?.path()).ok());
    Some(texts.map(|text| text.matches("tfd:").count()).sum())
}

#[tokio::test]
async fn a_keeper_watches_nothing_that_has_ended_though_we_hold_its_pidfd() {
    let keeper = Keeper::start(BOTH[0]);
    let runtime = keeper.connect().await;
    let Some(before) = watched_by(keeper.pid()) else {
        eprintln!("SKIPPED for what a keeper watches: /proc shows it to root only");
        return;
    };
    let child = sh(&keeper, &runtime, "read line").await;
    // What is made ahead for the next launch is watched while it is made.
    spares::once_ready(keeper.pid()).await;
    assert_eq!(watched_by(keeper.pid()), Some(before + 1));
    drop(child.take_pipes());
    child.close_stdin().await.expect("connected");
    within(child.exited()).await;
    // Else it would be woken for ever: the duplicate in our hands keeps the entry alive. It is told of the end while the kernel
    // still tears the namespaces of the init down.
    within(async {
        while watched_by(keeper.pid()) != Some(before) {
            tokio::time::sleep(Duration::from_millis(2)).await; // poll
        }
    })
    .await;
}
