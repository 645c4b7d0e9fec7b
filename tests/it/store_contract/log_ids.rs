//! Lines that go by COPY: their ids while others draw from the same sequence, and their connection.

use minimcp::store::{LogQuery, LogRow, Store};

use super::{Database, generation, on_postgres};

/// So many go by COPY.
const MANY: usize = 700;

fn lines(key: i64) -> Vec<LogRow<'static>> {
    let line = |number: usize| LogRow {
        instance_key: key,
        generation: generation(1),
        member: 0,
        stream: 2,
        at: i64::try_from(number * 200).expect("small"),
        line: format!("{key}: {number}").into(),
        continued: false,
    };
    (0..MANY).map(line).collect()
}

/// Whether the store answered the ids under which the lines lie, also where they are found by their time.
async fn assert_told(store: &Store, rows: &[LogRow<'_>], ids: &[i64]) {
    assert!(ids.is_sorted_by(|one, next| one < next), "rising");
    let key = rows[0].instance_key;
    let all = LogQuery {
        limit: 10_000,
        ..LogQuery::default()
    };
    let of_the_end = LogQuery {
        since: Some(120_000),
        ..all
    };
    for (query, from) in [(all, 0), (of_the_end, 600)] {
        let page = store.logs_page(key, query).await.expect("read");
        let found = page.iter().map(|entry| (entry.id, entry.line.as_str()));
        let told = ids.iter().zip(rows).map(|(id, row)| (*id, &*row.line));
        let told: Vec<_> = told.skip(from).collect();
        assert_eq!(found.collect::<Vec<_>>(), told);
    }
}

async fn another_draws_between(db: &Database) {
    db.undo(&[
        "CREATE FUNCTION draw() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN PERFORM nextval(pg_get_serial_sequence(''logs'', ''id'')); RETURN NEW; END'",
        "CREATE TRIGGER draws BEFORE INSERT ON logs FOR EACH ROW EXECUTE FUNCTION draw()",
    ])
    .await;
    let rows = lines(1);
    let ids = db.store.insert_logs(&rows).await.expect("inserted");
    assert!(ids[MANY - 1] - ids[0] > 1_000, "others drew between");
    assert_told(&db.store, &rows, &ids).await;
}

#[tokio::test]
async fn lines_are_told_by_their_ids_when_another_draws_between() {
    on_postgres(another_draws_between).await;
}

async fn two_write_at_once(db: &Database) {
    let other = db.another().await;
    let (rows, others) = (lines(1), lines(2));
    let first: Vec<i64> = (1..).take(MANY).collect();
    let (ids, others_ids) = tokio::join!(
        db.store.insert_numbered_logs(7, &first, &rows),
        other.insert_numbered_logs(8, &first, &others),
    );
    let (ids, others_ids) = (ids.expect("inserted"), others_ids.expect("inserted"));
    assert_told(&db.store, &rows, &ids).await;
    assert_told(&db.store, &others, &others_ids).await;
    other.close().await;
}

#[tokio::test]
async fn lines_of_two_who_write_at_once_are_told_by_their_ids() {
    on_postgres(two_write_at_once).await;
}

async fn batches_follow_each_other(db: &Database) {
    db.undo(&[
        "CREATE TABLE backends (pid INTEGER)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN INSERT INTO backends VALUES (pg_backend_pid()); RETURN NULL; END'",
        "CREATE TRIGGER notes AFTER INSERT ON logs FOR EACH STATEMENT EXECUTE FUNCTION note()",
    ])
    .await;
    let rows = lines(1);
    for _ in 0..4 {
        // Others ask for connections meanwhile.
        let (ids, one, two) = tokio::join!(
            db.store.insert_logs(&rows),
            db.store.ping(),
            db.store.ping()
        );
        assert_eq!(ids.expect("inserted").len(), MANY);
        one.and(two).expect("it answers");
    }
    assert_eq!(db.count("backends").await, 4);
    let distinct = "(SELECT DISTINCT pid FROM backends) AS each_one";
    assert_eq!(db.count(distinct).await, 1, "all over one connection");
}

#[tokio::test]
async fn batches_of_lines_go_over_a_connection_of_their_own() {
    on_postgres(batches_follow_each_other).await;
}
