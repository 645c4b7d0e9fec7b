//! From what the supervisor and the store know to what the wire shows. Pure.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{clock::Clock, domain::UnixMs, supervisor::InstanceEvent, wire};

/// A time as RFC 3339 in UTC. Times outside the years -9999 to 9999 cannot be written and show the epoch.
#[must_use]
pub fn time(ms: UnixMs) -> String {
    Time(ms).to_string()
}

/// A time that is written as [`time`] does.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub UnixMs);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Timestamp::from_millisecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH);
        // Always three digits, so that texts of one length sort as the times do.
        write!(f, "{at:.3}")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Now, in unix milliseconds.
#[must_use]
pub fn now_ms() -> UnixMs {
    Clock::System.now()
}

/// One event.
#[must_use]
pub fn event(event: &InstanceEvent) -> wire::InstanceEvent {
    wire::InstanceEvent {
        id: event.id,
        instance: event.instance.to_string(),
        generation: event.generation.0,
        at: time(event.at),
        kind: event.kind.clone(),
        message: event.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_795_253_777_123), "2026-11-21T09:36:17.123Z");
        assert_eq!(time(UnixMs::MAX), "1970-01-01T00:00:00.000Z");
    }
}
