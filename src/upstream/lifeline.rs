//! Our own calls to a child: the handshake when it comes up, and the probes afterwards.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::future::{Either, select};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Link, Upstream, UpstreamError,
    handshake::{Era, Handshake, LEGACY_LATEST},
    http_headers::Standing,
    in_flight::{Caller, SessionKey},
    message::{Envelope, RawObject, unquote},
    translate::own_meta,
};
use crate::domain::template::EraPolicy;

/// How long a stdio child may be silent about `initialize` before it is asked in the words of the stateless era too.
const SILENCE: Duration = Duration::from_secs(20);

/// What we tell a child of the session era.
pub fn initialize_params() -> Value {
    json!({
        "protocolVersion": LEGACY_LATEST,
        "capabilities": {"sampling": {}, "elicitation": {}},
        "clientInfo": {"name": "minimcp", "version": env!("CARGO_PKG_VERSION")},
    })
}

impl Upstream {
    /// Initializes the child and lists its tools. Keeps the outcome for [`Upstream::handshake_snapshot`].
    ///
    /// # Errors
    /// What went wrong first, in words for a person.
    pub async fn handshake(&self) -> Result<Handshake, UpstreamError> {
        let mut handshake = match (&self.link, self.options.era) {
            (Link::Http(link), _) => self.shake_hands_over_http(link).await?,
            (Link::Stdio(_), EraPolicy::Auto) => self.initialize_or_discover().await?,
            (Link::Stdio(_), EraPolicy::Session) => self.initialize().await?,
            (Link::Stdio(_), EraPolicy::Stateless) => self.discover().await?,
        };
        if handshake.has_capability("tools") {
            self.list_into(&mut handshake, true).await?;
        }
        self.adopt(handshake.clone());
        Ok(handshake)
    }

    /// The session era is offered first, because the era of a stdio process is decided by its first request and every
    /// server known to us that speaks both accepts `initialize`. Only a child that refuses it (the specification leaves
    /// the code to the server), or says nothing for long, is asked `server/discover`.
    async fn initialize_or_discover(&self) -> Result<Handshake, UpstreamError> {
        let mut initialized = pin!(self.initialize());
        let patience = (self.options.handshake_timeout / 2).min(SILENCE);
        match timeout(patience, &mut initialized).await {
            Ok(Err(refusal @ UpstreamError::Rpc { .. })) => {
                return self.discover().await.map_err(|error| match error {
                    UpstreamError::Failed(_) => error,
                    _ => refusal,
                });
            }
            Ok(outcome) => return outcome,
            Err(_) => {}
        }
        match select(initialized, pin!(self.discover())).await {
            Either::Left((Err(UpstreamError::Rpc { .. }), discovered)) => discovered.await,
            Either::Left((outcome, _)) => outcome,
            Either::Right((Ok(discovered), _)) => Ok(discovered),
            // It knows no such request: the session era after all, however long that takes.
            Either::Right((Err(_), initialized)) => initialized.await,
        }
    }

    async fn discover(&self) -> Result<Handshake, UpstreamError> {
        let raw = self.own_request(Era::Modern, "server/discover", json!({}));
        Handshake::read(Era::Modern, &raw.await?).map_err(UpstreamError::Protocol)
    }

    async fn initialize(&self) -> Result<Handshake, UpstreamError> {
        let raw = self.own_request(Era::Legacy, "initialize", initialize_params());
        let handshake =
            Handshake::read(Era::Legacy, &raw.await?).map_err(UpstreamError::Protocol)?;
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.wire.send(initialized.to_string().into())?;
        Ok(handshake)
    }

    /// Asks the child for a sign of life: `ping`, or `server/discover` in the stateless era. Any answer will do, an
    /// error too.
    ///
    /// # Errors
    /// No answer within `limit`, or the child is gone.
    pub async fn probe(&self, limit: Duration) -> Result<(), UpstreamError> {
        let era = self.era();
        let method = match era {
            Era::Legacy => "ping",
            Era::Modern => "server/discover",
        };
        let asked = self.own_request(era, method, json!({}));
        match timeout(limit, asked).await {
            Ok(Ok(_) | Err(UpstreamError::Rpc { .. })) => Ok(()),
            // An HTTP server that forgot our session answers 404 without a message: it lives all the same.
            Ok(Err(error @ UpstreamError::Protocol(_))) => match self.http() {
                None => Err(error),
                Some(link) if !link.is_remote() => Ok(()),
                // Whether it still serves us is another question, which a new session answers.
                Some(_) => timeout(limit, self.wire.renew_session(error))
                    .await
                    .unwrap_or_else(|_| Err(late("initialize", limit))),
            },
            Ok(Err(error)) => Err(error),
            Err(_) => Err(late(method, limit)),
        }
    }

