//! The verbs on instances.

mod egress;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use jiff::Timestamp;

use super::{
    arguments::{LeaseOptions, LsOptions},
    failure::Failure,
    output::{self, Output, age, due, plain},
    run_options::{RunOptions, SleepOptions},
    settings,
};
use crate::{
    client::{Client, ListQuery, Reply},
    domain::id::InstanceId,
    interchange::export::claude_line,
    wire::{CreateInstance, Instance, PatchInstance},
};

/// Shortest beginning of an id that is looked up.
const PREFIX_CHARS: usize = 4;

/// What the API is asked for when a person typed `text`: a full id and a name go as they are, `OWNER/NAME` as the slug, the
/// beginning of an id becomes the id, if there is but one.
pub(super) async fn resolve(client: &Client, text: &str) -> Result<String, Failure> {
    if let Some(slug) = of_owner(text) {
        return Ok(slug);
    }
    let prefix = text.len() >= PREFIX_CHARS
        && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
        && text.parse::<InstanceId>().is_err();
    if !prefix {
        return Ok(text.to_owned());
    }
    let page = client.list(&ListQuery::default()).await?.read()?;
    choose(text, &page.items)
}

/// The slug that is meant by `OWNER/NAME`.
fn of_owner(text: &str) -> Option<String> {
    let (owner, name) = text.split_once('/')?;
    Some(format!("{owner}.{name}"))
}

fn choose(text: &str, instances: &[Instance]) -> Result<String, Failure> {
    if instances.iter().any(|instance| instance.called() == text) {
        return Ok(text.to_owned());
    }
    let text = text.to_ascii_lowercase();
    let found: Vec<&Instance> = instances
        .iter()
        .filter(|instance| instance.id.starts_with(&text))
        .collect();
    match found.as_slice() {
        [] => Ok(text),
        [one] => Ok(one.id.clone()),
        many => Err(Failure::Usage(format!(
            "{text} begins the ids of {} instances: {}",
            many.len(),
            many.iter()
                .take(5)
                .map(|instance| instance.called())
                .collect::<Vec<_>>()
                .join(", ")
        ))),
    }
}

pub(super) async fn create(
    client: &Client,
    options: RunOptions,
    out: Output,
) -> Result<ExitCode, Failure> {
    let mut chosen: BTreeMap<String, serde_json::Value> = options
        .settings
        .into_iter()
        .map(|(key, text)| (key, settings::value(&text)))
        .collect();
    if !options.variables.is_empty() {
        let schema = client
            .template(&options.template)
            .await?
            .read()?
            .settings_schema;
        for (name, text) in &options.variables {
            let (setting, value) = settings::by_variable(&schema, name, text)?;
            chosen.insert(setting, value);
        }
    }
    let request = CreateInstance {
        template: options.template,
        owner: options.owner,
        name: options.name,
        ttl: options.ttl.map(|ttl| ttl.to_string().into()),
        credentials: options.credentials.into_iter().collect(),
        settings: chosen,
        labels: options.labels.into_iter().collect(),
        freeze_after: options.freeze_after.map(|after| after.to_string().into()),
        sleep_after: options.sleep_after.map(|after| after.to_string().into()),
        force: options.force,
    };
    let wait = (!options.no_wait).then(|| options.wait.std());
    let deadline = tokio::time::Instant::now() + wait.unwrap_or_default();
    let reply = client.create(&request, wait).await?;
    let mut instance = reply.read()?;
    let mut json = reply.json().to_owned();
    // The API waits no longer than one request may take; we may.
    while !settled(&instance) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(POLL_INTERVAL).await;
        let token = (instance.access_token.take(), instance.connect_url.take());
        instance = client.get(&instance.id).await?.read()?;
        (instance.access_token, instance.connect_url) = token;
        json =
            serde_json::to_string(&instance).map_err(|error| Failure::Failed(error.to_string()))?;
    }
    if out.json {
        out.line(&json)?;
    } else {
        out.line(&created(&instance))?;
    }
    if options.no_wait || is_up(&instance) {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::Failed(not_running(&instance)))
}

/// Between two looks at an instance that starts.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

fn is_up(instance: &Instance) -> bool {
    matches!(instance.status.as_str(), "running" | "unhealthy" | "frozen")
}

/// Whether waiting longer is of no use.
fn settled(instance: &Instance) -> bool {
    is_up(instance) || matches!(instance.status.as_str(), "failed" | "stopped" | "expired")
}

