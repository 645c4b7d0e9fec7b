//! `/mcps/{id}/access-tokens`: several tokens for one access URL, each with its scope, end and limits.

use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    AppState,
    error::ApiError,
    extract::{Faults, Json, PathPair, PathParam},
    verbs::overlap_of,
    view,
};
use crate::{
    domain::{
        UnixMs,
        access::{
            CONCURRENCY_MAX, RATE_PER, RATE_REQUESTS_MAX, RateLimit, TokenPatch, TokenScope,
            TokenSettings,
        },
        duration::HumanDuration,
        id::TokenName,
        lease::read_duration,
        principal::Principal,
        violation::Violation,
    },
    supervisor::{Granted, TokenStatus},
    wire::{
        self, AccessToken, CreateAccessToken, Page, PatchAccessToken, Problem, RotateAccessToken,
    },
};

/// The answer for all access tokens of an instance.
pub type AccessTokenPage = Page<AccessToken>;

/// Longest time that a token can be made for; one without end has none.
const TTL_MAX: HumanDuration = HumanDuration::from_secs(3_650 * 24 * 3_600);

/// Collects the faults of a body's values.
struct Reader {
    now: UnixMs,
    violations: Vec<Violation>,
}

impl Reader {
    fn wrong(&mut self, pointer: &str, code: &str, message: impl Into<String>) {
        self.violations.push(Violation::new(pointer, code, message));
    }

    fn scope(&mut self, value: &Value) -> Option<TokenScope> {
        TokenScope::read(value, &mut self.violations)
    }

    /// The end by `ttl` or by `expires_at`.
    fn end(&mut self, ttl: Option<&Value>, expires_at: Option<&Value>) -> Option<UnixMs> {
        if ttl.is_some() && expires_at.is_some() {
            let text = "give ttl or expires_at, not both";
            self.wrong("/expires_at", "conflict", text);
        }
        if let Some(value) = ttl {
            match read_duration(value) {
                Err(text) => self.wrong("/ttl", "invalid-duration", text),
                Ok(ttl) if ttl.ms() == 0 || ttl > TTL_MAX => {
                    let text = format!("ttl must be more than zero and {TTL_MAX} at most");
                    self.wrong("/ttl", "out-of-range", text);
                }
                Ok(ttl) => {
                    let ttl_ms = i64::try_from(ttl.ms()).unwrap_or(i64::MAX);
                    return Some(self.now.saturating_add(ttl_ms));
                }
            }
        }
        if let Some(value) = expires_at {
            match value.as_str().map(str::parse::<Timestamp>) {
                Some(Ok(at)) if at.as_millisecond() > self.now => return Some(at.as_millisecond()),
                Some(Ok(_)) => self.wrong("/expires_at", "out-of-range", "expires_at has passed"),
                _ => {
                    let text = "expires_at must be a time such as 2027-01-31T12:00:00Z";
                    self.wrong("/expires_at", "pattern", text);
                }
            }
        }
        None
    }

    fn rate_limit(&mut self, value: &Value) -> Option<RateLimit> {
        let requests = value["requests"].as_u64();
        let requests = requests
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (1..=RATE_REQUESTS_MAX).contains(number));
        if requests.is_none() {
            let text = format!("requests must be 1 to {RATE_REQUESTS_MAX}");
            self.wrong("/rate_limit/requests", "out-of-range", text);
        }
        let per = read_duration(&value["per"]);
        match &per {
            Err(text) => self.wrong("/rate_limit/per", "invalid-duration", text.as_str()),
            Ok(per) if !(RATE_PER.0..=RATE_PER.1).contains(per) => {
                let text = format!("per must be {} to {}", RATE_PER.0, RATE_PER.1);
                self.wrong("/rate_limit/per", "out-of-range", text);
            }
            Ok(_) => {}
        }
        let requests = requests?;
        RateLimit {
            requests,
            per: per.ok()?,
        }
        .check()
        .ok()
    }

    fn concurrency_max(&mut self, value: &Value) -> Option<u32> {
        let most = value.as_u64().and_then(|most| u32::try_from(most).ok());
        let most = most.filter(|most| (1..=CONCURRENCY_MAX).contains(most));
        if most.is_none() {
            let text =
                format!("concurrency_max must be a whole number from 1 to {CONCURRENCY_MAX}");
            self.wrong("/concurrency_max", "out-of-range", text);
        }
        most
    }

    fn done<T>(self, value: T, mut faults: Faults) -> Result<T, ApiError> {
        faults.add(self.violations);
        faults.refuse()?;
        Ok(value)
    }
}

