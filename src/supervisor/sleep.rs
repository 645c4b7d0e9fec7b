//! An instance that nobody uses is frozen, then stopped, and keeps its access listener; a request wakes it.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{actor::Actor, members::listed, route::RouteState, timers::Timer};
use crate::domain::{
    budget::Held,
    duration::HumanDuration,
    event::Event,
    exit::ExitStatus,
    sleep::{self, Activity, Rest, Tiers},
    state::{InstanceState, StatusWord, StopReason},
};

/// Somebody uses it after all: when to look again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Actor {
    /// Its server answers from now on: how long nobody uses it counts from here.
    pub(super) fn arm_sleep(&mut self) {
        self.route.uses.touch();
        if let Some(woken) = self.woken.take() {
            self.context.wake_times.observe(woken.elapsed());
        }
        self.look_again_in(Duration::ZERO);
    }

    /// How long it may be unused before it is stopped; `None`: for ever.
    pub(super) fn sleep_after(&self) -> Option<HumanDuration> {
        let spec = self.template.as_ref().map(|template| template.sleep);
        let own = self.record.spec.sleep_after;
        self.context
            .config
            .sleep
            .after(own, spec.unwrap_or_default())
    }

    fn tiers(&self) -> Tiers {
        Tiers {
            freeze_after: self
                .freeze_after()
                .filter(|_| self.can_freeze())
                .map(HumanDuration::std),
            sleep_after: self.sleep_after().map(HumanDuration::std),
        }
    }

    /// How long it may be unused is another time now.
    pub(super) fn sleep_otherwise(&mut self) {
        if self.life.state == InstanceState::Running {
            self.look_again_in(Duration::ZERO);
        }
    }

    pub(super) fn look_again_in(&mut self, wait: Duration) {
        self.timers.arm(Timer::Sleep, Instant::now() + wait);
    }

    /// Looks whether it is used, and lets it rest if not.
    pub(super) async fn look_whether_used(&mut self) {
        self.rest(self.tiers()).await;
    }

    /// Lets it rest as deeply as it may by now; whether it sleeps now. If it may not, it is looked at again by itself.
    pub(super) async fn rest(&mut self, tiers: Tiers) -> bool {
        if self.life.state != InstanceState::Running {
            return false;
        }
        match sleep::rest(tiers, self.life.frozen, &self.activity()) {
            Rest::Never => self.timers.disarm(Timer::Sleep),
            Rest::LookAgain(wait) => self.look_again_in(wait),
            // Asked what it offers, it is looked at again by what it answers.
            Rest::Freeze | Rest::Sleep if self.learns_before_rest(self.last_used()) => {}
            Rest::Freeze => self.freeze(tiers).await,
            Rest::Sleep => return self.fall_asleep(tiers).await,
        }
        false
    }

    async fn fall_asleep(&mut self, tiers: Tiers) -> bool {
        // From here on a request finds it asleep and waits; one that was let in before is counted.
        self.route.uses.take_wanted();
        let awake = self.route_state.send_replace(RouteState::Down {
            word: StatusWord::Asleep,
            since: self.context.clock.now(),
            failure: None,
            retry_after_s: None,
        });
        if sleep::rest(tiers, self.life.frozen, &self.activity()) != Rest::Sleep {
            self.route_state.send_replace(awake);
            self.look_again_in(LOOK_AGAIN);
            return false;
        }
        self.apply(Event::Stop(StopReason::Idle)).await;
        true
    }

    /// What it offers is known now as far as it can be: looks whether it is used, if that waited for this.
    pub(super) fn look_at_sleep_again(&mut self) {
        if self.life.state == InstanceState::Running && !self.timers.is_armed(Timer::Sleep) {
            self.look_again_in(Duration::ZERO);
        }
    }

    /// When it was last used by a client.
    fn last_used(&self) -> Instant {
        let ended = self.child.as_ref();
        let ended = ended.and_then(|child| child.upstream.last_call_ended());
        let last = self.route.uses.last();
        last.max(ended.unwrap_or(last))
    }

    pub(super) fn activity(&self) -> Activity {
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

    /// A request waits for it: what is frozen is thawed; what sleeps, or falls asleep, is launched.
    pub(super) async fn wake_if_wanted(&mut self) {
        let goes = self.leaving || self.context.is_closing();
        if !goes && self.life.frozen && self.route.uses.take_wanted() {
            self.thaw("a request thawed it").await;
        } else if !goes && self.is_asleep() && self.route.uses.take_wanted() {
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

    /// There is no room for it, and the requests that woke it wait no longer: it sleeps on until the next one.
    pub(super) async fn sleep_on(&mut self, held: &Held) {
        self.launch_failed("no-room");
        self.note("no-room", format!("it sleeps on: {held}"));
        let generation = self.life.generation;
        self.apply(Event::Stop(StopReason::Idle)).await;
        let reason = "there was no room for it".to_owned();
        let status = ExitStatus::NotStarted { reason };
        self.apply(Event::LaunchFailed(generation, status)).await;
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