fn not_running(instance: &Instance) -> String {
    let mut text = format!("{} is {}", instance.called(), instance.status);
    if let Some(reason) = &instance.reason {
        text.push_str(": ");
        text.push_str(reason);
    }
    for line in instance.last_exit.iter().flat_map(|exit| &exit.last_stderr) {
        text.push_str("\n  ");
        text.push_str(line);
    }
    text
}

pub(super) fn created(instance: &Instance) -> String {
    let mut text = format!("{} is {}\n\n", instance.called(), instance.status);
    text.push_str(&format!("  Access URL   {}\n", instance.access_url));
    if let Some(token) = &instance.access_token {
        text.push_str(&format!("  Token        {token}   (shown this once)\n"));
        if let Some(url) = &instance.connect_url {
            text.push_str(&format!("  Both in one  {url}\n"));
        }
        let line = claude_line(&instance.name, &instance.access_url, token);
        text.push_str(&format!("\n  {line}\n"));
    }
    text.trim_end().to_owned()
}

pub(super) async fn list(client: &Client, options: LsOptions, out: Output) -> Result<(), Failure> {
    let filtered =
        options.status.is_some() || options.template.is_some() || options.owner.is_some();
    let query = ListQuery {
        status: options.status,
        template: options.template,
        owner: options.owner,
    };
    let reply = client.list(&query).await?;
    if out.json {
        return out.line(reply.json());
    }
    let items = reply.read()?.items;
    if options.quiet {
        return items.iter().try_for_each(|instance| out.line(&instance.id));
    }
    if items.is_empty() {
        return out.line(if filtered {
            "No instance matches."
        } else {
            "There are no instances; `minimcp run demo` makes one."
        });
    }
    out.line(&listed(&items, Timestamp::now(), out))
}

fn listed(items: &[Instance], now: Timestamp, out: Output) -> String {
    let rows = items
        .iter()
        .map(|instance| {
            [
                instance.called().to_owned(),
                instance.template.clone(),
                instance.status.clone(),
                age(Some(&instance.since), now),
                due(instance.expires_at.as_deref(), now),
                instance.restarts.to_string(),
                instance.access_url.clone(),
            ]
        })
        .collect();
    out.table(
        [
            "name",
            "template",
            "status",
            "for",
            "expires",
            "restarts",
            "access url",
        ],
        rows,
    )
}

pub(super) async fn inspect(client: &Client, text: &str, out: Output) -> Result<(), Failure> {
    let instance = resolve(client, text).await?;
    let reply = client.get(&instance).await?;
    if out.json {
        return out.line(reply.json());
    }
    out.line(&described(&reply.read()?, Timestamp::now()))
}

