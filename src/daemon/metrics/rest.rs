//! How instances rest, and how they wake.

use super::sample;
use crate::{
    api::{Sample, SampleKind},
    supervisor::Supervisor,
};

pub(super) fn samples(supervisor: &Supervisor) -> Vec<Sample> {
    let (wakes, wake_times) = supervisor.wakes();
    vec![
        sample(
            "wakes",
            "Sleeping instances that a request woke",
            SampleKind::Counter,
            wakes,
        ),
        Sample::histogram(
            "wake_duration_seconds",
            "Time from the request that wakes an instance until its server had shaken hands",
            wake_times,
        ),
        Sample::histogram(
            "thaw_duration_seconds",
            "Time from the request that wakes a frozen instance until its processes went on",
            supervisor.thaw_times(),
        ),
        sample(
            "memory_pressure_sleeps",
            "Instances that slept early because memory was short",
            SampleKind::Counter,
            supervisor.pressed_to_sleep(),
        ),
    ]
}
