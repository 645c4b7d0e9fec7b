//! Liveness: when probes are due, and how answers to them become a verdict.

use super::{UnixMs, duration::HumanDuration, state::Health};

/// Counts failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProbeTracker {
    failures_in_row: u32,
}

impl ProbeTracker {
    /// Takes in one probe's outcome; answers the verdict it leads to. One success heals; with a
    /// threshold of 0 one failure is enough, as with 1.
    pub fn note(&mut self, answered: bool, failure_threshold: u32) -> Health {
        if answered {
            self.failures_in_row = 0;
            return Health::Healthy;
        }
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        if self.failures_in_row >= failure_threshold {
            Health::Unhealthy
        } else {
            Health::Healthy
        }
    }
}

/// How long after a probe's end the next one is due: `interval`, spread by a tenth of it by `jitter` (any number), so
/// that a thousand instances do not answer in step.
#[must_use]
pub fn wait(interval: HumanDuration, jitter: u16) -> HumanDuration {
    let interval_ms = interval.ms();
    let spread_ms = u128::from(interval_ms / 10) * u128::from(jitter) / u128::from(u16::MAX);
    // At most a tenth of what was a u64.
    let spread_ms = u64::try_from(spread_ms).unwrap_or(u64::MAX);
    HumanDuration::from_ms((interval_ms - interval_ms / 20).saturating_add(spread_ms))
}

/// The moments at which probes begin: so many in an interval.
const MOMENTS: u64 = 100;

