//! One request of a client on its way through a child.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Upstream, UpstreamError,
    completion::Completion,
    handshake::Era,
    in_flight::{Caller, InFlight, Origin, SessionKey},
    mailbox::{Item, Mailbox},
    message::{Envelope, splice},
    rounds::{self, Crossing},
    translate::{compose, rewritten},
    wire::{NotSent, Wire},
};

/// After so long without a message a caller is told that the call is slow.
const SLOW: Duration = Duration::from_secs(10);
/// With so many calls under way at one child, theirs are written together.
pub const MANY: usize = 8;

/// A call under way. Dropping it cancels only after [`Call::cancel_on_drop`]: in the session era a lost connection
/// is no wish to cancel, and the answer is then thrown away.
pub struct Call {
    wire: Arc<Wire>,
    id: u64,
    mailbox: Arc<Mailbox>,
    began: Instant,
    answered: bool,
    /// Its answer may come completed for a stateless client; once it is taken: it did.
    completes: bool,
    cancels: bool,
    tells: bool,
}

/// How a call begins to answer.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    /// With this message.
    Item(Item),
    /// With nothing yet, for ten seconds or a little more.
    Slow,
    /// Not at all: it was cancelled.
    Over,
}

impl Call {
    /// The next message of this call; the answer is the last. `None` only after the answer.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.answered {
            return Poll::Ready(None);
        }
        self.mailbox.poll_told(cx).map(|told| match told {
            Some((item, completed)) => {
                if let Item::Answer(_) = item {
                    self.answered = true;
                    self.completes &= completed;
                }
                Some(item)
            }
            None => {
                self.answered = true;
                None
            }
        })
    }

    /// As [`Call::poll_next`], to await.
    pub async fn next(&mut self) -> Option<Item> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The first message, or the news that it takes long.
    pub async fn first(&mut self) -> First {
        let mut woken = false;
        poll_fn(|cx| match self.poll_next(cx) {
            Poll::Ready(Some(item)) => Poll::Ready(First::Item(item)),
            Poll::Ready(None) => Poll::Ready(First::Over),
            // The sweep of the connection wakes every call now and then; no call has a timer of its own.
            Poll::Pending if woken && self.is_slow() => Poll::Ready(First::Slow),
            Poll::Pending => {
                woken = true;
                Poll::Pending
            }
        })
        .await
    }

    /// The answer, without what comes before it; `None` when the call was cancelled.
    pub async fn last(&mut self) -> Option<Bytes> {
        loop {
            match self.next().await? {
                Item::Message(_) => {}
                Item::Answer(answer) => return Some(answer),
            }
        }
    }

    /// Whether its answer was taken, or it was cancelled.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.answered
    }

    /// Whether the answer that was taken has everything already that a stateless client wants of it.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.answered && self.completes
    }

    /// Whether it has taken ten seconds or more so far.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.began.elapsed() >= SLOW
    }

    /// The server's own id of a request that came with this call, as raw JSON; `id` is the one that the client sees.
    #[must_use]
    pub fn asked_by(&self, session: SessionKey, id: u64) -> Option<String> {
        self.wire.table().asked_by(session, id).map(str::to_owned)
    }

    /// Answers a request of the server with this raw result. A request that was taken back meanwhile is left alone.
    pub fn respond(&self, session: SessionKey, id: u64, result: &str) {
        let origin = self.wire.table().answered(session, id);
        if let Some(Origin::Child(child_id)) = origin {
            // A child that does not read will not end the call either; its time runs out.
            let _ = self
                .wire
                .send(super::result_message(&child_id, result).into());
        }
    }

    /// The client is told to come back with input. Requests of the server go to other calls first meanwhile.
    pub fn park(&self) {
        self.wire.table().park(self.id, true);
    }

    /// The client came back, with this progress token.
    pub fn resume(&mut self, progress_token: Option<Box<str>>) {
        self.began = Instant::now();
        // The answer goes to a request with another id.
        self.completes = false;
        let mut table = self.wire.table();
        table.park(self.id, false);
        table.touch(self.id, self.began);
        table.set_progress_token(self.id, progress_token);
    }

    /// From now on, dropping the call forgets it, without a word to the child: `initialize` must not be cancelled.
    #[must_use]
    pub(super) fn forget_on_drop(mut self) -> Self {
        self.cancels = true;
        self.tells = false;
        self
    }

    /// From now on, dropping the call tells the child that nobody waits any more.
    #[must_use]
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancels = true;
        self
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.mailbox.abandon();
        if self.cancels && self.wire.table().end(self.id).is_some() && self.tells {
            self.wire.cancel(self.id, "the client left");
        }
    }
}

impl Upstream {
    /// What the child speaks; the session era until a handshake told otherwise.
    #[must_use]
    pub fn era(&self) -> Era {
        self.handshake
            .load()
            .as_ref()
            .map_or(Era::Legacy, |handshake| handshake.era)
    }

