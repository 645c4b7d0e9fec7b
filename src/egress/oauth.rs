//! What a sign-in becomes on its way: requests for access tokens with the real client secret and refresh token in them,
//! answers without any token, and the access tokens that placeholders stand for. Without I/O.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::prelude::*;
use bytes::Bytes;
use form_urlencoded::{Serializer, byte_serialize, parse};
use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{broker::Keys, broker_headers::Offer};
use crate::{
    domain::oauth::{AccessTokenForm, PLACEHOLDER_DIGITS, RefreshGrant},
    secrets::Redactions,
};

/// Longest request for an access token, and longest answer, in bytes.
pub(super) const TOKEN_BODY_BYTES_MAX: usize = 64 * 1_024;
/// Access tokens that are known at the same time; a server that asked for more has forgotten the first.
const ISSUED_MAX: usize = 16;

/// A sign-in and what came of it, of one child.
pub(super) struct Tokens {
    /// What stands for client secret and refresh token.
    placeholder: String,
    /// Or why there is no sign-in.
    client: Result<SignIn, String>,
    held: Mutex<Held>,
}

/// The values of a sign-in that do not change.
#[derive(Clone)]
struct SignIn {
    client_id: Option<Zeroizing<String>>,
    client_secret: Option<Zeroizing<String>>,
}

struct Held {
    /// The one that was stored, or the last that the service gave instead.
    refresh_token: Zeroizing<String>,
    /// Placeholder and access token, the newest last.
    issued: VecDeque<(String, Zeroizing<String>)>,
    /// All that no answer may hold.
    redactions: Arc<Redactions>,
}

/// The JSON of a sign-in.
#[derive(Deserialize)]
struct Json {
    client_id: String,
    client_secret: String,
    refresh_token: String,
}

/// Why a request for an access token is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It names another client's secret, or another refresh token.
    OtherKey,
    /// As RFC 6749 section 5.2 calls it, and in words.
    Request(&'static str, &'static str),
}

/// What a request with an access token lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoToken {
    /// None is named, or one of a former daemon: the server has to ask for another.
    Unknown,
    /// It names one that is no placeholder.
    OtherKey,
}

