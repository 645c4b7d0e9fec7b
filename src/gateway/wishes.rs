//! What session-era clients ask of a server once and a stateless one must hear with every call, or by its stream of
//! news: log levels and resource subscriptions. The gateway keeps them and answers.

use bytes::Bytes;

use crate::upstream::{
    Era, INTERNAL_ERROR, INVALID_PARAMS, LOG_LEVELS, METHOD_NOT_FOUND, RawObject, Upstream,
    error_message, result_message, unquote,
};

use super::{Message, Place, reply, session::Session};

/// Whether a request of this method is such a wish.
#[must_use]
pub fn is_wish(method: &str) -> bool {
    matches!(
        method,
        "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe"
    )
}

impl Place {
    /// Answers a wish of a session in front of a stateless child.
    pub(super) async fn grant(
        &self,
        session: &Session,
        message: &Message<'_>,
        upstream: &Upstream,
    ) -> Bytes {
        let id = message.id;
        let refuse = |code, text: &str| error_message(id, code, text, None);
        let Some(handshake) = upstream.handshake_snapshot() else {
            return reply::failure_message(id, "it is not initialized yet");
        };
        let param = |key: &str| {
            let params = RawObject::of(message.envelope.params?).ok()?;
            unquote(params.get(key)?)
        };
        let method = message.envelope.method();
        if method == "logging/setLevel" {
            if !handshake.has_capability("logging") {
                return refuse(METHOD_NOT_FOUND, "This server sends no log messages.");
            }
            let level = param("level").unwrap_or_default();
            if !LOG_LEVELS.contains(&level.as_str()) {
                let levels = LOG_LEVELS.join(", ");
                let text = format!("params.level must be one of {levels}.");
                return refuse(INVALID_PARAMS, &text);
            }
            // Each call of the session takes it along.
            let _ = self.table.set_level(session, &level);
            return result_message(id, "{}");
        }
        if !handshake.promises("resources", "subscribe") {
            return refuse(METHOD_NOT_FOUND, "This server has no subscriptions.");
        }
        let Some(uri) = param("uri") else {
            return refuse(INVALID_PARAMS, "params.uri must be a text.");
        };
        if method == "resources/unsubscribe" {
            let _ = self.table.unsubscribe(session, &uri);
            self.renew_news(upstream);
            return result_message(id, "{}");
        }
        if !self.table.subscribe(session, uri.clone()) {
            return refuse(INTERNAL_ERROR, "This session has too many subscriptions.");
        }
        self.renew_news(upstream);
        let refused = match upstream.heard().await {
            Ok(granted) if granted.uris.contains(&uri) => return result_message(id, "{}"),
            Ok(_) => refuse(
                INVALID_PARAMS,
                "The server did not grant this subscription.",
            ),
            Err(error) => reply::upstream_message(id, &error),
        };
        let _ = self.table.unsubscribe(session, &uri);
        self.renew_news(upstream);
        refused
    }

    /// Lets a stateless child tell what its clients want to hear now, no more and no less.
    pub(super) fn renew_news(&self, upstream: &Upstream) {
        if let Some(handshake) = upstream.handshake_snapshot()
            && handshake.era == Era::Modern
        {
            upstream.hear(self.table.interest(&handshake));
        }
    }

    /// Whether the child tells the news that it promises; waits until that is known, ten seconds at most.
    pub(super) async fn tells_news(&self, upstream: &Upstream) -> bool {
        if upstream.era() == Era::Legacy {
            return true;
        }
        self.renew_news(upstream);
        match upstream.heard().await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(instance = %self.route.id, %error, "the server promises news and tells none");
                false
            }
        }
    }
}
