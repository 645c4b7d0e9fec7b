//! JSON-RPC batches, which only the revisions up to 2025-03-26 have.

use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, request::Parts};
use serde_json::value::RawValue;

use crate::upstream::{
    Envelope, INTERNAL_ERROR, INVALID_REQUEST, Kind, PARSE_ERROR, error_message,
};

use super::{
    Accepts, Gateway, Message, Place, Reply, ready, reply,
    session_era::{Begun, take},
};

/// Most messages of a batch.
const BATCH_MAX: usize = 100;
/// The revisions that have batches.
const WITH_BATCHES: [&str; 2] = ["2024-11-05", "2025-03-26"];

impl Gateway {
    pub(super) async fn batch(&self, place: &Arc<Place>, parts: &Parts, source: &[u8]) -> Reply {
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
        let upstream = match self.ready(place).await {
            Ok(upstream) => upstream,
            Err(unready) => return reply::unready(&place.route, "null", &unready),
        };
        if upstream.http().is_some() {
            let source = Bytes::copy_from_slice(source);
            return self.relay(place, parts, source, None).await;
        }
        let session = match self.session_for(place, parts, "null") {
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
                // Only what a session may send is read from it.
                token_hash: [0; 32],
                body: Bytes::new(),
            };
            if kind == Kind::Request {
                let answers_only = Accepts {
                    json: true,
                    events: false,
                };
                let one = self.begin_in_session(place, &session, &message, answers_only);
                begun.push((id.to_owned(), one.await));
            } else if let Some(upstream) = ready::present(&place.route) {
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
        reply::json(StatusCode::OK, body.into())
    }
}
