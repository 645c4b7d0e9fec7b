//! Waiting for a child that can answer, within the wake budget.

use std::sync::Arc;

use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    domain::{id::Generation, state::StatusWord},
    supervisor::route::{Route, RouteState},
    upstream::{Call, Caller, Downstream, Era, Failure, Handshake, Upstream, UpstreamError},
};

use super::{Gateway, Message, Place, reply::Unready, session::SessionTable};

/// The connection behind a route, if there is one now; that of a child which holds still too, for what needs no answer.
pub fn present(route: &Route) -> Option<Arc<Upstream>> {
    match &*route.state.borrow() {
        RouteState::Ready { upstream, .. } | RouteState::Frozen { upstream, .. } => {
            Some(upstream.clone())
        }
        _ => None,
    }
}

/// Why a call was not begun.
pub enum NotBegun {
    /// No child came up in time.
    Unready(Unready),
    /// The child did not take it.
    Refused(UpstreamError),
}

impl Gateway {
    /// The connection to a child that answers.
    pub(super) async fn ready(&self, place: &Place) -> Result<Arc<Upstream>, Unready> {
        self.ready_after(place, None)
            .await
            .map(|(upstream, _)| upstream)
    }

    /// As [`Gateway::ready`], but not the launch that is known to have failed.
    pub(super) async fn ready_after(
        &self,
        place: &Place,
        failed: Option<(Generation, Arc<Failure>)>,
    ) -> Result<(Arc<Upstream>, Generation), Unready> {
        if failed.is_none()
            && let RouteState::Ready {
                upstream,
                generation,
            } = &*place.route.state.borrow()
        {
            let found = (upstream.clone(), *generation);
            place.attach(&found.0, found.1);
            return Ok(found);
        }
        // Boxed, because hardly any request waits.
        Box::pin(self.wait_until_ready(place, failed)).await
    }

    async fn wait_until_ready(
        &self,
        place: &Place,
        failed: Option<(Generation, Arc<Failure>)>,
    ) -> Result<(Arc<Upstream>, Generation), Unready> {
        let _waits = place.route.wait();
        let began = Instant::now();
        let deadline = began + self.config.wake_budget.std();
        let mut state: watch::Receiver<RouteState> = place.route.state.clone();
        loop {
            let seen = state.borrow_and_update().clone();
            match seen {
                RouteState::Ready {
                    upstream,
                    generation,
                } if failed.as_ref().is_none_or(|(old, _)| *old != generation) => {
                    place.attach(&upstream, generation);
                    return Ok((upstream, generation));
                }
                RouteState::Ready { .. } | RouteState::Starting => {}
                RouteState::Frozen { .. }
                | RouteState::Down {
                    word: StatusWord::Asleep,
                    ..
                } => (place.route.wake)(),
                RouteState::Down {
                    word,
                    since,
                    failure,
                    retry_after_s,
                } => {
                    return Err(Unready::Down {
                        word,
                        since,
                        failure,
                        retry_after_s,
                    });
                }
                RouteState::Gone => return Err(Unready::Gone),
            }
            match timeout_at(deadline, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Unready::Gone),
                Err(_) => {
                    if let Some(held) = &*place.route.held.borrow() {
                        return Err(Unready::NoRoom(Arc::clone(held)));
                    }
                    let waited = began.elapsed().as_millis();
                    return Err(Unready::Starting {
                        waited_ms: u64::try_from(waited).unwrap_or(u64::MAX),
                        failure: failed.map(|(_, failure)| failure),
                    });
                }
            }
        }
    }

    /// Begins a call at a stdio child. A child that died before it took the call is waited for once more: nothing of
    /// the call has happened yet.
    pub(super) async fn begin(
        &self,
        place: &Place,
        caller: Caller,
        message: &Message<'_>,
    ) -> Result<(Call, Arc<Upstream>), NotBegun> {
        match begin_at_once(place, &caller, message) {
            Some(begun) => begun,
            // Boxed, because hardly any request waits.
            None => Box::pin(self.begin_later(place, caller, message)).await,
        }
    }

    async fn begin_later(
        &self,
        place: &Place,
        caller: Caller,
        message: &Message<'_>,
    ) -> Result<(Call, Arc<Upstream>), NotBegun> {
        let mut failed = None;
        loop {
            let (upstream, generation) = self
                .ready_after(place, failed.take())
                .await
                .map_err(NotBegun::Unready)?;
            match upstream.call(caller.clone(), message.source, message.envelope) {
                Ok(call) => return Ok((call, upstream)),
                Err(UpstreamError::Failed(failure)) => failed = Some((generation, failure)),
                Err(other) => return Err(NotBegun::Refused(other)),
            }
        }
    }
}

