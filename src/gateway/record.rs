//! Call records: each `tools/call` of a client leaves one, however it ends, timed from the arrival of its request. Begun
//! when a message was read, carried by the reply, and given to the sink when the answer has passed or the reply is
//! dropped.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    Place, Reply,
    body::GatewayBody,
    call_span,
    entrance::Arrival,
    event_text::{EventSplitter, data_of},
    held,
};
use crate::{
    domain::{
        call::{CallOutcome, CallRecord},
        id::Generation,
    },
    supervisor::{access::Secret, route::RouteState},
    traces::Span,
    upstream::{Envelope, RawObject, Word, has_numbered_characters, unquote, unquoted},
};

/// Longest name of a tool that is kept, in characters.
const TOOL_CHARS_MAX: usize = 200;
/// Of a streamed JSON answer, so much is looked at; a larger one is taken for a good one.
const LOOK_BYTES_MAX: usize = 1 << 20;

/// Where records go, and how much of a call's arguments they hold.
pub struct CallSink {
    /// Takes a record; must not block.
    pub take: Box<dyn Fn(CallRecord) + Send + Sync>,
    /// Most bytes of arguments.
    pub arguments_bytes: usize,
}

struct Open {
    /// Empty when it is the only one.
    id: Box<str>,
    record: CallRecord,
    span: Option<Span>,
}

enum Form {
    Json(BytesMut),
    Events(EventSplitter),
}

/// The calls of one HTTP request that have no end yet.
pub struct Recorder {
    sink: Arc<CallSink>,
    place: Arc<Place>,
    began: Instant,
    open: Vec<Open>,
    form: Form,
    /// Bytes of the reply that passed.
    passed: usize,
}

/// Begins to record the calls among some messages that came with a request; `None` when there are none.
pub fn begin<'a>(
    sink: &Arc<CallSink>,
    place: &Arc<Place>,
    secret: &Secret,
    (stateless, arrival): (bool, Arrival),
    headers: Option<&HeaderMap>,
    messages: impl Iterator<Item = (&'a [u8], &'a Envelope<'a>)>,
) -> Option<Box<Recorder>> {
    let mut open = Vec::new();
    let is_only = messages.size_hint() == (1, Some(1));
    for (source, envelope) in messages {
        let (Some(id), "tools/call") = (envelope.id, envelope.method()) else {
            continue;
        };
        let tool = envelope.parameter("name");
        let tool = tool.and_then(unquoted).unwrap_or_default();
        let keep = place.route.arguments.load();
        let arguments = keep.as_ref().and_then(|redact| {
            let text = redact(envelope.parameter("arguments")?);
            Some(cut(text, sink.arguments_bytes))
        });
        let span = call_span::begin(place, envelope, headers, stateless);
        open.push(Open {
            id: if is_only { "" } else { id.get() }.into(),
            span,
            record: CallRecord {
                instance_key: place.route.key,
                generation: present_generation(place),
                token: secret.token.name.clone(),
                tool: place.tools.shared(shortened(&tool)),
                stateless,
                started_at: arrival.at,
                duration_us: 0,
                outcome: CallOutcome::Disconnected,
                request_bytes: i64::try_from(source.len()).unwrap_or(i64::MAX),
                answer_bytes: 0,
                arguments,
            },
        });
    }
    (!open.is_empty()).then(|| {
        Box::new(Recorder {
            sink: sink.clone(),
            place: place.clone(),
            began: arrival.began,
            open,
            form: Form::Json(BytesMut::new()),
            passed: 0,
        })
    })
}

/// The beginning of a name that is too long.
fn shortened(tool: &str) -> &str {
    if tool.len() <= TOOL_CHARS_MAX {
        return tool;
    }
    match tool.char_indices().nth(TOOL_CHARS_MAX) {
        None => tool,
        Some((end, _)) => &tool[..end],
    }
}

