//! Traces for an OpenTelemetry collector: requests of the API, calls through access URLs, launches. Off unless an address
//! is configured; then nothing is made or looked at.
//!
//! One for the process, as the log is. A span holds words of ours, names and ids: never a token, an argument, a URL.

mod export;
mod variables;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use opentelemetry::{
    Context, KeyValue, Value,
    propagation::{Extractor, TextMapPropagator},
    trace::{FutureExt, Span as _, SpanBuilder, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    resource::TelemetryResourceDetector,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub use opentelemetry::trace::SpanKind;
pub use variables::Variables;

use crate::config::TracesConfig;

/// Longest `traceparent` that is read, in characters; one of version 00 has 55 (W3C Trace Context, section 3.2).
const TRACEPARENT_CHARS_MAX: usize = 256;
/// How long it counts who asked for a launch: a child that is stopped first has its graces.
const ASKED_MAX: Duration = Duration::from_secs(60);

static TRACER: ArcSwapOption<SdkTracer> = ArcSwapOption::const_empty();
static COUNTS: Counts = Counts {
    exported: AtomicU64::new(0),
    dropped: AtomicU64::new(0),
};

/// What became of spans since the process started.
#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
}

/// Spans that the collector took, and spans that were lost because it did not.
#[must_use]
pub fn counts() -> (u64, u64) {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    (read(&COUNTS.exported), read(&COUNTS.dropped))
}

/// Whether spans are made at all.
#[must_use]
pub fn is_on() -> bool {
    TRACER.load().is_some()
}

/// Sends spans to the collector until it is stopped.
#[derive(Debug)]
pub struct Traces {
    exporting: JoinHandle<()>,
    stop: CancellationToken,
}

impl Traces {
    /// Begins to trace, if the configuration names a collector. `headers` is the text of `traces.headers_file`; without
    /// one the headers are those of `variables`, OpenTelemetry's own.
    ///
    /// # Errors
    /// One sentence about headers or address; it repeats no header's value.
    pub fn start(
        config: &TracesConfig,
        headers: Option<&str>,
        variables: &Variables,
    ) -> Result<Option<Self>, String> {
        let url = match (&config.url, &config.endpoint) {
            (Some(url), _) => url.clone(),
            (None, Some(endpoint)) => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
            (None, None) => return Ok(None),
        };
        let headers = match headers {
            Some(text) => export::read_headers(text)?,
            None => variables.headers()?,
        };
        let resource = Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(variables.resource())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let collector = export::Collector::new(&url, headers, &resource)?;
        let (queue, spans) = export::queue(&COUNTS);
        let ratio = Sampler::TraceIdRatioBased(config.sampling_ratio);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(resource)
            .with_span_processor(queue)
            .build();
        TRACER.store(Some(Arc::new(provider.tracer("minimcp"))));
        let stop = CancellationToken::new();
        let exporting = export::run(collector, spans, &COUNTS, stop.clone());
        tracing::info!(url, "spans are sent to a collector");
        Ok(Some(Self {
            exporting: tokio::spawn(exporting),
            stop,
        }))
    }

    /// No further span is made; what waits is sent, for at most `patience`.
    pub async fn stop(self, patience: Duration) {
        TRACER.store(None);
        self.stop.cancel();
        if tokio::time::timeout(patience, self.exporting)
            .await
            .is_err()
        {
            tracing::warn!("the collector did not take the last spans in time");
        }
    }
}

/// Where in a trace something happens; by default in none.
#[derive(Debug, Clone, Default)]
pub struct Parent(Context);

struct TraceParent<'a>(&'a str);

impl Extractor for TraceParent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

impl Parent {
    /// What a client says with `traceparent` (W3C Trace Context); what cannot be read is as good as nothing. Its
    /// `tracestate` is not taken over: it may hold anything.
    #[must_use]
    pub fn of_text(traceparent: &str) -> Self {
        if !is_on() || traceparent.len() > TRACEPARENT_CHARS_MAX {
            return Self::default();
        }
        let propagator = TraceContextPropagator::new();
        Self(propagator.extract_with_context(&Context::new(), &TraceParent(traceparent)))
    }

    /// The same, of a request's head.
    #[must_use]
    pub fn of_headers(headers: &http::HeaderMap) -> Self {
        let value = headers.get("traceparent");
        let text = value.and_then(|value| value.to_str().ok());
        text.map(Self::of_text).unwrap_or_default()
    }

    /// Where the present task is; see [`within`].
    #[must_use]
    pub fn current() -> Self {
        match is_on() {
            true => Self(Context::current()),
            false => Self::default(),
        }
    }

    /// Itself, where it is anywhere.
    #[must_use]
    pub fn known(self) -> Option<Self> {
        (!self.is_nowhere()).then_some(self)
    }

    fn is_nowhere(&self) -> bool {
        !self.0.span().span_context().is_valid()
    }
}

/// Runs `work` as a part of a span.
pub fn within<F: Future>(parent: Parent, work: F) -> impl Future<Output = F::Output> {
    work.with_context(parent.0)
}

/// What happens between two moments; it ends when it is dropped.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    /// Begins one, below `parent`; `None` while traces are off. `name` must be one of few.
    pub fn begin(kind: SpanKind, name: impl FnOnce() -> String, parent: &Parent) -> Option<Self> {
        let tracer = TRACER.load();
        let tracer = tracer.as_ref()?;
        let builder = SpanBuilder::from_name(name()).with_kind(kind);
        Some(Self(tracer.build_with_context(builder, &parent.0)))
    }

    /// Says something of it, in OpenTelemetry's words where there are any.
    pub fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Something happens in it now.
    pub fn event(&mut self, name: &'static str) {
        self.0.add_event(name, Vec::new());
    }

    /// It ends badly; `kind` is one of few words.
    pub fn fail(&mut self, kind: impl Into<Value>) {
        self.put("error.type", kind);
        self.0.set_status(Status::error(""));
    }

    /// For what happens in it.
    #[must_use]
    pub fn inside(&self) -> Parent {
        Parent(Context::new().with_remote_span_context(self.0.span_context().clone()))
    }
}

/// Who asked last for something that another task does.
#[derive(Debug, Default)]
pub struct Asked(ArcSwapOption<(Parent, Instant)>);

impl Asked {
    /// By whom the present task works for.
    #[must_use]
    pub fn now() -> Self {
        let asked = Self::default();
        asked.note(Parent::current);
        asked
    }

    /// Notes who asks now.
    pub fn note(&self, parent: impl FnOnce() -> Parent) {
        if is_on() {
            let parent = parent();
            if !parent.is_nowhere() {
                self.0.store(Some(Arc::new((parent, Instant::now()))));
            }
        }
    }

    /// Who asked, once, and not for longer than a minute.
    #[must_use]
    pub fn take(&self) -> Parent {
        match self.0.swap(None) {
            Some(asked) if asked.1.elapsed() <= ASKED_MAX => asked.0.clone(),
            _ => Parent::default(),
        }
    }
}