/// [`wait`], put off to the next of the moments that all instances with this interval share: a processor that sleeps is woken
/// for several probes instead of for each.
#[must_use]
pub fn wait_for_moment(now: UnixMs, interval: HumanDuration, jitter: u16) -> HumanDuration {
    let apart_ms = (interval.ms() / MOMENTS).max(1);
    let wait_ms = wait(interval, jitter).ms();
    // By a clock that stands before 1970, moments are counted from now.
    let due_ms = u64::try_from(now).unwrap_or(0).saturating_add(wait_ms);
    let moment_ms = due_ms.checked_next_multiple_of(apart_ms);
    let put_off_ms = moment_ms.unwrap_or(due_ms) - due_ms;
    HumanDuration::from_ms(wait_ms.saturating_add(put_off_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        event::{Effect, Event},
        exit::ExitStatus,
        id::Generation,
        lifecycle::Lifecycle,
        policy::Policy,
        state::{InstanceState, StatusWord},
    };

    /// The last answers, newest last, were all failures; there are so many of them.
    fn failures_at_end(answers: &[bool]) -> usize {
        answers
            .iter()
            .rev()
            .take_while(|answered| !**answered)
            .count()
    }

    proptest! {
        /// Never before the threshold, always from it on, and one success begins anew: the tracker against the whole
        /// list of answers.
        #[test]
        fn it_is_unhealthy_exactly_when_the_last_answers_all_failed(
            answers in prop::collection::vec(prop::bool::weighted(0.3), 0..60),
            threshold in 0_u32..6,
        ) {
            let mut tracker = ProbeTracker::default();
            for end in 1..=answers.len() {
                let verdict = tracker.note(answers[end - 1], threshold);
                let in_row = failures_at_end(&answers[..end]);
                let expected = in_row >= threshold.max(1) as usize;
                prop_assert_eq!(verdict == Health::Unhealthy, expected, "{:?}", &answers[..end]);
                prop_assert_ne!(verdict, Health::Unknown);
            }
        }

        /// A template that is read again may have another threshold: it counts from the next answer on, with all that
        /// was counted.
        #[test]
        fn another_threshold_judges_the_same_row(
            failures in 1_u32..9, first in 1_u32..9, then in 1_u32..9,
        ) {
            let mut tracker = ProbeTracker::default();
            for _ in 1..failures {
                tracker.note(false, first);
            }
            let verdict = tracker.note(false, then);
            prop_assert_eq!(verdict == Health::Unhealthy, failures >= then);
            prop_assert_eq!(tracker.note(true, then), Health::Healthy);
            prop_assert_eq!(tracker.note(false, then) == Health::Unhealthy, then == 1);
        }

        /// Probes neither pile up nor stop, and more jitter never means sooner.
        #[test]
        fn the_wait_stays_within_a_twentieth_of_the_interval(
            interval_ms in prop_oneof![0..u64::MAX, 0..100_000_u64], jitter: u16, more: u16,
        ) {
            let wait_ms = |jitter| wait(HumanDuration::from_ms(interval_ms), jitter).ms();
            let waits = wait_ms(jitter);
            prop_assert!(waits >= interval_ms - interval_ms / 20, "{} of {}", waits, interval_ms);
            prop_assert!(waits <= interval_ms.saturating_add(interval_ms / 20 + 1), "{} of {}", waits, interval_ms);
            prop_assert!(wait_ms(jitter.saturating_add(more)) >= waits);
            prop_assert_eq!(waits == 0, interval_ms == 0);
        }

        /// What begins is put off by less than the moments are apart, and begins at one of them.
        #[test]
        fn probes_begin_at_moments_that_all_share(
            interval_ms in prop_oneof![0..u64::MAX, 0..100_000_u64], jitter: u16,
            now in prop_oneof![any::<i64>(), 1_700_000_000_000..1_800_000_000_000_i64],
        ) {
            let interval = HumanDuration::from_ms(interval_ms);
            let (waits, plain) = (wait_for_moment(now, interval, jitter).ms(), wait(interval, jitter).ms());
            let apart_ms = (interval_ms / 100).max(1);
            prop_assert!(waits >= plain && waits - plain < apart_ms, "{} for {}", waits, plain);
            if let Some(due_ms) = u64::try_from(now).ok().and_then(|now| now.checked_add(waits)) {
                prop_assert!(due_ms % apart_ms == 0 || due_ms > u64::MAX - apart_ms, "{}", due_ms);
            }
        }

        /// With the lifecycle, as the actor joins them: a child is given up by its probes only after so many failures
        /// in a row since it was ready, and then at once; nothing that comes before the handshake or from a former
        /// child counts.
        #[test]
        fn a_child_is_given_up_after_so_many_failures_since_it_was_ready(
            steps in prop::collection::vec((0_u8..8, prop::bool::weighted(0.4)), 1..120),
        ) {
            let policy = Policy::default();
            let threshold = policy.health.failure_threshold;
            let mut life = Lifecycle::new(policy);
            let mut tracker = ProbeTracker::default();
            let (mut alive, mut given_up, mut since_ready) = (false, false, Vec::new());
            life.step(Event::Start, 0, 0);
            for (now, (kind, answered)) in steps.into_iter().enumerate() {
                let now = i64::try_from(now).expect("few steps") * 600_000;
                let generation = life.generation;
                match (kind, &life.state) {
                    (0, InstanceState::Starting) if !alive => {
                        life.step(Event::Launched(generation), now, 0);
                        (alive, tracker) = (true, ProbeTracker::default());
                    }
                    (1, InstanceState::Starting) if alive => {
                        since_ready.clear();
                        life.step(Event::Ready(generation), now, 0);
                        prop_assert_eq!(life.word(), StatusWord::Running);
                    }
                    (2, _) if alive => {
                        life.step(Event::Exited(generation, ExitStatus::Exited { code: 1 }), now, 0);
                        (alive, given_up) = (false, false);
                    }
                    (3, _) => {
                        let former = Generation(generation.0.saturating_sub(1));
                        let effects = life.step(Event::Health(former, Health::Unhealthy), now, 0);
                        prop_assert!(effects.is_empty(), "{:?}", effects);
                    }
                    (_, InstanceState::Running) => {
                        since_ready.push(answered);
                        let verdict = tracker.note(answered, threshold);
                        let effects = life.step(Event::Health(generation, verdict), now, 0);
                        let killed = effects.contains(&Effect::KillTree(generation));
                        let due = failures_at_end(&since_ready) >= threshold as usize;
                        prop_assert_eq!(killed, due && !given_up, "{:?}", &since_ready);
                        given_up |= killed;
                        prop_assert_eq!(life.word() == StatusWord::Unhealthy, due);
                    }
                    (_, InstanceState::Starting) => {
                        let effects = life.step(Event::Health(generation, Health::Unhealthy), now, 0);
                        prop_assert!(effects.is_empty(), "judged before the handshake: {:?}", effects);
                    }
                    _ => {
                        life.step(Event::Start, now, 0);
                    }
                }
            }
        }
    }
}
