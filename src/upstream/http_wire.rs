//! Messages to a child over HTTP: each one is a POST by a task of its own, and what comes back is handed out as if it
//! had come over a pipe.
//!
//! Used where client and child do not speak the same era. All clients then share one session of ours at a
//! session-era child, as they would share a pipe: they are stateless and keep nothing in it, log levels and
//! subscriptions are counted by the gateway. What comes with the response to a call belongs to that call.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tokio::{task::AbortHandle, time::timeout};

use super::{
    Downstream, HttpLink, NoiseSink, UpstreamError,
    dispatch::Stream,
    handshake::Era,
    http::is_events,
    http_headers::Standing,
    message::{Envelope, Kind, RawObject},
    news,
    wire::{NotSent, Wire},
};

/// Most notifications and answers that wait for the child to take them.
const ASIDE_MAX: usize = 256;
/// How long a broken connection waits for the supervisor to tell why.
const CAUSE_WAIT: Duration = Duration::from_secs(2);
/// How long the child may take to note a cancellation before the call's stream is closed.
const CANCEL_WAIT: Duration = Duration::from_secs(5);
/// MCP: a header is missing, or differs from the body.
const HEADER_MISMATCH: &str = "-32020";

#[derive(Default)]
struct Tasks {
    calls: HashMap<u64, AbortHandle>,
    aside: HashMap<u64, AbortHandle>,
    next_aside: u64,
    news: Option<AbortHandle>,
    shut: bool,
}

/// The way to a child over HTTP, with the tasks that are on it.
pub struct Posts {
    me: Weak<Self>,
    pub(super) link: Arc<HttpLink>,
    pub(super) wire: Weak<Wire>,
    pub(super) noise: NoiseSink,
    pub(super) downstream: Arc<OnceLock<Weak<dyn Downstream>>>,
    /// How long each step of a new handshake may take.
    handshake_timeout: Duration,
    renewing: tokio::sync::Mutex<()>,
    tasks: Mutex<Tasks>,
}