    /// Calls a tool on our own behalf; answers the raw result.
    ///
    /// # Errors
    /// The child is gone, refuses the call, or does not answer within `limit`.
    pub async fn call_tool(
        &self,
        tool: &str,
        arguments: &Value,
        limit: Duration,
    ) -> Result<String, UpstreamError> {
        let method = "tools/call";
        let params = json!({"name": tool, "arguments": arguments});
        in_time(method, limit, self.own_request(self.era(), method, params)).await
    }

    /// Asks a session-era child for something whose outcome nobody waits for, such as a subscription that is renewed.
    pub fn ask_aside(&self, method: &str, params: &Value) {
        let source =
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        if let Ok(envelope) = Envelope::parse(source.as_bytes()) {
            // The call is dropped: its answer finds nobody.
            let _ = self.call(
                Caller::plain(SessionKey::DAEMON),
                source.as_bytes(),
                &envelope,
            );
        }
    }

    /// Calls the child on our own behalf; answers the raw result.
    pub(super) async fn own_request(
        &self,
        era: Era,
        method: &str,
        mut params: Value,
    ) -> Result<String, UpstreamError> {
        if era == Era::Modern {
            params["_meta"] = own_meta();
        }
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        if let Link::Http(link) = &self.link {
            let standing = link.standing();
            let standing = standing.unwrap_or_else(|| Arc::new(Standing::stranger(era)));
            let asked = link.ask(&standing, &body);
            let (answer, _) = in_time(method, self.options.handshake_timeout, asked).await?;
            return result_of(method, &answer);
        }
        let source = body.to_string();
        let envelope = Envelope::parse(source.as_bytes())
            .map_err(|error| UpstreamError::Protocol(error.to_string()))?;
        let call = self.call(
            Caller::plain(SessionKey::DAEMON),
            source.as_bytes(),
            &envelope,
        )?;
        let mut call = match method {
            "initialize" => call.forget_on_drop(),
            _ => call.cancel_on_drop(),
        };
        let answer = timeout(self.options.handshake_timeout, call.last()).await;
        match answer {
            Ok(Some(answer)) => {
                if let Some(failure) = self.failure() {
                    return Err(UpstreamError::Failed(failure));
                }
                result_of(method, &answer)
            }
            Ok(None) => Err(UpstreamError::Protocol(format!("{method} was cancelled"))),
            Err(_) => Err(late(method, self.options.handshake_timeout)),
        }
    }
}

/// Bounds a step of ours.
///
/// # Errors
/// Those of the step, or that it took longer than `limit`.
pub async fn in_time<T>(
    method: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(late(method, limit)))
}

/// A step that took longer than `limit`.
#[must_use]
pub fn late(method: &str, limit: Duration) -> UpstreamError {
    UpstreamError::Timeout {
        method: method.to_owned(),
        waited_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The raw result inside a response.
///
/// # Errors
/// It is an error, or no response.
pub fn result_of(method: &str, answer: &[u8]) -> Result<String, UpstreamError> {
    let envelope =
        Envelope::parse(answer).map_err(|error| UpstreamError::Protocol(error.to_string()))?;
    if let Some(result) = envelope.result {
        return Ok(result.get().to_owned());
    }
    let error = envelope.error.map_or("{}", |error| error.get());
    let error = RawObject::parse(error).unwrap_or_default();
    let message = error.get("message").and_then(unquote).unwrap_or_default();
    Err(UpstreamError::Rpc {
        method: method.to_owned(),
        code: error
            .get("code")
            .and_then(|code| code.parse().ok())
            .unwrap_or(0),
        message: message.chars().take(500).collect(),
    })
}
