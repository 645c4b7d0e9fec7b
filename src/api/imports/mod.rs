//! `/imports`: the files of MCP clients and registries become templates, and instances where that is asked for.
//!
//! A server that cannot be translated is told with its reason and keeps no other from being imported. Each server is
//! made whole: first its template, then its credentials, then its instance.

mod making;
mod planning;

use std::collections::BTreeSet;

use axum::extract::State;
use futures_util::future::join_all;
use zeroize::Zeroizing;

use super::{
    AppState,
    error::ApiError,
    extract::{Faults, Json},
    owners,
};
use crate::{
    domain::{egress::HostRule, id::TemplateName, principal::Principal, violation::Violation},
    interchange::{self, Draft, Format, Found},
    wire::{Import, ImportRequest, ImportedServer},
};

/// What was asked for, checked.
struct Asked {
    format: Format,
    hosts: Vec<HostRule>,
    package: Option<String>,
    name: Option<TemplateName>,
    dry_run: bool,
    start: bool,
}

/// Makes templates of the servers in a file of an MCP client or a registry.
///
/// It reads `mcpServers` of Claude Desktop, Claude Code, Cursor, Windsurf and Gemini, `mcp.json` of VS Code,
/// `config.toml` of Codex, `server.json` of the official registry and `server.yaml` of Docker's catalogue. What `npx`,
/// `uvx` and their like fetch at each start becomes a package in one exact version. Secrets become credentials, other
/// variables settings. With `start` the secrets are stored and an instance of each server is made; its access token is
/// shown only in this answer. With `dry_run` nothing is made.
#[utoipa::path(
    post, path = "/imports", tag = "templates",
    request_body(content = ImportRequest, example = json!({
        "text": "{\"mcpServers\": {\"time\": {\"command\": \"uvx\", \"args\": [\"mcp-server-time\"]}}}", "dry_run": true
    })),
    responses((status = 200, description = "What became of each server", body = Import))
)]
pub async fn create(
    who: Principal,
    State(state): State<AppState>,
    Json(mut body, mut faults): Json<ImportRequest>,
) -> Result<axum::Json<Import>, ApiError> {
    let who = owners::acting(who, body.owner.take(), &mut faults)?;
    let (asked, found) = check(body, faults).await?;
    // What registries take of the time leaves enough for the making.
    let patience = state.config.request_timeout.std() * 3 / 4;
    let drafts = found.into_iter().map(|found| {
        let server = found.server.clone();
        let plan = tokio::time::timeout(patience, planning::plan(&state, &asked, found));
        async move {
            plan.await
                .unwrap_or_else(|_| planning::Planned::late(server))
        }
    });
    let planned = join_all(drafts).await;
    let mut taken = BTreeSet::new();
    let mut servers: Vec<ImportedServer> = Vec::with_capacity(planned.len());
    for planned in planned {
        servers.push(making::make(&state, &who, &asked, planned, &mut taken).await);
    }
    Ok(axum::Json(Import {
        format: asked.format.word().to_owned(),
        dry_run: asked.dry_run,
        servers,
    }))
}

/// Every fault of the request at once; the servers that were chosen.
async fn check(body: ImportRequest, mut told: Faults) -> Result<(Asked, Vec<Found>), ApiError> {
    let text = Zeroizing::new(body.text);
    let mut faults = Vec::new();
    let mut fault = |pointer: String, code: &str, message: String| {
        faults.push(Violation::new(pointer, code, message));
    };
    let format = body.format.as_deref().map(|word| {
        let known = Format::ALL.map(Format::word).join(", ");
        Format::of_word(word).ok_or_else(|| format!("must be one of {known}"))
    });
    let format = format.transpose().unwrap_or_else(|message| {
        fault("/format".to_owned(), "enum", message);
        None
    });
    let mut hosts = Vec::new();
    for (index, host) in body.hosts.iter().flatten().enumerate() {
        match host.parse::<HostRule>() {
            Ok(rule) => hosts.push(rule),
            Err(error) => fault(format!("/hosts/{index}"), "pattern", error.to_string()),
        }
    }
    let name = body.name.map(TemplateName::new).transpose();
    let name = name.unwrap_or_else(|error| {
        fault("/name".to_owned(), "pattern", error.to_string());
        None
    });
    let read = move || interchange::import(&text, format);
    let read = tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let (format, mut found) = match read {
        Ok(read) => read,
        Err(error) => {
            fault("/text".to_owned(), "pattern", format!("the text {error}"));
            told.add(faults);
            return Err(told.refusal());
        }
    };
    if let Some(servers) = &body.servers {
        for (index, server) in servers.iter().enumerate() {
            if !found.iter().any(|found| found.server == *server) {
                let known: Vec<&str> = found.iter().map(|found| found.server.as_str()).collect();
                let message = format!("the file has no such server; it has {}", known.join(", "));
                fault(format!("/servers/{index}"), "unknown", message);
            }
        }
        found.retain(|found| servers.contains(&found.server));
    }
    let for_one = [
        ("/name", name.is_some()),
        ("/package", body.package.is_some()),
    ];
    for (pointer, is_given) in for_one {
        if is_given && found.len() > 1 {
            let message = format!(
                "is for one server, and {} are imported: choose one with servers",
                found.len()
            );
            fault(pointer.to_owned(), "mismatch", message);
        }
    }
    // What is wrong with the text of the package is told before anything is made of it.
    if let (
        Some(package),
        [
            Found {
                draft: Ok(draft), ..
            },
        ],
    ) = (&body.package, found.as_slice())
        && let Err(message) = Draft::run_package(&mut draft.clone(), package)
    {
        fault("/package".to_owned(), "pattern", message);
    }
    told.add(faults);
    told.refuse()?;
    let asked = Asked {
        format,
        hosts,
        package: body.package,
        name,
        dry_run: body.dry_run,
        start: body.start,
    };
    Ok((asked, found))
}
