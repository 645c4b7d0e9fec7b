//! Sleep that ends when it was said to: by a timer of the kernel, which is late by some tens of microseconds. Those of
//! tokio are late by up to two milliseconds.

use std::{io, time::Duration};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::time::{Instant, sleep_until};

use super::keeper_client::watched;

/// By how much a timer of tokio may be late, whose wheel and whose epoll_wait(2) count milliseconds.
const ROUNDED: Duration = Duration::from_millis(2);

/// Sleeps until `at`, never shorter. For what is promised to the millisecond, since it costs a descriptor and four system
/// calls at its end. Not for paused time, which it does not know.
pub async fn sleep_exactly_until(at: Instant) {
    sleep_until(at.checked_sub(ROUNDED).unwrap_or(at)).await;
    // On the heap: who sleeps for days should not keep room for it. Without a descriptor it is merely late.
    let _ = Box::pin(exactly(at)).await;
    if Instant::now() < at {
        sleep_until(at).await;
    }
}

/// timerfd_create(2).
async fn exactly(at: Instant) -> io::Result<()> {
    let left = at.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(());
    }
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
    let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
    timer.set(expiration, TimerSetTimeFlags::empty())?;
    watched(timer.into())?.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_never_too_short() {
        for us in [0, 300, 1_999, 2_700, 5_000] {
            let at = Instant::now() + Duration::from_micros(us);
            sleep_exactly_until(at).await;
            assert!(Instant::now() >= at);
        }
    }
}
