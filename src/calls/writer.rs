//! The one task that moves records from the queue to the store, or through the spool when the store cannot keep up.
//!
//! Order is kept so: records go straight to the store only while the spool is empty and no batch is on its way; a batch
//! on its way that must step aside enters the spool first. Each record has a number of its writer, and the store takes
//! a number once: a batch of which it is not known whether it was written is sent again.

use std::{
    io,
    pin::Pin,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    CallStore, Shared,
    gap::{gap_records, weight, weights},
};
use crate::{
    domain::call::{CallRecord, NumberedCall},
    spool::{Offloaded, Place, Spool},
    store::StoreError,
    tally::Way,
};

/// Records of one transaction at most: two of the largest statements.
const BATCH_MAX: usize = 1_024;
/// A batch from the spool holds about so many bytes at most.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// The store gets so long for a batch before new records go to the spool.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of the time for closing, what is left for the spool.
const SPOOL_TIME: Duration = Duration::from_millis(250);
/// Between two tries to write a batch: from, to.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The records that the store will never take, by their place in the batch.
type Answer = Result<Vec<usize>, StoreError>;

/// A batch on its way into the store.
struct InFlight {
    rows: Arc<Vec<NumberedCall>>,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
    since: Instant,
    /// It came from the spool, or was put there while on its way.
    spooled: Option<Spooled>,
}

/// What of a batch lies in the spool.
struct Spooled {
    /// So many of its first rows.
    rows: usize,
    /// They end here.
    end: Option<Place>,
}

pub(super) struct Writer<S> {
    queue: mpsc::Receiver<CallRecord>,
    store: S,
    spool: Offloaded<NumberedCall>,
    delay: Duration,
    shared: Arc<Shared>,
    stop: CancellationToken,
    /// This writer, among all that there were.
    number: i64,
    /// The number of its last record.
    last: i64,
    in_flight: Option<InFlight>,
    retry_at: Option<Instant>,
    backoff: Duration,
}

enum Woken {
    Answered(Answer),
    Stopped,
    Received(usize),
    Late,
    Retry,
    OutOfTime,
}

impl<S: CallStore> Writer<S> {
    pub(super) fn new(
        queue: mpsc::Receiver<CallRecord>,
        store: S,
        spool: Spool<NumberedCall>,
        delay: Duration,
        shared: Arc<Shared>,
        stop: CancellationToken,
        number: i64,
    ) -> Self {
        let writer = Self {
            queue,
            store,
            spool: Offloaded::new(spool),
            delay,
            shared,
            stop,
            number,
            last: 0,
            in_flight: None,
            retry_at: None,
            backoff: RETRY.0,
        };
        writer.show_spool();
        writer
    }

