//! Numbers of the rooms for `/metrics`.

mod rest;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    api::{MetricsSource, Sample, SampleKind},
    calls::Calls,
    config::Config,
    domain::{
        call::{CallOutcome, CallRecord},
        latency::Latency,
    },
    gateway::{CallSink, Measures},
    logs::Logs,
    store::Store,
    supervisor::Supervisor,
    tasks::TaskDriver,
    traces,
    wire::SpoolFacts,
};

/// Calls of tools by how they ended, and how long they took.
#[derive(Debug, Default)]
pub(super) struct CallMeasures {
    times: Latency,
    by_outcome: [AtomicU64; CallOutcome::WORDS.len()],
}

impl CallMeasures {
    pub(super) fn observe(&self, record: &CallRecord) {
        let us = u64::try_from(record.duration_us).unwrap_or(0);
        self.times.observe(Duration::from_micros(us));
        let word = record.outcome.word();
        let at = CallOutcome::WORDS.iter().position(|known| *known == word);
        if let Some(count) = at.and_then(|at| self.by_outcome.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where calls end: counted, and kept if the configuration says so.
pub(super) fn call_sink(config: &Config, calls: Calls, measures: Arc<CallMeasures>) -> CallSink {
    let enabled = config.calls.enabled;
    CallSink {
        take: Box::new(move |record| {
            if enabled {
                measures.observe(&record);
                calls.record(record);
            }
        }),
        arguments_bytes: config.calls.arguments_bytes,
    }
}

/// The sources, one for each room.
pub(super) fn sources(
    supervisor: &Supervisor,
    logs: Logs,
    (calls, call_measures): (Calls, Arc<CallMeasures>),
    gateway: Arc<Measures>,
    store: Store,
    tasks: Arc<TaskDriver>,
) -> Vec<Arc<dyn MetricsSource>> {
    vec![
        Arc::new(Instances(supervisor.clone())),
        Arc::new(LogLines(logs)),
        Arc::new(move || of_gateway(&gateway)),
        Arc::new(CallRecords(calls)),
        Arc::new(move || of_calls(&call_measures)),
        Arc::new(move || of_database(&store)),
        Arc::new(Tasks(tasks)),
        Arc::new(of_traces),
    ]
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus numbers are floats; counts stay far below 2^52"
)]
fn sample(name: &'static str, help: &'static str, kind: SampleKind, value: u64) -> Sample {
    Sample::new(name, help, kind, value as f64)
}

fn of_traces() -> Vec<Sample> {
    let (exported, dropped) = traces::counts();
    let of = |(outcome, count)| {
        let help = "Spans that the collector took, and spans that were lost";
        sample("trace_spans", help, SampleKind::Counter, count).with("outcome", outcome)
    };
    [("exported", exported), ("dropped", dropped)]
        .map(of)
        .into()
}

struct Instances(Supervisor);

impl MetricsSource for Instances {
    fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (status, count) in self.0.count_by_status() {
            let mut one = sample(
                "instances",
                "Instances by status",
                SampleKind::Gauge,
                count as u64,
            );
            one.labels.push(("status", status.to_owned()));
            samples.push(one);
        }
        let (allowed, used, waiting) = self.0.launch_turns();
        for (state, count) in [("allowed", allowed), ("used", used), ("waiting", waiting)] {
            let mut one = sample(
                "launch_turns",
                "Launches at the same time: allowed as busy as the host is, under way, and waiting for their turn",
                SampleKind::Gauge,
                count as u64,
            );
            one.labels.push(("state", state.to_owned()));
            samples.push(one);
        }
        for (profile, count) in self.0.count_by_profile() {
            let mut one = sample(
                "instances_by_profile",
                "Instances with a child, by the profile of their sandbox: others than strict are on the operator's word",
                SampleKind::Gauge,
                count as u64,
            );
            one.labels.push(("profile", profile.to_owned()));
            samples.push(one);
        }
        let totals = self.0.totals();
        samples.push(sample(
            "gateway_requests",
            "Requests relayed to instances that exist now",
            SampleKind::Gauge,
            totals.requests,
        ));
        samples.push(sample(
            "gateway_sessions",
            "Client sessions open",
            SampleKind::Gauge,
            totals.sessions,
        ));
        samples.push(sample(
            "session_children",
            "Children that serve one client session each",
            SampleKind::Gauge,
            totals.session_children,
        ));
        samples.push(sample(
            "launches",
            "Children launched",
            SampleKind::Counter,
            totals.launches,
        ));
        samples.push(sample(
            "restarts",
            "Launches by the restart policy",
            SampleKind::Counter,
            totals.restarts,
        ));
        samples.push(Sample::histogram(
            "spawn_duration_seconds",
            "Time that the keeper took to start a process",
            self.0.spawn_times(),
        ));
        samples.push(Sample::histogram(
            "ready_duration_seconds",
            "Time from the turn to launch until the server had shaken hands",
            self.0.ready_times(),
        ));
        samples.extend(rest::samples(&self.0));
        samples.push(sample(
            "capability_changes",
            "Servers that offered something else after a launch than was answered for them before",
            SampleKind::Counter,
            self.0.capability_changes(),
        ));
        let (calls, connections) = self.0.count_refusals();
        samples.push(sample(
            "denied_system_calls",
            "System calls refused to instances that exist now",
            SampleKind::Gauge,
            calls,
        ));
        samples.push(sample(
            "refused_connections",
            "Connections and questions for names refused to instances that exist now",
            SampleKind::Gauge,
            connections,
        ));
        let ports = self.0.ports();
        samples.push(sample(
            "ports_free",
            "Access ports that can be leased",
            SampleKind::Gauge,
            ports.free() as u64,
        ));
        for (kind, outcome, count) in self.0.count_reconciled() {
            let help =
                "Differences between database, keeper, kernel and daemon, by what became of them";
            let one = sample("reconcile_differences", help, SampleKind::Counter, count);
            let one = one.with("kind", kind).with("outcome", outcome.word());
            samples.push(one);
        }
        samples.extend(each_instance(&self.0));
        samples
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus numbers are floats; counts stay far below 2^52"
)]
fn each_instance(supervisor: &Supervisor) -> Vec<Sample> {
    let usage = supervisor.usage_by_instance();
    let each = |metric: &'static str, help, kind: SampleKind, of: fn(&(_, _, u64)) -> f64| {
        let samples = usage.iter().map(move |one| {
            Sample::new(metric, help, kind.clone(), of(one)).with("name", one.0.to_string())
        });
        samples.collect::<Vec<_>>()
    };
    type One = (crate::domain::slug::Slug, crate::runtime::TreeUsage, u64);
    let cpu: fn(&One) -> f64 = |one| one.1.cpu_ms as f64 / 1e3;
    let memory: fn(&One) -> f64 = |one| (one.1.rss_kib * 1_024) as f64;
    let restarts: fn(&One) -> f64 = |one| one.2 as f64;
    let mut samples = each(
        "instance_cpu_seconds",
        "CPU time of the main child of an instance and all below it; begins anew with each launch",
        SampleKind::Counter,
        cpu,
    );
    samples.extend(each(
        "instance_resident_memory_bytes",
        "Resident memory of the main child of an instance and all below it; shared pages count for each process",
        SampleKind::Gauge,
        memory,
    ));
    samples.extend(each(
        "instance_restarts",
        "Launches of an instance by the restart policy, since it was created",
        SampleKind::Counter,
        restarts,
    ));
    samples
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus numbers are floats; counts stay far below 2^52"
)]
fn of_gateway(measures: &Measures) -> Vec<Sample> {
    let mut samples = vec![Sample::histogram(
        "gateway_request_duration_seconds",
        "Time to the head of an answer through an access URL",
        measures.times(),
    )];
    for (status, count) in measures.by_status() {
        let one = Sample::new(
            "gateway_answers",
            "Answers through access URLs by HTTP status",
            SampleKind::Counter,
            count as f64,
        );
        samples.push(one.with("status", status.to_string()));
    }
    for (cause, count) in measures.by_cause() {
        let one = Sample::new(
            "gateway_errors",
            "Answers through access URLs with an HTTP status of 400 or more, by cause",
            SampleKind::Counter,
            count as f64,
        );
        samples.push(one.with("cause", cause));
    }
    for (method, count) in measures.in_place() {
        let one = Sample::new(
            "capability_cache_answers",
            "Answers from the capability cache, in place of servers that slept or started, by method",
            SampleKind::Counter,
            count as f64,
        );
        samples.push(one.with("method", method));
    }
    samples
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus numbers are floats; counts stay far below 2^52"
)]
fn of_calls(measures: &CallMeasures) -> Vec<Sample> {
    let mut samples = vec![Sample::histogram(
        "call_duration_seconds",
        "Time of calls of tools, to the end of the answer",
        measures.times.snapshot(),
    )];
    for (word, count) in CallOutcome::WORDS.iter().zip(&measures.by_outcome) {
        let count = count.load(Ordering::Relaxed) as f64;
        let one = Sample::new(
            "call_outcomes",
            "Calls of tools by how they ended",
            SampleKind::Counter,
            count,
        );
        samples.push(one.with("outcome", *word));
    }
    samples
}

