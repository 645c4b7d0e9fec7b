//! JSON-RPC lines over the pipes of a child.
//!
//! A request is written by its own task; one reader task per child hands the answers out. What does not fit into
//! the pipe waits in a bounded backlog that the reader task writes when the pipe has room again. Where many calls are under
//! way at once, theirs are gathered there and written together, after the tasks that are ready now have added theirs.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe,
};

use super::{
    framer::{Frame, LineFramer},
    wire::Wire,
};

/// Most bytes that wait for a child to read its stdin; one message more may stand on top.
pub const BACKLOG_MAX_BYTES: usize = 4 << 20;
/// Gathered messages of so many bytes are written at once.
pub const GATHERED_MAX_BYTES: usize = 4 << 10;
/// How much is read at once, into a buffer that the threads of the runtime share.
const READ_BYTES: usize = 64 << 10;

/// Why a child whose stdin broke can answer nothing new.
pub const STDIN_CLOSED: &str = "it closed its stdin";

thread_local! {
    /// Per thread and not per child: an idle child holds no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

struct Outbox {
    stdin: Option<Arc<pipe::Sender>>,
    backlog: Vec<u8>,
    written: usize,
    /// The backlog is there because it is gathered, not because the pipe is full.
    gathers: bool,
}

/// Our end of a child's stdin, and what the task that reads its stdout must know.
pub struct Pipe {
    outbox: Mutex<Outbox>,
    has_backlog: AtomicBool,
    /// The reader task lets the others that are ready go first, once.
    gathering: AtomicBool,
    reader: AtomicWaker,
    closing: AtomicBool,
}

/// Why a line was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// The child does not read; what waits already is the most that we keep.
    Backlogged,
    /// We closed it.
    Closed,
    /// The child closed it.
    Broke,
}

impl Pipe {
    /// Wraps stdin.
    ///
    /// # Errors
    /// When the descriptor is not the writing end of a pipe.
    pub fn new(stdin: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            outbox: Mutex::new(Outbox {
                stdin: Some(Arc::new(pipe::Sender::from_owned_fd(stdin)?)),
                backlog: Vec::new(),
                written: 0,
                gathers: false,
            }),
            has_backlog: AtomicBool::new(false),
            gathering: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            closing: AtomicBool::new(false),
        })
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one message, which must hold no line break, and the line break. Never waits. `one_of_many`: others are about
    /// to be sent, and it may be written together with them.
    ///
    /// # Errors
    /// [`Unwritten`]; then nothing of it went out.
    pub fn send(&self, mut line: Vec<u8>, one_of_many: bool) -> Result<(), Unwritten> {
        line.push(b'\n');
        let mut outbox = self.outbox();
        if outbox.stdin.is_none() {
            return Err(Unwritten::Closed);
        }
        if outbox.backlog.is_empty() {
            if one_of_many {
                outbox.backlog.reserve(GATHERED_MAX_BYTES.max(line.len()));
                outbox.backlog.extend_from_slice(&line);
                outbox.gathers = true;
                self.gathering.store(true, Ordering::Release);
                self.has_backlog.store(true, Ordering::Release);
                drop(outbox);
                self.reader.wake();
                return Ok(());
            }
        } else {
            if outbox.backlog.len() - outbox.written > BACKLOG_MAX_BYTES {
                return Err(Unwritten::Backlogged);
            }
            outbox.backlog.extend_from_slice(&line);
            if !outbox.gathers || outbox.backlog.len() < GATHERED_MAX_BYTES {
                return Ok(());
            }
            // Full enough: it goes out as it is.
            line = std::mem::take(&mut outbox.backlog);
            outbox.gathers = false;
            self.has_backlog.store(false, Ordering::Release);
        }
        let Some(stdin) = &outbox.stdin else {
            return Err(Unwritten::Closed);
        };
        let mut written = 0;
        while written < line.len() {
            match stdin.try_write(&line[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    line.drain(..written);
                    outbox.backlog = line;
                    outbox.written = 0;
                    outbox.gathers = false;
                    self.has_backlog.store(true, Ordering::Release);
                    drop(outbox);
                    self.reader.wake();
                    return Ok(());
                }
                Err(_) => {
                    outbox.stdin = None;
                    return Err(Unwritten::Broke);
                }
            }
        }
        Ok(())
    }

    /// Writes what waits; `false` when the child closed its stdin meanwhile.
    fn poll_backlog(&self, cx: &mut Context<'_>) -> bool {
        if !self.has_backlog.load(Ordering::Acquire) {
            return true;
        }
        if self.gathering.swap(false, Ordering::AcqRel) {
            // Behind all that are ready now, which may have something to send as well.
            cx.waker().wake_by_ref();
            return true;
        }
        let mut broke = false;
        let mut outbox = self.outbox();
        let outbox = &mut *outbox;
        while let Some(stdin) = &outbox.stdin {
            if outbox.written == outbox.backlog.len() {
                break;
            }
            match stdin.poll_write_ready(cx) {
                Poll::Pending => {
                    outbox.gathers = false;
                    return true;
                }
                Poll::Ready(Err(_)) => {
                    outbox.stdin = None;
                    broke = true;
                }
                Poll::Ready(Ok(())) => match stdin.try_write(&outbox.backlog[outbox.written..]) {
                    Ok(count) => outbox.written += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        outbox.stdin = None;
                        broke = true;
                    }
                },
            }
        }
        outbox.backlog = Vec::new();
        outbox.written = 0;
        outbox.gathers = false;
        self.has_backlog.store(false, Ordering::Release);
        !broke
    }

    /// Whether something waits for the reader task to write it.
    #[cfg(test)]
    pub fn has_backlog(&self) -> bool {
        self.has_backlog.load(Ordering::Acquire)
    }

    /// Lets the reader task look around.
    pub fn wake_reader(&self) {
        self.reader.wake();
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
}

/// Reads stdout until its end; `line` gets each frame. The body of the one task of a child.
pub async fn read_lines(
    wire: Arc<Wire>,
    stdin: Arc<Pipe>,
    mut stdout: pipe::Receiver,
    line_limit_bytes: usize,
    mut line: impl FnMut(Frame<'_>),
) {
    let mut framer = LineFramer::new(line_limit_bytes);
    let mut timer = None;
    let cause = poll_fn(|cx| {
        stdin.reader.register(cx.waker());
        if stdin.closing.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        if !stdin.poll_backlog(cx) {
            wire.mark_broken(STDIN_CLOSED);
        }
        wire.poll_sweep(&mut timer, cx);
        loop {
            let read = SCRATCH.with_borrow_mut(|scratch| {
                // It takes a short read for the end of what is there, and spares the one that would find nothing.
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut stdout).poll_read(cx, &mut buffer))?;
                framer.feed(buffer.filled(), &mut line);
                Poll::Ready(Ok::<usize, io::Error>(buffer.filled().len()))
            });
            match ready!(read) {
                Ok(0) => return Poll::Ready(Some("it closed its stdout".to_owned())),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(format!("reading its stdout: {error}"))),
            }
        }
    })
    .await;
    if let Some(cause) = cause {
        wire.mark_broken(&cause);
    }
}
