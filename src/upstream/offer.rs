//! All that a server offers: its handshake and its lists, whole and in its own words, so that they can be answered while
//! it is not there.

use std::{borrow::Cow, sync::Arc};

use serde_json::{json, value::RawValue};

use super::{
    Upstream, UpstreamError,
    handshake::{Era, Handshake, PAGES_MAX, TOOLS_MAX},
    message::{RawObject, unquote},
    translate::session_result,
};
use crate::domain::capability::{ListEntry, ListKind};

/// Most bytes of one list, all its pages together, that are kept. A longer one is not kept at all.
pub const LIST_BYTES_MAX: usize = 1 << 20;

/// What a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What it told of itself.
    pub handshake: Arc<Handshake>,
    /// Its lists by [`ListKind::place`], each a raw result as if it had one page only. `None`: it does not have this
    /// one, did not list it to its end, or it is longer than [`LIST_BYTES_MAX`].
    pub lists: [Option<String>; ListKind::ALL.len()],
}

/// The pages of a list, as long as they are few enough to be kept.
#[derive(Debug, Default)]
pub(super) struct Pages {
    texts: Vec<String>,
    bytes: usize,
    entries: usize,
    is_over: bool,
}

impl Pages {
    /// Takes the next page.
    pub(super) fn push(&mut self, page: &str, entries: usize) {
        self.bytes += page.len();
        self.entries += entries;
        self.is_over |= self.bytes > LIST_BYTES_MAX;
        match self.is_over {
            true => self.texts.clear(),
            false => self.texts.push(page.to_owned()),
        }
    }

    /// Makes them one result. Its members are those of the first page; its lifetime is the shortest of all, and it is for
    /// everybody only if all are.
    pub(super) fn join(mut self, kind: ListKind) -> Option<String> {
        if self.is_over || self.texts.len() < 2 {
            return self.texts.pop();
        }
        let mut entries: Vec<String> = Vec::with_capacity(self.entries);
        let mut ttl_ms: Option<u64> = None;
        let mut scopes: Vec<Option<String>> = Vec::new();
        for text in &self.texts {
            let page = RawObject::parse(text).ok()?;
            let listed: Vec<&RawValue> = serde_json::from_str(page.get(kind.member())?).ok()?;
            entries.extend(listed.iter().map(|entry| entry.get().to_owned()));
            let ttl = page.get("ttlMs").map(|raw| raw.parse().unwrap_or(0));
            ttl_ms = match (ttl_ms, ttl) {
                (Some(known), Some(more)) => Some(known.min(more)),
                (None, None) => None,
                (None, Some(first)) if scopes.is_empty() => Some(first),
                _ => Some(0),
            };
            scopes.push(page.get("cacheScope").map(str::to_owned));
        }
        let mut whole = RawObject::parse(&self.texts[0]).ok()?;
        whole.retain(|key| key != "nextCursor");
        whole.set(kind.member(), format!("[{}]", entries.join(",")));
        if let Some(ttl_ms) = ttl_ms {
            whole.set("ttlMs", ttl_ms.to_string());
        }
        if scopes.windows(2).any(|pair| pair[0] != pair[1]) {
            whole.set("cacheScope", "\"private\"");
        }
        Some(whole.to_json())
    }
}

impl Upstream {
    /// Asks for everything that the child offers, as far as it declares that it has it.
    ///
    /// # Errors
    /// The child is gone, does not answer, or what it says is no list. An error of its own about one list is none: that
    /// list is not known then.
    pub async fn offer(&self) -> Result<Offer, UpstreamError> {
        // A change that is told from here on makes this an old offer.
        self.wire.set_lists_changed(false);
        let unknown = || UpstreamError::Protocol("it is not initialized yet".to_owned());
        let known = self.handshake_snapshot().ok_or_else(unknown)?;
        let mut lists: [Option<String>; ListKind::ALL.len()] = Default::default();
        for kind in ListKind::ALL {
            if !known.has_capability(kind.capability()) {
                continue;
            }
            lists[kind.place()] = match kind {
                ListKind::Tools => self.whole_tools().await?,
                kind => self.whole_list(known.era, kind).await?,
            };
        }
        Ok(Offer {
            handshake: self.handshake_snapshot().ok_or_else(unknown)?,
            lists,
        })
    }

