//! One small task for each pipe: bytes in, redacted lines into the queue.
//!
//! An idle pipe costs its registration with the reactor and the task, no buffer: all pipes that one thread
//! reads share one, and nothing is awaited while it is in use.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use memchr::memchr_iter;
use tokio::{net::unix::pipe::Receiver, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    framer::{Framed, Framer},
    queue::Queue,
    record::{LogRecord, LogSource, LogStream},
};
use crate::{domain::UnixMs, secrets::redaction::Redactions};

/// How many of the last lines are kept.
pub const LAST_LINES_MAX: usize = 20;
/// How many bytes of the last lines are kept, all together.
pub const LAST_LINES_BYTES_MAX: usize = 4 << 10;

const READ_BYTES: usize = 64 << 10;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The capture of one pipe. It goes on when this handle is dropped, until the pipe ends.
#[derive(Clone)]
pub struct Capture {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Shared {
    last_lines: Mutex<LastLines>,
}

/// The newest lines, bounded in number and bytes.
#[derive(Debug, Default)]
struct LastLines {
    lines: VecDeque<String>,
    bytes: usize,
}

impl LastLines {
    fn push(&mut self, line: &str) {
        let mut end = line.len().min(LAST_LINES_BYTES_MAX / 4);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes += end;
        self.lines.push_back(line[..end].to_owned());
        while self.lines.len() > LAST_LINES_MAX || self.bytes > LAST_LINES_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
        }
    }
}

impl Capture {
    /// The last redacted lines, oldest first: at most [`LAST_LINES_MAX`] and [`LAST_LINES_BYTES_MAX`], a long
    /// line shortened. Only stderr is remembered so; other streams give nothing.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        let last = self.shared.last_lines.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner);
        last.lines.iter().cloned().collect()
    }

    /// Waits until all that was written into the pipe is queued and the last writer has closed it, at most
    /// `timeout`. Whether that came to be.
    pub async fn drained(&self, timeout: Duration) -> bool {
        let mut ended = self.ended.clone();
        let waiting = tokio::time::timeout(timeout, ended.wait_for(|ended| *ended)).await;
        matches!(waiting, Ok(Ok(_)))
    }

    /// Stops reading; what is still in the pipe stays there.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

pub(super) struct Reading {
    source: LogSource,
    stream: LogStream,
    pipe: Receiver,
    redactions: Arc<Redactions>,
    queue: Arc<Queue>,
    framer: Framer,
    /// The bytes so far end in the middle of a line.
    line_open: bool,
    shared: Arc<Shared>,
    ended: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Reading {
    /// Prepares the reading of `pipe`, the read end of a pipe; it is made non-blocking.
    pub(super) fn new(
        source: LogSource,
        stream: LogStream,
        pipe: OwnedFd,
        redactions: Arc<Redactions>,
        queue: Arc<Queue>,
        line_limit_bytes: usize,
        stop: CancellationToken,
    ) -> io::Result<(Self, Capture)> {
        let shared = Arc::<Shared>::default();
        let (ended_tx, ended) = watch::channel(false);
        let capture = Capture {
            shared: Arc::clone(&shared),
            ended,
            stop: stop.clone(),
        };
        let reading = Self {
            source,
            stream,
            pipe: Receiver::from_owned_fd(pipe)?,
            redactions,
            queue,
            framer: Framer::new(line_limit_bytes),
            line_open: false,
            shared,
            ended: ended_tx,
            stop,
        };
        Ok((reading, capture))
    }

    /// Reads until the pipe ends or it is told to stop.
    pub(super) async fn run(&mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                ready = self.pipe.readable() => if ready.is_err() { break },
            }
            // The room comes before the bytes: what we cannot keep, the kernel keeps.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = self.queue.room(self.source.key) => {}
            }
            match self.read_once() {
                Ok(0) => break,
                Ok(_) => tokio::task::consume_budget().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(instance = %self.source.instance, %error, "cannot read a log pipe");
                    break;
                }
            }
        }
        let mut rows = Vec::new();
        let matcher = self.redactions.matcher();
        let at = unix_ms_now();
        let mut collect = collector(&mut rows, self.source, self.stream, at);
        self.framer.finish(&matcher, &mut collect);
        drop(collect);
        self.remember(&rows);
        let counted = i64::from(self.line_open);
        self.queue.push_read(rows, self.source, at, counted);
        self.ended.send_replace(true);
    }

    /// One read, framed and queued; the number of bytes read. Awaits nothing, so the buffer can be shared.
    fn read_once(&mut self) -> io::Result<usize> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(READ_BYTES, 0);
            let count = self.pipe.try_read(buffer)?;
            let at = unix_ms_now();
            // Counted at once: from here on they are in our memory alone.
            let ends = i64::try_from(memchr_iter(b'\n', &buffer[..count]).count()).unwrap_or(0);
            let open = buffer[..count]
                .last()
                .map_or(self.line_open, |byte| *byte != b'\n');
            let began = i64::from(open) - i64::from(self.line_open);
            self.line_open = open;
            self.queue.read(self.source, at, ends + began);
            let mut rows = Vec::new();
            let matcher = self.redactions.matcher();
            let mut collect = collector(&mut rows, self.source, self.stream, at);
            self.framer.feed(&buffer[..count], &matcher, &mut collect);
            drop(collect);
            if !rows.is_empty() || ends > 0 {
                self.remember(&rows);
                self.queue.push_read(rows, self.source, at, ends);
            }
            Ok(count)
        })
    }

    /// Keeps the last lines of stderr.
    fn remember(&self, rows: &[LogRecord]) {
        if self.stream != LogStream::Stderr {
            return;
        }
        let last = self.shared.last_lines.lock();
        let mut last = last.unwrap_or_else(PoisonError::into_inner);
        for row in &rows[rows.len().saturating_sub(LAST_LINES_MAX)..] {
            last.push(&row.line);
        }
    }
}

fn collector(
    rows: &mut Vec<LogRecord>,
    source: LogSource,
    stream: LogStream,
    at: UnixMs,
) -> impl FnMut(Framed) {
    move |framed| rows.push(record(source, stream, at, framed))
}

/// The record of a framed line.
pub(super) fn record(
    source: LogSource,
    stream: LogStream,
    at: UnixMs,
    framed: Framed,
) -> LogRecord {
    LogRecord {
        instance_key: source.key,
        generation: source.generation,
        member: source.member,
        stream,
        at,
        line: framed.line,
        continued: framed.continued,
    }
}

/// The wall clock.
pub(super) fn unix_ms_now() -> UnixMs {
    jiff::Timestamp::now().as_millisecond()
}
