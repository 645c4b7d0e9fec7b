//! `minimcp support-bundle`: what somebody needs who looks for a fault, in one file and without a secret.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use clap::Args;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use super::{
    arguments::{ConfigFile, GlobalOptions},
    configuration, connection, doctor,
    failure::Failure,
    output::Output,
    redaction::{hide_in_text, hide_in_value},
};
use crate::client::{Client, ListQuery};

/// Of each file and each command's words so many bytes are kept, the last ones.
const PART_BYTES_MAX: usize = 4 << 20;
/// How long a command of the system may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(20);
/// Newest lines of the journal.
const JOURNAL_LINES: &str = "5000";
/// Events of one instance, the newest.
const EVENTS_MAX: usize = 200;
/// Pages of events that are read of one instance to find the newest.
const EVENT_PAGES_MAX: usize = 50;

/// What the kernel and this system tell of themselves.
const SYSTEM_FILES: [&str; 17] = [
    "/etc/os-release",
    "/proc/version",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/pressure/cpu",
    "/proc/pressure/memory",
    "/proc/pressure/io",
    "/proc/sys/fs/file-nr",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/sys/user/max_user_namespaces",
    "/sys/kernel/security/lsm",
    "/sys/fs/cgroup/cgroup.controllers",
    "/proc/self/limits",
    "/proc/self/cgroup",
];

/// Properties of the units; none of them holds an environment or arguments.
const UNIT_PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,Result,NRestarts,ExecMainStatus,\
    ExecMainStartTimestamp,ActiveEnterTimestamp,MemoryCurrent,TasksCurrent,CPUUsageNSec,UnitFileState,NeedDaemonReload";

#[derive(Debug, Args)]
pub(crate) struct SupportBundleOptions {
    /// The file; it must not exist. Without it one with the time in its name, in this folder.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A log of the daemon to put in, when it does not write to the journal.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

/// The files of a bundle, in memory.
#[derive(Default)]
struct Bundle(Vec<(String, String)>);

impl Bundle {
    fn text(&mut self, name: &str, text: &str) {
        let mut begin = text.len().saturating_sub(PART_BYTES_MAX);
        while !text.is_char_boundary(begin) {
            begin += 1;
        }
        self.0.push((name.to_owned(), hide_in_text(&text[begin..])));
    }

    fn value(&mut self, name: &str, mut value: Value) {
        hide_in_value(&mut value);
        let text = serde_json::to_string_pretty(&value).unwrap_or_default();
        self.0.push((name.to_owned(), text + "\n"));
    }

    /// What the API answered, or why it did not.
    fn answer<T, E: std::fmt::Display>(
        &mut self,
        name: &str,
        answer: Result<crate::client::Reply<T>, E>,
    ) where
        T: serde::de::DeserializeOwned,
    {
        let value = match answer {
            Ok(reply) => serde_json::from_str(reply.json()).unwrap_or(Value::Null),
            Err(error) => json!({ "not_answered": error.to_string() }),
        };
        self.value(name, value);
    }

    /// Writes a new file that only we can read.
    fn write(&self, file: &Path) -> std::io::Result<()> {
        let target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?;
        let mut archive = tar::Builder::new(GzEncoder::new(target, Compression::default()));
        for (name, text) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            let path = Path::new("minimcp-support").join(name);
            archive.append_data(&mut header, path, text.as_bytes())?;
        }
        let mut target = archive.into_inner()?.finish()?;
        target.flush()?;
        target.sync_all()
    }
}

