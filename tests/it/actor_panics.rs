//! An actor that panics: its instance comes back under control, with one child, the same port and the same listener.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use minimcp::{
    domain::{
        duration::HumanDuration,
        exit::ExitStatus,
        id::{Generation, InstanceId},
        state::StatusWord,
    },
    runtime::{
        Verb, WorkloadId,
        fake::{FakeChild, Script},
    },
    supervisor::{
        Seen, SupervisorError,
        route::AccessEvent,
        session_child::{MemberDesk, MemberRefused},
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
    sync::mpsc,
};

use crate::{
    harness::{Database, on_both_databases},
    races::{House, SOON, until, who},
};

on_both_databases! {
    a_child_whose_launch_panicked_is_adopted,
    a_launch_that_panicked_without_a_child_is_followed_by_another,
    a_second_panic_leaves_it_failed_until_a_start_by_hand,
    a_verb_whose_actor_panics_is_refused_and_done_to_its_end,
    a_deletion_whose_actor_panics_ends,
    a_session_child_whose_task_panicked_is_ended_and_its_place_is_free,
    a_session_child_that_nobody_owns_is_ended_as_an_actor_begins_again,
}

/// A house whose children answer, with one instance that runs.
async fn house_with_instance(database: Database) -> (House, InstanceId) {
    house_with(database, "demo").await
}

async fn house_with(database: Database, template: &str) -> (House, InstanceId) {
    let mut house = House::new(database, |_| {}).await;
    let (_, nobody) = mpsc::channel(1);
    let mut children = std::mem::replace(&mut house.children, nobody);
    tokio::spawn(async move {
        while let Some(child) = children.recv().await {
            tokio::spawn(serve(child));
        }
    });
    let id = house.create(template, None).await;
    running(&house, id, 1).await;
    (house, id)
}

