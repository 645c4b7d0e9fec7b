//! How long the database is waited for, and whether it was given up lately.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::StoreError;
use crate::{
    domain::latency::Latency,
    traces::{Parent, Span, SpanKind},
};

/// For so long after a statement was given up every connection has to answer before it is lent again.
const DOUBT: Duration = Duration::from_secs(60);

/// How long a connection in doubt may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The limit of each statement, and the memory of the last one that was given up: one that took too long, or whose
/// caller no longer waited.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    /// Which database it is, in OpenTelemetry's words.
    system: &'static str,
    since: Instant,
    /// Milliseconds from `since` to the last statement that was given up, and one; 0: none was.
    given_up_ms: AtomicU64,
    pub(super) times: Latency,
    pub(super) failed: AtomicU64,
}

impl Patience {
    /// With the limit of each statement.
    pub(super) fn new(limit: Duration, system: &'static str) -> Self {
        Self {
            limit,
            system,
            since: Instant::now(),
            given_up_ms: AtomicU64::new(0),
            times: Latency::default(),
            failed: AtomicU64::new(0),
        }
    }

    /// Whether a connection may come back whose last statement got no answer.
    pub(super) fn recently_given_up(&self) -> bool {
        let at_ms = self.given_up_ms.load(Ordering::Acquire);
        at_ms > 0 && self.now_ms().saturating_sub(at_ms) <= millis(DOUBT)
    }

    fn now_ms(&self) -> u64 {
        millis(self.since.elapsed()).saturating_add(1)
    }
}

/// Notes a statement that ends in any other way than by its outcome.
struct Waiting<'a>(Option<&'a Patience>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(patience) = self.0 {
            patience
                .given_up_ms
                .store(patience.now_ms(), Ordering::Release);
        }
    }
}

/// Runs a statement, a wait for a connection included, for as long as `patience` allows. Whether a statement that is
/// given up was carried out is not known. What it is, the module of a table, names its span.
pub(super) async fn in_time<T>(
    patience: &Patience,
    module: &'static str,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    // Declared before what notes its end: the note comes first, the connection goes back to the pool after it.
    let mut work = pin!(work);
    let mut waiting = Waiting(Some(patience));
    let mut span = span(patience, module);
    let began = Instant::now();
    let outcome = match tokio::time::timeout(patience.limit, work.as_mut()).await {
        Ok(outcome) => {
            waiting.0 = None;
            outcome
        }
        Err(_) => Err(StoreError::Unavailable(format!(
            "the database did not answer within {} ms",
            patience.limit.as_millis()
        ))),
    };
    patience.times.observe(began.elapsed());
    if let (Some(span), Err(error)) = (&mut span, &outcome) {
        span.fail(error.word());
    }
    if outcome.as_ref().is_err_and(StoreError::retryable) {
        patience.failed.fetch_add(1, Ordering::Relaxed);
    }
    outcome
}

/// A part of what the present task does, if that is traced: nobody wants to see statements without their cause.
fn span(patience: &Patience, module: &'static str) -> Option<Span> {
    let parent = Parent::current().known()?;
    let table = module.rsplit("::").next().unwrap_or(module);
    let mut span = Span::begin(SpanKind::Client, || format!("store {table}"), &parent)?;
    span.put("db.system.name", patience.system);
    Some(span)
}

/// Whether a connection answers.
pub(super) async fn answers(connection: &mut PgConnection) -> bool {
    matches!(
        tokio::time::timeout(ANSWER_TIMEOUT, connection.ping()).await,
        Ok(Ok(()))
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outcome_raises_no_doubt_and_a_statement_given_up_does_for_a_while() {
        let patience = Patience::new(Duration::from_secs(5), "sqlite");
        assert_eq!(in_time(&patience, "", async { Ok(1) }).await.ok(), Some(1));
        assert!(
            in_time(&patience, "", async { Err::<(), _>(StoreError::NotFound) })
                .await
                .is_err()
        );
        assert!(!patience.recently_given_up(), "an error is an answer");

        let late = in_time(&patience, "", std::future::pending::<Result<(), _>>()).await;
        assert!(matches!(late, Err(StoreError::Unavailable(_))));
        assert!(patience.recently_given_up());
        tokio::time::advance(DOUBT + Duration::from_secs(1)).await;
        assert!(!patience.recently_given_up());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_is_noted_before_its_statement_ends() {
        struct SeenAtDrop<'a>(&'a Patience, &'a std::cell::Cell<Option<bool>>);
        impl Drop for SeenAtDrop<'_> {
            fn drop(&mut self) {
                self.1.set(Some(self.0.recently_given_up()));
            }
        }
        let patience = Patience::new(Duration::from_secs(5), "sqlite");
        let seen = std::cell::Cell::new(None);
        let statement = async {
            let _connection = SeenAtDrop(&patience, &seen);
            std::future::pending::<Result<(), StoreError>>().await
        };
        let caller =
            tokio::time::timeout(Duration::from_secs(1), in_time(&patience, "", statement));
        assert!(caller.await.is_err());
        assert_eq!(seen.get(), Some(true));
    }
}
