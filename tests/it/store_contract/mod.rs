//! One contract for the store, held by both databases in the same run.

mod calls;
mod capabilities;
mod checkpoints;
mod credentials;
mod damage;
mod faults;
mod instances;
mod log_ids;
mod logs;
mod retention;
mod small_tables;
mod template_needs;
mod tokens;

use std::{future::Future, str::FromStr};

use minimcp::{
    config::DatabaseConfig,
    domain::{
        id::{Generation, InstanceId, InstanceName, OwnerId, TemplateName},
        instance::{InstanceRecord, InstanceSpec, Lease},
        restart::RestartRow,
        state::{DesiredState, InstanceState},
    },
    store::{NewInstance, StateWrite, Store},
};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};
use uuid::Uuid;

/// Declares cases; each runs once over each database.
macro_rules! contract {
    ($(async fn $name:ident($db:ident: &Database) $body:block)+) => {$(
        async fn $name($db: &crate::store_contract::Database) $body

        mod $name {
            #[tokio::test]
            async fn sqlite() {
                crate::store_contract::on_sqlite(super::$name).await;
            }

            #[tokio::test]
            async fn postgres() {
                crate::store_contract::on_postgres(super::$name).await;
            }
        }
    )+};
}
use contract;

/// A fresh database of one test.
pub(crate) struct Database {
    /// How to connect to it.
    pub(crate) config: DatabaseConfig,
    /// A first connected store.
    pub(crate) store: Store,
}

impl Database {
    async fn of(config: DatabaseConfig) -> Self {
        let store = Store::connect(&config).await.expect("the store connects");
        Self { config, store }
    }

    /// Another daemon on the same database.
    pub(crate) async fn another(&self) -> Store {
        Store::connect(&self.config)
            .await
            .expect("the store connects")
    }

    /// Runs SQL behind the store's back.
    pub(crate) async fn sabotage(&self, sql: &str) {
        let done = if let Some(path) = self.config.url.strip_prefix("sqlite:") {
            let mut connection = SqliteConnectOptions::new()
                .filename(path)
                .connect()
                .await
                .expect("a connection of its own");
            let done = sqlx::query(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .map(|done| done.rows_affected());
            connection.close().await.expect("closed");
            done
        } else {
            let mut connection = postgres(&self.config.url).await;
            sqlx::query(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .map(|done| done.rows_affected())
        };
        assert!(
            done.expect("the sabotage runs") > 0,
            "the sabotage changed nothing: {sql}"
        );
    }

    /// Takes the tables back to what an older program left.
    pub(crate) async fn undo(&self, statements: &[&str]) {
        for statement in statements {
            let sql = AssertSqlSafe((*statement).to_owned());
            let done = if let Some(path) = self.config.url.strip_prefix("sqlite:") {
                let options = SqliteConnectOptions::new().filename(path);
                let mut connection = options.connect().await.expect("a connection of its own");
                sqlx::query(sql).execute(&mut connection).await.map(drop)
            } else {
                let mut connection = postgres(&self.config.url).await;
                sqlx::query(sql).execute(&mut connection).await.map(drop)
            };
            done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    /// Rows of a table.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        let sql = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        if let Some(path) = self.config.url.strip_prefix("sqlite:") {
            let mut connection = SqliteConnectOptions::new()
                .filename(path)
                .connect()
                .await
                .expect("a connection of its own");
            sqlx::query_scalar(sql)
                .fetch_one(&mut connection)
                .await
                .expect("a count")
        } else {
            let mut connection = postgres(&self.config.url).await;
            sqlx::query_scalar(sql)
                .fetch_one(&mut connection)
                .await
                .expect("a count")
        }
    }
}

async fn postgres(url: &str) -> sqlx::PgConnection {
    let options = PgConnectOptions::from_str(url).expect("a PostgreSQL URL");
    options.connect().await.expect("PostgreSQL answers")
}

/// The address of the PostgreSQL that the tests may use.
pub(crate) fn postgres_url() -> String {
    std::env::var("MINIMCP_TEST_POSTGRES_URL").expect(
        "MINIMCP_TEST_POSTGRES_URL is not set: run ./tests/run, which starts a private PostgreSQL",
    )
}

/// Adds a parameter to a URL.
pub(crate) fn with_parameter(url: &str, parameter: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{parameter}")
}

pub(crate) async fn on_sqlite(case: impl AsyncFnOnce(&Database)) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = DatabaseConfig {
        url: format!("sqlite:{}", folder.path().join("data/minimcp.db").display()),
        ..DatabaseConfig::default()
    };
    let db = Database::of(config).await;
    case(&db).await;
    db.store.close().await;
}

pub(crate) async fn on_postgres(case: impl AsyncFnOnce(&Database)) {
    let schema = Schema::create().await;
    let db = Database::of(schema.config.clone()).await;
    case(&db).await;
    db.store.close().await;
    schema.remove().await;
}

/// A schema of one test, empty at first.
pub(crate) struct Schema {
    /// How to connect to it.
    pub(crate) config: DatabaseConfig,
    name: String,
    connection: sqlx::PgConnection,
}

impl Schema {
    pub(crate) async fn create() -> Self {
        let url = postgres_url();
        let name = format!("test_{}", Uuid::now_v7().simple());
        let mut connection = postgres(&url).await;
        sqlx::query(AssertSqlSafe(format!("CREATE SCHEMA {name}")))
            .execute(&mut connection)
            .await
            .expect("a schema of its own");
        let config = DatabaseConfig {
            url: with_parameter(&url, &format!("options[search_path]={name}")),
            ..DatabaseConfig::default()
        };
        Self {
            config,
            name,
            connection,
        }
    }

    pub(crate) async fn remove(mut self) {
        sqlx::query(AssertSqlSafe(format!("DROP SCHEMA {} CASCADE", self.name)))
            .execute(&mut self.connection)
            .await
            .expect("the schema goes");
    }
}

/// Waits for all of them at once, in the order given.
pub(crate) async fn together<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.expect("the task ends"));
    }
    results
}

pub(crate) fn owner(text: &str) -> OwnerId {
    OwnerId::new(text).expect("an owner")
}

/// A new instance whose id and token are its own.
pub(crate) fn new_instance(owner_name: &str, name: &str, port: u16) -> NewInstance {
    let id = Uuid::now_v7();
    let mut token_hash = [0; 32];
    token_hash[..16].copy_from_slice(id.as_bytes());
    NewInstance {
        id: InstanceId(id),
        owner: owner(owner_name),
        name: InstanceName::new(name).expect("a name"),
        template: TemplateName::new("demo").expect("a template"),
        spec: InstanceSpec::default(),
        lease: Lease::default(),
        port,
        token_hash,
        now: 1_000,
    }
}

/// A write that keeps what the record holds and starts its next launch.
pub(crate) fn next_launch(record: &InstanceRecord) -> StateWrite {
    StateWrite {
        id: record.id,
        expected_generation: record.generation,
        generation: record.generation.next(),
        desired: DesiredState::Running,
        state: InstanceState::Starting,
        lease: record.lease,
        restart_row: RestartRow::default(),
        restarts: record.restarts,
        last_exit: record.last_exit.clone(),
        now: 2_000,
    }
}

pub(crate) fn generation(number: u64) -> Generation {
    Generation(number)
}
