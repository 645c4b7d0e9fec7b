//! The background tasks of the daemon, each idempotent and without input.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use crate::{
    clock::Clock,
    config::Config,
    domain::UnixMs,
    runtime,
    secrets::{self, KeyRing},
    store::{History, Store},
    supervisor::Supervisor,
    tasks::{BackgroundTask, FnTask, LogBytes, Retention, TaskDriver, TaskError},
};

/// How long events are kept, those of deleted instances included.
const EVENTS_KEPT_MS: i64 = 30 * 24 * 3_600_000;

/// How long an `Idempotency-Key` is remembered.
const IDEMPOTENCY_KEPT_MS: i64 = 24 * 3_600_000;

/// The name of the comparison of what the parts say.
const RECONCILE: &str = "reconcile";
/// The name of what makes this process smaller.
const GIVE_BACK_MEMORY: &str = "give-back-memory";
/// By then a start is over, with what it needed and nobody does later.
const STARTED_AFTER: Duration = Duration::from_secs(10);

/// Rows that one statement deletes at most.
const DELETE_STEP: u32 = 5_000;
/// An event from so far ahead of the clock has a wrong time: a day.
const AHEAD_MS: UnixMs = 24 * 3_600_000;

/// All of them.
pub(super) fn all(
    config: &Config,
    store: &Store,
    supervisor: &Supervisor,
    keys: &Arc<KeyRing>,
    clock: Clock,
) -> Vec<Box<dyn BackgroundTask>> {
    vec![
        Box::new(Retention {
            name: "log-retention",
            description: "Deletes log lines that are too old, too many or too large for one instance or in total, or of an instance that is gone",
            history: History::Logs,
            store: store.clone(),
            clock,
            keep: config.logs.retention.std(),
            rows_per_instance: config.logs.retention_rows_per_instance,
            bytes: Some(LogBytes {
                per_instance: config.logs.retention_bytes_per_instance,
                total: config.logs.retention_bytes_total,
            }),
        }),
        port_quarantine_sweep(store.clone(), supervisor.clone(), clock),
        reconcile(supervisor.clone()),
        disk_use(supervisor.clone()),
        memory_pressure(supervisor.clone()),
        give_back_memory(),
        collect_packages(supervisor.clone()),
        reseal_credentials(Arc::clone(keys), store.clone(), clock),
        access_times(supervisor.clone()),
        history_retention(store.clone(), clock),
        Box::new(Retention {
            name: "call-retention",
            description: "Deletes call records that are too old, too many for one instance, or of an instance that is gone",
            history: History::Calls,
            store: store.clone(),
            clock,
            keep: config.calls.retention.std(),
            rows_per_instance: config.calls.retention_rows_per_instance,
            bytes: None,
        }),
    ]
}

/// Has those run that belong to a start, whatever their schedules.
pub(super) fn begin(driver: &Arc<TaskDriver>) -> Result<(), TaskError> {
    // What the start did not put right by itself is found at once.
    driver.activate(RECONCILE)?;
    let driver = Arc::downgrade(driver);
    tokio::spawn(async move {
        tokio::time::sleep(STARTED_AFTER).await;
        if let Some(driver) = driver.upgrade() {
            // It is in the list above.
            let _ = driver.activate(GIVE_BACK_MEMORY);
        }
    });
    Ok(())
}

fn port_quarantine_sweep(
    store: Store,
    supervisor: Supervisor,
    clock: Clock,
) -> Box<dyn BackgroundTask> {
    Box::new(FnTask::new(
        "port-quarantine-sweep",
        "Ends the rest of freed access ports",
        move || {
            let (store, supervisor) = (store.clone(), supervisor.clone());
            async move {
                let freed = store
                    .release_quarantine(clock.now())
                    .await
                    .map_err(|error| error.to_string())?;
                supervisor.sweep_quarantine();
                Ok(json!({"freed": freed}))
            }
        },
    ))
}

