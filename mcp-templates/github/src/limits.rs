//! GitHub's rate limits, remembered: while one holds, no call that it concerns is sent, for GitHub shuts out clients
//! that go on calling. Pure, but for its lock.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use minimcp_rest::{Error, Failure, Trouble};

use crate::server::SERVICE;

/// GitHub counts by the hour; a longer wait is not believed.
const WAIT_MAX: Duration = Duration::from_secs(3_600);
/// What GitHub asks for when a secondary limit names no time.
const SECONDARY_WAIT: Duration = Duration::from_secs(60);

/// What a limit counts; each has a limit of its own, and the secondary limits concern them all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resource {
    Core,
    Search,
    CodeSearch,
    GraphQl,
}

impl Resource {
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/graphql" => Self::GraphQl,
            "/search/code" => Self::CodeSearch,
            path if path.starts_with("/search/") => Self::Search,
            _ => Self::Core,
        }
    }
}

/// When calls are welcome again.
#[derive(Default)]
pub(crate) struct Limits(Mutex<[Option<Instant>; 4]>);

impl Limits {
    /// What to tell instead of sending a call, if it is not welcome at `now`.
    pub(crate) fn refusal(&self, resource: Resource, now: Instant) -> Option<Error> {
        let until = self.until()[resource as usize]?;
        let left = until.checked_duration_since(now)?;
        let left = Duration::from_secs(left.as_secs() + 1);
        let mut error = Error::new(SERVICE, Trouble::RateLimited(Some(left)));
        error.advice = Some(format!(
            "It was told before, so this call was not sent. Try again in {} seconds, not before.",
            left.as_secs()
        ));
        Some(error)
    }

    /// Remembers a limit that a call ran into at `now`.
    pub(crate) fn note(&self, resource: Resource, failure: &Failure, now: Instant) {
        let Trouble::RateLimited(wait) = failure.trouble else {
            return;
        };
        let until = Some(now + wait.unwrap_or(SECONDARY_WAIT).min(WAIT_MAX));
        let mut known = self.until();
        if is_primary(failure) {
            known[resource as usize] = until;
        } else {
            *known = [until; 4];
        }
    }

    fn until(&self) -> std::sync::MutexGuard<'_, [Option<Instant>; 4]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the budget of the hour is used up, and not one of the secondary limits of calls at once.
pub(crate) fn is_primary(failure: &Failure) -> bool {
    failure.header("x-ratelimit-remaining") == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(wait: Option<u64>, remaining: &str) -> Failure {
        let trouble = Trouble::RateLimited(wait.map(Duration::from_secs));
        let mut failure = *Error::new(SERVICE, trouble).failure;
        failure.headers = vec![("x-ratelimit-remaining", remaining.to_owned())];
        failure
    }

    #[test]
    fn a_primary_limit_concerns_its_resource_until_it_ends() {
        let (limits, now) = (Limits::default(), Instant::now());
        limits.note(Resource::of("/search/code"), &failure(Some(30), "0"), now);
        assert!(limits.refusal(Resource::Search, now).is_none());
        let error = limits.refusal(Resource::CodeSearch, now).expect("limited");
        assert!(error.to_string().contains("31 seconds"), "{error}");
        let later = now + Duration::from_secs(31);
        assert!(limits.refusal(Resource::CodeSearch, later).is_none());
    }

    #[test]
    fn a_secondary_limit_concerns_all_and_lasts_a_minute() {
        let (limits, now) = (Limits::default(), Instant::now());
        limits.note(Resource::Core, &failure(None, "4999"), now);
        for resource in [Resource::Core, Resource::GraphQl] {
            assert!(
                limits
                    .refusal(resource, now + Duration::from_secs(59))
                    .is_some()
            );
            assert!(
                limits
                    .refusal(resource, now + Duration::from_secs(61))
                    .is_none()
            );
        }
    }

    #[test]
    fn no_wait_is_longer_than_an_hour() {
        let (limits, now) = (Limits::default(), Instant::now());
        limits.note(Resource::Core, &failure(Some(u64::MAX / 2), "0"), now);
        assert!(
            limits
                .refusal(Resource::Core, now + WAIT_MAX + Duration::from_secs(1))
                .is_none()
        );
    }
}
