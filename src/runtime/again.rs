//! A question that was lost together with its keeper, asked the next one.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use super::{KeeperState, Runtime, RuntimeError};

/// How long a keeper may be away before that is a failure: far longer than it takes to start one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions: a connection that breaks is known to whoever asked a moment before it is known to all.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is not [`RuntimeError::Lost`], each time once the keeper is there again, for 10 seconds at most.
/// For questions that do no harm when they are asked twice.
///
/// # Errors
/// Whatever the last answer was.
pub async fn ask_again<T, F>(
    runtime: &dyn Runtime,
    mut ask: impl FnMut() -> F,
) -> Result<T, RuntimeError>
where
    F: Future<Output = Result<T, RuntimeError>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(RuntimeError::Lost) if Instant::now() < until => {}
            other => return other,
        }
        sleep(PAUSE).await;
        let mut keeper = runtime.state();
        let back = keeper.wait_for(|state| matches!(state, KeeperState::Connected { .. }));
        if !matches!(timeout_at(until, back).await, Ok(Ok(_))) {
            return Err(RuntimeError::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    #[tokio::test(start_paused = true)]
    async fn a_keeper_that_comes_back_is_asked_what_the_former_one_was() {
        let (runtime, _children) = FakeRuntime::new();
        runtime.lose_keeper();
        let begun = Instant::now();
        let asked = tokio::spawn({
            let runtime = runtime.clone();
            async move { ask_again(&runtime, || runtime.held_names()).await.is_ok() }
        });
        sleep(PATIENCE / 2).await;
        assert!(!asked.is_finished());
        runtime.restore_keeper();
        assert!(asked.await.expect("it does not panic"));
        assert!(begun.elapsed() < PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stays_away_is_told_and_a_refusal_is_told_at_once() {
        let (runtime, _children) = FakeRuntime::new();
        let mut asked = 0;
        let refused = ask_again(&runtime, || {
            asked += 1;
            async { Err::<(), _>(RuntimeError::Refused("no".to_owned())) }
        });
        assert!(matches!(refused.await, Err(RuntimeError::Refused(_))));
        assert_eq!(asked, 1);
        runtime.lose_keeper();
        let begun = Instant::now();
        let lost = ask_again(&runtime, || runtime.held_names()).await;
        assert!(matches!(lost, Err(RuntimeError::Lost)));
        assert!(begun.elapsed() >= PATIENCE);
    }
}