fn present_generation(place: &Place) -> Generation {
    match &*place.route.state.borrow() {
        RouteState::Ready { generation, .. } | RouteState::Frozen { generation, .. } => *generation,
        _ => Generation(0),
    }
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Recorder {
    /// Lets the reply pass and records how the calls end.
    #[must_use]
    pub fn watch(mut self: Box<Self>, reply: Reply) -> Reply {
        if let GatewayBody::Full(body) = reply.body() {
            match body {
                Some(body) if self.open.len() == 1 && is_plainly_good(body) => {
                    if let Some(open) = self.open.pop() {
                        self.end(open, CallOutcome::Ok, body.len());
                    }
                }
                Some(body) => self.body(body),
                None => {}
            }
            // Nothing to answer with: the call was taken back.
            self.end_all(CallOutcome::Cancelled);
            return reply;
        }
        let kind = reply.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            self.form = Form::Events(EventSplitter::default());
        }
        held::recorded(reply, self)
    }

    /// A piece of the reply passes.
    pub fn push(&mut self, piece: &[u8]) {
        if self.open.is_empty() {
            return;
        }
        self.passed += piece.len();
        let mut found: Vec<Bytes> = Vec::new();
        match &mut self.form {
            Form::Json(body) => {
                if body.len() <= LOOK_BYTES_MAX {
                    body.extend_from_slice(piece);
                }
            }
            Form::Events(splitter) => splitter.push(piece, |event| found.extend(data_of(&event))),
        }
        for data in found {
            self.body(&data);
        }
    }

    /// The reply is at its end.
    pub fn finish(&mut self) {
        if let Form::Json(body) = &mut self.form {
            let body = std::mem::take(body);
            if body.len() > LOOK_BYTES_MAX {
                let length = self.passed;
                for open in std::mem::take(&mut self.open) {
                    self.end(open, CallOutcome::Ok, length);
                }
            } else if !body.is_empty() {
                self.body(&body);
            }
        }
        self.end_all(CallOutcome::Cancelled);
    }

    /// A message, or a batch of them.
    fn body(&mut self, body: &[u8]) {
        if body.trim_ascii_start().first() == Some(&b'[') {
            let parts: Vec<&RawValue> = serde_json::from_slice(body).unwrap_or_default();
            for part in parts {
                self.message(part.get().as_bytes());
            }
        } else {
            self.message(body);
        }
    }

    /// A message of the server passes; it may be an answer.
    pub fn message(&mut self, message: &[u8]) {
        let Ok(envelope) = Envelope::parse(message) else {
            return;
        };
        let Some(outcome) = outcome_of(&envelope) else {
            return;
        };
        let id = envelope.id.map_or("null", |id| id.get());
        if id == "null" {
            // A refusal of all that was sent.
            for open in std::mem::take(&mut self.open) {
                self.end(open, outcome, message.len());
            }
            return;
        }
        // A server may write an id in another way; alone, it can only be this one.
        let alone = self.open.len() == 1;
        let place = self.open.iter().position(|open| alone || *open.id == *id);
        if let Some(place) = place {
            let open = self.open.swap_remove(place);
            self.end(open, outcome, message.len());
        }
    }

    fn end_all(&mut self, outcome: CallOutcome) {
        for open in std::mem::take(&mut self.open) {
            self.end(open, outcome, 0);
        }
    }

    fn end(&self, open: Open, outcome: CallOutcome, answer_bytes: usize) {
        let mut record = open.record;
        let took = self.began.elapsed().as_micros();
        record.duration_us = i64::try_from(took).unwrap_or(i64::MAX);
        record.outcome = outcome;
        record.answer_bytes = i64::try_from(answer_bytes).unwrap_or(i64::MAX);
        if record.generation == Generation(0) {
            record.generation = present_generation(&self.place);
        }
        if let Some(span) = open.span {
            call_span::end(span, &record);
        }
        (self.sink.take)(record);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end_all(CallOutcome::Disconnected);
    }
}

static TOOL_ERROR: Word = Word::new("isError");
static INPUT_REQUIRED: Word = Word::new("input_required");

/// Whether an answer is a good result, as far as can be told without reading it: no word of another end is in it.
fn is_plainly_good(answer: &[u8]) -> bool {
    static ERROR: Word = Word::new("\"error\"");
    answer.first() == Some(&b'{')
        && ![&ERROR, &TOOL_ERROR, &INPUT_REQUIRED]
            .iter()
            .any(|word| word.is_in(answer))
        && !has_numbered_characters(answer)
}

