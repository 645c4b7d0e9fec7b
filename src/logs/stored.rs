//! The database as the store of logs.

use std::{borrow::Cow, sync::Arc};

use super::record::{
    LogPageQuery, LogRecord, LogStore, LogStoreError, LogStream, NumberedLog, StoreFuture,
    StoredLog,
};
use crate::store::{LogQuery, LogRow, Store, StoreError};

impl From<StoreError> for LogStoreError {
    fn from(error: StoreError) -> Self {
        if error.retryable() {
            Self::Unavailable(error.to_string())
        } else {
            Self::Refused(error.to_string())
        }
    }
}

impl LogStore for Store {
    fn insert(&self, rows: Arc<Vec<NumberedLog>>) -> StoreFuture<'_, Vec<i64>> {
        Box::pin(async move {
            let writer = rows.first().map_or(0, |row| row.writer);
            let numbers: Vec<i64> = rows.iter().map(|row| row.number).collect();
            let records = rows.iter().map(|row| &row.record);
            let rows = records.map(|row| LogRow {
                instance_key: row.instance_key,
                generation: row.generation,
                member: row.member,
                stream: row.stream.code(),
                at: row.at,
                line: Cow::Borrowed(&row.line),
                continued: row.continued,
            });
            let rows: Vec<LogRow> = rows.collect();
            let written = match writer {
                0 => self.insert_logs(&rows).await,
                _ => self.insert_numbered_logs(writer, &numbers, &rows).await,
            };
            Ok(written?)
        })
    }

    fn close_writer(&self, writer: i64, closed: Option<i64>) -> StoreFuture<'_, i64> {
        let at = super::capture::unix_ms_now();
        Box::pin(async move { Ok(self.close_log_writer(writer, closed, at).await?) })
    }

    fn page(&self, instance_key: i64, query: LogPageQuery) -> StoreFuture<'_, Vec<StoredLog>> {
        Box::pin(async move {
            let query = LogQuery {
                after: query.after,
                before: query.before,
                stream: query.stream.map(LogStream::code),
                newest_first: query.newest_first,
                limit: query.limit,
                ..LogQuery::default()
            };
            let entries = self.logs_page(instance_key, query).await?;
            let rows = entries.into_iter().map(|entry| StoredLog {
                id: entry.id,
                record: LogRecord {
                    instance_key,
                    generation: entry.generation,
                    member: entry.member,
                    // A number that this build does not know can only be the daemon's own.
                    stream: LogStream::from_code(entry.stream).unwrap_or(LogStream::System),
                    at: entry.at,
                    line: entry.line,
                    continued: entry.continued,
                },
            });
            Ok(rows.collect())
        })
    }
}
