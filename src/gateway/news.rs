//! What a child tells without being asked.

use crate::upstream::{LOG_LEVELS, Raw, RawObject, unquote};

/// A notification that belongs to no call, read as far as it matters for who hears it.
pub struct News<'a> {
    /// Its method.
    pub method: &'a str,
    /// For `notifications/resources/updated`: the resource, if it can be read.
    pub updated: Option<Option<String>>,
    /// For `notifications/message`: its level.
    pub level: Option<Option<u8>>,
}

impl<'a> News<'a> {
    /// Reads it.
    #[must_use]
    pub fn read(method: &'a str, params: Option<Raw<'_>>) -> Self {
        let field = |key: &str| {
            let params = RawObject::of(params?).ok()?;
            unquote(params.get(key)?)
        };
        let level = || {
            let name = field("level")?;
            let index = LOG_LEVELS.iter().position(|level| *level == name)?;
            u8::try_from(index).ok()
        };
        Self {
            method,
            updated: (method == "notifications/resources/updated").then(|| field("uri")),
            level: (method == "notifications/message").then(level),
        }
    }
}
