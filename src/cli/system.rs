//! Templates, background tasks and master keys.

use std::{process::ExitCode, time::Duration};

use jiff::Timestamp;

use super::{
    failure::Failure,
    output::{Output, age, plain, rough},
};
use crate::{
    client::Client,
    wire::{TaskStatus, TemplateSummary},
};

pub(super) async fn templates(client: &Client, out: Output) -> Result<(), Failure> {
    let reply = client.templates().await?;
    if out.json {
        return out.line(reply.json());
    }
    out.line(&listed(&reply.read()?.items, out))
}

fn listed(items: &[TemplateSummary], out: Output) -> String {
    let rows = items
        .iter()
        .map(|template| {
            let needs: Vec<&str> = template
                .credentials
                .iter()
                .filter(|credential| credential.required)
                .map(|credential| credential.name.as_str())
                .collect();
            let ways = &template.credentials_one_of;
            let needs = if !ways.is_empty() && needs.is_empty() {
                let ways: Vec<String> = ways.iter().map(|way| way.join(" + ")).collect();
                ways.join(" or ")
            } else if !needs.is_empty() {
                needs.join(", ")
            } else if template.credentials.is_empty() {
                "-".to_owned()
            } else {
                // One of several, or none: only the template's own page can say.
                format!("see `minimcp templates {}`", template.name)
            };
            let state = if template.available { "yes" } else { "no" };
            [
                template.name.clone(),
                template.title.clone(),
                state.to_owned(),
                needs,
            ]
        })
        .collect();
    let mut text = out.table(["name", "title", "available", "credentials"], rows);
    let missing: Vec<_> = items.iter().filter(|item| !item.available).collect();
    if !missing.is_empty() {
        text.push_str("\n\nNot available here:");
    }
    let width = missing.iter().map(|item| item.name.len()).max();
    for template in missing {
        let reason = template.unavailable_reason.as_deref().unwrap_or_default();
        let width = width.unwrap_or_default();
        text.push_str(&format!("\n  {:width$}  {}", template.name, plain(reason)));
    }
    text
}

pub(super) async fn template(client: &Client, name: &str, out: Output) -> Result<(), Failure> {
    let reply = client.template(name).await?;
    if out.json {
        return out.line(reply.json());
    }
    out.line(&described(&reply.read()?))
}

fn described(template: &TemplateSummary) -> String {
    let mut lines = vec![
        format!("{}: {}", template.name, plain(&template.title)),
        format!("  {}", plain(&template.description)),
    ];
    if let Some(reason) = &template.unavailable_reason {
        lines.push(format!("  Not available: {}", plain(reason)));
    }
    if let Some(package) = &template.package {
        let state = match package.state.as_str() {
            "missing" => "installed at the first start",
            "not-needed" => "not needed, the program is there",
            state => state,
        };
        lines.push(format!("  Package: {} ({state})", plain(&package.source)));
        let error = package.error.as_deref().unwrap_or_default();
        lines.extend(error.lines().map(|line| format!("    {}", plain(line))));
    }
    let ttl = template.ttl_default.as_deref().unwrap_or("none");
    lines.push(format!(
        "  TTL: {ttl} by default, at most {}",
        template.ttl_max
    ));
    if template.check.is_some() {
        lines.push(format!(
            "  Credentials can be checked: minimcp credential check --template {} --credential ENV=NAME",
            template.name
        ));
    }
    if !template.credentials_one_of.is_empty() {
        let groups = template.credentials_one_of.iter();
        let groups: Vec<String> = groups.map(|group| group.join(" with ")).collect();
        lines.push(format!("  One of: {}", groups.join("; or ")));
    }
    for credential in &template.credentials {
        let in_group = template
            .credentials_one_of
            .iter()
            .any(|group| group.contains(&credential.name));
        let need = if credential.required {
            "required"
        } else if in_group {
            "one of several"
        } else {
            "optional"
        };
        let need = match credential.delivery.as_str() {
            "file" => format!("{need}, as a file"),
            _ => need.to_owned(),
        };
        lines.push(format!(
            "  Credential {} ({need}): {}",
            credential.name,
            plain(&credential.title)
        ));
        if let Some(must) = &credential.pattern_help {
            lines.push(format!("    It must {}.", plain(must)));
        }
        let help = credential.help.as_deref().unwrap_or_default();
        lines.extend(help.lines().map(|line| format!("    {}", plain(line))));
    }
    let properties = template.settings_schema.get("properties");
    for (name, schema) in properties.and_then(|p| p.as_object()).into_iter().flatten() {
        let word = |key: &str| schema.get(key).and_then(|value| value.as_str());
        let kind = word("type").unwrap_or("any");
        let text = word("description").or(word("title")).unwrap_or_default();
        lines.push(format!("  Setting {name} ({kind}): {}", plain(text)));
    }
    lines.join("\n")
}

pub(super) async fn tasks(client: &Client, out: Output) -> Result<(), Failure> {
    let reply = client.tasks().await?;
    if out.json {
        return out.line(reply.json());
    }
    let now = Timestamp::now();
    let rows = reply
        .read()?
        .items
        .into_iter()
        .map(|task| {
            let state = if task.running {
                "running".to_owned()
            } else if let Some(error) = &task.last_error {
                format!("failed: {error}")
            } else if task.last_started_at.is_some() {
                "ok".to_owned()
            } else {
                "-".to_owned()
            };
            let last = age(task.last_started_at.as_deref(), now);
            [
                task.name,
                task.schedule,
                last,
                task.runs.to_string(),
                state,
                task.description,
            ]
        })
        .collect();
    let header = ["name", "schedule", "last run", "runs", "state", "what"];
    out.line(&out.table(header, rows))
}

