//! What happened, append-only: what, when, to which launch.

use sqlx::query;

use super::{
    Store, StoreError,
    damaged::each,
    row::{to_column, without_nul},
};
use crate::domain::{
    UnixMs,
    id::{Generation, InstanceId},
};

/// Something that happened, not yet numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// To which instance; it need not exist any more.
    pub instance: InstanceId,
    /// To which launch.
    pub generation: Generation,
    /// When.
    pub at: UnixMs,
    /// A stable word, such as `created`, `started`, `expired`.
    pub kind: String,
    /// One sentence, redacted.
    pub message: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Rises with every event; the cursor of pages and of the event stream.
    pub id: i64,
    /// To which instance.
    pub instance: InstanceId,
    /// To which launch.
    pub generation: Generation,
    /// When.
    pub at: UnixMs,
    /// A stable word.
    pub kind: String,
    /// One sentence.
    pub message: String,
}

pub(super) const INSERT_EVENT: &str = "INSERT INTO events (instance_id, generation, at, kind, message) \
     VALUES ($1, $2, $3, $4, $5) RETURNING id";

/// Events as columns, for one statement on PostgreSQL.
#[derive(Debug, Default)]
pub(super) struct EventArrays {
    pub(super) instances: Vec<String>,
    pub(super) generations: Vec<i64>,
    pub(super) times: Vec<i64>,
    pub(super) kinds: Vec<String>,
    pub(super) messages: Vec<String>,
}

impl EventArrays {
    pub(super) fn of(events: &[NewEvent]) -> Self {
        let mut arrays = Self::default();
        for event in events {
            arrays.instances.push(event.instance.to_string());
            arrays.generations.push(to_column(event.generation.0));
            arrays.times.push(event.at);
            arrays.kinds.push(without_nul(&event.kind).into_owned());
            arrays
                .messages
                .push(without_nul(&event.message).into_owned());
        }
        arrays
    }
}

/// Inserts events within a transaction; gives their ids in order.
macro_rules! insert_events {
    ($tx:ident, $events:expr) => {{
        let mut ids = Vec::with_capacity($events.len());
        for event in $events {
            let id: i64 = sqlx::query_scalar($crate::store::events::INSERT_EVENT)
                .bind(event.instance.to_string())
                .bind($crate::store::row::to_column(event.generation.0))
                .bind(event.at)
                .bind($crate::store::row::without_nul(&event.kind))
                .bind($crate::store::row::without_nul(&event.message))
                .fetch_one(&mut *$tx)
                .await?;
            ids.push(id);
        }
        ids
    }};
}
pub(super) use insert_events;

row! {
    struct EventColumns {
        id: i64,
        instance_id: String,
        generation: i64,
        at: i64,
        kind: String,
        message: String,
    }
}

impl Store {
    /// Appends events in one transaction; answers their ids in order.
    ///
    /// # Errors
    /// Those of the database; nothing is written then.
    pub async fn append_events(&self, events: &[NewEvent]) -> Result<Vec<i64>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        Ok(in_transaction!(self, |tx| { insert_events!(tx, events) }))
    }

    /// Up to `limit` events with an id greater than `after`, oldest first, of one instance or of all. On PostgreSQL
    /// two writers may commit out of the order of their ids, so a follower reads the live stream and uses this only
    /// for what came before it. A damaged row is logged and passed over.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn events_page(
        &self,
        instance: Option<InstanceId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        let limit = i64::from(limit);
        let (rows, corrupt): (Vec<EventColumns>, _) = reading!(self, |db| {
            let rows = match instance {
                Some(instance) => {
                    query(
                        "SELECT id, instance_id, generation, at, kind, message FROM events \
                         WHERE instance_id = $1 AND id > $2 ORDER BY id LIMIT $3",
                    )
                    .bind(instance.to_string())
                    .bind(after)
                    .bind(limit)
                    .fetch_all(db)
                    .await?
                }
                None => {
                    query(
                        "SELECT id, instance_id, generation, at, kind, message FROM events \
                         WHERE id > $1 ORDER BY id LIMIT $2",
                    )
                    .bind(after)
                    .bind(limit)
                    .fetch_all(db)
                    .await?
                }
            };
            each(&rows, "events", "id")
        });
        for row in corrupt {
            tracing::error!(table = "events", id = row.id, "passed over a damaged row");
        }
        let read = |row: EventColumns| {
            let instance = row.instance_id.parse().ok();
            let generation = u64::try_from(row.generation).ok();
            if instance.is_none() || generation.is_none() {
                tracing::error!(table = "events", id = row.id, "passed over a damaged row");
            }
            instance
                .zip(generation)
                .map(|(instance, generation)| EventRow {
                    id: row.id,
                    instance,
                    generation: Generation(generation),
                    at: row.at,
                    kind: row.kind,
                    message: row.message,
                })
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }
}
