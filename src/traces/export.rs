//! From the end of a span to the collector: a bounded queue, batches, OTLP over HTTP. Whoever ends a span never waits: past
//! the bound, and while the collector is away, spans are dropped and counted.

use std::{future::Future, sync::atomic::Ordering, time::Duration};

use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Counts;

/// Spans that wait at most; what the SDKs of OpenTelemetry have (`OTEL_BSP_MAX_QUEUE_SIZE`).
const QUEUE_SPANS: usize = 2_048;
/// Spans of one request at most.
const BATCH_SPANS: usize = 512;
/// A span waits at most so long for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Rest after a request that failed.
const REST: Duration = Duration::from_secs(5);
/// How often a collector that is away is told of.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Takes spans to a collector.
pub(super) trait Sink {
    /// One request.
    ///
    /// # Errors
    /// What happened, in words that repeat no header.
    fn send(&self, spans: Vec<SpanData>) -> impl Future<Output = Result<(), String>> + Send;
}

/// A collector that takes OTLP as protobuf over HTTP.
#[derive(Debug)]
pub(super) struct Collector {
    client: reqwest::Client,
    url: String,
    resource: ResourceAttributesWithSchema,
}

impl Collector {
    /// `url` is where it takes spans.
    pub(super) fn new(url: &str, headers: HeaderMap, resource: &Resource) -> Result<Self, String> {
        // A second call finds the provider installed, which is what we want.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("minimcp/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers);
        // Without TLS there is no need for the host's certificates.
        let builder = match url.starts_with("https:") {
            true => builder,
            false => builder.tls_certs_only([]).no_proxy(),
        };
        let client = builder.build();
        Ok(Self {
            client: client.map_err(|error| format!("no HTTP client can be made: {error}"))?,
            url: url.to_owned(),
            resource: resource.into(),
        })
    }
}

/// One header on each line, `name: value`; lines that are empty or begin with `#` say nothing.
pub(super) fn read_headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let mut value: HeaderValue = value.trim().parse().ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let Some((name, value)) = pair else {
            return Err(format!("line {} is no header, `name: value`", number + 1));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

impl Sink for Collector {
    async fn send(&self, spans: Vec<SpanData>) -> Result<(), String> {
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(spans, &self.resource),
        };
        let answer = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(request.encode_to_vec())
            .send()
            .await;
        let status = answer
            .map_err(|error| source_of(&error.without_url()))?
            .status();
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("it answered with status {status}")),
        }
    }
}

/// The last cause is the one that helps: refused, timed out, an unknown issuer.
fn source_of(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// The end of the queue that spans go into.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: &'static Counts,
}

