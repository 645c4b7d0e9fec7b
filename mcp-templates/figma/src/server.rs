//! The server: its settings, and how it speaks with Figma.

use std::time::Duration;

use minimcp_rest::{
    Answer, BaseUrl, Call, Client, ClientSpec, Error, Failure, HeaderName, Secret, Trouble, header,
    path_segment, variable, without_number_formats,
};
use rmcp::{
    ServerHandler,
    handler::server::router::tool::ToolRouter,
    model::{Implementation, ServerCapabilities, ServerConfig},
    tool_handler,
};
use serde::de::DeserializeOwned;

pub(crate) const SERVICE: &str = "Figma";
const FILE_BYTES_MAX: usize = 32 << 20;

/// What the server is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The OAuth access token; it goes before the personal one.
    pub oauth_token: Option<Secret>,
    /// The personal access token. Without either, every tool says what to do.
    pub api_key: Option<Secret>,
    /// The address of the REST API without its `/v1`, or what is wrong with it.
    pub api: Result<BaseUrl, String>,
}

impl Settings {
    /// Reads `FIGMA_OAUTH_TOKEN`, `FIGMA_API_KEY` and `FIGMA_API_BASE`.
    #[must_use]
    pub fn from_environment() -> Self {
        let base = variable("FIGMA_API_BASE").unwrap_or_else(|| "https://api.figma.com".to_owned());
        let base = base.trim_end_matches('/').trim_end_matches("/v1");
        Self {
            oauth_token: variable("FIGMA_OAUTH_TOKEN").map(|text| Secret::new(&text)),
            api_key: variable("FIGMA_API_KEY").map(|text| Secret::new(&text)),
            api: BaseUrl::new(base).map_err(|error| format!("FIGMA_API_BASE {error}")),
        }
    }
}

/// The server.
pub struct Figma {
    tools: ToolRouter<Self>,
    auth: Option<(HeaderName, &'static str, Secret)>,
    client: Result<Client, String>,
}

impl Figma {
    /// A server with these settings; it connects at the first call.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let personal = || {
            let key = settings.api_key.clone()?;
            Some((HeaderName::from_static("x-figma-token"), "", key))
        };
        let auth = settings
            .oauth_token
            .clone()
            .map(|token| (header::AUTHORIZATION, "Bearer ", token))
            .or_else(personal);
        let client = settings.api.map(|base| {
            let mut spec = ClientSpec::new(SERVICE, base);
            // Large files and renderings take Figma a while.
            spec.timeout = Duration::from_secs(60);
            spec.attempts = 2;
            spec.body_bytes_max = FILE_BYTES_MAX;
            spec.advise = advise;
            Client::new(spec)
        });
        Self {
            tools: without_number_formats(
                Self::design_tools() + Self::image_tools() + Self::comment_tools(),
            ),
            auth,
            client,
        }
    }

    /// Sends `call` with the token.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Error> {
        let not_configured = |message: String| Error::new(SERVICE, Trouble::NotConfigured(message));
        let client = self
            .client
            .as_ref()
            .map_err(|message| not_configured(format!("{message}. Ask the user to correct it")))?;
        let (name, prefix, secret) = self.auth.clone().ok_or_else(|| {
            not_configured(
                "No Figma token is configured: ask the user to store a personal access token as a credential, bind \
                 it to FIGMA_API_KEY of this server, and restart it"
                    .to_owned(),
            )
        })?;
        client.send(call.auth(name, prefix, secret)).await
    }

    /// Sends `call` and reads its JSON.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        self.send(call).await?.json()
    }
}

fn advise(failure: &Failure) -> Option<String> {
    let advice = match failure.trouble {
        // Figma answers 403 to a wrong or expired personal token.
        Trouble::Unauthorized | Trouble::Forbidden => {
            "The token is wrong or expired, or lacks a scope (file content, comments, versions), or its user may not \
             see this file. Do not try again: ask the user to check the file's sharing and the token, and to restart \
             this server after storing a new one."
        }
        Trouble::NotFound => {
            "Check fileKey: it is the part after /design/ or /file/ of the file's address. The token's user must be \
             able to see the file."
        }
        Trouble::TooLarge(_) | Trouble::Timeout => {
            "Ask for less: give depth (1 or 2) first, then the nodeId of the part of interest."
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

/// `/v1/files/KEY` and then `rest`.
pub(crate) fn file_path(file_key: &str, rest: &str) -> Result<String, Error> {
    Ok(format!("/v1/files/{}{rest}", checked_key(file_key)?))
}

/// The key of a file, ready for a path.
pub(crate) fn checked_key(file_key: &str) -> Result<String, Error> {
    let good =
        (1..=128).contains(&file_key.len()) && file_key.bytes().all(|b| b.is_ascii_alphanumeric());
    if good {
        Ok(path_segment(file_key))
    } else {
        let message =
            "fileKey must be the letters and digits after /design/ or /file/ in the file's address";
        Err(Error::argument(SERVICE, message))
    }
}

/// The id of a node as the API writes it: addresses write `1-2` for `1:2`.
pub(crate) fn node_id(text: &str) -> Result<String, Error> {
    let id = text.trim().replace('-', ":");
    let good = (1..=200).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b':' | b';' | b'I'))
        && id.contains(':');
    if good {
        Ok(id)
    } else {
        let message = "a node id looks like 1234:5678 (1234-5678 in addresses)";
        Err(Error::argument(SERVICE, message))
    }
}

#[tool_handler(router = self.tools)]
impl ServerHandler for Figma {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("minimcp-figma", env!("CARGO_PKG_VERSION")))
            .with_instructions(
                "Figma. From an address such as figma.com/design/KEY/name?node-id=1-2 take fileKey KEY and nodeId 1:2. \
                 For a large file call get_figma_data with depth first, then with the nodeId of interest.",
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_before_they_reach_a_path() {
        assert_eq!(node_id("12-34"), Ok("12:34".to_owned()));
        assert_eq!(node_id("I5666:1;1:10"), Ok("I5666:1;1:10".to_owned()));
        for bad in ["", "12", "1:2,3:4", "1:2&x=1", "../.."] {
            assert!(node_id(bad).is_err(), "{bad}");
        }
        for bad in ["", "a/b", "https://figma.com/design/abc", "a?b"] {
            assert!(file_path(bad, "").is_err(), "{bad}");
        }
    }
}
