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

/// Our end of a child's stdin, and what the task that reads its stdout must know.
pub struct Pipe {
    outbox: Mutex<Outbox>,
    has_backlog: AtomicBool,
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
            }),
            has_backlog: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            closing: AtomicBool::new(false),
        })
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one message, which must hold no line break, and the line break. Never waits.
    ///
    /// # Errors
    /// [`Unwritten`]; then nothing of it went out.
    pub fn send(&self, mut line: Vec<u8>) -> Result<(), Unwritten> {
        line.push(b'\n');
        let mut outbox = self.outbox();
        let Some(stdin) = &outbox.stdin else {
            return Err(Unwritten::Closed);
        };
        if !outbox.backlog.is_empty() {
            if outbox.backlog.len() - outbox.written > BACKLOG_MAX_BYTES {
                return Err(Unwritten::Backlogged);
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
                    return Err(Unwritten::Broke);
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
        stdin.poll_backlog(cx);
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
