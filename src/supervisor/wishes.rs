//! Verbs that change more than the lifecycle: the lease, the name, the end of it all.

use std::sync::Arc;

use super::{
    InstanceStatus, ServerFacts, SupervisorError,
    actor::Actor,
    command::Verb,
    context::listener_name,
    folders,
    route::{AccessEvent, RouteState},
    seen::Published,
    status::{FROZEN, stop_reason_text},
    timers::Timer,
};
use crate::{
    domain::{
        UnixMs,
        duration::HumanDuration,
        event::Event,
        instance::{InstanceChange, Lease},
        reconcile::Difference,
        state::{DesiredState, InstanceState, StatusWord, StopReason},
        violation::Violation,
    },
    store::StoreError,
};

impl Actor {
    pub(super) async fn extend(
        &mut self,
        ttl: Option<HumanDuration>,
    ) -> Result<(), SupervisorError> {
        let lease = self.new_lease(ttl)?;
        let before = std::mem::replace(&mut self.record.lease, lease);
        self.note("extended", lease_text(&lease));
        if let Err(error) = self.try_save().await {
            self.record.lease = before;
            self.unsaved_events.pop();
            return Err(error.into());
        }
        self.arm_lease();
        self.publish();
        Ok(())
    }

    pub(super) async fn restore(
        &mut self,
        ttl: Option<HumanDuration>,
    ) -> Result<(), SupervisorError> {
        let lease = self.new_lease(ttl)?;
        let before = std::mem::replace(&mut self.record.lease, lease);
        self.note("restored", lease_text(&lease));
        if let Err(error) = self.apply_acknowledged(Event::Restore).await {
            self.record.lease = before;
            self.unsaved_events.pop();
            return Err(error);
        }
        self.arm_lease();
        Ok(())
    }

    /// A lease from now on; without a TTL the one last asked for, then the template's.
    fn new_lease(&self, ttl: Option<HumanDuration>) -> Result<Lease, SupervisorError> {
        let default = self
            .template
            .as_ref()
            .and_then(|template| template.lease.ttl_default);
        let ttl = ttl.or(self.record.lease.ttl()).or(default);
        if let (Some(ttl), Some(template)) = (ttl, &self.template)
            && ttl > template.lease.ttl_max
        {
            let message = format!(
                "the time to live is at most {} for this template",
                template.lease.ttl_max
            );
            return Err(SupervisorError::Invalid(vec![Violation::new(
                "/ttl",
                "out-of-range",
                message,
            )]));
        }
        Ok(Lease::granted(ttl, self.context.clock.now()))
    }

    pub(super) async fn patch(&mut self, change: InstanceChange) -> Result<(), SupervisorError> {
        let renamed = change.name.clone().filter(|name| *name != self.record.name);
        let registry = &self.context.registry;
        if let Some(name) = &renamed
            && !registry.reserve_name(&self.record.owner, name, self.record.id)
        {
            return Err(SupervisorError::NameTaken(name.to_string()));
        }
        let now = self.context.clock.now();
        let store = &self.context.store;
        if let Err(error) = store.change_instance(self.record.id, &change, now).await {
            if let Some(name) = &renamed {
                registry.release_name(&self.record.owner, name, self.record.id);
            }
            return Err(match (error, change.name) {
                (StoreError::Conflict(_), Some(name)) => {
                    SupervisorError::NameTaken(name.to_string())
                }
                (other, _) => other.into(),
            });
        }
        if let Some(name) = renamed {
            registry.release_name(&self.record.owner, &self.record.name, self.record.id);
            self.record.name = name;
            self.route.slug.store(Arc::new(self.record.slug()));
        }
        if let Some(labels) = change.labels {
            self.record.spec.labels = labels;
        }
        if let Some(sleep_after) = change.sleep_after {
            self.record.spec.sleep_after = sleep_after;
        }
        if let Some(freeze_after) = change.freeze_after {
            self.record.spec.freeze_after = freeze_after;
        }
        if change.sleep_after.is_some() || change.freeze_after.is_some() {
            self.sleep_otherwise();
        }
        self.record.updated_at = now;
        self.publish();
        Ok(())
    }

