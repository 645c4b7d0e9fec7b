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
}

/// What the operator says of sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SleepPolicy {
    /// For templates that say nothing; absent: they never sleep.
    pub after_default: Option<HumanDuration>,
    /// The longest that any instance may be kept running unused, whatever its template says; absent: no bound.
    pub after_max: Option<HumanDuration>,
    /// From how much pressure on memory on those that may sleep at all sleep earlier, least used first: percent of the
    /// last ten seconds in which some task waited for memory, 0 to 100; absent: never.
    pub memory_pressure: Option<u8>,
}

impl SleepPolicy {
    /// How long an instance may be unused that has this wish of its `own`, or none, and a template that says so; `None`:
    /// for ever.
    #[must_use]
    pub fn after(&self, own: Option<HumanDuration>, spec: SleepSpec) -> Option<HumanDuration> {
        let wanted = own.or(spec.after).or(self.after_default);
        let wanted = wanted.filter(|after| after.ms() > 0);
        match (wanted, self.after_max) {
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
            (wanted, most) => wanted.or(most),
        }
    }

    /// Reads how long an instance may be unused, as a request gives it: seconds or a text, zero for ever.
    ///
    /// # Errors
    /// A [`Violation`] at `pointer` when it is no duration, or longer than the operator allows.
    pub fn read(&self, value: &Value, pointer: &str) -> Result<HumanDuration, Violation> {
        let wanted = read_duration(value)
            .map_err(|message| Violation::new(pointer, "invalid-duration", message))?;
        match self.after_max {
            Some(most) if wanted.ms() == 0 || wanted > most => {
                let message = format!(
                    "sleep_after may be {most} at most here (sleep.after_max), and not 0s, which is for ever"
                );
                Err(Violation::new(pointer, "out-of-range", message))
            }
            _ => Ok(wanted),
        }
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

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It may be stopped.
    Sleep,
    /// Not now: look again after this time, which is never zero.
    LookAgain(Duration),
}

/// Whether what nobody used for `after` may sleep. One that is busy was used now.
#[must_use]
pub fn rest(after: Duration, activity: &Activity) -> Rest {
    let unused_for = match activity.is_busy() {
        true => Duration::ZERO,
        false => activity.unused_for,
    };
    match after.saturating_sub(unused_for) {
        Duration::ZERO if !activity.is_busy() => Rest::Sleep,
        left => Rest::LookAgain(left.max(Duration::from_millis(1))),
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
                memory_pressure: None,
            };
            policy.after(None, SleepSpec { after: spec })
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
        let spec = SleepSpec { after: Some(ms(9)) };
        let policy = |most| SleepPolicy {
            after_default: Some(ms(5)),
            after_max: most,
            memory_pressure: None,
        };
        assert_eq!(policy(None).after(Some(ms(3)), spec), Some(ms(3)));
        assert_eq!(policy(None).after(Some(ms(0)), spec), None);
        assert_eq!(policy(Some(ms(7))).after(Some(ms(0)), spec), Some(ms(7)));
        assert_eq!(policy(Some(ms(7))).after(Some(ms(8)), spec), Some(ms(7)));
        let read = |most, value: Value| {
            let read = policy(most).read(&value, "/sleep_after");
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
    }

    proptest! {
        #[test]
        fn nothing_sleeps_that_is_used_or_was_used_lately(
            after_ms in 1_u64..1_000_000,
            unused_ms in 0_u64..2_000_000,
            under_way in 0_u64..3,
            session_children in 0_usize..3,
            is_subscribed: bool,
        ) {
            let after = Duration::from_millis(after_ms);
            let activity = Activity {
                under_way,
                session_children,
                is_subscribed,
                unused_for: Duration::from_millis(unused_ms),
            };
            let busy = under_way > 0 || session_children > 0 || is_subscribed;
            match rest(after, &activity) {
                Rest::Sleep => prop_assert!(!busy && unused_ms >= after_ms),
                Rest::LookAgain(wait) => {
                    prop_assert!(busy || unused_ms < after_ms);
                    prop_assert!(!wait.is_zero() && wait <= after);
                    // Unless it is used meanwhile, the next look finds that it may sleep.
                    let later = Activity {
                        unused_for: if busy { wait } else { activity.unused_for + wait },
                        ..Activity::default()
                    };
                    prop_assert_eq!(rest(after, &later), Rest::Sleep);
                }
            }
        }
    }
}
