//! Following the log of one instance: what is stored, then what comes, without a gap or a double at the seam.
//!
//! A follower is registered before it reads the store. It reads the store up to its end, then takes the live
//! rows whose id is above the last one read. A follower that is too slow for its buffer loses the buffer, not a
//! line: it reads the store again from where it was. The writer never waits for a follower.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Notify;

use super::record::{LogPageQuery, LogRecord, LogStore, LogStoreError, LogStream, StoredLog};

/// Live rows buffered for one follower.
const BUFFER_ROWS_MAX: usize = 512;
/// Bytes of live rows buffered for one follower.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Rows of one answer.
const PAGE_ROWS: u32 = 500;

/// Where a follow begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailStart {
    /// With so many of the newest lines of the stream (0: only what comes; at most 10,000). A text filter then
    /// picks among these.
    Last(u32),
    /// With the first line after this id (`Last-Event-ID`); 0: with the oldest.
    After(i64),
}

/// Which lines a follow shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TailFilter {
    /// Only this stream.
    pub stream: Option<LogStream>,
    /// Only lines that hold this text (upper and lower case alike for ASCII letters).
    pub text: Option<String>,
}

impl TailFilter {
    fn shows(&self, record: &LogRecord) -> bool {
        self.stream.is_none_or(|stream| record.stream == stream)
            && self.text.as_deref().is_none_or(|text| {
                let text = text.as_bytes();
                text.is_empty()
                    || record
                        .line
                        .as_bytes()
                        .windows(text.len())
                        .any(|window| window.eq_ignore_ascii_case(text))
            })
    }
}

#[derive(Default)]
struct Buffer {
    rows: VecDeque<Arc<StoredLog>>,
    bytes: usize,
    /// Rows were passed over since the store was last read to its end.
    behind: bool,
    closed: bool,
}

#[derive(Default)]
struct Follower {
    buffer: Mutex<Buffer>,
    arrived: Notify,
}

impl Follower {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All followers, by instance key.
#[derive(Default)]
pub(super) struct Followers {
    registered: Mutex<Registered>,
}

#[derive(Default)]
struct Registered {
    by_key: HashMap<i64, Vec<Weak<Follower>>>,
    closed: bool,
}

impl Followers {
    fn registered(&self) -> MutexGuard<'_, Registered> {
        let registered = self.registered.lock();
        registered.unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, key: i64) -> Arc<Follower> {
        let follower = Arc::<Follower>::default();
        let mut registered = self.registered();
        follower.buffer().closed = registered.closed;
        let list = registered.by_key.entry(key).or_default();
        list.retain(|known| known.strong_count() > 0);
        list.push(Arc::downgrade(&follower));
        follower
    }

    /// Gives rows that were just committed, with their ids, to those who follow.
    pub(super) fn publish<'a>(&self, rows: impl Iterator<Item = (&'a LogRecord, i64)>) {
        let by_key = &mut self.registered().by_key;
        if by_key.is_empty() {
            return;
        }
        by_key.retain(|_, list| {
            list.retain(|known| known.strong_count() > 0);
            !list.is_empty()
        });
        for (record, id) in rows {
            let Some(list) = by_key.get(&record.instance_key) else {
                continue;
            };
            let row = Arc::new(StoredLog {
                id,
                record: record.clone(),
            });
            for follower in list.iter().filter_map(Weak::upgrade) {
                follower.buffer().push(&row);
                follower.arrived.notify_one();
            }
        }
    }

    /// Lets those who follow these instances read the store: it has rows that were never given to them.
    pub(super) fn look_again(&self, keys: impl Iterator<Item = i64>) {
        let by_key = &self.registered().by_key;
        for key in keys.collect::<BTreeSet<_>>() {
            let list = by_key.get(&key).into_iter().flatten();
            for follower in list.filter_map(Weak::upgrade) {
                follower.buffer().fall_behind();
                follower.arrived.notify_one();
            }
        }
    }

    /// Ends every follow once it has shown what it holds.
    pub(super) fn close(&self) {
        let mut registered = self.registered();
        registered.closed = true;
        let lists = registered.by_key.values();
        for follower in lists.flatten().filter_map(Weak::upgrade) {
            follower.buffer().closed = true;
            follower.arrived.notify_one();
        }
    }
}

impl Buffer {
    fn push(&mut self, row: &Arc<StoredLog>) {
        if self.behind {
            return;
        }
        let cost = row.record.cost_bytes();
        if self.rows.len() >= BUFFER_ROWS_MAX || self.bytes + cost > BUFFER_BYTES_MAX {
            self.fall_behind();
            return;
        }
        self.bytes += cost;
        self.rows.push_back(Arc::clone(row));
    }

