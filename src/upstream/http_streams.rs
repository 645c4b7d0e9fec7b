//! What a child's HTTP server sends as events: the rest of a call, and what it says outside of all calls.

use std::{sync::Weak, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::{sleep, timeout};

use super::{
    UpstreamError,
    dispatch::{self, Stream},
    framer::Frame,
    handshake::Era,
    http::{is_events, next_data},
    http_headers::Standing,
    http_wire::{Posts, end_with},
    sse::{Decoder, Event},
    wire::Wire,
};

/// How long the child may take to end its stream after the answer, so that the connection can be used again.
const END_WAIT: Duration = Duration::from_millis(100);
/// Between two connections of a stream that tells no other time: from, to.
const RECONNECT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// So many connections in a row that bring nothing end the attempt to resume a call.
const RESUMES_MAX: u32 = 5;

/// How reading a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The call was answered, or given up.
    Answered,
    /// The stream ended before that; whether it brought anything.
    Open { progressed: bool },
}

impl Posts {
    /// A response that comes as events; one that breaks off is resumed where the child lets us.
    pub(super) async fn follow_call(
        &self,
        wire: &Wire,
        id: u64,
        standing: &Standing,
        response: Response<Incoming>,
    ) -> Result<(), UpstreamError> {
        let mut decoder = Decoder::new(self.link.answer_limit_bytes());
        let mut body = response.into_body();
        let mut idle = 0;
        loop {
            let end = self
                .read_events(wire, Stream::OfCall(id), &mut decoder, &mut body)
                .await;
            match &end {
                Ok(End::Answered) => {
                    let _ = timeout(END_WAIT, async {
                        while let Ok(Some(_)) = next_data(&mut body).await {}
                    })
                    .await;
                    return Ok(());
                }
                Ok(End::Open { progressed: true }) => idle = 0,
                Ok(End::Open { .. }) | Err(_) => idle += 1,
            }
            let Some(last) = decoder
                .last_id()
                .filter(|_| standing.era == Era::Legacy && idle < RESUMES_MAX)
            else {
                end?;
                let text = "it ended the stream of the call without an answer";
                return Err(UpstreamError::Http(text.to_owned()));
            };
            let last = last.to_owned();
            sleep(decoder.retry().unwrap_or(RECONNECT.0)).await;
            decoder.restart();
            let resumed = self.listen(standing, Some(&last)).await?;
            if !is_events(&resumed) {
                let status = resumed.status();
                return Err(UpstreamError::Protocol(format!(
                    "it ended the stream of the call, and answered with status {status} when it was to be resumed"
                )));
            }
            body = resumed.into_body();
        }
    }

    /// What the child says outside of all calls, for as long as it says anything.
    pub(super) async fn follow_news(&self) {
        let mut decoder = Decoder::new(self.link.answer_limit_bytes());
        let mut pause = RECONNECT.0;
        let mut epoch = None;
        loop {
            let (Some(wire), Ok(standing)) = (self.wire.upgrade(), self.present()) else {
                return;
            };
            if epoch.replace(standing.epoch) != Some(standing.epoch) {
                decoder = Decoder::new(self.link.answer_limit_bytes());
            }
            let last = decoder.last_id().map(str::to_owned);
            decoder.restart();
            let mut progressed = false;
            match self.listen(&standing, last.as_deref()).await {
                Ok(response) if is_events(&response) => {
                    let mut body = response.into_body();
                    let read = self
                        .read_events(&wire, Stream::Shared, &mut decoder, &mut body)
                        .await;
                    progressed = read == Ok(End::Open { progressed: true });
                }
                Ok(response)
                    if response.status() == StatusCode::NOT_FOUND && standing.session.is_some() =>
                {
                    if let Err(error) = self.renew(&standing).await {
                        tracing::debug!(%error, "an HTTP server opened no new session");
                    }
                }
                // It has no such stream (405), which is its right.
                Ok(response) if response.status().is_client_error() => return,
                Err(UpstreamError::Failed(_)) => return,
                Ok(_) | Err(_) => {}
            }
            drop(wire);
            pause = if progressed {
                RECONNECT.0
            } else {
                (pause * 2).min(RECONNECT.1)
            };
            sleep(decoder.retry().unwrap_or(pause)).await;
        }
    }

    async fn listen(
        &self,
        standing: &Standing,
        last: Option<&str>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let mut headers = standing.headers()?;
        let events = HeaderValue::from_static("text/event-stream");
        headers.insert(header::ACCEPT, events);
        if let Some(last) = last.and_then(|last| HeaderValue::from_str(last).ok()) {
            headers.insert("last-event-id", last);
        }
        self.link.exchange(Method::GET, headers, Bytes::new()).await
    }

    /// Reads events until the call is answered or the stream ends.
    async fn read_events(
        &self,
        wire: &Wire,
        stream: Stream,
        decoder: &mut Decoder,
        body: &mut Incoming,
    ) -> Result<End, UpstreamError> {
        let mut progressed = false;
        loop {
            let Some(data) = next_data(body).await? else {
                return Ok(End::Open { progressed });
            };
            decoder.feed(&data, |event| {
                progressed = true;
                match event {
                    Event::Data(data) => self.hand_out(wire, stream, data),
                    Event::TooLong(length) => self.too_long(wire, stream, length),
                }
            });
            if let Stream::OfCall(id) = stream
                && !wire.table().is_under_way(id)
            {
                return Ok(End::Answered);
            }
        }
    }

    pub(super) fn hand_out(&self, wire: &Wire, stream: Stream, message: &[u8]) {
        // JSON has line breaks only between its tokens; ours go out as single lines.
        let mut one_line = Vec::new();
        let message = if memchr::memchr2(b'\n', b'\r', message).is_some() {
            one_line.extend(message.iter().map(|byte| match byte {
                b'\n' | b'\r' => b' ',
                other => *other,
            }));
            &one_line
        } else {
            message
        };
        let limit = self.link.answer_limit_bytes();
        let downstream = || self.downstream.get().and_then(Weak::upgrade);
        dispatch::frame(
            wire,
            stream,
            &Frame::Line(message),
            limit,
            &self.noise,
            downstream,
        );
    }

    fn too_long(&self, wire: &Wire, stream: Stream, length: usize) {
        let limit = self.link.answer_limit_bytes();
        let text = format!(
            "its HTTP server sent an event of {length} bytes, over the limit of {limit} bytes; it was dropped"
        );
        if let Stream::OfCall(id) = stream {
            let error = UpstreamError::Protocol(text.clone());
            end_with(wire, id, |id| error.answer(id));
        }
        (self.noise)(text.as_bytes());
    }
}
