//! Numbers of the rooms for `/metrics`.

use std::sync::Arc;

use crate::{
    api::{MetricsSource, Sample, SampleKind},
    calls::Calls,
    logs::Logs,
    supervisor::Supervisor,
    tasks::TaskDriver,
};

/// The sources, one for each room.
pub(super) fn sources(
    supervisor: &Supervisor,
    logs: Logs,
    calls: Calls,
    tasks: Arc<TaskDriver>,
) -> Vec<Arc<dyn MetricsSource>> {
    vec![
        Arc::new(Instances(supervisor.clone())),
        Arc::new(LogLines(logs)),
        Arc::new(CallRecords(calls)),
        Arc::new(Tasks(tasks)),
    ]
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus numbers are floats; counts stay far below 2^52"
)]
fn sample(name: &'static str, help: &'static str, kind: SampleKind, value: u64) -> Sample {
    Sample::new(name, help, kind, value as f64)
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
        samples
    }
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
            sample(
                "log_lines_dropped",
                "Log lines lost",
                SampleKind::Counter,
                counters.dropped,
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
            counter("calls_dropped", "Call records lost", counters.dropped),
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
        let runs = statuses.into_iter().map(|status| {
            let mut one = sample(
                "task_runs",
                "Runs of background tasks",
                SampleKind::Counter,
                status.runs,
            );
            one.labels.push(("task", status.name));
            one
        });
        runs.collect()
    }
}
