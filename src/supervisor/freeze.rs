//! An instance that nobody uses holds still, with all that it has in memory: its processes are frozen by the keeper, and
//! a request lets them go on.

use std::sync::Arc;

use tokio::time::Instant;

use super::{actor::Actor, route::RouteState, sleep::LOOK_AGAIN, timers::Timer};
use crate::{
    domain::{
        duration::HumanDuration,
        event::Event,
        sleep::{self, Rest, Tiers},
    },
    runtime::RuntimeError,
};

impl Actor {
    /// How long it may be unused before it is frozen, where it can be; `None`: for ever.
    pub(super) fn freeze_after(&self) -> Option<HumanDuration> {
        let spec = self.template.as_ref().map(|template| template.sleep);
        let own = self.record.spec.freeze_after;
        let policy = &self.context.config.sleep;
        policy.freeze_after(own, spec.unwrap_or_default())
    }

    /// Whether its processes are ours, and the keeper can freeze them.
    pub(super) fn can_freeze(&self) -> bool {
        !self.is_remote() && self.context.runtime.state().borrow().freezes()
    }

    /// Freezes it, unless somebody uses it after all.
    pub(super) async fn freeze(&mut self, tiers: Tiers) {
        let Some(child) = &self.child else { return };
        // An unanswered probe would count against it; its answer has this looked at again.
        if self.probing.is_some() {
            return self.timers.disarm(Timer::Sleep);
        }
        let (workload, generation) = (child.workload.clone(), child.generation);
        // From here on a request finds it frozen and waits; one that was let in before is counted.
        self.route.uses.take_wanted();
        let awake = self.route_state.send_replace(RouteState::Frozen {
            upstream: Arc::clone(&child.upstream),
            generation,
        });
        if sleep::rest(tiers, false, &self.activity()) != Rest::Freeze {
            self.route_state.send_replace(awake);
            return self.look_again_in(LOOK_AGAIN);
        }
        if let Err(error) = workload.freeze().await {
            tracing::debug!(instance = %self.record.id, %generation, %error, "it could not be frozen");
            self.route_state.send_replace(awake);
            // Not before it would have been looked at first: what holds it up may last.
            let waits = tiers.freeze_after.into_iter().chain(tiers.sleep_after);
            return self.look_again_in(waits.min().unwrap_or(LOOK_AGAIN).max(LOOK_AGAIN));
        }
        self.hold_still().await;
        let may = self.context.config.sleep.reclaim_frozen;
        if may
            && self.context.runtime.state().borrow().reclaims()
            && let Err(error) = workload.reclaim().await
        {
            tracing::debug!(instance = %self.record.id, %generation, %error, "its memory stays");
        }
    }

    /// Its processes hold still now.
    async fn hold_still(&mut self) {
        let generation = self.life.generation;
        for timer in [Timer::Probe, Timer::Learn] {
            self.timers.disarm(timer);
        }
        self.apply(Event::Frozen(generation)).await;
        self.look_again_in(LOOK_AGAIN);
    }

    /// Its processes held still as a former daemon left it, and do so still.
    pub(super) async fn go_on_frozen(&mut self) {
        self.hold_still().await;
        // Until now it looked as if it could answer.
        if self.activity().is_busy() {
            self.thaw("it is in use").await;
        }
    }

    /// Lets its processes go on, if they hold still.
    pub(super) async fn thaw(&mut self, cause: &str) {
        let Some(child) = self.child.as_ref().filter(|_| self.life.frozen) else {
            return;
        };
        let began = Instant::now();
        let (workload, generation) = (child.workload.clone(), child.generation);
        match workload.thaw().await {
            Ok(()) => {
                self.note("thawed", cause.to_owned());
                self.route.uses.touch();
                self.apply(Event::Thawed(generation)).await;
                self.context.thaw_times.observe(began.elapsed());
                self.arm_probe();
                self.look_again_in(LOOK_AGAIN);
            }
            // Its end is on its way.
            Err(RuntimeError::Lost) => {}
            Err(error) => {
                let cause = format!("it cannot be thawed: {error}");
                self.apply(Event::Broken(generation, cause)).await;
            }
        }
    }
}
