//! The databases that a test can have: each server of a test gets a new one.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Where a server keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// A file in its folder.
    Sqlite,
    /// A database of its own on the server at `MINIMCP_TEST_POSTGRES_URL`.
    Postgres,
}

impl Database {
    /// The databases that can be tested here; without PostgreSQL it says so.
    pub fn available() -> Vec<Self> {
        if std::env::var_os("MINIMCP_TEST_POSTGRES_URL").is_some() {
            vec![Self::Sqlite, Self::Postgres]
        } else {
            eprintln!("SKIPPED on PostgreSQL: run ./tests/run, or set MINIMCP_TEST_POSTGRES_URL");
            vec![Self::Sqlite]
        }
    }

    /// The URL of a new, empty database.
    pub async fn create(self, folder: &Path) -> String {
        if self == Self::Sqlite {
            return format!("sqlite:{}", folder.join("minimcp.db").display());
        }
        let url = std::env::var("MINIMCP_TEST_POSTGRES_URL").expect("available() was asked");
        let name = format!("it_{}", uuid::Uuid::now_v7().simple());
        let mut connection = PgConnection::connect(&url)
            .await
            .expect("the PostgreSQL of MINIMCP_TEST_POSTGRES_URL answers");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .expect("its user may create databases");
        let (server, _) = url.rsplit_once('/').expect("the URL names a database");
        format!("{server}/{name}")
    }
}

/// Makes two tests of each case, `async fn case(database: Database)`: one on SQLite, one on PostgreSQL.
macro_rules! on_both_databases {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            use crate::harness::Database;

            #[tokio::test]
            async fn on_sqlite() {
                super::$case(Database::Sqlite).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                if Database::available().contains(&Database::Postgres) {
                    super::$case(Database::Postgres).await;
                }
            }
        }
    )+};
}
pub(crate) use on_both_databases;
