//! What an upgrade is like for those outside: fresh connections all the while, and how long they wait.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::{ClientError, Knocker};

/// Between two connections to the same address.
const EVERY: Duration = Duration::from_millis(20);

/// What was heard at one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Heard {
    /// `api` or `access-url`.
    pub(super) at: &'static str,
    /// Connections.
    pub(super) asked: u64,
    /// Of these, refused, cut, or not answered in time.
    pub(super) failed: u64,
    /// The longest time from the beginning of a connection to the answer on it.
    pub(super) longest_ms: u64,
}

/// Asks until it is told to end.
pub(super) struct Knocks {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Heard>>,
}

impl Knocks {
    /// Begins at the API and, where there is one, at an access URL; an answer may take as long as `limit`.
    pub(super) fn begin(
        api: Knocker,
        access_url: Option<&str>,
        limit: Duration,
    ) -> Result<Self, ClientError> {
        let stop = CancellationToken::new();
        let access = access_url.map(Knocker::at_access_url).transpose()?;
        let at = [
            Some(("api", api)),
            access.map(|access| ("access-url", access)),
        ];
        let tasks = at
            .into_iter()
            .flatten()
            .map(|(at, knocker)| tokio::spawn(knock_until(stop.clone(), at, knocker, limit)));
        Ok(Self {
            tasks: tasks.collect(),
            stop,
        })
    }

    /// Ends, after the answers that are waited for.
    pub(super) async fn end(self) -> Vec<Heard> {
        self.stop.cancel();
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.ok());
        }
        all
    }
}

async fn knock_until(
    stop: CancellationToken,
    at: &'static str,
    knocker: Knocker,
    limit: Duration,
) -> Heard {
    let mut heard = Heard {
        at,
        asked: 0,
        failed: 0,
        longest_ms: 0,
    };
    let mut turns = tokio::time::interval(EVERY);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(turns.tick()).await.is_some() {
        let began = Instant::now();
        let answered = knocker.knock(limit).await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        heard.asked += 1;
        heard.failed += u64::from(!answered);
        heard.longest_ms = heard.longest_ms.max(took_ms);
    }
    heard
}
