//! OAuth sign-ins that a server never holds (RFC 6749 section 6): it asks for access tokens with placeholders for client
//! secret and refresh token, and gets a placeholder for each access token. The broker, outside of the sandbox, puts the
//! real ones in their places.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    broker::{Broker, BrokerWork, FIRST_PORT, authorization, bearer, place_of, placeholder},
    id::EnvName,
};

/// The `[oauth]` section of a manifest: a sign-in that stays outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OauthSpec {
    /// The variable by which the server is told where it asks for access tokens; it gets the broker's address.
    pub token_url_variable: EnvName,
    /// The token endpoint: the first of these whose settings, written as `{setting}`, are given.
    pub token_upstream: Vec<String>,
    /// The variable by which the server is told where the service is; it gets the broker's address.
    pub base_url_variable: EnvName,
    /// Where the service is: the first of these whose settings, written as `{setting}`, are given.
    pub upstream: Vec<String>,
    /// The credential that is the refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<EnvName>,
    /// The credential that is the client secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<EnvName>,
    /// The credential that holds both, and the client id: JSON with `client_id`, `client_secret` and `refresh_token`,
    /// as Google's `authorized_user` files are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<EnvName>,
    /// The header that holds the access token.
    #[serde(default = "authorization")]
    pub header: String,
    /// The header's value; `{}` stands for the access token.
    #[serde(default = "bearer")]
    pub format: String,
    /// What the server gets instead of client secret and refresh token; a placeholder of an access token begins with it.
    #[serde(default = "placeholder")]
    pub placeholder: String,
}

impl OauthSpec {
    /// The credentials that are named, with the key that names each.
    pub fn credentials(&self) -> impl Iterator<Item = (&'static str, &EnvName)> {
        [
            ("json", &self.json),
            ("client_secret", &self.client_secret),
            ("refresh_token", &self.refresh_token),
        ]
        .into_iter()
        .filter_map(|(key, name)| Some((key, name.as_ref()?)))
    }
}

/// What a broker at a token endpoint knows of a sign-in; of the credentials only those that are bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshGrant {
    /// See [`OauthSpec::json`]; goes before the others.
    pub json: Option<EnvName>,
    /// See [`OauthSpec::client_secret`].
    pub client_secret: Option<EnvName>,
    /// See [`OauthSpec::refresh_token`].
    pub refresh_token: Option<EnvName>,
    /// What stands for them inside.
    pub placeholder: String,
}

impl RefreshGrant {
    /// The variables of what stays outside.
    pub fn variables(&self) -> impl Iterator<Item = &EnvName> {
        [&self.json, &self.client_secret, &self.refresh_token]
            .into_iter()
            .flatten()
    }

    /// What the server gets instead of each.
    pub fn placeholders(&self) -> impl Iterator<Item = (&EnvName, String)> {
        let stand_in = &self.placeholder;
        let json = self.json.as_ref().map(|name| {
            let members = serde_json::json!({
                "type": "authorized_user",
                "client_id": stand_in,
                "client_secret": stand_in,
                "refresh_token": stand_in,
            });
            (name, members.to_string())
        });
        let parts = [&self.client_secret, &self.refresh_token];
        let parts = parts.into_iter().flatten();
        json.into_iter()
            .chain(parts.map(|name| (name, stand_in.clone())))
    }
}

/// How a service is given its access tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessTokenForm {
    /// The header.
    pub header: String,
    /// Its value; `{}` stands for the access token.
    pub format: String,
    /// What the placeholders of access tokens begin with.
    pub placeholder: String,
}

impl AccessTokenForm {
    /// The header's value with `token` in it.
    #[must_use]
    pub fn value(&self, token: &str) -> String {
        self.format.replacen("{}", token, 1)
    }

    /// What of a header's value stands where the access token is; `None`: it is not of this form.
    #[must_use]
    pub fn token_in<'v>(&self, value: &'v str) -> Option<&'v str> {
        let (before, after) = self.format.split_once("{}")?;
        // The name of a scheme is written as one likes (RFC 9110 section 11.1).
        let head = value.get(..before.len())?;
        let rest = head
            .eq_ignore_ascii_case(before)
            .then(|| &value[before.len()..])?;
        rest.strip_suffix(after)
    }

    /// Whether a text has the form of a placeholder of ours, be it known or not.
    #[must_use]
    pub fn is_placeholder(&self, token: &str) -> bool {
        let rest = token.strip_prefix(self.placeholder.as_str());
        let rest = rest.and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| {
            rest.len() == PLACEHOLDER_DIGITS && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }
}

/// So many hexadecimal digits follow the beginning of a placeholder of an access token.
pub const PLACEHOLDER_DIGITS: usize = 32;

