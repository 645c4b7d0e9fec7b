//! What must hold for any request line and headers of a stranger: run by `tests/fuzz`, and by a test here over its
//! corpus. A property that does not hold panics.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{config::GatewayConfig, supervisor::access::TokenSet, upstream::Envelope};

use super::{
    Accepts,
    access::{Sites, check_token},
    approach::is_json,
    event_id::EventId,
    event_text::EventSplitter,
    stateless::{self, Refusal},
    target::{mounted, target},
};

/// A path, header lines, an empty line and a body: no panic, no way in without a token, and a request of the
/// stateless revision passes only when its headers say what its body says.
pub fn request(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    let mut rest = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = rest[..end].trim_ascii();
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    access(path, &headers);
    body(rest, &headers);
}

fn access(path: &[u8], headers: &HeaderMap) {
    if let Ok(path) = std::str::from_utf8(path) {
        if let Some(found) = target(path)
            && let Some(token) = found.token
        {
            assert!(!token.is_empty() && !token.contains('/'));
            assert!(path.starts_with(&format!("/{token}/mcp")));
        }
        if let Some((name, mount, below)) = mounted(path) {
            assert_eq!(format!("/i/{name}"), mount);
            assert_eq!(format!("{mount}{below}"), path);
        }
        assert!(check_token(&TokenSet::default(), headers, Some(path), 0).is_err());
    }
    let sites = Sites::new(&GatewayConfig::default());
    if sites.check_host(headers).is_ok() {
        assert!(headers.contains_key("host"));
    }
    if let Ok(Some(origin)) = sites.check_origin(headers, false) {
        assert_eq!(headers.get("origin"), Some(origin));
    }
    if !headers.contains_key("accept") {
        assert!(Accepts::read(headers).json);
    }
    for value in headers.values() {
        let _ = is_json(value.as_bytes());
        if let Ok(text) = value.to_str() {
            let _ = EventId::parse(text);
        }
    }
}

fn body(body: &[u8], headers: &HeaderMap) {
    let Ok(envelope) = Envelope::parse(body) else {
        return;
    };
    let _ = stateless::is_stateless(headers, body, &envelope);
    match stateless::check(headers, &envelope) {
        Ok(_) => {
            assert!(
                stateless::is_stateless(headers, body, &envelope),
                "it passes, and is not taken for one"
            );
            for name in ["mcp-protocol-version", "mcp-method"] {
                assert!(headers.contains_key(name), "it passes without {name}");
            }
        }
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) {
    assert!(refusal.reply("1").status().is_client_error());
}

/// Events that are cut out of a stream are the stream, wherever its pieces end. The first byte chooses their size.
pub fn events(data: &[u8]) {
    let [size, stream @ ..] = data else {
        return;
    };
    let split = |size: usize| {
        let mut splitter = EventSplitter::default();
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            splitter.push(piece, |event| found.push(event));
        }
        let whole: usize = found.iter().map(|event| event.len()).sum();
        assert_eq!(whole + splitter.waiting(), stream.len(), "bytes were lost");
        assert_eq!(found.concat(), stream[..whole]);
        found
    };
    assert_eq!(split(stream.len().max(1)), split(usize::from(*size) + 1));
}

#[cfg(test)]
mod tests {
    use crate::corpus;

    #[test]
    fn the_properties_hold_for_the_corpus_and_what_is_near_it() {
        corpus::near("request", super::request);
        corpus::near("events", super::events);
    }
}
