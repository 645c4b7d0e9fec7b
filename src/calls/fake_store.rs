//! A store in memory for the tests of this room: it can be away, hang, commit without saying so, and refuse a tool.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::CallStore;
use crate::{
    domain::call::{CallOutcome, CallRecord, NumberedCall},
    store::StoreError,
};

/// What it does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Takes it.
    Open,
    /// Says that it is away.
    Away,
    /// Takes it, and says that it is away.
    Silent,
    /// Says nothing until the mode changes.
    Hanging,
}

#[derive(Default)]
struct Rows {
    stored: Vec<CallRecord>,
    last: BTreeMap<i64, i64>,
}

#[derive(Clone)]
pub(super) struct FakeStore {
    rows: Arc<Mutex<Rows>>,
    mode: watch::Sender<Mode>,
    refused_tool: &'static str,
}

impl FakeStore {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            rows: Arc::default(),
            mode: watch::Sender::new(mode),
            refused_tool: "",
        }
    }

    pub(super) fn refusing(tool: &'static str) -> Self {
        Self {
            refused_tool: tool,
            ..Self::new(Mode::Open)
        }
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tools of the calls that it has, in order.
    pub(super) fn tools(&self) -> Vec<String> {
        let rows = self.rows();
        let calls = rows
            .stored
            .iter()
            .filter(|row| !matches!(row.outcome, CallOutcome::Lost(_)));
        calls.map(|row| row.tool.to_string()).collect()
    }

    /// How many calls its records of losses tell of.
    pub(super) fn lost(&self) -> i64 {
        let rows = self.rows();
        let lost = rows.stored.iter().map(|row| match row.outcome {
            CallOutcome::Lost(calls) => calls,
            _ => 0,
        });
        lost.sum()
    }

    fn commit(&self, calls: &[NumberedCall]) {
        let mut rows = self.rows();
        for call in calls {
            let last = rows.last.entry(call.writer).or_default();
            if call.number > *last {
                *last = call.number;
                rows.stored.push(call.record.clone());
            }
        }
    }
}

impl CallStore for FakeStore {
    async fn insert_calls(&self, calls: &[NumberedCall]) -> Result<(), StoreError> {
        let mut mode = self.mode.subscribe();
        let decided = mode.wait_for(|mode| *mode != Mode::Hanging).await;
        let mode = decided.map_or(Mode::Away, |mode| *mode);
        if mode == Mode::Away {
            return Err(StoreError::Unavailable("away".to_owned()));
        }
        if calls
            .iter()
            .any(|call| *call.record.tool == *self.refused_tool)
            && !self.refused_tool.is_empty()
        {
            return Err(StoreError::Refused("not this tool".to_owned()));
        }
        self.commit(calls);
        if mode == Mode::Silent {
            return Err(StoreError::Unavailable("no answer in time".to_owned()));
        }
        Ok(())
    }

    async fn close_writer(&self, writer: i64, closed: Option<i64>) -> Result<i64, StoreError> {
        let mut rows = self.rows();
        let last = rows.last.entry(writer).or_default();
        let came = *last;
        *last = came.max(closed.unwrap_or(0));
        Ok(came)
    }
}
