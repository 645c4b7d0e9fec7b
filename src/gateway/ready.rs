//! Waiting for a child that can answer, within the wake budget.

use std::sync::Arc;

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    domain::{id::Generation, state::StatusWord},
    supervisor::route::{Route, RouteState},
    upstream::{Call, Caller, Downstream, Failure, Upstream, UpstreamError},
};

use super::{Gateway, Message, Place, reply::Unready};

/// The connection behind a route, if there is one now.
pub fn present(route: &Route) -> Option<Arc<Upstream>> {
    match &*route.state.borrow() {
        RouteState::Ready { upstream, .. } => Some(upstream.clone()),
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
        let began = Instant::now();
        let deadline = began + self.config.wake_budget.std();
        let mut state: watch::Receiver<RouteState> = place.route.state.clone();
        let mut woken = false;
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
                RouteState::Down {
                    word: StatusWord::Asleep,
                    ..
                } => {
                    if !woken {
                        woken = true;
                        (place.route.wake)();
                    }
                }
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
        let mut failed = None;
        loop {
            let (upstream, generation) = self
                .ready_after(place, failed.take())
                .await
                .map_err(NotBegun::Unready)?;
            match upstream.call(caller, message.source, message.envelope) {
                Ok(call) => return Ok((call, upstream)),
                Err(UpstreamError::Failed(failure)) => failed = Some((generation, failure)),
                Err(other) => return Err(NotBegun::Refused(other)),
            }
        }
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
        }
    }
}