/// How a call ended by this message; `None`: it is no answer.
fn outcome_of(answer: &Envelope<'_>) -> Option<CallOutcome> {
    if let Some(error) = answer.error {
        let error = RawObject::of(error).unwrap_or_default();
        let code = error.get("code").and_then(|code| code.parse().ok());
        let data = error
            .get("data")
            .and_then(|data| RawObject::parse(data).ok());
        let data = data.unwrap_or_default();
        let cause = data.get("cause").and_then(unquote).unwrap_or_default();
        return Some(match cause.as_str() {
            "scope" | "rate-limit" | "concurrency-limit" => CallOutcome::Refused,
            // Our own words for a server that died or is not up; see `Failure::data` and `reply::unready`.
            _ if data.get("last_stderr").is_some() => CallOutcome::Failed,
            "starting" | "asleep" | "frozen" | "stopped" | "expired" | "failed" | "backing-off"
            | "stopping" | "pending" | "gone" => CallOutcome::Failed,
            _ => CallOutcome::RpcError(code.unwrap_or(0)),
        });
    }
    let result = answer.result?.get();
    // Both words are rare; most results are not looked into.
    if !TOOL_ERROR.is_in(result) && !INPUT_REQUIRED.is_in(result) {
        return Some(CallOutcome::Ok);
    }
    let result = RawObject::parse(result).unwrap_or_default();
    let kind = result.get("resultType").and_then(unquote);
    Some(if result.get("isError") == Some("true") {
        CallOutcome::ToolError
    } else if kind.as_deref() == Some("input_required") {
        CallOutcome::InputRequired
    } else {
        CallOutcome::Ok
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_how_the_call_ended() {
        use CallOutcome as O;
        for (answer, outcome) in [
            (r#""result":{"content":[]}"#, Some(O::Ok)),
            (
                r#""result":{"content":[{"text":"isError"}],"isError":false}"#,
                Some(O::Ok),
            ),
            (
                r#""result":{"content":[],"isError":true}"#,
                Some(O::ToolError),
            ),
            (
                r#""result":{"resultType":"input_required"}"#,
                Some(O::InputRequired),
            ),
            (
                r#""error":{"code":-32602,"message":"m"}"#,
                Some(O::RpcError(-32_602)),
            ),
            (
                r#""error":{"code":-32603,"message":"m","data":{"cause":"it died","last_stderr":[]}}"#,
                Some(O::Failed),
            ),
            (
                r#""error":{"code":-32603,"message":"m","data":{"cause":"stopped"}}"#,
                Some(O::Failed),
            ),
            (
                r#""error":{"code":-32602,"message":"m","data":{"cause":"scope"}}"#,
                Some(O::Refused),
            ),
            (r#""method":"notifications/progress""#, None),
        ] {
            let id = if answer.contains("method") {
                ""
            } else {
                r#""id":1,"#
            };
            let message = format!(r#"{{"jsonrpc":"2.0",{id}{answer}}}"#);
            let envelope = Envelope::parse(message.as_bytes()).expect("a message");
            assert_eq!(outcome_of(&envelope), outcome, "{answer}");
            let good = outcome == Some(O::Ok) && !answer.contains("isError");
            let method = answer.contains("method");
            assert_eq!(
                is_plainly_good(message.as_bytes()),
                good || method,
                "{answer}"
            );
        }
    }

    #[test]
    fn names_are_cut_by_their_characters() {
        let long = "ü".repeat(TOOL_CHARS_MAX);
        assert_eq!(shortened(&long), long);
        assert_eq!(shortened(&format!("{long}x")), long);
        assert_eq!(shortened("echo"), "echo");
    }

    #[test]
    fn arguments_are_cut_between_characters() {
        assert_eq!(cut("aüb".to_owned(), 4), "aüb");
        assert_eq!(cut("aüb".to_owned(), 2), "a…");
    }
}
