//! Our own calls to a child: the handshake when it comes up, and the probes afterwards.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    HttpLink, Link, Upstream, UpstreamError,
    handshake::{Era, Handshake, LEGACY_LATEST, MODERN},
    in_flight::{Caller, SessionKey},
    message::{Envelope, RawObject, unquote},
    translate::own_meta,
};
use crate::domain::template::EraPolicy;

/// How long a stdio child may be silent about `initialize` before it is asked in the words of the stateless era too.
const SILENCE: Duration = Duration::from_secs(20);

/// Between two looks whether an HTTP child listens already: from, to. A slow runtime takes most of a second.
const LISTENING_POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// The first request to an HTTP child, which was launched a moment ago; the caller bounds the wait.
async fn ask_when_listening(
    link: &HttpLink,
    body: &Value,
) -> Result<(Bytes, Option<String>), UpstreamError> {
    let mut pause = LISTENING_POLL.0;
    loop {
        match link.ask(None, None, body).await {
            Err(UpstreamError::NotListening(_)) => tokio::time::sleep(pause).await,
            other => return other,
        }
        pause = (pause * 2).min(LISTENING_POLL.1);
    }
}

impl Upstream {
    /// Initializes the child and lists its tools. Keeps the outcome for [`Upstream::handshake_snapshot`].
    ///
    /// # Errors
    /// What went wrong first, in words for a person.
    pub async fn handshake(&self) -> Result<Handshake, UpstreamError> {
        let mut handshake = match self.options.era {
            EraPolicy::Auto => self.initialize_or_discover().await?,
            EraPolicy::Session => self.initialize().await?,
            EraPolicy::Stateless => self.discover().await?,
        };
        if handshake.has_capability("tools") {
            self.list_into(&mut handshake).await?;
        }
        self.adopt(handshake.clone());
        Ok(handshake)
    }

    /// The session era is offered first, because the era of a stdio process is decided by its first request and every
    /// server known to us that speaks both accepts `initialize`. Only a child that refuses it (the specification leaves
    /// the code to the server), or says nothing for long, is asked `server/discover`.
    async fn initialize_or_discover(&self) -> Result<Handshake, UpstreamError> {
        let mut initialized = pin!(self.initialize());
        let patience = match &self.link {
            Link::Stdio(_) => (self.options.handshake_timeout / 2).min(SILENCE),
            Link::Http(_) => self.options.handshake_timeout * 2,
        };
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
        let raw = self.own_request(None, Era::Modern, "server/discover", json!({}));
        Handshake::read(Era::Modern, &raw.await?).map_err(UpstreamError::Protocol)
    }

    async fn initialize(&self) -> Result<Handshake, UpstreamError> {
        let params = json!({
            "protocolVersion": LEGACY_LATEST,
            "capabilities": {"sampling": {}, "elicitation": {}},
            "clientInfo": {"name": "minimcp", "version": env!("CARGO_PKG_VERSION")},
        });
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        match &self.link {
            Link::Stdio(wire) => {
                let raw = self.own_request(None, Era::Legacy, "initialize", params);
                let handshake =
                    Handshake::read(Era::Legacy, &raw.await?).map_err(UpstreamError::Protocol)?;
                wire.send(initialized.to_string().into())?;
                Ok(handshake)
            }
            Link::Http(link) => {
                let body =
                    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
                let asked = ask_when_listening(link, &body);
                let (answer, session) = self.in_time("initialize", asked).await?;
                let raw = result_of("initialize", &answer)?;
                let mut handshake =
                    Handshake::read(Era::Legacy, &raw).map_err(UpstreamError::Protocol)?;
                handshake.http_session = session;
                let told = link.tell(
                    handshake.http_session.as_deref(),
                    &handshake.protocol_version,
                    &initialized,
                );
                self.in_time("notifications/initialized", told).await?;
                Ok(handshake)
            }
        }
    }

    /// Asks the child for a sign of life: `ping`, or `server/discover` in the stateless era. Any answer will do, an
    /// error too.
    ///
    /// # Errors
    /// No answer within `limit`, or the child is gone.
    pub async fn probe(&self, limit: Duration) -> Result<(), UpstreamError> {
        let handshake = self.handshake_snapshot();
        let handshake = handshake.as_deref();
        let era = self.era();
        let method = match era {
            Era::Legacy => "ping",
            Era::Modern => "server/discover",
        };
        let asked = self.own_request(handshake, era, method, json!({}));
        match timeout(limit, asked).await {
            Ok(Ok(_) | Err(UpstreamError::Rpc { .. })) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(late(method, limit)),
        }
    }

    /// Asks a stdio child for something whose outcome nobody waits for, such as a subscription that is renewed.
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
        handshake: Option<&Handshake>,
        era: Era,
        method: &str,
        mut params: Value,
    ) -> Result<String, UpstreamError> {
        if era == Era::Modern {
            params["_meta"] = own_meta();
        }
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        if let Link::Http(link) = &self.link {
            let session = handshake.and_then(|handshake| handshake.http_session.as_deref());
            let version = match era {
                Era::Modern => Some(MODERN),
                Era::Legacy => handshake.map(|handshake| handshake.protocol_version.as_str()),
            };
            let (answer, _) = self
                .in_time(method, link.ask(session, version, &body))
                .await?;
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

    async fn in_time<T>(
        &self,
        method: &str,
        work: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let limit = self.options.handshake_timeout;
        timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(late(method, limit)))
    }
}

fn late(method: &str, limit: Duration) -> UpstreamError {
    UpstreamError::Timeout {
        method: method.to_owned(),
        waited_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The raw result inside a response.
fn result_of(method: &str, answer: &[u8]) -> Result<String, UpstreamError> {
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
