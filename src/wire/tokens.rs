//! Access tokens.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::schemas::{DurationSchema, RateSchema, ScopeSchema};

/// `null` and absence are two things.
pub(super) fn given<'de, D: Deserializer<'de>>(de: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(de).map(Some)
}

/// `POST /mcps/{id}/access-tokens`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAccessToken {
    /// Unique among the instance's tokens: 1 to 63 of a-z, 0-9 and '-', not at either end.
    pub name: String,
    /// `"all"` (absent: this), `"read-only"` (tools with the annotation `readOnlyHint`) or `{"tools": ["a", "b*"]}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ScopeSchema>, example = json!({"tools": ["get_me", "list_*"]}))]
    pub scope: Option<Value>,
    /// How long it is valid from now: seconds or a text such as `30d`. Absent, and without `expires_at`: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>, example = "30d")]
    pub ttl: Option<Value>,
    /// Until when it is valid (RFC 3339), instead of `ttl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Value>,
    /// Requests in a time, spread evenly after a burst of so many; absent: `gateway.token_rate_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RateSchema>, example = json!({"requests": 100, "per": "1m"}))]
    pub rate_limit: Option<Value>,
    /// Most calls at the same time; absent: `gateway.token_concurrency_max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pub concurrency_max: Option<Value>,
}

/// `PATCH /mcps/{id}/access-tokens/{name}`: what is absent stays, `null` takes a limit or the end away.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchAccessToken {
    /// Another scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ScopeSchema>, example = "read-only")]
    pub scope: Option<Value>,
    /// Valid for so long from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>, example = "30d")]
    pub ttl: Option<Value>,
    /// Until when it is valid, instead of `ttl`; `null`: without end.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Value>,
    /// Another rate; `null`: that of the configuration.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<RateSchema>, example = json!({"requests": 100, "per": "1m"}))]
    pub rate_limit: Option<Value>,
    /// Another limit; `null`: that of the configuration.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pub concurrency_max: Option<Value>,
}

/// One access token of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AccessToken {
    /// Its name; `default` is the one that the instance began with.
    pub name: String,
    /// `"all"`, `"read-only"` or `{"tools": […]}`.
    #[schema(value_type = ScopeSchema)]
    pub scope: Value,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When its present secret was made.
    #[schema(format = DateTime)]
    pub rotated_at: String,
    /// Until when it is valid; absent: without end.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// Until when a secret from before the last rotation is valid too.
    #[schema(format = DateTime)]
    pub overlap_until: Option<String>,
    /// When a client last used it.
    #[schema(format = DateTime)]
    pub last_used_at: Option<String>,
    /// Its own rate, if it has one.
    pub rate_limit: Option<RateLimit>,
    /// Its own limit of calls at the same time, if it has one.
    pub concurrency_max: Option<u32>,
    /// Tells its secret from others, without giving it away.
    pub fingerprint: String,
    /// The access URL of the instance; it needs the secret as `Authorization: Bearer`.
    pub access_url: String,
    /// The secret; only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// The access URL with the secret inside, for clients that cannot send a header; only beside `access_token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_url: Option<String>,
}

/// So many requests in so long a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RateLimit {
    /// Requests.
    pub requests: u32,
    /// The time, such as `1m`.
    pub per: String,
}
