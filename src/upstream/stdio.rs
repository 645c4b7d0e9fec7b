//! JSON-RPC lines over the pipes of a child.
//!
//! A request is written by its own task; one reader task per child hands the answers out. What does not fit into
//! the pipe waits in a bounded backlog that the reader task writes when the pipe has room again.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    net::unix::pipe,
    sync::watch,
    time::{Instant, Sleep, sleep},
};

use super::{
    failure::{INTERNAL_ERROR, error_message},
    framer::{Frame, LineFramer},
    in_flight::Table,
};

/// Most bytes that wait for a child to read its stdin; one message more may stand on top.
const BACKLOG_MAX_BYTES: usize = 4 << 20;
/// How much is read at once, into a buffer that the threads of the runtime share.
const READ_BYTES: usize = 64 << 10;

thread_local! {
    /// Per thread and not per child: an idle child holds no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

struct Outbox {
    stdin: Option<Arc<pipe::Sender>>,
    backlog: Vec<u8>,
    written: usize,
}

/// What the reader task and the callers share.
pub struct Wire {
    outbox: Mutex<Outbox>,
    has_backlog: AtomicBool,
    reader: AtomicWaker,
    closing: AtomicBool,
    /// Calls and requests under way.
    table: Mutex<Table>,
    broken: watch::Sender<Option<String>>,
    call_timeout: Duration,
    sweeping: AtomicBool,
    overdue: AtomicU64,
    /// The child said that its tools changed, since they were last listed.
    tools_changed: AtomicBool,
}

/// Why a message did not go out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The child does not read; what waits already is the most that we keep.
    #[error("the server does not read its input ({BACKLOG_MAX_BYTES} bytes wait)")]
    Backlogged,
    /// The pipe is closed.
    #[error("the server's input is closed")]
    Closed,
}

