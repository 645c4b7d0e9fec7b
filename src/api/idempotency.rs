//! `Idempotency-Key`: the same key with the same request answers again what it answered first, and does nothing.
//!
//! An answer may hold an access token, of which we otherwise keep only a hash. So answers are kept sealed by the
//! master key, like credentials, for [`RETENTION`]; once the key that sealed one is gone, the repetition is refused
//! with `idempotency-unreadable` rather than done twice. Answers of 500 and above are not kept: such a request may be
//! repeated. Two requests with one key at the same time: the second gets `idempotency-in-progress`.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{
    AppState,
    error::{ApiError, Code},
    view,
};
use crate::domain::{
    credential::SealedSecret, duration::HumanDuration, id::OwnerId, principal::Principal,
};

/// The request header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `true` on an answer that was kept.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// How long answers are kept; a background task forgets older ones.
pub const RETENTION: HumanDuration = HumanDuration::from_secs(24 * 3_600);

const KEY_CHARS_MAX: usize = 128;
/// A larger answer is not kept; ours are far smaller.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The keys whose first request has no answer yet.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<HashSet<(OwnerId, String)>>>);

/// Holds a key until dropped.
pub struct Flight {
    keys: InFlight,
    key: (OwnerId, String),
}

impl InFlight {
    fn enter(&self, owner: &OwnerId, key: &str) -> Option<Flight> {
        let key = (owner.clone(), key.to_owned());
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.clone()).then(|| Flight {
            keys: self.clone(),
            key,
        })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut keys = self.keys.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&self.key);
    }
}

/// A request with a key.
pub struct Attempt {
    flight: Flight,
    request_hash: [u8; 32],
}

/// An answer as it is kept, before sealing.
#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
struct Kept {
    media_type: Option<String>,
    location: Option<String>,
    body: String,
}

/// A sealed answer as it lies in the store.
#[derive(Serialize, Deserialize)]
struct Envelope {
    key_id: String,
    nonce: String,
    ciphertext: String,
}

impl Attempt {
    /// Begins an attempt; `None`: the request has no key.
    ///
    /// # Errors
    /// `invalid-header`, or `idempotency-in-progress`.
    pub fn begin(state: &AppState, parts: &Parts, body: &[u8]) -> Result<Option<Self>, ApiError> {
        let Some(key) = key_of(&parts.headers)? else {
            return Ok(None);
        };
        let principal = parts.extensions.get::<Principal>().ok_or_else(|| {
            ApiError::new(Code::Unauthenticated, "this route is not authenticated")
        })?;
        let mut hash = Sha256::new();
        let path = parts.uri.path();
        // The same route answers under /api/v1 and /api; inside, both have lost their prefix.
        for part in [parts.method.as_str(), path, parts.uri.query().unwrap_or("")] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(body);
        let flight = state
            .in_flight
            .enter(&principal.owner, key)
            .ok_or_else(|| {
                ApiError::new(
                    Code::IdempotencyInProgress,
                    "the first request with this Idempotency-Key has no answer yet; try again soon",
                )
            })?;
        Ok(Some(Self {
            flight,
            request_hash: hash.finalize().into(),
        }))
    }