impl Tokens {
    /// The sign-in whose values are among `keys`.
    pub(super) fn new(grant: &RefreshGrant, keys: &Keys) -> Self {
        let value = |variable: &Option<_>| {
            let variable: &crate::domain::id::EnvName = variable.as_ref()?;
            let mut values = keys.values.iter();
            let (_, value) = values.find(|(name, _)| name == variable.as_str())?;
            Some(Zeroizing::new(value.trim().to_owned()))
        };
        let read = match &grant.json {
            // The parser's own message could repeat a part of it.
            Some(variable) => value(&grant.json)
                .and_then(|text| serde_json::from_str::<Json>(&text).ok())
                .map(|json| {
                    let [id, secret, token] =
                        [json.client_id, json.client_secret, json.refresh_token].map(Zeroizing::new);
                    (Some(id), Some(secret), token)
                })
                .ok_or_else(|| {
                    format!(
                        "the credential for {variable} is no JSON with client_id, client_secret and refresh_token: store \
                         it again"
                    )
                }),
            None => value(&grant.refresh_token)
                .map(|token| (None, value(&grant.client_secret), token))
                .ok_or_else(|| "no refresh token is stored".to_owned()),
        };
        let (client, refresh_token) = match read {
            Ok((client_id, client_secret, token)) => (
                Ok(SignIn {
                    client_id,
                    client_secret,
                }),
                token,
            ),
            Err(why) => (Err(why), Zeroizing::default()),
        };
        let secret = client
            .as_ref()
            .ok()
            .and_then(|one| one.client_secret.clone());
        let mut known = vec![("refresh_token", refresh_token.clone())];
        known.extend(secret.map(|secret| ("client_secret", secret)));
        Self {
            placeholder: grant.placeholder.clone(),
            client,
            held: Mutex::new(Held {
                refresh_token,
                issued: VecDeque::new(),
                redactions: Arc::new(keys.redactions.with(known)),
            }),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that no answer may hold.
    pub(super) fn redactions(&self) -> Arc<Redactions> {
        Arc::clone(&self.held().redactions)
    }

    /// Puts the sign-in into a request for an access token; gives its body.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(super) fn outward(&self, headers: &mut HeaderMap, body: &[u8]) -> Result<Bytes, Unfit> {
        let client = self.client.as_ref();
        let client = client.map_err(|_| {
            let words = "the stored sign-in cannot be read: ask the user to store it again";
            Unfit::Request("invalid_client", words)
        })?;
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
        if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/x-www-form-urlencoded"))
        {
            let words = "it takes application/x-www-form-urlencoded";
            return Err(Unfit::Request("invalid_request", words));
        }
        let fields: Vec<_> = parse(body).collect();
        let once = |name: &str| {
            let mut found = fields.iter().filter(|(own, _)| own == name);
            let first = found.next().map(|(_, value)| value.as_ref());
            match found.next() {
                Some(_) => Err(Unfit::Request("invalid_request", "a field comes twice")),
                None => Ok(first),
            }
        };
        if once("grant_type")? != Some("refresh_token") {
            let words = "the broker asks for access tokens by the refresh token alone";
            return Err(Unfit::Request("unsupported_grant_type", words));
        }
        let is_other = |value: Option<&str>| value.is_some_and(|value| value != self.placeholder);
        once("client_id")?;
        if once("refresh_token")? != Some(&self.placeholder) || is_other(once("client_secret")?) {
            return Err(Unfit::OtherKey);
        }
        self.sign(headers, client)?;
        let mut form = Serializer::new(String::new());
        let held = self.held();
        for (name, value) in &fields {
            let real = match (name.as_ref(), value == self.placeholder.as_str()) {
                ("refresh_token", true) => Some(&held.refresh_token),
                ("client_secret", true) => client.client_secret.as_ref(),
                ("client_id", true) => client.client_id.as_ref(),
                _ => None,
            };
            form.append_pair(name, real.map_or(value.as_ref(), |real| real.as_str()));
        }
        Ok(Bytes::from_owner(Zeroizing::new(form.finish())))
    }

    /// Puts the client secret into an `Authorization: Basic` (RFC 6749 section 2.3.1).
    fn sign(&self, headers: &mut HeaderMap, client: &SignIn) -> Result<(), Unfit> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = given.next() else {
            return Ok(());
        };
        let is_alone = given.next().is_none();
        let pair = value.to_str().ok().and_then(|value| {
            let (scheme, coded) = value.split_once(' ')?;
            let is_basic = is_alone && scheme.eq_ignore_ascii_case("basic");
            let pair = BASE64_STANDARD
                .decode(coded.trim())
                .ok()
                .filter(|_| is_basic)?;
            String::from_utf8(pair).ok()
        });
        let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
        let (id, secret) = pair.ok_or(Unfit::OtherKey)?;
        if secret != self.placeholder {
            return Err(Unfit::OtherKey);
        }
        let coded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let id = match &client.client_id {
            Some(real) if id == self.placeholder => coded(real),
            _ => id.to_owned(),
        };
        let real = client
            .client_secret
            .as_ref()
            .map_or("", |real| real.as_str());
        let pair = Zeroizing::new(format!("{id}:{}", coded(real)));
        let value = Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes())));
        let mut value = HeaderValue::from_str(&value).map_err(|_| Unfit::OtherKey)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(())
    }

    /// Takes the tokens out of an answer to such a request; gives what the server gets. `None`: it holds no JSON.
    pub(super) fn inward(&self, body: &[u8], form: &AccessTokenForm) -> Option<Bytes> {
        let mut answer: Value = serde_json::from_slice(body).ok()?;
        let mut held = self.held();
        let mut known = Vec::new();
        if let Some(token) = answer.get("refresh_token").and_then(Value::as_str) {
            // From now on the former one may be refused (RFC 6749 section 6).
            held.refresh_token = Zeroizing::new(token.to_owned());
            known.push(("refresh_token", held.refresh_token.clone()));
        }
        take_tokens(&mut answer, &mut |key, token| {
            let token = Zeroizing::new(std::mem::take(token));
            if key == "refresh_token" {
                return self.placeholder.clone();
            }
            let placeholder = new_placeholder(&form.placeholder);
            known.push(("access_token", token.clone()));
            held.issued.push_back((placeholder.clone(), token));
            if held.issued.len() > ISSUED_MAX {
                held.issued.pop_front();
            }
            placeholder
        });
        let text = answer.to_string();
        let redactions = Arc::new(held.redactions.with(known));
        held.redactions = Arc::clone(&redactions);
        drop(held);
        Some(Bytes::from(redactions.redact(&text).into_owned()))
    }

    /// The access token that a request stands for.
    ///
    /// # Errors
    /// [`NoToken`].
    pub(super) fn offer(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        form: &AccessTokenForm,
    ) -> Result<Offer, NoToken> {
        // The other way to name one (RFC 6750 section 2.3) would be a stranger's.
        let mut named = parse(query.unwrap_or_default().as_bytes());
        if named.any(|(name, _)| name == "access_token") {
            return Err(NoToken::OtherKey);
        }
        let given = headers.get(&form.header).ok_or(NoToken::Unknown)?;
        let token = given.to_str().ok().and_then(|value| form.token_in(value));
        let token = token.filter(|token| form.is_placeholder(token));
        let token = token.ok_or(NoToken::OtherKey)?;
        let held = self.held();
        let mut issued = held.issued.iter();
        let (_, real) = issued
            .find(|(placeholder, _)| placeholder == token)
            .ok_or(NoToken::Unknown)?;
        let value = Zeroizing::new(form.value(real));
        Offer::in_place_of(&form.header, given, &value).ok_or(NoToken::Unknown)
    }
}

/// Puts what `replace` gives in the place of all tokens in an answer, however deep; identity tokens are left out, which
/// open doors elsewhere.
fn take_tokens(value: &mut Value, replace: &mut impl FnMut(&str, &mut String) -> String) {
    match value {
        Value::Object(members) => {
            members.remove("id_token");
            for (key, member) in members.iter_mut() {
                match member {
                    Value::String(token) if key == "access_token" || key == "refresh_token" => {
                        *token = replace(key, token);
                    }
                    other => take_tokens(other, replace),
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                take_tokens(value, replace);
            }
        }
        _ => {}
    }
}

/// Nobody guesses it, so that no server uses the token of another one by chance.
fn new_placeholder(beginning: &str) -> String {
    let digits = uuid::Uuid::new_v4().simple().to_string();
    debug_assert_eq!(digits.len(), PLACEHOLDER_DIGITS);
    format!("{beginning}-{digits}")
}

#[cfg(test)]
mod tests;
