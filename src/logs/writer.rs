//! The one task that moves rows from the queue to the store, or through the spool when the store cannot keep up.
//!
//! Order is kept so: rows go straight to the store only while the spool is empty and no batch is on its way;
//! a batch on its way that must step aside enters the spool first; a spool is drained before anything else.

mod spooling;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    gap::{Gap, Gaps, Loss, count_lost, gap_rows, merge_gap, weights},
    insert::{Insert, Inserted},
    progress::Shared,
    queue::Queue,
    record::{LogRecord, LogStore, LogStoreError, NumberedLog},
    share::Shares,
    spooled::bytes_in_spool,
    tail::Followers,
};
use crate::{
    config::LogsConfig,
    spool::{Offloaded, Place, Spool, SpoolBatch},
    tally::{Tally, Way},
};

/// A batch holds about so many bytes at most.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// The store gets so long for a batch before new rows go to the spool.
const PATIENCE: Duration = Duration::from_secs(1);
/// With so much behind the batch on its way, the next one is read before it is asked for.
const AHEAD_BYTES_MIN: u64 = 256 << 10;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A batch on its way into the store.
struct InFlight {
    insert: Insert,
    /// Losses that the first rows of the batch tell of.
    gaps: Gaps,
    /// The batch came from the spool, or was put there while on its way.
    spooled: Option<Spooled>,
    since: Instant,
}

/// What of a batch lies in the spool.
#[derive(Clone, Copy)]
struct Spooled {
    /// So many of its first rows.
    rows: usize,
    /// They end here.
    end: Option<Place>,
}

/// What was read of the spool behind the batch on its way.
#[derive(Default)]
struct Ahead {
    /// It was looked for since that batch set out.
    looked: bool,
    batch: Option<SpoolBatch<NumberedLog>>,
}

pub(super) struct Writer {
    store: Arc<dyn LogStore>,
    queue: Arc<Queue>,
    followers: Arc<Followers>,
    shared: Arc<Shared>,
    spool: Offloaded<NumberedLog>,
    spool_bytes_max: u64,
    shares: Shares,
    batch_rows: usize,
    batch_delay: Duration,
    gaps: Gaps,
    /// This writer, among all that there were.
    number: i64,
    tally: Option<Arc<Tally>>,
    /// The number of its last row.
    last: i64,
    in_flight: Option<InFlight>,
    ahead: Ahead,
    /// When the oldest row in the queue has waited long enough.
    batch_due: Option<Instant>,
    retry_at: Option<Instant>,
    backoff: Duration,
}

/// Who a writer is, and what it has to tell of one before it.
pub(super) struct Identity {
    pub(super) number: i64,
    pub(super) tally: Option<Arc<Tally>>,
    pub(super) lost: Gaps,
}

enum Step {
    Again,
    WaitUntil(Option<Instant>),
    Finished,
}

impl Writer {
    pub(super) fn new(
        config: &LogsConfig,
        store: Arc<dyn LogStore>,
        queue: Arc<Queue>,
        followers: Arc<Followers>,
        shared: Arc<Shared>,
        spool: Spool<NumberedLog>,
        identity: Identity,
    ) -> Self {
        let writer = Self {
            store,
            queue,
            followers,
            shared,
            spool: Offloaded::new(spool),
            spool_bytes_max: config.spool_bytes,
            shares: Shares::default(),
            batch_rows: config.batch_rows.max(1),
            batch_delay: config.batch_delay.std(),
            gaps: identity.lost,
            number: identity.number,
            tally: identity.tally,
            last: 0,
            in_flight: None,
            ahead: Ahead::default(),
            batch_due: None,
            retry_at: None,
            backoff: BACKOFF_MIN,
        };
        writer.show_spool();
        writer
    }

