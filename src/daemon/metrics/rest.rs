//! How instances rest, how they wake, and what of them owners have.

use std::cmp::Reverse;

use super::sample;
use crate::{
    api::{Sample, SampleKind},
    supervisor::{OwnerUse, Supervisor},
};

/// Owners that are told apart, those with the most instances; the rest is one.
const OWNERS_TOLD: usize = 50;

/// How the rest is called: no owner can have this name.
const OTHERS: &str = "(others)";

fn of_owners(supervisor: &Supervisor) -> Vec<Sample> {
    let mut owners = supervisor.owners();
    owners.sort_by_key(|one| Reverse(one.instances));
    let others = owners.split_off(owners.len().min(OWNERS_TOLD));
    let mut told: Vec<(String, [u64; 3])> = Vec::new();
    let numbers = |one: &OwnerUse| {
        let bytes = one.memory_bytes.unwrap_or(0);
        [one.instances as u64, one.awake as u64, bytes]
    };
    told.extend(
        owners
            .iter()
            .map(|one| (one.owner.to_string(), numbers(one))),
    );
    if !others.is_empty() {
        let sum = others.iter().map(numbers).fold([0; 3], |sum, one| {
            [sum[0] + one[0], sum[1] + one[1], sum[2] + one[2]]
        });
        told.push((OTHERS.to_owned(), sum));
    }
    let metrics = [
        (
            "owner_instances",
            "Instances of an owner that are not deleted",
        ),
        (
            "owner_awake_instances",
            "Instances of an owner that are awake",
        ),
        (
            "owner_memory_bytes",
            "Resident memory of an owner's instances that are awake, where it is measured for a budget or a floor",
        ),
    ];
    let of_one = |(at, (name, help)): (usize, (&'static str, &'static str))| {
        let samples = told.iter().map(move |(owner, numbers)| {
            sample(name, help, SampleKind::Gauge, numbers[at]).with("owner", owner.clone())
        });
        samples.collect::<Vec<_>>()
    };
    metrics.into_iter().enumerate().flat_map(of_one).collect()
}

pub(super) fn samples(supervisor: &Supervisor) -> Vec<Sample> {
    let mut samples = of_resting(supervisor);
    samples.extend(of_owners(supervisor));
    samples
}

fn of_resting(supervisor: &Supervisor) -> Vec<Sample> {
    let (wakes, wake_times) = supervisor.wakes();
    let (spares, spare_uses) = supervisor.warm_spares();
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
            "warm_spares",
            "Children that were started ahead and wait for an instance",
            SampleKind::Gauge,
            spares as u64,
        ),
        sample(
            "warm_spare_uses",
            "Instances whose first launch took a child that was started ahead",
            SampleKind::Counter,
            spare_uses,
        ),
        sample(
            "frozen_reclaimed_bytes",
            "Memory of frozen instances that was taken back from them",
            SampleKind::Counter,
            supervisor.reclaimed_bytes(),
        ),
        sample(
            "memory_pressure_sleeps",
            "Instances that slept early because memory was short",
            SampleKind::Counter,
            supervisor.pressed_to_sleep(),
        ),
        sample(
            "owner_budget_sleeps",
            "Instances that slept early because another of their owner's was wanted",
            SampleKind::Counter,
            supervisor.gave_way(),
        ),
    ]
}
