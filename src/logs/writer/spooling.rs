//! The way through the spool: what the writer puts there, and how it comes back.

use std::sync::Arc;

use super::{
    super::{
        gap::{Gaps, Loss, gap_rows},
        record::{LogRecord, NumberedLog},
        share::has_room,
        spooled::bytes_in_spool,
    },
    AHEAD_BYTES_MIN, Ahead, BATCH_BYTES_MAX, InFlight, Spooled, Writer,
};
use crate::{
    spool::{Place, SpoolBatch},
    tally::Way,
};

impl Writer {
    pub(super) async fn send_from_spool(&mut self) {
        let batch_rows = self.batch_rows;
        let read = self
            .spool
            .call(move |spool| spool.read(batch_rows, BATCH_BYTES_MAX))
            .await;
        match read {
            Ok(Some(batch)) => self.send_spooled(batch),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "cannot read the log spool");
                self.rest();
            }
        }
        self.show_spool();
    }

    fn send_spooled(&mut self, batch: SpoolBatch<NumberedLog>) {
        let spooled = Spooled {
            rows: batch.rows.len(),
            end: Some(batch.end),
        };
        self.send(batch.rows, Gaps::new(), Some(spooled));
    }

    /// Behind which place the next batch can be read while one is on its way.
    pub(super) fn place_ahead(&self) -> Option<Place> {
        let on_its_way = self.in_flight.as_ref().filter(|_| !self.ahead.looked)?;
        let end = on_its_way.spooled?.end?;
        (self.spool.bytes_behind(end) >= AHEAD_BYTES_MIN).then_some(end)
    }

    pub(super) async fn read_ahead(&mut self, place: Place) {
        let batch_rows = self.batch_rows;
        let read = self
            .spool
            .call(move |spool| spool.read_behind(place, batch_rows, BATCH_BYTES_MAX))
            .await;
        // A fault is told when the batch is read in its turn.
        self.ahead = Ahead {
            looked: true,
            batch: read.unwrap_or(None),
        };
    }

    /// Sends the batch that was read ahead, if there is one: the one before it is in the store.
    pub(super) fn send_ahead(&mut self) {
        if let Some(batch) = self.ahead.batch.take() {
            self.send_spooled(batch);
        }
    }

    /// Puts a batch that is or was on its way into the spool, which is empty.
    async fn step_aside(&mut self, batch: &mut InFlight) {
        let rows = Arc::clone(batch.insert.rows());
        let told = batch.gaps.len();
        self.sets_out(Way::Spool, &rows, &batch.gaps, 0);
        let spooled = self
            .spool
            .call(move |spool| {
                let (gap_rows, lines) = rows.split_at(told);
                let (mut taken, mut fault) = spool.append(gap_rows, true);
                if fault.is_ok() {
                    let (more, line_fault) = spool.append(lines, false);
                    (taken, fault) = (taken + more, line_fault);
                }
                if let Err(error) = fault {
                    tracing::error!(%error, "cannot write the log spool");
                }
                let end = spool.end();
                Ok(Spooled { rows: taken, end })
            })
            .await
            .unwrap_or(Spooled { rows: 0, end: None });
        self.shared.written().spooled += spooled.rows.saturating_sub(told) as u64;
        let rows = batch.insert.rows();
        if spooled.rows < rows.len() {
            self.sets_out(Way::Store, rows, &batch.gaps, spooled.rows);
        } else if let Some(tally) = &self.tally {
            tally.arrived(Way::Store);
        }
        self.spooled(rows, &batch.gaps, spooled.rows);
        let rows = rows.iter().take(spooled.rows).skip(told);
        for NumberedLog { record, .. } in rows {
            self.shares.add(record.instance_key, bytes_in_spool(record));
        }
        batch.spooled = Some(spooled);
        self.show_spool();
    }

    /// The store does not take a batch now: what the spool does not hold of it is lost.
    pub(super) async fn give_up(&mut self, mut batch: InFlight) {
        if batch.spooled.is_none() {
            self.step_aside(&mut batch).await;
        }
        let kept = batch.spooled.map_or(0, |spooled| spooled.rows);
        let told = batch.gaps.len();
        if kept < told {
            self.tell_later(std::mem::take(&mut batch.gaps));
        }
        let lost = batch.insert.rows().iter().skip(kept.max(told));
        self.lose(lost.map(|row| &row.record), Loss::NoPlace);
        if let Some(tally) = &self.tally {
            tally.arrived(Way::Store);
        }
    }

    /// Moves a batch from the queue into the spool, behind the batch on its way.
    pub(super) async fn spool_batch(&mut self) {
        if let Some(mut batch) = self.in_flight.take() {
            if batch.spooled.is_none() {
                self.step_aside(&mut batch).await;
            }
            self.in_flight = Some(batch);
        }
        if !self.gaps.is_empty() && self.spool.accepts() {
            self.spool_gaps().await;
        }
        let taken = self.queue.take(self.batch_rows, BATCH_BYTES_MAX);
        self.batch_due = None;
        let rows = self.within_shares(taken);
        let rows = self.numbered(rows);
        let count = rows.len();
        self.sets_out(Way::Spool, &rows, &Gaps::new(), 0);
        let (rows, taken) = self
            .spool
            .call(move |spool| {
                let (taken, fault) = spool.append(&rows, false);
                if let Err(error) = fault {
                    tracing::error!(%error, "cannot write the log spool");
                }
                Ok((rows, taken))
            })
            .await
            .unwrap_or((Vec::new(), count));
        self.shared.written().spooled += taken as u64;
        self.spooled(&rows, &Gaps::new(), taken);
        let lost = rows.get(taken..).unwrap_or_default();
        for NumberedLog { record, .. } in lost {
            self.shares
                .remove(record.instance_key, bytes_in_spool(record));
        }
        self.lose(lost.iter().map(|row| &row.record), Loss::NoPlace);
        self.show_spool();
    }

    /// Keeps the rows of instances that have not had their share of the spool, and counts them to it; the others are lost.
    fn within_shares(&mut self, rows: Vec<LogRecord>) -> Vec<LogRecord> {
        let mut used = self.spool.bytes();
        let (kept, lost): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| {
            let own = self.shares.of(row.instance_key);
            let keeps = has_room(own, used, self.spool_bytes_max);
            if keeps {
                let bytes = bytes_in_spool(row);
                self.shares.add(row.instance_key, bytes);
                used += bytes;
            }
            keeps
        });
        self.lose(lost.iter(), Loss::OverShare);
        kept
    }

    /// Writes gap rows behind what is in the spool.
    pub(super) async fn spool_gaps(&mut self) {
        let gaps = std::mem::take(&mut self.gaps);
        let rows = self.numbered(gap_rows(&gaps));
        self.sets_out(Way::Spool, &rows, &gaps, 0);
        let told = self
            .spool
            .call(move |spool| {
                let (told, fault) = spool.append(&rows, true);
                fault.map(|()| (rows, told))
            })
            .await;
        match told {
            Ok((rows, told)) if told == rows.len() => self.spooled(&rows, &gaps, told),
            _ => {
                self.spooled(&[], &Gaps::new(), 0);
                self.tell_later(gaps);
            }
        }
    }

    pub(super) async fn advance(&mut self, place: Place) {
        let moved = self.spool.call(move |spool| spool.advance(place)).await;
        if let Err(error) = moved {
            tracing::error!(%error, "cannot move the place in the log spool");
        }
        if self.spool.is_empty() {
            self.shares.clear();
        }
        self.show_spool();
    }

    /// The end: everything that is in memory goes to the spool.
    pub(super) async fn spool_everything(&mut self) {
        if let Some(batch) = self.in_flight.take() {
            self.give_up(batch).await;
        }
        while self.queue.fill().rows > 0 {
            self.spool_batch().await;
        }
        self.collect_gaps();
        if !self.gaps.is_empty() {
            self.spool_gaps().await;
        }
        if let Err(error) = self.spool.call(|spool| spool.sync()).await {
            tracing::error!(%error, "cannot bring the log spool to the disk");
        }
        self.show_spool();
    }
}
