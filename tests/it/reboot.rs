//! The machine begins again with many instances, and room for one launch at a time: who is waited for comes first, then
//! who was used last; what was stopped, or ran out meanwhile, is not started. `reconciliation.rs` does it to real processes.

use std::sync::Arc;

use minimcp::{
    domain::{duration::HumanDuration, id::InstanceId, state::StatusWord},
    runtime::fake::Script,
};
use tokio::sync::Semaphore;

use crate::{
    harness::{Database, free_port_range, on_both_databases},
    races::{House, SOON, until, who},
};

on_both_databases! {
    who_is_waited_for_comes_back_first_and_then_who_was_used_last,
}

/// Whose launches came behind the first `before`, in order.
fn launched(house: &House, before: usize) -> Vec<InstanceId> {
    let all = house.runtime.launched();
    all.iter().skip(before).map(|id| id.instance).collect()
}

async fn who_is_waited_for_comes_back_first_and_then_who_was_used_last(database: Database) {
    let house = House::new(database, |config| {
        config.runtime.launches_max = 1;
        (config.runtime.port_min, config.runtime.port_max) = free_port_range();
    })
    .await;
    let mut running = Vec::new();
    for _ in 0..6 {
        running.push(house.create("demo", None).await);
    }
    let stopped = house.create("demo", None).await;
    let stop = house.supervisor.stop(&who(), stopped).await;
    stop.expect("the store is there");
    let brief = house.create("demo", Some("2s")).await;
    let lease = house
        .supervisor
        .get(&who(), brief)
        .map(|status| status.record.lease);
    let end = lease
        .expect("it is there")
        .expires_at
        .expect("it has an end");
    // Not in the order of their creation.
    let uses: Vec<_> = [30, 10, 50, 20, 60, 40]
        .into_iter()
        .zip(&running)
        .map(|(at, id)| (*id, at))
        .collect();
    let written = house.store.touch_accessed(&uses).await;
    written.expect("the store is there");
    house.supervisor.shut_down(true, SOON).await;

    // Whoever has the turn keeps it until the test takes it away.
    let gate = Arc::new(Semaphore::new(0));
    for id in running.iter().chain([&stopped, &brief]) {
        let script = Script {
            gate: Some(Arc::clone(&gate)),
            ..Script::default()
        };
        house.runtime.script(*id, script);
    }
    let before = house.runtime.launched().len();
    let house = house.reboot(end).await;
    let turns = || house.supervisor.launch_turns();
    assert!(until(|| turns() == (1, 1, 5)).await, "{:?}", turns());
    assert!(until(|| house.runtime.launched().len() == before + 1).await);
    let first = launched(&house, before)[0];

    // The one that was used longest ago of those that wait.
    let oldest = uses
        .iter()
        .filter(|(id, _)| *id != first)
        .min_by_key(|(_, at)| *at);
    let (wanted, _) = *oldest.expect("there are more");
    let patience = HumanDuration::from_secs(3_600);
    let (supervisor, asker) = (house.supervisor.clone(), who());
    let mut request = Box::pin(supervisor.wait_settled(&asker, wanted, patience));
    assert!(futures_util::poll!(&mut request).is_pending());

    let mut rest: Vec<_> = uses
        .iter()
        .filter(|(id, _)| ![first, wanted].contains(id))
        .collect();
    rest.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
    let mut expected = vec![first, wanted];
    expected.extend(rest.into_iter().map(|(id, _)| *id));
    for number in 1..=expected.len() {
        let has_turn = until(|| house.runtime.launched().len() == before + number).await;
        assert!(has_turn, "{number}: {:?}", house.runtime.launched());
        let order = launched(&house, before);
        assert_eq!(order, expected[..number]);
        gate.add_permits(1);
        let gives_up = house.supervisor.stop(&who(), order[number - 1]).await;
        gives_up.expect("the store is there");
    }
    let word = |id| house.supervisor.get(&who(), id).map(|status| status.word);
    assert!(
        matches!(word(stopped), Ok(StatusWord::Stopped)),
        "{:?}",
        word(stopped)
    );
    assert!(
        matches!(word(brief), Ok(StatusWord::Expired)),
        "{:?}",
        word(brief)
    );
    assert_eq!(house.runtime.launched().len(), before + expected.len());
}