/// Between two looks at a task that runs.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A task that runs longer is left alone; its status tells the rest.
const RUN_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) async fn run_task(
    client: &Client,
    name: &str,
    out: Output,
) -> Result<ExitCode, Failure> {
    let find = async || -> Result<Option<TaskStatus>, Failure> {
        let tasks = client.tasks().await?.read()?.items;
        Ok(tasks.into_iter().find(|task| task.name == name))
    };
    let before = find().await?.map_or(0, |task| task.runs);
    let mut task = client.run_task(name).await?.read()?;
    let deadline = tokio::time::Instant::now() + RUN_TIMEOUT;
    while (task.running || task.runs <= before) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(POLL_INTERVAL).await;
        task = find()
            .await?
            .ok_or_else(|| Failure::Failed(format!("the task {name} is gone")))?;
    }
    if out.json {
        let json =
            serde_json::to_string(&task).map_err(|error| Failure::Failed(error.to_string()))?;
        out.line(&json)?;
    }
    match &task.last_error {
        Some(error) if !task.running => Err(Failure::Failed(format!("{name} failed: {error}"))),
        _ if out.json => Ok(ExitCode::SUCCESS),
        _ => {
            out.line(&ran(&task))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn ran(task: &TaskStatus) -> String {
    if task.running {
        return format!("{} still runs", task.name);
    }
    let took = task.last_duration_ms.unwrap_or_default();
    let took = if took < 1_000 {
        format!("{took}ms")
    } else {
        rough(took)
    };
    match &task.last_result {
        Some(result) => format!("{} ran in {took}: {result}", task.name),
        None => format!("{} ran in {took}", task.name),
    }
}

pub(super) async fn keys(client: &Client, out: Output) -> Result<(), Failure> {
    let reply = client.keys().await?;
    if out.json {
        return out.line(reply.json());
    }
    let rows = reply
        .read()?
        .items
        .into_iter()
        .map(|key| {
            let active = if key.active { "yes" } else { "no" };
            [key.id, active.to_owned()]
        })
        .collect();
    out.line(&out.table(["key", "active"], rows))
}

pub(super) async fn retire_keys(client: &Client, out: Output) -> Result<(), Failure> {
    let reply = client.retire_keys().await?;
    if out.json {
        return out.line(reply.json());
    }
    let removed: Vec<String> = reply.read()?.items.into_iter().map(|key| key.id).collect();
    if removed.is_empty() {
        return out.line("Every key still seals a credential, or is the active one.");
    }
    out.line(&format!("Removed {}.", removed.join(", ")))
}

pub(super) async fn rotate_key(client: &Client, out: Output) -> Result<(), Failure> {
    let reply = client.rotate_key().await?;
    if out.json {
        return out.line(reply.json());
    }
    out.line(&format!(
        "Key {} seals from now on; stored credentials are sealed again with it.",
        reply.read()?.id
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(name: &str, reason: Option<&str>) -> TemplateSummary {
        TemplateSummary {
            name: name.to_owned(),
            title: format!("The {name} server"),
            description: "Does things.".to_owned(),
            icons: Vec::new(),
            transport: "stdio".to_owned(),
            available: reason.is_none(),
            package: None,
            unavailable_reason: reason.map(str::to_owned),
            credentials_one_of: Vec::new(),
            check: None,
            credentials: vec![crate::wire::TemplateCredential {
                name: "TOKEN".to_owned(),
                title: "A token".to_owned(),
                help: Some("Open the page.\nPress the button.".to_owned()),
                required: reason.is_none(),
                delivery: "env".to_owned(),
                pattern: None,
                pattern_help: None,
            }],
            settings_schema: serde_json::json!({
                "type": "object",
                "properties": { "depth": { "type": "integer", "description": "How deep." } }
            }),
            ttl_default: Some("1h".to_owned()),
            ttl_max: "30d".to_owned(),
        }
    }

    #[test]
    fn templates_as_a_table_and_one_by_one() {
        let out = Output::plain();
        let items = [
            template("github", None),
            template(
                "git",
                Some("mcp-server-git is not installed: pip install mcp-server-git"),
            ),
        ];
        insta::assert_snapshot!("templates", listed(&items, out));
        insta::assert_snapshot!("one_template", described(&items[1]));
        let mut installed = template("memory", None);
        installed.package = Some(crate::wire::TemplatePackage {
            source: "npm:a@1.2.3".to_owned(),
            state: "failed".to_owned(),
            error: Some("npm said:\nno such version".to_owned()),
        });
        let text = described(&installed);
        let package = "  Package: npm:a@1.2.3 (failed)\n    npm said:\n    no such version\n";
        assert!(text.contains(package), "{text}");
    }

    #[test]
    fn a_run_tells_its_time_and_result() {
        let task = TaskStatus {
            name: "reconcile".to_owned(),
            description: String::new(),
            schedule: "off".to_owned(),
            running: false,
            last_started_at: None,
            last_duration_ms: Some(12),
            last_result: Some(serde_json::json!({"repaired": 0})),
            last_error: None,
            runs: 1,
            failures: 0,
        };
        assert_eq!(ran(&task), "reconcile ran in 12ms: {\"repaired\":0}");
    }
}
