//! The end of the daemon, as its clients see it: calls under way come to their answers, whoever connects meanwhile waits
//! in the queue of a listener that the keeper holds.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Gateway, ready};

/// Between two looks whether calls are still under way.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Gateway {
    /// Waits until no call is under way any more, for `gateway.drain_timeout` at most.
    pub(super) async fn drain(&self) {
        let limit = self.config.drain_timeout.std();
        let began = Instant::now();
        loop {
            let under_way = self.calls_under_way();
            if under_way == 0 {
                return;
            }
            if began.elapsed() >= limit {
                tracing::warn!(
                    under_way,
                    "calls did not end within gateway.drain_timeout; their clients get no answer"
                );
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Calls whose answers somebody waits for: those that wait for input of a client that has yet to come back do not
    /// count, since nobody is let in any more.
    fn calls_under_way(&self) -> usize {
        let places: Vec<_> = self.places().values().cloned().collect();
        let of_place = |place: &std::sync::Arc<super::Place>| {
            let shared = ready::present(&place.route);
            let shared = shared.map_or(0, |upstream| upstream.calls());
            let sessions = place.table.sessions();
            let own = sessions
                .values()
                .filter_map(|session| session.own_upstream());
            let own: usize = own.map(|upstream| upstream.calls()).sum();
            drop(sessions);
            (shared + own).saturating_sub(place.parked.waiting())
        };
        places.iter().map(of_place).sum()
    }
}
