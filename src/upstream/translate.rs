//! What changes in a message on its way between a client of one era and a server of the other. Pure.
//!
//! Only the members that one of the two does not know are taken out or put in; every other byte stays as it is.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    failure::{INTERNAL_ERROR, INVALID_PARAMS, MISSING_CAPABILITY, error_message},
    handshake::{Era, MODERN},
    in_flight::{Caller, LOG_LEVELS},
    message::{
        Envelope, EnvelopeError, Raw, RawObject, Word, has_numbered_characters, quote, splice,
        splice_text_line, unquote,
    },
};

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
/// The member of `_meta` by which a stateless server tells to which `subscriptions/listen` a notification belongs.
pub const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Keys of `_meta` that belong to one hop of the stateless revision.
const RESERVED: [&str; 6] = [
    META_VERSION,
    META_CLIENT,
    META_CAPABILITIES,
    META_LOG_LEVEL,
    META_SERVER,
    META_SUBSCRIPTION,
];

/// The code that the session era has for a resource that is not there.
const RESOURCE_NOT_FOUND: i64 = -32_002;

/// What a client of the session era told of itself in `initialize`, as raw JSON: a stateless server must get it with
/// every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    capabilities: Box<str>,
    client: Option<Box<str>>,
}

/// Longest raw `clientInfo` or capabilities of one client that are kept, in bytes.
const DECLARED_MAX_BYTES: usize = 16 << 10;

impl Declared {
    /// Reads the parameters of `initialize`. What is no object, or very long, is left out.
    #[must_use]
    pub fn read(params: &RawObject<'_>) -> Arc<Self> {
        let object = |key: &str| -> Option<Box<str>> {
            let raw = params.get(key)?;
            (raw.starts_with('{') && raw.len() <= DECLARED_MAX_BYTES).then(|| raw.into())
        };
        Arc::new(Self {
            capabilities: object("capabilities").unwrap_or_else(|| "{}".into()),
            client: object("clientInfo"),
        })
    }

    /// What [`Self::raw`] gave.
    #[must_use]
    pub fn kept(capabilities: &str, client: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            capabilities: capabilities.into(),
            client: client.map(Into::into),
        })
    }

    /// The raw capabilities, and the raw `clientInfo` if there was one.
    #[must_use]
    pub fn raw(&self) -> (&str, Option<&str>) {
        (&self.capabilities, self.client.as_deref())
    }
}

/// The `_meta` of requests of our own to a stateless server.
#[must_use]
pub fn own_meta() -> Value {
    json!({
        META_VERSION: MODERN,
        META_CAPABILITIES: {},
        META_CLIENT: {"name": "minimcp", "version": env!("CARGO_PKG_VERSION")},
    })
}

/// The raw capabilities of a caller, without those that cannot be used on the way of this call.
fn capabilities(caller: &Caller) -> String {
    let declared = caller.declared.as_deref();
    let raw = declared.map_or("{}", |declared| &declared.capabilities);
    let mut all = RawObject::parse(raw).unwrap_or_default();
    all.retain(|key| match key {
        "sampling" => caller.sampling,
        "elicitation" => caller.elicitation,
        "roots" => caller.roots,
        _ => true,
    });
    all.to_json()
}

/// What changes in the parameters on the way to the child.
pub enum Rewritten<'a> {
    /// This part of them goes: a `_meta` that held nothing but what belongs to one hop.
    Without(&'a str),
    /// They are written anew.
    Anew(Box<Anew<'a>>),
}

/// Parameters that are written anew once our id of the call is known.
pub struct Anew<'a> {
    params: RawObject<'a>,
    meta: Option<RawObject<'a>>,
    /// The client's progress token, raw.
    token: Option<Box<str>>,
}

/// The new parameters as they go into the message.
pub enum Changed<'a> {
    /// As [`Rewritten::Without`].
    Without(&'a str),
    /// All of them.
    Anew(String),
}

/// Looks whether the parameters must change at all; most do not, and then nothing is parsed.
///
/// # Errors
/// When they must, and are no object.
pub fn rewritten<'a>(
    envelope: &Envelope<'a>,
    caller: &Caller,
    child: Era,
) -> Result<Option<Rewritten<'a>>, EnvelopeError> {
    let crosses = caller.era != child;
    let raw = match envelope.params {
        Some(raw) => raw.get(),
        None if crosses && child == Era::Modern => "{}",
        None => return Ok(None),
    };
    if !crosses && !may_have_token(envelope, raw) {
        return Ok(None);
    }
    let params = envelope.parameters().map_err(Clone::clone)?;
    let meta = envelope.meta().map_err(Clone::clone)?;
    if crosses && child == Era::Legacy {
        match meta {
            None => return Ok(None),
            Some(meta) if meta.0.iter().all(|(key, _)| RESERVED.contains(&&**key)) => {
                if let Some(part) = params.span_of(raw, "_meta") {
                    return Ok(Some(Rewritten::Without(part)));
                }
            }
            Some(_) => {}
        }
    }
    let params = params.clone();
    let mut meta = meta.cloned();
    let token = meta
        .as_ref()
        .and_then(|meta| meta.get("progressToken"))
        .map(Box::from);
    match (crosses, child) {
        (true, Era::Legacy) => {
            if let Some(meta) = &mut meta {
                meta.retain(|key| !RESERVED.contains(&key));
            }
        }
        (true, Era::Modern) => {
            let meta = meta.get_or_insert_default();
            meta.set(META_VERSION, format!("\"{MODERN}\""));
            let declared = caller.declared.as_deref();
            if let Some(client) = declared.and_then(|declared| declared.client.as_deref()) {
                meta.set(META_CLIENT, client.to_owned());
            }
            meta.set(META_CAPABILITIES, capabilities(caller));
            let level = caller.log_level.map(usize::from);
            if let Some(level) = level.and_then(|level| LOG_LEVELS.get(level)) {
                meta.set(META_LOG_LEVEL, quote(level));
            }
        }
        (false, _) => {}
    }
    Ok(Some(Rewritten::Anew(Box::new(Anew {
        params,
        meta,
        token,
    }))))
}

