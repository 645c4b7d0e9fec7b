//! `/mcps/{id}/config`: what a client keeps of an instance, to be copied.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    AppState,
    error::ApiError,
    extract::{PathParam, Query},
};
use crate::{
    domain::{principal::Principal, violation::Violation},
    interchange::export::Client,
    wire::{ClientConfig, Page, Problem},
};

/// The answer for the list of configurations; always one page.
pub type ClientConfigPage = Page<ClientConfig>;

/// Query of the configurations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConfigQuery {
    /// Only of this client: `claude-code`, `claude-desktop`, `cursor`, `vscode`, `codex`, `windsurf`, `gemini`,
    /// `inspector` or `json`.
    #[param(example = "vscode")]
    client: Option<String>,
    /// Which address: `access` (`access_url`, the default) or `path` (`path_url`, behind a reverse proxy).
    #[param(example = "access")]
    url: Option<String>,
}

/// What each MCP client keeps of the instance, to be copied into its file.
///
/// The access token is not in it, because only its hash is kept: each text fetches it from where its client can, or
/// has `ACCESS_TOKEN` in its place.
#[utoipa::path(
    get, path = "/mcps/{id}/config", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`"), ConfigQuery),
    responses(
        (status = 200, description = "One entry for each client", body = Page<ClientConfig>),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    Query(query, mut faults): Query<ConfigQuery>,
) -> Result<axum::Json<ClientConfigPage>, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let status = state.supervisor.get(&who, id)?;
    let mut wrong = |name: &str, message: String| {
        faults.add([Violation::of_parameter(name, "enum", message)]);
    };
    let clients = match query.client.as_deref() {
        None => Client::ALL.to_vec(),
        Some(word) => {
            let client = Client::of_word(word);
            if client.is_none() {
                let known = Client::ALL.map(Client::word).join(", ");
                wrong("client", format!("client must be one of {known}"));
            }
            client.into_iter().collect()
        }
    };
    let url = match query.url.as_deref() {
        None | Some("access") => &status.access_url,
        Some("path") => &status.path_url,
        Some(_) => {
            wrong("url", "url must be access or path".to_owned());
            &status.access_url
        }
    };
    faults.refuse()?;
    let name = status.record.name.as_str();
    let items = clients.into_iter().map(|client| config(client, name, url));
    Ok(axum::Json(Page {
        items: items.collect(),
        next_cursor: None,
    }))
}

fn config(client: Client, name: &str, url: &str) -> ClientConfig {
    let snippet = client.snippet(name, url, None);
    ClientConfig {
        client: client.word().to_owned(),
        title: client.title().to_owned(),
        file: snippet.file.map(str::to_owned),
        language: snippet.language.to_owned(),
        text: snippet.text,
        command: snippet.command,
        token: snippet.token.unwrap_or_default(),
    }
}
