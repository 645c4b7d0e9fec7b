//! When an instance that nobody uses falls asleep: it is stopped, and the next request wakes it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use serde_json::Value;

use super::{duration::HumanDuration, lease::read_duration, violation::Violation};

/// What a template says of sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SleepSpec {
    /// How long nobody uses an instance before it is stopped; the next request starts it again, and waits. `"0s"`: its
    /// server works on while nobody calls, so it never is. Absent: as `sleep.after_default` of the configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<HumanDuration>,
    /// How long nobody uses an instance before its processes hold still, with all that they have in memory, where the
    /// keeper has the cgroup freezer; the next request lets them go on. `"0s"`: never. Absent: as
    /// `sleep.freeze_after_default` of the configuration says. Not before `after`, it is without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_after: Option<HumanDuration>,
}

/// What the operator says of sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SleepPolicy {
    /// For templates that say nothing; absent: they never sleep.
    pub after_default: Option<HumanDuration>,
    /// The longest that any instance may be kept running unused, whatever its template says; absent: no bound.
    pub after_max: Option<HumanDuration>,
    /// When instances of templates that say nothing of it are frozen; absent: never.
    pub freeze_after_default: Option<HumanDuration>,
    /// The longest that any instance may keep a processor busy unused, whatever its template says; absent: no bound.
    pub freeze_after_max: Option<HumanDuration>,
    /// Whether the memory of frozen instances is taken back, where the keeper can.
    pub reclaim_frozen: bool,
    /// From how much pressure on memory on those that may sleep at all sleep earlier, least used first: percent of the
    /// last ten seconds in which some task waited for memory, 0 to 100; absent: never.
    pub memory_pressure: Option<u8>,
    /// Below how many bytes of available memory on (`MemAvailable`) they do so as well; absent: at none.
    pub memory_floor_bytes: Option<u64>,
}

impl Default for SleepPolicy {
    fn default() -> Self {
        Self {
            after_default: None,
            after_max: None,
            freeze_after_default: None,
            freeze_after_max: None,
            reclaim_frozen: true,
            memory_pressure: None,
            memory_floor_bytes: None,
        }
    }
}

impl SleepPolicy {
    /// How long an instance may be unused that has this wish of its `own`, or none, and a template that says so, before
    /// it is stopped; `None`: for ever.
    #[must_use]
    pub fn after(&self, own: Option<HumanDuration>, spec: SleepSpec) -> Option<HumanDuration> {
        bounded(own.or(spec.after).or(self.after_default), self.after_max)
    }

    /// The same before it is frozen.
    #[must_use]
    pub fn freeze_after(
        &self,
        own: Option<HumanDuration>,
        spec: SleepSpec,
    ) -> Option<HumanDuration> {
        let wanted = own.or(spec.freeze_after).or(self.freeze_after_default);
        bounded(wanted, self.freeze_after_max)
    }

    /// Reads how long an instance may be unused before it rests like this, as a request gives it: seconds or a text, zero
    /// for ever.
    ///
    /// # Errors
    /// A [`Violation`] at the member of that name when it is no duration, or longer than the operator allows.
    pub fn read(&self, tier: Tier, value: &Value) -> Result<HumanDuration, Violation> {
        let (name, key, most) = match tier {
            Tier::Sleep => ("sleep_after", "sleep.after_max", self.after_max),
            Tier::Freeze => (
                "freeze_after",
                "sleep.freeze_after_max",
                self.freeze_after_max,
            ),
        };
        let pointer = format!("/{name}");
        let wanted = read_duration(value)
            .map_err(|message| Violation::new(&pointer, "invalid-duration", message))?;
        match most {
            Some(most) if wanted.ms() == 0 || wanted > most => {
                let message = format!(
                    "{name} may be {most} at most here ({key}), and not 0s, which is for ever"
                );
                Err(Violation::new(&pointer, "out-of-range", message))
            }
            _ => Ok(wanted),
        }
    }
}

/// How deeply an instance rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Its processes hold still.
    Freeze,
    /// It is stopped.
    Sleep,
}

fn bounded(wanted: Option<HumanDuration>, most: Option<HumanDuration>) -> Option<HumanDuration> {
    let wanted = wanted.filter(|after| after.ms() > 0);
    match (wanted, most) {
        (Some(wanted), Some(most)) => Some(wanted.min(most)),
        (wanted, most) => wanted.or(most),
    }
}

