//! What a result of a session-era server lacks for a stateless client, put in on the way, so that the answer is copied
//! once only.

use std::sync::{Arc, OnceLock};

use super::{
    handshake::{Handshake, META_SERVER},
    message::{Word, has_numbered_characters},
};

/// How long a completed result may be kept: not at all.
const CACHING: &str = ",\"ttlMs\":0,\"cacheScope\":\"private\"";

/// Whether the result of this method may be kept by its client, so that it must tell for how long.
#[must_use]
pub fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
    )
}

/// The ends of results that have no member of ours, `cacheable` or not: a comma, what they lack, and the brace. Made of
/// the rest of a handshake when it is first needed, so it is no part of its value.
#[derive(Debug, Clone, Default)]
pub(super) struct Appendix([OnceLock<String>; 2]);

impl PartialEq for Appendix {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Appendix {}

impl Handshake {
    /// The end of an object that has no member of ours, which is its brace, and what stands there when it is completed:
    /// then nothing else of it must be read. `None`: it must.
    pub(super) fn completed_end<'a>(
        &'a self,
        result: &'a str,
        cacheable: bool,
    ) -> Option<(&'a str, &'a str)> {
        let members = result.strip_prefix('{')?.strip_suffix('}')?;
        static OURS: [Word; 4] = [
            Word::new("resultType"),
            Word::new("_meta"),
            Word::new("ttlMs"),
            Word::new("cacheScope"),
        ];
        // The last two are put in where they mean something.
        let ours = if cacheable { &OURS[..] } else { &OURS[..2] };
        if ours.iter().any(|word| word.is_in(members)) || has_numbered_characters(members) {
            return None;
        }
        let appendix = self.appendix.0[usize::from(cacheable)].get_or_init(|| {
            let caching = if cacheable { CACHING } else { "" };
            let info = self.server_info();
            format!(
                ",\"resultType\":\"complete\"{caching},\"_meta\":{{\"{META_SERVER}\":{info}}}}}"
            )
        });
        let completed = if members.trim_ascii().is_empty() {
            &appendix[1..]
        } else {
            appendix
        };
        Some((&result[result.len() - 1..], completed))
    }
}

/// Completes the answer to one call.
#[derive(Debug, Clone)]
pub struct Completion {
    handshake: Arc<Handshake>,
    cacheable: bool,
}

impl Completion {
    /// Of the answer to this method.
    #[must_use]
    pub fn new(handshake: Arc<Handshake>, method: &str) -> Self {
        Self {
            handshake,
            cacheable: is_cacheable(method),
        }
    }

    /// The end of a raw result, and what must stand there instead; `None`: it must be read for that.
    pub(super) fn end_of<'a>(&'a self, result: &'a str) -> Option<(&'a str, &'a str)> {
        self.handshake.completed_end(result, self.cacheable)
    }

    /// A raw result with all that a stateless client wants of it.
    ///
    /// # Errors
    /// When it is not an object.
    pub fn complete(&self, result: &str) -> Result<String, super::EnvelopeError> {
        self.handshake.stateless_result(result, self.cacheable)
    }
}
