//! Databases that are away, wrong, newer, or cut off in the middle.

use std::{os::unix::fs::PermissionsExt, path::Path, str::FromStr, time::Duration};

use minimcp::{
    config::DatabaseConfig,
    domain::duration::HumanDuration,
    store::{Store, StoreError},
};
use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};

use super::{
    Schema, contract, new_instance, on_postgres, on_sqlite, postgres_url, together, with_parameter,
};

fn config(url: impl Into<String>) -> DatabaseConfig {
    DatabaseConfig {
        url: url.into(),
        acquire_timeout: HumanDuration::from_ms(1_000),
        ..DatabaseConfig::default()
    }
}

async fn refusal(url: impl Into<String>) -> StoreError {
    match Store::connect(&config(url)).await {
        Ok(_) => panic!("it must not connect"),
        Err(error) => error,
    }
}

contract! {
    async fn it_answers_while_it_is_there(db: &Database) {
        assert_eq!(db.store.ping().await, Ok(()));
        db.store.close().await;
        let closed = db.store.ping().await.expect_err("closed");
        assert!(closed.retryable(), "{closed}");
    }

    async fn a_database_of_a_newer_minimcp_is_left_alone(db: &Database) {
        db.sabotage("UPDATE _sqlx_migrations SET version = 9999 WHERE version = 2").await;
        let error = refusal(db.config.url.clone()).await;
        assert!(matches!(&error, StoreError::Refused(why) if why.contains("newer minimcp")), "{error}");
    }
}

#[tokio::test]
async fn daemons_that_first_start_together_on_one_server_all_succeed() {
    let schema = Schema::create().await;
    let attempts = together((0..4).map(|_| {
        let config = schema.config.clone();
        async move { Store::connect(&config).await }
    }))
    .await;
    for attempt in attempts {
        let store = attempt.expect("connected");
        assert_eq!(store.ping().await, Ok(()));
        store.close().await;
    }
    schema.remove().await;
}