/// How an instance is used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// Requests that are being answered, streams that its server serves itself, and calls under way; probes are none.
    pub under_way: u64,
    /// Children of client sessions: what they keep would be lost.
    pub session_children: usize,
    /// Some client waits for news of a resource, which nobody else could tell.
    pub is_subscribed: bool,
    /// How long ago it was last used, or launched.
    pub unused_for: Duration,
}

impl Activity {
    /// Whether somebody uses it at this moment.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.under_way > 0 || self.session_children > 0 || self.is_subscribed
    }
}

/// How long nobody may have used an instance before it rests, and how deeply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tiers {
    /// Before its processes hold still; `None`: they never do.
    pub freeze_after: Option<Duration>,
    /// Before it is stopped; `None`: it never is.
    pub sleep_after: Option<Duration>,
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Its processes may hold still.
    Freeze,
    /// It may be stopped.
    Sleep,
    /// Not now: look again after this time, which is never zero.
    LookAgain(Duration),
    /// There is nothing to come.
    Never,
}

/// How deeply an instance may rest now. One that is busy was used now. What may be stopped is not frozen first.
#[must_use]
pub fn rest(tiers: Tiers, is_frozen: bool, activity: &Activity) -> Rest {
    let is_busy = activity.is_busy();
    let unused_for = match is_busy {
        true => Duration::ZERO,
        false => activity.unused_for,
    };
    let left = |after: Option<Duration>| after.map(|after| after.saturating_sub(unused_for));
    let to_sleep = left(tiers.sleep_after);
    let to_freeze = left(tiers.freeze_after.filter(|_| !is_frozen));
    match (to_sleep, to_freeze) {
        (Some(Duration::ZERO), _) if !is_busy => Rest::Sleep,
        (_, Some(Duration::ZERO)) if !is_busy => Rest::Freeze,
        (sleep, freeze) => match sleep.into_iter().chain(freeze).min() {
            Some(left) => Rest::LookAgain(left.max(Duration::from_millis(1))),
            None => Rest::Never,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> HumanDuration {
        HumanDuration::from_ms(ms)
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let after = |spec, default, most| {
            let policy = SleepPolicy {
                after_default: default,
                after_max: most,
                ..SleepPolicy::default()
            };
            let freezing = SleepPolicy {
                freeze_after_default: default,
                freeze_after_max: most,
                ..SleepPolicy::default()
            };
            let spec = SleepSpec {
                after: spec,
                freeze_after: spec,
            };
            let after = policy.after(None, spec);
            assert_eq!(freezing.freeze_after(None, spec), after);
            after
        };
        let std = |of| Some(ms(of));
        assert_eq!(after(None, None, None), None);
        assert_eq!(after(None, Some(ms(5)), None), std(5));
        assert_eq!(after(Some(ms(9)), Some(ms(5)), None), std(9));
        assert_eq!(after(Some(ms(9)), None, Some(ms(7))), std(7));
        assert_eq!(after(Some(ms(6)), None, Some(ms(7))), std(6));
        // A template that never wants to sleep is bounded by the ceiling, and by nothing else.
        assert_eq!(after(Some(ms(0)), Some(ms(5)), None), None);
        assert_eq!(after(Some(ms(0)), None, Some(ms(7))), std(7));
        assert_eq!(after(None, None, Some(ms(7))), std(7));
    }

    #[test]
    fn an_instance_has_a_wish_of_its_own_within_the_bound() {
        let spec = SleepSpec {
            after: Some(ms(9)),
            freeze_after: None,
        };
        let policy = |most| SleepPolicy {
            after_default: Some(ms(5)),
            after_max: most,
            ..SleepPolicy::default()
        };
        assert_eq!(policy(None).after(Some(ms(3)), spec), Some(ms(3)));
        assert_eq!(policy(None).after(Some(ms(0)), spec), None);
        assert_eq!(policy(Some(ms(7))).after(Some(ms(0)), spec), Some(ms(7)));
        assert_eq!(policy(Some(ms(7))).after(Some(ms(8)), spec), Some(ms(7)));
        let read = |most, value: Value| {
            let read = policy(most).read(Tier::Sleep, &value);
            read.map_err(|violation| violation.code)
        };
        let secs = |secs| Some(HumanDuration::from_secs(secs));
        assert_eq!(read(None, "15m".into()), Ok(HumanDuration::from_secs(900)));
        assert_eq!(read(None, 90.into()), Ok(HumanDuration::from_secs(90)));
        assert_eq!(read(None, "0s".into()), Ok(ms(0)));
        assert_eq!(
            read(secs(60), "1m".into()),
            Ok(HumanDuration::from_secs(60))
        );
        assert_eq!(read(secs(60), "61s".into()), Err("out-of-range".to_owned()));
        assert_eq!(read(secs(60), 0.into()), Err("out-of-range".to_owned()));
        assert_eq!(
            read(None, "soon".into()),
            Err("invalid-duration".to_owned())
        );
        assert_eq!(read(None, true.into()), Err("invalid-duration".to_owned()));
        let freezing = SleepPolicy {
            freeze_after_max: secs(60),
            ..SleepPolicy::default()
        };
        let refused = freezing
            .read(Tier::Freeze, &"2m".into())
            .expect_err("it is longer");
        assert_eq!(refused.pointer, "/freeze_after");
        assert!(refused.message.contains("sleep.freeze_after_max"));
    }

    #[test]
    fn it_is_frozen_first_and_stopped_later() {
        let tiers = |freeze_ms: Option<u64>, sleep_ms: Option<u64>| Tiers {
            freeze_after: freeze_ms.map(Duration::from_millis),
            sleep_after: sleep_ms.map(Duration::from_millis),
        };
        let unused = |ms| Activity {
            unused_for: Duration::from_millis(ms),
            ..Activity::default()
        };
        let again = |ms| Rest::LookAgain(Duration::from_millis(ms));
        for (given, is_frozen, ms, expected) in [
            (tiers(Some(10), Some(30)), false, 4, again(6)),
            (tiers(Some(10), Some(30)), false, 10, Rest::Freeze),
            (tiers(Some(10), Some(30)), true, 10, again(20)),
            (tiers(Some(10), Some(30)), true, 30, Rest::Sleep),
            (tiers(Some(10), Some(30)), false, 30, Rest::Sleep),
            // Not before it is stopped, being frozen is without effect.
            (tiers(Some(30), Some(30)), false, 30, Rest::Sleep),
            (tiers(Some(10), None), false, 10, Rest::Freeze),
            (tiers(Some(10), None), true, 99, Rest::Never),
            (tiers(None, None), false, 99, Rest::Never),
        ] {
            assert_eq!(rest(given, is_frozen, &unused(ms)), expected, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_rests_that_is_used_or_was_used_lately(
            freeze_ms in proptest::option::of(1_u64..1_000_000),
            sleep_ms in proptest::option::of(1_u64..1_000_000),
            is_frozen: bool,
            unused_ms in 0_u64..2_000_000,
            under_way in 0_u64..3,
            session_children in 0_usize..3,
            is_subscribed: bool,
        ) {
            let tiers = Tiers {
                freeze_after: freeze_ms.map(Duration::from_millis),
                sleep_after: sleep_ms.map(Duration::from_millis),
            };
            let activity = Activity {
                under_way,
                session_children,
                is_subscribed,
                unused_for: Duration::from_millis(unused_ms),
            };
            let busy = under_way > 0 || session_children > 0 || is_subscribed;
            let is_over = |after: Option<u64>| after.is_some_and(|after| !busy && unused_ms >= after);
            match rest(tiers, is_frozen, &activity) {
                Rest::Sleep => prop_assert!(is_over(sleep_ms)),
                Rest::Freeze => prop_assert!(!is_frozen && is_over(freeze_ms) && !is_over(sleep_ms)),
                Rest::Never => {
                    prop_assert!(sleep_ms.is_none() && (is_frozen || freeze_ms.is_none()));
                }
                Rest::LookAgain(wait) => {
                    prop_assert!(!is_over(sleep_ms) && (is_frozen || !is_over(freeze_ms)));
                    let longest = freeze_ms.max(sleep_ms).map(Duration::from_millis);
                    prop_assert!(!wait.is_zero() && Some(wait) <= longest);
                    // Unless it is used meanwhile, the next look finds that it may rest.
                    let later = Activity {
                        unused_for: if busy { wait } else { activity.unused_for + wait },
                        ..Activity::default()
                    };
                    let next = rest(tiers, is_frozen, &later);
                    prop_assert!(matches!(next, Rest::Sleep | Rest::Freeze), "{next:?}");
                }
            }
        }
    }
}
