//! Port leases: one row while a port is leased or resting, none while it is free.

use sqlx::query;

use super::{CorruptRow, Store, StoreError, damaged::each};
use crate::domain::{UnixMs, id::InstanceId};

const TABLE: &str = "port_leases";

/// A port that is leased or resting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortLeaseRow {
    /// The port.
    pub port: u16,
    /// Who holds it; `None` while it rests.
    pub instance: Option<InstanceId>,
    /// When it was leased.
    pub leased_at: UnixMs,
    /// Until when it rests; `None` while it is held.
    pub quarantine_until: Option<UnixMs>,
}

/// Frees one port when its rest is over at `$2`, so that the lease that follows need not wait for the sweep.
pub(super) const DELETE_RESTED: &str =
    "DELETE FROM port_leases WHERE port = $1 AND instance_key IS NULL AND quarantine_until <= $2";
pub(super) const INSERT_LEASE: &str =
    "INSERT INTO port_leases (port, instance_key, leased_at) VALUES ($1, $2, $3)";
pub(super) const REST_LEASE_OF: &str =
    "UPDATE port_leases SET instance_key = NULL, quarantine_until = $2 WHERE instance_key = $1";

row! {
    struct LeaseColumns {
        port: i32,
        id: Option<String>,
        leased_at: i64,
        quarantine_until: Option<i64>,
    }
}

impl Store {
    /// Every leased or resting port, by number. A damaged row is passed over and named ([`Store::damaged_rows`]).
    ///
    /// # Errors
    /// Those of the database.
    pub async fn port_leases(&self) -> Result<Vec<PortLeaseRow>, StoreError> {
        let (rows, mut corrupt): (Vec<LeaseColumns>, _) = reading!(self, |db| {
            let rows = query(
                "SELECT p.port, i.id, p.leased_at, p.quarantine_until \
                 FROM port_leases p LEFT JOIN instances i ON i.instance_key = p.instance_key ORDER BY p.port",
            )
            .fetch_all(db)
            .await?;
            each(&rows, TABLE, "port")
        });
        let mut leases = Vec::with_capacity(rows.len());
        for row in rows {
            let port = u16::try_from(row.port).map_err(|_| "port");
            let instance = row.id.map(|id| id.parse::<InstanceId>()).transpose();
            let instance = instance.map_err(|_| "instance_key");
            match port.and_then(|port| instance.map(|instance| (port, instance))) {
                Ok((port, instance)) => leases.push(PortLeaseRow {
                    port,
                    instance,
                    leased_at: row.leased_at,
                    quarantine_until: row.quarantine_until,
                }),
                Err(column) => corrupt.push(CorruptRow {
                    table: TABLE,
                    column,
                    id: row.port.to_string(),
                }),
            }
        }
        self.damaged.note(TABLE, corrupt);
        Ok(leases)
    }

    /// Frees every port whose rest is over; answers how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_quarantine(&self, now: UnixMs) -> Result<u64, StoreError> {
        Ok(writing!(self, |db| {
            query("DELETE FROM port_leases WHERE instance_key IS NULL AND quarantine_until <= $1")
                .bind(now)
                .execute(db)
                .await?
                .rows_affected()
        }))
    }

    /// Leases a port to an instance that holds none (a repair, or a move to another port after `release_port`).
    ///
    /// # Errors
    /// `Conflict("port")` when the port is taken or rests, or the instance holds one; `NotFound` when there is no such
    /// instance.
    pub async fn lease_port(
        &self,
        id: InstanceId,
        port: u16,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let port = i32::from(port);
        in_transaction!(self, |tx| {
            query(DELETE_RESTED)
                .bind(port)
                .bind(now)
                .execute(&mut *tx)
                .await?;
            let leased = query(
                "INSERT INTO port_leases (port, instance_key, leased_at) \
                 SELECT $1, instance_key, $3 FROM instances WHERE id = $2",
            )
            .bind(port)
            .bind(id.to_string())
            .bind(now)
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if leased == 0 {
                return Err(StoreError::NotFound);
            }
        });
        Ok(())
    }

    /// Takes a port from whoever holds it and lets it rest until `quarantine_until`; answers whether it was held.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_port(
        &self,
        port: u16,
        quarantine_until: UnixMs,
    ) -> Result<bool, StoreError> {
        let held = writing!(self, |db| {
            query(
                "UPDATE port_leases SET instance_key = NULL, quarantine_until = $2 \
                 WHERE port = $1 AND instance_key IS NOT NULL",
            )
            .bind(i32::from(port))
            .bind(quarantine_until)
            .execute(db)
            .await?
            .rows_affected()
        });
        Ok(held > 0)
    }

    /// Takes a port from nobody: a lease whose instance is gone, or that never named one, rests until
    /// `quarantine_until`. Answers whether there was such a lease.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_port_of_nobody(
        &self,
        port: u16,
        quarantine_until: UnixMs,
    ) -> Result<bool, StoreError> {
        let held = writing!(self, |db| {
            query(
                "UPDATE port_leases SET instance_key = NULL, quarantine_until = $2 \
                 WHERE port = $1 AND quarantine_until IS NULL AND NOT EXISTS (SELECT 1 FROM instances \
                 WHERE instances.instance_key = port_leases.instance_key)",
            )
            .bind(i32::from(port))
            .bind(quarantine_until)
            .execute(db)
            .await?
            .rows_affected()
        });
        Ok(held > 0)
    }
}
