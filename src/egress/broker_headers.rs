//! Headers between a server and a service: what each side gets to see. Pure.

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, EXPECT, HOST, LOCATION,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

use crate::{
    domain::broker::{Broker, Upstream},
    secrets::Redactions,
};

/// A key, ready to be put into requests.
pub(super) struct Offer {
    pub(super) header: HeaderName,
    /// The header's value with the placeholder in it.
    pub(super) placeholder: HeaderValue,
    /// The same with the key.
    pub(super) value: HeaderValue,
}

impl Offer {
    /// `None`: a header may not hold it.
    pub(super) fn new(header: &str, placeholder: &str, value: &str) -> Option<Self> {
        Self::in_place_of(header, &HeaderValue::from_str(placeholder).ok()?, value)
    }

    /// The same, for a header whose value is known.
    pub(super) fn in_place_of(
        header: &str,
        placeholder: &HeaderValue,
        value: &str,
    ) -> Option<Self> {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(Self {
            header: header.parse().ok()?,
            placeholder: placeholder.clone(),
            value,
        })
    }
}

/// Removes what is between two neighbours only (RFC 9110 section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named = headers.get_all(CONNECTION).iter();
    let named = named.filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named
        .flat_map(|list| list.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    for name in named {
        headers.remove(name.as_str());
    }
    for name in [
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Removes from the headers of a request what is between server and broker only.
pub(super) fn remove_own(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in [HOST, EXPECT, ACCEPT_ENCODING] {
        headers.remove(name);
    }
    // What is compressed could not be searched for keys.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Makes the headers of a request those that the service gets: with the key in the place of its placeholder, or added
/// where none is.
///
/// # Errors
/// The header that holds another key.
pub(super) fn outward(headers: &mut HeaderMap, offers: &[Offer]) -> Result<(), HeaderName> {
    let names = offers
        .iter()
        .map(|offer| &offer.header)
        .chain([&AUTHORIZATION]);
    for name in names {
        let known = |value: &HeaderValue| {
            offers
                .iter()
                .any(|offer| offer.header == *name && offer.placeholder == *value)
        };
        if !headers.get_all(name).iter().all(known) {
            return Err(name.clone());
        }
    }
    remove_own(headers);
    let mut is_put = false;
    for offer in offers {
        if headers.get(&offer.header) == Some(&offer.placeholder) {
            headers.insert(&offer.header, offer.value.clone());
            is_put = true;
        }
    }
    if let (false, Some(first)) = (is_put, offers.first()) {
        headers.insert(&first.header, first.value.clone());
    }
    Ok(())
}

/// The bytes of a request's head, about.
pub(super) fn head_len(path: &str, headers: &HeaderMap) -> u64 {
    let lines = headers.iter();
    let lines = lines.map(|(name, value)| name.as_str().len() + value.len() + 4);
    (lines.sum::<usize>() + path.len()) as u64
}

/// Whether a body could not be read here.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Makes the headers of an answer those that the server gets: no key is in them, and a redirect within the service
/// leads to the broker again.
pub(super) fn inward(headers: &mut HeaderMap, broker: &Broker, redactions: &Redactions) {
    remove_hop_by_hop(headers);
    let own = headers
        .get(LOCATION)
        .and_then(|value| own_path(value, &broker.upstream));
    if let Some(path) = own
        && let Ok(location) = format!("http://127.0.0.1:{}{path}", broker.port).parse()
    {
        headers.insert(LOCATION, location);
    }
    let mut unreadable = Vec::new();
    for (name, value) in headers.iter_mut() {
        let Ok(text) = std::str::from_utf8(value.as_bytes()) else {
            unreadable.push(name.clone());
            continue;
        };
        if let std::borrow::Cow::Owned(shown) = redactions.redact(text) {
            *value = HeaderValue::from_str(&shown)
                .unwrap_or_else(|_| HeaderValue::from_static("[redacted]"));
        }
    }
    for name in unreadable {
        headers.remove(name);
    }
}

/// Path and query of an address of the service; `None`: it is another one's, or relative.
fn own_path(location: &HeaderValue, upstream: &Upstream) -> Option<String> {
    let text = location.to_str().ok()?;
    let address: Uri = text.parse().ok()?;
    address.scheme()?;
    let parsed =
        Upstream::parse(&format!("{}://{}", address.scheme()?, address.authority()?)).ok()?;
    let same = parsed.origin() == upstream.origin();
    same.then(|| {
        address
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::domain::{broker::BrokerWork, id::EnvName};

    fn offers() -> Vec<Offer> {
        [
            ("Authorization", "Bearer held", "Bearer oauth-key"),
            ("X-Token", "held", "personal-key"),
        ]
        .map(|(header, placeholder, value)| Offer::new(header, placeholder, value).expect("fit"))
        .into()
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let lines = lines.iter();
        lines
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn sent(lines: &[(&'static str, &'static str)]) -> Result<Vec<String>, HeaderName> {
        let mut headers = headers(lines);
        outward(&mut headers, &offers())?;
        let mut shown: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("ASCII")))
            .collect();
        shown.sort();
        Ok(shown)
    }

    #[test]
    fn the_key_takes_the_place_of_its_placeholder() {
        let identity = "accept-encoding: identity".to_owned();
        let with = |line: &str| Ok(vec![identity.clone(), line.to_owned()]);
        assert_eq!(
            sent(&[("authorization", "Bearer held")]),
            with("authorization: Bearer oauth-key")
        );
        assert_eq!(sent(&[("x-token", "held")]), with("x-token: personal-key"));
        assert_eq!(
            sent(&[]),
            with("authorization: Bearer oauth-key"),
            "the first, where none is named"
        );
        assert_eq!(
            sent(&[
                ("x-token", "held"),
                ("host", "127.0.0.1:64900"),
                ("connection", "close, x-own"),
                ("x-own", "1"),
                ("te", "trailers"),
                ("accept-encoding", "gzip"),
                ("proxy-authorization", "Basic x"),
            ]),
            with("x-token: personal-key")
        );
    }

    #[test]
    fn another_key_does_not_pass() {
        for lines in [
            [("authorization", "Bearer attackers")].as_slice(),
            &[("x-token", "attackers")],
            &[
                ("authorization", "Bearer held"),
                ("authorization", "Bearer attackers"),
            ],
            &[("x-token", "held"), ("authorization", "Basic attackers")],
            &[("authorization", "bearer held")],
        ] {
            assert!(sent(lines).is_err(), "{lines:?}");
        }
        // Where the key has a header of its own, Authorization is no other way either.
        let mut other = headers(&[("authorization", "Bearer attackers")]);
        assert_eq!(outward(&mut other, &offers()[1..]), Err(AUTHORIZATION));
    }

    #[test]
    fn answers_hold_no_key_and_lead_back() {
        let broker = Broker {
            base_url_variable: EnvName::new("URL").expect("a name"),
            port: 64_900,
            upstream: Upstream::parse("https://api.example.com/v1").expect("one"),
            work: BrokerWork::Keys(Vec::new()),
        };
        let redactions = Redactions::new([("KEY", Zeroizing::new("personal-key".to_owned()))]);
        for (location, led) in [
            (
                "https://api.example.com/v1/x?y=1",
                "http://127.0.0.1:64900/v1/x?y=1",
            ),
            ("https://api.example.com:443", "http://127.0.0.1:64900/"),
            ("https://other.example.com/x", "https://other.example.com/x"),
            ("http://api.example.com/x", "http://api.example.com/x"),
            ("/x", "/x"),
        ] {
            let mut answer = headers(&[
                ("x-echo", "you sent personal-key"),
                ("connection", "keep-alive"),
                ("keep-alive", "timeout=5"),
            ]);
            answer.insert(LOCATION, HeaderValue::from_static(location));
            answer.insert("x-odd", HeaderValue::from_bytes(b"\xff").expect("allowed"));
            inward(&mut answer, &broker, &redactions);
            assert_eq!(answer[LOCATION], led);
            assert_eq!(answer["x-echo"], "you sent [redacted:KEY]");
            assert_eq!(answer.len(), 2, "{answer:?}");
        }
        assert!(is_encoded(&headers(&[("content-encoding", "gzip")])));
        assert!(!is_encoded(&headers(&[("content-encoding", "identity")])));
    }
}
