//! The server: its settings, and how it speaks with GitHub.

use minimcp_rest::{
    Answer, BaseUrl, Call, Client, ClientSpec, Error, Failure, HeaderName, HeaderValue, Secret,
    Trouble, header, path_segment, variable, without_number_formats,
};
use rmcp::{
    Json, ServerHandler,
    handler::server::router::tool::ToolRouter,
    model::{Implementation, ServerCapabilities, ServerConfig},
    tool_handler,
};
use serde::de::DeserializeOwned;

use crate::model::{Found, Listed};

pub(crate) const SERVICE: &str = "GitHub";
const TOKEN: &str = "GITHUB_PERSONAL_ACCESS_TOKEN";
const API_VERSION: &str = "2022-11-28";

/// What the server is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The personal access token; without it every tool says what to do.
    pub token: Option<Secret>,
    /// The address of the REST API, or what is wrong with it.
    pub api: Result<BaseUrl, String>,
    /// Offers only the tools that change nothing.
    pub read_only: bool,
}

impl Settings {
    /// Reads `GITHUB_PERSONAL_ACCESS_TOKEN`, `GITHUB_API_URL`, `GITHUB_HOST` and `GITHUB_READ_ONLY`.
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            token: variable(TOKEN).map(|text| Secret::new(&text)),
            api: api_address(
                variable("GITHUB_API_URL").as_deref(),
                variable("GITHUB_HOST").as_deref(),
            ),
            read_only: variable("GITHUB_READ_ONLY")
                .is_some_and(|text| text == "true" || text == "1"),
        }
    }
}

/// Where the REST API lies: as told, else `/api/v3` of an Enterprise host, else `api.` of github.com or of a
/// subdomain of ghe.com.
fn api_address(api_url: Option<&str>, host: Option<&str>) -> Result<BaseUrl, String> {
    let parse =
        |name: &str, text: &str| BaseUrl::new(text).map_err(|error| format!("{name} {error}"));
    if let Some(url) = api_url {
        return parse("GITHUB_API_URL", url);
    }
    let host = match host {
        None => return parse("GITHUB_HOST", "https://api.github.com"),
        Some(host) if host.contains("://") => host.trim_end_matches('/').to_owned(),
        Some(host) => format!("https://{}", host.trim_end_matches('/')),
    };
    let base = parse("GITHUB_HOST", &host)?;
    match base.host() {
        "github.com" | "www.github.com" | "api.github.com" => {
            parse("GITHUB_HOST", "https://api.github.com")
        }
        name if name.ends_with(".ghe.com") && !name.starts_with("api.") => {
            parse("GITHUB_HOST", &format!("https://api.{name}"))
        }
        name if name.ends_with(".ghe.com") => Ok(base),
        _ => parse("GITHUB_HOST", &format!("{}/api/v3", base.as_str())),
    }
}

/// The server.
pub struct GitHub {
    tools: ToolRouter<Self>,
    token: Option<Secret>,
    client: Result<Client, String>,
}

impl GitHub {
    /// A server with these settings; it connects at the first call.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let tools = Self::repo_tools() + Self::issue_tools() + Self::pull_tools();
        let mut tools = without_number_formats(tools);
        if settings.read_only {
            for tool in tools.list_all() {
                let reads = tool.annotations.as_ref().and_then(|a| a.read_only_hint);
                if reads != Some(true) {
                    tools.remove_route(&tool.name);
                }
            }
        }
        let client = settings.api.map(|base| {
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
            spec.advise = advise;
            Client::new(spec)
        });
        Self {
            tools,
            token: settings.token,
            client,
        }
    }

    /// Sends `call` with the token.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Error> {
        let client = self
            .client
            .as_ref()
            .map_err(|message| not_configured(format!("{message}. Ask the user to correct it")))?;
        let token = self.token.clone().ok_or_else(|| {
            not_configured(format!(
                "No GitHub token is configured: ask the user to store a personal access token as a credential, bind \
                 it to {TOKEN} of this server, and restart it"
            ))
        })?;
        client
            .send(call.auth(header::AUTHORIZATION, "Bearer ", token))
            .await
    }

    /// Sends `call` and reads its JSON.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        self.send(call).await?.json()
    }

    /// Sends `call` and reads a list, and the number of the next page by the Link header.
    pub(crate) async fn fetch_page<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<(T, Option<u32>), Error> {
        let answer = self.send(call).await?;
        let next = answer.header("link").and_then(next_page);
        Ok((answer.json()?, next))
    }

    /// One page of a list.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        call: Call,
        page: Option<u32>,
        per_page: Option<u32>,
    ) -> Result<Json<Listed<T>>, String> {
        let (items, next_page) = self.fetch_page(paged(call, page, per_page)?).await?;
        Ok(Json(Listed { items, next_page }))
    }

    /// One page of a search.
    pub(crate) async fn search<T: DeserializeOwned>(
        &self,
        call: Call,
        page: Option<u32>,
        per_page: Option<u32>,
    ) -> Result<Json<Found<T>>, String> {
        let call = paged(call, page, per_page)?;
        let (mut found, next_page) = self.fetch_page::<Found<T>>(call).await?;
        found.next_page = next_page;
        Ok(Json(found))
    }
}

