//! Log ingest: lines per second from flooding children to the database, beside what that database takes by itself, in the
//! same run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};

use super::{
    daemon::{Daemon, Instance},
    figures::{Bound, Figures, Summary},
};

/// Where PostgreSQL may be used: an empty database is made in it and dropped again.
const POSTGRES: &str = "MINIMCP_BENCH_POSTGRES_URL";
/// Lines of one run, all children together.
const LINES: usize = 500_000;
/// Rows of one transaction, as `logs.batch_rows` has them.
const BATCH: usize = 5_000;
/// How long the last line may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a child writes: a hundred characters, as servers' lines are.
fn line(number: usize) -> String {
    format!(
        "2026-11-27T02:00:00.000Z  INFO handled request={number:08} path=/api/v1/items status=200 took=1234us ok"
    )
}

/// The body of `side_by_side flood-server LINES`: the null server, which writes so many lines to stderr at each call.
pub fn flood(lines: &str) {
    use std::io::Write as _;
    let count: usize = lines.parse().expect("a number of lines");
    super::floor::serve_null_with(|| {
        let mut out = std::io::BufWriter::with_capacity(64 << 10, std::io::stderr().lock());
        for number in 0..count {
            writeln!(out, "{}", line(number)).expect("the daemon reads");
        }
        out.flush().expect("the daemon reads");
    });
}

/// Both databases, one child and fifty.
pub fn ingest(figures: &mut Figures) {
    figures.heading("log lines to SQLite", "");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite:{}", folder.path().join("raw.db").display());
    let raw = block_on(raw_sqlite(&url));
    figures.number("SQLite alone: 5,000 rows in a transaction", raw, "lines/s");
    for children in [1, 50] {
        one(figures, None, children, raw);
    }
    figures.heading("log lines to PostgreSQL", "");
    let Ok(url) = std::env::var(POSTGRES) else {
        return figures.missing("PostgreSQL", &format!("set {POSTGRES}=postgres://…"));
    };
    let raw = block_on(raw_postgres(&url));
    figures.number(
        "PostgreSQL alone: COPY, 5,000 rows in a transaction",
        raw,
        "lines/s",
    );
    for children in [1, 50] {
        let name = format!("minimcp_bench_{children}_{}", std::process::id());
        block_on(statement(&url, format!("CREATE DATABASE {name}")));
        let (server, _) = url.rsplit_once('/').expect("a URL of a database");
        one(figures, Some(&format!("{server}/{name}")), children, raw);
        block_on(statement(&url, format!("DROP DATABASE {name}")));
    }
}

fn one(figures: &mut Figures, database: Option<&str>, children: usize, raw: f64) {
    let each = LINES / children;
    let this = std::env::current_exe().expect("a program knows its file");
    let this = this.to_str().expect("the checkout has a plain path");
    let command = [this, "flood-server", &each.to_string()].map(str::to_owned);
    let mut daemon = Daemon::start_with(&[("flood", &command)], &[], |config| {
        // What one instance may write is not what is measured.
        config.logs.rate_limit_per_instance = "1000000000/1s".parse().ok();
        if let Some(url) = database {
            config.database.url = url.to_owned();
        }
    });
    let instances: Vec<Instance> = (0..children).map(|_| daemon.create("flood")).collect();
    let connections: Vec<_> = instances
        .iter()
        .map(|one| one.endpoint.initialize())
        .collect();
    let before = counts(&mut daemon);
    let over = Arc::new(AtomicBool::new(false));
    let path = format!("/mcps/{}", instances[0].id);
    let watch = {
        let (mut client, over) = (daemon.client(), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.get(&path);
                times.push(began.elapsed());
                std::thread::sleep(Duration::from_millis(2)); // not as a load of its own
            }
            times
        })
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (instance, mut connection) in instances.iter().zip(connections) {
            scope.spawn(move || assert!(instance.endpoint.try_call(&mut connection)));
        }
    });
    let wanted = each * children;
    let stored = |counts: &[u64; 2]| usize::try_from(counts[0] - before[0]).expect("it fits");
    loop {
        let now = counts(&mut daemon);
        assert_eq!(now[1], before[1], "no line is lost");
        if stored(&now) >= wanted {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{} of {wanted}", stored(&now));
        std::thread::sleep(Duration::from_millis(10)); // poll
    }
    let took = began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    let times = watch.join().expect("the API answers");
    #[expect(clippy::cast_precision_loss, reason = "a count of lines is small")]
    let rate = wanted as f64 / took;
    let noun = if children == 1 { "child" } else { "children" };
    figures.number(
        &format!("minimcp: {children} {noun}, to the last row"),
        rate,
        "lines/s",
    );
    figures.goal(
        "  of what the database takes alone",
        rate / raw,
        Bound::Least(0.5),
    );
    let summary = Summary::of(times);
    figures.number("  GET /mcps/{id} meanwhile, p50", summary.p50_us, "us");
    figures.number("  GET /mcps/{id} meanwhile, p99", summary.p99_us, "us");
}

