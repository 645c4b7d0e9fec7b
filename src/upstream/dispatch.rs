//! What a child says on its stdout, sorted to whom it belongs.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    Downstream, NoiseSink,
    failure::{INTERNAL_ERROR, METHOD_NOT_FOUND, error_message, result_message},
    framer::{Frame, likely_id},
    handshake::Era,
    in_flight::{Home, LOG_LEVELS, Origin, SessionKey},
    message::{Envelope, Kind, Raw, RawObject, splice, splice_text, unquote},
    news, rounds,
    translate::{META_SUBSCRIPTION, capability_for, missing_capability, unmarked},
    wire::Wire,
};
use crate::domain::capability::ListKind;

/// The stream that a message came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// A pipe, or a stream that belongs to no call: it may be of any.
    Shared,
    /// The response to this call, by our id.
    OfCall(u64),
}

/// Handles one frame. `downstream` is asked only when a message belongs to no call.
pub fn frame(
    wire: &Wire,
    stream: Stream,
    frame: &Frame<'_>,
    limit_bytes: usize,
    noise: &NoiseSink,
    downstream: impl Fn() -> Option<Arc<dyn Downstream>>,
) {
    match frame {
        Frame::Line(line) => {
            let line = line.trim_ascii();
            if line.is_empty() {
                return;
            }
            if line[0] == b'[' {
                // A batch, as revision 2025-03-26 allowed.
                if let Ok(batch) = serde_json::from_slice::<Vec<&RawValue>>(line) {
                    for part in batch {
                        message(wire, stream, part.get().as_bytes(), noise, &downstream);
                    }
                    return;
                }
            }
            message(wire, stream, line, noise, &downstream);
        }
        Frame::TooLong { length, head, tail } => {
            let text = format!(
                "the server wrote a line of {length} bytes, over the limit of {limit_bytes} bytes; it was dropped"
            );
            if let Some(id) = likely_id(head, tail) {
                wire.table()
                    .answer_now(id, |id| error_message(id, INTERNAL_ERROR, &text, None));
            }
            noise(text.as_bytes());
        }
    }
}

fn message(
    wire: &Wire,
    stream: Stream,
    line: &[u8],
    noise: &NoiseSink,
    downstream: &impl Fn() -> Option<Arc<dyn Downstream>>,
) {
    let Ok(envelope) = Envelope::parse(line) else {
        return noise(line);
    };
    let Ok(kind) = envelope.kind() else {
        return noise(line);
    };
    if let Stream::OfCall(id) = stream {
        // Anything that comes with a call is a sign of its life.
        wire.table().touch(id, Instant::now());
    }
    match (kind, envelope.id) {
        (Kind::Response, Some(id)) => {
            let Ok(number) = id.get().parse::<u64>() else {
                // An error about a message whose id the child could not read: nobody waits for it by this id.
                noise(line);
                return;
            };
            let call = wire.table().end(number);
            let Some(call) = call else {
                // Else it is late: the call timed out, was cancelled, or belonged to a former daemon.
                return news::ended(wire, number, &envelope);
            };
            if call.crossing.is_some() {
                return rounds::ended(wire, call, line, &envelope);
            }
            if let Some(capability) = call.lacking.filter(|_| has_failed(&envelope)) {
                let answer = missing_capability(&call.client_id, capability);
                return call.mailbox.answer(answer);
            }
            if let (Some(completion), Some(result)) = (&call.completion, envelope.result)
                && let Some((end, completed)) = completion.end_of(result.get())
            {
                let edits = &mut [(id.get(), &*call.client_id), (end, completed)];
                let answer = splice_text(line, edits);
                return call.mailbox.answer_completed(answer.into());
            }
            let answer = splice(line, &mut [(id, &call.client_id)]);
            call.mailbox.answer(answer.into());
        }
        (Kind::Request, Some(id)) => request(wire, stream, line, &envelope, id),
        _ => notification(wire, stream, line, &envelope, downstream),
    }
}

/// Whether an answer is an error, or the result of a tool that failed.
fn has_failed(answer: &Envelope<'_>) -> bool {
    answer.result.is_none_or(|result| {
        RawObject::of(result).is_ok_and(|result| result.get("isError") == Some("true"))
    })
}

fn request(wire: &Wire, stream: Stream, line: &[u8], envelope: &Envelope<'_>, id: Raw<'_>) {
    let method = envelope.method();
    let refuse = |code, text: &str| {
        // A child that does not read its answers loses them; the backlog is bounded.
        let _ = wire.send(error_message(id.get(), code, text, None).into());
    };
    if method == "ping" {
        let _ = wire.send(result_message(id.get(), "{}").into());
        return;
    }
    let mut table = wire.table();
    let home = match stream {
        Stream::Shared => table.home_of_request(method),
        Stream::OfCall(id) => table.home_of(id),
    };
    let to = match home {
        Home::Only(_, call) if call.caller.can_answer(method) => {
            Ok((call.caller.session, call.mailbox.clone()))
        }
        Home::Only(call_id, call) => {
            if call.caller.era == Era::Modern
                && let Some(capability) = capability_for(method)
            {
                table.lacks(call_id, capability);
            }
            Err((
                METHOD_NOT_FOUND,
                "the client of this call did not declare that it answers such requests",
            ))
        }
        Home::Nobody => Err((
            METHOD_NOT_FOUND,
            "no client has a call under way that this request could belong to",
        )),
        Home::Ambiguous => Err((
            INTERNAL_ERROR,
            "several clients have calls under way, and a request over stdio does not tell to which one it belongs",
        )),
    };
    match to {
        Err((code, text)) => {
            drop(table);
            refuse(code, text);
        }
        Ok((session, mailbox)) => {
            match table.ask(Origin::Child(id.get().into()), session, mailbox.clone()) {
                Err(_) => {
                    drop(table);
                    refuse(INTERNAL_ERROR, "too many requests wait for clients");
                }
                Ok(ours) => {
                    drop(table);
                    let ours_text = ours.to_string();
                    if !mailbox.push_or_refuse(splice(line, &mut [(id, &ours_text)]).into()) {
                        wire.table().answered(session, ours);
                        refuse(
                            INTERNAL_ERROR,
                            "the client of this call reads too slowly, or left",
                        );
                    }
                }
            }
        }
    }
}

