//! The instance row and its way back into the domain's record.

use sqlx::Row;

use super::{StoreError, row::JsonText};
use crate::domain::{
    id::{Generation, InstanceId, InstanceName, OwnerId, TemplateName},
    instance::{InstanceRecord, Lease},
    state::DesiredState,
};

/// A row that could not be read back. It stays in the database for a person to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorruptRow {
    /// The table.
    pub table: &'static str,
    /// The first column that does not hold what was written.
    pub column: &'static str,
    /// The row's identity, as text.
    pub id: String,
}

const TABLE: &str = "instances";

row! {
    pub(super) struct InstanceRow {
        instance_key: i64,
        id: String,
        owner: String,
        name: String,
        template: String,
        spec: JsonText,
        desired: String,
        state: JsonText,
        generation: i64,
        ttl_ms: Option<i64>,
        expires_at: Option<i64>,
        restore_until: Option<i64>,
        warned: bool,
        restart_row: JsonText,
        restarts: i64,
        last_exit: Option<JsonText>,
        handshake: Option<JsonText>,
        created_at: i64,
        updated_at: i64,
        last_accessed_at: Option<i64>,
        port: Option<i32>,
    }
}

/// The word of the `desired` column.
pub(super) fn desired_word(desired: DesiredState) -> &'static str {
    match desired {
        DesiredState::Running => "running",
        DesiredState::Stopped => "stopped",
    }
}

/// Reads one row of any database; a column of a wrong type counts as damaged like a wrong content.
pub(super) fn read_instance<'r, R>(row: &'r R) -> Result<InstanceRecord, CorruptRow>
where
    R: Row,
    InstanceRow: sqlx::FromRow<'r, R>,
    &'static str: sqlx::ColumnIndex<R>,
    String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    match <InstanceRow as sqlx::FromRow<'r, R>>::from_row(row) {
        Ok(row) => row.into_record(),
        Err(_) => Err(CorruptRow {
            table: TABLE,
            column: "(type)",
            id: row.try_get("id").unwrap_or_default(),
        }),
    }
}

impl InstanceRow {
    fn into_record(self) -> Result<InstanceRecord, CorruptRow> {
        let id = self.id.clone();
        let damaged = |column: &'static str| CorruptRow {
            table: TABLE,
            column,
            id: id.clone(),
        };
        let counter = |column, value: i64| u64::try_from(value).map_err(|_| damaged(column));
        Ok(InstanceRecord {
            id: self.id.parse::<InstanceId>().map_err(|_| damaged("id"))?,
            key: self.instance_key,
            owner: OwnerId::new(self.owner).map_err(|_| damaged("owner"))?,
            name: InstanceName::new(self.name).map_err(|_| damaged("name"))?,
            template: TemplateName::new(self.template).map_err(|_| damaged("template"))?,
            spec: self.spec.read().ok_or_else(|| damaged("spec"))?,
            desired: match self.desired.as_str() {
                "running" => DesiredState::Running,
                "stopped" => DesiredState::Stopped,
                _ => return Err(damaged("desired")),
            },
            state: self.state.read().ok_or_else(|| damaged("state"))?,
            generation: Generation(counter("generation", self.generation)?),
            port: match self.port {
                None => None,
                Some(port) => Some(u16::try_from(port).map_err(|_| damaged("port"))?),
            },
            lease: Lease {
                ttl_ms: match self.ttl_ms {
                    None => None,
                    Some(ttl_ms) => Some(counter("ttl_ms", ttl_ms)?),
                },
                expires_at: self.expires_at,
                restore_until: self.restore_until,
                warned: self.warned,
            },
            restart_row: self
                .restart_row
                .read()
                .ok_or_else(|| damaged("restart_row"))?,
            restarts: counter("restarts", self.restarts)?,
            last_exit: match self.last_exit {
                None => None,
                Some(text) => Some(text.read().ok_or_else(|| damaged("last_exit"))?),
            },
            handshake: match self.handshake {
                None => None,
                Some(text) => Some(text.read().ok_or_else(|| damaged("handshake"))?),
            },
            created_at: self.created_at,
            updated_at: self.updated_at,
            last_accessed_at: self.last_accessed_at,
        })
    }
}

impl From<CorruptRow> for StoreError {
    fn from(row: CorruptRow) -> Self {
        Self::Corrupt {
            table: row.table,
            column: row.column,
            id: row.id,
        }
    }
}