/// Plays an MCP server until its stdin is closed.
async fn serve(child: FakeChild) {
    let FakeChild {
        stdin,
        stdout,
        stderr,
        ..
    } = child;
    let _kept: OwnedFd = stderr;
    let stdin = pipe::Receiver::from_owned_fd(stdin).expect("a pipe");
    let mut stdout = pipe::Sender::from_owned_fd(stdout).expect("a pipe");
    let mut lines = BufReader::new(stdin).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let message: Value = serde_json::from_str(&line).expect("JSON");
        let Some(id) = message.get("id") else {
            continue;
        };
        let result = match message["method"].as_str() {
            Some("initialize") => json!({
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "played", "version": "1"},
            }),
            Some("tools/list") => json!({"tools": []}),
            _ => json!({}),
        };
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": result});
        if stdout
            .write_all(format!("{answer}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

fn status(house: &House, id: InstanceId) -> Seen {
    house.supervisor.get(&who(), id).expect("it exists")
}

/// Waits until its child of this launch answers, and is the only one.
async fn running(house: &House, id: InstanceId, generation: u64) {
    let so = until(|| {
        let now = status(house, id);
        now.word == StatusWord::Running && now.record.generation == Generation(generation)
    })
    .await;
    assert!(so, "{:?}", status(house, id));
    let only = WorkloadId::main(id, Generation(generation));
    assert_eq!(house.runtime.alive(), [only]);
}

/// Launches again, by this script.
async fn relaunch(house: &House, id: InstanceId, script: Script) {
    house.runtime.script(id, script);
    let patience = HumanDuration::from_secs(SOON.as_secs());
    house.supervisor.restart(&who(), id).await.expect("it runs");
    let settled = house.supervisor.wait_settled(&who(), id, patience).await;
    settled.expect("it exists");
}

/// Waits until the store has so many events of failed actors: a status is shown before it is written.
async fn failures_told(house: &House, id: InstanceId, count: usize) {
    told(house, id, "actor-failed", count).await;
}

async fn told(house: &House, id: InstanceId, wanted: &str, count: usize) {
    let mut kinds = Vec::new();
    for _ in 0..500 {
        let page = house.store.events_page(Some(id), 0, 200).await;
        let page = page.expect("the store is there");
        kinds = page.into_iter().map(|event| event.kind).collect();
        if kinds.iter().filter(|kind| *kind == wanted).count() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
    panic!("not {count} {wanted}: {kinds:?}");
}

/// One listener was opened and none closed, one port is leased, and no view differs from another.
async fn nothing_leaked(house: &mut House) {
    assert!(matches!(
        house.access.try_recv(),
        Ok(AccessEvent::Open { .. })
    ));
    assert!(house.access.try_recv().is_err(), "opened again, or closed");
    let leases = house.store.port_leases().await.expect("the store is there");
    assert_eq!(leases.len(), 1, "{leases:?}");
    let found = house.supervisor.reconcile().await.expect("all can be read");
    assert_eq!(found["differences"], 0, "{found:#}");
}

fn panics_with_child() -> Script {
    Script {
        launch_panics: true,
        ..Script::default()
    }
}

fn panics_without_child() -> Script {
    Script {
        launch_panics: true,
        fails_to_start: Some("never told".to_owned()),
        ..Script::default()
    }
}

fn panics_as_it_is_stopped() -> Script {
    Script {
        panics_on: Some(Verb::CloseStdin),
        ..Script::default()
    }
}

async fn a_child_whose_launch_panicked_is_adopted(database: Database) {
    let (mut house, id) = house_with_instance(database).await;
    let port = status(&house, id).record.port;
    relaunch(&house, id, panics_with_child()).await;
    running(&house, id, 2).await;
    assert_eq!(
        house.runtime.launched().len(),
        2,
        "the child was taken over"
    );
    assert_eq!(status(&house, id).record.port, port);
    failures_told(&house, id, 1).await;
    nothing_leaked(&mut house).await;
    house.supervisor.stop(&who(), id).await.expect("it obeys");
    let down = until(|| status(&house, id).word == StatusWord::Stopped).await;
    assert!(down, "{:?}", status(&house, id));
    assert_eq!(house.runtime.alive(), []);
}

async fn a_launch_that_panicked_without_a_child_is_followed_by_another(database: Database) {
    let (mut house, id) = house_with_instance(database).await;
    relaunch(&house, id, panics_without_child()).await;
    running(&house, id, 3).await;
    failures_told(&house, id, 1).await;
    nothing_leaked(&mut house).await;
}

async fn a_second_panic_leaves_it_failed_until_a_start_by_hand(database: Database) {
    let (mut house, id) = house_with_instance(database).await;
    house.runtime.script(id, panics_without_child());
    house.runtime.script(id, panics_with_child());
    house.supervisor.restart(&who(), id).await.expect("it runs");
    let failed = until(|| status(&house, id).word == StatusWord::Failed).await;
    assert!(failed, "{:?}", status(&house, id));
    let reason = status(&house, id).reason().expect("a reason").to_owned();
    assert!(reason.contains("panicked"), "{reason}");
    assert_eq!(house.runtime.alive(), [], "its child was ended");
    assert_eq!(house.runtime.launched().len(), 3);
    nothing_leaked(&mut house).await;
    failures_told(&house, id, 2).await;
    house.supervisor.start(&who(), id).await.expect("by hand");
    running(&house, id, 4).await;
    house.supervisor.delete(&who(), id).await.expect("it obeys");
    assert_eq!(house.runtime.alive(), []);
}

async fn a_verb_whose_actor_panics_is_refused_and_done_to_its_end(database: Database) {
    let (mut house, id) = house_with_instance(database).await;
    relaunch(&house, id, panics_as_it_is_stopped()).await;
    running(&house, id, 2).await;
    let answer = house.supervisor.restart(&who(), id).await;
    assert!(
        matches!(answer, Err(SupervisorError::ActorFailed)),
        "{answer:?}"
    );
    // The wish was in the store before the panic.
    running(&house, id, 3).await;
    failures_told(&house, id, 1).await;
    nothing_leaked(&mut house).await;
}

async fn a_deletion_whose_actor_panics_ends(database: Database) {
    let (house, id) = house_with_instance(database).await;
    relaunch(&house, id, panics_as_it_is_stopped()).await;
    running(&house, id, 2).await;
    let answer = house.supervisor.delete(&who(), id).await;
    assert!(
        matches!(answer, Err(SupervisorError::ActorFailed)),
        "{answer:?}"
    );
    let gone = until(|| house.supervisor.get(&who(), id).is_err()).await;
    assert!(gone, "{:?}", house.supervisor.get(&who(), id));
    assert_eq!(house.runtime.alive(), []);
    let given_back = until(|| house.supervisor.ports().leased().is_empty()).await;
    assert!(given_back, "{:?}", house.supervisor.ports());
}

/// Where sessions of the only instance get their children.
fn desk(house: &mut House) -> Arc<MemberDesk> {
    let Ok(AccessEvent::Open { route, .. }) = house.access.try_recv() else {
        panic!("it was opened");
    };
    route.members.load_full().expect("a child for each session")
}

fn member(id: InstanceId, generation: u64, number: u32) -> WorkloadId {
    WorkloadId {
        member: number,
        ..WorkloadId::main(id, Generation(generation))
    }
}

async fn a_session_child_whose_task_panicked_is_ended_and_its_place_is_free(database: Database) {
    let (mut house, id) = house_with(database, "members").await;
    let desk = desk(&mut house);
    house.runtime.script(id, panics_with_child());
    let refused = desk.open(SOON).await;
    assert_eq!(refused.expect_err("it panicked"), MemberRefused::Down);
    let main = WorkloadId::main(id, Generation(1));
    assert!(house.runtime.launched().contains(&member(id, 1, 1)));
    let ended = until(|| house.runtime.alive() == [main]).await;
    assert!(ended, "{:?}", house.runtime.alive());
    told(&house, id, "session-child-exited", 1).await;
    let found = house.supervisor.reconcile().await.expect("all can be read");
    assert_eq!(found["differences"], 0, "{found:#}");
    let second = desk.open(SOON).await.expect("its place is free");
    assert_eq!(second.number, 2);
    // One that panics on its way out is no obstacle to the stop of the instance.
    house.runtime.script(id, panics_as_it_is_stopped());
    let third = desk.open(SOON).await.expect("there is room");
    assert_eq!(third.number, 3);
    house.supervisor.stop(&who(), id).await.expect("it obeys");
    let down = until(|| status(&house, id).word == StatusWord::Stopped).await;
    assert!(down, "{:?}", status(&house, id));
    assert_eq!(house.runtime.alive(), []);
}

async fn a_session_child_that_nobody_owns_is_ended_as_an_actor_begins_again(database: Database) {
    let (mut house, id) = house_with(database, "members").await;
    let desk = desk(&mut house);
    let kept = desk.open(SOON).await.expect("there is room");
    house.launch(member(id, 1, 9)).await;
    // As if its pipes had closed: the actor panics as it ends the child that is broken.
    house.runtime.script(id, panics_as_it_is_stopped());
    let main = WorkloadId::main(id, Generation(1));
    let code = ExitStatus::Exited { code: 1 };
    assert!(house.runtime.end(main, code));
    let second = WorkloadId::main(id, Generation(2));
    house.launched(id, 2).await;
    let again = house.supervisor.restart(&who(), id).await;
    assert!(
        matches!(again, Err(SupervisorError::ActorFailed)),
        "{again:?}"
    );
    failures_told(&house, id, 1).await;
    let third = WorkloadId::main(id, Generation(3));
    let gone = until(|| !house.runtime.alive().contains(&member(id, 1, 9))).await;
    assert!(gone, "{:?}", house.runtime.alive());
    let alive = until(|| house.runtime.alive() == [third]).await;
    assert!(
        alive,
        "a restart ends every session: {:?}",
        house.runtime.alive()
    );
    assert!(!house.runtime.alive().contains(&second));
    drop(kept);
}