fn reconcile(supervisor: Supervisor) -> Box<dyn BackgroundTask> {
    Box::new(FnTask::new(
        RECONCILE,
        "Compares the database, the keeper, the kernel and the supervisor, and puts right what differs",
        move || {
            let supervisor = supervisor.clone();
            async move { supervisor.reconcile().await }
        },
    ))
}

fn disk_use(supervisor: Supervisor) -> Box<dyn BackgroundTask> {
    Box::new(FnTask::new(
        "disk-use",
        "Measures the folders of instances and ends those over limits.max_disk_bytes",
        move || {
            let supervisor = supervisor.clone();
            async move { supervisor.check_disk_use().await }
        },
    ))
}

fn memory_pressure(supervisor: Supervisor) -> Box<dyn BackgroundTask> {
    Box::new(FnTask::new(
        "memory-pressure",
        "Has the least used instances sleep when memory is short (sleep.memory_pressure, sleep.memory_floor_bytes)",
        move || {
            let supervisor = supervisor.clone();
            async move { supervisor.relieve_memory().await }
        },
    ))
}

fn give_back_memory() -> Box<dyn BackgroundTask> {
    Box::new(FnTask::new(
        GIVE_BACK_MEMORY,
        "Gives memory of the daemon that is of no use to it back to the kernel: free heap, and code that ran once",
        || async {
            let given = tokio::task::spawn_blocking(runtime::give_back_memory).await;
            let given = given.map_err(|error| error.to_string())?;
            let bytes = given.map_err(|error| error.to_string())?;
            Ok(json!({"bytes": bytes}))
        },
    ))
}

fn collect_packages(supervisor: Supervisor) -> Box<dyn BackgroundTask> {
    Box::new(FnTask::new(
        "collect-packages",
        "Removes packages that no template names and no process runs, when they are old or all are too large",
        move || {
            let supervisor = supervisor.clone();
            async move { supervisor.collect_packages().await }
        },
    ))
}

fn reseal_credentials(keys: Arc<KeyRing>, store: Store, clock: Clock) -> Box<dyn BackgroundTask> {
    Box::new(FnTask::new(
        "reseal-credentials",
        "Seals credentials of older master keys with the active one",
        move || {
            let (keys, store) = (Arc::clone(&keys), store.clone());
            async move {
                let progress = secrets::reseal(&keys, &store, clock.now())
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(
                    json!({"resealed": progress.resealed, "passed": progress.passed, "unopenable": progress.unopenable}),
                )
            }
        },
    ))
}

fn access_times(supervisor: Supervisor) -> Box<dyn BackgroundTask> {
    Box::new(FnTask::new(
        "access-times",
        "Writes when instances and their access tokens were last used",
        move || {
            let supervisor = supervisor.clone();
            async move {
                let written = supervisor
                    .write_access_times()
                    .await
                    .map_err(|error| error.to_string())?;
                let tokens = supervisor
                    .write_token_uses()
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(json!({"written": written, "tokens": tokens}))
            }
        },
    ))
}

fn history_retention(store: Store, clock: Clock) -> Box<dyn BackgroundTask> {
    Box::new(FnTask::new(
        "history-retention",
        "Deletes events and idempotency keys that are too old",
        move || {
            let store = store.clone();
            async move { forget_history(&store, clock.now()).await }
        },
    ))
}

async fn forget_history(store: &Store, now: UnixMs) -> Result<serde_json::Value, String> {
    let mut events = 0;
    loop {
        let step = store
            .delete_before(
                History::Events,
                now - EVENTS_KEPT_MS,
                now + AHEAD_MS,
                DELETE_STEP,
            )
            .await
            .map_err(|error| error.to_string())?;
        events += step;
        if step == 0 {
            break;
        }
    }
    let keys = store
        .idempotency_purge(now - IDEMPOTENCY_KEPT_MS)
        .await
        .map_err(|error| error.to_string())?;
    Ok(json!({"events": events, "idempotency_keys": keys}))
}
