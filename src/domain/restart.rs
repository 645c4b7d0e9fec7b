//! Restart policy: when an ended instance is launched again, and when it is given up.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{UnixMs, duration::HumanDuration, exit::ExitStatus};

/// Which ends lead to another launch (systemd's `Restart=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// None.
    Never,
    /// Every end but exit code 0.
    OnFailure,
    /// Every end that nobody asked for.
    #[default]
    Always,
}

/// The restart section of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestartSpec {
    /// Which ends lead to another launch.
    pub policy: RestartPolicy,
    /// The wait before the second launch in a row; the first follows at once.
    pub backoff_initial: HumanDuration,
    /// The longest wait.
    pub backoff_max: HumanDuration,
    /// Running so long ends a row of failures.
    pub stable_after: HumanDuration,
    /// So many launches in a row without becoming stable, then it has failed.
    pub burst: u32,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Always,
            backoff_initial: HumanDuration::from_ms(250),
            backoff_max: HumanDuration::from_secs(30),
            stable_after: HumanDuration::from_secs(30),
            burst: 8,
        }
    }
}

/// How an instance did since it was last stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestartRow {
    /// Ends in a row without a stable period between them.
    pub failures_in_row: u32,
    /// When the present launch became ready, if it did.
    pub ready_at: Option<UnixMs>,
}

/// What to do after an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartDecision {
    /// Launch again at this time.
    LaunchAt(UnixMs),
    /// Do not; the cause in words.
    GiveUp(String),
}

impl RestartRow {
    /// Counts an end at `now` and decides. `jitter` is uniform in `0..=u16::MAX`.
    pub fn after_exit(
        &mut self,
        spec: &RestartSpec,
        status: &ExitStatus,
        now: UnixMs,
        jitter: u16,
    ) -> RestartDecision {
        let stable_ms = i64::try_from(spec.stable_after.ms()).unwrap_or(i64::MAX);
        let was_stable = self
            .ready_at
            .is_some_and(|at| now.saturating_sub(at) >= stable_ms);
        self.failures_in_row = if was_stable {
            1
        } else {
            self.failures_in_row.saturating_add(1)
        };
        self.ready_at = None;
        match (spec.policy, status) {
            // Not the server's doing: it must run again whatever the policy says of its own ends.
            (_, ExitStatus::KeeperLost) => return RestartDecision::LaunchAt(now),
            // The same plan would fail the same way.
            (_, ExitStatus::NotStarted { .. }) => {
                return RestartDecision::GiveUp(format!("it {status}"));
            }
            (RestartPolicy::Never, _) => {
                return RestartDecision::GiveUp(format!(
                    "it {status}, and its restart policy is never"
                ));
            }
            (RestartPolicy::OnFailure, status) if status.is_success() => {
                return RestartDecision::GiveUp(format!(
                    "it {status}, and its restart policy is on-failure"
                ));
            }
            _ => {}
        }
        // A server elsewhere comes back, or takes a new credential, without our doing: it is asked again at the longest
        // wait for as long as it takes.
        let is_elsewhere = matches!(status, ExitStatus::Disconnected { .. });
        if self.failures_in_row >= spec.burst.max(1) && !is_elsewhere {
            return RestartDecision::GiveUp(format!(
                "it {status}; ended {} times in a row without {} of running",
                self.failures_in_row, spec.stable_after
            ));
        }
        RestartDecision::LaunchAt(now.saturating_add(self.wait_ms(spec, jitter)))
    }

    /// Exponential backoff with equal jitter: half of the step is fixed, half is drawn.
    fn wait_ms(&self, spec: &RestartSpec, jitter: u16) -> i64 {
        let Some(doublings) = self.failures_in_row.checked_sub(2) else {
            return 0;
        };
        let step = spec
            .backoff_initial
            .ms()
            .saturating_mul(1_u64 << doublings.min(32))
            .min(spec.backoff_max.ms());
        let half = step / 2;
        let drawn = (half.saturating_mul(u64::from(jitter))) / u64::from(u16::MAX);
        i64::try_from(half + drawn).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CRASH: ExitStatus = ExitStatus::Exited { code: 1 };

    #[test]
    fn the_first_restart_follows_at_once_and_a_loop_is_given_up() {
        let spec = RestartSpec::default();
        let mut row = RestartRow::default();
        assert_eq!(
            row.after_exit(&spec, &CRASH, 1_000, 0),
            RestartDecision::LaunchAt(1_000)
        );
        let mut waits = Vec::new();
        loop {
            match row.after_exit(&spec, &CRASH, 1_000, u16::MAX) {
                RestartDecision::LaunchAt(at) => waits.push(at - 1_000),
                RestartDecision::GiveUp(cause) => {
                    assert!(cause.contains("code 1"), "{cause}");
                    break;
                }
            }
        }
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 8_000]);
    }

    #[test]
    fn a_stable_period_ends_the_row() {
        let spec = RestartSpec::default();
        let mut row = RestartRow {
            failures_in_row: 6,
            ready_at: Some(0),
        };
        assert_eq!(
            row.after_exit(&spec, &CRASH, 30_000, 0),
            RestartDecision::LaunchAt(30_000)
        );
        assert_eq!(row.failures_in_row, 1);
    }

    #[test]
    fn policies_differ_by_status() {
        let never = RestartSpec {
            policy: RestartPolicy::Never,
            ..RestartSpec::default()
        };
        let on_failure = RestartSpec {
            policy: RestartPolicy::OnFailure,
            ..RestartSpec::default()
        };
        let success = ExitStatus::Exited { code: 0 };
        let gives_up = |spec: &RestartSpec, status: &ExitStatus| {
            matches!(
                RestartRow::default().after_exit(spec, status, 0, 0),
                RestartDecision::GiveUp(_)
            )
        };
        assert!(gives_up(&never, &CRASH));
        assert!(gives_up(&on_failure, &success));
        assert!(!gives_up(&on_failure, &CRASH));
        assert!(!gives_up(&RestartSpec::default(), &success));
        assert!(!gives_up(&never, &ExitStatus::KeeperLost));
        assert!(gives_up(
            &RestartSpec::default(),
            &ExitStatus::NotStarted { reason: "x".into() }
        ));
    }

    #[test]
    fn a_server_elsewhere_is_asked_again_for_as_long_as_it_takes() {
        let spec = RestartSpec::default();
        let status = ExitStatus::Disconnected {
            cause: Some("it is down".into()),
        };
        let mut row = RestartRow {
            failures_in_row: 1_000,
            ready_at: None,
        };
        let longest = i64::try_from(spec.backoff_max.ms()).expect("it fits");
        assert_eq!(
            row.after_exit(&spec, &status, 0, u16::MAX),
            RestartDecision::LaunchAt(longest)
        );
    }

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_the_cap(failures in 0_u32..1_000, jitter: u16) {
            let spec = RestartSpec { burst: u32::MAX, ..RestartSpec::default() };
            let mut row = RestartRow { failures_in_row: failures, ready_at: None };
            let RestartDecision::LaunchAt(at) = row.after_exit(&spec, &CRASH, 5, jitter) else {
                return Err(TestCaseError::fail("gave up"));
            };
            let cap = i64::try_from(spec.backoff_max.ms()).unwrap_or(i64::MAX);
            prop_assert!(at >= 5 && at - 5 <= cap);
        }
    }
}
