//! What is known of a child's tools: their names, and which of them only read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    Link, Upstream, UpstreamError,
    handshake::{Era, Handshake, TOOLS_MAX},
    message::{RawObject, unquote},
    offer::Pages,
    param_headers::{self, ParamHeader},
};
use crate::domain::capability::ListKind;

/// How long a list counts of a child that does not tell us its news: those over HTTP tell their clients, stateless ones
/// whom they are asked to.
const UNTOLD_AGE_MAX: Duration = Duration::from_secs(10);
/// Longest name of a tool that is kept, in characters.
const NAME_CHARS_MAX: usize = 200;

/// A list of tools.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ToolList {
    /// Names in the server's order, at most [`TOOLS_MAX`].
    pub names: Vec<String>,
    /// Those of them with the annotation `readOnlyHint`.
    pub read_only: Vec<String>,
    /// What stateless clients repeat in headers, of those that mark it.
    param_headers: BTreeMap<String, Vec<ParamHeader>>,
}

/// One tool as it is listed; what else it says is not looked at.
#[derive(Debug, Deserialize)]
pub struct ListedTool<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotations: Option<&'a RawValue>,
}

impl<'a> ListedTool<'a> {
    /// Reads one entry of `tools`.
    #[must_use]
    pub fn read(raw: &'a str) -> Option<Self> {
        serde_json::from_str(raw).ok()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        unquote(self.name?.get())
    }

    /// Whether the server says of it that it changes nothing.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        let hint = || {
            let annotations = RawObject::of(self.annotations?).ok()?;
            Some(annotations.get("readOnlyHint") == Some("true"))
        };
        hint().unwrap_or(false)
    }
}

/// When the tools were last listed, and who lists them now.
#[derive(Debug, Default)]
pub struct Listing {
    at: Mutex<Option<Instant>>,
    /// The last list in the words of the child, until it is taken.
    whole: Mutex<Option<String>>,
    turn: tokio::sync::Mutex<()>,
}