    /// Sends a client's request to the child. `source` is the whole message that `envelope` was read from.
    ///
    /// # Errors
    /// When the child is gone, does not read, has too many calls under way, or the parameters are no object.
    pub fn call(
        &self,
        caller: Caller,
        source: &[u8],
        envelope: &Envelope<'_>,
    ) -> Result<Call, UpstreamError> {
        let wire = &self.wire;
        let own = caller.session == SessionKey::DAEMON;
        let handshake = self.handshake.load();
        let known = handshake.as_ref().map_or(Era::Legacy, |known| known.era);
        let era = if own { caller.era } else { known };
        let rewritten = rewritten(envelope, &caller, era)
            .map_err(|error| UpstreamError::Protocol(error.to_string()))?;
        let endless = caller.era == Era::Modern && envelope.method() == "subscriptions/listen";
        let crosses = caller.era == Era::Legacy && era == Era::Modern;
        // Once there was a handshake.
        let completion = match &*handshake {
            Some(handshake) if caller.era == Era::Modern && era == Era::Legacy => {
                Some(Completion::new(handshake.clone(), envelope.method()))
            }
            _ => None,
        };
        drop(handshake);
        let completes = completion.is_some();
        let mailbox = Arc::new(Mailbox::default());
        let began = Instant::now();
        let mut table = wire.table();
        let id = table.begin(InFlight {
            caller,
            client_id: envelope.id.map_or("null", |id| id.get()).into(),
            progress_token: rewritten.as_ref().and_then(|r| r.token().map(Box::from)),
            mailbox: mailbox.clone(),
            touched: began,
            parked: false,
            lacking: None,
            crossing: crosses.then(|| Crossing::of(envelope.method())),
            completion,
            endless,
        })?;
        let one_of_many = table.calls() >= MANY;
        drop(table);
        let line = compose(source, envelope, id, rewritten.map(|r| r.with(id)));
        if crosses {
            rounds::keep_for_retry(wire, id, &line);
        }
        match wire.send_one(line, one_of_many) {
            // A closed pipe means that the child is about to be found dead: the call is answered with the cause then.
            Ok(()) | Err(NotSent::Closed) => {}
            Err(error) => {
                wire.table().end(id);
                return Err(error.into());
            }
        }
        wire.watch_time();
        Ok(Call {
            wire: wire.clone(),
            id,
            mailbox,
            began,
            answered: false,
            completes,
            cancels: false,
            tells: true,
        })
    }

    /// Sends a client's notification to the child as it is; a cancellation gets the id that the child knows, and
    /// is dropped when that call is not under way.
    ///
    /// # Errors
    /// When the child is gone or does not read.
    pub fn notify(
        &self,
        session: SessionKey,
        source: &[u8],
        envelope: &Envelope<'_>,
    ) -> Result<(), UpstreamError> {
        let wire = &self.wire;
        if let Some(failure) = wire.table().failure() {
            return Err(UpstreamError::Failed(failure));
        }
        if envelope.method() != "notifications/cancelled" {
            return Ok(wire.send(splice(source, &mut []))?);
        }
        let Some(raw) = envelope.params else {
            return Ok(());
        };
        let mut params = envelope
            .parameters()
            .map_err(|error| UpstreamError::Protocol(error.to_string()))?
            .clone();
        let id = {
            let mut table = wire.table();
            let id = params
                .get("requestId")
                .and_then(|client_id| table.find(session, client_id));
            // The specification wants no answer to a cancelled call; the client's stream just ends.
            if let Some(id) = id
                && let Some(call) = table.end(id)
            {
                call.mailbox.close();
                // Between two rounds the child does nothing for it.
                if table.forget_round(&call) {
                    return Ok(());
                }
            }
            id
        };
        if let Some(id) = id {
            params.set("requestId", id.to_string());
            wire.send(splice(source, &mut [(raw, &params.to_json())]))?;
        }
        Ok(())
    }

    /// Hands a client's response to the child's request over; `false` when this session was not asked that.
    ///
    /// # Errors
    /// When the child does not read.
    pub fn respond(
        &self,
        session: SessionKey,
        source: &[u8],
        envelope: &Envelope<'_>,
    ) -> Result<bool, UpstreamError> {
        let wire = &self.wire;
        let Some(id) = envelope.id else {
            return Ok(false);
        };
        let ours = id.get().parse().ok();
        let origin = ours.and_then(|ours| wire.table().answered(session, ours));
        match origin {
            None => return Ok(false),
            Some(Origin::Child(child_id)) => {
                wire.send(splice(source, &mut [(id, &child_id)]))?;
            }
            Some(Origin::Round(call, key)) => rounds::answered(wire, call, &key, envelope),
        }
        Ok(true)
    }

    /// A session ended: what the child asked it is answered with an error, and its calls are cancelled, because nobody
    /// can fetch their answers any more.
    pub fn forget_session(&self, session: SessionKey) {
        self.forget_asked(session);
        let wire = &self.wire;
        let calls = wire.table().end_calls_of(session);
        for id in calls {
            wire.cancel(id, "the client left");
        }
    }

    /// As [`Self::forget_session`], for a session that has no call under way any more.
    pub fn forget_asked(&self, session: SessionKey) {
        let wire = &self.wire;
        let asked = wire.table().forget_session(session);
        for origin in asked {
            let child_id = match origin {
                Origin::Child(child_id) => child_id,
                Origin::Round(call, _) => {
                    rounds::give_up(wire, call, "the client ended its session");
                    continue;
                }
            };
            let answer = super::error_message(
                &child_id,
                super::INTERNAL_ERROR,
                "the client ended its session",
                None,
            );
            let _ = wire.send(answer.into());
        }
    }

    /// Whether this session has a call under way.
    #[must_use]
    pub fn is_calling(&self, session: SessionKey) -> bool {
        self.wire.table().is_calling(session)
    }
}