#[tokio::test]
async fn a_wrong_address_is_refused_in_one_sentence_without_the_password() {
    for url in [
        "mysql://root:hunter22@localhost/x",
        "sqlite:",
        "sqlite::memory:",
        "sqlite:file.db?mode=ro",
        "postgres://ada:hunter22@localhost:notaport/x",
        "",
    ] {
        let error = refusal(url).await;
        assert!(!error.retryable(), "{error}");
        let text = error.to_string();
        assert!(
            !text.contains("hunter22") && !text.contains('\n') && !text.is_empty(),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_worth_another_try() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!(
        "postgres://ada:hunter22@localhost/x?host={}",
        folder.path().display()
    );
    let error = refusal(url).await;
    let text = error.to_string();
    assert!(error.retryable(), "{text}");
    assert!(
        text.contains(&folder.path().display().to_string()) && !text.contains("hunter22"),
        "{text}"
    );
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_worth_another_try() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).expect("bound");
    let url = format!(
        "postgres://ada@localhost/x?host={}",
        folder.path().display()
    );
    let (error, _held) = tokio::join!(refusal(url), listener.accept());
    assert!(
        matches!(&error, StoreError::Unavailable(why) if why.contains("does not answer")),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_database_is_named() {
    let error = refusal(with_parameter(&postgres_url(), "dbname=minimcp_nowhere")).await;
    assert!(
        matches!(&error, StoreError::Refused(why) if why.contains("minimcp_nowhere")),
        "{error}"
    );
}

#[tokio::test]
async fn the_sqlite_file_is_private_and_nothing_else_is_taken_for_it() {
    on_sqlite(async |db| {
        let path = Path::new(db.config.url.strip_prefix("sqlite:").expect("a path"));
        db.store
            .create_instance(new_instance("ada", "first", 3001))
            .await
            .expect("created");
        for (file, expected) in [
            ("minimcp.db", 0o600),
            ("minimcp.db-wal", 0o600),
            ("", 0o700),
        ] {
            let path = path.parent().expect("a folder").join(file);
            let mode = std::fs::metadata(&path)
                .expect("it is there")
                .permissions()
                .mode()
                & 0o777;
            assert_eq!(mode, expected, "{}", path.display());
        }
        let other = path.with_file_name("other.db");
        std::fs::write(
            &other,
            "this is a shopping list, and a long one. ".repeat(100),
        )
        .expect("written");
        let error = refusal(format!("sqlite:{}", other.display())).await;
        assert!(
            matches!(&error, StoreError::Refused(why) if why.contains("other.db")),
            "{error}"
        );
        let folder = path.parent().expect("a folder");
        let error = refusal(format!("sqlite:{}", folder.display())).await;
        assert!(
            matches!(&error, StoreError::Refused(why) if why.contains("cannot write")),
            "{error}"
        );
    })
    .await;
}

/// A door before PostgreSQL that the test can shut.
struct Door {
    connections: JoinSet<()>,
}

impl Door {
    fn open(folder: &Path, url: &str) -> Self {
        let listener = UnixListener::bind(socket(folder)).expect("bound");
        let behind = PgConnectOptions::from_str(url).expect("a URL");
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            // Dropped, and with it every connection, when the door shuts.
            let mut pairs = JoinSet::new();
            while let Ok((outside, _)) = listener.accept().await {
                let behind = behind.clone();
                pairs.spawn(async move {
                    match behind.get_socket() {
                        Some(folder) => {
                            let path = folder.join(format!(".s.PGSQL.{}", behind.get_port()));
                            pump(outside, UnixStream::connect(path).await).await;
                        }
                        None => {
                            let address = (behind.get_host(), behind.get_port());
                            pump(outside, TcpStream::connect(address).await).await;
                        }
                    }
                });
            }
        });
        Self { connections }
    }

    async fn shut(mut self, folder: &Path) {
        self.connections.shutdown().await;
        std::fs::remove_file(socket(folder)).expect("the socket goes");
    }
}

fn socket(folder: &Path) -> std::path::PathBuf {
    folder.join(".s.PGSQL.6543")
}

async fn pump(
    mut outside: UnixStream,
    inside: std::io::Result<impl AsyncRead + AsyncWrite + Unpin>,
) {
    let mut inside = inside.expect("PostgreSQL answers");
    // Its end, by whichever side, is what the test is about.
    drop(copy_bidirectional(&mut outside, &mut inside).await);
}

#[tokio::test]
async fn a_server_lost_while_running_is_unavailable_and_comes_back_by_itself() {
    on_postgres(async |db| {
        let folder = tempfile::tempdir().expect("a folder");
        let place = format!("host={}&port=6543", folder.path().display());
        let url = with_parameter(&db.config.url, &place);
        let door = Door::open(folder.path(), &db.config.url);
        let store = Store::connect(&config(url)).await.expect("connected");
        store
            .create_instance(new_instance("ada", "first", 3001))
            .await
            .expect("created");

        door.shut(folder.path()).await;
        for place in 0..3 {
            let name = format!("while-away-{place}");
            let attempt = store
                .create_instance(new_instance("ada", &name, 3002))
                .await;
            let error = attempt.expect_err("the server is away");
            assert!(error.retryable(), "{error}");
            assert!(store.ping().await.expect_err("away").retryable());
        }

        let door = Door::open(folder.path(), &db.config.url);
        let back = tokio::time::timeout(Duration::from_secs(20), async {
            while store.ping().await.is_err() {}
        });
        back.await.expect("it comes back by itself");
        store
            .create_instance(new_instance("ada", "second", 3002))
            .await
            .expect("created");
        assert_eq!(
            db.store.instances().await.expect("read").0.len(),
            2,
            "nothing half written"
        );
        store.close().await;
        door.shut(folder.path()).await;
    })
    .await;
}
