//! Keys that a server never holds: it speaks plain HTTP with a broker on its own loopback and sends a placeholder; the
//! broker, outside of the sandbox, puts the key in its place and speaks TLS with the service.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    egress::{Egress, HostPattern, Refused, name},
    id::EnvName,
    oauth::{AccessTokenForm, RefreshGrant},
};

/// Most brokers of one server: each costs a listening socket.
pub const BROKERS_MAX: usize = 8;
/// The first port that a broker listens on, inside; beyond those that kernels give out by themselves.
pub(super) const FIRST_PORT: u16 = 64_900;

/// The `[credential.broker]` section of a manifest: how a key is added outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BrokerSpec {
    /// The variable by which the server is told where the service is; it gets the broker's address.
    pub base_url_variable: EnvName,
    /// Where the service is: the first of these whose settings, written as `{setting}`, are given.
    pub upstream: Vec<String>,
    /// The header that holds the key.
    #[serde(default = "authorization")]
    pub header: String,
    /// The header's value; `{}` stands for the key.
    #[serde(default = "bearer")]
    pub format: String,
    /// What the server gets instead of the key, for one that looks at its form.
    #[serde(default = "placeholder")]
    pub placeholder: String,
}

pub(super) fn authorization() -> String {
    "Authorization".to_owned()
}

pub(super) fn bearer() -> String {
    "Bearer {}".to_owned()
}

pub(super) fn placeholder() -> String {
    "held-by-minimcp".to_owned()
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Whether TLS is spoken; without it only with a loopback address.
    pub is_tls: bool,
    /// One name, or one address.
    pub host: HostPattern,
    /// The TCP port.
    pub port: u16,
    /// What its paths begin with; without a slash at the end.
    pub path: String,
}

/// Why a text is no [`Upstream`]. The text is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be an address such as https://api.example.com/v1, without user, query and fragment; http is for loopback \
     addresses only"
)]
pub struct InvalidUpstream;

impl Upstream {
    /// Reads a web address; a host alone means https.
    ///
    /// # Errors
    /// [`InvalidUpstream`].
    pub fn parse(text: &str) -> Result<Self, InvalidUpstream> {
        let (scheme, rest) = text
            .trim()
            .split_once("://")
            .unwrap_or(("https", text.trim()));
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(InvalidUpstream),
        };
        let unfit =
            |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'?' | b'#' | b'@' | b'\\');
        if rest.bytes().any(unfit) {
            return Err(InvalidUpstream);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let after_host = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority.get(after_host..).and_then(|tail| tail.rfind(':')) {
            Some(at) => (
                &authority[..after_host + at],
                Some(&authority[after_host + at + 1..]),
            ),
            None => (authority, None),
        };
        let port = match port {
            None if is_tls => 443,
            None => 80,
            Some(port) => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|port| digits && *port > 0);
                port.ok_or(InvalidUpstream)?
            }
        };
        let host: HostPattern = match host {
            "localhost" => HostPattern::Address(std::net::Ipv4Addr::LOCALHOST.into()),
            host => host.parse().map_err(|_| InvalidUpstream)?,
        };
        let is_loopback = match &host {
            HostPattern::Name(text) if name(text).is_some() => false,
            HostPattern::Address(address) => address.is_loopback(),
            _ => return Err(InvalidUpstream),
        };
        (is_tls || is_loopback)
            .then_some(())
            .ok_or(InvalidUpstream)?;
        Ok(Self {
            is_tls,
            host,
            port,
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    /// Scheme, host and port, as in `https://api.example.com:443`.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// Host and port, as records name it.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

/// One broker of a server: where it listens, to whom it speaks, and what it does to requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// The variable that tells the server the broker's address.
    pub base_url_variable: EnvName,
    /// Its port on the server's own loopback.
    pub port: u16,
    /// The service.
    pub upstream: Upstream,
    /// What it puts in the place of placeholders.
    pub work: BrokerWork,
}

/// What a broker puts in the place of placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerWork {
    /// Keys; the first is added where a request names none.
    Keys(Vec<BrokerKey>),
    /// Client secret and refresh token, in requests for access tokens.
    Refresh(RefreshGrant),
    /// The access tokens that were given to such requests.
    AccessTokens(AccessTokenForm),
}

/// A key that a broker adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerKey {
    /// The variable of its credential, which holds the placeholder.
    pub variable: EnvName,
    /// The header.
    pub header: String,
    /// Its value; `{}` stands for the key.
    pub format: String,
    /// What stands for the key inside.
    pub placeholder: String,
}