    fn fall_behind(&mut self) {
        self.behind = true;
        self.rows = VecDeque::new();
        self.bytes = 0;
    }
}

/// A follow of one instance's log.
pub struct Tail {
    store: Arc<dyn LogStore>,
    follower: Arc<Follower>,
    key: i64,
    filter: TailFilter,
    /// Everything up to this id was shown or filtered out. Absent: the start is still to be found.
    last_id: Option<i64>,
    start: TailStart,
    /// The store may hold rows after `last_id` that are not in the buffer.
    catching_up: bool,
    /// What was found at the start and not yet shown.
    first: Vec<StoredLog>,
}

impl Tail {
    pub(super) fn new(
        store: Arc<dyn LogStore>,
        followers: &Followers,
        key: i64,
        start: TailStart,
        filter: TailFilter,
    ) -> Self {
        Self {
            store,
            follower: followers.register(key),
            key,
            filter,
            last_id: match start {
                TailStart::After(id) => Some(id),
                TailStart::Last(_) => None,
            },
            start,
            catching_up: true,
            first: Vec::new(),
        }
    }

    /// Finds the start: whatever is written after this is shown. [`Self::next`] does it when this was not called.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn begin(&mut self) -> Result<(), LogStoreError> {
        if self.catching_up && self.first.is_empty() {
            self.first = self.read_store().await?;
        }
        Ok(())
    }

    /// The next lines, oldest first, never empty; waits for them. `None`: the pipeline was closed.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// The store could not be read. Calling again goes on at the same place.
    pub async fn next(&mut self) -> Result<Option<Vec<StoredLog>>, LogStoreError> {
        loop {
            let shown = if !self.first.is_empty() {
                std::mem::take(&mut self.first)
            } else if self.catching_up {
                self.read_store().await?
            } else {
                self.take_live()
            };
            if !shown.is_empty() {
                return Ok(Some(shown));
            }
            if self.catching_up {
                continue;
            }
            {
                let buffer = self.follower.buffer();
                if !buffer.rows.is_empty() || buffer.behind {
                    continue;
                }
                if buffer.closed {
                    return Ok(None);
                }
            }
            self.follower.arrived.notified().await;
        }
    }

    async fn read_store(&mut self) -> Result<Vec<StoredLog>, LogStoreError> {
        // From here on the buffer collects again; what the store shows now cannot be missing from both.
        self.follower.buffer().behind = false;
        let Some(last_id) = self.last_id else {
            return self.read_newest().await;
        };
        let query = LogPageQuery {
            after: Some(last_id),
            stream: self.filter.stream,
            limit: PAGE_ROWS,
            ..LogPageQuery::default()
        };
        let page = self.store.page(self.key, query).await?;
        self.catching_up = page.len() >= PAGE_ROWS as usize;
        Ok(self.show(page))
    }

    async fn read_newest(&mut self) -> Result<Vec<StoredLog>, LogStoreError> {
        let count = match self.start {
            TailStart::Last(count) => count.min(10_000),
            TailStart::After(_) => 0,
        };
        // One row at least tells where the end is.
        let query = LogPageQuery {
            stream: self.filter.stream,
            newest_first: true,
            limit: count.max(1),
            ..LogPageQuery::default()
        };
        let mut page = self.store.page(self.key, query).await?;
        page.reverse();
        let end = page.last().map_or(0, |row| row.id);
        if count == 0 {
            page.clear();
        }
        let shown = self.show(page);
        self.last_id = Some(end);
        self.catching_up = false;
        Ok(shown)
    }

    fn take_live(&mut self) -> Vec<StoredLog> {
        let rows = {
            let mut buffer = self.follower.buffer();
            if buffer.behind {
                self.catching_up = true;
                return Vec::new();
            }
            buffer.bytes = 0;
            std::mem::take(&mut buffer.rows)
        };
        let rows = rows.into_iter().map(Arc::unwrap_or_clone).collect();
        self.show(rows)
    }

    /// Passes on what is new and wanted, and moves the place.
    fn show(&mut self, mut rows: Vec<StoredLog>) -> Vec<StoredLog> {
        let shown_until = self.last_id.unwrap_or(i64::MIN);
        if let Some(last) = rows.last() {
            self.last_id = Some(last.id.max(shown_until));
        }
        rows.retain(|row| row.id > shown_until && self.filter.shows(&row.record));
        rows
    }
}
