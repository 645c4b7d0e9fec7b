//! What happened, append-only: what, when, to which launch.

use sqlx::query;

use super::{
    CorruptRow, Store, StoreError,
    damaged::{Filling, Read, is_time, read_page},
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
        message: Option<String>,
    }
}

const TABLE: &str = "events";

macro_rules! select_events {
    ($of:literal) => {
        concat!(
            "SELECT id, instance_id, generation, at, kind, \
             CASE WHEN octet_length(message) <= 16777216 THEN message END AS message FROM events WHERE ",
            $of,
            " id > $1 ORDER BY id LIMIT $2"
        )
    };
}

impl EventColumns {
    fn into_event(self) -> Result<EventRow, CorruptRow> {
        let damaged = |column| CorruptRow {
            table: TABLE,
            column,
            id: self.id.to_string(),
        };
        if !is_time(self.at) {
            return Err(damaged("at"));
        }
        let instance = self.instance_id.parse();
        let generation = u64::try_from(self.generation).map_err(|_| damaged("generation"))?;
        Ok(EventRow {
            id: self.id,
            instance: instance.map_err(|_| damaged("instance_id"))?,
            generation: Generation(generation),
            at: self.at,
            kind: self.kind,
            message: self.message.ok_or_else(|| damaged("message"))?,
        })
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
    /// for what came before it. A damaged row is passed over and named ([`Store::damaged_rows`]); one with a message of
    /// more than 16 MiB was not written here and counts as damaged.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn events_page(
        &self,
        instance: Option<InstanceId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        let mut filling = Filling::new(limit);
        let mut after = after;
        loop {
            let asked = filling.ask();
            let limit = to_column(asked as u64);
            let mut read: Read<EventColumns> = reading!(self, |db| {
                let rows = match instance {
                    Some(instance) => {
                        query(select_events!("instance_id = $3 AND"))
                            .bind(after)
                            .bind(limit)
                            .bind(instance.to_string())
                            .fetch_all(db)
                            .await?
                    }
                    None => {
                        query(select_events!(""))
                            .bind(after)
                            .bind(limit)
                            .fetch_all(db)
                            .await?
                    }
                };
                read_page(&rows, TABLE)
            });
            after = read.last.unwrap_or(after);
            let mut good = Vec::with_capacity(read.good.len());
            for row in read.good {
                match row.into_event() {
                    Ok(event) => good.push(event),
                    Err(corrupt) => read.corrupt.push(corrupt),
                }
            }
            self.damaged.met(read.corrupt);
            if !filling.take(asked, read.all, good) {
                return Ok(filling.done());
            }
        }
    }
}