    pub(super) fn warn_of_expiry(&mut self, now: UnixMs) {
        if self.record.lease.warned || self.record.lease.is_over(now) {
            return;
        }
        let before = self.warn_before();
        if let Some(due) = self.record.lease.warn_at(before)
            && due > now
        {
            let again = self.context.clock.next_look(due);
            return self.timers.arm(Timer::LeaseWarning, again);
        }
        if let Some(at) = self.record.lease.expires_at {
            self.record.lease.warned = true;
            let left_secs = u64::try_from(at - now).unwrap_or(0).div_ceil(1_000);
            let left = HumanDuration::from_secs(left_secs);
            self.note("lease-warning", format!("its lease runs out in {left}"));
        }
    }

    fn warn_before(&self) -> HumanDuration {
        let template = self.template.as_ref();
        template.map_or_else(HumanDuration::default, |t| t.lease.warn_before)
    }

    pub(super) async fn expire(&mut self) {
        let window = self
            .template
            .as_ref()
            .map(|template| template.lease.restore_window);
        self.record.lease.expire(window.unwrap_or_default());
        self.apply(Event::Stop(StopReason::Expired)).await;
        self.arm_lease();
    }

    /// Sets the lease's timers as the record says.
    pub(super) fn arm_lease(&mut self) {
        for timer in [Timer::LeaseWarning, Timer::LeaseEnd, Timer::Purge] {
            self.timers.disarm(timer);
        }
        let clock = self.context.clock;
        let lease = self.record.lease;
        if let Some(until) = lease.restore_until {
            self.timers.arm(Timer::Purge, clock.next_look(until));
            return;
        }
        let Some(end) = lease.expires_at else { return };
        self.timers.arm(Timer::LeaseEnd, clock.next_look(end));
        if let Some(at) = lease.warn_at(self.warn_before()) {
            self.timers.arm(Timer::LeaseWarning, clock.next_look(at));
        }
    }

    /// Somebody wrote another wish into the record than the one written last. It is obeyed where it can be, else the
    /// record is written again.
    pub(super) async fn follow_record(&mut self, desired: DesiredState) {
        // What is not written yet is newer than the record.
        if self.dirty || self.life.desired == desired {
            return;
        }
        let sentence = Difference::WishNotObeyed(self.record.id, desired).sentence();
        match desired {
            DesiredState::Stopped => {
                self.note("reconciled", sentence);
                self.apply(Event::Stop(StopReason::Requested)).await;
            }
            DesiredState::Running if self.check_state(&Verb::Start).is_ok() => {
                self.note("reconciled", sentence);
                self.apply(Event::Start).await;
            }
            DesiredState::Running => self.dirty = true,
        }
    }

    /// Once it is down for deletion: gives back the port, the folder, the row. `true`: it is gone.
    pub(super) async fn finish_deletion(&mut self) -> bool {
        let gone = InstanceState::Stopped {
            reason: StopReason::Deleted,
        };
        if self.life.state != gone
            || !self.members_are_gone()
            || (self.save_failures > 0 && !self.retry_due)
        {
            return false;
        }
        self.retry_due = false;
        let context = Arc::clone(&self.context);
        let id = self.record.id;
        let now = context.clock.now();
        let rest_ms =
            i64::try_from(context.config.runtime.port_quarantine.ms()).unwrap_or(i64::MAX);
        let quarantine_until = now.saturating_add(rest_ms);
        let folder = folders::instance_dir(&context, id);
        folders::set_aside(&folder);
        if let Err(error) = context
            .store
            .delete_instance(id, quarantine_until, now)
            .await
            && !matches!(error, StoreError::NotFound)
        {
            tracing::warn!(instance = %id, %error, "the record could not be deleted; it will be tried again");
            self.save_failures = self.save_failures.saturating_add(1);
            let wait = std::time::Duration::from_millis(250 << self.save_failures.min(6));
            self.timers
                .arm(Timer::PersistAgain, tokio::time::Instant::now() + wait);
            return false;
        }
        context.logs.forget(self.record.key);
        self.route_state.send_replace(RouteState::Gone);
        // A full inbox only delays the end of the listener; the gateway also sees `Gone`.
        let _ = context.access.send(AccessEvent::Close { id }).await;
        context
            .registry
            .release_name(&self.record.owner, &self.record.name, id);
        // Before the keeper lets go of the listener: else a keeper that comes just now would be given it again.
        let leaving = context.registry.remove_last(id);
        if let Err(error) = context.runtime.drop_held(&listener_name(id)).await {
            tracing::debug!(instance = %id, %error, "the keeper did not drop the listener");
        }
        if let Some(port) = self.record.port {
            let mut pool = context
                .ports
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            pool.release(port, id, quarantine_until);
        }
        folders::remove(&folder).await;
        drop(leaving);
        let status: Arc<Published> = Arc::new(self.current_status().into());
        self.note("deleted", "it is gone; its port rests".to_owned());
        self.tell_last_words().await;
        for reply in self.delete_replies.drain(..) {
            let _ = reply.send(Ok(Arc::clone(&status)));
        }
        true
    }

