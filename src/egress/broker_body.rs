//! Bodies between a server and a service, as they stream through.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::ledger::Ledger;
use crate::secrets::{RedactedStream, Redactions};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer.
pub(super) type Answered = UnsyncBoxBody<Bytes, BoxError>;

/// The body of a request, whose bytes are counted.
pub(super) struct Metered<M> {
    pub(super) body: Incoming,
    /// Whether so many more bytes may be sent.
    pub(super) may_send: M,
}

impl<M: Fn(u64) -> bool + Unpin> Body for Metered<M> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(pin!(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, Bytes::len);
                let may = (self.may_send)(len as u64);
                let over = || BoxError::from(io::Error::from(io::ErrorKind::QuotaExceeded));
                Some(may.then_some(frame).ok_or_else(over))
            }
            Some(Err(cause)) => Some(Err(cause.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, without keys, as it comes in.
pub(super) fn redacted(
    body: reqwest::Body,
    redactions: Arc<Redactions>,
    ledger: Arc<Ledger>,
) -> Answered {
    let data = Box::pin(body.into_data_stream());
    let begun = (data, Some(RedactedStream::new(redactions)), ledger);
    let frames = stream::unfold(begun, |(mut data, open, ledger)| async move {
        let mut open = open?;
        loop {
            let (out, goes_on) = match data.next().await {
                Some(Ok(bytes)) => {
                    ledger.receive(bytes.len() as u64);
                    (Ok(open.push(&bytes)), true)
                }
                Some(Err(cause)) => (Err(BoxError::from(cause.without_url())), false),
                None => (Ok(open.finish()), false),
            };
            let is_empty = out.as_ref().is_ok_and(Vec::is_empty);
            match (is_empty, goes_on) {
                (true, true) => {}
                (true, false) => return None,
                (false, _) => {
                    let frame = out.map(|bytes| Frame::data(Bytes::from(bytes)));
                    return Some((frame, (data, goes_on.then_some(open), ledger)));
                }
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}