fn notification(
    wire: &Wire,
    stream: Stream,
    line: &[u8],
    envelope: &Envelope<'_>,
    downstream: &impl Fn() -> Option<Arc<dyn Downstream>>,
) {
    let method = envelope.method();
    if method == "notifications/tools/list_changed" {
        wire.set_tools_changed(true);
    }
    if ListKind::ALL.iter().any(|kind| kind.news() == method) {
        wire.set_lists_changed(true);
    }
    match method {
        "notifications/progress" => progress(wire, line, envelope),
        "notifications/cancelled" => cancelled(wire, line, envelope),
        "notifications/message" => {
            let level = level_of(envelope.params);
            let table = wire.table();
            let home = match stream {
                Stream::Shared => table.home(),
                Stream::OfCall(id) => table.home_of(id),
            };
            match home {
                Home::Only(_, call) => {
                    if call.caller.session != SessionKey::DAEMON && call.caller.wants_level(level) {
                        call.mailbox.push(Bytes::copy_from_slice(line));
                    }
                    return;
                }
                // It may tell of the arguments of one client: no other may see it.
                Home::Ambiguous => return,
                // What comes late with a call is for its client, who left.
                Home::Nobody if stream != Stream::Shared => return,
                Home::Nobody => {}
            }
            drop(table);
            tell_all(line, envelope, downstream);
        }
        _ => match unmarked(line, envelope) {
            None => tell_all(line, envelope, downstream),
            Some((mark, unmarked)) => marked(wire, line, envelope, (&mark, unmarked), downstream),
        },
    }
}

/// News of a stateless child: of our own subscription, or of that of one client.
fn marked(
    wire: &Wire,
    line: &[u8],
    envelope: &Envelope<'_>,
    (mark, unmarked): (&str, Bytes),
    downstream: &impl Fn() -> Option<Arc<dyn Downstream>>,
) {
    if envelope.method() == "notifications/subscriptions/acknowledged"
        && news::acknowledged(wire, mark, envelope.params.map(Raw::get))
    {
        return;
    }
    if news::hears(wire, mark) {
        if let Ok(envelope) = Envelope::parse(&unmarked) {
            tell_all(&unmarked, &envelope, downstream);
        }
        return;
    }
    let mut table = wire.table();
    let call = mark
        .parse()
        .ok()
        .and_then(|id| table.touch(id, Instant::now()));
    // Without a call it belongs to a subscription that was given up.
    if let Some(call) = call
        && let Some(message) = remarked(line, envelope, &call.client_id)
    {
        call.mailbox.push(message);
    }
}

fn remarked(line: &[u8], envelope: &Envelope<'_>, client_id: &str) -> Option<Bytes> {
    let raw = envelope.params?;
    let mut params = envelope.parameters().ok()?.clone();
    let mut meta = envelope.meta().ok()??.clone();
    meta.set(META_SUBSCRIPTION, client_id);
    params.set("_meta", meta.to_json());
    Some(splice(line, &mut [(raw, &params.to_json())]).into())
}

fn tell_all(
    line: &[u8],
    envelope: &Envelope<'_>,
    downstream: &impl Fn() -> Option<Arc<dyn Downstream>>,
) {
    if let Some(downstream) = downstream() {
        let message = Bytes::copy_from_slice(line);
        downstream.notification(envelope.method(), envelope.params, message);
    }
}

fn progress(wire: &Wire, line: &[u8], envelope: &Envelope<'_>) {
    let (Some(raw), Ok(params)) = (envelope.params, envelope.parameters()) else {
        return;
    };
    let token = params.get("progressToken").and_then(|t| t.parse().ok());
    let Some(token) = token else { return };
    let mut table = wire.table();
    if let Some(call) = table.touch(token, Instant::now())
        && let Some(client_token) = &call.progress_token
    {
        let mut params = params.clone();
        params.set("progressToken", client_token.to_string());
        let message = splice(line, &mut [(raw, &params.to_json())]);
        call.mailbox.push(message.into());
    }
}

fn cancelled(wire: &Wire, line: &[u8], envelope: &Envelope<'_>) {
    let (Some(raw), Ok(params)) = (envelope.params, envelope.parameters()) else {
        return;
    };
    let Some(child_id) = params.get("requestId") else {
        return;
    };
    let taken_back = wire.table().taken_back(child_id);
    if let Some((id, mailbox)) = taken_back {
        let mut params = params.clone();
        params.set("requestId", id.to_string());
        mailbox.push(splice(line, &mut [(raw, &params.to_json())]).into());
    }
}

/// The level of a log notification as an index into [`LOG_LEVELS`].
#[must_use]
pub fn level_of(params: Option<Raw<'_>>) -> Option<u8> {
    let params = RawObject::of(params?).ok()?;
    let name = unquote(params.get("level")?)?;
    let index = LOG_LEVELS.iter().position(|level| *level == name)?;
    u8::try_from(index).ok()
}
