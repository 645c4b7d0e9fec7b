//! Tests of the driver.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::{BackgroundTask, FnTask, TaskDriver, TaskError, check_schedule};
use crate::wire::TaskStatus;

fn schedules(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(name, schedule)| ((*name).to_owned(), (*schedule).to_owned()));
    owned.collect()
}

fn boxed<F, R>(name: &'static str, run: F) -> Box<dyn BackgroundTask>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<Value, String>> + Send + 'static,
{
    Box::new(FnTask::new(name, "a task of a test", run))
}

async fn until(driver: &TaskDriver, enough: impl Fn(&TaskStatus) -> bool) -> TaskStatus {
    let waiting = async {
        loop {
            if let Some(status) = driver.statuses().into_iter().find(|status| enough(status)) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    found.unwrap_or_else(|_| panic!("never so: {:?}", driver.statuses()))
}

#[tokio::test]
async fn runs_by_its_schedule() {
    let (ran, mut runs) = mpsc::channel(8);
    let task = boxed("tick", move || {
        let ran = ran.clone();
        async move {
            let _ = ran.try_send(());
            Ok(json!({ "done": 1 }))
        }
    });
    let driver = TaskDriver::start(vec![task], &schedules(&[("tick", "* * * * * *")])).await;
    let driver = driver.expect("the schedule is valid");
    for _ in 0..2 {
        let run = tokio::time::timeout(Duration::from_secs(30), runs.recv()).await;
        assert_eq!(run.expect("it runs every second"), Some(()));
    }
    let status = until(&driver, |status| status.runs >= 2).await;
    assert_eq!(status.last_result, Some(json!({ "done": 1 })));
    assert_eq!(
        (status.schedule.as_str(), status.last_error),
        ("* * * * * *", None)
    );
    assert!(driver.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn one_run_at_a_time_and_one_more_after_it() {
    let gate = Arc::new(Semaphore::new(0));
    let at_once = Arc::new(AtomicUsize::new(0));
    let (held, inside) = (Arc::clone(&gate), Arc::clone(&at_once));
    let task = boxed("slow", move || {
        let (gate, inside) = (Arc::clone(&held), Arc::clone(&inside));
        async move {
            let others = inside.fetch_add(1, Ordering::SeqCst);
            if let Ok(permit) = gate.acquire().await {
                permit.forget();
            }
            inside.fetch_sub(1, Ordering::SeqCst);
            Ok(json!(others))
        }
    });
    let driver = TaskDriver::start(vec![task], &BTreeMap::new())
        .await
        .expect("no schedule");
    driver.activate("slow").expect("it exists");
    until(&driver, |status| status.running).await;
    while at_once.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..5 {
        driver.activate("slow").expect("it exists");
    }
    gate.add_permits(1);
    until(&driver, |status| status.runs == 1 && status.running).await;
    gate.add_permits(1);
    let status = until(&driver, |status| status.runs == 2 && !status.running).await;
    assert_eq!(status.last_result, Some(json!(0)), "nobody else was inside");
    assert_eq!(status.schedule, "off");
    assert!(matches!(
        driver.activate("other"),
        Err(TaskError::Unknown { .. })
    ));
    assert!(driver.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_failure_or_a_panic_is_told_and_not_the_end() {
    let count = Arc::new(AtomicUsize::new(0));
    let task = boxed("odd", move || {
        let run = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match run {
                0 => Err("the store is away".to_owned()),
                1 => panic!("a bug, for a test"),
                _ => Ok(Value::Null),
            }
        }
    });
    let driver = TaskDriver::start(vec![task], &schedules(&[("odd", "off")])).await;
    let driver = driver.expect("off is a schedule");
    for (runs, error) in [
        (1, Some("the store is away")),
        (2, Some("it panicked")),
        (3, None),
    ] {
        driver.activate("odd").expect("it exists");
        let status = until(&driver, |status| status.runs == runs).await;
        assert_eq!(status.last_error.as_deref(), error);
    }
    assert!(driver.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn shutdown_drops_a_run_that_takes_too_long() {
    let task = boxed("endless", std::future::pending::<Result<Value, String>>);
    let driver = TaskDriver::start(vec![task], &BTreeMap::new())
        .await
        .expect("no schedule");
    driver.activate("endless").expect("it exists");
    until(&driver, |status| status.running).await;
    assert!(!driver.shutdown(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn faults_of_the_configuration_are_told_at_the_start() {
    for wrong in ["", "sometimes", "* * * * *", "61 * * * * *", "OFF"] {
        let error = check_schedule("reconcile", wrong)
            .expect_err(wrong)
            .to_string();
        assert!(error.starts_with("tasks.reconcile: "), "{error}");
    }
    assert!(check_schedule("reconcile", "0 */5 * * * *").is_ok());
    let started = TaskDriver::start(Vec::new(), &schedules(&[("reconsile", "off")])).await;
    assert!(matches!(started, Err(TaskError::Unknown { .. })));
    let twice = || boxed("same", || async { Ok(Value::Null) });
    let started = TaskDriver::start(vec![twice(), twice()], &BTreeMap::new()).await;
    assert!(matches!(started, Err(TaskError::Twice(_))));
}

#[test]
fn a_clock_that_was_set_back_is_told_from_one_that_runs_unevenly() {
    let passed = Duration::from_secs(5);
    for (wall_ms, set_back) in [
        (5_000, false),
        (4_200, false),
        (3_000, true),
        (-3_600_000, true),
        (3_600_000, false),
    ] {
        assert_eq!(
            super::driver::was_set_back(passed, wall_ms),
            set_back,
            "{wall_ms}"
        );
    }
}