    /// Whether the child said that a list changed since it was asked last for all of them.
    #[must_use]
    pub fn lists_changed(&self) -> bool {
        self.wire.lists_changed()
    }

    async fn whole_list(&self, era: Era, kind: ListKind) -> Result<Option<String>, UpstreamError> {
        let mut pages = Pages::default();
        let all = self.pages(era, kind, |page, entries| {
            pages.push(page, entries.len());
            Ok(pages.entries)
        });
        match all.await {
            Ok(true) => Ok(pages.join(kind)),
            Ok(false) | Err(UpstreamError::Rpc { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a list page by page. `take` gets each result with its entries, and answers how many there are so far.
    /// `false`: there are more than are asked for.
    pub(super) async fn pages(
        &self,
        era: Era,
        kind: ListKind,
        mut take: impl FnMut(&str, &[&RawValue]) -> Result<usize, UpstreamError> + Send,
    ) -> Result<bool, UpstreamError> {
        let (method, member) = (kind.method(), kind.member());
        let mut params = json!({});
        for _ in 0..PAGES_MAX {
            let raw = self.own_request(era, method, params).await?;
            let protocol = UpstreamError::Protocol;
            let page = RawObject::parse(&raw)
                .map_err(|_| protocol(format!("its answer to {method} is not an object")))?;
            let entries: Vec<&RawValue> = page
                .get(member)
                .and_then(|raw| serde_json::from_str(raw).ok())
                .ok_or_else(|| {
                    protocol(format!("its answer to {method} has no array \"{member}\""))
                })?;
            let so_far = take(&raw, &entries)?;
            match page.get("nextCursor").and_then(unquote) {
                None => return Ok(true),
                Some(cursor) if so_far < TOOLS_MAX => params = json!({"cursor": cursor}),
                Some(_) => return Ok(false),
            }
        }
        Ok(false)
    }
}

impl Handshake {
    /// A raw result of the server for this list, as a client of `era` gets it `age_ms` after the server gave it.
    #[must_use]
    pub fn recalled_list(&self, result: &str, era: Era, age_ms: u64) -> String {
        match (self.era, era) {
            (Era::Legacy, Era::Legacy) => result.to_owned(),
            (Era::Modern, Era::Legacy) => {
                session_result(result).unwrap_or_else(|| result.to_owned())
            }
            (_, Era::Modern) => {
                let complete = self.stateless_result(result, true);
                aged(complete.unwrap_or_else(|_| result.to_owned()), age_ms)
            }
        }
    }

    /// The raw result of `server/discover`, `age_ms` after the server gave it.
    #[must_use]
    pub fn recalled_discovery(&self, age_ms: u64) -> String {
        aged(self.discover_result(), age_ms)
    }
}

/// A result that says how long it may be kept, some time later: what is left of that.
fn aged(result: String, age_ms: u64) -> String {
    let Ok(mut object) = RawObject::parse(&result) else {
        return result;
    };
    let left_ms = match object.get("ttlMs") {
        None | Some("0") => return result,
        Some(raw) => raw.parse::<u64>().unwrap_or(0).saturating_sub(age_ms),
    };
    object.set("ttlMs", left_ms.to_string());
    object.to_json()
}

/// The entries of a list, each by what it is known; `None`: this is no such list.
#[must_use]
pub fn list_entries(kind: ListKind, result: &str) -> Option<Vec<ListEntry<'_>>> {
    let members = RawObject::parse(result).ok()?;
    let mut members = members.0.into_iter();
    let raw = members.find_map(|(key, raw)| match raw {
        Cow::Borrowed(raw) if key == kind.member() => Some(raw),
        _ => None,
    })?;
    let entries: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
    let named = entries.into_iter().map(|entry| {
        let name = RawObject::of(entry)
            .ok()
            .and_then(|entry| unquote(entry.get(kind.identity())?));
        (name.unwrap_or_default(), entry.get())
    });
    Some(named.collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn joined(kind: ListKind, pages: &[&str]) -> Option<String> {
        let mut all = Pages::default();
        for page in pages {
            all.push(page, 1);
        }
        all.join(kind)
    }

    #[test]
    fn one_page_stays_as_it_is_and_many_become_one() {
        let one = r#"{ "tools":[{"name":"a","n":1.000}],"x":1e400}"#;
        assert_eq!(joined(ListKind::Tools, &[one]).as_deref(), Some(one));
        let pages = [
            r#"{"prompts":[{"name":"a","n":1.000}, {"name":"b"}],"nextCursor":"2","ttlMs":500,"cacheScope":"public","_meta":{"k":12345678901234567890123}}"#,
            r#"{"prompts":[],"nextCursor":"3","ttlMs":90,"cacheScope":"public"}"#,
            r#"{"prompts":[{"name":"c"}],"ttlMs":700,"cacheScope":"private"}"#,
        ];
        assert_eq!(
            joined(ListKind::Prompts, &pages).as_deref(),
            Some(
                r#"{"prompts":[{"name":"a","n":1.000},{"name":"b"},{"name":"c"}],"ttlMs":90,"cacheScope":"private","_meta":{"k":12345678901234567890123}}"#
            )
        );
        // A page that does not say how long it may be kept may not be kept.
        let untold = [pages[0], r#"{"prompts":[],"cacheScope":"public"}"#];
        let text = joined(ListKind::Prompts, &untold).unwrap();
        assert!(
            text.contains(r#""ttlMs":0,"cacheScope":"public""#),
            "{text}"
        );
        assert_eq!(joined(ListKind::Tools, &[]), None);
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let page = format!(
            r#"{{"tools":[{{"name":"{}"}}]}}"#,
            "x".repeat(LIST_BYTES_MAX / 2)
        );
        assert!(joined(ListKind::Tools, &[&page]).is_some());
        assert_eq!(joined(ListKind::Tools, &[&page, &page]), None);
        assert_eq!(joined(ListKind::Tools, &[&page, &page, "{}"]), None);
    }

    #[test]
    fn a_list_is_answered_to_both_eras_with_what_is_left_of_its_lifetime() {
        let raw = r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"n","version":"1"}}"#;
        let legacy = Handshake::read(Era::Legacy, raw).unwrap();
        let list = r#"{"tools":[{"name":"a","n":1.000}]}"#;
        assert_eq!(legacy.recalled_list(list, Era::Legacy, 5), list);
        assert_eq!(
            legacy.recalled_list(list, Era::Modern, 5),
            r#"{"tools":[{"name":"a","n":1.000}],"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"}}}"#
        );
        assert!(legacy.recalled_discovery(5).contains("\"ttlMs\":0"));
        let raw = r#"{"supportedVersions":["2026-07-28"],"capabilities":{},"ttlMs":100,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"}}}"#;
        let modern = Handshake::read(Era::Modern, raw).unwrap();
        let list = r#"{"tools":[],"resultType":"complete","ttlMs":100,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"},"k":1.0}}"#;
        assert_eq!(
            modern.recalled_list(list, Era::Legacy, 30),
            r#"{"tools":[],"_meta":{"k":1.0}}"#
        );
        assert_eq!(
            modern.recalled_list(list, Era::Modern, 30),
            list.replace("\"ttlMs\":100", "\"ttlMs\":70")
        );
        let late = modern.recalled_list(list, Era::Modern, 3_000);
        assert_eq!(late, list.replace("\"ttlMs\":100", "\"ttlMs\":0"));
        assert!(modern.recalled_discovery(30).contains("\"ttlMs\":70"));
        let strange = list.replace("\"ttlMs\":100", "\"ttlMs\":1e9");
        assert!(
            modern
                .recalled_list(&strange, Era::Modern, 0)
                .contains("\"ttlMs\":0")
        );
    }

    #[test]
    fn entries_are_known_by_name_or_address() {
        let list = r#"{"resources":[{"uri":"a:\u0062","n":1.0},{"name":"x"}]}"#;
        assert_eq!(
            list_entries(ListKind::Resources, list).unwrap(),
            [
                ("a:b".to_owned(), r#"{"uri":"a:\u0062","n":1.0}"#),
                (String::new(), r#"{"name":"x"}"#)
            ]
        );
        assert_eq!(list_entries(ListKind::Tools, list), None);
        assert_eq!(list_entries(ListKind::Tools, "7"), None);
    }
}