impl Listing {
    fn at(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_whole(&self) -> Option<String> {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.take()
    }

    fn set_whole(&self, list: Option<String>) {
        *self.whole.lock().unwrap_or_else(PoisonError::into_inner) = list;
    }

    fn set(&self, at: Option<Instant>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

impl Upstream {
    /// What the child told of itself, with its tools as they are now: they are listed again when the child said that
    /// they changed, when one that does not tell us was not asked for a while, and after a former daemon's list was taken over.
    ///
    /// # Errors
    /// When they cannot be listed; then nothing may be concluded from an older list.
    pub async fn with_present_tools(&self) -> Result<Arc<Handshake>, UpstreamError> {
        let unknown = || UpstreamError::Protocol("it is not initialized yet".to_owned());
        let mut known = self.handshake_snapshot().ok_or_else(unknown)?;
        if self.has_present_tools() || !known.has_capability("tools") {
            return Ok(known);
        }
        let _turn = self.listing.turn.lock().await;
        if !self.has_present_tools() {
            let mut handshake = Handshake::clone(&known);
            self.list_into(&mut handshake, false).await?;
            known = Arc::new(handshake);
            self.handshake.store(Some(known.clone()));
        }
        self.handshake_snapshot().ok_or_else(unknown)
    }

    fn has_present_tools(&self) -> bool {
        let told = self
            .handshake_snapshot()
            .is_some_and(|known| known.era == Era::Legacy);
        match (&self.link, self.listing.at()) {
            (_, None) => false,
            (Link::Stdio(_), Some(at)) => {
                !self.wire.tools_changed() && (told || at.elapsed() < UNTOLD_AGE_MAX)
            }
            (Link::Http(_), Some(at)) => {
                !self.wire.tools_changed() && at.elapsed() < UNTOLD_AGE_MAX
            }
        }
    }

    /// Lists the tools into what is known of a child.
    /// `keep`: also in its own words, until [`Self::whole_tools`] takes it.
    pub(super) async fn list_into(
        &self,
        handshake: &mut Handshake,
        keep: bool,
    ) -> Result<(), UpstreamError> {
        // A change that is told from here on makes this list an old one.
        self.wire.set_tools_changed(false);
        let began = Instant::now();
        let listed = self.list_tools(handshake.era, keep).await;
        self.listing.set(listed.is_ok().then_some(began));
        let list = listed?;
        (handshake.tools, handshake.read_only_tools) = (list.names, list.read_only);
        handshake.param_headers = list.param_headers;
        Ok(())
    }

    /// The whole list in the words of the child, if it is kept: that of the last listing where it is still the present
    /// one.
    pub(super) async fn whole_tools(&self) -> Result<Option<String>, UpstreamError> {
        let _turn = self.listing.turn.lock().await;
        let is_old = self.wire.tools_changed();
        if let Some(kept) = self.listing.take_whole().filter(|_| !is_old) {
            return Ok(Some(kept));
        }
        if let Some(known) = self.handshake_snapshot() {
            let mut handshake = Handshake::clone(&known);
            self.list_into(&mut handshake, true).await?;
            self.handshake.store(Some(Arc::new(handshake)));
        }
        Ok(self.listing.take_whole())
    }

    async fn list_tools(&self, era: Era, keep: bool) -> Result<ToolList, UpstreamError> {
        let mut list = ToolList::default();
        let mut whole = (keep && self.options.keeps_lists).then(Pages::default);
        self.listing.take_whole();
        let listed = self.pages(era, ListKind::Tools, |page, tools| {
            if let Some(whole) = &mut whole {
                whole.push(page, tools.len());
            }
            for raw in tools {
                let tool = ListedTool::read(raw.get());
                let name = tool.as_ref().and_then(ListedTool::name).ok_or_else(|| {
                    UpstreamError::Protocol("it listed a tool without a name".to_owned())
                })?;
                // A name that is cut fits no call any more, so it must not be taken for another tool's.
                let whole = name.chars().count() <= NAME_CHARS_MAX;
                if whole && tool.is_some_and(|tool| tool.is_read_only()) {
                    list.read_only.push(name.clone());
                }
                let headers = param_headers::of_tool(raw.get());
                if whole && !headers.is_empty() {
                    list.param_headers.insert(name.clone(), headers);
                }
                list.names.push(name.chars().take(NAME_CHARS_MAX).collect());
            }
            Ok(list.names.len())
        });
        match listed.await {
            Ok(true) => {
                let whole = whole.and_then(|whole| whole.join(ListKind::Tools));
                self.listing.set_whole(whole);
            }
            Ok(false) => {}
            Err(UpstreamError::Rpc { code: -32_601, .. }) => return Ok(list),
            Err(error) => return Err(error),
        }
        list.names.truncate(TOOLS_MAX);
        list.read_only.truncate(TOOLS_MAX);
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tool_that_says_so_is_read_only() {
        for (raw, name, read_only) in [
            (
                r#"{"name":"a","annotations":{"readOnlyHint":true}}"#,
                Some("a"),
                true,
            ),
            (
                r#"{"name":"\u0061","annotations":{"readOnlyHint":false}}"#,
                Some("a"),
                false,
            ),
            (
                r#"{"name":"a","annotations":{"readOnlyHint":"true"}}"#,
                Some("a"),
                false,
            ),
            (
                r#"{"name":"a","annotations":{"readOnlyHint":true,"readOnlyHint":false}}"#,
                Some("a"),
                false,
            ),
            (
                r#"{"name":"a","annotations":7,"x":1e999}"#,
                Some("a"),
                false,
            ),
            (r#"{"name":"a","readOnlyHint":true}"#, Some("a"), false),
            (r#"{"annotations":{"readOnlyHint":true}}"#, None, true),
            (r#"{"name":7}"#, None, false),
        ] {
            let tool = ListedTool::read(raw);
            let tool = tool.as_ref();
            assert_eq!(tool.and_then(ListedTool::name).as_deref(), name, "{raw}");
            assert_eq!(
                tool.is_some_and(ListedTool::is_read_only),
                read_only,
                "{raw}"
            );
        }
        assert!(ListedTool::read(r#"{"name":"a","name":"b"}"#).is_none());
    }
}
