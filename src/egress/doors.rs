//! The one task of a gate: it waits for questions and connections. It holds no buffer while nothing comes, because there
//! is a gate for each of a thousand instances.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::ReadBuf,
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, sleep},
};

use super::{Inner, bucket::Bucket, connection, dns};
use crate::{connections::Complaint, runtime::Caught};

/// Connections that a child may begin in a second, in the long run; as many again at once after a rest. One that must
/// wait holds up what the child asks meanwhile.
const BEGUN_PER_SECOND: u32 = 50;
/// Questions for names that are answered in a second; what is beyond is dropped, as a busy network would.
const QUESTIONS_PER_SECOND: u32 = 200;
/// Longest question in bytes: a header, one name, and room for what is added to it (EDNS).
const QUESTION_BYTES_MAX: usize = 1_024;
/// Rest after an answer that nobody takes.
const QUESTION_REST: Duration = Duration::from_millis(10);
/// Rest when no connection can be accepted: there is no descriptor left, and others may give some back.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Where the connections and questions of a child end.
pub(super) struct Doors {
    dns: UdpSocket,
    listeners: Vec<TcpListener>,
    /// The listener that is asked first: each in turn, or a busy one would keep others waiting.
    first: usize,
    v6: bool,
    questions: Bucket,
    begins: Bucket,
    complaint: Complaint,
}

/// What came.
enum Arrival {
    Question(io::Result<()>),
    Connection(io::Result<TcpStream>),
}

impl Doors {
    /// # Errors
    /// When a socket cannot be registered with the runtime.
    pub(super) fn of(caught: Caught) -> io::Result<Self> {
        let listeners = caught.listeners.into_iter().map(TcpListener::from_std);
        let listeners: Vec<_> = listeners.collect::<io::Result<_>>()?;
        let address = listeners.first().map(TcpListener::local_addr);
        Ok(Self {
            dns: UdpSocket::from_std(caught.dns)?,
            v6: matches!(address, Some(Ok(SocketAddr::V6(_)))),
            listeners,
            first: 0,
            questions: Bucket::new(QUESTIONS_PER_SECOND),
            begins: Bucket::new(BEGUN_PER_SECOND),
            complaint: Complaint::default(),
        })
    }

    /// Answers and accepts for as long as it is polled.
    pub(super) async fn keep(&mut self, inner: &Arc<Inner>) {
        loop {
            match poll_fn(|cx| self.poll_next(cx, inner)).await {
                Arrival::Question(Ok(())) => {}
                Arrival::Question(Err(_)) => sleep(QUESTION_REST).await,
                Arrival::Connection(Ok(stream)) => {
                    while let Some(wait) = self.begins.take(Instant::now()) {
                        sleep(wait).await;
                    }
                    let connection = connection::carry(Arc::clone(inner), stream);
                    let stop = inner.stop.clone();
                    tokio::spawn(stop.run_until_cancelled_owned(connection));
                }
                Arrival::Connection(Err(cause)) => {
                    if let Some(times) = self.complaint.again(Instant::now()) {
                        tracing::warn!(%cause, times, "a connection of an instance cannot be accepted");
                    }
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, inner: &Inner) -> Poll<Arrival> {
        if let Poll::Ready(answered) = self.poll_question(cx, inner) {
            return Poll::Ready(Arrival::Question(answered));
        }
        for turn in 0..self.listeners.len() {
            let index = (self.first + turn) % self.listeners.len();
            if let Poll::Ready(accepted) = self.listeners[index].poll_accept(cx) {
                self.first = index + 1;
                return Poll::Ready(Arrival::Connection(accepted.map(|(stream, _)| stream)));
            }
        }
        Poll::Pending
    }

    /// Answers one question. An error is that of an earlier answer, whose asker is gone.
    fn poll_question(&mut self, cx: &mut Context<'_>, inner: &Inner) -> Poll<io::Result<()>> {
        let mut bytes = [0; QUESTION_BYTES_MAX];
        let mut packet = ReadBuf::new(&mut bytes);
        let from = ready!(self.dns.poll_recv_from(cx, &mut packet))?;
        if self.questions.take(Instant::now()).is_none()
            && let Some(question) = dns::Question::parse(packet.filled())
        {
            let answer = inner.answer(&question, self.v6);
            let reply = question.reply(packet.filled(), answer);
            // Full buffers on loopback: it asks again.
            let _ = self.dns.try_send_to(&reply, from);
        }
        Poll::Ready(Ok(()))
    }
}
