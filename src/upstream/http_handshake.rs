//! The handshake with a child's HTTP server. Unlike a stdio process it may speak both eras, to different clients.

use std::{sync::Arc, time::Duration};

use serde_json::{json, value::RawValue};

use super::{
    HttpLink, Upstream, UpstreamError,
    handshake::{Era, Handshake, PAGES_MAX},
    http_headers::{Standing, ToolHeaders},
    lifeline::{in_time, initialize_params, result_of},
    message::{RawObject, unquote},
    translate::own_meta,
};
use crate::domain::template::EraPolicy;

/// Between two looks whether it listens already: from, to. A slow runtime takes most of a second.
const LISTENING_POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// How long a server may think about `server/discover` before it is taken for one that does not know it.
const DISCOVER_MAX: Duration = Duration::from_secs(10);

impl HttpLink {
    /// `initialize` and what belongs to it, each within `limit`; answers what we are to the child from then on.
    ///
    /// # Errors
    /// What went wrong first.
    pub async fn open_session(
        &self,
        limit: Duration,
    ) -> Result<(Handshake, Standing), UpstreamError> {
        let method = "initialize";
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": initialize_params()});
        let mut standing = Standing::stranger(Era::Legacy);
        let (answer, session) = in_time(method, limit, self.ask(&standing, &body)).await?;
        let raw = result_of(method, &answer)?;
        let mut handshake = Handshake::read(Era::Legacy, &raw).map_err(UpstreamError::Protocol)?;
        handshake.http_session.clone_from(&session);
        standing.version = Some(handshake.protocol_version.clone());
        standing.session = session;
        let method = "notifications/initialized";
        let body = json!({"jsonrpc": "2.0", "method": method});
        let told = self.tell(&standing, body.to_string().into());
        in_time(method, limit, told).await?;
        Ok((handshake, standing))
    }

    async fn discover(&self) -> Result<Handshake, UpstreamError> {
        let method = "server/discover";
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method,
            "params": {"_meta": own_meta()}});
        let standing = Standing::stranger(Era::Modern);
        let (answer, _) = in_time(method, DISCOVER_MAX, self.ask(&standing, &body)).await?;
        let raw = result_of(method, &answer)?;
        Handshake::read(Era::Modern, &raw).map_err(UpstreamError::Protocol)
    }

    /// Lists the tools anew, to learn which of their arguments travel in headers.
    ///
    /// # Errors
    /// The child is gone, or does not list them.
    pub async fn learn_tools(&self, standing: &Standing) -> Result<(), UpstreamError> {
        let method = "tools/list";
        let mut learnt = ToolHeaders::default();
        let mut params = json!({"_meta": own_meta()});
        for _ in 0..PAGES_MAX {
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
            let (answer, _) = self.ask(standing, &body).await?;
            let raw = result_of(method, &answer)?;
            let page = RawObject::parse(&raw).unwrap_or_default();
            let tools: Vec<&RawValue> = page
                .get("tools")
                .and_then(|raw| serde_json::from_str(raw).ok())
                .unwrap_or_default();
            for tool in tools {
                learnt.learn(tool);
            }
            match page.get("nextCursor").and_then(unquote) {
                Some(cursor) => params["cursor"] = cursor.into(),
                None => break,
            }
        }
        *self.tools() = learnt;
        Ok(())
    }
}

impl Upstream {
    /// Finds out which eras the child speaks: `server/discover` first, because over HTTP a refused request locks
    /// nothing; then `initialize`.
    pub(super) async fn shake_hands_over_http(
        &self,
        link: &Arc<HttpLink>,
    ) -> Result<Handshake, UpstreamError> {
        let limit = self.options.handshake_timeout;
        let policy = self.options.era;
        let discovered = match policy {
            EraPolicy::Session => None,
            EraPolicy::Auto | EraPolicy::Stateless => {
                Some(when_listening("server/discover", limit, || link.discover()).await)
            }
        };
        let refused = match discovered {
            Some(Ok(mut handshake)) => {
                link.set_standing(Standing::stranger(Era::Modern));
                handshake.both_eras =
                    policy == EraPolicy::Auto && speaks_sessions(link, limit).await;
                return Ok(handshake);
            }
            Some(Err(error))
                if policy == EraPolicy::Stateless || matches!(error, UpstreamError::Failed(_)) =>
            {
                return Err(error);
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        match when_listening("initialize", limit, || link.open_session(limit)).await {
            Ok((handshake, standing)) => {
                link.set_standing(standing);
                Ok(handshake)
            }
            // It knows the stateless era, and refused us there: that tells more.
            Err(error) => Err(match refused {
                Some(refused @ UpstreamError::Rpc { code: -32_022, .. }) => refused,
                _ => error,
            }),
        }
    }
}

/// The first request to a child that was launched a moment ago, until it listens.
async fn when_listening<T, F>(
    method: &str,
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T, UpstreamError>
where
    F: Future<Output = Result<T, UpstreamError>>,
{
    let mut pause = LISTENING_POLL.0;
    let asked = async {
        loop {
            match ask().await {
                Err(UpstreamError::NotListening(_)) => tokio::time::sleep(pause).await,
                other => return other,
            }
            pause = (pause * 2).min(LISTENING_POLL.1);
        }
    };
    in_time(method, limit, asked).await
}

/// Whether a child that speaks the stateless era takes clients of the session era too.
async fn speaks_sessions(link: &HttpLink, limit: Duration) -> bool {
    match link.open_session(limit.min(DISCOVER_MAX)).await {
        Ok((_, standing)) => {
            link.end_session(&standing).await;
            true
        }
        Err(_) => false,
    }
}
