//! Sessions with a child of their own, for servers that keep state per connection (`sessions = "per-session"`).
//!
//! The supervisor owns the child. A session holds the connection to it, and its end is the end of the child; the end
//! of the child is the end of the session.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode, header, request::Parts};
use serde_json::json;

use crate::{
    domain::{UnixMs, duration::HumanDuration},
    supervisor::{
        access::Secret,
        session_child::{MemberDesk, MemberRefused},
    },
    upstream::{Era, INTERNAL_ERROR, Upstream, error_message},
};

use super::{
    Gateway, Place, Reply, SESSION_HEADER, now_ms, reply,
    reply::Unready,
    session::{Session, SessionTable},
};

/// Between two looks whether a session rests: from, to.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(60));

/// That no further session can have a child.
pub fn full(most: usize) -> String {
    format!(
        "All {most} children for client sessions of this instance are in use (session_children_max of its template); end a session and try again."
    )
}

/// A session that is not open until its child is there.
struct Opening<'a> {
    table: &'a SessionTable,
    session: &'a Session,
    is_open: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            self.table.close(self.session);
        }
    }
}

impl Gateway {
    /// The connection for a request: to the child of its session's own, else to the one that all share.
    pub(super) async fn ready_in(
        &self,
        place: &Place,
        session: Option<&Session>,
    ) -> Result<Arc<Upstream>, Unready> {
        match session.and_then(|session| session.own_upstream().cloned()) {
            Some(own) => Ok(own),
            None => self.ready(place).await,
        }
    }

    /// Has a child launched for a session that was just entered; answers its raw answer to `initialize`. Without one
    /// the session is gone.
    pub(super) async fn give_child(
        &self,
        place: &Place,
        session: &Arc<Session>,
        desk: &MemberDesk,
        id: &str,
        wanted: &str,
    ) -> Result<String, Box<Reply>> {
        let mut opening = Opening {
            table: &place.table,
            session,
            is_open: false,
        };
        let child = desk
            .open(self.config.wake_budget.std())
            .await
            .map_err(|refused| Box::new(not_given(id, &refused)))?;
        let Some(handshake) = child.upstream.handshake_snapshot() else {
            return Err(Box::new(reply::json(
                StatusCode::SERVICE_UNAVAILABLE,
                reply::failure_message(id, "it is not initialized yet"),
            )));
        };
        // A stateless server has no state per connection, so nobody listens to the news of one here.
        let (result, _) = handshake.initialize_result(wanted, handshake.era == Era::Legacy);
        session.set_own(child);
        opening.is_open = true;
        let (table, session) = (place.table.clone(), session.clone());
        tokio::spawn(follow(table, session, self.config.session_idle));
        Ok(result)
    }
}

impl Place {
    /// The answer about a session that is not there, with the cause if it ended with its child.
    pub(super) fn no_session(&self, parts: &Parts, secret: &Secret, id: &str) -> Reply {
        let named = parts.headers.get(&SESSION_HEADER);
        let named = named.and_then(|value| value.to_str().ok());
        match named.and_then(|named| self.table.why_ended(named, &secret.token)) {
            Some(cause) => reply::session_ended(id, &cause),
            None => reply::no_such_session(id),
        }
    }
}

/// Looks after the sessions that were taken back from a former daemon with their children.
pub fn follow_taken_back(table: &Arc<SessionTable>, session_idle: HumanDuration) {
    let sessions = table.sessions();
    let own = sessions
        .values()
        .filter(|session| session.own_child().is_some());
    for session in own {
        tokio::spawn(follow(table.clone(), session.clone(), session_idle));
    }
}

/// Ends a session with its child, and when it rested for too long: `session_idle`, where its template says nothing.
async fn follow(table: Arc<SessionTable>, session: Arc<Session>, session_idle: HumanDuration) {
    let Some(child) = session.own_child() else {
        return;
    };
    let idle = child.session_idle.unwrap_or(session_idle).std();
    let idle_ms = UnixMs::try_from(idle.as_millis()).unwrap_or(UnixMs::MAX);
    loop {
        let now = now_ms();
        let left_ms = session
            .last_used(now)
            .saturating_add(idle_ms)
            .saturating_sub(now);
        let Ok(left_ms @ 1..) = u64::try_from(left_ms) else {
            table.close(&session);
            return;
        };
        let pause = Duration::from_millis(left_ms).clamp(LOOK.0, LOOK.1);
        tokio::select! {
            () = child.over().cancelled() => {
                table.close_with_child(&session);
                return;
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The answer to an `initialize` for which there is no child.
fn not_given(id: &str, refused: &MemberRefused) -> Reply {
    let (text, data) = match refused {
        MemberRefused::Failed(failure) => (
            format!(
                "The MCP server for this session could not be started: {}",
                failure.cause
            ),
            failure.data(),
        ),
        MemberRefused::Full(most) => (full(*most), json!({"session_children_max": most})),
        MemberRefused::Down => (
            "The instance stopped before the MCP server for this session was ready; try again."
                .to_owned(),
            json!({"cause": "stopped"}),
        ),
        MemberRefused::Late(waited) => (
            format!(
                "The MCP server for this session is still starting after {} s; try again.",
                waited.as_secs()
            ),
            json!({"cause": "starting"}),
        ),
    };
    let body = error_message(id, INTERNAL_ERROR, &text, Some(&data));
    let mut reply = reply::json(StatusCode::SERVICE_UNAVAILABLE, body);
    reply
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(2));
    reply
}
