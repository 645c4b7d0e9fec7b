//! JSON-RPC batches, which only the revisions up to 2025-03-26 have.

use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, request::Parts};
use serde_json::value::RawValue;

use crate::{
    domain::UnixMs,
    supervisor::access::Secret,
    upstream::{
        Envelope, Era, INTERNAL_ERROR, INVALID_REQUEST, Kind, PARSE_ERROR, Upstream, error_message,
    },
};

use super::{
    Accepts, Gateway, Message, Place, Reply,
    entrance::Arrival,
    held, limit, ready, record, reply, scope,
    session_era::{Begun, open_session_of, take},
};

/// Most messages of a batch.
const BATCH_MAX: usize = 100;
/// The revisions that have batches.
const WITH_BATCHES: [&str; 2] = ["2024-11-05", "2025-03-26"];

impl Gateway {
    pub(super) async fn batch(
        &self,
        place: &Arc<Place>,
        parts: &Parts,
        source: &[u8],
        secret: &Secret,
        arrival: Arrival,
    ) -> Reply {
        let bad = |code, text: &str| reply::error(StatusCode::BAD_REQUEST, "null", code, text);
        let batch: Vec<&RawValue> = match serde_json::from_slice(source) {
            Ok(batch) => batch,
            Err(error) => {
                return bad(
                    PARSE_ERROR,
                    &format!("the message is not valid JSON: {error}"),
                );
            }
        };
        if batch.is_empty() || batch.len() > BATCH_MAX {
            let text = format!("A batch holds 1 to {BATCH_MAX} messages.");
            return bad(INVALID_REQUEST, &text);
        }
        let recorder = self.calls.get().and_then(|sink| {
            let sources = batch.iter().map(|part| part.get().as_bytes());
            let read = sources.filter_map(|part| Some((part, Envelope::parse(part).ok()?)));
            let read: Vec<_> = read.collect();
            let messages = read.iter().map(|(part, envelope)| (*part, envelope));
            record::begin(
                sink,
                place,
                secret,
                (false, arrival),
                Some(&parts.headers),
                messages,
            )
        });
        let reply = self
            .batch_of(place, parts, source, &batch, secret, arrival.at)
            .await;
        match recorder {
            Some(recorder) => recorder.watch(reply),
            None => reply,
        }
    }

    async fn batch_of(
        &self,
        place: &Arc<Place>,
        parts: &Parts,
        source: &[u8],
        batch: &[&RawValue],
        secret: &Secret,
        now: UnixMs,
    ) -> Reply {
        let bad = |code, text: &str| reply::error(StatusCode::BAD_REQUEST, "null", code, text);
        let requests = batch.iter().filter(|part| is_request(part)).count();
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        // The request that holds them is counted already.
        let more = requests.saturating_sub(1);
        if let Err(limited) = secret.token.take(more, self.config.token_rate_limit) {
            return limit::too_often(&secret.token.name, limited);
        }
        let permit = limit::begin(secret, requests, self.config.token_concurrency_max, "null");
        let permit = match permit {
            Ok(permit) => permit,
            Err(refused) => return *refused,
        };
        let session = place.session_of(&parts.headers, secret, now);
        let upstream = match self.ready_in(place, session.as_deref()).await {
            Ok(upstream) => upstream,
            Err(unready) => return reply::unready(&place.route, "null", &unready),
        };
        if let Err(refused) = in_scope(secret, &upstream, batch).await {
            return *refused;
        }
        if upstream.speaks(Era::Legacy) && session.is_none() {
            let source = Bytes::copy_from_slice(source);
            let reply = self.relay(place, parts, source, None).await;
            let reply = held::counted(reply, permit);
            return held::seen_through(reply, secret, self.config.line_limit_bytes);
        }
        let session = match open_session_of(place, parts, ("null", secret), session) {
            Ok(session) => session,
            Err(refused) => return *refused,
        };
        if !WITH_BATCHES.contains(&session.version) {
            let text = format!(
                "Revision {} has no batches: send each message in a request of its own.",
                session.version
            );
            return bad(INVALID_REQUEST, &text);
        }
        // All are begun before any is awaited, so that they run side by side.
        let mut begun = Vec::new();
        for part in batch {
            let source = part.get().as_bytes();
            let parsed = Envelope::parse(source).and_then(|found| Ok((found.kind()?, found)));
            let (kind, envelope) = match parsed {
                Ok(parsed) => parsed,
                Err(error) => {
                    let text = error.to_string();
                    let answer = error_message("null", INVALID_REQUEST, &text, None);
                    begun.push(("null".to_owned(), Begun::Answer(answer)));
                    continue;
                }
            };
            let id = match (kind, envelope.id) {
                (Kind::Request, Some(id)) => id.get(),
                _ => "null",
            };
            let message = Message {
                source,
                envelope: &envelope,
                kind,
                id,
                secret,
                body: Bytes::new(),
            };
            if kind == Kind::Request {
                let answers_only = Accepts {
                    json: true,
                    events: false,
                };
                let one = self.begin_in_session(place, &session, &message, answers_only);
                begun.push((id.to_owned(), one.await));
            } else if let Some(upstream) = session
                .own_upstream()
                .cloned()
                .or_else(|| ready::present(&place.route))
            {
                take(&session, &message, &upstream);
            }
        }
        if begun.is_empty() {
            return reply::empty(StatusCode::ACCEPTED);
        }
        let mut answers = Vec::new();
        for (id, one) in begun {
            match one {
                Begun::Answer(answer) => answers.push(answer),
                Begun::Call(mut call) => answers.extend(call.last().await),
                Begun::Refused(_) => {
                    let text = "The instance cannot take requests now.";
                    answers.push(error_message(&id, INTERNAL_ERROR, text, None));
                }
            }
        }
        let mut body = vec![b'['];
        body.extend_from_slice(&answers.join(&b","[..]));
        body.push(b']');
        let reply = reply::json(StatusCode::OK, body.into());
        held::seen_through(reply, secret, self.config.line_limit_bytes)
    }
}

/// With a scope, a batch passes as a whole or not at all.
async fn in_scope(
    secret: &Secret,
    upstream: &Upstream,
    batch: &[&RawValue],
) -> Result<(), Box<Reply>> {
    if secret.token.settings.load().scope.is_all() {
        return Ok(());
    }
    for part in batch {
        let source = part.get().as_bytes();
        let envelope = Envelope::parse(source).map_err(|error| {
            let text = error.to_string();
            Box::new(reply::error(
                StatusCode::BAD_REQUEST,
                "null",
                INVALID_REQUEST,
                &text,
            ))
        })?;
        scope::check(secret, upstream, "null", source, &envelope).await?;
    }
    Ok(())
}

fn is_request(part: &RawValue) -> bool {
    let kind = Envelope::parse(part.get().as_bytes()).and_then(|envelope| envelope.kind());
    kind == Ok(Kind::Request)
}