    /// The kept answer, if there is one.
    ///
    /// # Errors
    /// `idempotency-key-reused`, `idempotency-unreadable`, or those of the store.
    pub async fn replay(&self, state: &AppState) -> Result<Option<Response>, ApiError> {
        let (owner, key) = &self.flight.key;
        let Some(row) = state.store.idempotency_get(owner, key).await? else {
            return Ok(None);
        };
        if row.request_hash != self.request_hash {
            return Err(ApiError::new(
                Code::IdempotencyKeyReused,
                "this Idempotency-Key was used with another request; take a new key for a new request",
            ));
        }
        let unreadable = || {
            ApiError::new(
                Code::IdempotencyUnreadable,
                "the request was done, but its answer cannot be opened any more; look at what it made instead",
            )
        };
        let mut kept = open(state, owner, key, &row.body).ok_or_else(unreadable)?;
        let status = StatusCode::from_u16(row.status).map_err(|_| unreadable())?;
        let mut response = Response::new(Body::from(std::mem::take(&mut kept.body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, kept.media_type.take()),
            (header::LOCATION, kept.location.take()),
        ] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                headers.insert(name, value);
            }
        }
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        Ok(Some(response))
    }

    /// Keeps an answer below 500 and passes it on. When it cannot be kept, the request was done all the same: that is
    /// logged, and the answer still goes out.
    pub async fn keep(self, state: &AppState, response: Response, request_id: &str) -> Response {
        if response.status().is_server_error() {
            return response;
        }
        let (response, kept) = match take(response, request_id).await {
            Ok(taken) => taken,
            Err(error) => return axum::response::IntoResponse::into_response(error),
        };
        if let Err(error) = self.put(state, response.status(), &kept).await {
            tracing::warn!(
                "an answer was not kept for its Idempotency-Key: {}",
                error.internal_text().unwrap_or(error.code().word())
            );
        }
        response
    }

    async fn put(&self, state: &AppState, status: StatusCode, kept: &Kept) -> Result<(), ApiError> {
        if kept.body.len() > ANSWER_BYTES_MAX {
            return Err(ApiError::internal("the answer is too large"));
        }
        let (owner, key) = &self.flight.key;
        let plain = Zeroizing::new(
            serde_json::to_vec(kept).map_err(|error| ApiError::internal(error.to_string()))?,
        );
        let sealed = state
            .keys
            .seal_for(&["idempotency", owner.as_str(), key], &plain)?;
        let envelope = Envelope {
            key_id: sealed.key_id,
            nonce: STANDARD.encode(sealed.nonce),
            ciphertext: STANDARD.encode(sealed.ciphertext),
        };
        let blob =
            serde_json::to_vec(&envelope).map_err(|error| ApiError::internal(error.to_string()))?;
        let now = view::now_ms();
        state
            .store
            .idempotency_put(owner, key, self.request_hash, status.as_u16(), &blob, now)
            .await?;
        Ok(())
    }
}

fn key_of(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = value.to_str().ok().filter(|key| {
        (1..=KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
    });
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key)),
        _ => Err(ApiError::new(
            Code::InvalidHeader,
            format!(
                "Idempotency-Key must be one header of 1 to {KEY_CHARS_MAX} visible ASCII characters"
            ),
        )),
    }
}

/// Splits an answer into itself and a copy to keep; an [`ApiError`] is rendered for the copy only.
async fn take(response: Response, request_id: &str) -> Result<(Response, Kept), ApiError> {
    let copy = |headers: &HeaderMap, body: &[u8]| {
        let text = |name| {
            let value: &HeaderValue = headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        Kept {
            media_type: text(header::CONTENT_TYPE),
            location: text(header::LOCATION),
            body: String::from_utf8_lossy(body).into_owned(),
        }
    };
    if let Some(error) = response.extensions().get::<ApiError>().cloned() {
        let rendered = error.render(Response::default(), request_id);
        let (parts, body) = rendered.into_parts();
        let bytes = collect(body).await?;
        return Ok((response, copy(&parts.headers, &bytes)));
    }
    let (parts, body) = response.into_parts();
    let bytes = collect(body).await?;
    let kept = copy(&parts.headers, &bytes);
    Ok((Response::from_parts(parts, Body::from(bytes)), kept))
}

async fn collect(body: Body) -> Result<Bytes, ApiError> {
    let collected = body.collect().await;
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| ApiError::internal(format!("an answer broke off: {error}")))
}

fn open(state: &AppState, owner: &OwnerId, key: &str, blob: &[u8]) -> Option<Kept> {
    let envelope: Envelope = serde_json::from_slice(blob).ok()?;
    let sealed = SealedSecret {
        key_id: envelope.key_id,
        nonce: STANDARD.decode(envelope.nonce).ok()?.try_into().ok()?,
        ciphertext: STANDARD.decode(envelope.ciphertext).ok()?,
    };
    let context = ["idempotency", owner.as_str(), key];
    let plain = state.keys.open_for(&context, &sealed).ok()?;
    serde_json::from_slice(&plain).ok()
}
