//! Runs the background tasks: each when its schedule says so or when asked, never twice at the same time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

use super::BackgroundTask;
use crate::wire::TaskStatus;

/// The schedule of a task that only runs on demand.
const OFF: &str = "off";

/// Why the tasks cannot be driven as asked.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A schedule of the configuration cannot be read.
    #[error(
        "tasks.{name}: {schedule:?} is not a schedule: write a cron expression with six fields (second minute \
         hour day-of-month month day-of-week, in UTC) such as \"0 */10 * * * *\", or \"off\""
    )]
    InvalidSchedule {
        /// The task.
        name: String,
        /// What is written there.
        schedule: String,
    },
    /// The configuration or a caller names a task that does not exist.
    #[error("there is no background task {name:?}; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// Two tasks have the same name.
    #[error("there are two background tasks named {0:?}")]
    Twice(String),
    /// The scheduler did not start.
    #[error("the scheduler of the background tasks does not work: {0}")]
    Scheduler(String),
}

struct Entry {
    task: Box<dyn BackgroundTask>,
    /// Holds at most one permit: many activations during a run make one run after it.
    activated: Notify,
    status: Mutex<TaskStatus>,
}

impl Entry {
    fn status(&self) -> MutexGuard<'_, TaskStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Absent once the driver is shut down.
type Scheduler = Arc<Mutex<Option<JobScheduler>>>;

/// How often the wall clock is looked at.
const CLOCK_LOOK: Duration = Duration::from_secs(5);

/// Drives the background tasks until it is shut down.
pub struct TaskDriver {
    entries: BTreeMap<String, Arc<Entry>>,
    scheduler: Scheduler,
    runners: Mutex<JoinSet<()>>,
    stop: CancellationToken,
}

/// Checks the schedule of the task `name`.
///
/// # Errors
/// [`TaskError::InvalidSchedule`].
pub fn check_schedule(name: &str, schedule: &str) -> Result<(), TaskError> {
    if schedule == OFF {
        return Ok(());
    }
    job(name, schedule, || {}).map(drop)
}

/// A job of the scheduler that calls `activate`. Its times are UTC.
fn job(
    name: &str,
    schedule: &str,
    activate: impl Fn() + Send + Sync + 'static,
) -> Result<Job, TaskError> {
    Job::new(schedule, move |_id, _scheduler| activate()).map_err(|_| TaskError::InvalidSchedule {
        name: name.to_owned(),
        schedule: schedule.to_owned(),
    })
}

impl TaskDriver {
    /// Starts `tasks`. Each runs by the schedule under its name in `schedules` (a cron expression with seconds,
    /// UTC, or `"off"`); a task without one only runs on demand.
    ///
    /// # Errors
    /// A schedule cannot be read or belongs to no task, two tasks share a name, or the scheduler does not start.
    pub async fn start(
        tasks: Vec<Box<dyn BackgroundTask>>,
        schedules: &BTreeMap<String, String>,
    ) -> Result<Self, TaskError> {
        let mut entries = BTreeMap::new();
        for task in tasks {
            let name = task.name().to_owned();
            let schedule = schedules.get(&name).map_or(OFF, String::as_str).to_owned();
            check_schedule(&name, &schedule)?;
            let status = TaskStatus {
                name: name.clone(),
                description: task.description().to_owned(),
                schedule,
                running: false,
                last_started_at: None,
                last_duration_ms: None,
                last_result: None,
                last_error: None,
                runs: 0,
                failures: 0,
            };
            let entry = Arc::new(Entry {
                task,
                activated: Notify::new(),
                status: Mutex::new(status),
            });
            if entries.insert(name.clone(), entry).is_some() {
                return Err(TaskError::Twice(name));
            }
        }
        if let Some(name) = schedules.keys().find(|name| !entries.contains_key(*name)) {
            return Err(unknown(name, &entries));
        }
        let stop = CancellationToken::new();
        let mut runners = JoinSet::new();
        for entry in entries.values() {
            runners.spawn(run_when_activated(Arc::clone(entry), stop.clone()));
        }
        let all: Vec<_> = entries.values().map(Arc::clone).collect();
        let scheduler: Scheduler = Arc::new(Mutex::new(Some(schedule(&all).await?)));
        runners.spawn(follow_clock(all, Arc::clone(&scheduler), stop.clone()));
        Ok(Self {
            entries,
            scheduler,
            runners: Mutex::new(runners),
            stop,
        })
    }

    /// Has the task run now; if it runs already, once more after that. Does not wait for it.
    ///
    /// # Errors
    /// [`TaskError::Unknown`].
    pub fn activate(&self, name: &str) -> Result<(), TaskError> {
        let entry = self.entries.get(name);
        entry
            .ok_or_else(|| unknown(name, &self.entries))?
            .activated
            .notify_one();
        Ok(())
    }

