//! The two writes that every instance makes most: its record at creation, its state at every change. Each is one round
//! trip on PostgreSQL: under load, trips are what a connection is held for.

use sqlx::{query, query_as, query_scalar};

use super::{
    EventRow, NewEvent, Store, StoreError,
    events::{EventArrays, INSERT_EVENT, insert_events},
    pool::Pool,
    records::desired_word,
    row::{JsonText, to_column},
};
use crate::domain::{
    UnixMs,
    access::{DEFAULT_TOKEN, TokenScope},
    exit::ExitRecord,
    id::{Generation, InstanceId, InstanceName, OwnerId, TemplateName},
    instance::{InstanceRecord, InstanceSpec, Lease},
    restart::RestartRow,
    state::{DesiredState, InstanceState},
};

/// What a new instance starts with.
#[derive(Debug, Clone)]
pub struct NewInstance {
    /// Its identity.
    pub id: InstanceId,
    /// Who owns it.
    pub owner: OwnerId,
    /// Its name, unique among the owner's instances.
    pub name: InstanceName,
    /// What it is made from.
    pub template: TemplateName,
    /// What was chosen.
    pub spec: InstanceSpec,
    /// Its time to live.
    pub lease: Lease,
    /// The access port to lease.
    pub port: u16,
    /// SHA-256 of its access token.
    pub token_hash: [u8; 32],
    /// The time of creation.
    pub now: UnixMs,
}

/// The part of a record that its actor writes.
#[derive(Debug, Clone)]
pub struct StateWrite {
    /// Which instance.
    pub id: InstanceId,
    /// The newest generation that the writer knows of; a newer one in the row refuses the write.
    pub expected_generation: Generation,
    /// The generation to write.
    pub generation: Generation,
    /// What was asked.
    pub desired: DesiredState,
    /// What it is doing.
    pub state: InstanceState,
    /// Its time to live.
    pub lease: Lease,
    /// Failures in a row.
    pub restart_row: RestartRow,
    /// Launches since creation, the first not counted.
    pub restarts: u64,
    /// Its last end.
    pub last_exit: Option<ExitRecord>,
    /// The time of the write.
    pub now: UnixMs,
}

const INSERT_INSTANCE: &str = "INSERT INTO instances \
    (id, owner, name, template, spec, desired, state, generation, ttl_ms, expires_at, restore_until, warned, \
     restart_row, restarts, created_at, updated_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11, $12, 0, $13, $13) RETURNING instance_key";

const UPDATE_STATE: &str = "UPDATE instances SET generation = $3, desired = $4, state = $5, ttl_ms = $6, \
     expires_at = $7, restore_until = $8, warned = $9, restart_row = $10, restarts = $11, last_exit = $12, \
     updated_at = $13 \
    WHERE id = $1 AND generation <= $2";

/// All of [`Store::create_instance`] in one round trip, which is what a busy server is short of. The lease names the
/// count of what was freed, so that its row is gone before the new one comes.
const CREATE_IN_ONE_TRIP: &str = "WITH \
    i AS (INSERT INTO instances \
        (id, owner, name, template, spec, desired, state, generation, ttl_ms, expires_at, restore_until, warned, \
         restart_row, restarts, created_at, updated_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11, $12, 0, $13, $13) RETURNING instance_key), \
    freed AS (DELETE FROM port_leases \
        WHERE port = $14 AND instance_key IS NULL AND quarantine_until <= $13 RETURNING port), \
    leased AS (INSERT INTO port_leases (port, instance_key, leased_at) \
        SELECT $14::int, i.instance_key, $13::bigint FROM i, (SELECT COUNT(*) FROM freed) AS f (ports) \
        WHERE f.ports >= 0), \
    token AS (INSERT INTO access_tokens (instance_key, name, scope, created_at) \
        SELECT instance_key, $15::text, $16::jsonb, $13::bigint FROM i), \
    secret AS (INSERT INTO access_token_secrets (hash, instance_key, name, created_at) \
        SELECT $17::bytea, instance_key, $15::text, $13::bigint FROM i), \
    told AS (INSERT INTO events (instance_id, generation, at, kind, message) \
        VALUES ($1, 0, $13, 'created', $18) RETURNING id) \
    SELECT i.instance_key, told.id FROM i, told";

