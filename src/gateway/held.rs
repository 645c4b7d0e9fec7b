//! A streamed reply with what it holds as long as it lasts: the token that let it in, and its place among the calls
//! under way.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use http::{StatusCode, header};

use super::{
    Reply,
    body::GatewayBody,
    lens::{Lens, seen_body},
    record::Recorder,
    reply,
};
use crate::supervisor::{
    access::{CallPermit, Secret, Validity},
    uses::Use,
};

type OverFuture = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// See the module.
pub struct Held {
    inner: GatewayBody,
    over: Option<OverFuture>,
    permit: Option<CallPermit>,
    lens: Option<Box<Lens>>,
    recorder: Option<Box<Recorder>>,
    /// A stream that the server serves itself keeps it awake.
    in_use: Option<Use>,
}

impl Held {
    /// As [`GatewayBody::is_standing`].
    pub fn is_standing(&self) -> bool {
        self.inner.is_standing()
    }

    /// As [`GatewayBody::is_relayed`].
    pub fn is_relayed(&self) -> bool {
        self.inner.is_relayed()
    }

    /// As [`GatewayBody::finish`].
    pub fn finish(&mut self) {
        self.inner.finish();
    }

    /// The next frame, as the token's scope lets it be seen; the end when the token's time is up.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let is_over = |over: &mut OverFuture| over.as_mut().poll(cx).is_ready();
        if self.over.as_mut().is_some_and(is_over) {
            // Dropping it lets go of the call or the stream behind it.
            self.inner = GatewayBody::Full(None);
            self.over = None;
            self.lens = None;
        }
        let frame = match &mut self.lens {
            None => Pin::new(&mut self.inner).poll_frame(cx),
            Some(lens) => loop {
                if let Some(ready) = lens.next() {
                    break Poll::Ready(Some(Ok(Frame::data(ready))));
                }
                match Pin::new(&mut self.inner).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(piece) = frame.into_data() {
                            lens.push(&piece);
                        }
                    }
                    Poll::Ready(None) => {
                        lens.finish();
                        break Poll::Ready(lens.next().map(|ready| Ok(Frame::data(ready))));
                    }
                    other => break other,
                }
            },
        };
        match (&frame, &mut self.recorder) {
            (Poll::Ready(Some(Ok(frame))), Some(recorder)) => {
                if let Some(piece) = frame.data_ref() {
                    recorder.push(piece);
                }
            }
            (Poll::Ready(None), Some(recorder)) => recorder.finish(),
            _ => {}
        }
        if let Poll::Ready(None) = frame {
            self.permit = None;
            self.recorder = None;
            self.in_use = None;
        }
        frame
    }
}

fn hold(reply: Reply, change: impl FnOnce(&mut Held)) -> Reply {
    if let GatewayBody::Full(_) = reply.body() {
        return reply;
    }
    let (parts, body) = reply.into_parts();
    let mut held = match body {
        GatewayBody::Held(held) => held,
        inner => Box::new(Held {
            inner,
            over: None,
            permit: None,
            lens: None,
            recorder: None,
            in_use: None,
        }),
    };
    change(&mut held);
    Reply::from_parts(parts, GatewayBody::Held(held))
}

/// A stream that ends with what let it in; an answer that is there already goes out.
#[must_use]
pub fn until_over(reply: Reply, validity: Validity) -> Reply {
    hold(reply, |held| held.over = Some(Box::pin(validity.over())))
}

/// A stream that is a call under way until its end.
#[must_use]
pub fn counted(reply: Reply, permit: Option<CallPermit>) -> Reply {
    match permit {
        Some(permit) => hold(reply, |held| held.permit = Some(permit)),
        None => reply,
    }
}

/// A stream that its server serves itself, which uses the server until it ends.
#[must_use]
pub fn in_use(reply: Reply, in_use: Use) -> Reply {
    match reply.body().is_relayed() {
        true => hold(reply, |held| held.in_use = Some(in_use)),
        false => reply,
    }
}

/// A stream whose calls are recorded.
#[must_use]
pub fn recorded(reply: Reply, recorder: Box<Recorder>) -> Reply {
    hold(reply, |held| held.recorder = Some(recorder))
}

/// A reply that may hold lists of tools, as the scope of a token lets them be seen.
#[must_use]
pub fn seen_through(reply: Reply, secret: &Secret, limit_bytes: usize) -> Reply {
    let settings = secret.token.settings.load_full();
    if settings.scope.is_all() {
        return reply;
    }
    let (parts, body) = reply.into_parts();
    if let GatewayBody::Full(full) = body {
        let full = full.map(|body| seen_body(&settings.scope, body));
        return Reply::from_parts(parts, GatewayBody::Full(full));
    }
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        return reply::refused(
            StatusCode::BAD_GATEWAY,
            "The server encoded its answer, so that it cannot be cut to the scope of the access token.",
        );
    }
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let is = |known: &[u8]| kind.is_some_and(|kind| kind.as_bytes().starts_with(known));
    let events = is(b"text/event-stream");
    if !events && !is(b"application/json") {
        return Reply::from_parts(parts, body);
    }
    let lens = Box::new(Lens::new(settings, events, limit_bytes));
    hold(Reply::from_parts(parts, body), |held| {
        held.lens = Some(lens)
    })
}
