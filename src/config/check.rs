//! What must hold of a configuration as a whole.

use std::{fmt, path::Path};

use tokio_cron_scheduler::Job;

use super::{Config, DEFAULT_SCHEDULES};
use crate::domain::{budget::Budget, duration::HumanDuration, sandbox::is_plain};

/// One thing that is wrong, and where: `section.key`, or the name of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// Where.
    pub place: String,
    /// What is wrong and what is allowed. Never holds a password.
    pub reason: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

impl ConfigFault {
    pub(super) fn new(place: &str, reason: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            reason: reason.into(),
        }
    }

    /// A name that nobody knows, with the nearest that somebody does.
    pub(super) fn unknown<'a>(
        place: &str,
        what: &str,
        name: &str,
        known: impl Iterator<Item = &'a str>,
    ) -> Self {
        let nearest = known
            .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
            .min()
            .filter(|(distance, _)| *distance <= 1 + name.len() / 3);
        let reason = match nearest {
            Some((_, candidate)) => format!("there is no such {what}; did you mean {candidate:?}?"),
            None => format!("there is no such {what}"),
        };
        Self::new(place, reason)
    }
}

/// Names the kernel's limit for `sockaddr_un.sun_path` (unix(7)), the final NUL included.
const UNIX_PATH_BYTES: usize = 108;

impl Config {
    /// Adds what is wrong with the whole to `faults`.
    pub(super) fn check(&self, faults: &mut Vec<ConfigFault>) {
        let mut refuse = |place: &str, reason: String| faults.push(ConfigFault::new(place, reason));
        let runtime = &self.runtime;
        if runtime.port_min == 0 {
            refuse(
                "runtime.port_min",
                "is 0: the first access port is at least 1".to_owned(),
            );
        }
        if runtime.port_max < runtime.port_min {
            refuse(
                "runtime.port_max",
                format!(
                    "is {}, below runtime.port_min, {}",
                    runtime.port_max, runtime.port_min
                ),
            );
        }
        if self.api.port != 0 && (runtime.port_min..=runtime.port_max).contains(&self.api.port) {
            refuse(
                "api.port",
                format!(
                    "{} lies within the range of access ports, {} to {}",
                    self.api.port, runtime.port_min, runtime.port_max
                ),
            );
        }
        self.check_numbers(&mut refuse);
        self.check_sleep(&mut refuse);
        self.check_budgets(&mut refuse);
        self.check_paths(&mut refuse);
        self.check_texts(&mut refuse);
        let mut unknown = Vec::new();
        for (task, schedule) in &self.tasks {
            if !DEFAULT_SCHEDULES.iter().any(|(known, _)| known == task) {
                unknown.push(task.as_str());
                continue;
            }
            if schedule != "off" && Job::new(schedule, |_, _| {}).is_err() {
                refuse(
                    &format!("tasks.{task}"),
                    format!(
                        "{schedule:?} is not a cron expression with seconds, such as \"0 */5 * * * *\" \
                         (second minute hour day month weekday), nor \"off\""
                    ),
                );
            }
        }
        for task in unknown {
            let known = DEFAULT_SCHEDULES.iter().map(|(known, _)| *known);
            let place = format!("tasks.{task}");
            faults.push(ConfigFault::unknown(&place, "background task", task, known));
        }
    }