/// All of [`Store::save_state`] in one round trip. Identities rise in the order of the rows that are inserted.
const SAVE_IN_ONE_TRIP: &str = "WITH \
    changed AS (UPDATE instances SET generation = $3, desired = $4, state = $5, ttl_ms = $6, \
        expires_at = $7, restore_until = $8, warned = $9, restart_row = $10, restarts = $11, last_exit = $12, \
        updated_at = $13 WHERE id = $1 AND generation <= $2 RETURNING 1), \
    told AS (INSERT INTO events (instance_id, generation, at, kind, message) \
        SELECT u.instance_id, u.generation, u.at, u.kind, u.message \
        FROM UNNEST($14::text[], $15::bigint[], $16::bigint[], $17::text[], $18::text[]) WITH ORDINALITY \
            AS u (instance_id, generation, at, kind, message, position) \
        WHERE EXISTS (SELECT 1 FROM changed) ORDER BY u.position RETURNING id) \
    SELECT EXISTS (SELECT 1 FROM changed), ARRAY(SELECT id FROM told ORDER BY id), \
        EXISTS (SELECT 1 FROM instances WHERE id = $1)";

impl Store {
    /// Records an instance that should run, leases its port, makes its token `default` with this hash and writes the event `created`:
    /// all of it or nothing. The record starts as `Pending` with generation 0.
    ///
    /// # Errors
    /// `Conflict("name")` when the owner has an instance of this name, `Conflict("port")` when the port is leased or
    /// rests, `Conflict("id")` when the id exists.
    pub async fn create_instance(&self, new: NewInstance) -> Result<InstanceRecord, StoreError> {
        self.create_and_tell(new).await.map(|(record, _)| record)
    }

    /// The same, with the event as it was written, for whoever tells of it.
    ///
    /// # Errors
    /// As [`Self::create_instance`].
    pub async fn create_and_tell(
        &self,
        new: NewInstance,
    ) -> Result<(InstanceRecord, EventRow), StoreError> {
        let id = new.id.to_string();
        let spec = JsonText::of(&new.spec)?;
        let state = JsonText::of(&InstanceState::Pending)?;
        let restart_row = JsonText::of(&RestartRow::default())?;
        let all = JsonText::of(&TokenScope::All)?;
        let port = i32::from(new.port);
        let told = format!("created from template {} with port {port}", new.template);
        macro_rules! instance {
            ($query:expr) => {
                $query
                    .bind(&id)
                    .bind(new.owner.as_str())
                    .bind(new.name.as_str())
                    .bind(new.template.as_str())
                    .bind(&spec)
                    .bind(desired_word(DesiredState::Running))
                    .bind(&state)
                    .bind(new.lease.ttl_ms.map(to_column))
                    .bind(new.lease.expires_at)
                    .bind(new.lease.restore_until)
                    .bind(new.lease.warned)
                    .bind(&restart_row)
                    .bind(new.now)
            };
        }
        let (key, event): (i64, i64) = match &self.pool {
            Pool::Postgres { pool, .. } => in_time!(
                self,
                instance!(query_as(CREATE_IN_ONE_TRIP))
                    .bind(port)
                    .bind(DEFAULT_TOKEN)
                    .bind(&all)
                    .bind(&new.token_hash[..])
                    .bind(&told)
                    .fetch_one(pool)
                    .await?
            ),
            Pool::Sqlite { writer, .. } => in_time!(self, {
                let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                let key = instance!(query_scalar(INSERT_INSTANCE))
                    .fetch_one(&mut *tx)
                    .await?;
                query(super::ports::DELETE_RESTED)
                    .bind(port)
                    .bind(new.now)
                    .execute(&mut *tx)
                    .await?;
                query(super::ports::INSERT_LEASE)
                    .bind(port)
                    .bind(key)
                    .bind(new.now)
                    .execute(&mut *tx)
                    .await?;
                query(super::tokens::INSERT_DEFAULT)
                    .bind(key)
                    .bind(DEFAULT_TOKEN)
                    .bind(&all)
                    .bind(new.now)
                    .execute(&mut *tx)
                    .await?;
                query(super::tokens::INSERT_SECRET)
                    .bind(&new.token_hash[..])
                    .bind(key)
                    .bind(DEFAULT_TOKEN)
                    .bind(new.now)
                    .execute(&mut *tx)
                    .await?;
                let event: i64 = query_scalar(INSERT_EVENT)
                    .bind(&id)
                    .bind(0_i64)
                    .bind(new.now)
                    .bind("created")
                    .bind(&told)
                    .fetch_one(&mut *tx)
                    .await?;
                tx.commit().await?;
                (key, event)
            }),
        };
        let event = EventRow {
            id: event,
            instance: new.id,
            generation: Generation::default(),
            at: new.now,
            kind: "created".to_owned(),
            message: told,
        };
        let record = InstanceRecord {
            id: new.id,
            key,
            owner: new.owner,
            name: new.name,
            template: new.template,
            spec: new.spec,
            desired: DesiredState::Running,
            state: InstanceState::Pending,
            generation: Generation::default(),
            port: Some(new.port),
            lease: new.lease,
            restart_row: RestartRow::default(),
            restarts: 0,
            last_exit: None,
            handshake: None,
            created_at: new.now,
            updated_at: new.now,
            last_accessed_at: None,
        };
        Ok((record, event))
    }

