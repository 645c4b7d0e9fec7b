//! How much memory instances of a template are known to need.

use sqlx::{query, query_as};

use super::{Store, StoreError};
use crate::domain::{UnixMs, id::TemplateName};

/// What instances of one template need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateNeed {
    /// The template.
    pub template: TemplateName,
    /// Resident memory in bytes, as `domain::budget::learned` tells it of what was measured.
    pub memory_bytes: u64,
    /// When it was written.
    pub noted_at: UnixMs,
}

row! {
    struct NeedColumns {
        template: String,
        memory_bytes: i64,
        noted_at: i64,
    }
}

impl Store {
    /// Keeps what instances of templates need, each in place of what was kept of it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn save_template_needs(&self, needs: &[TemplateNeed]) -> Result<(), StoreError> {
        if needs.is_empty() {
            return Ok(());
        }
        in_transaction!(self, |tx| {
            for need in needs {
                query(
                    "INSERT INTO template_needs (template, memory_bytes, noted_at) VALUES ($1, $2, $3) \
                     ON CONFLICT (template) DO UPDATE SET memory_bytes = excluded.memory_bytes, \
                     noted_at = excluded.noted_at",
                )
                .bind(need.template.as_str())
                .bind(i64::try_from(need.memory_bytes).unwrap_or(i64::MAX))
                .bind(need.noted_at)
                .execute(&mut *tx)
                .await?;
            }
        });
        Ok(())
    }

    /// All that is kept, by template. A row that makes no sense is as one that is not there: it is measured again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn template_needs(&self) -> Result<Vec<TemplateNeed>, StoreError> {
        let rows: Vec<NeedColumns> = reading!(self, |db| {
            query_as(
                "SELECT template, memory_bytes, noted_at FROM template_needs ORDER BY template",
            )
            .fetch_all(db)
            .await?
        });
        let read = rows.into_iter().filter_map(|row| {
            Some(TemplateNeed {
                template: TemplateName::new(row.template).ok()?,
                memory_bytes: u64::try_from(row.memory_bytes).ok()?,
                noted_at: row.noted_at,
            })
        });
        Ok(read.collect())
    }

    /// Forgets a template that is no more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_template_need(&self, template: &TemplateName) -> Result<(), StoreError> {
        writing!(self, |db| {
            query("DELETE FROM template_needs WHERE template = $1")
                .bind(template.as_str())
                .execute(db)
                .await?;
        });
        Ok(())
    }
}