impl BrokerKey {
    /// The header's value with `key` in it.
    #[must_use]
    pub fn value(&self, key: &str) -> String {
        self.format.replacen("{}", key, 1)
    }
}

impl Broker {
    /// What the server is told: the broker's address, with the path of the service.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, self.upstream.path)
    }

    /// The variables of the credentials that stay outside.
    #[must_use]
    pub fn variables(&self) -> Vec<&EnvName> {
        match &self.work {
            BrokerWork::Keys(keys) => keys.iter().map(|key| &key.variable).collect(),
            BrokerWork::Refresh(grant) => grant.variables().collect(),
            BrokerWork::AccessTokens(_) => Vec::new(),
        }
    }
}

/// The brokers for those `credentials` (variable and how its key is added) that are bound; `setting` gives the text of
/// a setting, `is_taken` tells ports that are used otherwise.
///
/// # Errors
/// Why there is no address for one of them.
pub fn brokers<'a>(
    credentials: impl Iterator<Item = (&'a EnvName, &'a BrokerSpec)>,
    setting: impl Fn(&str) -> Option<String>,
    is_taken: impl Fn(u16) -> bool,
) -> Result<Vec<Broker>, String> {
    let mut brokers: Vec<Broker> = Vec::new();
    let mut ports = (FIRST_PORT..=u16::MAX).filter(|port| !is_taken(*port));
    for (variable, spec) in credentials {
        let key = BrokerKey {
            variable: variable.clone(),
            header: spec.header.clone(),
            format: spec.format.clone(),
            placeholder: spec.placeholder.clone(),
        };
        let known = brokers
            .iter_mut()
            .find(|broker| broker.base_url_variable == spec.base_url_variable);
        if let Some(BrokerWork::Keys(keys)) = known.map(|broker| &mut broker.work) {
            keys.push(key);
            continue;
        }
        let none = || format!("no port is left for the broker of {variable}");
        brokers.push(Broker {
            base_url_variable: spec.base_url_variable.clone(),
            port: ports.next().ok_or_else(none)?,
            upstream: place_of(&spec.upstream, &setting, variable)?,
            work: BrokerWork::Keys(vec![key]),
        });
    }
    Ok(brokers)
}

/// The first of `candidates` whose settings are given.
///
/// # Errors
/// None is, or it is no address.
pub(super) fn place_of(
    candidates: &[String],
    setting: &impl Fn(&str) -> Option<String>,
    variable: &EnvName,
) -> Result<Upstream, String> {
    let address = candidates.iter().find_map(|text| filled(text, setting));
    let address =
        address.ok_or_else(|| format!("no address is known for the broker of {variable}"))?;
    Upstream::parse(&address)
        .map_err(|fault| format!("the address for the broker of {variable} {fault}"))
}

/// The settings that a candidate names.
pub fn settings_of(candidate: &str) -> impl Iterator<Item = &str> {
    candidate
        .split('{')
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('}')?.0))
}

/// A candidate with its settings filled in; `None`: one of them is not given.
fn filled(candidate: &str, setting: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut text = String::new();
    let mut rest = candidate;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}')?;
        let value = setting(name).filter(|value| !value.trim().is_empty())?;
        text.push_str(before);
        text.push_str(value.trim().trim_end_matches('/'));
        rest = behind;
    }
    text.push_str(rest);
    Some(text)
}

