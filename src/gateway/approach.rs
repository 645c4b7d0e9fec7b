//! The ways that requests come in: an access port, or a path on the API's listeners.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};

use crate::config::PublicUrl;

use super::{
    Gateway, Peer, Place, Reply,
    access::{self, Denied, Sites},
    body::read as read_body,
    card,
    forwarded::Visitor,
    not_allowed, reply,
    target::Target,
};

/// The way that a request came in.
pub struct Approach<'a> {
    /// What its `Host` and `Origin` are checked against.
    pub sites: &'a Sites,
    /// The other end of the connection.
    pub peer: Peer,
    /// Where the instance is mounted on the listener: `/i/NAME`, or nothing on its access port.
    pub mount: &'a str,
    /// The path below it.
    pub path: &'a str,
    /// How the outside knows the listener.
    pub public: Option<&'a PublicUrl>,
}

impl Approach<'_> {
    /// The mount point as the client knows it: a proxy may have taken a part of the path away.
    #[must_use]
    pub fn outside_path(&self, visitor: &Visitor) -> String {
        let taken = self
            .public
            .filter(|_| visitor.forwarded)
            .map(PublicUrl::path);
        format!("{}{}", taken.unwrap_or_default(), self.mount)
    }

    /// The absolute URL of the listener as the client knows it, without a final slash, and its host. The headers were
    /// checked.
    #[must_use]
    pub fn base(&self, visitor: &Visitor, headers: &HeaderMap) -> (String, String) {
        if let Some(public) = self.public {
            return (public.as_str().to_owned(), public.host().to_owned());
        }
        let sent = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let host = visitor.host.as_deref().or(sent).unwrap_or_default();
        let name = access::without_port(host).to_owned();
        (format!("{}://{host}", visitor.scheme), name)
    }
}

/// A request for something that is there.
pub struct Asked<'a> {
    /// The way that it came in.
    pub approach: &'a Approach<'a>,
    /// Who asks.
    pub visitor: &'a Visitor,
    /// What for.
    pub target: Target<'a>,
}

impl Gateway {
    /// Who asks, and the origin to name in CORS headers. What is `open` may be read by every web page.
    pub(super) fn visitor<'a>(
        &self,
        approach: &Approach<'_>,
        headers: &'a HeaderMap,
        open: bool,
    ) -> Result<(Visitor, Option<&'a HeaderValue>), Denied> {
        let visitor = self.proxies.visitor(approach.peer, headers);
        approach.sites.check_host(headers)?;
        if let Some(host) = &visitor.host {
            approach.sites.check_host_name(host)?;
        }
        if open {
            return Ok((visitor, None));
        }
        let origin = approach.sites.check_origin(headers, visitor.forwarded)?;
        Ok((visitor, origin))
    }

    /// The server card of an instance.
    pub(super) fn card(&self, place: &Place, asked: &Asked<'_>, parts: &Parts) -> Reply {
        if parts.method != Method::GET {
            return not_allowed("GET");
        }
        let (base, host) = asked.approach.base(asked.visitor, &parts.headers);
        let base = format!("{base}{}", asked.approach.mount);
        card::card_reply(&place.route, &base, &host, &self.config, &parts.headers)
    }

    /// The JSON body of a request.
    pub(super) async fn read_json<B>(&self, parts: &Parts, body: B) -> Result<Bytes, Box<Reply>>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
    {
        let kind = parts.headers.get(header::CONTENT_TYPE);
        if !kind.is_some_and(|kind| is_json(kind.as_bytes())) {
            return Err(Box::new(reply::refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The request body must be JSON: send 'Content-Type: application/json'.",
            )));
        }
        let limit = self.config.body_limit_bytes;
        let read = read_body(body, limit).await;
        read.map_err(|why| Box::new(reply::not_read(&why, limit)))
    }
}

pub(super) fn is_json(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next();
    kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}
