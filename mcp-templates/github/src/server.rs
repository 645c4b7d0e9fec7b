//! The server: how it speaks with GitHub, and with the client.

use std::time::Instant;

use minimcp_rest::{
    Answer, BaseUrl, Call, Client, ClientSpec, Error, HeaderName, HeaderValue, Secret, Tools,
    Trouble, WrittenList, call_tool, header, safe_text,
};
use rmcp::{
    ErrorData, Json, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        ServerCapabilities, ServerConfig,
    },
    service::RequestContext,
    tool_handler,
};
use serde::de::DeserializeOwned;

use crate::{
    Settings,
    advice::{TELLING_HEADERS, advise},
    answer::fitted,
    arguments::Page,
    catalogue::{Toolset, offered, written},
    etags::{Etags, Known},
    fields,
    limits::{Limits, Resource},
    model::{Found, Listed},
    settings::{TOKEN, toolsets},
};

pub(crate) const SERVICE: &str = "GitHub";
const API_VERSION: &str = "2022-11-28";

/// The server.
pub struct GitHub {
    tools: Tools<Self>,
    toolsets: Vec<Toolset>,
    read_only: bool,
    token: Option<Secret>,
    client: Result<Client, String>,
    /// What goes before the path of a REST call: the API of an Enterprise host lies below `/api/v3`, its GraphQL
    /// beside that.
    rest_prefix: &'static str,
    limits: Limits,
    etags: Etags,
}

impl GitHub {
    /// A server with these settings; it connects at the first call.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let chosen = toolsets(settings.toolsets.as_deref());
        let read_only = settings.read_only;
        let toolsets = match &chosen {
            Ok(chosen) => chosen.clone(),
            Err(_) => Toolset::DEFAULT.to_vec(),
        };
        let made = toolsets.clone();
        let api = chosen.and(settings.api).and_then(|api| split(&api));
        let (client, rest_prefix) = match api {
            Ok((base, prefix)) => (Ok(Client::new(client_spec(base))), prefix),
            Err(message) => (Err(message), ""),
        };
        Self {
            tools: Tools::new(move || offered(&made, read_only)),
            toolsets,
            read_only,
            token: settings.token,
            client,
            rest_prefix,
            limits: Limits::default(),
            etags: Etags::default(),
        }
    }

    /// The list of tools from now on, see [`Tools::write_list`].
    pub(crate) fn write_list(&mut self) -> WrittenList {
        let tools = written(&self.toolsets, self.read_only);
        self.tools.write_list(tools)
    }

    pub(crate) fn client(&self) -> Result<&Client, Error> {
        let client = self.client.as_ref();
        client.map_err(|message| not_configured(format!("{message}. Ask the user to correct it")))
    }

    /// Sends `call` with the token; a GET only in full if its answer has changed.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Error> {
        let client = self.client()?;
        let token = self.token.clone().ok_or_else(|| {
            not_configured(format!(
                "No GitHub token is configured: ask the user to store a personal access token as a credential, bind \
                 it to {TOKEN} of this server, and restart it"
            ))
        })?;
        let resource = Resource::of(call.path());
        if let Some(refusal) = self.limits.refusal(resource, Instant::now()) {
            return Err(refusal);
        }
        let key = call.cache_key();
        let known = key.as_ref().and_then(|key| self.etags.get(key));
        let call = match &known {
            Some(known) => call.if_none_match(&known.tag),
            None => call,
        };
        let call = match resource {
            Resource::GraphQl => call,
            _ => call.below(self.rest_prefix),
        };
        let sent = client.send(call.auth(header::AUTHORIZATION, "Bearer ", token));
        let mut answer = sent.await.inspect_err(|error| {
            self.limits.note(resource, &error.failure, Instant::now());
        })?;
        match (known, key) {
            (Some(known), _) if answer.status == 304 => {
                answer.status = 200;
                answer.body = known.body;
                if let Some(Ok(link)) = known.link.map(|link| HeaderValue::from_str(&link)) {
                    answer.headers.entry(header::LINK).or_insert(link);
                }
            }
            (_, Some(key)) => {
                if let Some(tag) = answer.header("etag") {
                    let known = Known {
                        tag: tag.to_owned(),
                        body: answer.body.clone(),
                        link: answer.header("link").map(str::to_owned),
                    };
                    self.etags.put(key, known);
                }
            }
            _ => {}
        }
        Ok(answer)
    }

    /// Sends `call` and reads its JSON.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        self.send(call).await?.json()
    }

    /// Sends `call` for a page and reads a list, and the number of the next page by the Link header.
    pub(crate) async fn fetch_page<T: DeserializeOwned>(
        &self,
        call: Call,
        page: Page,
    ) -> Result<(T, Option<u32>), Error> {
        let answer = self.send(page.of(call)?).await?;
        let next = answer.header("link").and_then(next_page);
        Ok((answer.json()?, next))
    }

    /// One page of a list.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        call: Call,
        page: Page,
    ) -> Result<Json<Listed<T>>, String> {
        let (items, next_page) = self.fetch_page(call, page).await?;
        Ok(Json(Listed { items, next_page }))
    }

    /// One page of a search.
    pub(crate) async fn search<T: DeserializeOwned>(
        &self,
        call: Call,
        page: Page,
    ) -> Result<Json<Found<T>>, String> {
        let (mut found, next_page) = self.fetch_page::<Found<T>>(call, page).await?;
        found.next_page = next_page;
        Ok(Json(found))
    }

    /// A text from GitHub, fit to be shown: never with the token in it.
    pub(crate) fn shown(&self, text: &str) -> String {
        safe_text(text, self.token.iter())
    }
}