    /// Writes an instance's state and what happened, in one transaction; answers the ids of the events in their order.
    ///
    /// # Errors
    /// `Conflict("generation")` when the row has a newer generation than expected, `NotFound` when there is no row;
    /// nothing is written then.
    pub async fn save_state(
        &self,
        write: &StateWrite,
        events: &[NewEvent],
    ) -> Result<Vec<i64>, StoreError> {
        let id = write.id.to_string();
        let state = JsonText::of(&write.state)?;
        let restart_row = JsonText::of(&write.restart_row)?;
        let last_exit = write.last_exit.as_ref().map(JsonText::of).transpose()?;
        macro_rules! state {
            ($query:expr) => {
                $query
                    .bind(&id)
                    .bind(to_column(write.expected_generation.0))
                    .bind(to_column(write.generation.0))
                    .bind(desired_word(write.desired))
                    .bind(&state)
                    .bind(write.lease.ttl_ms.map(to_column))
                    .bind(write.lease.expires_at)
                    .bind(write.lease.restore_until)
                    .bind(write.lease.warned)
                    .bind(&restart_row)
                    .bind(to_column(write.restarts))
                    .bind(last_exit.as_ref())
                    .bind(write.now)
            };
        }
        let (changed, ids, exists): (bool, Vec<i64>, bool) = match &self.pool {
            Pool::Postgres { pool, .. } => in_time!(self, {
                let columns = EventArrays::of(events);
                state!(query_as(SAVE_IN_ONE_TRIP))
                    .bind(columns.instances)
                    .bind(columns.generations)
                    .bind(columns.times)
                    .bind(columns.kinds)
                    .bind(columns.messages)
                    .fetch_one(pool)
                    .await?
            }),
            Pool::Sqlite { writer, .. } => in_time!(self, {
                let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                if state!(query(UPDATE_STATE))
                    .execute(&mut *tx)
                    .await?
                    .rows_affected()
                    > 0
                {
                    let ids = insert_events!(tx, events);
                    tx.commit().await?;
                    (true, ids, true)
                } else {
                    let row: Option<i64> =
                        query_scalar("SELECT instance_key FROM instances WHERE id = $1")
                            .bind(&id)
                            .fetch_optional(&mut *tx)
                            .await?;
                    (false, Vec::new(), row.is_some())
                }
            }),
        };
        match (changed, exists) {
            (true, _) => Ok(ids),
            (false, true) => Err(StoreError::Conflict("generation")),
            (false, false) => Err(StoreError::NotFound),
        }
    }
}