/// How full the spools are.
pub(super) fn spools(
    config: &Config,
    logs: Logs,
    calls: Calls,
) -> Box<dyn Fn() -> Vec<SpoolFacts> + Send + Sync> {
    let (logs_max, calls_max) = (config.logs.spool_bytes, config.calls.spool_bytes);
    Box::new(move || {
        let of = |name: &str, bytes, bytes_max| SpoolFacts {
            name: name.to_owned(),
            bytes,
            bytes_max,
        };
        vec![
            of("logs", logs.counters().spool_bytes, logs_max),
            of("calls", calls.counters().spool_bytes, calls_max),
        ]
    })
}

fn of_database(store: &Store) -> Vec<Sample> {
    let (times, failed) = store.statement_times();
    vec![
        Sample::histogram(
            "database_statement_duration_seconds",
            "Time of statements and transactions, the wait for a connection included",
            times,
        ),
        sample(
            "database_failures",
            "Statements and transactions that the database did not do because it was away or too busy",
            SampleKind::Counter,
            failed,
        ),
    ]
}

struct LogLines(Logs);

impl MetricsSource for LogLines {
    fn samples(&self) -> Vec<Sample> {
        let counters = self.0.counters();
        vec![
            sample(
                "log_lines",
                "Log lines captured",
                SampleKind::Counter,
                counters.lines,
            ),
            sample(
                "log_bytes",
                "Bytes of log lines captured",
                SampleKind::Counter,
                counters.bytes,
            ),
            sample(
                "log_lines_stored",
                "Log lines written to the store",
                SampleKind::Counter,
                counters.stored,
            ),
            dropped(
                "no-place",
                counters.dropped
                    - counters.dropped_over_share
                    - counters.dropped_over_rate
                    - counters.dropped_killed,
            ),
            dropped("over-share", counters.dropped_over_share),
            dropped("over-rate", counters.dropped_over_rate),
            dropped("daemon-killed", counters.dropped_killed),
            sample(
                "log_lines_spooled",
                "Log lines that went through the spool",
                SampleKind::Counter,
                counters.spooled,
            ),
            sample(
                "log_store_available",
                "1: the last write of log lines to the database succeeded",
                SampleKind::Gauge,
                u64::from(counters.store_available),
            ),
            sample(
                "log_queue_bytes",
                "Log bytes waiting in memory",
                SampleKind::Gauge,
                counters.queue_bytes as u64,
            ),
            sample(
                "log_spool_bytes",
                "Log bytes waiting on disk",
                SampleKind::Gauge,
                counters.spool_bytes,
            ),
        ]
    }
}

