//! Who may use an access URL: token, `Host` and `Origin`. Pure decisions.

use std::net::IpAddr;

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::{
    config::{GatewayConfig, PublicUrl},
    domain::UnixMs,
    supervisor::access::{Secret, TokenSet},
};

/// Why a request may not enter. No variant holds the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// No token was sent.
    NoToken,
    /// The token sent does not open this instance, or no longer does.
    WrongToken,
    /// The `Host` header is missing or names a host that is not ours.
    Host,
    /// The `Origin` header names a site that is not allowed.
    Origin,
}

impl Denied {
    /// What the client is told.
    #[must_use]
    pub fn sentence(&self) -> &'static str {
        match self {
            Self::NoToken => {
                "An access token is needed: send the header 'Authorization: Bearer TOKEN', or use the URL with the token inside, '/TOKEN/mcp'."
            }
            Self::WrongToken => {
                "The access token is not valid for this instance, or not any more: send a current one as 'Authorization: Bearer TOKEN', or use a current access URL."
            }
            Self::Host => {
                "The Host header names a host that this gateway does not serve: an administrator can add it to gateway.allowed_hosts."
            }
            Self::Origin => {
                "Requests from this web page's Origin are not allowed: an administrator can add it to gateway.allowed_origins."
            }
        }
    }
}

/// Checks the token of the header, or the one of the path when there is no such header.
///
/// # Errors
/// [`Denied::NoToken`] or [`Denied::WrongToken`].
pub fn check_token(
    tokens: &TokenSet,
    headers: &HeaderMap,
    in_path: Option<&str>,
    now: UnixMs,
) -> Result<Secret, Denied> {
    let sent = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let value = value.as_bytes();
            let (scheme, token) = value.split_at(value.len().min(7));
            if !scheme.eq_ignore_ascii_case(b"bearer ") {
                return Err(Denied::WrongToken);
            }
            token.trim_ascii()
        }
        None => in_path.ok_or(Denied::NoToken)?.as_bytes(),
    };
    let hash: [u8; 32] = Sha256::digest(sent).into();
    tokens.opens(&hash, now).cloned().ok_or(Denied::WrongToken)
}

/// Which `Host` and `Origin` headers are accepted.
#[derive(Debug, Clone)]
pub struct Sites {
    address: IpAddr,
    /// Its text: what clients of this machine mostly send needs no reading.
    address_text: String,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Sites {
    /// Those of the access ports.
    #[must_use]
    pub fn new(config: &GatewayConfig) -> Self {
        Self::of(config, config.address, None)
    }

    /// Those of a listener on `address` that the outside may know as `gateway.public_url`.
    #[must_use]
    pub fn behind(config: &GatewayConfig, address: IpAddr) -> Self {
        let public = config.public_url.as_ref().map(PublicUrl::host);
        Self::of(config, address, public)
    }

    fn of(config: &GatewayConfig, address: IpAddr, public: Option<&str>) -> Self {
        let public = public.map(str::to_owned);
        let lower = |text: &String| text.trim_end_matches('/').to_ascii_lowercase();
        Self {
            address,
            address_text: address.to_string(),
            hosts: config
                .allowed_hosts
                .iter()
                .chain(config.public_host.as_ref())
                .chain(public.as_ref())
                .map(lower)
                .collect(),
            origins: config.allowed_origins.iter().map(lower).collect(),
        }
    }

    /// The guard against DNS rebinding: a page of a stranger's site that resolves to our address still sends that
    /// site's name.
    ///
    /// # Errors
    /// [`Denied::Host`].
    pub fn check_host(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let sent = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        self.check_host_name(sent.ok_or(Denied::Host)?)
    }

    /// As [`Sites::check_host`], for a name that a trusted proxy was asked by.
    ///
    /// # Errors
    /// [`Denied::Host`].
    pub fn check_host_name(&self, sent: &str) -> Result<(), Denied> {
        let host = without_port(sent);
        if host == self.address_text {
            return Ok(());
        }
        let known = |allowed: &String| {
            allowed.eq_ignore_ascii_case(sent) || allowed.eq_ignore_ascii_case(host)
        };
        let ours = match host_ip(host) {
            Some(ip) => ip.is_loopback() || ip == self.address || self.address.is_unspecified(),
            None => host.eq_ignore_ascii_case("localhost"),
        };
        if ours || self.hosts.iter().any(known) {
            Ok(())
        } else {
            Err(Denied::Host)
        }
    }

    /// Checks `Origin`, which only browsers send. Pages of this machine pass while the gateway listens on loopback and
    /// the client is not `forwarded` by a proxy: then `localhost` is another machine. The answer is the origin to name
    /// in CORS headers.
    ///
    /// # Errors
    /// [`Denied::Origin`].
    pub fn check_origin<'a>(
        &self,
        headers: &'a HeaderMap,
        forwarded: bool,
    ) -> Result<Option<&'a http::HeaderValue>, Denied> {
        let Some(value) = headers.get(header::ORIGIN) else {
            return Ok(None);
        };
        let origin = value.to_str().map_err(|_| Denied::Origin)?;
        let listed = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(origin);
        if self.origins.iter().any(listed) {
            return Ok(Some(value));
        }
        let site = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        let local = site.map(without_port).is_some_and(|host| {
            host.eq_ignore_ascii_case("localhost")
                || host_ip(host).is_some_and(|ip| ip.is_loopback())
        });
        if local && !forwarded && self.address.is_loopback() {
            Ok(Some(value))
        } else {
            Err(Denied::Origin)
        }
    }
}

