//! Retention of log lines by bytes beside a writer: it ends, in steps, and the writer has its turns in between.
//!
//! `MINIMCP_TEST_LOG_LINES=5000000 cargo test --test it store_contract::retention -- --nocapture` does it at that size and
//! prints the figures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use minimcp::{
    clock::Clock,
    store::{History, LogRow, LogUsage, Store},
    tasks::{BackgroundTask, LogBytes, Retention},
};

use super::{contract, generation};

/// Rows of one insert.
const BATCH: usize = 5_000;
const KEYS: [i64; 6] = [1, 2, 1, 3, 1, 4];

fn rows(at: i64, first: usize) -> Vec<LogRow<'static>> {
    let row = |number: usize| {
        LogRow {
        // The first instance has half of the lines.
        instance_key: KEYS[number % KEYS.len()],
        generation: generation(1),
        member: 0,
        stream: 2,
        at,
        line: format!("line {number}: as long as most lines of servers are, about a hundred bytes or a little less").into(),
        continued: false,
    }
    };
    (first..first + BATCH).map(row).collect()
}

async fn cost_bytes(store: &Store) -> u64 {
    let usage = store.log_usage().await.expect("read");
    usage.iter().map(LogUsage::cost_bytes).sum()
}

async fn sorted_usage(store: &Store) -> Vec<LogUsage> {
    let mut usage = store.log_usage().await.expect("read");
    usage.sort_by_key(|one| one.instance_key);
    usage
}