    fn check_numbers(&self, refuse: &mut impl FnMut(&str, String)) {
        let at_least: [(&str, u64, u64); 21] = [
            (
                "api.body_limit_bytes",
                self.api.body_limit_bytes as u64,
                1_024,
            ),
            (
                "gateway.body_limit_bytes",
                self.gateway.body_limit_bytes as u64,
                1_024,
            ),
            (
                "gateway.line_limit_bytes",
                self.gateway.line_limit_bytes as u64,
                1_024,
            ),
            ("gateway.sessions_max", self.gateway.sessions_max as u64, 1),
            (
                "gateway.token_concurrency_max",
                self.gateway.token_concurrency_max.unwrap_or(1).into(),
                1,
            ),
            (
                "database.connections_max",
                self.database.connections_max.into(),
                1,
            ),
            (
                "runtime.instances_max",
                self.runtime.instances_max as u64,
                1,
            ),
            ("runtime.launches_max", self.runtime.launches_max as u64, 1),
            (
                "logs.line_limit_bytes",
                self.logs.line_limit_bytes as u64,
                256,
            ),
            ("logs.queue_bytes", self.logs.queue_bytes as u64, 64 << 10),
            ("logs.batch_rows", self.logs.batch_rows as u64, 1),
            ("logs.spool_bytes", self.logs.spool_bytes, 64 << 10),
            (
                "logs.retention_rows_per_instance",
                self.logs.retention_rows_per_instance,
                1,
            ),
            (
                "logs.retention_bytes_per_instance",
                self.logs.retention_bytes_per_instance,
                1 << 20,
            ),
            (
                "logs.retention_bytes_total",
                self.logs.retention_bytes_total,
                self.logs.retention_bytes_per_instance,
            ),
            ("calls.queue_rows", self.calls.queue_rows as u64, 1),
            ("calls.spool_bytes", self.calls.spool_bytes, 64 << 10),
            (
                "calls.spool_bytes",
                self.calls.spool_bytes,
                (self.calls.arguments_bytes as u64).saturating_mul(2),
            ),
            (
                "calls.retention_rows_per_instance",
                self.calls.retention_rows_per_instance,
                1,
            ),
            (
                "logs.queue_bytes",
                self.logs.queue_bytes as u64,
                self.logs.line_limit_bytes as u64,
            ),
            (
                "logs.spool_bytes",
                self.logs.spool_bytes,
                self.logs.line_limit_bytes as u64,
            ),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for (place, value, least) in at_least {
            if value < least && seen.insert(place) {
                refuse(place, format!("is {value}; at least {least} is needed"));
            }
        }
        let positive: [(&str, HumanDuration); 9] = [
            ("api.request_timeout", self.api.request_timeout),
            ("gateway.wake_budget", self.gateway.wake_budget),
            ("gateway.call_timeout", self.gateway.call_timeout),
            ("gateway.session_idle", self.gateway.session_idle),
            ("database.acquire_timeout", self.database.acquire_timeout),
            (
                "database.statement_timeout",
                self.database.statement_timeout,
            ),
            ("logs.batch_delay", self.logs.batch_delay),
            ("logs.retention", self.logs.retention),
            ("calls.retention", self.calls.retention),
        ];
        let optional = [
            ("sleep.after_default", self.sleep.after_default),
            ("sleep.after_max", self.sleep.after_max),
            (
                "sleep.freeze_after_default",
                self.sleep.freeze_after_default,
            ),
            ("sleep.freeze_after_max", self.sleep.freeze_after_max),
        ];
        let optional = optional
            .into_iter()
            .filter_map(|(place, given)| Some((place, given?)));
        for (place, duration) in positive.into_iter().chain(optional) {
            if duration.ms() == 0 {
                refuse(
                    place,
                    "is 0; a duration above 0 is needed, such as \"30s\"".to_owned(),
                );
            }
        }
    }

    fn check_sleep(&self, refuse: &mut impl FnMut(&str, String)) {
        if let Some(percent) = self.sleep.memory_pressure.filter(|percent| *percent > 100) {
            refuse(
                "sleep.memory_pressure",
                format!("is {percent}; it is a percentage, 0 to 100"),
            );
        }
    }

    fn check_budgets(&self, refuse: &mut impl FnMut(&str, String)) {
        let budgets = &self.budgets;
        let all = Budget {
            instances_max: budgets.instances_max,
            awake_max: budgets.awake_max,
            memory_bytes_max: budgets.memory_bytes_max,
        };
        let own = budgets.owner.iter();
        let own = own.map(|(owner, budget)| (format!("budgets.owner.{owner}"), *budget));
        for (place, budget) in own.chain([("budgets".to_owned(), all)]) {
            for (key, is_zero) in [
                ("awake_max", budget.awake_max == Some(0)),
                ("memory_bytes_max", budget.memory_bytes_max == Some(0)),
            ] {
                if is_zero {
                    let reason =
                        "is 0, with which nothing would ever run; leave it out for no bound";
                    refuse(&format!("{place}.{key}"), reason.to_owned());
                }
            }
        }
    }

    fn check_paths(&self, refuse: &mut impl FnMut(&str, String)) {
        let needed: [(&str, &Path); 7] = [
            ("api.admin_token_file", &self.api.admin_token_file),
            ("runtime.imports_dir", &self.runtime.imports_dir),
            ("runtime.instance_dir", &self.runtime.instance_dir),
            ("runtime.keeper_socket", &self.runtime.keeper_socket),
            ("logs.spool_dir", &self.logs.spool_dir),
            ("calls.spool_dir", &self.calls.spool_dir),
            ("secrets.key_file", &self.secrets.key_file),
        ];
        for (place, path) in needed {
            if path.as_os_str().is_empty() {
                refuse(place, "is empty; a path is needed".to_owned());
            }
        }
        let sockets = [
            ("api.unix_socket", self.api.unix_socket.as_deref()),
            (
                "runtime.keeper_socket",
                Some(self.runtime.keeper_socket.as_path()),
            ),
        ];
        for (place, path) in sockets {
            let bytes = path.map_or(0, |path| path.as_os_str().len());
            if bytes >= UNIX_PATH_BYTES {
                refuse(
                    place,
                    format!(
                        "is {bytes} bytes long; a unix socket's path has at most {} bytes",
                        UNIX_PATH_BYTES - 1
                    ),
                );
            }
        }
        let sandbox = &self.sandbox;
        for (place, list) in [
            ("sandbox.allow_read", &sandbox.allow_read),
            ("sandbox.allow_write", &sandbox.allow_write),
            ("sandbox.read", &sandbox.read),
            ("sandbox.hide", &sandbox.hide),
        ] {
            for path in list.iter().filter(|path| !is_plain(path)) {
                let shown = path.display();
                refuse(
                    place,
                    format!("{shown:?} is not an absolute path without \"..\""),
                );
            }
        }
        for exception in &sandbox.exceptions {
            if exception.reason.trim().is_empty() || exception.reason.contains(char::is_control) {
                let template = &exception.template;
                refuse(
                    "sandbox.exceptions",
                    format!(
                        "the one for {template} needs a reason, in one line: its instances show it"
                    ),
                );
            }
        }
        if let Some(fault) = sandbox.uid_fault() {
            refuse("sandbox.uid_min", fault.to_owned());
        }
        for path in &self.runtime.search_path {
            if !path.is_absolute() {
                refuse(
                    "runtime.search_path",
                    format!(
                        "{:?} is not absolute: programs must not hang on the working folder",
                        path.display()
                    ),
                );
            }
        }
    }

    fn check_texts(&self, refuse: &mut impl FnMut(&str, String)) {
        let url = &self.database.url;
        let known = ["sqlite:", "postgres://", "postgresql://"];
        if !known.iter().any(|scheme| url.starts_with(scheme)) {
            // Not repeated: it may hold a password.
            refuse(
                "database.url",
                "is neither sqlite:PATH nor postgres://USER@HOST/DATABASE".to_owned(),
            );
        } else if url == "sqlite:" {
            refuse(
                "database.url",
                "names no file: write sqlite:PATH".to_owned(),
            );
        }
        if let Some((key, fault)) = self.traces.fault_of_address() {
            refuse(key, fault.to_owned());
        }
        let ratio = self.traces.sampling_ratio;
        if !(0.0..=1.0).contains(&ratio) {
            refuse(
                "traces.sampling_ratio",
                format!("is {ratio}: 0 to 1 is allowed"),
            );
        }
        let origins = [
            ("api.cors_origins", &self.api.cors_origins),
            ("gateway.allowed_origins", &self.gateway.allowed_origins),
        ];
        for (place, list) in origins {
            for origin in list {
                let host = origin.split_once("://").map(|(_, host)| host);
                let whole = host.is_some_and(|host| !host.is_empty() && !host.contains('/'));
                if !whole && origin != "*" {
                    refuse(
                        place,
                        format!(
                            "{origin:?} is not an origin such as https://app.example.com (no path, no final slash)"
                        ),
                    );
                }
            }
        }
        if let Some(host) = &self.gateway.public_host
            && (host.is_empty() || host.contains(['/', ' ']))
        {
            refuse(
                "gateway.public_host",
                format!("{host:?} is not a host name"),
            );
        }
        for host in &self.gateway.allowed_hosts {
            if host.is_empty() || host.contains(['/', ' ']) {
                refuse(
                    "gateway.allowed_hosts",
                    format!("{host:?} is not a host name"),
                );
            }
        }
    }
}