/// A host without its port.
pub fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.rsplit_once(':').map_or(host, |(host, _)| host)
}

fn host_ip(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{access::TokenSettings, id::TokenName},
        supervisor::access::Token,
    };
    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.insert(*name, value.parse().expect("a valid header"));
        }
        map
    }

    fn token(name: &str, expires_at: Option<UnixMs>) -> Arc<Token> {
        let settings = TokenSettings {
            expires_at,
            ..TokenSettings::default()
        };
        Token::new(TokenName::new(name).expect("a name"), settings, 0)
    }

    #[test]
    fn the_header_wins_over_the_path_and_an_old_token_ends() {
        let hash = |text: &str| <[u8; 32]>::from(Sha256::digest(text));
        let tokens = TokenSet::of_one(token("new", None), hash("new"))
            .with(token("old", Some(100)), hash("old"));
        let bearer = |text: &str| headers(&[("authorization", text)]);
        let check = |headers: &HeaderMap, path, now| {
            check_token(&tokens, headers, path, now).map(|secret| secret.token.name.to_string())
        };
        assert_eq!(check(&bearer("Bearer new"), None, 0), Ok("new".to_owned()));
        assert_eq!(
            check(&bearer("bearer  old"), None, 99),
            Ok("old".to_owned())
        );
        let wrong = Err(Denied::WrongToken);
        assert_eq!(check(&bearer("Bearer old"), None, 100), wrong);
        assert_eq!(check(&bearer("Bearer nope"), Some("new"), 0), wrong);
        assert_eq!(check(&bearer("Basic new"), None, 0), wrong);
        assert_eq!(check(&bearer("B"), None, 0), wrong);
        assert_eq!(
            check(&HeaderMap::new(), Some("new"), 0),
            Ok("new".to_owned())
        );
        assert_eq!(check(&HeaderMap::new(), None, 0), Err(Denied::NoToken));
        let nobody = check_token(&TokenSet::default(), &bearer("Bearer "), None, 0);
        assert_eq!(nobody.map(drop), Err(Denied::WrongToken));
    }

    #[test]
    fn a_strange_host_or_origin_stays_out() {
        let mut config = GatewayConfig {
            public_host: Some("mcp.example.org".into()),
            allowed_origins: vec!["https://App.example.org/".into()],
            ..GatewayConfig::default()
        };
        let sites = Sites::new(&config);
        for host in [
            "localhost:3001",
            "LOCALHOST",
            "127.0.0.1:3001",
            "[::1]:3001",
            "mcp.example.org:3001",
        ] {
            assert_eq!(
                sites.check_host(&headers(&[("host", host)])),
                Ok(()),
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example:3001",
            "10.0.0.1",
            "",
        ] {
            let denied = sites.check_host(&headers(&[("host", host)]));
            assert_eq!(denied, Err(Denied::Host), "{host}");
        }
        assert_eq!(sites.check_host(&HeaderMap::new()), Err(Denied::Host));
        let origin = |sites: &Sites, text: &str| {
            let headers = headers(&[("origin", text)]);
            sites
                .check_origin(&headers, false)
                .map(|found| found.is_some())
        };
        for text in [
            "http://localhost:6274",
            "https://app.example.org",
            "http://[::1]:1",
        ] {
            assert_eq!(origin(&sites, text), Ok(true), "{text}");
        }
        for text in [
            "http://evil.example",
            "null",
            "http://localhost.evil.example",
            "file://",
        ] {
            assert_eq!(origin(&sites, text), Err(Denied::Origin), "{text}");
        }
        assert_eq!(sites.check_origin(&HeaderMap::new(), false), Ok(None));
        let page = headers(&[("origin", "http://localhost:6274")]);
        assert_eq!(sites.check_origin(&page, true), Err(Denied::Origin));
        config.public_url = "https://outside.example:8443/x".parse().ok();
        let outside = headers(&[("host", "outside.example")]);
        assert_eq!(sites.check_host(&outside), Err(Denied::Host));
        let behind = Sites::behind(&config, "10.0.0.1".parse().expect("an address"));
        assert_eq!(behind.check_host(&outside), Ok(()));
        assert_eq!(behind.check_host_name("10.0.0.1:7420"), Ok(()));
        assert_eq!(behind.check_host_name("evil.example"), Err(Denied::Host));
        assert_eq!(origin(&behind, "http://localhost:1"), Err(Denied::Origin));
        config.address = "0.0.0.0".parse().expect("an address");
        let sites = Sites::new(&config);
        assert_eq!(
            sites.check_host(&headers(&[("host", "10.0.0.1:3001")])),
            Ok(())
        );
        assert_eq!(origin(&sites, "http://localhost:1"), Err(Denied::Origin));
    }
}