/// Lines stored, lines lost.
fn counts(daemon: &mut Daemon) -> [u64; 2] {
    let facts = daemon.json("GET", "/diagnostics", "");
    ["stored", "dropped"].map(|name| facts["logs"][name].as_u64().expect("a count"))
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

async fn statement(url: &str, sql: String) {
    let mut connection = PgConnection::connect(url)
        .await
        .expect("PostgreSQL answers");
    connection
        .execute(AssertSqlSafe(sql))
        .await
        .expect("it is done");
}

fn per_second(began: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of lines is small")]
    let lines = LINES as f64;
    lines / began.elapsed().as_secs_f64()
}

/// The table of the log with its index, nothing else: prepared statements of 500 rows.
async fn raw_sqlite(url: &str) -> f64 {
    const ROWS: usize = 500;
    let options: sqlx::sqlite::SqliteConnectOptions = url.parse().expect("a URL");
    let options = options
        .create_if_missing(true)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Normal);
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .expect("SQLite opens");
    let table = "CREATE TABLE logs (id INTEGER PRIMARY KEY AUTOINCREMENT, instance_key INTEGER NOT NULL, generation INTEGER NOT NULL, stream INTEGER NOT NULL, at INTEGER NOT NULL, line TEXT NOT NULL, continued INTEGER NOT NULL, member INTEGER NOT NULL DEFAULT 0) STRICT";
    connection.execute(table).await.expect("made");
    let index = "CREATE INDEX logs_instance_key ON logs (instance_key, id)";
    connection.execute(index).await.expect("made");
    let values = vec!["(?, ?, ?, ?, ?, ?, ?)"; ROWS].join(", ");
    let insert = format!(
        "INSERT INTO logs (instance_key, generation, member, stream, at, line, continued) VALUES {values}"
    );
    let lines: Vec<String> = (0..BATCH).map(line).collect();
    let began = Instant::now();
    for _ in 0..LINES / BATCH {
        let mut transaction = connection.begin().await.expect("begun");
        for chunk in lines.chunks(ROWS) {
            let mut insert = sqlx::query(AssertSqlSafe(insert.as_str()));
            for line in chunk {
                insert = insert
                    .bind(1_i64)
                    .bind(1_i64)
                    .bind(0_i32)
                    .bind(2_i16)
                    .bind(0_i64);
                insert = insert.bind(line.clone()).bind(false);
            }
            insert.execute(&mut *transaction).await.expect("inserted");
        }
        transaction.commit().await.expect("committed");
    }
    per_second(began)
}

/// The table of the log with its indices, nothing else: COPY.
async fn raw_postgres(url: &str) -> f64 {
    let mut connection = PgConnection::connect(url)
        .await
        .expect("PostgreSQL answers");
    let schema = format!("minimcp_bench_raw_{}", std::process::id());
    let make = format!(
        "CREATE SCHEMA {schema}; SET search_path TO {schema}; \
         CREATE TABLE logs (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, instance_key BIGINT NOT NULL, \
         generation BIGINT NOT NULL, stream SMALLINT NOT NULL, at BIGINT NOT NULL, line TEXT NOT NULL, \
         continued BOOLEAN NOT NULL, member INTEGER NOT NULL DEFAULT 0); \
         CREATE INDEX logs_instance_key ON logs (instance_key, id)"
    );
    sqlx::raw_sql(AssertSqlSafe(make))
        .execute(&mut connection)
        .await
        .expect("made");
    let rows: String = (0..BATCH)
        .map(|number| format!("1\t1\t0\t2\t0\t{}\tf\n", line(number)))
        .collect();
    let began = Instant::now();
    for _ in 0..LINES / BATCH {
        let copy =
            "COPY logs (instance_key, generation, member, stream, at, line, continued) FROM STDIN";
        let mut copy = connection.copy_in_raw(copy).await.expect("begun");
        copy.send(rows.as_bytes()).await.expect("sent");
        copy.finish().await.expect("committed");
    }
    let rate = per_second(began);
    let drop = format!("DROP SCHEMA {schema} CASCADE");
    connection
        .execute(AssertSqlSafe(drop))
        .await
        .expect("dropped");
    rate
}