impl Posts {
    /// Messages go over `link`, answers into the table of `wire`.
    #[must_use]
    pub fn new(
        link: Arc<HttpLink>,
        wire: Weak<Wire>,
        noise: NoiseSink,
        downstream: Arc<OnceLock<Weak<dyn Downstream>>>,
        handshake_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            link,
            wire,
            noise,
            downstream,
            handshake_timeout,
            renewing: tokio::sync::Mutex::new(()),
            tasks: Mutex::default(),
        })
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one message by a task of its own. As many calls can be under way as the table holds.
    ///
    /// # Errors
    /// [`NotSent`]; then nothing of it went out.
    pub fn send(&self, line: Vec<u8>) -> Result<(), NotSent> {
        let (Some(me), Some(standing)) = (self.me.upgrade(), self.link.standing()) else {
            return Err(NotSent::Closed);
        };
        let line = Bytes::from(line);
        let Ok(envelope) = Envelope::parse(&line) else {
            return Ok(());
        };
        let number = |raw: &str| raw.parse::<u64>().ok();
        let call = match envelope.kind() {
            Ok(Kind::Request) => envelope.id.and_then(|id| number(id.get())),
            _ => None,
        };
        let cancelled = (envelope.method() == "notifications/cancelled")
            .then(|| RawObject::of(envelope.params?).ok())
            .flatten()
            .and_then(|params| params.get("requestId").and_then(number));
        let mut tasks = self.tasks();
        if tasks.shut {
            return Err(NotSent::Closed);
        }
        if let Some(id) = call {
            self.hear_in(&mut tasks, &standing);
            let task = async move { me.call(id, line.clone()).await };
            let handle = tokio::spawn(task).abort_handle();
            tasks.calls.insert(id, handle);
            return Ok(());
        }
        let call = cancelled.and_then(|id| tasks.calls.remove(&id));
        if let (Some(call), Era::Modern) = (&call, standing.era) {
            // A closed stream is the cancellation.
            call.abort();
            return Ok(());
        }
        if cancelled.is_some() && call.is_none() {
            return Ok(());
        }
        if tasks.aside.len() >= ASIDE_MAX {
            return Err(NotSent::Crowded(ASIDE_MAX));
        }
        let id = tasks.next_aside;
        tasks.next_aside += 1;
        let task = async move {
            if let Err(error) = me.tell(&line).await {
                tracing::debug!(%error, "a message to an HTTP server was lost");
            }
            if let Some(call) = call {
                call.abort();
            }
            me.tasks().aside.remove(&id);
        };
        let handle = tokio::spawn(task).abort_handle();
        tasks.aside.insert(id, handle);
        Ok(())
    }

    /// Begins to hear what a session-era child says outside of all calls. Done once, when the first client needs it:
    /// one whose clients are all relayed needs no stream of ours.
    pub fn hear(&self) {
        if let Some(standing) = self.link.standing() {
            self.hear_in(&mut self.tasks(), &standing);
        }
    }

    fn hear_in(&self, tasks: &mut Tasks, standing: &Standing) {
        if tasks.shut || tasks.news.is_some() || standing.era != Era::Legacy {
            return;
        }
        if let Some(me) = self.me.upgrade() {
            let task = async move { me.follow_news().await };
            tasks.news = Some(tokio::spawn(task).abort_handle());
        }
    }

    /// Looks after the time of calls until none is left.
    pub fn sweep(&self) {
        let Some(wire) = self.wire.upgrade() else {
            return;
        };
        tokio::spawn(async move {
            let mut timer = None;
            poll_fn(|cx| {
                wire.poll_sweep(&mut timer, cx);
                // The timer goes when no call is left; whoever begins one after that has us spawned anew.
                match timer {
                    Some(_) => Poll::Pending,
                    None => Poll::Ready(()),
                }
            })
            .await;
        });
    }

    /// Ends every task.
    pub fn shut(&self) {
        let tasks = std::mem::replace(
            &mut *self.tasks(),
            Tasks {
                shut: true,
                ..Tasks::default()
            },
        );
        let all = tasks.calls.into_values().chain(tasks.aside.into_values());
        for task in all.chain(tasks.news) {
            task.abort();
        }
    }

    async fn tell(&self, line: &Bytes) -> Result<(), UpstreamError> {
        let standing = self.present()?;
        let told = self.link.tell(&standing, line.clone());
        timeout(CANCEL_WAIT, told).await.unwrap_or_else(|_| {
            Err(UpstreamError::Http(
                "it took no notification in time".to_owned(),
            ))
        })
    }

    pub(super) fn present(&self) -> Result<Arc<Standing>, UpstreamError> {
        self.link.standing().ok_or_else(|| {
            UpstreamError::Protocol("its HTTP server was not asked what it speaks".to_owned())
        })
    }

    /// One call from its POST to its answer.
    async fn call(self: Arc<Self>, id: u64, line: Bytes) {
        if let Some(wire) = self.wire.upgrade() {
            let outcome = match self.converse(&wire, id, line).await {
                // The supervisor knows more about a connection that broke, in a moment.
                Err(error @ (UpstreamError::Http(_) | UpstreamError::NotListening(_))) => {
                    let _ = timeout(CAUSE_WAIT, self.link.failed()).await;
                    Err(error)
                }
                other => other,
            };
            if let Err(error) = outcome {
                let error = self.link.failure().map_or(error, UpstreamError::Failed);
                end_with(&wire, id, |id| error.answer(id));
            }
        }
        self.tasks().calls.remove(&id);
    }

    async fn converse(&self, wire: &Wire, id: u64, line: Bytes) -> Result<(), UpstreamError> {
        let mut again = false;
        loop {
            let standing = self.present()?;
            let response = self.link.post(&standing, line.clone()).await?;
            let status = response.status();
            if status == StatusCode::NOT_FOUND && standing.session.is_some() && !again {
                again = true;
                self.renew(&standing).await?;
                continue;
            }
            if is_events(&response) {
                return self.follow_call(wire, id, &standing, response).await;
            }
            let body = self.link.read_all(response.into_body()).await?;
            if !again && standing.era == Era::Modern && is_header_mismatch(&body) {
                // The tools changed, or a former daemon made the handshake. Nothing was done yet.
                again = true;
                self.relearn(&standing).await?;
                continue;
            }
            return self.take_answer(wire, id, status, &body);
        }
    }

    /// A response that came as one JSON text.
    fn take_answer(
        &self,
        wire: &Wire,
        id: u64,
        status: StatusCode,
        body: &[u8],
    ) -> Result<(), UpstreamError> {
        // Servers refuse a request with the id `null`, or one of their own; there is only one that they can mean.
        if let Ok(envelope) = Envelope::parse(body)
            && let (Some(error), Some(told)) = (envelope.error, envelope.id)
            && told.get() != id.to_string()
        {
            let error = error.get();
            end_with(wire, id, |id| {
                format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}").into()
            });
            return Ok(());
        }
        self.hand_out(wire, Stream::OfCall(id), body);
        if !wire.table().is_under_way(id) {
            return Ok(());
        }
        Err(UpstreamError::Protocol(format!(
            "its HTTP server answered with status {status} and no JSON-RPC response"
        )))
    }

    /// Opens a new session after the child forgot the one of `old`; once, however many calls find out.
    pub(super) async fn renew(&self, old: &Standing) -> Result<(), UpstreamError> {
        let _turn = self.renewing.lock().await;
        if self.present()?.epoch != old.epoch {
            return Ok(());
        }
        let (_, mut standing) = self.link.open_session(self.handshake_timeout).await?;
        standing.epoch = old.epoch + 1;
        self.link.set_standing(standing);
        tracing::debug!("an HTTP server forgot our session; a new one was opened");
        if let Some(wire) = self.wire.upgrade() {
            // It may be another version of itself by now.
            wire.set_tools_changed(true);
        }
        if let Some(downstream) = self.downstream.get().and_then(Weak::upgrade) {
            downstream.renewed();
        }
        Ok(())
    }

    /// Lists the tools again for the headers that their arguments need.
    async fn relearn(&self, standing: &Standing) -> Result<(), UpstreamError> {
        let listed = self.link.learn_tools(standing);
        let pages = timeout(self.handshake_timeout, listed).await;
        pages.unwrap_or_else(|_| Err(UpstreamError::Http("it listed no tools in time".to_owned())))
    }
}

/// Ends a call, or a subscription of ours, with what takes the place of the child's answer.
pub fn end_with(wire: &Wire, id: u64, answer: impl Fn(&str) -> Bytes) {
    let answered = wire.table().answer_now(id, &answer);
    if !answered && let Ok(envelope) = Envelope::parse(&answer(&id.to_string())) {
        news::ended(wire, id, &envelope);
    }
}

fn is_header_mismatch(body: &[u8]) -> bool {
    let code = || {
        let envelope = Envelope::parse(body).ok()?;
        let error = RawObject::of(envelope.error?).ok()?;
        Some(error.get("code") == Some(HEADER_MISMATCH))
    };
    code().unwrap_or(false)
}
