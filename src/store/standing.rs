//! How a database stands to the migrations of this program, found out without changing it.

use std::{path::Path, str::FromStr};

use sqlx::{
    ConnectOptions as _, Connection as _, migrate::Migrator, postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};

use super::{StoreError, pool};
use crate::config::DatabaseConfig;

const APPLIED: &str = "SELECT version, checksum, success FROM _sqlx_migrations";

/// A migration that a database has: its number, the hash of its text, whether it came to its end.
type Applied = (i64, Vec<u8>, bool);

/// How many migrations a daemon of this program would apply to the database before it serves.
///
/// # Errors
/// [`StoreError::Unavailable`] when the database does not answer. [`StoreError::Refused`] when such a daemon would refuse
/// it: it is of a newer minimcp, of another build, or a migration broke off; and when `config` is wrong.
pub async fn pending_migrations(config: &DatabaseConfig) -> Result<usize, StoreError> {
    match pool::sqlite_path(&config.url) {
        Some(path) => judge(
            &of_sqlite(Path::new(path)).await?,
            &pool::sqlite_migrations(),
        ),
        None => judge(&of_postgres(config).await?, &pool::postgres_migrations()),
    }
}

async fn of_sqlite(path: &Path) -> Result<Vec<Applied>, StoreError> {
    if !path.exists() {
        // A daemon would make it.
        return Ok(Vec::new());
    }
    let place = path.display().to_string();
    let failed = |error: sqlx::Error| pool::named(&place, error.into());
    let mut database = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .busy_timeout(pool::BUSY_TIMEOUT)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(failed)?;
    let tables: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master WHERE name = '_sqlx_migrations'")
            .fetch_one(&mut database)
            .await
            .map_err(failed)?;
    let applied = match tables {
        0 => Ok(Vec::new()),
        _ => sqlx::query_as(APPLIED).fetch_all(&mut database).await,
    };
    // Whether the goodbye is heard does not matter.
    let _ = database.close().await;
    applied.map_err(failed)
}

async fn of_postgres(config: &DatabaseConfig) -> Result<Vec<Applied>, StoreError> {
    let options = PgConnectOptions::from_str(&config.url)
        .map_err(|_| StoreError::Refused("database.url is not a valid address".to_owned()))?
        .application_name("minimcp")
        .disable_statement_logging();
    let asking = async {
        let mut database = options.connect().await?;
        let is_there: bool =
            sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
                .fetch_one(&mut database)
                .await?;
        let applied = match is_there {
            false => Vec::new(),
            true => sqlx::query_as(APPLIED).fetch_all(&mut database).await?,
        };
        // Whether the goodbye is heard does not matter.
        let _ = database.close().await;
        Ok::<_, sqlx::Error>(applied)
    };
    // Each of the four steps may take as long.
    let limit = config.acquire_timeout.std() * 4;
    match tokio::time::timeout(limit, asking).await {
        Ok(applied) => applied.map_err(|error| pool::named("PostgreSQL", error.into())),
        Err(_) => Err(StoreError::Unavailable(
            "PostgreSQL does not answer".to_owned(),
        )),
    }
}

/// What a daemon would make of it at its start.
fn judge(applied: &[Applied], own: &Migrator) -> Result<usize, StoreError> {
    for (version, checksum, success) in applied {
        let number = *version;
        if !success {
            return Err(StoreError::Refused(format!(
                "migration {number} of the database broke off"
            )));
        }
        match own.iter().find(|own| own.version == number) {
            None => return Err(pool::of_a_newer_one(number)),
            Some(own) if *own.checksum != **checksum => {
                return Err(pool::of_another_build(number));
            }
            Some(_) => {}
        }
    }
    let has = |version: i64| applied.iter().any(|(number, ..)| *number == version);
    Ok(own.iter().filter(|own| !has(own.version)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Applied> {
        let own = pool::sqlite_migrations();
        own.iter()
            .map(|one| (one.version, one.checksum.to_vec(), true))
            .collect()
    }

    fn refused(applied: &[Applied]) -> String {
        match judge(applied, &pool::sqlite_migrations()) {
            Err(StoreError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_missing_is_counted() {
        let own = pool::sqlite_migrations();
        assert_eq!(judge(&all(), &own), Ok(0));
        assert_eq!(judge(&all()[..2], &own), Ok(all().len() - 2));
        assert_eq!(judge(&[], &own), Ok(all().len()));
    }

    #[test]
    fn what_a_daemon_would_refuse_is_refused() {
        let mut newer = all();
        newer.push((9_999, vec![1], true));
        assert!(refused(&newer).contains("newer minimcp"));
        let mut other = all();
        other[0].1 = vec![1];
        assert!(refused(&other).contains("another build"));
        let mut broken = all();
        broken[1].2 = false;
        assert!(refused(&broken).contains("migration 2 of the database broke off"));
    }
}
