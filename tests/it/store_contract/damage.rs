//! Rows of histories that a stranger wrote: each is passed over and named, and none keeps the others from anything.

use minimcp::{
    domain::{
        UnixMs,
        call::{CallOutcome, CallRecord, NumberedCall},
        id::TokenName,
    },
    store::{CallQuery, History, LogQuery, LogRow, NewEvent},
};
use uuid::Uuid;

use super::{Database, contract, generation};

/// A time as any daemon writes it.
const NOW: UnixMs = 1_800_000_000_000;
/// Nobody's history reaches back so far, or ahead.
const ABSURD: [UnixMs; 3] = [i64::MIN, -1, i64::MAX];

/// A text of 17 MiB, as either database makes it.
fn overlong(db: &Database) -> &'static str {
    if db.config.url.starts_with("sqlite:") {
        "printf('%.*c', 17825792, 'x')"
    } else {
        "repeat('x', 17825792)"
    }
}

/// What damages the rows with the ids from 2 on, one each: assignments, and the column that is named for it. PostgreSQL
/// keeps texts that are none by itself.
fn damages(db: &Database, text: &'static str, time: &'static str) -> Vec<(String, &'static str)> {
    let mut all = vec![(format!("{text} = {}", overlong(db)), text)];
    all.extend(ABSURD.map(|at| (format!("{time} = {at}"), time)));
    all.push(("generation = -3".to_owned(), "generation"));
    if db.config.url.starts_with("sqlite:") {
        all.push((format!("{text} = CAST(x'c328ff' AS TEXT)"), "(type)"));
    }
    all
}

