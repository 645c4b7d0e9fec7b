//! Background tasks: idempotent work without input, run by a schedule or on demand.
//!
//! A task takes no input, so a scheduled run, a run after a crash and a run by hand are the same code path. It
//! never retries itself (the next run does) and reports a JSON value.

mod driver;
mod log_retention;
mod retention;

#[cfg(test)]
mod driver_tests;

use std::{future::Future, pin::Pin};

use serde_json::Value;

pub use driver::{TaskDriver, TaskError, check_schedule};
pub use log_retention::LogBytes;
pub use retention::Retention;

/// What a run gives: a report for people, or an error in one sentence without secrets.
pub type TaskRun<'a> = Pin<Box<dyn Future<Output = Result<Value, String>> + Send + 'a>>;

/// Work that the daemon does by itself from time to time.
pub trait BackgroundTask: Send + Sync + 'static {
    /// Its name: the key in the `tasks` section of the configuration.
    fn name(&self) -> &str;
    /// What it does, in one sentence.
    fn description(&self) -> &str;
    /// Does it once. Must be safe to repeat, and to be dropped at any await (the daemon is going down).
    fn run(&self) -> TaskRun<'_>;
}

/// A background task made of a closure.
pub struct FnTask<F> {
    name: &'static str,
    description: &'static str,
    run: F,
}

impl<F, R> FnTask<F>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<Value, String>> + Send + 'static,
{
    /// A task whose run is the future that `run` makes.
    pub fn new(name: &'static str, description: &'static str, run: F) -> Self {
        Self {
            name,
            description,
            run,
        }
    }
}

impl<F, R> BackgroundTask for FnTask<F>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<Value, String>> + Send + 'static,
{
    fn name(&self) -> &str {
        self.name
    }

    fn description(&self) -> &str {
        self.description
    }

    fn run(&self) -> TaskRun<'_> {
        Box::pin((self.run)())
    }
}