/// Whether there may be a progress token in raw parameters. One that we did not see could steal the progress of another
/// session's call.
fn may_have_token(envelope: &Envelope<'_>, raw: &str) -> bool {
    static PROGRESS_TOKEN: Word = Word::new("progressToken");
    match (envelope.parameters(), envelope.meta()) {
        // Its keys are known, however they were written.
        (Ok(_), Ok(meta)) => meta.is_some_and(|meta| meta.get("progressToken").is_some()),
        _ => PROGRESS_TOKEN.is_in(raw) || has_numbered_characters(raw),
    }
}

impl<'a> Rewritten<'a> {
    /// The client's progress token, raw.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Without(_) => None,
            Self::Anew(anew) => anew.token.as_deref(),
        }
    }

    /// The new parameters, with this progress token in the place of the client's.
    #[must_use]
    pub fn with(self, id: u64) -> Changed<'a> {
        let Anew {
            mut params,
            meta,
            token,
        } = match self {
            Self::Without(part) => return Changed::Without(part),
            Self::Anew(anew) => *anew,
        };
        if let Some(mut meta) = meta {
            if token.is_some() {
                meta.set("progressToken", id.to_string());
            }
            if meta.0.is_empty() {
                params.retain(|key| key != "_meta");
            } else {
                params.set("_meta", meta.to_json());
            }
        }
        Changed::Anew(params.to_json())
    }
}

/// `source` with this id and, when they change, these parameters.
#[must_use]
pub fn compose(
    source: &[u8],
    envelope: &Envelope<'_>,
    id: u64,
    params: Option<Changed<'_>>,
) -> Vec<u8> {
    let mut digits = itoa::Buffer::new();
    let id_text = digits.format(id);
    let Some(id) = envelope.id.map(Raw::get) else {
        return splice_text_line(source, &mut []);
    };
    match (envelope.params, params) {
        (_, Some(Changed::Without(part))) => {
            splice_text_line(source, &mut [(id, id_text), (part, "")])
        }
        (Some(raw), Some(Changed::Anew(params))) => {
            splice_text_line(source, &mut [(id, id_text), (raw.get(), &params)])
        }
        (None, Some(Changed::Anew(params))) => {
            let with_params = format!("{id_text},\"params\":{params}");
            splice_text_line(source, &mut [(id, &with_params)])
        }
        (_, None) => splice_text_line(source, &mut [(id, id_text)]),
    }
}

/// A result of a stateless server that asks its client for input.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct InputRequired {
    /// What it asks: the key, the method, and the raw parameters.
    pub requests: Vec<(String, String, String)>,
    /// The raw state that the retry must bring along.
    pub state: Option<Box<str>>,
}

/// Reads a result; `None` when it asks for nothing.
#[must_use]
pub fn input_required(result: &str) -> Option<InputRequired> {
    memchr::memmem::find(result.as_bytes(), b"input_required")?;
    let result = RawObject::parse(result).ok()?;
    if unquote(result.get("resultType")?)? != "input_required" {
        return None;
    }
    let asked = RawObject::parse(result.get("inputRequests").unwrap_or("{}")).unwrap_or_default();
    let requests = asked.0.into_iter().map(|(key, raw)| {
        let request = RawObject::parse(&raw).unwrap_or_default();
        let method = request.get("method").and_then(unquote).unwrap_or_default();
        let params = request.get("params").unwrap_or("{}").to_owned();
        (key.into_owned(), method, params)
    });
    Some(InputRequired {
        requests: requests.collect(),
        state: result.get("requestState").map(Box::from),
    })
}