fn not_configured(message: String) -> Error {
    Error::new(SERVICE, Trouble::NotConfigured(message))
}

fn advise(failure: &Failure) -> Option<String> {
    let advice = match failure.trouble {
        Trouble::Unauthorized => {
            "The token is wrong, expired or revoked. Do not try again: ask the user to store a new one for \
             GITHUB_PERSONAL_ACCESS_TOKEN and restart this server."
        }
        Trouble::Forbidden => {
            "The token lacks a permission for this. Do not try again: ask the user to give the token the permission \
             (Contents, Issues or Pull requests; write for changes), or to authorize it for the organization's \
             single sign-on."
        }
        Trouble::NotFound => {
            "Check owner, repository, path and number. GitHub also says so of private repositories that the token \
             may not see: then ask the user to give the token access."
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

/// The page that `rel="next"` of a Link header names (RFC 8288).
fn next_page(link: &str) -> Option<u32> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let url = next.split(['<', '>']).nth(1)?;
    let query = url.split_once('?')?.1;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("page="))?
        .parse()
        .ok()
}

/// `/repos/OWNER/REPO` and then `rest`.
pub(crate) fn repo_path(owner: &str, repo: &str, rest: &str) -> Result<String, Error> {
    let good = |text: &str| {
        (1..=100).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !matches!(text, "." | "..")
    };
    if !good(owner) || !good(repo) {
        let message = "owner and repo must be the two names apart, such as owner octocat and repo hello-world";
        return Err(Error::argument(SERVICE, message));
    }
    Ok(format!(
        "/repos/{}/{}{rest}",
        path_segment(owner),
        path_segment(repo)
    ))
}

/// `call` for one page of a list: the first when `page` is absent, with 30 entries when `per_page` is.
pub(crate) fn paged(call: Call, page: Option<u32>, per_page: Option<u32>) -> Result<Call, Error> {
    let (page, per_page) = (page.unwrap_or(1), per_page.unwrap_or(30));
    if page == 0 || !(1..=100).contains(&per_page) {
        return Err(Error::argument(
            SERVICE,
            "page must be at least 1, and perPage 1 to 100",
        ));
    }
    Ok(call.query("page", page).query("per_page", per_page))
}

#[tool_handler(router = self.tools)]
impl ServerHandler for GitHub {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("minimcp-github", env!("CARGO_PKG_VERSION")))
            .with_instructions(
                "GitHub. Use search tools to find things and list tools to go through them page by page. get_me tells \
                 whose token it is.",
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_address_follows_the_host() {
        for (url, host, expected) in [
            (None, None, "https://api.github.com"),
            (None, Some("github.com"), "https://api.github.com"),
            (
                None,
                Some("https://ghe.example.com"),
                "https://ghe.example.com/api/v3",
            ),
            (
                None,
                Some("ghe.example.com:8443"),
                "https://ghe.example.com:8443/api/v3",
            ),
            (
                None,
                Some("https://octo.ghe.com/"),
                "https://api.octo.ghe.com",
            ),
            (
                None,
                Some("http://127.0.0.1:99"),
                "http://127.0.0.1:99/api/v3",
            ),
            (
                Some("https://proxy.example.com/gh/"),
                Some("x"),
                "https://proxy.example.com/gh",
            ),
        ] {
            let address = api_address(url, host).map(|base| base.as_str().to_owned());
            assert_eq!(address, Ok(expected.to_owned()), "{url:?} {host:?}");
        }
        assert!(api_address(None, Some("http://ghe.example.com")).is_err());
    }

    #[test]
    fn the_next_page_comes_from_the_link_header() {
        let link = r#"<https://a/x?per_page=5&page=1>; rel="prev", <https://a/x?per_page=5&page=3>; rel="next""#;
        assert_eq!(next_page(link), Some(3));
        assert_eq!(next_page(r#"<https://a/x?page=1>; rel="last""#), None);
    }
}