/// Begins a call at the child that answers now; `None`: none does, or it is dead already.
fn begin_at_once(
    place: &Place,
    caller: &Caller,
    message: &Message<'_>,
) -> Option<Result<(Call, Arc<Upstream>), NotBegun>> {
    let upstream = match &*place.route.state.borrow() {
        RouteState::Ready {
            upstream,
            generation,
        } => {
            place.attach(upstream, *generation);
            upstream.clone()
        }
        _ => return None,
    };
    match upstream.call(caller.clone(), message.source, message.envelope) {
        Ok(call) => Some(Ok((call, upstream))),
        Err(UpstreamError::Failed(_)) => None,
        Err(other) => Some(Err(NotBegun::Refused(other))),
    }
}

impl Place {
    /// As [`Place::attach`], when a child answers now; marks the state as seen.
    pub(super) fn attach_present(&self, state: &mut watch::Receiver<RouteState>) {
        if let RouteState::Ready {
            upstream,
            generation,
        } = &*state.borrow_and_update()
        {
            self.attach(upstream, *generation);
        }
    }

    /// Lets the child tell its news to our sessions.
    pub(super) fn attach(&self, upstream: &Upstream, generation: Generation) {
        if self.table.is_new_launch(generation.0) {
            let table: Arc<dyn Downstream> = self.table.clone();
            upstream.attach(Arc::downgrade(&table));
            if let Some(handshake) = upstream.handshake_snapshot() {
                self.param_headers.begin(&handshake);
                self.greet(upstream, generation, handshake);
            }
            self.renew_news(upstream);
        }
    }

    /// Tells a child that came up after another, or after another daemon, what its clients had told before, and the
    /// clients what is new.
    fn greet(&self, upstream: &Upstream, launch: Generation, handshake: Arc<Handshake>) {
        let before = self.table.set_known(handshake.clone());
        if before.is_none() && self.table.is_empty() {
            return;
        }
        // A stateless child hears log levels with each call, and subscriptions by its one stream of news.
        if handshake.era == Era::Legacy {
            if !self.table.listeners.is_empty() {
                upstream.hear_standing();
            }
            renew_wishes(&self.table, upstream, &handshake);
        }
        for method in before.map_or(Vec::new(), |before| news(&before, &handshake)) {
            self.table.tell_once(launch, method);
        }
    }
}

/// Tells a child that knows nothing of it what its clients wish to hear.
pub fn renew_wishes(table: &SessionTable, upstream: &Upstream, handshake: &Handshake) {
    if handshake.has_capability("logging")
        && let Some(level) = table.most_verbose()
    {
        upstream.ask_aside("logging/setLevel", &json!({"level": level}));
    }
    if handshake.promises("resources", "subscribe") {
        for uri in table.subscribed() {
            upstream.ask_aside("resources/subscribe", &json!({"uri": uri}));
        }
    }
}

/// What clients must list again after a restart: the tools when their names differ, and everything when the server
/// tells something else of itself.
fn news(before: &Handshake, now: &Handshake) -> Vec<&'static str> {
    let all = before.raw != now.raw;
    [
        ("tools", "notifications/tools/list_changed"),
        ("prompts", "notifications/prompts/list_changed"),
        ("resources", "notifications/resources/list_changed"),
    ]
    .into_iter()
    .filter(|(capability, _)| {
        let differs = all || (*capability == "tools" && has_other_tools(before, now));
        differs && (before.has_capability(capability) || now.has_capability(capability))
    })
    .map(|(_, method)| method)
    .collect()
}

fn has_other_tools(before: &Handshake, now: &Handshake) -> bool {
    before.tools != now.tools || before.read_only_tools != now.read_only_tools
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn clients_hear_only_of_what_differs_after_a_restart() {
        let told = |version: &str, tools: &[&str]| {
            let raw = format!(
                r#"{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}},"prompts":{{}}}},"serverInfo":{{"name":"n","version":"{version}"}}}}"#
            );
            let mut handshake = Handshake::read(Era::Legacy, &raw).unwrap();
            handshake.tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
            handshake
        };
        let before = told("1", &["a"]);
        assert!(news(&before, &told("1", &["a"])).is_empty());
        let tools = "notifications/tools/list_changed";
        assert_eq!(news(&before, &told("1", &["a", "b"])), [tools]);
        let both = [tools, "notifications/prompts/list_changed"];
        assert_eq!(news(&before, &told("2", &["a"])), both);
    }
}
