//! The gate: the only way out of a network namespace of an instance's own; and the way to servers elsewhere.
//!
//! Inside, every name that is allowed has a synthetic address, and whatever connects there ends at a listener that the
//! keeper made. Here the address is turned into its name again, the name is resolved outside, what is private is
//! refused, and bytes are copied. A server needs no proxy setting, and what it does not name it cannot reach.

mod broker;
mod broker_body;
mod broker_client;
mod broker_headers;
mod connection;
mod dial;
mod dns;
mod hello;
mod ledger;
mod names;
mod oauth;
mod relay;
mod resolve;

use std::{
    io,
    net::UdpSocket,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{net::TcpListener, sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{broker::Desk, dns::Answer, names::Names};
pub use self::{
    broker::Keys,
    dial::{DialError, Dialer},
    ledger::{EgressReport, HostCount, Ledger},
    resolve::{HostResolver, Resolve},
};
use crate::{
    clock::Clock,
    connections::Complaint,
    domain::{egress::Egress, private_address::Opened},
    runtime::Caught,
};

/// Connections that a child may begin in a second, in the long run; as many again at once after a rest.
const BEGUN_PER_SECOND: u32 = 50;
/// Questions for names that are answered in a second; what is beyond is dropped, as a busy network would.
const QUESTIONS_PER_SECOND: u32 = 200;
/// Longest question in bytes: a header, one name, and room for what is added to it (EDNS).
const QUESTION_BYTES_MAX: usize = 1_024;

/// What the gates of all children share.
pub struct Outside {
    /// Turns names into addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Private addresses that are reached all the same.
    pub opened: Vec<Opened>,
    /// Most connections of one child at the same time.
    pub connections_max: usize,
    /// Most bytes that one instance sends in an hour.
    pub sent_bytes_per_hour: u64,
    /// Wall time, for records.
    pub clock: Clock,
}

/// The gate of one child; dropping it ends all its connections.
pub struct Gate {
    stop: CancellationToken,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One gate, as its tasks see it.
struct Inner {
    outside: Arc<Outside>,
    egress: Egress,
    names: Mutex<Names>,
    /// Where plain HTTP is spoken, for keys that stay outside.
    desks: Vec<Arc<Desk>>,
    ledger: Arc<Ledger>,
    connections: Arc<Semaphore>,
    begins: Mutex<Bucket>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Gate {
    /// Begins to answer what was caught, by the rules of `egress`; what is refused and reached goes into `ledger`. `keys`
    /// are those that brokers add.
    ///
    /// # Errors
    /// When a socket cannot be registered with the runtime.
    pub fn open(
        caught: Caught,
        mut egress: Egress,
        keys: &Keys,
        outside: Arc<Outside>,
        ledger: Arc<Ledger>,
    ) -> io::Result<Self> {
        // One that was launched by another template knows of no broker, and goes its own way.
        let ports = caught
            .listeners
            .iter()
            .filter_map(|at| at.local_addr().ok());
        let ports: Vec<u16> = ports.map(|address| address.port()).collect();
        egress.brokers.retain(|broker| ports.contains(&broker.port));
        ledger.begin(&egress);
        let stop = CancellationToken::new();
        let listeners: io::Result<Vec<_>> = caught
            .listeners
            .into_iter()
            .map(TcpListener::from_std)
            .collect();
        let listeners = listeners?;
        let v6 = listeners
            .first()
            .and_then(|listener| listener.local_addr().ok())
            .is_some_and(|address| address.is_ipv6());
        let inner = Arc::new(Inner {
            names: Mutex::new(Names::of(&egress)),
            desks: broker::desks(&egress.brokers, keys),
            connections: Arc::new(Semaphore::new(outside.connections_max)),
            begins: Mutex::new(Bucket::new(BEGUN_PER_SECOND)),
            outside,
            egress,
            ledger,
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        });
        let dns = answer_questions(Arc::clone(&inner), caught.dns, v6)?;
        inner
            .tasks
            .spawn(stop.clone().run_until_cancelled_owned(dns));
        for listener in listeners {
            let accepting = accept(Arc::clone(&inner), listener);
            inner
                .tasks
                .spawn(stop.clone().run_until_cancelled_owned(accepting));
        }
        Ok(Self { stop })
    }
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, host: &str, why: ledger::Why) {
        self.ledger.refuse(host, why, self.outside.clock.now());
    }

    /// Counts a connection that begins; `Some`: not before so long.
    fn begin(&self) -> Option<Duration> {
        let mut begins = self.begins.lock().unwrap_or_else(PoisonError::into_inner);
        begins.take(Instant::now())
    }

    /// What a question for `name` is answered with.
    fn answer(&self, question: &dns::Question, v6: bool) -> Answer {
        let Some(name) = question.host.as_deref() else {
            return Answer::NoSuchName;
        };
        if let Err(refused) = self.egress.resolves(name) {
            self.ledger
                .refuse(name, refused.into(), self.outside.clock.now());
            return Answer::NoSuchName;
        }
        let slot = match question.kind {
            dns::A => self.names().slot_of(name, Instant::now()),
            dns::AAAA if v6 => self.names().slot_of(name, Instant::now()),
            _ => return Answer::NoRecord,
        };
        match (slot, question.kind) {
            (None, _) => Answer::Failure,
            (Some(slot), dns::A) => Answer::V4(names::v4(slot)),
            (Some(slot), _) => Answer::V6(names::v6(slot)),
        }
    }
}

fn answer_questions(
    inner: Arc<Inner>,
    socket: UdpSocket,
    v6: bool,
) -> io::Result<impl Future<Output = ()>> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    Ok(async move {
        let mut bucket = Bucket::new(QUESTIONS_PER_SECOND);
        let mut buffer = [0; QUESTION_BYTES_MAX];
        loop {
            // An error is that of an earlier answer, whose asker is gone.
            let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if bucket.take(Instant::now()).is_some() {
                continue;
            }
            let packet = &buffer[..len];
            let Some(question) = dns::Question::parse(packet) else {
                continue;
            };
            let answer = inner.answer(&question, v6);
            // Full buffers on loopback: it asks again.
            let _ = socket.send_to(&question.reply(packet, answer), from).await;
        }
    })
}

async fn accept(inner: Arc<Inner>, listener: TcpListener) {
    let mut complaint = Complaint::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while let Some(wait) = inner.begin() {
                    tokio::time::sleep(wait).await;
                }
                let connection = connection::carry(Arc::clone(&inner), stream);
                let stop = inner.stop.clone();
                inner
                    .tasks
                    .spawn(stop.run_until_cancelled_owned(connection));
            }
            // No descriptor left: others may give some back.
            Err(cause) => {
                if let Some(times) = complaint.again(Instant::now()) {
                    tracing::warn!(%cause, times, "a connection of an instance cannot be accepted");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// So many in a second, and as many at once after a rest.
struct Bucket {
    per_second: u32,
    /// When it will be full again.
    full_at: Option<Instant>,
}

impl Bucket {
    fn new(per_second: u32) -> Self {
        Self {
            per_second,
            full_at: None,
        }
    }

    /// Takes one; `Some`: there is none, and so long until there is.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let one = Duration::from_secs(1) / self.per_second;
        let full_at = self.full_at.filter(|at| *at > now).unwrap_or(now);
        let ahead = full_at + one - now;
        match ahead.checked_sub(Duration::from_secs(1)) {
            Some(wait) if !wait.is_zero() => Some(wait),
            _ => {
                self.full_at = Some(full_at + one);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
