//! Instances, ports and tokens.

use std::collections::BTreeMap;

use minimcp::{
    domain::{
        access::TokenSettings,
        duration::HumanDuration,
        exit::{ExitRecord, ExitStatus, ResourceUsage},
        id::{InstanceName, TokenName},
        instance::{InstanceChange, Lease},
        restart::RestartRow,
        state::{DesiredState, InstanceState, StopReason},
    },
    store::{History, LogRow, NewEvent, SecretRow, StoreError, TokenRow},
};
use serde_json::json;
use uuid::Uuid;

use super::{contract, generation, new_instance, next_launch, together};
use minimcp::domain::id::InstanceId;

contract! {
    async fn what_is_created_is_what_is_read_after_a_restart(db: &Database) {
        let mut new = new_instance("ada", "first", 3001);
        new.spec = serde_json::from_value(json!({
            "credentials": {"TOKEN": "github"},
            "settings": {"depth": 3, "text": "a\"b\\c ü 漢", "list": ["x"], "on": true},
            "labels": {"team": "blue"},
        })).expect("a spec");
        new.lease = Lease { ttl_ms: Some(60_000), expires_at: Some(61_000), restore_until: None, warned: false };
        let hash = new.token_hash;
        let record = db.store.create_instance(new).await.expect("created");
        assert_eq!(record.port, Some(3001));
        assert_eq!(record.state, InstanceState::Pending);
        assert_eq!((record.generation, record.restarts), (generation(0), 0));
        db.store.close().await;

        let store = db.another().await;
        let (records, corrupt) = store.instances().await.expect("read");
        assert_eq!(corrupt, []);
        assert_eq!(records, std::slice::from_ref(&record));
        assert_eq!(store.instance(record.id).await.expect("read"), Some(record.clone()));
        assert_eq!(store.instance(InstanceId(Uuid::now_v7())).await.expect("read"), None);
        let tokens = store.access_tokens().await.expect("read");
        let token = TokenRow {
            name: TokenName::first(), settings: TokenSettings::default(), created_at: 1_000, last_used_at: None,
            secrets: vec![SecretRow { hash, created_at: 1_000, expires_at: None }],
        };
        assert_eq!(tokens, [(record.id, token)]);
        let leases = store.port_leases().await.expect("read");
        assert_eq!(leases.len(), 1);
        assert_eq!((leases[0].port, leases[0].instance, leases[0].leased_at), (3001, Some(record.id), 1_000));
        let events = store.events_page(Some(record.id), 0, 10).await.expect("read");
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].kind.as_str(), events[0].at), ("created", 1_000));
        store.close().await;
    }

    async fn a_refused_creation_leaves_nothing_behind(db: &Database) {
        db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let same_name = db.store.create_instance(new_instance("ada", "first", 3002)).await;
        assert_eq!(same_name, Err(StoreError::Conflict("name")));
        let same_port = db.store.create_instance(new_instance("ada", "second", 3001)).await;
        assert_eq!(same_port, Err(StoreError::Conflict("port")));
        let mut same_token = new_instance("ada", "second", 3002);
        same_token.token_hash = db.store.access_tokens().await.expect("read")[0].1.secrets[0].hash;
        assert_eq!(db.store.create_instance(same_token).await, Err(StoreError::Conflict("token")));
        for table in ["instances", "port_leases", "access_tokens", "access_token_secrets", "events"] {
            assert_eq!(db.count(table).await, 1, "{table}");
        }
        db.store.create_instance(new_instance("eve", "first", 3002)).await.expect("another owner may use the name");
    }

    async fn a_state_is_written_whole_and_read_back(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let states = [
            InstanceState::Pending,
            InstanceState::Starting,
            InstanceState::Running,
            InstanceState::BackingOff { until: 5_000 },
            InstanceState::Stopping { reason: StopReason::Expired, then_start: true },
            InstanceState::Stopped { reason: StopReason::Idle },
            InstanceState::Failed { cause: "it said: \\u0000 and \"no\"".to_owned() },
        ];
        for (step, state) in (1_u64..).zip(states) {
            let mut write = next_launch(&record);
            write.expected_generation = generation(step - 1);
            write.generation = generation(step);
            write.desired = if step % 2 == 0 { DesiredState::Running } else { DesiredState::Stopped };
            write.state = state;
            write.lease = Lease { ttl_ms: Some(step), expires_at: Some(7), restore_until: Some(8), warned: true };
            write.restart_row = RestartRow { failures_in_row: 3, ready_at: Some(9) };
            write.restarts = step;
            write.last_exit = Some(ExitRecord {
                generation: generation(step),
                status: ExitStatus::Exited { code: 3 },
                at: 1_500,
                usage: ResourceUsage { user_cpu_ms: 1, system_cpu_ms: 2, max_rss_kib: 3 },
                last_stderr: vec!["last words".to_owned()],
            });
            assert_eq!(db.store.save_state(&write, &[]).await, Ok(vec![]));
            let read = db.store.instance(record.id).await.expect("read").expect("there");
            let mut expected = record.clone();
            expected.generation = write.generation;
            expected.desired = write.desired;
            expected.state = write.state;
            expected.lease = write.lease;
            expected.restart_row = write.restart_row;
            expected.restarts = write.restarts;
            expected.last_exit = write.last_exit;
            expected.updated_at = write.now;
            assert_eq!(read, expected);
        }
    }

    async fn a_nul_character_of_a_child_does_not_stop_a_write(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let mut write = next_launch(&record);
        write.state = InstanceState::Failed { cause: "a\0b".to_owned() };
        let event = NewEvent {
            instance: record.id, generation: generation(1), at: 5, kind: "failed".to_owned(), message: "c\0d".to_owned(),
        };
        let ids = db.store.save_state(&write, &[event]).await.expect("written");
        let read = db.store.instance(record.id).await.expect("read").expect("there");
        assert_eq!(read.state, InstanceState::Failed { cause: "a\u{fffd}b".to_owned() });
        let events = db.store.events_page(None, ids[0] - 1, 1).await.expect("read");
        assert_eq!(events[0].message, "c\u{fffd}d");
    }

    async fn a_write_of_an_older_generation_is_refused_with_its_events(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let mut newer = next_launch(&record);
        newer.generation = generation(5);
        db.store.save_state(&newer, &[]).await.expect("written");
        let event = NewEvent {
            instance: record.id, generation: generation(1), at: 5, kind: "late".to_owned(), message: String::new(),
        };
        let late = db.store.save_state(&next_launch(&record), std::slice::from_ref(&event)).await;
        assert_eq!(late, Err(StoreError::Conflict("generation")));
        let read = db.store.instance(record.id).await.expect("read").expect("there");
        assert_eq!(read.generation, generation(5));
        assert_eq!(db.count("events").await, 1, "only the creation");

        let mut same = next_launch(&record);
        (same.expected_generation, same.generation) = (generation(5), generation(5));
        let ids = db.store.save_state(&same, &[event.clone(), event]).await.expect("written");
        assert!(ids[0] < ids[1], "{ids:?}");
        let mut unknown = next_launch(&record);
        unknown.id = InstanceId(Uuid::now_v7());
        assert_eq!(db.store.save_state(&unknown, &[]).await, Err(StoreError::NotFound));
    }

    async fn of_many_racing_writers_one_wins(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let others = [db.store.clone(), db.another().await];
        let outcomes = together((0..12).map(|place| {
            let (store, write) = (others[place % 2].clone(), next_launch(&record));
            async move { store.save_state(&write, &[]).await }
        })).await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let lost = outcomes.iter().filter(|outcome| **outcome == Err(StoreError::Conflict("generation"))).count();
        assert_eq!((won, lost), (1, 11), "{outcomes:?}");
        others[1].close().await;
    }

    async fn two_daemons_write_to_one_database_without_losing_a_row(db: &Database) {
        let stores = [db.store.clone(), db.another().await];
        let outcomes = together((0..60_u16).map(|place| {
            let store = stores[usize::from(place % 2)].clone();
            let new = new_instance("ada", &format!("n-{place}"), 3001 + place);
            async move { store.create_instance(new).await }
        })).await;
        for outcome in &outcomes {
            assert!(outcome.is_ok(), "{outcome:?}");
        }
        let (records, _) = stores[1].instances().await.expect("read");
        assert_eq!(records.len(), 60);
        stores[1].close().await;
    }

    async fn a_transaction_that_reads_first_does_not_lose_against_another_daemon(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let stores = [db.store.clone(), db.another().await];
        let outcomes = together((0..80_u8).map(|place| {
            let (store, id) = (stores[usize::from(place % 2)].clone(), record.id);
            async move { store.replace_token(id, &TokenName::first(), [place; 32], None, 2_000).await }
        })).await;
        for outcome in &outcomes {
            assert_eq!(outcome, &Ok(()));
        }
        let tokens = db.store.access_tokens().await.expect("read");
        assert_eq!((tokens.len(), tokens[0].1.secrets.len()), (1, 1), "one secret is left, the last one");
        stores[1].close().await;
    }

    async fn of_many_racing_creations_a_port_and_a_name_go_to_one(db: &Database) {
        let stores = [db.store.clone(), db.another().await];
        let outcomes = together((0..10_usize).map(|place| {
            let store = stores[place % 2].clone();
            let new = new_instance("ada", &format!("n-{place}"), 3001);
            async move { store.create_instance(new).await.map(drop) }
        })).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err(StoreError::Conflict("port"))).count(), 9);
        let outcomes = together((0..10_u16).map(|place| {
            let store = stores[usize::from(place % 2)].clone();
            let new = new_instance("ada", "same", 4000 + place);
            async move { store.create_instance(new).await.map(drop) }
        })).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err(StoreError::Conflict("name"))).count(), 9);
        stores[1].close().await;
    }

    async fn a_handshake_belongs_to_its_launch(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        db.store.save_state(&next_launch(&record), &[]).await.expect("written");
        let answer = json!({"serverInfo": {"name": "demo\0"}, "tools": [1, 2.5, null, -3e300]});
        assert_eq!(
            db.store.save_handshake(record.id, generation(0), &answer).await,
            Err(StoreError::Conflict("generation"))
        );
        db.store.save_handshake(record.id, generation(1), &answer).await.expect("kept");
        let read = db.store.instance(record.id).await.expect("read").expect("there").handshake.expect("kept");
        assert_eq!(read["serverInfo"]["name"], "demo\u{fffd}");
        assert_eq!(read["tools"][3].as_f64(), Some(-3e300));
        assert_eq!(
            db.store.save_handshake(InstanceId(Uuid::now_v7()), generation(1), &answer).await,
            Err(StoreError::NotFound)
        );
    }

    async fn a_rename_changes_what_it_names_and_nothing_else(db: &Database) {
        let mut new = new_instance("ada", "first", 3001);
        new.spec.settings.insert("depth".to_owned(), json!(3));
        let record = db.store.create_instance(new).await.expect("created");
        db.store.create_instance(new_instance("ada", "taken", 3002)).await.expect("created");
        let taken = InstanceName::new("taken").expect("a name");
        let fresh = InstanceName::new("fresh").expect("a name");
        let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
        let change = |name: Option<&InstanceName>, labels: Option<&BTreeMap<String, String>>| InstanceChange {
            name: name.cloned(), labels: labels.cloned(), ..InstanceChange::default()
        };
        let both = change(Some(&taken), Some(&labels));
        assert_eq!(db.store.change_instance(record.id, &both, 9).await, Err(StoreError::Conflict("name")));
        assert_eq!(db.store.instance(record.id).await.expect("read"), Some(record.clone()));
        db.store.change_instance(record.id, &change(None, Some(&labels)), 9).await.expect("relabelled");
        let sleeps = InstanceChange { sleep_after: Some(Some(HumanDuration::from_secs(90))), ..InstanceChange::default() };
        db.store.change_instance(record.id, &sleeps, 9).await.expect("changed");
        db.store.change_instance(record.id, &change(Some(&fresh), None), 10).await.expect("renamed");
        let read = db.store.instance(record.id).await.expect("read").expect("there");
        assert_eq!((read.name, read.updated_at), (fresh.clone(), 10));
        assert_eq!(read.spec.labels, labels);
        assert_eq!(read.spec.settings, record.spec.settings);
        assert_eq!(read.spec.sleep_after, Some(HumanDuration::from_secs(90)));
        let as_template = InstanceChange { sleep_after: Some(None), ..InstanceChange::default() };
        db.store.change_instance(record.id, &as_template, 11).await.expect("changed");
        let read = db.store.instance(record.id).await.expect("read").expect("there");
        assert_eq!((read.spec.sleep_after, read.spec.labels), (None, labels));
        let nobody = InstanceId(Uuid::now_v7());
        assert_eq!(db.store.change_instance(nobody, &change(Some(&fresh), None), 9).await, Err(StoreError::NotFound));
    }

    async fn the_last_access_only_moves_forward(db: &Database) {
        let first = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let second = db.store.create_instance(new_instance("ada", "second", 3002)).await.expect("created");
        db.store.touch_accessed(&[]).await.expect("nothing to do");
        let nobody = InstanceId(Uuid::now_v7());
        db.store.touch_accessed(&[(first.id, 50), (nobody, 60), (second.id, 70), (first.id, 55)]).await.expect("noted");
        db.store.touch_accessed(&[(first.id, 40), (second.id, 80)]).await.expect("noted");
        let (records, _) = db.store.instances().await.expect("read");
        let times: Vec<_> = records.iter().map(|record| record.last_accessed_at).collect();
        assert_eq!(times, [Some(55), Some(80)]);
    }

    async fn a_damaged_row_is_reported_and_the_others_live_on(db: &Database) {
        for (place, name) in (0_u16..).zip(["one", "two", "three", "four"]) {
            db.store.create_instance(new_instance("ada", name, 3001 + place)).await.expect("created");
        }
        db.sabotage(r#"UPDATE instances SET state = '{"state":"dancing"}' WHERE name = 'two'"#).await;
        db.sabotage("UPDATE instances SET desired = 'perhaps' WHERE name = 'three'").await;
        db.sabotage("UPDATE instances SET owner = 'Not An Owner' WHERE name = 'four'").await;
        let (records, corrupt) = db.store.instances().await.expect("read");
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].name.as_str(), "one");
        let columns: Vec<_> = corrupt.iter().map(|row| (row.table, row.column)).collect();
        assert_eq!(columns, [("instances", "state"), ("instances", "desired"), ("instances", "owner")]);
        let id = corrupt[0].id.parse().expect("the id of the row");
        let error = db.store.instance(id).await.expect_err("damaged");
        assert_eq!(error.to_string(), format!("the row {id} of table instances is damaged in column state"));
        assert!(!error.retryable());
    }

    async fn a_deleted_instance_leaves_a_resting_port_its_events_and_orphan_lines(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let other = db.store.create_instance(new_instance("ada", "other", 3002)).await.expect("created");
        let line = |instance_key| LogRow {
            instance_key, generation: generation(1), member: 0, stream: 2, at: 5, line: "x".into(), continued: false,
        };
        db.store.insert_logs(&[line(record.key), line(other.key), line(record.key)]).await.expect("inserted");
        db.store.delete_instance(record.id, 9_000, 2_000).await.expect("deleted");
        assert_eq!(db.store.delete_instance(record.id, 9_000, 2_000).await, Err(StoreError::NotFound));

        assert_eq!(db.store.instance(record.id).await, Ok(None));
        let tokens = db.store.access_tokens().await.expect("read");
        assert!(tokens.iter().all(|(id, _)| *id == other.id) && tokens.len() == 1, "{tokens:?}");
        assert_eq!(db.store.events_page(Some(record.id), 0, 9).await.expect("read").len(), 1);
        let leases = db.store.port_leases().await.expect("read");
        assert_eq!((leases[0].port, leases[0].instance, leases[0].quarantine_until), (3001, None, Some(9_000)));
        let live = (other.key, true);
        assert_eq!(db.store.history_keys(History::Logs).await, Ok(vec![(record.key, false), live]));
        assert_eq!(db.store.trim(History::Logs, record.key, 0, 1).await, Ok(1));
        assert_eq!(db.store.trim(History::Logs, record.key, 0, 9).await, Ok(1));
        assert_eq!(db.store.history_keys(History::Logs).await, Ok(vec![live]));

        // The name is free at once, the port only after its rest, and no key comes back.
        let mut again = new_instance("ada", "first", 3001);
        again.now = 8_999;
        assert_eq!(db.store.create_instance(again.clone()).await, Err(StoreError::Conflict("port")));
        again.now = 9_000;
        let again = db.store.create_instance(again).await.expect("created after the rest, without a sweep");
        assert!(again.key > other.key);
    }

    async fn ports_are_leased_released_and_swept(db: &Database) {
        let first = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let second = db.store.create_instance(new_instance("ada", "second", 3002)).await.expect("created");
        assert_eq!(db.store.lease_port(first.id, 3003, 10).await, Err(StoreError::Conflict("port")), "it holds one");
        assert_eq!(db.store.release_port(3001, 100).await, Ok(true));
        assert_eq!(db.store.release_port(3001, 100).await, Ok(false), "it rests already");
        assert_eq!(db.store.release_port(3009, 100).await, Ok(false));
        assert_eq!(db.store.lease_port(first.id, 3002, 10).await, Err(StoreError::Conflict("port")), "taken");
        assert_eq!(db.store.lease_port(first.id, 3001, 99).await, Err(StoreError::Conflict("port")), "it rests");
        let nobody = InstanceId(Uuid::now_v7());
        assert_eq!(db.store.lease_port(nobody, 3003, 10).await, Err(StoreError::NotFound));
        db.store.lease_port(first.id, 3003, 10).await.expect("leased");
        assert_eq!(db.store.instance(first.id).await.expect("read").expect("there").port, Some(3003));
        assert_eq!(db.store.release_quarantine(99).await, Ok(0));
        assert_eq!(db.store.release_quarantine(100).await, Ok(1));
        let held: Vec<_> = db.store.port_leases().await.expect("read").iter().map(|row| (row.port, row.instance)).collect();
        assert_eq!(held, [(3002, Some(second.id)), (3003, Some(first.id))]);
    }
}
