//! `/metrics`: the API's own counters, and samples that other rooms give when asked.

use std::{fmt, sync::Arc, time::Duration};

use http::Method;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, text},
    metrics::{MetricType, counter::Counter, family::Family, histogram::Histogram, info::Info},
    registry::Registry,
};

use crate::domain::latency::LatencySnapshot;

/// What kind of number it is.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleKind {
    /// It only rises, and starts again from 0 with the daemon.
    Counter,
    /// It may fall.
    Gauge,
    /// Durations by size; the sample has no other value.
    Histogram(LatencySnapshot),
}

/// One number of `/metrics`, or one label set of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Without the prefix `minimcp_` and without the suffix `_total`, units last: `log_queue_bytes`.
    pub name: &'static str,
    /// One sentence, without a full stop.
    pub help: &'static str,
    /// Its kind; the same for all samples of this name.
    pub kind: SampleKind,
    /// Its labels; few values each, never free text. The name of an instance is one only where each instance is told apart,
    /// and then of those that exist now, which `runtime.instances_max` bounds.
    pub labels: Vec<(&'static str, String)>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A sample without labels.
    #[must_use]
    pub fn new(name: &'static str, help: &'static str, kind: SampleKind, value: f64) -> Self {
        Self {
            name,
            help,
            kind,
            labels: Vec::new(),
            value,
        }
    }

    /// A histogram without labels.
    #[must_use]
    pub fn histogram(name: &'static str, help: &'static str, times: LatencySnapshot) -> Self {
        Self::new(name, help, SampleKind::Histogram(times), 0.0)
    }

    /// With one label more.
    #[must_use]
    pub fn with(mut self, label: &'static str, value: impl Into<String>) -> Self {
        self.labels.push((label, value.into()));
        self
    }
}

/// Gives samples when `/metrics` is read: numbers in memory and of /proc, never a database read. It may block for a moment.
pub trait MetricsSource: Send + Sync {
    /// The samples as they are now; samples of one name stand together.
    fn samples(&self) -> Vec<Sample>;
}

impl<F: Fn() -> Vec<Sample> + Send + Sync> MetricsSource for F {
    fn samples(&self) -> Vec<Sample> {
        self()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: String,
    route: String,
}

/// The counters of the API and the sources of the rest.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
}

const LATENCY_BOUNDS_S: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

impl Metrics {
    /// Its own counters, the process and the build, and `sources`.
    #[must_use]
    pub fn new(sources: Vec<Arc<dyn MetricsSource>>) -> Self {
        let mut registry = Registry::with_prefix("minimcp");
        let requests = Family::default();
        let seconds = Family::new_with_constructor(
            (|| Histogram::new(LATENCY_BOUNDS_S)) as fn() -> Histogram,
        );
        registry.register("http_requests", "API requests answered", requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time to the head of the answer",
            seconds.clone(),
        );
        registry.register(
            "build",
            "The running build",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(Sources(sources)));
        Self {
            registry,
            requests,
            seconds,
        }
    }

    /// Counts one answered request.
    pub fn request(&self, method: &Method, route: &str, status: u16, elapsed: Duration) {
        // A method is free text in HTTP; strangers must not be able to grow the table.
        let method = match *method {
            Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS => method.as_str(),
            _ => "other",
        };
        let (method, route) = (method.to_owned(), route.to_owned());
        self.seconds
            .get_or_create(&RouteLabels {
                method: method.clone(),
                route: route.clone(),
            })
            .observe(elapsed.as_secs_f64());
        self.requests
            .get_or_create(&RequestLabels {
                method,
                route,
                status,
            })
            .inc();
    }

    /// The OpenMetrics text.
    ///
    /// # Errors
    /// When a source gives a name or label that cannot be written.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

struct Sources(Vec<Arc<dyn MetricsSource>>);

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sources").field(&self.0.len()).finish()
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut samples = process_samples();
        for source in &self.0 {
            samples.extend(source.samples());
        }
        for group in samples.chunk_by(|a, b| a.name == b.name) {
            let first = &group[0];
            let kind = match first.kind {
                SampleKind::Counter => MetricType::Counter,
                SampleKind::Gauge => MetricType::Gauge,
                SampleKind::Histogram(_) => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(first.name, first.help, None, kind)?;
            for sample in group {
                if sample.labels.is_empty() {
                    encode_value(&mut metric, sample)?;
                } else {
                    encode_value(&mut metric.encode_family(&sample.labels)?, sample)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(
    metric: &mut prometheus_client::encoding::MetricEncoder<'_>,
    sample: &Sample,
) -> fmt::Result {
    match &sample.kind {
        SampleKind::Histogram(times) => metric
            .encode_histogram::<prometheus_client::encoding::NoLabelSet>(
                times.sum_s,
                times.count,
                &times.buckets,
                None,
            ),
        SampleKind::Counter => metric
            .encode_counter::<prometheus_client::encoding::NoLabelSet, f64, f64>(
                &sample.value,
                None,
            ),
        SampleKind::Gauge => metric.encode_gauge(&sample.value),
    }
}

/// The daemon's own resident memory and open descriptors, from proc(5). What cannot be read is left out.
fn process_samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches(" kB")
                .trim()
                .parse::<f64>()
                .ok()
        });
    if let Some(rss_kib) = rss_kib {
        samples.push(Sample::new(
            "process_resident_memory_bytes",
            "Resident memory of the daemon",
            SampleKind::Gauge,
            rss_kib * 1_024.0,
        ));
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        let count = u32::try_from(entries.count()).unwrap_or(u32::MAX);
        samples.push(Sample::new(
            "process_open_fds",
            "Open descriptors of the daemon",
            SampleKind::Gauge,
            f64::from(count),
        ));
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    if let Some(soft) = soft {
        samples.push(Sample::new(
            "process_max_fds",
            "Descriptors that the daemon may have",
            SampleKind::Gauge,
            soft,
        ));
    }
    samples
}