    /// Runs until the queue is closed and everything in it has a place.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        let mut drained = false;
        loop {
            if self.in_flight.is_none() && !self.rests() {
                if !self.spool.is_empty() {
                    self.send_from_spool().await;
                } else if self.has_gaps() {
                    self.take(Vec::new()).await;
                }
            }
            let idle = self.spool.is_empty() && !self.has_gaps();
            if drained && self.in_flight.is_none() && (idle || self.rests()) {
                break;
            }
            match self.wait(&mut batch, drained).await {
                Woken::Answered(answer) => self.answered(answer).await,
                Woken::Stopped => self.queue.close(),
                Woken::Received(0) => drained = true,
                Woken::Received(_) => {
                    self.linger(&mut batch).await;
                    self.take(std::mem::take(&mut batch)).await;
                }
                Woken::Late => self.step_aside().await,
                Woken::Retry => {}
                Woken::OutOfTime => break,
            }
        }
        self.settle().await;
    }

    /// Waits for the next thing to do.
    async fn wait(&mut self, batch: &mut Vec<CallRecord>, drained: bool) -> Woken {
        let stopping = self.queue.is_closed();
        let deadline = self.deadline().filter(|_| stopping);
        let waiting = self.in_flight.is_none() && (!self.spool.is_empty() || self.has_gaps());
        let retry_at = self.retry_at.filter(|_| waiting);
        // A batch that is not in the spool stands before all that come.
        let waits = |batch: &InFlight| batch.spooled.is_none();
        let late_at = self.in_flight.as_ref().filter(|batch| waits(batch));
        let late_at = late_at.map(|batch| batch.since + PATIENCE);
        let receiving = !drained && late_at.is_none();
        tokio::select! {
            biased;
            answer = answer_of(&mut self.in_flight) => Woken::Answered(answer),
            () = self.stop.cancelled(), if !stopping => Woken::Stopped,
            () = at(deadline) => Woken::OutOfTime,
            () = at(late_at) => Woken::Late,
            received = self.queue.recv_many(batch, BATCH_MAX), if receiving => Woken::Received(received),
            () = at(retry_at) => Woken::Retry,
        }
    }

    /// Others that come meanwhile go along.
    async fn linger(&mut self, batch: &mut Vec<CallRecord>) {
        if batch.len() < BATCH_MAX {
            tokio::select! {
                () = sleep(self.delay) => {}
                () = self.stop.cancelled() => {}
            }
        }
        while batch.len() < BATCH_MAX
            && let Ok(record) = self.queue.try_recv()
        {
            batch.push(record);
        }
    }

    /// Finds a place for records, and for what tells of losses.
    async fn take(&mut self, batch: Vec<CallRecord>) {
        let direct = self.spool.is_empty() && self.in_flight.is_none() && !self.rests();
        // On the way out there is no later time to tell of losses.
        let gaps = if direct || self.spool.accepts() || self.queue.is_closed() {
            let mut gaps = self
                .shared
                .gaps
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            gap_records(std::mem::take(&mut *gaps))
        } else {
            Vec::new()
        };
        let told = gaps.len();
        let rows: Vec<NumberedCall> = gaps
            .into_iter()
            .chain(batch)
            .map(|record| self.numbered(record))
            .collect();
        if direct {
            self.sets_out(Way::Store, &rows);
            self.send(rows, None);
        } else {
            let rows = Arc::new(rows);
            let spooled = self.append(&rows, told, false).await;
            self.lose_behind(&rows, &spooled);
        }
    }

    /// Rows are about to go a way.
    fn sets_out(&self, way: Way, rows: &[NumberedCall]) {
        if let (Some(tally), Some(first)) = (&self.shared.tally, rows.first()) {
            tally.sets_out(way, first.number, weights(rows));
        }
    }

    /// Of the rows those whose place `taken` names went a way to its end, and nothing is on it any more.
    fn arrived(&self, way: Way, rows: &[NumberedCall], taken: impl Fn(usize) -> bool) {
        if let Some(tally) = &self.shared.tally {
            let weights = weights(rows).enumerate();
            let safe = weights.filter_map(|(place, weight)| taken(place).then_some(weight));
            tally.settle(way, safe);
            tally.arrived(way);
        }
    }

    fn numbered(&mut self, record: CallRecord) -> NumberedCall {
        self.last += 1;
        NumberedCall {
            writer: self.number,
            number: self.last,
            record,
        }
    }

    fn send(&mut self, rows: Vec<NumberedCall>, spooled: Option<Spooled>) {
        let rows = Arc::new(rows);
        self.in_flight = Some(InFlight {
            answer: Box::pin(insert(self.store.clone(), Arc::clone(&rows))),
            rows,
            since: Instant::now(),
            spooled,
        });
    }

    async fn send_from_spool(&mut self) {
        let read = self
            .spool
            .call(|spool| spool.read(BATCH_MAX, BATCH_BYTES_MAX));
        match read.await {
            Ok(Some(batch)) => {
                let spooled = Spooled {
                    rows: batch.rows.len(),
                    end: Some(batch.end),
                };
                self.send(batch.rows, Some(spooled));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "cannot read the spool of call records");
                self.rest();
            }
        }
        self.show_spool();
    }

    /// The store has answered for the batch on its way.
    async fn answered(&mut self, answer: Answer) {
        let Some(batch) = self.in_flight.take() else {
            return;
        };
        match answer {
            Ok(refused) => {
                if refused.len() < batch.rows.len() {
                    if self.retry_at.take().is_some() {
                        tracing::info!("call records reach the database again");
                    }
                    self.backoff = RETRY.0;
                } else {
                    self.rest();
                }
                let stored = (batch.rows.len() - refused.len()) as u64;
                self.shared
                    .counts
                    .stored
                    .fetch_add(stored, Ordering::Relaxed);
                let aside = batch.spooled.as_ref().map_or(0, |spooled| spooled.rows);
                let taken = |place| place >= aside && refused.binary_search(&place).is_err();
                self.arrived(Way::Store, &batch.rows, taken);
                let lost = refused.iter().filter_map(|place| batch.rows.get(*place));
                if let Some(tally) = &self.shared.tally {
                    // They were safe, and are to be told now.
                    let back = refused.iter().filter(|place| **place < aside);
                    for row in back.filter_map(|place| batch.rows.get(*place)) {
                        let (record, (key, count)) = (&row.record, weight(row));
                        let count = count.cast_signed();
                        tally.enter(key, record.generation, record.started_at, count);
                    }
                }
                self.shared
                    .lose(lost.map(|row| &row.record), "the database refused them");
                if let Some(place) = batch.spooled.and_then(|spooled| spooled.end) {
                    let moved = self.spool.call(move |spool| spool.advance(place)).await;
                    if let Err(error) = moved {
                        tracing::error!(%error, "cannot move the place in the spool of call records");
                    }
                }
            }
            Err(error) => {
                if self.retry_at.is_none() {
                    tracing::warn!(%error, "call records go to the spool until the database is back");
                }
                self.rest();
                let spooled = match batch.spooled {
                    Some(spooled) => spooled,
                    None => self.append(&batch.rows, 0, true).await,
                };
                self.lose_behind(&batch.rows, &spooled);
                self.arrived(Way::Store, &[], |_| false);
            }
        }
        self.show_spool();
    }

    /// The batch on its way takes too long: it goes on, and lies in the spool before all that come now.
    async fn step_aside(&mut self) {
        if let Some(mut batch) = self.in_flight.take() {
            batch.spooled = Some(self.append(&batch.rows, 0, true).await);
            self.in_flight = Some(batch);
        }
    }

    /// Puts rows into the spool; the first `told` tell of losses and may pass the bound. `sent`: they are or were on their
    /// way into the store.
    async fn append(&mut self, rows: &Arc<Vec<NumberedCall>>, told: usize, sent: bool) -> Spooled {
        self.sets_out(Way::Spool, rows);
        let appended = Arc::clone(rows);
        let call = move |spool: &mut Spool<NumberedCall>| -> io::Result<_> {
            let (gaps, calls) = appended.split_at(told);
            let (mut taken, mut fault) = spool.append(gaps, true);
            if fault.is_ok() {
                let (more, call_fault) = spool.append(calls, false);
                (taken, fault) = (taken + more, call_fault);
            }
            if let Err(error) = fault {
                tracing::error!(%error, "cannot write the spool of call records");
            }
            let end = spool.end();
            Ok(Spooled { rows: taken, end })
        };
        let nothing = Spooled { rows: 0, end: None };
        let spooled = self.spool.call(call).await.unwrap_or(nothing);
        // Of those in the spool it does not matter any more whether the store takes them.
        match rows.get(spooled.rows..) {
            Some(rest @ [_, ..]) if sent => self.sets_out(Way::Store, rest),
            _ if sent => self.arrived(Way::Store, &[], |_| false),
            _ => {}
        }
        self.arrived(Way::Spool, rows, |place| place < spooled.rows);
        let taken = spooled.rows as u64;
        self.shared
            .counts
            .spooled
            .fetch_add(taken, Ordering::Relaxed);
        self.show_spool();
        spooled
    }

    /// What of a batch is neither in the store nor in the spool is lost.
    fn lose_behind(&self, rows: &[NumberedCall], spooled: &Spooled) {
        let lost = rows.iter().skip(spooled.rows);
        self.shared
            .lose(lost.map(|row| &row.record), "the spool is full");
    }

    fn rests(&self) -> bool {
        self.retry_at.is_some_and(|at| at > Instant::now())
    }

    fn rest(&mut self) {
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(RETRY.1);
    }

    /// The end: everything that is in memory goes to the spool.
    async fn settle(&mut self) {
        if let Some(batch) = self.in_flight.take() {
            let spooled = match batch.spooled {
                Some(spooled) => spooled,
                None => self.append(&batch.rows, 0, true).await,
            };
            self.lose_behind(&batch.rows, &spooled);
            self.arrived(Way::Store, &[], |_| false);
        }
        let mut batch = Vec::new();
        while let Ok(record) = self.queue.try_recv() {
            batch.push(record);
        }
        if !batch.is_empty() || self.has_gaps() {
            // Behind what may lie there, and not on a way that nobody waits for.
            self.rest();
            self.take(batch).await;
        }
        if let Err(error) = self.spool.call(|spool| spool.sync()).await {
            tracing::error!(%error, "cannot bring the spool of call records to the disk");
        }
        self.show_spool();
    }

    fn has_gaps(&self) -> bool {
        let gaps = &self.shared.gaps;
        !gaps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    fn deadline(&self) -> Option<Instant> {
        let deadline = &self.shared.deadline;
        let deadline = (*deadline.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(deadline.checked_sub(SPOOL_TIME).unwrap_or(deadline))
    }

    fn show_spool(&self) {
        let bytes = self.spool.bytes();
        self.shared
            .counts
            .spool_bytes
            .store(bytes, Ordering::Relaxed);
    }
}

async fn answer_of(in_flight: &mut Option<InFlight>) -> Answer {
    match in_flight {
        Some(batch) => batch.answer.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Writes `rows`; where the store refuses them, finds the ones that it refuses by halving, so that a poisonous record
/// cannot take others with it.
async fn insert(store: impl CallStore, rows: Arc<Vec<NumberedCall>>) -> Answer {
    let mut refused = Vec::new();
    // From here, to there.
    let mut parts = vec![(0, rows.len())];
    while let Some((from, to)) = parts.pop() {
        match store.insert_calls(&rows[from..to]).await {
            Ok(()) => {}
            Err(error) if error.retryable() => return Err(error),
            Err(error) if to - from <= 1 => {
                tracing::error!(%error, "the database refused a call record");
                refused.push(from);
            }
            Err(_) => {
                let middle = from + (to - from) / 2;
                parts.extend([(middle, to), (from, middle)]);
            }
        }
    }
    Ok(refused)
}
