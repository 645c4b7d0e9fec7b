//! A keeper that goes on as another program, with its pid, its children and its descriptors.

use std::{collections::BTreeSet, fs, os::fd::AsFd, os::unix::fs::PermissionsExt, path::Path};

use minimcp::{
    domain::exit::ExitStatus,
    runtime::{Runtime, RuntimeError, Workload, local::LocalRuntime},
};

use crate::{
    keeper::{BOTH, Keeper, PROGRAM, sh},
    spares,
};

/// As a package does it: a new file under the old name.
fn put_in_place(program: &Path, content: &[u8], mode: u32) {
    let fresh = program.with_extension("new");
    fs::write(&fresh, content).expect("the folder is ours");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).expect("the file is ours");
    fs::rename(&fresh, program).expect("the folder is ours");
}

async fn upgraded(runtime: &LocalRuntime) {
    let upgraded = runtime.upgrade_keeper().await.expect("it goes on");
    assert_eq!(upgraded.from, env!("CARGO_PKG_VERSION"));
    assert_eq!(upgraded.to, env!("CARGO_PKG_VERSION"));
}

async fn refused(runtime: &LocalRuntime, because: &str) {
    match runtime.upgrade_keeper().await {
        Err(RuntimeError::Refused(reason)) => assert!(reason.contains(because), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Ended by its own decision, as its keeper tells.
async fn ends_with(workload: &Workload, code: i32) {
    let report = workload.exited().await;
    assert_eq!(report.status, ExitStatus::Exited { code });
    workload.forget().await.expect("the keeper lives");
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Those of namespaces made ahead aside, which the next program does not get.
fn open_files(pid: u32) -> usize {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives and is ours");
    let links = folder.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let kinds = ["user:", "ipc:", "uts:", "net:", "mnt:"];
    let is_namespace = |link: &Path| {
        let name = link.to_string_lossy();
        kinds.iter().any(|kind| name.starts_with(kind))
    };
    links.filter(|link| !is_namespace(link)).count()
}

fn program_of(pid: u32) -> String {
    let link = fs::read_link(format!("/proc/{pid}/exe")).expect("it lives and is ours");
    link.display().to_string()
}

#[tokio::test]
async fn children_listeners_and_the_connection_live_on() {
    for options in BOTH {
        let (keeper, program) = Keeper::start_from_copy(options);
        let runtime = keeper.connect().await;
        let waits = sh(&keeper, &runtime, "read line; exit 3").await;
        let ended = sh(&keeper, &runtime, "exit 4").await;
        assert_eq!(ended.exited().await.status, ExitStatus::Exited { code: 4 });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let held = runtime.hold("listener/a", listener.as_fd()).await;
        held.expect("the keeper lives");
        drop(listener);
        let (pid, child) = (keeper.pid(), waits.pid());

        if options.is_empty() {
            spares::once_ready(pid).await;
        }
        let before = open_files(pid);
        for _ in 0..2 {
            put_in_place(&program, &fs::read(PROGRAM).expect("built"), 0o755);
            assert!(program_of(pid).ends_with("(deleted)"));
            upgraded(&runtime).await;
            assert_eq!(spares::held(pid), BTreeSet::new(), "they end with it");
            assert_eq!(program_of(pid), program.display().to_string());
        }
        assert_eq!(
            open_files(pid),
            before,
            "{options:?}: no descriptor more, none less"
        );

        // What was held is held, and nobody was cut off.
        let _queued = std::net::TcpStream::connect(address).expect("somebody listens");
        assert!(is_alive(child), "{options:?}");
        // It forks, isolates and reaps as before.
        let fresh = sh(&keeper, &runtime, "exit 5").await;
        ends_with(&fresh, 5).await;
        // An end that came before, and one that comes after.
        let known = runtime.adoptable().await.expect("the keeper lives");
        assert_eq!(known.len(), 2, "{options:?}");
        let told = known.iter().find(|known| known.id() == ended.id());
        ends_with(told.expect("it is held until it is forgotten"), 4).await;
        drop(known);
        drop(waits.take_pipes());
        waits.close_stdin().await.expect("the keeper lives");
        ends_with(&waits, 3).await;
        assert!(
            runtime
                .adoptable()
                .await
                .expect("the keeper lives")
                .is_empty()
        );
        // It still ends with the one who holds its lifeline, and still refuses a second one.
        let second = LocalRuntime::connect(&keeper.folder().join("k.sock"), None).await;
        assert!(second.is_err(), "{options:?}: one serve at a time");
    }
}

#[tokio::test]
async fn a_program_that_does_not_fit_is_refused_and_the_keeper_goes_on() {
    let (keeper, program) = Keeper::start_from_copy(&[]);
    let runtime = keeper.connect().await;
    let child = sh(&keeper, &runtime, "read line; exit 3").await;
    let later = b"#!/bin/sh\necho 7 9 12.3.4\n";
    let mute = b"#!/bin/sh\nexit 0\n";
    for (content, mode, because) in [
        (
            later.as_slice(),
            0o755,
            "goes on from keepers of state 7 to 9",
        ),
        (mute, 0o755, "does not say"),
        (mute, 0o644, "cannot be run"),
        (b"\x7fELF", 0o755, "cannot be run"),
    ] {
        put_in_place(&program, content, mode);
        refused(&runtime, because).await;
    }
    fs::remove_file(&program).expect("the folder is ours");
    refused(&runtime, "cannot be run").await;
    assert!(is_alive(child.pid()));
    let fresh = sh(&keeper, &runtime, "exit 5").await;
    ends_with(&fresh, 5).await;
    // Nothing that was about to be passed on reaches a child.
    let script = "for fd in /proc/self/fd/*; do n=${fd##*/}; [ $n -gt 3 ] && [ -e $fd ] && exit 9; done; exit 0";
    let curious = sh(&keeper, &runtime, script).await;
    ends_with(&curious, 0).await;
}
