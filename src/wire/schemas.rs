//! What texts and numbers of requests may be, for the OpenAPI document alone: the values themselves are read with faults
//! that name what is allowed, which these types could not give.

use utoipa::ToSchema;

/// A duration: whole seconds, or a text of numbers with units (`ms`, `s`, `m`, `h`, `d`).
#[derive(ToSchema)]
#[serde(untagged)]
pub enum DurationSchema {
    /// Seconds.
    Seconds(u64),
    /// Such as `90s`, `2h` or `1d 12h`.
    Text(String),
}

/// What a token may call.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ScopeSchema {
    /// `all` or `read-only`.
    Word(String),
    /// The tools by name; a `*` at the end stands for any rest.
    Tools {
        /// At least one.
        tools: Vec<String>,
    },
}

/// Requests in a time.
#[derive(ToSchema)]
pub struct RateSchema {
    /// How many.
    pub requests: u64,
    /// In which time.
    pub per: DurationSchema,
}
