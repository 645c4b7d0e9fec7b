//! What the service manager hears: readiness, watchdog, another program (sd_notify(3), systemd.service(5)).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;

/// Tells that the daemon serves, and from now on that it lives, as often as the unit's watchdog wants.
pub(super) fn ready() -> JoinHandle<()> {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
    let every = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    tokio::spawn(async move {
        let Some(every) = every.filter(|every| *every > Duration::ZERO) else {
            return;
        };
        let mut beat = tokio::time::interval(every);
        loop {
            beat.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    })
}

/// Tells that the start takes longer, by so much at most: the wait for a database must not be taken for a hang.
pub(super) fn still_starting(longer: Duration, why: &str) {
    let usec = u32::try_from(longer.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::ExtendTimeoutUsec(usec),
        NotifyState::Status(why),
    ]);
}

/// Tells that the stop takes so long at most from now on, and what it waits for.
pub(super) fn still_stopping(longer: Duration, why: &str) {
    still_starting(longer, why);
}

/// Tells that the orderly stop begins.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells that another program goes on in this process.
pub(super) fn reloading() {
    tell(&[NotifyState::Reloading]);
}

fn tell(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
