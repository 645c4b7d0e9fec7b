//! What can go wrong with the store, free of HTTP and of passwords.

use sqlx::error::DatabaseError;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The row is not there.
    #[error("there is no such row")]
    NotFound,
    /// Another row, or a newer write, stands in the way. One of `name`, `port`, `id`, `token`, `token-name`,
    /// `tokens-max`, `generation`, `idempotency-key`, `row`.
    #[error("conflict: {0}")]
    Conflict(&'static str),
    /// The database is away or busy; the sentence says which and why, without a password. Worth another try.
    #[error("{0}")]
    Unavailable(String),
    /// A row cannot be read back as what was written.
    #[error("the row {id} of table {table} is damaged in column {column}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's key, as text.
        id: String,
    },
    /// The database, or its configuration, does not allow this, and another try would not help.
    #[error("{0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Which kind it is, in one word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Conflict(_) => "conflict",
            Self::Unavailable(_) => "unavailable",
            Self::Corrupt { .. } => "corrupt",
            Self::Refused(_) => "refused",
        }
    }

    pub(super) fn corrupt(table: &'static str, column: &'static str, id: impl ToString) -> Self {
        Self::Corrupt {
            table,
            column,
            id: id.to_string(),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::RowNotFound => Self::NotFound,
            sqlx::Error::Database(error) => of_database(&*error),
            sqlx::Error::PoolTimedOut => {
                Self::Unavailable("the database gave no connection in time".to_owned())
            }
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::Unavailable("the connection to the database is closed".to_owned())
            }
            sqlx::Error::BeginFailed => {
                Self::Unavailable("the database began no transaction".to_owned())
            }
            sqlx::Error::Io(error) => {
                Self::Unavailable(format!("the connection to the database failed: {error}"))
            }
            sqlx::Error::Tls(error) => {
                Self::Unavailable(format!("TLS with the database failed: {error}"))
            }
            sqlx::Error::Protocol(text) => {
                Self::Unavailable(format!("the database answered out of turn: {text}"))
            }
            sqlx::Error::Migrate(error) => match *error {
                sqlx::migrate::MigrateError::Execute(error)
                | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => error.into(),
                other => Self::Refused(format!("the tables cannot be brought up to date: {other}")),
            },
            other => Self::Refused(format!("the database call failed: {other}")),
        }
    }
}

fn of_database(error: &dyn DatabaseError) -> StoreError {
    if error.is_unique_violation() {
        // PostgreSQL names the constraint; SQLite lists `table.column` in its message.
        let text = error.constraint().unwrap_or_else(|| error.message());
        return StoreError::Conflict(conflict_word(text));
    }
    if error.is_foreign_key_violation() {
        return StoreError::NotFound;
    }
    let code = error.code().unwrap_or_default();
    let text = error.message();
    if is_transient(&code) {
        StoreError::Unavailable(format!(
            "the database cannot serve now: {text}{}",
            hint(&code)
        ))
    } else {
        StoreError::Refused(refusal(&code, text))
    }
}

/// Where to look, when SQLite's own words do not tell it.
fn hint(code: &str) -> &'static str {
    // READONLY and IOERR; those of PostgreSQL have five characters.
    match code.parse::<u32>().map(|number| number & 0xff) {
        Ok(8 | 10) if code.len() < 5 => {
            " (its file system is read-only, or its device fails: see mount and the kernel's log)"
        }
        _ => "",
    }
}

/// What PostgreSQL says to those who are not let in, and what they can do (SQLSTATE, appendix A of its manual).
fn refusal(code: &str, text: &str) -> String {
    match code {
        // Its sentence names the user, never the password.
        "28P01" | "28000" => {
            format!("the login was refused ({text}); check user and password in database.url")
        }
        "3D000" => format!("{text}; create it, or name another one in database.url"),
        "42501" => format!("the user in database.url may do too little there: {text}"),
        _ => format!("the database refused a statement: {text}"),
    }
}

fn conflict_word(text: &str) -> &'static str {
    const WORDS: [(&str, &str); 8] = [
        ("instances_owner_name", "name"),
        ("instances.owner", "name"),
        ("instances_id", "id"),
        ("instances.id", "id"),
        ("port_leases", "port"),
        ("access_token_secrets", "token"),
        ("access_tokens", "token-name"),
        ("idempotency_keys", "idempotency-key"),
    ];
    WORDS
        .iter()
        .find(|(part, _)| text.contains(part))
        .map_or("row", |(_, word)| word)
}

/// Codes after which waiting helps: SQLSTATE classes (PostgreSQL manual, appendix A), or the primary result codes of
/// SQLite (their low byte).
fn is_transient(code: &str) -> bool {
    if code.len() == 5 {
        // Connection, resources, operator intervention (shutdown, start), rollback by conflict, read-only standby.
        return ["08", "53", "57", "40"]
            .iter()
            .any(|class| code.starts_with(class))
            || code == "25006"
            || code == "55P03";
    }
    // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN.
    code.parse::<u32>()
        .is_ok_and(|code| matches!(code & 0xff, 5..=10 | 13 | 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_takes_nothing_is_told_as_one() {
        for code in ["8", "10", "776", "778"] {
            assert!(hint(code).contains("read-only"), "{code}");
        }
        for other in ["5", "13", "08006", "25006", ""] {
            assert_eq!(hint(other), "", "{other}");
        }
    }

    #[test]
    fn only_what_passes_by_itself_is_worth_another_try() {
        for transient in [
            "08006", "57P01", "57P03", "53300", "40001", "40P01", "25006", "5", "6", "10", "13",
            "261", "517",
        ] {
            assert!(is_transient(transient), "{transient}");
        }
        for lasting in [
            "42P01", "28P01", "3D000", "22P02", "1", "11", "26", "20", "",
        ] {
            assert!(!is_transient(lasting), "{lasting}");
        }
        assert!(StoreError::Unavailable(String::new()).retryable());
        assert!(!StoreError::Refused(String::new()).retryable());
        assert!(!StoreError::Conflict("name").retryable());
    }

    #[test]
    fn who_is_not_let_in_is_told_where_to_look() {
        let said = refusal("28P01", "password authentication failed for user \"x\"");
        assert_eq!(
            said,
            "the login was refused (password authentication failed for user \"x\"); check user and password in \
             database.url"
        );
        assert!(refusal("3D000", "database \"y\" does not exist").contains("create it"));
        assert!(refusal("42P01", "x").starts_with("the database refused a statement"));
    }

    #[test]
    fn both_dialects_name_the_same_conflict() {
        for (text, word) in [
            ("instances_owner_name", "name"),
            (
                "UNIQUE constraint failed: instances.owner, instances.name",
                "name",
            ),
            ("UNIQUE constraint failed: instances.id", "id"),
            ("instances_id", "id"),
            ("port_leases_pkey", "port"),
            ("UNIQUE constraint failed: port_leases.port", "port"),
            ("access_token_secrets_pkey", "token"),
            (
                "UNIQUE constraint failed: access_token_secrets.hash",
                "token",
            ),
            ("access_tokens_pkey", "token-name"),
            (
                "UNIQUE constraint failed: access_tokens.instance_key, access_tokens.name",
                "token-name",
            ),
            ("something_else", "row"),
        ] {
            assert_eq!(conflict_word(text), word, "{text}");
        }
    }
}