fn dropped(cause: &str, lines: u64) -> Sample {
    let help = "Log lines lost by cause: no place in queue, database and spool; over the instance's share of the spool; over its rate; in the memory of a daemon that was killed";
    sample("log_lines_dropped", help, SampleKind::Counter, lines).with("cause", cause)
}

fn calls_dropped(cause: &str, records: u64) -> Sample {
    let help = "Call records lost by cause: no place in queue, database and spool; in the memory of a daemon that was killed";
    sample("calls_dropped", help, SampleKind::Counter, records).with("cause", cause)
}

struct CallRecords(Calls);

impl MetricsSource for CallRecords {
    fn samples(&self) -> Vec<Sample> {
        let counters = self.0.counters();
        let counter = |name, help, value| sample(name, help, SampleKind::Counter, value);
        vec![
            counter("calls", "Calls of tools recorded", counters.recorded),
            counter(
                "calls_stored",
                "Call records written to the store",
                counters.stored,
            ),
            counter(
                "calls_spooled",
                "Call records that went through the spool",
                counters.spooled,
            ),
            calls_dropped("no-place", counters.dropped - counters.dropped_killed),
            calls_dropped("daemon-killed", counters.dropped_killed),
            sample(
                "call_spool_bytes",
                "Bytes of call records waiting on disk",
                SampleKind::Gauge,
                counters.spool_bytes,
            ),
        ]
    }
}

struct Tasks(Arc<TaskDriver>);

impl MetricsSource for Tasks {
    fn samples(&self) -> Vec<Sample> {
        let statuses = self.0.statuses();
        let mut samples = Vec::new();
        for status in &statuses {
            let runs = sample(
                "task_runs",
                "Runs of background tasks",
                SampleKind::Counter,
                status.runs,
            );
            samples.push(runs.with("task", &*status.name));
        }
        for status in &statuses {
            let help = "Runs of background tasks that failed";
            let failures = sample("task_failures", help, SampleKind::Counter, status.failures);
            samples.push(failures.with("task", &*status.name));
        }
        for status in &statuses {
            let last = Duration::from_millis(status.last_duration_ms.unwrap_or(0));
            let help = "How long the last run of a background task took";
            let last = Sample::new(
                "task_last_duration_seconds",
                help,
                SampleKind::Gauge,
                last.as_secs_f64(),
            );
            samples.push(last.with("task", &*status.name));
        }
        samples
    }
}
