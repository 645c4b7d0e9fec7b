//! What servers offered when they were last asked, in their own words.

use sqlx::{query, query_as};

use super::{Store, StoreError};
use crate::domain::{UnixMs, capability::ListKind};

/// What the server of one instance offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityRow {
    /// Stands for all that was known to decide what it offers: for others, this row says nothing.
    pub basis: String,
    /// When it was asked.
    pub heard_at: UnixMs,
    /// Its handshake, as `upstream::Handshake` is written.
    pub handshake: String,
    /// Its lists by [`ListKind::place`], each a whole result as raw JSON; `None`: not known.
    pub lists: [Option<String>; ListKind::ALL.len()],
}

/// As much of a [`CapabilityRow`] as one answer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityPart {
    /// As in the row.
    pub basis: String,
    /// As in the row.
    pub heard_at: UnixMs,
    /// As in the row.
    pub handshake: String,
    /// The one list that was asked for.
    pub list: Option<String>,
}

row! {
    struct CapabilityColumns {
        basis: String,
        heard_at: i64,
        handshake: String,
        tools: Option<String>,
        prompts: Option<String>,
        resources: Option<String>,
        resource_templates: Option<String>,
    }
}

row! {
    struct PartColumns {
        basis: String,
        heard_at: i64,
        handshake: String,
        list: Option<String>,
    }
}

impl Store {
    /// Keeps what a server offers, in place of what was kept of it.
    ///
    /// # Errors
    /// `NotFound` when there is no instance of this key any more; those of the database.
    pub async fn save_capabilities(
        &self,
        instance_key: i64,
        row: &CapabilityRow,
    ) -> Result<(), StoreError> {
        let [tools, prompts, resources, templates] = &row.lists;
        writing!(self, |db| {
            query(
                "INSERT INTO capability_cache (instance_key, basis, heard_at, handshake, tools, prompts, resources, \
                 resource_templates) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                 ON CONFLICT (instance_key) DO UPDATE SET basis = excluded.basis, heard_at = excluded.heard_at, \
                 handshake = excluded.handshake, tools = excluded.tools, prompts = excluded.prompts, \
                 resources = excluded.resources, resource_templates = excluded.resource_templates",
            )
            .bind(instance_key)
            .bind(&row.basis)
            .bind(row.heard_at)
            .bind(&row.handshake)
            .bind(tools)
            .bind(prompts)
            .bind(resources)
            .bind(templates)
            .execute(db)
            .await?;
        });
        Ok(())
    }

    /// All that is kept of one instance.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn capabilities(
        &self,
        instance_key: i64,
    ) -> Result<Option<CapabilityRow>, StoreError> {
        let row: Option<CapabilityColumns> = reading!(self, |db| {
            query_as(
                "SELECT basis, heard_at, handshake, tools, prompts, resources, resource_templates \
                 FROM capability_cache WHERE instance_key = $1",
            )
            .bind(instance_key)
            .fetch_optional(db)
            .await?
        });
        Ok(row.map(|row| CapabilityRow {
            basis: row.basis,
            heard_at: row.heard_at,
            handshake: row.handshake,
            lists: [
                row.tools,
                row.prompts,
                row.resources,
                row.resource_templates,
            ],
        }))
    }

    /// What is kept of one instance for one answer: the handshake, and this list if one is asked for.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn capability(
        &self,
        instance_key: i64,
        kind: Option<ListKind>,
    ) -> Result<Option<CapabilityPart>, StoreError> {
        let column = match kind {
            None => "",
            Some(ListKind::Tools) => "tools",
            Some(ListKind::Prompts) => "prompts",
            Some(ListKind::Resources) => "resources",
            Some(ListKind::ResourceTemplates) => "resource_templates",
        };
        let row: Option<PartColumns> = reading!(self, |db| {
            query_as(
                "SELECT basis, heard_at, handshake, CASE $2 WHEN 'tools' THEN tools WHEN 'prompts' THEN prompts \
                 WHEN 'resources' THEN resources WHEN 'resource_templates' THEN resource_templates END AS list \
                 FROM capability_cache WHERE instance_key = $1",
            )
            .bind(instance_key)
            .bind(column)
            .fetch_optional(db)
            .await?
        });
        Ok(row.map(|row| CapabilityPart {
            basis: row.basis,
            heard_at: row.heard_at,
            handshake: row.handshake,
            list: row.list,
        }))
    }

    /// Forgets what was kept of one instance.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_capabilities(&self, instance_key: i64) -> Result<(), StoreError> {
        writing!(self, |db| {
            query("DELETE FROM capability_cache WHERE instance_key = $1")
                .bind(instance_key)
                .execute(db)
                .await?;
        });
        Ok(())
    }
}