fn read_new(
    Json(body, faults): Json<CreateAccessToken>,
    now: UnixMs,
) -> Result<(TokenName, TokenSettings), ApiError> {
    let mut reader = Reader {
        now,
        violations: Vec::new(),
    };
    let name = TokenName::new(body.name);
    if let Err(error) = &name {
        reader.wrong("/name", "pattern", error.to_string());
    }
    let scope = body.scope.as_ref().and_then(|value| reader.scope(value));
    let settings = TokenSettings {
        scope: scope.unwrap_or_default(),
        expires_at: reader.end(body.ttl.as_ref(), body.expires_at.as_ref()),
        rate_limit: body
            .rate_limit
            .as_ref()
            .and_then(|value| reader.rate_limit(value)),
        concurrency_max: body
            .concurrency_max
            .as_ref()
            .and_then(|value| reader.concurrency_max(value)),
    };
    let name = reader.done(name, faults)?;
    let name = name.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok((name, settings))
}

fn read_patch(
    Json(body, faults): Json<PatchAccessToken>,
    now: UnixMs,
) -> Result<TokenPatch, ApiError> {
    let mut reader = Reader {
        now,
        violations: Vec::new(),
    };
    let expires_at = body.expires_at.as_ref();
    let end = expires_at.filter(|value| !value.is_null());
    let ends = body.ttl.is_some() || expires_at.is_some();
    let patch = TokenPatch {
        scope: body.scope.as_ref().and_then(|value| reader.scope(value)),
        expires_at: ends.then(|| reader.end(body.ttl.as_ref(), end)),
        rate_limit: body.rate_limit.as_ref().map(|value| match value {
            Value::Null => None,
            value => reader.rate_limit(value),
        }),
        concurrency_max: body.concurrency_max.as_ref().map(|value| match value {
            Value::Null => None,
            value => reader.concurrency_max(value),
        }),
    };
    reader.done(patch, faults)
}

fn shown(token: TokenStatus, access_url: &str) -> AccessToken {
    let settings = token.settings;
    AccessToken {
        name: token.name.to_string(),
        scope: serde_json::to_value(&settings.scope).unwrap_or_default(),
        created_at: view::time(token.created_at),
        rotated_at: view::time(token.rotated_at),
        expires_at: settings.expires_at.map(view::time),
        overlap_until: token.overlap_until.map(view::time),
        last_used_at: token.last_used_at.map(view::time),
        rate_limit: settings.rate_limit.map(|rate| wire::RateLimit {
            requests: rate.requests,
            per: rate.per.to_string(),
        }),
        concurrency_max: settings.concurrency_max,
        fingerprint: token.fingerprint,
        access_url: access_url.to_owned(),
        access_token: None,
        connect_url: None,
    }
}

fn granted(token: TokenStatus, granted: &Granted) -> AccessToken {
    AccessToken {
        access_token: Some(granted.access_token.to_string()),
        connect_url: Some(granted.connect_url.to_string()),
        ..shown(token, &granted.status.access_url)
    }
}

/// Lists the access tokens of an instance, oldest first; no secret is shown.
#[utoipa::path(
    get, path = "/mcps/{id}/access-tokens", tag = "instances",
    params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    responses(
        (status = 200, description = "All of them", body = Page<AccessToken>),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
) -> Result<axum::Json<AccessTokenPage>, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let seen = state.supervisor.get(&who, id)?;
    let tokens = state.supervisor.tokens(&who, id)?;
    let items = tokens
        .into_iter()
        .map(|token| shown(token, &seen.access_url));
    Ok(axum::Json(Page {
        items: items.collect(),
        next_cursor: None,
    }))
}

/// Makes another access token and shows its secret once.
///
/// A scope holds back calls of tools and hides tools from lists; resources, prompts and everything else are open to
/// every token.
#[utoipa::path(
    post, path = "/mcps/{id}/access-tokens", tag = "instances",
    params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    request_body(content = CreateAccessToken, example = json!({"name": "ci", "scope": "read-only", "ttl": "30d"})),
    responses(
        (status = 201, description = "The token with its `access_token` and `connect_url`", body = AccessToken),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`name-taken`", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "`tokens-exhausted`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    body: Json<CreateAccessToken>,
) -> Result<(StatusCode, axum::Json<AccessToken>), ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let (name, settings) = read_new(body, view::now_ms())?;
    let made = state
        .supervisor
        .create_token(&who, id, name, settings)
        .await;
    let (token, secret) = made?;
    Ok((StatusCode::CREATED, axum::Json(granted(token, &secret))))
}