    /// Runs until the queue is closed and everything in it has a place.
    pub(super) async fn run(mut self) {
        loop {
            let until = match self.step().await {
                Step::Again => {
                    // The insert has its turn too, where the spool is so fast that nothing here ever waits.
                    tokio::task::yield_now().await;
                    continue;
                }
                Step::Finished => break,
                Step::WaitUntil(until) => until,
            };
            let queue = Arc::clone(&self.queue);
            let timer = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                inserted = wait_for(&mut self.in_flight) => self.inserted(inserted).await,
                () = queue.filled() => {}
                () = timer => {}
            }
        }
    }

    /// Does one thing that can be done now.
    async fn step(&mut self) -> Step {
        // Between two batches for the spool too: the store would have nothing to do for as long as somebody floods.
        if let Some(batch) = self.in_flight.as_mut().filter(|it| it.insert.is_done()) {
            let answer = batch.insert.answer().await;
            self.inserted(answer).await;
            return Step::Again;
        }
        let now = Instant::now();
        self.collect_gaps();
        let fill = self.queue.fill();
        if fill.closed && self.must_stop(now) {
            self.spool_everything().await;
            return Step::Finished;
        }
        let has_news = fill.rows > 0 || !self.gaps.is_empty();
        let due = match (fill.rows > 0, self.batch_due) {
            (false, _) => {
                self.batch_due = None;
                now
            }
            (true, Some(due)) => due,
            (true, None) => *self.batch_due.insert(now + self.batch_delay),
        };
        let pressed = fill.bytes >= self.queue.budget_bytes() / 2;
        let ready = fill.closed
            || pressed
            || due <= now
            || fill.rows >= self.batch_rows
            || fill.bytes >= BATCH_BYTES_MAX;
        let spooling = !self.spool.is_empty();
        let resting = self.retry_at.is_some_and(|at| at > now);
        let late_at = self.in_flight.as_ref().map(|batch| batch.since + PATIENCE);
        let late = late_at.is_some_and(|at| at <= now);

        if has_news && ready && !spooling && self.in_flight.is_none() && !resting {
            self.send_from_queue();
            return Step::Again;
        }
        // Before more goes into the spool, for the same reason.
        if spooling && self.in_flight.is_none() && !resting {
            self.send_from_spool().await;
            return Step::Again;
        }
        if let Some(place) = self.place_ahead() {
            self.read_ahead(place).await;
            return Step::Again;
        }
        if fill.rows > 0 && ready && (spooling || pressed || late) {
            self.spool_batch().await;
            return Step::Again;
        }
        if spooling && !self.gaps.is_empty() && self.spool.accepts() {
            self.spool_gaps().await;
            return Step::Again;
        }
        if fill.closed && !has_news && self.in_flight.is_none() {
            return Step::Finished;
        }
        let timers = [
            (fill.rows > 0 && !ready).then_some(due),
            late_at.filter(|_| fill.rows > 0 && !late),
            self.retry_at.filter(|_| resting && (spooling || has_news)),
            self.stop_at().filter(|_| fill.closed),
            self.queue.gaps_due(),
        ];
        Step::WaitUntil(timers.into_iter().flatten().min())
    }

    /// On the way out, whether the store is no hope any more.
    fn must_stop(&self, now: Instant) -> bool {
        !self.spool.is_empty()
            || self.retry_at.is_some()
            || self.stop_at().is_none_or(|stop_at| stop_at <= now)
    }

    /// Leaves some of the time for the spool.
    fn stop_at(&self) -> Option<Instant> {
        let deadline = self.shared.deadline()?;
        Some(
            deadline
                .checked_sub(Duration::from_millis(250))
                .unwrap_or(deadline),
        )
    }

    fn collect_gaps(&mut self) {
        for (of, gap) in self.queue.take_gaps() {
            self.shared.written().count_dropped(of.1, gap.lines);
            merge_gap(&mut self.gaps, of, gap);
        }
    }

    /// Counts rows that found no place.
    fn lose<'a>(&mut self, rows: impl Iterator<Item = &'a LogRecord>, loss: Loss) {
        let mut lines = 0;
        for row in rows {
            lines += 1;
            count_lost(&mut self.gaps, row, loss);
        }
        self.shared.written().count_dropped(loss, lines);
    }

    /// Numbers rows in the order in which the store will have them.
    fn numbered(&mut self, rows: Vec<LogRecord>) -> Vec<NumberedLog> {
        let numbered = rows.into_iter().zip(self.last + 1..);
        let numbered: Vec<_> = numbered
            .map(|(record, number)| NumberedLog {
                writer: self.number,
                number,
                record,
            })
            .collect();
        self.last = numbered.last().map_or(self.last, |row| row.number);
        numbered
    }

    /// Losses that were on their way and are to be told later.
    fn tell_later(&mut self, gaps: impl IntoIterator<Item = ((i64, Loss), Gap)>) {
        for (of, gap) in gaps {
            merge_gap(&mut self.gaps, of, gap);
        }
    }

    fn send_from_queue(&mut self) {
        let gaps = std::mem::take(&mut self.gaps);
        let mut rows = gap_rows(&gaps);
        rows.extend(self.queue.take(self.batch_rows, BATCH_BYTES_MAX));
        self.batch_due = None;
        let rows = self.numbered(rows);
        self.sets_out(Way::Store, &rows, &gaps, 0);
        self.send(rows, gaps, None);
    }

    /// Rows are about to go a way, without the first `aside` of them; `gaps` are what the first rows tell.
    fn sets_out(&self, way: Way, rows: &[NumberedLog], gaps: &Gaps, aside: usize) {
        if let (Some(tally), Some(first)) = (&self.tally, rows.get(aside)) {
            tally.sets_out(way, first.number, weights(rows, gaps).skip(aside));
        }
    }

    /// The first `taken` of these rows are in the spool, and nothing is on its way there.
    fn spooled(&self, rows: &[NumberedLog], gaps: &Gaps, taken: usize) {
        if let Some(tally) = &self.tally {
            tally.settle(Way::Spool, weights(rows, gaps).take(taken));
            tally.arrived(Way::Spool);
        }
    }

    fn send(&mut self, rows: Vec<NumberedLog>, gaps: Gaps, spooled: Option<Spooled>) {
        self.ahead = Ahead::default();
        self.in_flight = Some(InFlight {
            insert: Insert::new(Arc::clone(&self.store), Arc::new(rows)),
            gaps,
            spooled,
            since: Instant::now(),
        });
    }

    fn rest(&mut self) {
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    /// The store has answered for the batch on its way.
    async fn inserted(&mut self, answer: Result<Inserted, LogStoreError>) {
        let Some(batch) = self.in_flight.take() else {
            return;
        };
        match answer {
            Ok(inserted) => {
                self.retry_at = None;
                self.backoff = BACKOFF_MIN;
                self.show_availability(None);
                // At once: what is left to do about this batch is done while the store works.
                self.send_ahead();
                let rows = Arc::clone(batch.insert.rows());
                let row = |place: usize| rows.get(place).map(|row| &row.record);
                let stored = inserted.written.len() + inserted.known.len();
                self.shared.written().stored += stored as u64;
                let written = inserted.written.iter();
                self.followers
                    .publish(written.filter_map(|&(place, id)| Some((row(place)?, id))));
                let known = inserted.known.iter().filter_map(|place| row(*place));
                self.followers.look_again(known.map(|row| row.instance_key));
                if let Some(tally) = &self.tally {
                    let aside = batch.spooled.map_or(0, |spooled| spooled.rows);
                    // Those were safe, and are to be told now.
                    let back = inserted.refused.iter().filter(|place| **place < aside);
                    for record in back.filter_map(|place| row(*place)) {
                        tally.enter(record.instance_key, record.generation, record.at, 1);
                    }
                    let written = inserted.written.iter().map(|(place, _)| *place);
                    let safe = written.chain(inserted.known.iter().copied());
                    let weights: Vec<_> = weights(&rows, &batch.gaps).collect();
                    let safe = safe.filter(|place| *place >= aside);
                    let safe = safe.filter_map(|place| weights.get(place).copied());
                    tally.settle(Way::Store, safe);
                    tally.arrived(Way::Store);
                }
                let refused = inserted.refused.iter().filter_map(|place| row(*place));
                self.lose(refused, Loss::NoPlace);
                if let Some(place) = batch.spooled.and_then(|spooled| spooled.end) {
                    for NumberedLog { record, .. } in rows.iter() {
                        self.shares
                            .remove(record.instance_key, bytes_in_spool(record));
                    }
                    self.advance(place).await;
                }
                if self.spool.is_empty() {
                    // What came while the store was busy has been gathered long enough.
                    self.batch_due = Some(Instant::now());
                }
            }
            Err(error) => {
                self.ahead = Ahead::default();
                self.show_availability(Some(&error));
                self.rest();
                self.give_up(batch).await;
            }
        }
    }

    fn show_spool(&self) {
        self.shared.written().spool_bytes = self.spool.bytes();
    }

    fn show_availability(&self, fault: Option<&LogStoreError>) {
        let was_available =
            std::mem::replace(&mut self.shared.written().store_available, fault.is_none());
        match fault {
            Some(error) if was_available => {
                tracing::warn!(%error, "log lines go to the spool until the store is back");
            }
            None if !was_available => tracing::info!("the log store is back"),
            _ => {}
        }
    }
}

async fn wait_for(in_flight: &mut Option<InFlight>) -> Result<Inserted, LogStoreError> {
    match in_flight {
        Some(batch) => batch.insert.answer().await,
        None => std::future::pending().await,
    }
}