/// Does it to rows of `table`; gives how they are named.
async fn damage(
    db: &Database,
    table: &'static str,
    ids: &[i64],
    damages: &[(String, &'static str)],
) -> Vec<(&'static str, &'static str, String)> {
    let mut named = Vec::new();
    for (id, (set, column)) in ids.iter().zip(damages) {
        db.sabotage(&format!("UPDATE {table} SET {set} WHERE id = {id}"))
            .await;
        named.push((table, *column, id.to_string()));
    }
    named.sort();
    named
}

fn named(db: &Database) -> Vec<(&'static str, &'static str, String)> {
    let rows = db.store.damaged_rows().into_iter();
    let mut named: Vec<_> = rows.map(|row| (row.table, row.column, row.id)).collect();
    named.sort();
    named
}

fn line(number: usize) -> LogRow<'static> {
    LogRow {
        instance_key: 1,
        generation: generation(1),
        member: 0,
        stream: 2,
        at: NOW,
        line: format!("line {number}").into(),
        continued: false,
    }
}

fn call(number: i64) -> NumberedCall {
    NumberedCall {
        writer: 1,
        number,
        record: CallRecord {
            instance_key: 1,
            generation: generation(1),
            token: TokenName::first(),
            tool: format!("tool-{number}").into(),
            stateless: false,
            started_at: NOW,
            duration_us: number,
            outcome: CallOutcome::Ok,
            request_bytes: 1,
            answer_bytes: 1,
            arguments: None,
        },
    }
}

contract! {
    async fn damaged_lines_are_named_and_the_others_are_read(db: &Database) {
        let rows: Vec<_> = (0..40).map(line).collect();
        let ids = db.store.insert_logs(&rows).await.expect("inserted");
        let mut damages = damages(db, "line", "at");
        damages.push(("member = -1".to_owned(), "member"));
        damages.push(("stream = 300".to_owned(), "stream"));
        let expected = damage(db, "logs", &ids[5..], &damages).await;
        let whole: Vec<i64> = ids
            .iter()
            .enumerate()
            .filter(|(place, _)| !(5..5 + damages.len()).contains(place))
            .map(|(_, id)| *id)
            .collect();
        for newest_first in [false, true] {
            for limit in [1, 3, 1000] {
                // Page by page, as the API, a follower and an export read: a short page is the last one.
                let mut query = LogQuery { newest_first, limit, ..LogQuery::default() };
                let mut read = Vec::new();
                loop {
                    let page = db.store.logs_page(1, query).await.expect("the others are read");
                    read.extend(page.iter().map(|entry| entry.id));
                    match newest_first {
                        false => query.after = read.last().copied(),
                        true => query.before = read.last().copied(),
                    }
                    if page.len() < limit as usize {
                        break;
                    }
                }
                if newest_first {
                    read.reverse();
                }
                assert_eq!(read, whole, "{limit} at a time");
            }
        }
        assert_eq!(named(db), expected);
        let found = LogQuery { text: Some("LINE 3"), limit: 100, ..LogQuery::default() };
        let found = db.store.logs_page(1, found).await.expect("searched");
        assert_eq!(found.len(), 11, "3, and 30 to 39");
        // All of it goes, whatever its time says, and is counted off.
        db.store.insert_logs(&[LogRow { at: NOW + 1, ..line(99) }]).await.expect("inserted");
        let mut gone = 0;
        loop {
            let step = db.store.delete_before(History::Logs, NOW + 1, NOW + 2, 7).await.expect("deleted");
            gone += step;
            if step == 0 {
                break;
            }
        }
        assert_eq!(gone, 40);
        let left = db.store.log_usage().await.expect("read");
        assert_eq!(left.iter().map(|one| one.lines).sum::<u64>(), 1);
        assert_eq!(db.store.trim(History::Logs, 1, 0, 9).await, Ok(1));
        assert_eq!(db.store.log_usage().await, Ok(Vec::new()));
    }

    async fn damaged_calls_are_named_and_the_others_are_read(db: &Database) {
        let calls: Vec<_> = (1..=30).map(call).collect();
        db.store.insert_calls(&calls).await.expect("inserted");
        let all = CallQuery { limit: 100, ..CallQuery::default() };
        let ids: Vec<i64> = db.store.calls_page(1, all).await.expect("read").iter().rev().map(|call| call.id).collect();
        let mut damages = damages(db, "tool", "started_at");
        damages.push(("duration_us = -5".to_owned(), "duration_us"));
        damages.push(("answer_bytes = -5".to_owned(), "answer_bytes"));
        let expected = damage(db, "calls", &ids[4..], &damages).await;
        for limit in [1, 4, 100] {
            let mut query = CallQuery { limit, ..CallQuery::default() };
            let mut read = Vec::new();
            loop {
                let page = db.store.calls_page(1, query).await.expect("the others are read");
                read.extend(page.iter().map(|call| call.id));
                query.before = read.last().copied();
                if page.len() < limit as usize {
                    break;
                }
            }
            let whole = ids.iter().rev().filter(|id| !ids[4..4 + damages.len()].contains(id));
            assert_eq!(read, whole.copied().collect::<Vec<_>>(), "{limit} at a time");
        }
        assert_eq!(named(db), expected);
        let samples = db.store.call_samples(1, 0, 100).await.expect("the others are read");
        assert!(samples.iter().all(|sample| sample.duration_us > 0));
        assert!(samples.len() >= 30 - damages.len(), "{}", samples.len());
        assert_eq!(db.store.trim(History::Calls, 1, 0, 100).await, Ok(30));
    }

    async fn damaged_events_are_named_and_the_others_are_read(db: &Database) {
        let instance = minimcp::domain::id::InstanceId(Uuid::from_u128(7));
        let event = |number: usize| NewEvent {
            instance,
            generation: generation(1),
            at: NOW,
            kind: "started".to_owned(),
            message: format!("event {number}"),
        };
        let events: Vec<_> = (0..30).map(event).collect();
        let ids = db.store.append_events(&events).await.expect("appended");
        let mut damages = damages(db, "message", "at");
        damages.push(("instance_id = 'nobody'".to_owned(), "instance_id"));
        let expected = damage(db, "events", &ids, &damages).await;
        for of in [Some(instance), None] {
            let mut read = Vec::new();
            loop {
                let after = read.last().copied().unwrap_or(0);
                let page = db.store.events_page(of, after, 2).await.expect("the others are read");
                read.extend(page.iter().map(|event| event.id));
                if page.len() < 2 {
                    break;
                }
            }
            assert_eq!(read, ids[damages.len()..]);
        }
        assert_eq!(named(db), expected);
    }

    async fn lines_from_a_wrong_clock_stand_in_no_ones_way(db: &Database) {
        // A clock that was a year ahead for some time, and was put right.
        let year = 365 * 24 * 3_600_000;
        let mut rows: Vec<_> = (0..50).map(|number| LogRow { at: NOW + year, ..line(number) }).collect();
        rows.extend((50..100).map(line));
        rows.extend((100..110).map(|number| LogRow { at: NOW + 1_000, ..line(number) }));
        db.store.insert_logs(&rows).await.expect("inserted");
        let delete = async || db.store.delete_before(History::Logs, NOW + 1, NOW + 2_000, 10).await;
        let mut steps = Vec::new();
        loop {
            let step = delete().await.expect("deleted");
            steps.push(step);
            if step == 0 {
                break;
            }
        }
        assert!(steps.iter().all(|step| *step <= 20), "{steps:?}");
        assert_eq!(steps.iter().sum::<u64>(), 100, "{steps:?}");
        assert_eq!(db.count("logs").await, 10);
    }
}