/// The address that REST and GraphQL share, and what goes before REST paths.
fn split(api: &BaseUrl) -> Result<(BaseUrl, &'static str), String> {
    match api.as_str().strip_suffix("/api/v3") {
        Some(host) => {
            let base = BaseUrl::new(&format!("{host}/api")).map_err(|error| error.to_string())?;
            Ok((base, "/v3"))
        }
        None => Ok((api.clone(), "")),
    }
}

fn client_spec(base: BaseUrl) -> ClientSpec {
    let mut spec = ClientSpec::new(SERVICE, base);
    spec.headers = vec![
        (
            header::ACCEPT,
            HeaderValue::from_static("application/vnd.github+json"),
        ),
        (
            HeaderName::from_static("x-github-api-version"),
            HeaderValue::from_static(API_VERSION),
        ),
    ];
    spec.telling_headers = TELLING_HEADERS;
    spec.advise = advise;
    spec
}

fn not_configured(message: String) -> Error {
    Error::new(SERVICE, Trouble::NotConfigured(message))
}

/// A failure that GitHub told with a good status.
pub(crate) fn failed(trouble: Trouble, said: String) -> Error {
    let mut error = Error::new(SERVICE, trouble);
    error.failure.said = Some(said);
    error.advice = advise(&error.failure);
    error
}

/// The page that `rel="next"` of a Link header names (RFC 8288).
fn next_page(link: &str) -> Option<u32> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let url = next.split(['<', '>']).nth(1)?;
    let query = url.split_once('?')?.1;
    let page = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("page="))?;
    page.parse().ok()
}

#[tool_handler(router = self.tools)]
impl ServerHandler for GitHub {
    async fn call_tool(
        &self,
        mut request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let wanted = match fields::take(self.tools.get(&request.name), &mut request) {
            Ok(wanted) => wanted,
            Err(message) => {
                return Ok(CallToolResult::error(vec![ContentBlock::text(message)]).into());
            }
        };
        let mut response = call_tool(self.tools.router(), self, request, context).await?;
        if let Some(wanted) = wanted {
            wanted.keep(&mut response);
        }
        Ok(fitted(response))
    }

    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("minimcp-github", env!("CARGO_PKG_VERSION")))
            .with_instructions(
                "GitHub. get_me tells whose token it is. Use search tools to find things and list tools to go through \
                 them: next_page of an answer, given as page, brings the next one. Answers leave out what is empty, \
                 and mark texts that were cut.",
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_comes_from_the_link_header() {
        let link = r#"<https://a/x?per_page=5&page=1>; rel="prev", <https://a/x?per_page=5&page=3>; rel="next""#;
        assert_eq!(next_page(link), Some(3));
        assert_eq!(next_page(r#"<https://a/x?page=1>; rel="last""#), None);
    }

    #[test]
    fn graphql_lies_beside_the_rest_api() {
        for (api, base, prefix) in [
            ("https://api.github.com", "https://api.github.com", ""),
            (
                "https://ghe.example.com/api/v3",
                "https://ghe.example.com/api",
                "/v3",
            ),
        ] {
            let api = BaseUrl::new(api).expect("a good address");
            let (shared, rest) = split(&api).expect("a good address");
            assert_eq!((shared.as_str(), rest), (base, prefix));
        }
    }
}