    /// The status as it is now.
    pub(super) fn current_status(&self) -> InstanceStatus {
        let word = self.life.word();
        let server = self
            .child
            .as_ref()
            .and_then(|child| child.upstream.handshake_snapshot())
            .map(|h| ServerFacts {
                name: h.server_name.clone(),
                version: h.server_version.clone(),
                protocol_version: h.protocol_version.clone(),
                tools: h.tools.clone(),
            });
        let mut record = self.record.clone();
        record.desired = self.life.desired;
        record.state = self.life.state.clone();
        record.generation = self.life.generation;
        record.restart_row = self.life.restart_row;
        record.restarts = self.life.restarts;
        InstanceStatus {
            word,
            since: self.since,
            reason: self.reason(word),
            next_action_at: self.next_action_at(),
            health: self.life.health,
            pid: self
                .child
                .as_ref()
                .map(|child| child.workload.pid())
                .filter(|pid| *pid > 0),
            remote: self.remote_url(),
            isolation: self
                .child
                .as_ref()
                .map(|child| child.workload.isolation().clone())
                .unwrap_or_default(),
            limits: self
                .template
                .as_ref()
                .map(|template| template.limits)
                .unwrap_or_default(),
            freeze_after: self.freeze_after(),
            sleep_after: self.sleep_after(),
            access_url: self.context.access_url(self.record.port),
            path_url: self.context.path_url(&self.record.slug()),
            server,
            record,
        }
    }

    fn reason(&self, word: StatusWord) -> Option<String> {
        match &self.life.state {
            InstanceState::Failed { cause } => Some(cause.clone()),
            InstanceState::Stopping { reason, .. } | InstanceState::Stopped { reason } => {
                Some(stop_reason_text(*reason).to_owned())
            }
            InstanceState::Starting if self.child.is_none() => {
                Some("it waits for its turn to be launched".to_owned())
            }
            InstanceState::Starting => Some("the MCP handshake is not done yet".to_owned()),
            InstanceState::BackingOff { .. } => self
                .record
                .last_exit
                .as_ref()
                .map(|exit| format!("it {}", exit.status)),
            InstanceState::Running if word == StatusWord::Unhealthy => self
                .life
                .broken()
                .map(ToOwned::to_owned)
                .or_else(|| Some("its probes go unanswered".to_owned())),
            InstanceState::Running if word == StatusWord::Frozen => Some(FROZEN.to_owned()),
            InstanceState::Running | InstanceState::Pending => None,
        }
    }

    fn next_action_at(&self) -> Option<UnixMs> {
        match &self.life.state {
            InstanceState::BackingOff { until } => Some(*until),
            InstanceState::Stopped {
                reason: StopReason::Expired,
            } => self.record.lease.restore_until,
            InstanceState::Running | InstanceState::Starting => self.record.lease.expires_at,
            _ => None,
        }
    }
}

fn lease_text(lease: &Lease) -> String {
    match lease.ttl() {
        Some(ttl) => format!("its lease runs for {ttl} from now on"),
        None => "its lease has no end".to_owned(),
    }
}