/// Shows one access token, without its secret.
#[utoipa::path(
    get, path = "/mcps/{id}/access-tokens/{name}", tag = "instances",
    params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`"), ("name" = String, Path, description = "The token's name")),
    responses(
        (status = 200, description = "As it is now", body = AccessToken),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(
    who: Principal,
    State(state): State<AppState>,
    PathPair(id, name): PathPair,
) -> Result<axum::Json<AccessToken>, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let token = state.supervisor.token(&who, id, &name)?;
    let seen = state.supervisor.get(&who, id)?;
    Ok(axum::Json(shown(token, &seen.access_url)))
}

/// Changes what an access token may do; its secret stays, and what it opened goes on under the new rules.
#[utoipa::path(
    patch, path = "/mcps/{id}/access-tokens/{name}", tag = "instances",
    params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`"), ("name" = String, Path, description = "The token's name")),
    request_body(content = PatchAccessToken, example = json!({"scope": "read-only", "expires_at": null})),
    responses(
        (status = 200, description = "As it is now", body = AccessToken),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn patch(
    who: Principal,
    State(state): State<AppState>,
    PathPair(id, name): PathPair,
    body: Json<PatchAccessToken>,
) -> Result<axum::Json<AccessToken>, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let patch = read_patch(body, view::now_ms())?;
    let token = state.supervisor.patch_token(&who, id, &name, patch).await?;
    let seen = state.supervisor.get(&who, id)?;
    Ok(axum::Json(shown(token, &seen.access_url)))
}

/// Revokes an access token at once: the sessions and streams that it opened end.
#[utoipa::path(
    delete, path = "/mcps/{id}/access-tokens/{name}", tag = "instances",
    params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`"), ("name" = String, Path, description = "The token's name")),
    responses(
        (status = 204, description = "Gone"),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete(
    who: Principal,
    State(state): State<AppState>,
    PathPair(id, name): PathPair,
) -> Result<StatusCode, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    state.supervisor.revoke_token(&who, id, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives an access token a new secret and shows it once; the old one stays valid for `overlap` (at most 7d).
///
/// Sessions go on with the new secret. Without an overlap the streams that the old one opened end.
#[utoipa::path(
    post, path = "/mcps/{id}/access-tokens/{name}/rotate", tag = "instances",
    params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`"), ("name" = String, Path, description = "The token's name")),
    request_body(content = RotateAccessToken, example = json!({"overlap": "5m"})),
    responses(
        (status = 200, description = "The token with its new `access_token` and `connect_url`", body = AccessToken),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`wrong-state`: its time is up", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn rotate(
    who: Principal,
    State(state): State<AppState>,
    PathPair(id, name): PathPair,
    Json(body, faults): Json<RotateAccessToken>,
) -> Result<axum::Json<AccessToken>, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let overlap = overlap_of(&body, faults)?;
    let (token, secret) = state
        .supervisor
        .rotate_token(&who, id, &name, overlap)
        .await?;
    Ok(axum::Json(granted(token, &secret)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::extract::{RequestBody, reduced};

    fn body<T: RequestBody>(value: Value) -> Json<T> {
        reduced(value).expect("an object")
    }

    fn pointers(error: &ApiError) -> Vec<String> {
        let told = error.problem("r").violations;
        told.into_iter().filter_map(|found| found.pointer).collect()
    }

    #[test]
    fn every_fault_of_a_new_token_is_told_at_once() {
        let error = read_new(
            body(json!({
                "name": "No Name", "scope": {"tools": ["a", 7, "b*c"]}, "ttl": 0, "expires_at": "yesterday",
                "rate_limit": {"requests": -1, "per": "x", "burst": 5}, "concurrency_max": 0, "limit": 1,
            })),
            1_000,
        );
        assert_eq!(
            pointers(&error.expect_err("all of it is wrong")),
            [
                "/concurrency_max",
                "/expires_at",
                "/expires_at",
                "/limit",
                "/name",
                "/rate_limit/burst",
                "/rate_limit/per",
                "/rate_limit/requests",
                "/scope/tools/1",
                "/scope/tools/2",
                "/ttl",
            ]
        );
        let error = read_patch(body(json!({"rate_limit": {}, "scope": 3})), 1_000);
        assert_eq!(
            pointers(&error.expect_err("three faults")),
            ["/rate_limit/per", "/rate_limit/requests", "/scope"]
        );
    }

    #[test]
    fn absence_keeps_and_null_takes_away() {
        let patch = |value| read_patch(body(value), 1_000).expect("all is well");
        assert_eq!(patch(json!({})), TokenPatch::default());
        let all = patch(json!({"expires_at": null, "rate_limit": null, "concurrency_max": null}));
        let expected = TokenPatch {
            scope: None,
            expires_at: Some(None),
            rate_limit: Some(None),
            concurrency_max: Some(None),
        };
        assert_eq!(all, expected);
        assert_eq!(patch(json!({"ttl": "1s"})).expires_at, Some(Some(2_000)));
        let at = patch(json!({"expires_at": "1970-01-01T00:00:05Z"})).expires_at;
        assert_eq!(at, Some(Some(5_000)));
    }
}