pub(super) async fn run(
    global: &GlobalOptions,
    options: &SupportBundleOptions,
    out: Output,
) -> Result<ExitCode, Failure> {
    let file = match &options.file {
        Some(file) => file.clone(),
        None => {
            let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
            PathBuf::from(format!("minimcp-support-{now}.tar.gz"))
        }
    };
    if file.exists() {
        return Err(Failure::Usage(format!("{} exists", file.display())));
    }
    let mut bundle = Bundle::default();
    let checks = doctor::checks(global).await;
    bundle.value(
        "doctor.json",
        serde_json::to_value(&checks).unwrap_or_default(),
    );
    let config = match configuration::load(&options.config) {
        Ok(config) => serde_json::to_value(config.without_password()).unwrap_or_default(),
        Err(failure) => json!({ "not_read": failure.to_string() }),
    };
    bundle.value("config.json", config);
    bundle.value(
        "versions.json",
        json!({ "minimcp": env!("CARGO_PKG_VERSION") }),
    );
    of_system(&mut bundle).await;
    for (number, log) in options.log.iter().enumerate() {
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        let text =
            fs::read(log).map_err(|error| Failure::Usage(format!("{}: {error}", log.display())))?;
        let text = String::from_utf8_lossy(&text);
        bundle.text(&format!("logs/{number}-{name}"), &text);
    }
    match connection::connect(global, &connection::environment) {
        Ok(client) => of_daemon(&mut bundle, &client).await,
        Err(failure) => bundle.value("daemon.json", json!({ "not_asked": failure.to_string() })),
    }
    bundle.write(&file).map_err(|error| {
        Failure::Failed(format!("{} cannot be written: {error}", file.display()))
    })?;
    if out.json {
        let names: Vec<&str> = bundle.0.iter().map(|(name, _)| name.as_str()).collect();
        out.line(&json!({ "file": file, "parts": names }).to_string())?;
    } else {
        out.line(&format!(
            "{} holds {} parts. Texts that look like secrets are taken out; look through it before you send it on.",
            file.display(),
            bundle.0.len()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What this machine tells: the kernel, the units, the journal.
async fn of_system(bundle: &mut Bundle) {
    let mut kernel = String::new();
    for path in SYSTEM_FILES {
        let text = fs::read_to_string(path).unwrap_or_else(|error| format!("({error})\n"));
        kernel.push_str(&format!("== {path}\n{text}\n"));
    }
    bundle.text("system.txt", &kernel);
    let units = ["minimcp.service", "minimcp-keeper.service"];
    let mut show = vec!["show", "--no-pager", UNIT_PROPERTIES];
    show.extend(units);
    bundle.text("units.txt", &said("systemctl", &show).await);
    let journal = [
        "--no-pager",
        "--output=short-iso",
        "--lines",
        JOURNAL_LINES,
        "--unit",
        units[0],
        "--unit",
        units[1],
    ];
    bundle.text("journal.txt", &said("journalctl", &journal).await);
}

/// What a command says, or why it says nothing.
async fn said(program: &str, arguments: &[&str]) -> String {
    let command = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(COMMAND_PATIENCE, command).await {
        Ok(Ok(output)) => format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Ok(Err(error)) => format!("{program}: {error}\n"),
        Err(_) => format!("{program}: no answer in time\n"),
    }
}

/// What the daemon tells of itself and its instances.
async fn of_daemon(bundle: &mut Bundle, client: &Client) {
    bundle.answer("readiness.json", client.readiness().await);
    bundle.answer("diagnostics.json", client.diagnostics().await);
    bundle.answer("tasks.json", client.tasks().await);
    bundle.answer("ports.json", client.ports().await);
    bundle.answer("templates.json", client.templates().await);
    match client.metrics_text().await {
        Ok(text) => bundle.text("metrics.txt", &text),
        Err(error) => bundle.text("metrics.txt", &format!("not answered: {error}\n")),
    }
    let instances = client.list(&ListQuery::default()).await;
    let names: Vec<String> = match instances.as_ref().map(|reply| reply.read()) {
        Ok(Ok(page)) => page.items.into_iter().map(|one| one.name).collect(),
        _ => Vec::new(),
    };
    bundle.answer("instances.json", instances);
    let mut events = serde_json::Map::new();
    for name in names {
        let newest = newest_events(client, &name).await;
        events.insert(name, newest);
    }
    bundle.value("events.json", Value::Object(events));
}

async fn newest_events(client: &Client, instance: &str) -> Value {
    let (mut newest, mut cursor) = (Vec::<Value>::new(), None);
    for _ in 0..EVENT_PAGES_MAX {
        let page = client.events_of(instance, cursor).await;
        let page = page.and_then(|reply| {
            serde_json::from_str::<crate::wire::Page<Value>>(reply.json()).map_err(|error| {
                crate::client::ClientError::Strange {
                    reason: error.to_string(),
                }
            })
        });
        let page = match page {
            Ok(page) => page,
            Err(error) => return json!({ "not_answered": error.to_string() }),
        };
        newest.extend(page.items);
        let surplus = newest.len().saturating_sub(EVENTS_MAX);
        newest.drain(..surplus);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Value::Array(newest)
}
