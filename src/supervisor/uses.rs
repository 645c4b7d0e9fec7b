//! Who uses an instance now, and when somebody last did: counted by the gateway, read by the actor, which stops what
//! nobody uses.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Whether some client waits for news that only a running server can tell.
type Subscribed = Box<dyn Fn() -> bool + Send + Sync>;

/// See the module.
pub struct Uses {
    began: Instant,
    under_way: AtomicU64,
    /// Milliseconds from `began` to the last use.
    last_ms: AtomicU64,
    subscribed: OnceLock<Subscribed>,
    /// A request waits for it to wake.
    wanted: AtomicBool,
}

impl fmt::Debug for Uses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uses")
            .field("under_way", &self.under_way)
            .finish_non_exhaustive()
    }
}

impl Default for Uses {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            under_way: AtomicU64::new(0),
            last_ms: AtomicU64::new(0),
            subscribed: OnceLock::new(),
            wanted: AtomicBool::new(false),
        }
    }
}

/// One use; dropping it ends it.
#[derive(Debug)]
pub struct Use {
    uses: Arc<Uses>,
    ended: Option<Instant>,
}

impl Uses {
    /// A use begins. To be called before the state behind the route is looked at: either the actor counts this use and
    /// lets the child run, or the state says that it is down.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Use {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        Use {
            uses: Arc::clone(self),
            ended: None,
        }
    }

    /// Tells how to find out whether some client waits for news of its resources; the first one stays.
    pub fn set_subscribed(&self, subscribed: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.subscribed.set(Box::new(subscribed));
    }

    /// A request waits for it to wake.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Whether one waits; nobody does afterwards.
    pub(super) fn take_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::SeqCst)
    }

    pub(super) fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::SeqCst)
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribed.get().is_some_and(|subscribed| subscribed())
    }

    /// It is used at this moment, or its server begins.
    pub(super) fn touch(&self) {
        self.touch_at(Instant::now());
    }

    fn touch_at(&self, now: Instant) {
        let since = now.saturating_duration_since(self.began);
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.last_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// When it was last used.
    pub(super) fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

impl Use {
    /// It ends at this moment, for who has just looked at the clock.
    pub fn end(mut self, at: Instant) {
        self.ended = Some(at);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or_else(Instant::now);
        self.uses.touch_at(ended);
        self.uses.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_use_is_when_the_last_one_ended() {
        let uses = Arc::new(Uses::default());
        let began = Instant::now();
        let one = uses.begin();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let other = uses.begin();
        assert_eq!((uses.under_way(), uses.last()), (2, began));
        drop(one);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        other.end(now);
        let last = began + Duration::from_secs(10);
        assert_eq!((uses.under_way(), uses.last()), (0, last));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(uses.last(), last);
        assert!(!uses.is_subscribed() && !uses.take_wanted());
        uses.set_subscribed(|| true);
        uses.want();
        assert!(uses.is_subscribed() && uses.take_wanted() && !uses.take_wanted());
    }
}
