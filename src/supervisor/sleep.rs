//! An instance that nobody uses is stopped and keeps its access listener; a request wakes it.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{actor::Actor, members::listed, route::RouteState, timers::Timer};
use crate::domain::{
    duration::HumanDuration,
    event::Event,
    sleep::{self, Activity, Rest},
    state::{InstanceState, StatusWord, StopReason},
};

impl Actor {
    /// Its server answers from now on: how long nobody uses it counts from here.
    pub(super) fn arm_sleep(&mut self) {
        self.route.uses.touch();
        if let Some(woken) = self.woken.take() {
            self.context.wake_times.observe(woken.elapsed());
        }
        self.arm_sleep_in(None);
    }

    /// How long it may be unused; `None`: for ever.
    pub(super) fn sleep_after(&self) -> Option<HumanDuration> {
        let spec = self.template.as_ref().map(|template| template.sleep);
        let own = self.record.spec.sleep_after;
        self.context
            .config
            .sleep
            .after(own, spec.unwrap_or_default())
    }

    /// How long it may be unused is another time now.
    pub(super) fn sleep_otherwise(&mut self) {
        if self.life.state == InstanceState::Running {
            self.arm_sleep_in(Some(std::time::Duration::ZERO));
        }
    }

    fn arm_sleep_in(&mut self, wait: Option<std::time::Duration>) {
        match self.sleep_after() {
            Some(after) => {
                let at = Instant::now() + wait.unwrap_or(after.std());
                self.timers.arm(Timer::Sleep, at);
            }
            None => self.timers.disarm(Timer::Sleep),
        }
    }

    /// Looks whether it is used, and stops it if not.
    pub(super) async fn look_whether_used(&mut self) {
        if let Some(after) = self.sleep_after() {
            self.rest_after(after.std()).await;
        }
    }

    /// Stops it if nobody used it for so long; whether it sleeps now. If not, it is looked at again by itself.
    pub(super) async fn rest_after(&mut self, after: std::time::Duration) -> bool {
        if self.life.state != InstanceState::Running {
            return false;
        }
        if let Rest::LookAgain(wait) = sleep::rest(after, &self.activity()) {
            self.arm_sleep_in(Some(wait));
            return false;
        }
        let used = self.last_used();
        if self.learns_before_sleep(used) {
            return false;
        }
        // From here on a request finds it asleep and waits; one that was let in before is counted.
        self.route.uses.take_wanted();
        let awake = self.route_state.send_replace(RouteState::Down {
            word: StatusWord::Asleep,
            since: self.context.clock.now(),
            failure: None,
            retry_after_s: None,
        });
        if let Rest::LookAgain(wait) = sleep::rest(after, &self.activity()) {
            self.route_state.send_replace(awake);
            self.arm_sleep_in(Some(wait));
            return false;
        }
        self.apply(Event::Stop(StopReason::Idle)).await;
        true
    }

    /// What it offers is known now as far as it can be: looks whether it is used, if that waited for this.
    pub(super) fn look_at_sleep_again(&mut self) {
        if self.life.state == InstanceState::Running && !self.timers.is_armed(Timer::Sleep) {
            self.arm_sleep_in(Some(std::time::Duration::ZERO));
        }
    }

    /// When it was last used by a client.
    fn last_used(&self) -> Instant {
        let ended = self.child.as_ref();
        let ended = ended.and_then(|child| child.upstream.last_call_ended());
        let last = self.route.uses.last();
        last.max(ended.unwrap_or(last))
    }

    fn activity(&self) -> Activity {
        let uses = &self.route.uses;
        let under_way = uses.under_way();
        let child = self.child.as_ref();
        let calls = child.map_or(0, |child| child.upstream.client_calls());
        let activity = Activity {
            under_way: under_way.saturating_add(u64::try_from(calls).unwrap_or(u64::MAX)),
            session_children: listed(&self.census.borrow()).len(),
            is_subscribed: uses.is_subscribed(),
            unused_for: self.last_used().elapsed(),
        };
        if activity.is_busy() {
            uses.touch();
        }
        activity
    }

    /// A request waits for it: what sleeps, or falls asleep, is launched.
    pub(super) async fn wake_if_wanted(&mut self) {
        let goes = self.leaving || self.context.is_closing();
        if !goes && self.is_asleep() && self.route.uses.take_wanted() {
            self.woken = Some(Instant::now());
            self.context.wakes.fetch_add(1, Ordering::Relaxed);
            self.note("woken", "a request woke it".to_owned());
            self.apply(Event::Start).await;
        } else if matches!(
            self.life.state,
            InstanceState::Stopped { .. } | InstanceState::Failed { .. }
        ) {
            self.woken = None;
        }
    }

    /// Whether it is down, or goes down, for want of use alone.
    pub(super) fn is_asleep(&self) -> bool {
        matches!(
            self.life.state,
            InstanceState::Stopped {
                reason: StopReason::Idle
            } | InstanceState::Stopping {
                reason: StopReason::Idle,
                then_start: false
            }
        )
    }
}