/// The two brokers of a sign-in, or none when no credential of it is bound; see
/// [`brokers`](super::broker::brokers).
///
/// # Errors
/// Why there is no address for one of them.
pub fn oauth_brokers(
    spec: &OauthSpec,
    is_bound: impl Fn(&EnvName) -> bool,
    setting: impl Fn(&str) -> Option<String>,
    is_taken: impl Fn(u16) -> bool,
) -> Result<Vec<Broker>, String> {
    let bound = |name: &Option<EnvName>| name.clone().filter(|name| is_bound(name));
    let grant = RefreshGrant {
        json: bound(&spec.json),
        client_secret: bound(&spec.client_secret),
        refresh_token: bound(&spec.refresh_token),
        placeholder: spec.placeholder.clone(),
    };
    let access_tokens = AccessTokenForm {
        header: spec.header.clone(),
        format: spec.format.clone(),
        placeholder: spec.placeholder.clone(),
    };
    if grant.variables().next().is_none() {
        return Ok(Vec::new());
    }
    let ports = (FIRST_PORT..=u16::MAX).filter(|port| !is_taken(*port));
    let parts = [
        (
            &spec.token_url_variable,
            &spec.token_upstream,
            BrokerWork::Refresh(grant),
        ),
        (
            &spec.base_url_variable,
            &spec.upstream,
            BrokerWork::AccessTokens(access_tokens),
        ),
    ];
    let parts = parts.into_iter().zip(ports);
    parts
        .map(|((variable, candidates, work), port)| {
            Ok(Broker {
                base_url_variable: variable.clone(),
                port,
                upstream: place_of(candidates, &setting, variable)?,
                work,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> EnvName {
        EnvName::new(text).expect("a name")
    }

    fn spec() -> OauthSpec {
        OauthSpec {
            token_url_variable: name("TOKEN_URL"),
            token_upstream: vec![
                "{token_url}".to_owned(),
                "https://a.test.example/token".to_owned(),
            ],
            base_url_variable: name("URL"),
            upstream: vec!["https://b.test.example/v1".to_owned()],
            refresh_token: Some(name("REFRESH")),
            client_secret: Some(name("SECRET")),
            json: Some(name("JSON")),
            header: authorization(),
            format: bearer(),
            placeholder: placeholder(),
        }
    }

    fn brokers_of(bound: &[&str]) -> Vec<Broker> {
        let is_bound = |name: &EnvName| bound.contains(&name.as_str());
        oauth_brokers(&spec(), is_bound, |_| None, |port| port == FIRST_PORT).expect("addresses")
    }

    #[test]
    fn a_sign_in_has_a_broker_for_its_tokens_and_one_for_its_service() {
        assert_eq!(brokers_of(&[]), []);
        let both = brokers_of(&["SECRET", "REFRESH"]);
        let told: Vec<_> = both.iter().map(Broker::base_url).collect();
        assert_eq!(
            told,
            ["http://127.0.0.1:64901/token", "http://127.0.0.1:64902/v1"],
            "each has a port of its own, beside those that are taken"
        );
        let held: Vec<&str> = both
            .iter()
            .flat_map(Broker::variables)
            .map(EnvName::as_str)
            .collect();
        assert_eq!(held, ["SECRET", "REFRESH"]);
        let BrokerWork::Refresh(grant) = &both[0].work else {
            panic!("the first is at the token endpoint");
        };
        let given: Vec<String> = grant.placeholders().map(|(_, text)| text).collect();
        assert_eq!(given, ["held-by-minimcp", "held-by-minimcp"]);
        let one = brokers_of(&["JSON"]);
        let BrokerWork::Refresh(grant) = &one[0].work else {
            panic!("the first is at the token endpoint");
        };
        let (variable, text) = grant.placeholders().next().expect("one");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(variable.as_str(), "JSON");
        assert_eq!(read["refresh_token"], "held-by-minimcp");
    }

    #[test]
    fn a_placeholder_is_known_by_its_form() {
        let form = AccessTokenForm {
            header: authorization(),
            format: bearer(),
            placeholder: "held".to_owned(),
        };
        let digits = "0123456789abcdef0123456789ABCDEF";
        let placeholder = format!("held-{digits}");
        for value in [form.value(&placeholder), format!("bearer {placeholder}")] {
            assert_eq!(form.token_in(&value), Some(placeholder.as_str()));
        }
        assert!(form.is_placeholder(&placeholder));
        for other in [
            "",
            "held",
            "held-",
            "ya29.x",
            digits,
            &format!("held-{digits}0"),
        ] {
            assert!(!form.is_placeholder(other), "{other}");
        }
        for value in ["", "Bear", "Basic x", "Bearér x"] {
            assert_eq!(form.token_in(value), None, "{value}");
        }
    }
}
