//! What the daemon's last comparison found, for `doctor`.

use serde_json::Value;

use super::doctor::{Check, Verdict, check};
use crate::{client::Client, wire::TaskStatus};

const PART: &str = "comparison";

/// The name of the task.
const TASK: &str = "reconcile";

pub(super) async fn checks(client: &Client) -> Vec<Check> {
    match client.tasks().await.and_then(|page| page.read()) {
        Ok(page) => page
            .items
            .iter()
            .find(|task| task.name == TASK)
            .map(judge)
            .unwrap_or_default(),
        Err(error) => vec![check(PART, Verdict::Failed, error.to_string())],
    }
}

fn judge(task: &TaskStatus) -> Vec<Check> {
    let Some(at) = &task.last_started_at else {
        let text = "database, keeper, kernel and daemon were not compared yet";
        return vec![check(PART, Verdict::Warning, text)];
    };
    let mut checks = Vec::new();
    if let Some(error) = &task.last_error {
        let text = format!("of {at}, could not be made: {error}");
        checks.push(check(PART, Verdict::Failed, text));
    }
    let Some(result) = &task.last_result else {
        return checks;
    };
    let count = |name: &str| result["compared"][name].as_u64().unwrap_or(0);
    let differences = result["differences"].as_u64().unwrap_or(0);
    if task.last_error.is_none() {
        let found = match differences {
            0 => "all agree".to_owned(),
            1 => "1 difference".to_owned(),
            many => format!("{many} differences"),
        };
        let text = format!(
            "of {at}: {found}; {} records, {} actors, {} children, {} listeners, {} cgroups, {} folders",
            count("instances"),
            count("actors"),
            count("children"),
            count("listeners"),
            count("cgroups"),
            count("folders"),
        );
        checks.push(check(PART, Verdict::Ok, text));
    }
    for (outcome, verdict) in [
        ("healed", Verdict::Ok),
        ("failed", Verdict::Failed),
        ("kept", Verdict::Warning),
    ] {
        let list = result[outcome].as_array().into_iter().flatten();
        checks.extend(list.map(|one| check(PART, verdict, line(outcome, one))));
    }
    checks
}

fn line(outcome: &str, one: &Value) -> String {
    let text = |name: &str| one[name].as_str().unwrap_or_default();
    let mut line = format!("{outcome}: {}", text("what"));
    if let Some(instance) = one["instance"].as_str() {
        line = format!("{line} ({instance})");
    }
    match one["error"].as_str() {
        Some(error) => format!("{line}: {error}"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(result: Option<Value>, error: Option<&str>) -> TaskStatus {
        TaskStatus {
            name: TASK.to_owned(),
            description: String::new(),
            schedule: "off".to_owned(),
            running: false,
            last_started_at: Some("2026-01-02T03:04:05Z".to_owned()),
            last_duration_ms: Some(12),
            last_result: result,
            last_error: error.map(str::to_owned),
            runs: 1,
            failures: 0,
        }
    }

    #[test]
    fn the_last_comparison_is_shown_with_what_it_did() {
        let mut never = task(None, None);
        never.last_started_at = None;
        let text = "database, keeper, kernel and daemon were not compared yet";
        assert_eq!(judge(&never), [check(PART, Verdict::Warning, text)]);
        let result = json!({
            "compared": {"instances": 2, "actors": 2, "children": 1, "listeners": 2, "cgroups": 0, "folders": 3},
            "differences": 1,
            "healed": [],
            "failed": [{"kind": "row-without-actor", "instance": "x", "what": "nobody", "error": "no port"}],
            "kept": [{"kind": "folder-without-row", "instance": "y", "what": "a folder"}],
        });
        let told = judge(&task(Some(result.clone()), None));
        let expected = [
            check(
                PART,
                Verdict::Ok,
                "of 2026-01-02T03:04:05Z: 1 difference; 2 records, 2 actors, 1 children, 2 listeners, 0 cgroups, 3 folders",
            ),
            check(PART, Verdict::Failed, "failed: nobody (x): no port"),
            check(PART, Verdict::Warning, "kept: a folder (y)"),
        ];
        assert_eq!(told, expected);
        // What an earlier one found stays beside the word that this one could not be made.
        let away = judge(&task(Some(result), Some("the keeper is away")));
        let text = "of 2026-01-02T03:04:05Z, could not be made: the keeper is away";
        assert_eq!(away[0], check(PART, Verdict::Failed, text));
        assert_eq!(away[1..], told[1..]);
    }
}