    /// How every task does, by name.
    #[must_use]
    pub fn statuses(&self) -> Vec<TaskStatus> {
        let statuses = self.entries.values().map(|entry| entry.status().clone());
        statuses.collect()
    }

    /// Starts nothing more and waits for what runs, at most `timeout`; then drops it. Whether all ended by
    /// themselves.
    pub async fn shutdown(&self, timeout: Duration) -> bool {
        self.stop.cancel();
        let scheduler = {
            let mut held = self
                .scheduler
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            held.take()
        };
        if let Some(scheduler) = scheduler {
            end(scheduler).await;
        }
        let mut runners = {
            let mut held = self.runners.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *held)
        };
        let all = async { while runners.join_next().await.is_some() {} };
        let in_order = tokio::time::timeout(timeout, all).await.is_ok();
        runners.shutdown().await;
        in_order
    }
}

/// Starts the schedules of all tasks that have one.
async fn schedule(entries: &[Arc<Entry>]) -> Result<JobScheduler, TaskError> {
    let fault =
        |error: tokio_cron_scheduler::JobSchedulerError| TaskError::Scheduler(error.to_string());
    let scheduler = JobScheduler::new().await.map_err(fault)?;
    for entry in entries {
        let (name, schedule) = {
            let status = entry.status();
            (status.name.clone(), status.schedule.clone())
        };
        if schedule != OFF {
            let target = Arc::clone(entry);
            let job = job(&name, &schedule, move || target.activated.notify_one())?;
            scheduler.add(job).await.map_err(fault)?;
        }
    }
    scheduler.start().await.map_err(fault)?;
    Ok(scheduler)
}

/// Sets the schedules anew when the wall clock was set back: the scheduler would wait until it is again as late as it
/// was. A clock that is set forward it notices by itself.
async fn follow_clock(entries: Vec<Arc<Entry>>, scheduler: Scheduler, stop: CancellationToken) {
    loop {
        let (begun, wall) = (Instant::now(), jiff::Timestamp::now());
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CLOCK_LOOK) => {}
        }
        let passed_ms = jiff::Timestamp::now().as_millisecond() - wall.as_millisecond();
        if !was_set_back(begun.elapsed(), passed_ms) {
            continue;
        }
        tracing::warn!(
            passed_ms,
            "the wall clock was set back; the schedules begin anew"
        );
        match schedule(&entries).await {
            Ok(new) => {
                let old = {
                    let mut held = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
                    match held.as_mut() {
                        Some(held) => std::mem::replace(held, new),
                        // Shut down meanwhile.
                        None => new,
                    }
                };
                end(old).await;
            }
            Err(error) => tracing::error!(%error, "the schedules could not be set anew"),
        }
    }
}

/// Whether the wall clock lost more than a second against time that passed.
pub(super) fn was_set_back(passed: Duration, wall_passed_ms: i64) -> bool {
    let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
    wall_passed_ms < passed_ms.saturating_sub(1_000)
}

async fn end(mut scheduler: JobScheduler) {
    if let Err(error) = scheduler.shutdown().await {
        tracing::warn!(%error, "the scheduler of the background tasks did not stop in order");
    }
}

fn unknown(name: &str, entries: &BTreeMap<String, Arc<Entry>>) -> TaskError {
    let known: Vec<&str> = entries.keys().map(String::as_str).collect();
    TaskError::Unknown {
        name: name.to_owned(),
        known: known.join(", "),
    }
}

async fn run_when_activated(entry: Arc<Entry>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = entry.activated.notified() => {}
        }
        run_once(&entry).await;
    }
}

async fn run_once(entry: &Arc<Entry>) {
    {
        let mut status = entry.status();
        status.running = true;
        status.last_started_at = Some(format!("{:.3}", jiff::Timestamp::now()));
    }
    let began = Instant::now();
    // In a task of its own, so that a panic ends this run and not the task's life; dropped with this future.
    let mut run = JoinSet::new();
    let running = Arc::clone(entry);
    run.spawn(async move { running.task.run().await });
    let outcome = match run.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) if error.is_panic() => Err("it panicked".to_owned()),
        Some(Err(_)) | None => Err("it was cancelled".to_owned()),
    };
    let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut status = entry.status();
    status.running = false;
    status.runs += 1;
    status.last_duration_ms = Some(took);
    match outcome {
        Ok(report) => {
            tracing::debug!(task = status.name, took_ms = took, %report, "background task done");
            (status.last_result, status.last_error) = (Some(report), None);
        }
        Err(error) => {
            tracing::warn!(
                task = status.name,
                took_ms = took,
                error,
                "background task failed"
            );
            status.failures += 1;
            status.last_error = Some(error);
        }
    }
}
