//! The span of a call: begun and ended with its record, in the words of OpenTelemetry's conventions for MCP.

use std::sync::Arc;

use http::HeaderMap;

use super::Place;
use crate::{
    domain::call::{CallOutcome, CallRecord},
    supervisor::route::RouteState,
    traces::{self, Parent, Span, SpanKind},
    upstream::{Envelope, unquote},
};

/// Begins it below what the client names: `_meta.traceparent` of the message, else the header of its request. The message
/// goes to the server as it is. A launch that it waits for stands below it.
pub(super) fn begin(
    place: &Arc<Place>,
    envelope: &Envelope<'_>,
    headers: Option<&HeaderMap>,
    stateless: bool,
) -> Option<Span> {
    if !traces::is_on() {
        return None;
    }
    let meta = envelope.meta().ok().flatten();
    let named = meta.and_then(|meta| unquote(meta.get("traceparent")?));
    let parent = match (named, headers) {
        (Some(named), _) => Parent::of_text(&named),
        (None, Some(headers)) => Parent::of_headers(headers),
        (None, None) => Parent::default(),
    };
    let mut span = Span::begin(SpanKind::Server, || "tools/call".to_owned(), &parent)?;
    let route = &place.route;
    span.put("mcp.method.name", "tools/call");
    span.put("minimcp.instance.id", route.id.to_string());
    span.put("minimcp.instance.name", route.slug.load().to_string());
    span.put(
        "minimcp.era",
        if stateless { "stateless" } else { "session" },
    );
    let is_up =
        |state: &RouteState| matches!(state, RouteState::Ready { .. } | RouteState::Frozen { .. });
    if !is_up(&route.state.borrow()) {
        route.asked.note(|| span.inside());
    }
    Some(span)
}

/// Ends it as its record says.
pub(super) fn end(mut span: Span, record: &CallRecord) {
    let outcome = record.outcome.word();
    span.put("gen_ai.tool.name", record.tool.to_string());
    span.put(
        "minimcp.generation",
        i64::try_from(record.generation.0).unwrap_or(i64::MAX),
    );
    span.put("minimcp.outcome", outcome);
    if let CallOutcome::RpcError(code) = record.outcome {
        span.put("rpc.response.status_code", code.to_string());
    }
    match record.outcome {
        CallOutcome::Ok | CallOutcome::InputRequired | CallOutcome::Cancelled => {}
        _ => span.fail(outcome),
    }
}
