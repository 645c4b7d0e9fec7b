//! Instances: created whole or not at all, changed by compare-and-swap on the generation.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{query, query_scalar};

use super::{
    CorruptRow, NewEvent, Store, StoreError,
    events::{INSERT_EVENT, insert_events},
    records::{desired_word, read_instance},
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

macro_rules! select_instances {
    ($tail:literal) => {
        concat!(
            "SELECT i.instance_key, i.id, i.owner, i.name, i.template, i.spec, i.desired, i.state, i.generation, \
             i.ttl_ms, i.expires_at, i.restore_until, i.warned, i.restart_row, i.restarts, i.last_exit, i.handshake, \
             i.created_at, i.updated_at, i.last_accessed_at, p.port \
             FROM instances i LEFT JOIN port_leases p ON p.instance_key = i.instance_key ",
            $tail
        )
    };
}

impl Store {
    /// Records an instance that should run, leases its port, makes its token `default` with this hash and writes the event `created`:
    /// all of it or nothing. The record starts as `Pending` with generation 0.
    ///
    /// # Errors
    /// `Conflict("name")` when the owner has an instance of this name, `Conflict("port")` when the port is leased or
    /// rests, `Conflict("id")` when the id exists.
    pub async fn create_instance(&self, new: NewInstance) -> Result<InstanceRecord, StoreError> {
        let id = new.id.to_string();
        let spec = JsonText::of(&new.spec)?;
        let state = JsonText::of(&InstanceState::Pending)?;
        let restart_row = JsonText::of(&RestartRow::default())?;
        let all = JsonText::of(&TokenScope::All)?;
        let port = i32::from(new.port);
        let key: i64 = in_transaction!(self, |tx| {
            let key = query_scalar(INSERT_INSTANCE)
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
            query(INSERT_EVENT)
                .bind(&id)
                .bind(0_i64)
                .bind(new.now)
                .bind("created")
                .bind(format!(
                    "created from template {} with port {port}",
                    new.template
                ))
                .execute(&mut *tx)
                .await?;
            key
        });
        Ok(InstanceRecord {
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
        })
    }

    /// Every instance, oldest first, and apart from them the rows that cannot be read back.
    ///
    /// # Errors
    /// Those of the database as a whole; a damaged row is none.
    pub async fn instances(&self) -> Result<(Vec<InstanceRecord>, Vec<CorruptRow>), StoreError> {
        let read: Vec<Result<InstanceRecord, CorruptRow>> = reading!(self, |db| {
            query(select_instances!("ORDER BY i.instance_key"))
                .fetch_all(db)
                .await?
                .iter()
                .map(read_instance)
                .collect()
        });
        let mut records = Vec::with_capacity(read.len());
        let mut corrupt = Vec::new();
        for row in read {
            match row {
                Ok(record) => records.push(record),
                Err(row) => corrupt.push(row),
            }
        }
        Ok((records, corrupt))
    }

    /// One instance.
    ///
    /// # Errors
    /// `Corrupt` when its row cannot be read back.
    pub async fn instance(&self, id: InstanceId) -> Result<Option<InstanceRecord>, StoreError> {
        reading!(self, |db| {
            let row = query(select_instances!("WHERE i.id = $1"))
                .bind(id.to_string())
                .fetch_optional(db)
                .await?;
            row.as_ref()
                .map(read_instance)
                .transpose()
                .map_err(StoreError::from)
        })
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
        let ids = in_transaction!(self, |tx| {
            let changed = query(UPDATE_STATE)
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
                .execute(&mut *tx)
                .await?
                .rows_affected();
            if changed == 0 {
                let newer: Option<i64> =
                    query_scalar("SELECT generation FROM instances WHERE id = $1")
                        .bind(&id)
                        .fetch_optional(&mut *tx)
                        .await?;
                return Err(match newer {
                    Some(_) => StoreError::Conflict("generation"),
                    None => StoreError::NotFound,
                });
            }
            insert_events!(tx, events)
        });
        Ok(ids)
    }

    /// Keeps what the child of `generation` answered in its handshake.
    ///
    /// # Errors
    /// `Conflict("generation")` when the row has another generation by now, `NotFound` when there is no row.
    pub async fn save_handshake(
        &self,
        id: InstanceId,
        generation: Generation,
        handshake: &Value,
    ) -> Result<(), StoreError> {
        let handshake = JsonText::of(handshake)?;
        let id = id.to_string();
        in_transaction!(self, |tx| {
            let row: Option<i64> = query_scalar("SELECT generation FROM instances WHERE id = $1")
                .bind(&id)
                .fetch_optional(&mut *tx)
                .await?;
            if row.is_none() {
                return Err(StoreError::NotFound);
            }
            let changed =
                query("UPDATE instances SET handshake = $3 WHERE id = $1 AND generation = $2")
                    .bind(&id)
                    .bind(to_column(generation.0))
                    .bind(&handshake)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
            if changed == 0 {
                return Err(StoreError::Conflict("generation"));
            }
        });
        Ok(())
    }

    /// Changes name, labels or both; what is `None` stays.
    ///
    /// # Errors
    /// `Conflict("name")` when the owner has another instance of this name, `NotFound`, `Corrupt` when the row's
    /// spec cannot be read back.
    pub async fn rename(
        &self,
        id: InstanceId,
        name: Option<&InstanceName>,
        labels: Option<&BTreeMap<String, String>>,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let id = id.to_string();
        in_transaction!(self, |tx| {
            let spec: JsonText =
                query_scalar("UPDATE instances SET updated_at = $2 WHERE id = $1 RETURNING spec")
                    .bind(&id)
                    .bind(now)
                    .fetch_optional(&mut *tx)
                    .await?
                    .ok_or(StoreError::NotFound)?;
            let mut spec: InstanceSpec = spec
                .read()
                .ok_or_else(|| StoreError::corrupt("instances", "spec", &id))?;
            if let Some(labels) = labels {
                spec.labels.clone_from(labels);
            }
            query("UPDATE instances SET name = COALESCE($2, name), spec = $3, updated_at = $4 WHERE id = $1")
                .bind(&id)
                .bind(name.map(InstanceName::as_str))
                .bind(JsonText::of(&spec)?)
                .bind(now)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    /// Notes when instances were last used, in one transaction; an older time than the row's changes nothing, and an
    /// unknown id is passed over.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn touch_accessed(
        &self,
        accessed: &[(InstanceId, UnixMs)],
    ) -> Result<(), StoreError> {
        if accessed.is_empty() {
            return Ok(());
        }
        match &self.pool {
            super::pool::Pool::Sqlite { writer, .. } => in_time!(self, {
                let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                for (id, at) in accessed {
                    query(
                        "UPDATE instances SET last_accessed_at = $2 \
                         WHERE id = $1 AND (last_accessed_at IS NULL OR last_accessed_at < $2)",
                    )
                    .bind(id.to_string())
                    .bind(at)
                    .execute(&mut *tx)
                    .await?;
                }
                tx.commit().await?;
            }),
            super::pool::Pool::Postgres(pool) => in_time!(self, {
                let (ids, times): (Vec<String>, Vec<i64>) = accessed
                    .iter()
                    .map(|(id, at)| (id.to_string(), *at))
                    .unzip();
                query(
                    "UPDATE instances SET last_accessed_at = GREATEST(last_accessed_at, a.at) \
                     FROM (SELECT id, MAX(at) AS at FROM UNNEST($1, $2) AS u (id, at) GROUP BY id) a \
                     WHERE instances.id = a.id",
                )
                .bind(ids)
                .bind(times)
                .execute(pool)
                .await?;
            }),
        }
        Ok(())
    }

    /// Removes an instance and its tokens; its port rests until `quarantine_until`. Its log rows become orphans, to be
    /// removed in steps by [`Store::delete_logs_of`]; its events stay until [`Store::delete_events_before`] reaches
    /// them, so that a frontend that was away still learns of the end.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance.
    pub async fn delete_instance(
        &self,
        id: InstanceId,
        quarantine_until: UnixMs,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let id = id.to_string();
        in_transaction!(self, |tx| {
            let key: i64 = query_scalar("SELECT instance_key FROM instances WHERE id = $1")
                .bind(&id)
                .fetch_optional(&mut *tx)
                .await?
                .ok_or(StoreError::NotFound)?;
            query(super::ports::REST_LEASE_OF)
                .bind(key)
                .bind(quarantine_until.max(now))
                .execute(&mut *tx)
                .await?;
            query("DELETE FROM instances WHERE instance_key = $1")
                .bind(key)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }
}
