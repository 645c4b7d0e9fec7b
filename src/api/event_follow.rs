//! One listener's place in the events.
//!
//! What came before is read from the store, then it goes on live without a gap or a double: the live side is subscribed
//! before the store is read, and ids that were sent already are skipped. A listener that is too slow for the live side
//! is brought up from the store again; one that knows no id yet is told how many events it missed.

use std::collections::VecDeque;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{error::ApiError, view};
use crate::{
    domain::id::InstanceId,
    store::{EventRow, Store},
    supervisor,
    wire::{EventGap, InstanceEvent},
};

/// Rows read from the store at a time.
const REPLAY_ROWS: u32 = 500;
/// Ids remembered to skip doubles at the seam; as many as the live side can hold back.
const RECENT_IDS: usize = 1_024;

/// What a listener is told.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// Something happened.
    Event(InstanceEvent),
    /// It missed something that nobody can tell it any more.
    Gap(EventGap),
}

/// One listener's place in the events.
pub struct Follow {
    store: Store,
    live: broadcast::Receiver<supervisor::InstanceEvent>,
    shutdown: CancellationToken,
    instance: Option<InstanceId>,
    pending: VecDeque<InstanceEvent>,
    /// The greatest id that was sent or asked for; `None`: none yet.
    last_id: Option<i64>,
    recent: VecDeque<i64>,
    /// The store holds events that this listener has not seen.
    behind: bool,
}

impl Follow {
    /// Follows from now on, or from behind the event `after`.
    #[must_use]
    pub fn new(
        store: Store,
        live: broadcast::Receiver<supervisor::InstanceEvent>,
        shutdown: CancellationToken,
        instance: Option<InstanceId>,
        after: Option<i64>,
    ) -> Self {
        Self {
            store,
            live,
            shutdown,
            instance,
            pending: VecDeque::new(),
            last_id: after,
            recent: VecDeque::new(),
            behind: after.is_some(),
        }
    }

    /// Reads what came before, the first part of it.
    ///
    /// # Errors
    /// The database is away.
    pub async fn begin(&mut self) -> Result<(), ApiError> {
        match self.behind {
            true => self.catch_up().await,
            false => Ok(()),
        }
    }

    /// What comes next; `None`: the daemon goes down, or the store failed while catching up (the client comes back with
    /// the last id that it saw). Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(Told::Event(event));
            }
            if self.behind {
                self.catch_up().await.ok()?;
                continue;
            }
            let received = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                received = self.live.recv() => received,
            };
            match received {
                Ok(event) => {
                    let wanted = self.instance.is_none_or(|id| id == event.instance);
                    if self.is_new(event.id) && wanted {
                        return Some(Told::Event(view::event(&event)));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) if self.last_id.is_some() => {
                    self.behind = true;
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Some(Told::Gap(EventGap { missed }));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), ApiError> {
        let after = self.last_id.unwrap_or(0);
        let rows = self.store.events_page(self.instance, after, REPLAY_ROWS);
        let rows = rows.await?;
        self.behind = rows.len() >= REPLAY_ROWS as usize;
        for row in rows {
            if self.is_new(row.id) {
                self.pending.push_back(from_row(row));
            }
        }
        Ok(())
    }

    /// Remembers an id; whether it was not sent before.
    fn is_new(&mut self, id: i64) -> bool {
        if id <= 0 {
            return true;
        }
        if self.recent.contains(&id) {
            return false;
        }
        if self.recent.len() >= RECENT_IDS {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
        self.last_id = Some(self.last_id.map_or(id, |last| last.max(id)));
        true
    }
}

/// A stored event as the API shows it.
pub fn from_row(row: EventRow) -> InstanceEvent {
    view::event(&supervisor::InstanceEvent {
        id: row.id,
        instance: row.instance,
        generation: row.generation,
        at: row.at,
        kind: row.kind,
        message: row.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::DatabaseConfig, domain::id::Generation, store::NewEvent};

    /// Stores events and gives them to the live side.
    async fn happen(
        store: &Store,
        live: &broadcast::Sender<supervisor::InstanceEvent>,
        messages: std::ops::Range<usize>,
    ) {
        let events: Vec<NewEvent> = messages
            .map(|message| NewEvent {
                instance: InstanceId(uuid::Uuid::from_u128(1)),
                generation: Generation(1),
                at: 0,
                kind: "running".to_owned(),
                message: message.to_string(),
            })
            .collect();
        let ids = store.append_events(&events).await.expect("stored");
        for (event, id) in events.into_iter().zip(ids) {
            let _ = live.send(supervisor::InstanceEvent {
                id,
                instance: event.instance,
                generation: event.generation,
                at: event.at,
                kind: event.kind,
                message: event.message,
            });
        }
    }

    async fn told(follow: &mut Follow) -> Result<String, u64> {
        match follow.next().await.expect("it goes on") {
            Told::Event(event) => Ok(event.message),
            Told::Gap(gap) => Err(gap.missed),
        }
    }

    #[tokio::test]
    async fn who_falls_behind_reads_the_store_or_is_told_how_many_it_missed() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = DatabaseConfig {
            url: format!("sqlite:{}", folder.path().join("test.db").display()),
            ..DatabaseConfig::default()
        };
        let store = Store::connect(&config).await.expect("SQLite opens");
        let live = broadcast::Sender::new(4);
        let stop = CancellationToken::new();
        let follow = |after| {
            let (store, stop) = (store.clone(), stop.clone());
            Follow::new(store, live.subscribe(), stop, None, after)
        };
        let (mut new, mut known) = (follow(None), follow(Some(0)));
        known.begin().await.expect("the store answers");
        happen(&store, &live, 0..10).await;
        // Six of ten were never seen by the one that knows no id; the other one sees all.
        assert_eq!(told(&mut new).await, Err(6));
        for message in 6..10 {
            assert_eq!(told(&mut new).await, Ok(message.to_string()));
        }
        for message in 0..10 {
            assert_eq!(told(&mut known).await, Ok(message.to_string()));
        }
        // Now both know where they are.
        happen(&store, &live, 10..30).await;
        for message in 10..30 {
            assert_eq!(told(&mut new).await, Ok(message.to_string()));
            assert_eq!(told(&mut known).await, Ok(message.to_string()));
        }
        stop.cancel();
        assert_eq!(new.next().await, None);
        store.close().await;
    }
}