pub(super) fn queue(counts: &'static Counts) -> (Queue, mpsc::Receiver<SpanData>) {
    let (sender, spans) = mpsc::channel(QUEUE_SPANS);
    let queue = Queue {
        spans: sender,
        counts,
    };
    (queue, spans)
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends batches until `stop`, and then what waits, in one go.
pub(super) async fn run(
    sink: impl Sink,
    mut spans: mpsc::Receiver<SpanData>,
    counts: &'static Counts,
    stop: CancellationToken,
) {
    let mut told: Option<Instant> = None;
    loop {
        let mut batch = Vec::new();
        let gather = async {
            if spans.recv_many(&mut batch, BATCH_SPANS).await > 0 {
                let more = async {
                    while batch.len() < BATCH_SPANS {
                        let room = BATCH_SPANS - batch.len();
                        if spans.recv_many(&mut batch, room).await == 0 {
                            return;
                        }
                    }
                };
                // Nobody else comes: these go alone.
                let _ = timeout(BATCH_DELAY, more).await;
            }
        };
        tokio::select! {
            () = gather => {}
            () = stop.cancelled() => {}
        }
        if stop.is_cancelled() {
            while let Ok(span) = spans.try_recv() {
                batch.push(span);
            }
        }
        if !batch.is_empty() {
            let length = batch.len() as u64;
            match sink.send(batch).await {
                Ok(()) => drop(counts.exported.fetch_add(length, Ordering::Relaxed)),
                Err(cause) => {
                    counts.dropped.fetch_add(length, Ordering::Relaxed);
                    if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                        let dropped = counts.dropped.load(Ordering::Relaxed);
                        tracing::warn!(cause, dropped, "the collector of spans takes none");
                        told = Some(Instant::now());
                    }
                    // Whatever ends meanwhile waits in the queue, up to its bound.
                    let _ = timeout(REST, stop.cancelled()).await;
                }
            }
        }
        if stop.is_cancelled() && spans.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::{
        InstrumentationScope,
        trace::{SpanContext, SpanId, SpanKind, Status},
    };
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

    use super::*;

    fn span() -> SpanData {
        let now = std::time::SystemTime::UNIX_EPOCH;
        SpanData {
            span_context: SpanContext::empty_context(),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "x".into(),
            start_time: now,
            end_time: now,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    /// A collector that takes what it is told to, and writes down the sizes of what it got.
    #[derive(Clone, Default)]
    struct Scripted {
        hangs: bool,
        fails: bool,
        sizes: Arc<Mutex<Vec<usize>>>,
    }

    impl Sink for Scripted {
        async fn send(&self, spans: Vec<SpanData>) -> Result<(), String> {
            self.sizes.lock().expect("no panic").push(spans.len());
            if self.hangs {
                tokio::time::timeout(REQUEST_TIMEOUT, std::future::pending::<()>())
                    .await
                    .map_err(|_| "it is silent".to_owned())?;
            }
            match self.fails {
                true => Err("refused".to_owned()),
                false => Ok(()),
            }
        }
    }

    fn counted(counts: &Counts) -> (u64, u64) {
        let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        (read(&counts.exported), read(&counts.dropped))
    }

    #[tokio::test(start_paused = true)]
    async fn spans_go_in_batches_and_the_last_ones_at_the_stop() {
        let counts: &'static Counts = Box::leak(Box::default());
        let (queue, spans) = queue(counts);
        let sink = Scripted::default();
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(sink.clone(), spans, counts, stop.clone()));
        for _ in 0..600 {
            queue.on_end(span());
        }
        tokio::time::sleep(BATCH_DELAY * 2).await;
        assert_eq!(*sink.sizes.lock().expect("no panic"), [512, 88]);
        queue.on_end(span());
        stop.cancel();
        running.await.expect("it ends");
        assert_eq!(*sink.sizes.lock().expect("no panic"), [512, 88, 1]);
        assert_eq!(counted(counts), (601, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_away_costs_counted_spans_and_no_wait() {
        for (hangs, fails) in [(true, false), (false, true)] {
            let counts: &'static Counts = Box::leak(Box::default());
            let (queue, spans) = queue(counts);
            let sink = Scripted {
                hangs,
                fails,
                ..Scripted::default()
            };
            let stop = CancellationToken::new();
            let running = tokio::spawn(run(sink.clone(), spans, counts, stop.clone()));
            // Ends of spans never wait: there is no await in between.
            for _ in 0..QUEUE_SPANS + 100 {
                queue.on_end(span());
            }
            assert_eq!(counted(counts), (0, 100), "past the bound");
            tokio::time::sleep(Duration::from_secs(120)).await;
            let all = QUEUE_SPANS as u64 + 100;
            assert_eq!(counted(counts), (0, all), "no span is kept for ever");
            stop.cancel();
            running.await.expect("it ends");
        }
    }

    #[test]
    fn headers_are_read_line_by_line_and_never_repeated() {
        let headers =
            read_headers("# for the collector\n\nAuthorization: Basic hunter2\nx-a:b:c\n");
        let headers = headers.expect("headers");
        assert_eq!(headers["authorization"], "Basic hunter2");
        assert_eq!(headers["x-a"], "b:c");
        assert!(!format!("{headers:?}").contains("hunter2"));
        let refused = read_headers("x-a: b\nhunter2").expect_err("no header");
        assert_eq!(refused, "line 2 is no header, `name: value`");
        assert!(read_headers("a b: c").is_err());
    }
}