impl Wire {
    /// Wraps stdin.
    ///
    /// # Errors
    /// When the descriptor is not the writing end of a pipe.
    pub fn new(stdin: OwnedFd, table: Table, call_timeout: Duration) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            outbox: Mutex::new(Outbox {
                stdin: Some(Arc::new(pipe::Sender::from_owned_fd(stdin)?)),
                backlog: Vec::new(),
                written: 0,
            }),
            has_backlog: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            closing: AtomicBool::new(false),
            table: Mutex::new(table),
            broken: watch::Sender::new(None),
            call_timeout,
            sweeping: AtomicBool::new(false),
            overdue: AtomicU64::new(0),
            tools_changed: AtomicBool::new(false),
        }))
    }

    /// Whether the list of tools that is known is an old one.
    pub fn tools_changed(&self) -> bool {
        self.tools_changed.load(Ordering::Acquire)
    }

    /// Notes that the child said so, or that they are about to be listed.
    pub fn set_tools_changed(&self, changed: bool) {
        self.tools_changed.store(changed, Ordering::Release);
    }

    /// The table of calls under way.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one message, which must hold no line break, and the line break. Never waits.
    ///
    /// # Errors
    /// [`NotSent`]; then nothing of it went out.
    pub fn send(&self, mut line: Vec<u8>) -> Result<(), NotSent> {
        line.push(b'\n');
        let mut outbox = self.outbox();
        let Some(stdin) = &outbox.stdin else {
            return Err(NotSent::Closed);
        };
        if !outbox.backlog.is_empty() {
            if outbox.backlog.len() - outbox.written > BACKLOG_MAX_BYTES {
                return Err(NotSent::Backlogged);
            }
            outbox.backlog.extend_from_slice(&line);
            return Ok(());
        }
        let mut written = 0;
        while written < line.len() {
            match stdin.try_write(&line[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    line.drain(..written);
                    outbox.backlog = line;
                    outbox.written = 0;
                    self.has_backlog.store(true, Ordering::Release);
                    drop(outbox);
                    self.reader.wake();
                    return Ok(());
                }
                Err(_) => {
                    outbox.stdin = None;
                    drop(outbox);
                    self.mark_broken("it closed its stdin");
                    return Err(NotSent::Closed);
                }
            }
        }
        Ok(())
    }

    fn poll_backlog(&self, cx: &mut Context<'_>) {
        if !self.has_backlog.load(Ordering::Acquire) {
            return;
        }
        let mut outbox = self.outbox();
        let outbox = &mut *outbox;
        while let Some(stdin) = &outbox.stdin {
            if outbox.written == outbox.backlog.len() {
                break;
            }
            match stdin.poll_write_ready(cx) {
                Poll::Pending => return,
                Poll::Ready(Err(_)) => outbox.stdin = None,
                Poll::Ready(Ok(())) => match stdin.try_write(&outbox.backlog[outbox.written..]) {
                    Ok(count) => outbox.written += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => outbox.stdin = None,
                },
            }
        }
        outbox.backlog = Vec::new();
        outbox.written = 0;
        self.has_backlog.store(false, Ordering::Release);
    }

    /// Makes sure that a call that was just begun is looked at when its time is over. One timer serves all calls of
    /// a child, and none runs while there are none.
    pub fn watch_time(&self) {
        if !self.sweeping.swap(true, Ordering::AcqRel) {
            self.reader.wake();
        }
    }

    /// Calls that had no sign of life for too long, so far.
    pub fn overdue(&self) -> u64 {
        self.overdue.load(Ordering::Relaxed)
    }

    fn poll_sweep(&self, timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) {
        if !self.sweeping.load(Ordering::Acquire) {
            return;
        }
        let interval =
            (self.call_timeout / 8).clamp(Duration::from_millis(5), Duration::from_secs(5));
        let armed = timer.get_or_insert_with(|| Box::pin(sleep(interval)));
        while armed.as_mut().poll(cx).is_ready() {
            let overdue = {
                let mut table = self.table();
                let overdue = Instant::now()
                    .checked_sub(self.call_timeout)
                    .map(|before| table.overdue(before))
                    .unwrap_or_default();
                table.nudge_all();
                if table.calls() == 0 {
                    // Under the lock: whoever begins a call after this sees it and starts the timer anew.
                    self.sweeping.store(false, Ordering::Release);
                }
                overdue
            };
            for (id, call) in overdue {
                self.overdue.fetch_add(1, Ordering::Relaxed);
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
            if !self.sweeping.load(Ordering::Acquire) {
                *timer = None;
                return;
            }
            armed.as_mut().reset(Instant::now() + interval);
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

    /// Closes our end of the child's stdin: the polite request to end.
    pub fn close_stdin(&self) {
        let mut outbox = self.outbox();
        outbox.stdin = None;
        outbox.backlog = Vec::new();
        outbox.written = 0;
    }

    /// Ends the reader task.
    pub fn shut(&self) {
        self.closing.store(true, Ordering::Release);
        self.close_stdin();
        self.reader.wake();
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

/// Reads stdout until its end; `line` gets each frame. The body of the one task of a child.
pub async fn read_lines(
    wire: Arc<Wire>,
    stdout: pipe::Receiver,
    line_limit_bytes: usize,
    mut line: impl FnMut(Frame<'_>),
) {
    let mut framer = LineFramer::new(line_limit_bytes);
    let mut timer = None;
    let cause = poll_fn(|cx| {
        wire.reader.register(cx.waker());
        if wire.closing.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        wire.poll_backlog(cx);
        wire.poll_sweep(&mut timer, cx);
        loop {
            match stdout.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(error.to_string())),
                Poll::Ready(Ok(())) => {}
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let count = stdout.try_read(scratch)?;
                framer.feed(&scratch[..count], &mut line);
                Ok::<usize, io::Error>(count)
            });
            match read {
                Ok(0) => return Poll::Ready(Some("it closed its stdout".to_owned())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Some(format!("reading its stdout: {error}"))),
            }
        }
    })
    .await;
    if let Some(cause) = cause {
        wire.mark_broken(&cause);
    }
}
