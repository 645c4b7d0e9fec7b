//! A start while the database is away: it is asked again, each time with a word in the log, for as long as it takes.

use std::time::Duration;

use super::notify;
use crate::{
    config::Config, secrets::SecretsError, store::StoreError, supervisor::SupervisorError,
};

/// The first wait between two tries; it doubles.
const WAIT_MIN: Duration = Duration::from_millis(500);
/// The longest one.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// An error that may be the database's absence, which passes by itself.
pub(super) trait Absence {
    /// Why the database is away, if that is what this says.
    fn of_database(&self) -> Option<&str>;
}

impl Absence for StoreError {
    fn of_database(&self) -> Option<&str> {
        match self {
            Self::Unavailable(reason) => Some(reason),
            _ => None,
        }
    }
}

impl Absence for SecretsError {
    fn of_database(&self) -> Option<&str> {
        match self {
            Self::Store(error) => error.of_database(),
            _ => None,
        }
    }
}

impl Absence for SupervisorError {
    fn of_database(&self) -> Option<&str> {
        match self {
            Self::Unavailable(reason) => Some(reason),
            _ => None,
        }
    }
}

/// Does `work` again until the database answers it.
///
/// # Errors
/// Every error of it that is not the database's absence.
pub(super) async fn for_database<T, E: Absence>(
    config: &Config,
    mut work: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut wait = WAIT_MIN;
    loop {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(reason) = error.of_database() else {
            return Err(error);
        };
        tracing::error!(
            reason,
            retry_ms = wait.as_millis(),
            "the database does not answer; trying again"
        );
        let patience = config.database.acquire_timeout.std() + WAIT_MAX;
        notify::still_starting(wait + patience * 2, "waiting for the database");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_its_absence_is_waited_for() {
        let away = || StoreError::Unavailable("it is locked".to_owned());
        let mut answers = vec![
            Ok(7),
            Err(SecretsError::from(away())),
            Err(SecretsError::from(away())),
        ];
        let config = Config::default();
        let done = for_database(&config, async || answers.pop().expect("one of three")).await;
        assert!(matches!(done, Ok(7)));
        let wrong = SupervisorError::Internal("a damaged file".to_owned());
        let mut answers = vec![Err::<(), _>(wrong), Err(away().into())];
        let done = for_database(&config, async || answers.pop().expect("one of two")).await;
        assert!(matches!(done, Err(SupervisorError::Internal(_))));
    }
}
