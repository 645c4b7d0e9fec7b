//! Log lines.

use minimcp::store::{History, LogEntry, LogQuery, LogRow};

use super::{contract, generation, new_instance};

fn line(instance_key: i64, at: i64, text: &str) -> LogRow<'static> {
    LogRow {
        instance_key,
        generation: generation(1),
        member: 0,
        stream: 2,
        at,
        line: text.to_owned().into(),
        continued: false,
    }
}

fn texts(page: &[LogEntry]) -> Vec<&str> {
    page.iter().map(|entry| entry.line.as_str()).collect()
}

const ALL: LogQuery<'static> = LogQuery {
    after: None,
    before: None,
    since: None,
    until: None,
    stream: None,
    text: None,
    newest_first: false,
    limit: 10_000,
};

contract! {
    async fn a_number_of_a_writer_of_lines_is_taken_once(db: &Database) {
        let rows: Vec<_> = (0..600).map(|at| line(1, at, "text")).collect();
        let numbers: Vec<i64> = (1..=600).collect();
        let write = |writer, part: std::ops::Range<usize>| {
            let (numbers, rows) = (&numbers[part.clone()], &rows[part]);
            let store = db.store.clone();
            async move { store.insert_numbered_logs(writer, numbers, rows).await.map(|ids| ids.len()) }
        };
        assert_eq!(write(7, 0..3).await, Ok(3));
        assert_eq!(write(7, 0..3).await, Ok(0));
        assert_eq!(write(7, 1..5).await, Ok(2), "those behind");
        assert_eq!(write(8, 0..5).await, Ok(5), "another writer");
        // Two tries of the same lines at the same time.
        let (one, two) = tokio::join!(write(9, 0..600), write(9, 0..600));
        assert_eq!(one.expect("written") + two.expect("written"), 600);
        // Lines without a number are written every time.
        for _ in 0..2 {
            assert_eq!(db.store.insert_logs(&rows[..2]).await.expect("inserted").len(), 2);
        }
        let usage = db.store.log_usage().await.expect("read");
        assert_eq!(usage.iter().map(|one| one.lines).sum::<u64>(), 5 + 5 + 600 + 4, "counted as often");
        assert!(db.store.delete_log_writers_before(500).await.expect("deleted") >= 2);
        assert_eq!(write(9, 0..600).await, Ok(0), "the one that wrote later is known");
    }

    async fn a_bulk_keeps_its_order_and_answers_its_ids(db: &Database) {
        // A number that needs every size of chunk, over two instances.
        let rows: Vec<LogRow> = (0..1_673_u32).map(|number| LogRow {
            instance_key: i64::from(number % 2) + 1,
            generation: generation(u64::from(number / 1_000)),
            member: number % 3,
            stream: u8::try_from(number % 3).expect("small"),
            at: i64::from(number),
            line: format!("line {number} ü\t\\.\\N\r\n\"';,").into(),
            continued: number % 5 == 0,
        }).collect();
        let ids = db.store.insert_logs(&rows).await.expect("inserted");
        assert_eq!(ids.len(), rows.len());
        assert!(ids.is_sorted_by(|one, next| one < next), "rising");
        for key in [1, 2] {
            let page = db.store.logs_page(key, ALL).await.expect("read");
            let expected: Vec<LogEntry> = rows.iter().zip(&ids).filter(|(row, _)| row.instance_key == key)
                .map(|(row, id)| LogEntry {
                    id: *id,
                    generation: row.generation,
                    member: row.member,
                    stream: row.stream,
                    at: row.at,
                    line: row.line.clone().into_owned(),
                    continued: row.continued,
                }).collect();
            assert_eq!(page, expected);
        }
        assert_eq!(db.store.insert_logs(&[]).await, Ok(vec![]));
        assert_eq!(db.store.logs_page(3, ALL).await, Ok(vec![]));
    }

    async fn pages_walk_both_ways_without_a_gap_or_a_double(db: &Database) {
        let rows: Vec<LogRow> = (0..50).map(|number| line(1 + number % 2, number, &number.to_string())).collect();
        let ids = db.store.insert_logs(&rows).await.expect("inserted");
        let mine: Vec<i64> = ids.iter().copied().step_by(2).collect();
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = db.store.logs_page(1, LogQuery { after, limit: 7, ..ALL }).await.expect("read");
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            seen.extend(page.iter().map(|entry| entry.id));
        }
        assert_eq!(seen, mine);
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let query = LogQuery { before, newest_first: true, limit: 7, ..ALL };
            let page = db.store.logs_page(1, query).await.expect("read");
            let Some(last) = page.last() else { break };
            before = Some(last.id);
            seen.extend(page.iter().map(|entry| entry.id));
        }
        seen.reverse();
        assert_eq!(seen, mine);
    }

    async fn a_search_goes_on_where_its_stretch_ended(db: &Database) {
        // Mine are every second line, of which every tenth has the word, and one is of another stream.
        let mut rows: Vec<LogRow> = (0..100).map(|number| {
            line(1 + number % 2, number, if number % 20 == 0 { "a needle" } else { "hay" })
        }).collect();
        rows[98].stream = 1;
        let ids = db.store.insert_logs(&rows).await.expect("inserted");
        let words: Vec<i64> = ids.iter().copied().step_by(20).collect();
        let word = LogQuery { text: Some("NEEDLE"), limit: 3, ..ALL };
        for newest_first in [false, true] {
            let (mut seen, mut stretches, mut place) = (Vec::new(), 0, None);
            loop {
                let query = match newest_first {
                    false => LogQuery { after: place, ..word },
                    true => LogQuery { before: place, newest_first, ..word },
                };
                let found = db.store.search_logs(1, query, 8).await.expect("read");
                assert!(found.entries.len() <= 1, "eight lines hold one word at most: {found:?}");
                seen.extend(found.entries.iter().map(|entry| entry.id));
                stretches += 1;
                let Some(id) = found.unfinished_at else { break };
                place = Some(id);
            }
            if newest_first {
                seen.reverse();
            }
            assert_eq!(seen, words, "newest first: {newest_first}");
            assert_eq!(stretches, 7, "50 lines, eight at a time");
        }
        // A page that is full is no matter of the stretch; nor is one that nothing is left out of.
        let one = LogQuery { limit: 1, ..word };
        let found = db.store.search_logs(1, one, 8).await.expect("read");
        assert_eq!((found.entries.len(), found.unfinished_at), (1, None));
        let found = db.store.search_logs(1, LogQuery { limit: 20, ..ALL }, 8).await.expect("read");
        assert_eq!((found.entries.len(), found.unfinished_at), (20, None));
        // A stream is rare, too, and a time bounds the stretch.
        let other = LogQuery { stream: Some(1), ..ALL };
        let found = db.store.search_logs(1, other, 8).await.expect("read");
        assert_eq!((found.entries.len(), found.unfinished_at), (0, Some(ids[14])));
        let late = LogQuery { since: Some(90), ..other };
        let found = db.store.search_logs(1, late, 200).await.expect("read");
        assert_eq!((found.entries.len(), found.unfinished_at), (1, None));
    }

    async fn filters_narrow_by_time_stream_and_place(db: &Database) {
        let mut rows: Vec<LogRow> = (0..6).map(|number| line(1, number * 10, &number.to_string())).collect();
        rows[1].stream = 1;
        rows[4].stream = 1;
        let ids = db.store.insert_logs(&rows).await.expect("inserted");
        for (query, expected) in [
            (LogQuery { since: Some(20), until: Some(40), ..ALL }, vec!["2", "3", "4"]),
            (LogQuery { stream: Some(1), ..ALL }, vec!["1", "4"]),
            (LogQuery { stream: Some(0), ..ALL }, vec![]),
            (LogQuery { stream: Some(1), newest_first: true, limit: 1, ..ALL }, vec!["4"]),
            (LogQuery { after: Some(ids[1]), before: Some(ids[4]), ..ALL }, vec!["2", "3"]),
            (LogQuery { limit: 0, ..ALL }, vec![]),
        ] {
            let page = db.store.logs_page(1, query).await.expect("read");
            assert_eq!(texts(&page), expected, "{query:?}");
        }
    }

    async fn a_search_finds_the_text_and_takes_no_character_as_a_wildcard(db: &Database) {
        let lines = ["100% done", "100 done", "a_b", "aXb", r"back\slash", "wow!", "MiXed Case", "quote ' and \""];
        let rows: Vec<LogRow> = lines.iter().map(|text| line(1, 0, text)).collect();
        db.store.insert_logs(&rows).await.expect("inserted");
        for (text, expected) in [
            ("100%", vec!["100% done"]),
            ("%", vec!["100% done"]),
            ("a_b", vec!["a_b"]),
            ("_", vec!["a_b"]),
            (r"\", vec![r"back\slash"]),
            (r"k\s", vec![r"back\slash"]),
            ("!", vec!["wow!"]),
            ("mixed CASE", vec!["MiXed Case"]),
            ("' and \"", vec!["quote ' and \""]),
            ("'; DROP TABLE logs; --", vec![]),
            ("", lines.to_vec()),
        ] {
            let page = db.store.logs_page(1, LogQuery { text: Some(text), ..ALL }).await.expect("read");
            assert_eq!(texts(&page), expected, "{text:?}");
            let query = LogQuery { text: Some(text), newest_first: true, ..ALL };
            let mut page = db.store.logs_page(1, query).await.expect("read");
            page.reverse();
            assert_eq!(texts(&page), expected, "{text:?}, newest first");
        }
    }

    async fn hostile_lines_are_kept_as_text(db: &Database) {
        let long = "x".repeat(300_000);
        let rows = [line(1, 0, "a\0b"), line(1, 0, ""), line(1, 0, "\u{1b}[31m\t\r"), line(1, 0, &long)];
        db.store.insert_logs(&rows).await.expect("inserted");
        let page = db.store.logs_page(1, ALL).await.expect("read");
        assert_eq!(texts(&page), ["a\u{fffd}b", "", "\u{1b}[31m\t\r", long.as_str()]);
        let found = db.store.logs_page(1, LogQuery { text: Some("a\0b"), ..ALL }).await.expect("read");
        assert_eq!(found.len(), 1);
    }

    async fn retention_deletes_in_bounded_steps_and_gives_no_id_twice(db: &Database) {
        let rows: Vec<LogRow> = (0..100).map(|number| line(1 + number % 2, number, "x")).collect();
        let ids = db.store.insert_logs(&rows).await.expect("inserted");
        assert_eq!(db.store.delete_before(History::Logs, 50, i64::MAX, 30).await, Ok(30));
        assert_eq!(db.store.delete_before(History::Logs, 50, i64::MAX, 30).await, Ok(20));
        assert_eq!(db.store.delete_before(History::Logs, 50, i64::MAX, 30).await, Ok(0));
        assert_eq!(db.store.trim(History::Logs, 1, 10, 7).await, Ok(7), "25 rows are left, 15 are too many");
        assert_eq!(db.store.trim(History::Logs, 1, 10, 100).await, Ok(8));
        assert_eq!(db.store.trim(History::Logs, 1, 10, 100).await, Ok(0));
        let kept = db.store.logs_page(1, ALL).await.expect("read");
        assert_eq!(kept.iter().map(|entry| entry.at).collect::<Vec<_>>(), (80..100).step_by(2).collect::<Vec<_>>());
        assert_eq!(db.store.logs_page(2, ALL).await.expect("read").len(), 25, "the neighbour keeps its lines");
        assert_eq!(db.store.trim(History::Logs, 2, 0, 100).await, Ok(25));
        assert_eq!(db.store.trim(History::Logs, 1, 0, 100).await, Ok(10));
        assert_eq!(db.count("logs").await, 0);
        let next = db.store.insert_logs(&[line(1, 0, "new")]).await.expect("inserted");
        assert!(next[0] > ids[99], "cursors of before stay behind");
    }

    async fn a_time_is_found_by_its_minutes_whatever_came_late(db: &Database) {
        let minute = 60_000;
        let at = |minutes: i64| 1_700_000_040_000 + minutes * minute;
        // The line of minute 1 waited in a spool; another instance wrote meanwhile.
        let rows = [line(1, at(0), "a"), line(1, at(2), "c"), line(2, at(3), "x"), line(1, at(4), "e"), line(1, at(1), "b")];
        db.store.insert_logs(&rows).await.expect("inserted");
        for (since, until, expected) in [
            (Some(at(0)), Some(at(1)), vec!["a", "b"]),
            (Some(at(1)), Some(at(2)), vec!["c", "b"]),
            (Some(at(1) + 1), Some(at(2) - 1), vec![]),
            (Some(at(3)), None, vec!["e"]),
            (None, Some(at(0)), vec!["a"]),
            (Some(at(5)), None, vec![]),
            (None, Some(at(-1)), vec![]),
        ] {
            let page = db.store.logs_page(1, LogQuery { since, until, ..ALL }).await.expect("read");
            assert_eq!(texts(&page), expected, "{since:?} {until:?}");
        }
        assert_eq!(db.count("log_minutes").await, 5);
        assert_eq!(db.store.delete_before(History::Logs, at(3), i64::MAX, 3).await, Ok(2));
        assert_eq!(db.store.delete_log_minutes().await, Ok(2), "those whose lines are all gone");
        let page = db.store.logs_page(1, LogQuery { since: Some(at(0)), ..ALL }).await.expect("read");
        assert_eq!(texts(&page), ["e", "b"]);
    }

    async fn usage_follows_every_write_and_deletion(db: &Database) {
        let usage = |db: &super::Database| {
            let store = db.store.clone();
            async move {
                let mut all: Vec<_> = store.log_usage().await.expect("read").into_iter().map(|one| (one.instance_key, one.lines, one.text_bytes)).collect();
                all.sort_unstable();
                all
            }
        };
        assert_eq!(usage(db).await, []);
        // Bytes, not characters; a NUL is three of them in the end.
        let rows = [line(1, 0, "abc"), line(2, 10, "ä"), line(1, 20, "a\0"), line(1, 30, "")];
        db.store.insert_logs(&rows).await.expect("inserted");
        assert_eq!(usage(db).await, [(1, 3, 7), (2, 1, 2)]);
        db.store.insert_logs(&[line(2, 40, "more")]).await.expect("inserted");
        assert_eq!(usage(db).await, [(1, 3, 7), (2, 2, 6)]);
        assert_eq!(db.store.delete_before(History::Logs, 20, i64::MAX, 9).await, Ok(2));
        assert_eq!(usage(db).await, [(1, 2, 4), (2, 1, 4)]);
        // The first line covers an excess of one byte; of the second, too, if there were none.
        let deleted = db.store.trim_log_bytes(1, 1, 9).await.expect("deleted");
        assert_eq!((deleted.lines, deleted.cost_bytes), (1, 4 + minimcp::config::LOG_ROW_BYTES));
        assert_eq!(usage(db).await, [(1, 1, 0), (2, 1, 4)]);
        assert_eq!(db.store.trim(History::Logs, 1, 0, 9).await, Ok(1));
        assert_eq!(usage(db).await, [(2, 1, 4)]);
        let rows: Vec<LogRow> = (0..10).map(|number| line(3, number, "12345678")).collect();
        db.store.insert_logs(&rows).await.expect("inserted");
        let each = 8 + minimcp::config::LOG_ROW_BYTES;
        assert_eq!(db.store.trim_log_bytes(3, each * 9, 4).await.expect("deleted").lines, 4, "a bounded step");
        assert_eq!(db.store.trim_log_bytes(3, each * 5 - 1, 9).await.expect("deleted").lines, 5);
        let kept = db.store.logs_page(3, ALL).await.expect("read");
        assert_eq!(kept.iter().map(|entry| entry.at).collect::<Vec<_>>(), [9], "the newest stays");
        assert_eq!(db.store.trim_log_bytes(4, 1, 9).await.expect("nothing").lines, 0);
    }

    async fn orphans_are_found_among_many_keys(db: &Database) {
        let live = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let rows: Vec<LogRow> = (0..40).map(|number| line(live.key + number % 4, number, "x")).collect();
        db.store.insert_logs(&rows).await.expect("inserted");
        let keys = (0..4).map(|number| (live.key + number, number == 0)).collect();
        assert_eq!(db.store.history_keys(History::Logs).await, Ok(keys));
    }
}