contract! {
    async fn bytes_are_held_beside_a_writer(db: &Database) {
        let count = std::env::var("MINIMCP_TEST_LOG_LINES");
        let count = count.map_or(60_000, |count| count.parse::<usize>().expect("a number"));
        let at = Clock::System.now();
        for first in (0..count).step_by(BATCH) {
            db.store.insert_logs(&rows(at, first)).await.expect("inserted");
        }
        let before = cost_bytes(&db.store).await;
        // A tenth may stay.
        let task = Retention {
            name: "log-retention",
            description: "",
            history: History::Logs,
            store: db.store.clone(),
            clock: Clock::System,
            keep: Duration::from_hours(24),
            rows_per_instance: u64::MAX >> 1,
            bytes: Some(LogBytes { per_instance: before / 20, total: before / 10 }),
        };
        let done = Arc::new(AtomicBool::new(false));
        let (longest_us, inserts) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let writing = {
            let (store, done) = (db.store.clone(), Arc::clone(&done));
            let (longest_us, inserts) = (Arc::clone(&longest_us), Arc::clone(&inserts));
            tokio::spawn(async move {
                // As lines come.
                let mut turns = tokio::time::interval(Duration::from_millis(1));
                while !done.load(Ordering::Relaxed) {
                    turns.tick().await;
                    let one = rows(at, 0).into_iter().take(100).collect::<Vec<_>>();
                    let began = Instant::now();
                    store.insert_logs(&one).await.expect("inserted");
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    longest_us.fetch_max(took, Ordering::Relaxed);
                    inserts.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let began = Instant::now();
        let hold = task.bytes.expect("it has a bound").hold(&db.store, 0).await.expect("it ends");
        let took = began.elapsed();
        done.store(true, Ordering::Relaxed);
        writing.await.expect("the writer goes on");
        let (longest_us, inserts) = (longest_us.load(Ordering::Relaxed), inserts.load(Ordering::Relaxed));
        let after = cost_bytes(&db.store).await;
        println!(
            "{count} lines, {before} bytes: {hold} deleted in {took:?}, {after} bytes left; {inserts} inserts of 100 lines \
             meanwhile, the longest took {longest_us} us"
        );
        // What came while it ended is the next run's.
        let came = inserts * 100 * 200;
        assert!(after <= before / 10 + came, "{after} of {before}");
        assert!(hold > 0 && inserts > 0);
        assert_eq!(u64::try_from(db.count("logs").await).expect("a count"),
            db.store.log_usage().await.expect("read").iter().map(|one| one.lines).sum::<u64>());
        // The rest goes with its instances, which are not there, and nothing is left to hold.
        let report = task.run().await.expect("it ends");
        assert_eq!(report["expired_rows"], 0, "{report}");
        assert_eq!(db.count("logs").await, 0);
    }

    async fn a_usage_of_lines_that_are_not_there_keeps_no_other_from_being_held(db: &Database) {
        db.store.insert_logs(&rows(1, 0)).await.expect("inserted");
        db.sabotage("UPDATE log_usage SET text_bytes = 9000000000, lines = 7 WHERE instance_key = 3").await;
        db.sabotage("DELETE FROM logs WHERE instance_key = 3").await;
        let bytes = LogBytes { per_instance: 150_000, total: 300_000 };
        assert!(bytes.hold(&db.store, 0).await.expect("it ends") > 0);
        assert!(cost_bytes(&db.store).await <= 300_000);
        let keys = db.store.log_usage().await.expect("read");
        assert!(keys.iter().all(|one| one.instance_key != 3), "{keys:?}");
    }

    async fn a_usage_that_tells_too_much_is_put_right_and_costs_no_line(db: &Database) {
        db.store.insert_logs(&rows(1, 0)).await.expect("inserted");
        let right = sorted_usage(&db.store).await;
        let cost: u64 = right.iter().map(LogUsage::cost_bytes).sum();
        let bytes = LogBytes { per_instance: cost, total: cost * 2 };
        for wrong in ["lines = lines * 1000, text_bytes = text_bytes + 9000000000", "lines = 9223372036854775807", "text_bytes = 9223372036854775807"] {
            db.sabotage(&format!("UPDATE log_usage SET {wrong} WHERE instance_key = 3")).await;
            // It is another one's turn.
            assert_eq!(bytes.hold(&db.store, 0).await, Ok(0), "{wrong}");
            assert_eq!(sorted_usage(&db.store).await, right, "{wrong}");
        }
        assert_eq!(db.count("logs").await, 5_000);
    }

    async fn a_usage_that_is_a_little_wrong_is_put_right_when_it_is_its_turn(db: &Database) {
        db.store.insert_logs(&rows(1, 0)).await.expect("inserted");
        let right = sorted_usage(&db.store).await;
        let bytes = LogBytes { per_instance: u64::MAX, total: u64::MAX };
        for (turn, key) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 1)] {
            let wrong = "lines = lines + 7, text_bytes = text_bytes - 100";
            db.sabotage(&format!("UPDATE log_usage SET {wrong} WHERE instance_key = {key}")).await;
            assert_eq!(bytes.hold(&db.store, turn + 1).await, Ok(0));
            assert_ne!(sorted_usage(&db.store).await, right, "another one's turn");
            assert_eq!(bytes.hold(&db.store, turn).await, Ok(0));
            assert_eq!(sorted_usage(&db.store).await, right, "{key}");
        }
        // Too few lines: the row goes only with the last line, and is no one's turn to be looked at.
        db.sabotage("UPDATE log_usage SET lines = 1, text_bytes = -5 WHERE instance_key = 2").await;
        db.store.trim(History::Logs, 2, 100, 5_000).await.expect("trimmed");
        assert_eq!(bytes.hold(&db.store, 0).await, Ok(0));
        let usage = sorted_usage(&db.store).await;
        assert_eq!((usage[1].instance_key, usage[1].lines), (2, 100), "{usage:?}");
    }

    async fn lines_are_written_whatever_is_told_of_them(db: &Database) {
        let few = || rows(1, 0).into_iter().take(60).collect::<Vec<_>>();
        db.store.insert_logs(&few()).await.expect("inserted");
        db.sabotage("UPDATE log_usage SET lines = 9223372036854775807, text_bytes = 9223372036854775807").await;
        // By one statement, and in bulk.
        db.store.insert_logs(&few()).await.expect("inserted");
        db.store.insert_logs(&rows(1, 0)).await.expect("inserted");
        assert_eq!(db.count("logs").await, 5_120);
        db.sabotage("UPDATE log_usage SET lines = -9223372036854775807, text_bytes = -9223372036854775807").await;
        db.store.insert_logs(&few()).await.expect("inserted");
        let bytes = LogBytes { per_instance: u64::MAX, total: u64::MAX };
        assert_eq!(bytes.hold(&db.store, 0).await, Ok(0));
        let lines: u64 = sorted_usage(&db.store).await.iter().map(|one| one.lines).sum();
        assert_eq!(lines, 5_180);
    }
}
