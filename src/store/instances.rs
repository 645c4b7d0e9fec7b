//! Instances: created whole or not at all, changed by compare-and-swap on the generation.

use futures_util::TryStreamExt as _;
use serde_json::Value;
use sqlx::{query, query_scalar};

use super::{
    CorruptRow, Store, StoreError,
    pool::Pool,
    records::read_instance,
    row::{JsonText, to_column},
};
use crate::domain::{
    UnixMs,
    id::{Generation, InstanceId, InstanceName},
    instance::{InstanceChange, InstanceRecord, InstanceSpec},
};

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
    /// Every instance, oldest first, and apart from them the rows that cannot be read back.
    ///
    /// # Errors
    /// Those of the database as a whole; a damaged row is none.
    pub async fn instances(&self) -> Result<(Vec<InstanceRecord>, Vec<CorruptRow>), StoreError> {
        let mut records = Vec::new();
        let corrupt = self.each_instance(|record| records.push(record)).await?;
        Ok((records, corrupt))
    }

    /// Shows every instance to `look`, oldest first, one at a time: a thousand are some megabytes. Answers the rows that
    /// cannot be read back.
    ///
    /// # Errors
    /// As [`Store::instances`].
    pub async fn each_instance(
        &self,
        mut look: impl FnMut(InstanceRecord),
    ) -> Result<Vec<CorruptRow>, StoreError> {
        Ok(reading!(self, |db| {
            let mut corrupt = Vec::new();
            let mut rows = query(select_instances!("ORDER BY i.instance_key")).fetch(db);
            while let Some(row) = rows.try_next().await? {
                match read_instance(&row) {
                    Ok(record) => look(record),
                    Err(row) => corrupt.push(row),
                }
            }
            corrupt
        }))
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
        let changed = writing!(self, |db| {
            query("UPDATE instances SET handshake = $3 WHERE id = $1 AND generation = $2")
                .bind(&id)
                .bind(to_column(generation.0))
                .bind(&handshake)
                .execute(db)
                .await?
                .rows_affected()
        });
        if changed > 0 {
            return Ok(());
        }
        let row: Option<i64> = reading!(self, |db| {
            query_scalar("SELECT generation FROM instances WHERE id = $1")
                .bind(&id)
                .fetch_optional(db)
                .await?
        });
        Err(match row {
            Some(_) => StoreError::Conflict("generation"),
            None => StoreError::NotFound,
        })
    }

    /// Changes what a person may change; what is `None` stays.
    ///
    /// # Errors
    /// `Conflict("name")` when the owner has another instance of this name, `NotFound`, `Corrupt` when the row's
    /// spec cannot be read back.
    pub async fn change_instance(
        &self,
        id: InstanceId,
        change: &InstanceChange,
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
            if let Some(labels) = &change.labels {
                spec.labels.clone_from(labels);
            }
            if let Some(freeze_after) = change.freeze_after {
                spec.freeze_after = freeze_after;
            }
            if let Some(sleep_after) = change.sleep_after {
                spec.sleep_after = sleep_after;
            }
            query("UPDATE instances SET name = COALESCE($2, name), spec = $3, updated_at = $4 WHERE id = $1")
                .bind(&id)
                .bind(change.name.as_ref().map(InstanceName::as_str))
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
            Pool::Sqlite { writer, .. } => in_time!(self, {
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
            Pool::Postgres { pool, .. } => in_time!(self, {
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
    /// removed in steps by [`Store::trim`]; its events stay until [`Store::delete_before`] reaches
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