impl Egress {
    /// Whether a broker may reach a service: by the same rules as the server itself could.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn brokers_to(&self, upstream: &Upstream) -> Result<(), Refused> {
        match &upstream.host {
            HostPattern::Name(name) => self.allows(name, upstream.port),
            HostPattern::Address(address) => self.allows_address(*address, upstream.port),
            _ => Err(Refused::NotAllowed),
        }
    }

    /// Whether the key of this credential stays outside.
    #[must_use]
    pub fn holds_back(&self, variable: &str) -> bool {
        let mut held = self.brokers.iter().flat_map(Broker::variables);
        held.any(|name| name.as_str() == variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(base: &str, upstream: &[&str]) -> BrokerSpec {
        BrokerSpec {
            base_url_variable: EnvName::new(base).expect("a name"),
            upstream: upstream.iter().map(|text| (*text).to_owned()).collect(),
            header: authorization(),
            format: bearer(),
            placeholder: placeholder(),
        }
    }

    #[test]
    fn an_upstream_is_one_host_over_tls_or_on_the_loopback() {
        for (text, origin, path) in [
            ("https://api.github.com", "https://api.github.com:443", ""),
            (
                "https://Ghe.Example.com:8443/api/v3/",
                "https://ghe.example.com:8443",
                "/api/v3",
            ),
            ("ghe.example.com", "https://ghe.example.com:443", ""),
            ("http://127.0.0.1:99", "http://127.0.0.1:99", ""),
            ("http://localhost/x", "http://127.0.0.1:80", "/x"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]:443", ""),
            ("http://[::1]:8080/v1", "http://[::1]:8080", "/v1"),
        ] {
            let upstream = Upstream::parse(text).expect(text);
            assert_eq!(
                (upstream.origin().as_str(), upstream.path.as_str()),
                (origin, path),
                "{text}"
            );
        }
        for text in [
            "",
            "https://",
            "http://api.example.com",
            "http://10.0.0.1",
            "ftp://api.example.com",
            "https://user:key@api.example.com",
            "https://api.example.com?key=1",
            "https://api.example.com#x",
            "https://*.example.com",
            "https://*",
            "https://api.example.com:0",
            "https://api.example.com:+443",
            "https://api.example.com:99999",
            "https://api.exa mple.com",
            "https://api.example.com\\x",
        ] {
            assert_eq!(Upstream::parse(text), Err(InvalidUpstream), "{text}");
        }
    }

    #[test]
    fn credentials_of_one_address_share_a_broker_and_others_have_ports_of_their_own() {
        let names = ["A", "B", "C"].map(|name| EnvName::new(name).expect("a name"));
        let specs = [
            spec(
                "URL",
                &["{api_url}", "{host}/api/v3", "https://api.example.com"],
            ),
            spec(
                "URL",
                &["{api_url}", "{host}/api/v3", "https://api.example.com"],
            ),
            spec("OTHER_URL", &["https://other.example.com/v1"]),
        ];
        let plan = |host: Option<&str>, taken: u16| {
            let setting = |name: &str| host.filter(|_| name == "host").map(str::to_owned);
            brokers(names.iter().zip(&specs), setting, |port| port == taken)
        };
        let plain = plan(None, 0).expect("all have addresses");
        let told: Vec<_> = plain
            .iter()
            .map(|broker| {
                (
                    broker.upstream.to_string(),
                    broker.base_url(),
                    broker.variables().len(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (
                    "https://api.example.com:443".to_owned(),
                    "http://127.0.0.1:64900".to_owned(),
                    2
                ),
                (
                    "https://other.example.com:443/v1".to_owned(),
                    "http://127.0.0.1:64901/v1".to_owned(),
                    1
                ),
            ]
        );
        let moved = plan(Some("https://ghe.example.com/"), FIRST_PORT).expect("all have addresses");
        assert_eq!(
            moved[0].upstream.to_string(),
            "https://ghe.example.com:443/api/v3"
        );
        assert_eq!(moved[0].base_url(), "http://127.0.0.1:64901/api/v3");
        let fault = plan(Some("http://ghe.example.com"), 0).expect_err("no TLS");
        assert!(
            fault.contains("broker of A") && !fault.contains("ghe"),
            "{fault}"
        );
    }

    #[test]
    fn a_key_takes_the_place_of_its_sign() {
        let key = BrokerKey {
            variable: EnvName::new("KEY").expect("a name"),
            header: authorization(),
            format: "token {}".to_owned(),
            placeholder: placeholder(),
        };
        assert_eq!(key.value("{}x"), "token {}x");
        assert_eq!(settings_of("{a}/b/{c}").collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(settings_of("https://x").count(), 0);
    }

    #[test]
    fn a_broker_reaches_what_rules_allow_and_the_operator_does_not_deny() {
        let upstream = Upstream::parse("https://api.example.com").expect("one");
        let mut egress = Egress {
            hosts: vec!["api.example.com:443".parse().expect("a rule")],
            ..Egress::default()
        };
        assert_eq!(egress.brokers_to(&upstream), Ok(()));
        assert_eq!(egress.connects("api.example.com", 443), Ok(()));
        egress.brokers = brokers(
            [(
                &EnvName::new("KEY").expect("a name"),
                &spec("URL", &["https://api.example.com"]),
            )]
            .into_iter(),
            |_| None,
            |_| false,
        )
        .expect("it has an address");
        assert!(egress.holds_back("KEY") && !egress.holds_back("URL"));
        assert_eq!(egress.brokers_to(&upstream), Ok(()));
        assert_eq!(
            egress.connects("api.example.com", 443),
            Err(Refused::Brokered)
        );
        egress.denied = vec!["api.example.com".parse().expect("a name")];
        assert_eq!(egress.brokers_to(&upstream), Err(Refused::Denied));
    }
}
