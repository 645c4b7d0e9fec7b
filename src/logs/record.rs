//! What a log line is, and what the log rooms ask of a store.

use std::{future::Future, pin::Pin, sync::Arc};

use crate::domain::{
    UnixMs,
    id::{Generation, InstanceId},
};

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogStream {
    /// The child's stdout (for stdio servers: what was not JSON-RPC).
    Stdout,
    /// The child's stderr.
    Stderr,
    /// A word of the daemon's own about the instance.
    System,
}

impl LogStream {
    /// The number in the log table.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::System => 3,
        }
    }

    /// The stream of a number in the log table.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::System]
            .into_iter()
            .find(|stream| stream.code() == code)
    }

    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

impl std::str::FromStr for LogStream {
    type Err = UnknownStream;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Stdout, Self::Stderr, Self::System]
            .into_iter()
            .find(|stream| stream.as_str() == text)
            .ok_or(UnknownStream)
    }
}

/// A text that names no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log stream is stdout, stderr or system")]
pub struct UnknownStream;

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSource {
    /// The instance.
    pub instance: InstanceId,
    /// Its number in the log table.
    pub key: i64,
    /// The launch that wrote it.
    pub generation: Generation,
    /// 0: the main child; else the number of a member.
    pub member: u32,
}

/// One line on its way to the store; redacted, never holds NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The number of its instance in the log table.
    pub instance_key: i64,
    /// The launch that wrote it.
    pub generation: Generation,
    /// 0: the main child of that launch, or the daemon; else the number of a member.
    pub member: u32,
    /// Where it came from.
    pub stream: LogStream,
    /// When it was read.
    pub at: UnixMs,
    /// The text.
    pub line: String,
    /// The line goes on in the next record of the same stream.
    pub continued: bool,
}

impl LogRecord {
    /// What it costs in memory and in the spool, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        self.line.len() + std::mem::size_of::<Self>()
    }
}

/// A line with its number among all that one writer gave to the store, which takes each number once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedLog {
    /// Who gave the number; each start of the daemon has a writer of its own. 0: a line without a number.
    pub writer: i64,
    /// Rises with every line of the writer, from 1.
    pub number: i64,
    /// The line.
    pub record: LogRecord,
}

/// One line as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLog {
    /// Rises in the order of writing.
    pub id: i64,
    /// The line.
    pub record: LogRecord,
}

/// Which lines of one instance to read; the default reads the oldest first, without a filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPageQuery {
    /// Only ids above this.
    pub after: Option<i64>,
    /// Only ids below this.
    pub before: Option<i64>,
    /// Only from this stream.
    pub stream: Option<LogStream>,
    /// The newest first.
    pub newest_first: bool,
    /// Most lines to read.
    pub limit: u32,
}

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogStoreError {
    /// It is away or too busy; the same call may succeed later.
    #[error("the log store is not available: {0}")]
    Unavailable(String),
    /// It will never take these rows.
    #[error("the log store refused: {0}")]
    Refused(String),
}

/// A boxed future of a store's answer.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, LogStoreError>> + Send + 'a>>;

/// What the log rooms need of a store.
pub trait LogStore: Send + Sync + 'static {
    /// Writes all of `rows`, which are of one writer and rise, or none, in one transaction; their ids, in the same order.
    /// A number of the writer that was written before, or one below, counts as written: those are the first of `rows`,
    /// and ids there are only for the others.
    fn insert(&self, rows: Arc<Vec<NumberedLog>>) -> StoreFuture<'_, Vec<i64>>;
    /// How far a writer came that is gone, once nothing of it is on its way any more: up to the number `closed`, if there is
    /// one, nothing is taken of it from now on.
    fn close_writer(&self, writer: i64, closed: Option<i64>) -> StoreFuture<'_, i64>;
    /// Reads lines of one instance.
    fn page(&self, instance_key: i64, query: LogPageQuery) -> StoreFuture<'_, Vec<StoredLog>>;
}
