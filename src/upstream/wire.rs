//! What the callers of a child share, whatever carries the messages: the table of calls, their time, the way out.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep},
};

use super::{
    UpstreamError,
    aside::Aside,
    failure::{INTERNAL_ERROR, error_message},
    http_wire::Posts,
    in_flight::Table,
    stdio::{BACKLOG_MAX_BYTES, Pipe, STDIN_CLOSED, Unwritten},
};

/// The way to the child.
pub enum Output {
    /// Lines into its stdin.
    Pipe(Arc<Pipe>),
    /// A POST for each message.
    Http(Arc<Posts>),
}

/// What the reader of a child and the callers share.
pub struct Wire {
    output: Output,
    /// Calls and requests under way.
    table: Mutex<Table>,
    broken: watch::Sender<Option<String>>,
    call_timeout: Duration,
    sweeping: AtomicBool,
    overdue: AtomicU64,
    /// The child said that its tools changed, since they were last listed.
    tools_changed: AtomicBool,
    lists_changed: AtomicBool,
}

/// Why a message did not go out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The child does not read; what waits already is the most that we keep.
    #[error("the server does not read its input ({BACKLOG_MAX_BYTES} bytes wait)")]
    Backlogged,
    /// So many messages wait for the child's HTTP server to take them.
    #[error("{0} messages wait for the server's HTTP endpoint, the most that may")]
    Crowded(usize),
    /// The way to the child is closed.
    #[error("the server's input is closed")]
    Closed,
}

impl Wire {
    /// With this table and no call yet.
    #[must_use]
    pub fn new(output: Output, table: Table, call_timeout: Duration) -> Self {
        Self {
            output,
            table: Mutex::new(table),
            broken: watch::Sender::new(None),
            call_timeout,
            sweeping: AtomicBool::new(false),
            overdue: AtomicU64::new(0),
            tools_changed: AtomicBool::new(false),
            lists_changed: AtomicBool::new(false),
        }
    }

    /// Whether the list of tools that is known is an old one.
    pub fn tools_changed(&self) -> bool {
        self.tools_changed.load(Ordering::Acquire)
    }

    /// Notes that the child said so, or that they are about to be listed.
    pub fn set_tools_changed(&self, changed: bool) {
        self.tools_changed.store(changed, Ordering::Release);
    }

    /// Whether the child said that one of its lists changed since all of them were asked for.
    pub fn lists_changed(&self) -> bool {
        self.lists_changed.load(Ordering::Acquire)
    }

    /// Notes that the child said so, or that all are about to be asked for.
    pub fn set_lists_changed(&self, changed: bool) {
        self.lists_changed.store(changed, Ordering::Release);
    }

    /// The table of calls under way.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one message, which must hold no line break. Never waits.
    ///
    /// # Errors
    /// [`NotSent`]; then nothing of it went out.
    pub fn send(&self, line: Vec<u8>) -> Result<(), NotSent> {
        self.send_one(line, false)
    }

    /// As [`Self::send`]; `one_of_many`: a call beside many others, which need not go out by itself.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_one(&self, line: Vec<u8>, one_of_many: bool) -> Result<(), NotSent> {
        match &self.output {
            Output::Http(posts) => posts.send(line),
            Output::Pipe(pipe) => pipe.send(line, one_of_many).map_err(|why| match why {
                Unwritten::Backlogged => NotSent::Backlogged,
                Unwritten::Closed => NotSent::Closed,
                Unwritten::Broke => {
                    self.mark_broken(STDIN_CLOSED);
                    NotSent::Closed
                }
            }),
        }
    }

    /// Begins to hear what an HTTP child of the session era says outside of all calls.
    pub fn hear_standing(&self) {
        if let Output::Http(posts) = &self.output {
            posts.hear();
        }
    }

    /// Opens a new session at an HTTP server in the place of one that it forgot.
    ///
    /// # Errors
    /// `forgotten` where there is no session, or why there is no new one.
    pub async fn renew_session(&self, forgotten: UpstreamError) -> Result<(), UpstreamError> {
        match &self.output {
            Output::Http(posts) => {
                let standing = posts.present()?;
                match standing.session {
                    Some(_) => posts.renew(&standing).await,
                    None => Err(forgotten),
                }
            }
            Output::Pipe(_) => Err(forgotten),
        }
    }

    /// Ends every task of this connection.
    pub fn shut(&self) {
        match &self.output {
            Output::Pipe(pipe) => pipe.shut(),
            Output::Http(posts) => posts.shut(),
        }
    }

    /// Makes sure that a call that was just begun is looked at when its time is over. One timer serves all calls of
    /// a child, and none runs while there are none.
    pub fn watch_time(&self) {
        // Nearly always it is on already: a look is cheaper than a swap.
        if self.sweeping.load(Ordering::Acquire) || self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.output {
            Output::Pipe(pipe) => pipe.wake_reader(),
            Output::Http(posts) => posts.sweep(),
        }
    }

    /// Calls that had no sign of life for too long, so far.
    pub fn overdue(&self) -> u64 {
        self.overdue.load(Ordering::Relaxed)
    }

    /// Counts a call that is not in the table and had no sign of life for too long.
    pub fn count_overdue(&self) {
        self.overdue.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the calls whose time is over. `timer` is the caller's; it is `None` afterwards when no call is left.
    pub fn poll_sweep(&self, timer: &mut Option<Aside<Sleep>>, cx: &mut Context<'_>) {
        if !self.sweeping.load(Ordering::Acquire) {
            return;
        }
        let interval =
            (self.call_timeout / 8).clamp(Duration::from_millis(5), Duration::from_secs(5));
        let armed = timer.get_or_insert_with(|| Aside::new(sleep(interval)));
        while armed.poll(cx).is_ready() {
            let (overdue, idle) = {
                let mut table = self.table();
                let overdue = Instant::now()
                    .checked_sub(self.call_timeout)
                    .map(|before| table.overdue(before))
                    .unwrap_or_default();
                table.nudge_all();
                let idle = table.calls() == 0;
                if idle {
                    // Under the lock: whoever begins a call after this sees it and starts the timer anew.
                    self.sweeping.store(false, Ordering::Release);
                }
                (overdue, idle)
            };
            for (id, call) in overdue {
                self.count_overdue();
                let waited = self.call_timeout.as_secs_f32();
                let asked = self.table().forget_round(&call);
                let text = if asked {
                    format!(
                        "The server asked the client for input and got none for {waited} s; the call was given up"
                    )
                } else {
                    format!(
                        "The MCP server behind this URL gave no answer and no sign of life for {waited} s; the call was cancelled"
                    )
                };
                let answer = error_message(&call.client_id, INTERNAL_ERROR, &text, None);
                call.mailbox.answer(answer);
                if !asked {
                    self.cancel(id, "timeout");
                }
            }
            if idle {
                *timer = None;
                return;
            }
            *armed = Aside::new(sleep(interval));
        }
    }

    /// Tells the child that nobody waits for this call any more.
    pub fn cancel(&self, id: u64, reason: &str) {
        let line = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id},\"reason\":\"{reason}\"}}}}"
        );
        // A child that does not read will not miss it.
        let _ = self.send(line.into());
    }

    /// Tells that this child can never answer again.
    pub fn mark_broken(&self, cause: &str) {
        self.broken.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(cause.to_owned());
            }
            first
        });
    }

    /// Follows whether the child can still answer.
    pub fn watch_broken(&self) -> watch::Receiver<Option<String>> {
        self.broken.subscribe()
    }
}