/// A request as the child got it, once more: with this id, the answers (key and raw result) and the raw state.
///
/// # Errors
/// When `sent` is not a request with an object of parameters, which it was.
pub fn retried(
    sent: &[u8],
    id: u64,
    responses: &[(String, String)],
    state: Option<&str>,
) -> Result<Vec<u8>, EnvelopeError> {
    let envelope = Envelope::parse(sent)?;
    let raw = envelope.params.map_or("{}", |params| params.get());
    let mut params = RawObject::parse(raw)?;
    params.retain(|key| !matches!(key, "inputResponses" | "requestState"));
    let meta_raw = params.get("_meta").unwrap_or("{}").to_owned();
    let mut meta = RawObject::parse(&meta_raw)?;
    if meta.get("progressToken").is_some() {
        meta.set("progressToken", id.to_string());
    }
    params.set("_meta", meta.to_json());
    if !responses.is_empty() {
        let members = responses
            .iter()
            .map(|(key, raw)| (Cow::Borrowed(key.as_str()), Cow::Borrowed(raw.as_str())));
        let responses = RawObject(members.collect()).to_json();
        params.set("inputResponses", responses);
    }
    if let Some(state) = state {
        params.set("requestState", state.to_owned());
    }
    let params = Changed::Anew(params.to_json());
    Ok(compose(sent, &envelope, id, Some(params)))
}

/// The answer of a stateless server as a client of the session era must get it, with the client's own id.
#[must_use]
pub fn session_answer(line: &[u8], answer: &Envelope<'_>, client_id: &str, method: &str) -> Bytes {
    let Some(id) = answer.id else {
        return Bytes::copy_from_slice(line);
    };
    let changed: Option<(Raw<'_>, String)> = match (answer.result, answer.error) {
        (Some(raw), _) => session_result(raw.get()).map(|result| (raw, result)),
        (None, Some(raw)) => session_error(raw.get(), method).map(|error| (raw, error)),
        (None, None) => None,
    };
    match &changed {
        Some((raw, text)) => splice(line, &mut [(id, client_id), (*raw, text)]),
        None => splice(line, &mut [(id, client_id)]),
    }
    .into()
}

/// `None`: it stays as it is, as does the result of an extension, which only a client that declared it gets.
pub(super) fn session_result(raw: &str) -> Option<String> {
    let mut result = RawObject::parse(raw).ok()?;
    if let Some(kind) = result.get("resultType")
        && unquote(kind).as_deref() != Some("complete")
    {
        return None;
    }
    result.retain(|key| !matches!(key, "resultType" | "ttlMs" | "cacheScope"));
    let meta_raw = result.get("_meta").map(str::to_owned);
    let meta = meta_raw
        .as_deref()
        .and_then(|raw| RawObject::parse(raw).ok());
    if let Some(mut meta) = meta {
        meta.retain(|key| !RESERVED.contains(&key));
        if meta.0.is_empty() {
            result.retain(|key| key != "_meta");
        } else {
            result.set("_meta", meta.to_json());
        }
    }
    Some(result.to_json())
}

/// `None`: it stays as it is.
fn session_error(raw: &str, method: &str) -> Option<String> {
    let mut error = RawObject::parse(raw).ok()?;
    let code: i64 = error.get("code")?.parse().ok()?;
    let new = match code {
        // A resource that is not there lost its own code in the stateless revision; its URI stands in the data.
        INVALID_PARAMS if method == "resources/read" => {
            RawObject::parse(error.get("data")?).ok()?.get("uri")?;
            RESOURCE_NOT_FOUND
        }
        // Headers and revision are between us and the server: no fault of this client.
        -32_020 | -32_022 => INTERNAL_ERROR,
        _ => return None,
    };
    error.set("code", new.to_string());
    Some(error.to_json())
}

/// The error for a call that needs a capability which its client did not declare, or has no stream for.
#[must_use]
pub fn missing_capability(id: &str, capability: &str) -> Bytes {
    let text = format!(
        "The server needs the client capability {capability:?} for this, which the client did not declare."
    );
    let data = json!({"requiredCapabilities": {capability: {}}});
    error_message(id, MISSING_CAPABILITY, &text, Some(&data))
}

/// What a client declares that answers this.
#[must_use]
pub fn capability_for(method: &str) -> Option<&'static str> {
    match method {
        "sampling/createMessage" => Some("sampling"),
        "elicitation/create" => Some("elicitation"),
        "roots/list" => Some("roots"),
        _ => None,
    }
}

/// A notification without the mark of its subscription, and that mark, raw; `None` when it has none.
#[must_use]
pub fn unmarked(line: &[u8], envelope: &Envelope<'_>) -> Option<(String, Bytes)> {
    let raw = envelope.params?;
    memchr::memmem::find(raw.get().as_bytes(), META_SUBSCRIPTION.as_bytes())?;
    let mut params = RawObject::of(raw).ok()?;
    let meta_raw = params.get("_meta")?.to_owned();
    let mut meta = RawObject::parse(&meta_raw).ok()?;
    let mark = meta.get(META_SUBSCRIPTION)?.to_owned();
    meta.retain(|key| key != META_SUBSCRIPTION);
    if meta.0.is_empty() {
        params.retain(|key| key != "_meta");
    } else {
        params.set("_meta", meta.to_json());
    }
    Some((mark, splice(line, &mut [(raw, &params.to_json())]).into()))
}