fn described(instance: &Instance, now: Timestamp) -> String {
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let at = |time: Option<&str>| match time {
        Some(text) => format!("{text} ({})", due(time, now)),
        None => "-".to_owned(),
    };
    let mut lines: Vec<(&str, String)> = vec![
        ("Name", instance.name.clone()),
        ("Id", instance.id.clone()),
        ("Owner", instance.owner.clone()),
        ("Template", instance.template.clone()),
        (
            "Status",
            format!(
                "{} for {}",
                instance.status,
                age(Some(&instance.since), now)
            ),
        ),
    ];
    if let Some(reason) = &instance.reason {
        lines.push(("Reason", reason.clone()));
    }
    if instance.next_action_at.is_some() {
        lines.push(("Next action", at(instance.next_action_at.as_deref())));
    }
    lines.extend([
        ("Health", instance.health.clone()),
        ("Wanted", instance.desired.clone()),
        ("Access URL", instance.access_url.clone()),
        ("Path URL", instance.path_url.clone()),
    ]);
    lines.push(match &instance.remote {
        Some(url) => ("Remote", format!("{url} (no process runs here)")),
        None => ("Process", optional(instance.pid.map(|pid| pid.to_string()))),
    });
    for (index, child) in instance.session_children.iter().enumerate() {
        let title = if index == 0 { "Sessions" } else { "" };
        let pid = optional(child.pid.map(|pid| pid.to_string()));
        lines.push((title, format!("child {}, process {pid}", child.number)));
    }
    lines.extend([
        (
            "Launches",
            format!("{} ({} restarts)", instance.generation, instance.restarts),
        ),
        ("Created", at(Some(&instance.created_at))),
        ("Expires", at(instance.expires_at.as_deref())),
    ]);
    if instance.restore_until.is_some() {
        lines.push(("Restorable", at(instance.restore_until.as_deref())));
    }
    let never = || "never".to_owned();
    let after = |after: &Option<String>| after.clone().unwrap_or_else(never);
    lines.push(("Frozen after", after(&instance.freeze_after)));
    lines.push(("Sleeps after", after(&instance.sleep_after)));
    lines.push(("Last used", at(instance.last_accessed_at.as_deref())));
    if let Some(server) = &instance.server {
        lines.push((
            "Server",
            format!(
                "{} {}, MCP {}",
                server.name, server.version, server.protocol_version
            ),
        ));
        lines.push(("Tools", server.tools.join(", ")));
    }
    if let Some(exit) = &instance.last_exit {
        lines.push(("Last exit", format!("{} at {}", exit.cause, exit.at)));
        lines.extend(exit.last_stderr.iter().map(|line| ("", line.clone())));
    }
    let pairs = |map: Vec<(&String, String)>| {
        map.into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (title, text) in [
        (
            "Credentials",
            pairs(
                instance
                    .credentials
                    .iter()
                    .map(|(k, v)| (k, v.clone()))
                    .collect(),
            ),
        ),
        (
            "Settings",
            pairs(
                instance
                    .settings
                    .iter()
                    .map(|(k, v)| (k, v.to_string()))
                    .collect(),
            ),
        ),
        (
            "Labels",
            pairs(
                instance
                    .labels
                    .iter()
                    .map(|(k, v)| (k, v.clone()))
                    .collect(),
            ),
        ),
    ] {
        if !text.is_empty() {
            lines.push((title, text));
        }
    }
    // One in a line: each may say why it does not hold.
    let isolation = instance.isolation.iter().enumerate();
    lines.extend(isolation.map(|(index, (part, state))| {
        let title = if index == 0 { "Isolation" } else { "" };
        (title, format!("{part:<16} {state}"))
    }));
    lines.extend(egress::lines(instance));
    lines.extend(egress::denied(instance));
    lines
        .into_iter()
        .map(|(title, text)| {
            format!("{title:<12} {}", plain(&text))
                .trim_end()
                .to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs `work` for each instance; goes on after a failure, and ends with the first failure's exit code.
async fn for_each(
    client: &Client,
    texts: &[String],
    out: Output,
    work: impl AsyncFn(&str) -> Result<Option<Reply<Instance>>, Failure>,
) -> Result<ExitCode, Failure> {
    let mut code = None;
    for text in texts {
        let outcome = match resolve(client, text).await {
            Ok(instance) => work(&instance).await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(Some(reply)) if out.json => out.line(reply.json())?,
            Ok(Some(reply)) => {
                let instance = reply.read()?;
                let mut line = format!("{} is {}", instance.called(), instance.status);
                if let Some(expires_at) = &instance.expires_at {
                    line.push_str(&format!(
                        ", expires {}",
                        due(Some(expires_at), Timestamp::now())
                    ));
                }
                out.line(&plain(&line))?;
            }
            Ok(None) if out.json => {}
            Ok(None) => out.line(&format!("{text} is deleted"))?,
            Err(failure) if texts.len() == 1 => return Err(failure),
            Err(failure) => {
                output::complain(&format!(
                    "minimcp: {text}: {}",
                    output::plain_lines(&failure.to_string())
                ));
                code.get_or_insert(failure.exit_code());
            }
        }
    }
    Ok(code.unwrap_or(ExitCode::SUCCESS))
}

pub(super) async fn act(
    client: &Client,
    instances: &[String],
    verb: &str,
    out: Output,
) -> Result<ExitCode, Failure> {
    for_each(client, instances, out, async |instance| {
        Ok(Some(client.act(instance, verb).await?))
    })
    .await
}

pub(super) async fn lease(
    client: &Client,
    options: LeaseOptions,
    restore: bool,
    out: Output,
) -> Result<ExitCode, Failure> {
    for_each(client, &options.instances, out, async |instance| {
        Ok(Some(if restore {
            client.restore(instance, options.ttl).await?
        } else {
            client.extend(instance, options.ttl).await?
        }))
    })
    .await
}

pub(super) async fn sleep(
    client: &Client,
    options: SleepOptions,
    out: Output,
) -> Result<ExitCode, Failure> {
    let after = options.after.map(|after| after.to_string().into());
    let change = PatchInstance {
        sleep_after: Some(after.unwrap_or_default()),
        ..PatchInstance::default()
    };
    for_each(client, &options.instances, out, async |instance| {
        Ok(Some(client.change(instance, &change).await?))
    })
    .await
}

pub(super) async fn delete(
    client: &Client,
    instances: &[String],
    out: Output,
) -> Result<ExitCode, Failure> {
    for_each(client, instances, out, async |instance| {
        client.delete(instance).await?;
        Ok(None)
    })
    .await
}

#[cfg(test)]
pub(super) mod tests;
