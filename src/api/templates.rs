//! `/templates`: what can be run here.

use axum::extract::State;

use super::{
    AppState,
    error::{ApiError, Code},
    extract::PathParam,
};
use crate::{
    domain::{
        id::TemplateName,
        principal::Principal,
        template::{Template, Transport},
    },
    templates::{Entry, settings_schema},
    wire::{Page, Problem, TemplateCredential, TemplateSummary},
};

/// The answer for the list of templates; always one page.
pub type TemplatePage = Page<TemplateSummary>;

fn summary(entry: &Entry) -> TemplateSummary {
    let template: &Template = &entry.template;
    let transport = match template.server.transport {
        Transport::Stdio => "stdio",
        Transport::Http => "http",
    };
    TemplateSummary {
        name: template.name.to_string(),
        title: template.title.clone(),
        description: template.description.clone(),
        transport: transport.to_owned(),
        available: entry.program.is_ok(),
        unavailable_reason: entry.program.as_ref().err().cloned(),
        credentials: template
            .credentials
            .iter()
            .map(|credential| TemplateCredential {
                name: credential.name.to_string(),
                title: credential.title.clone(),
                help: credential.help.clone(),
                required: credential.required,
            })
            .collect(),
        settings_schema: settings_schema(template),
        ttl_default: template.lease.ttl_default.map(|ttl| ttl.to_string()),
        ttl_max: template.lease.ttl_max.to_string(),
    }
}

/// Lists every template; one whose program is missing is listed too, with the way to install it.
#[utoipa::path(
    get, path = "/templates", tag = "templates",
    responses((status = 200, description = "All templates, by name", body = TemplatePage))
)]
pub async fn list(_who: Principal, State(state): State<AppState>) -> axum::Json<TemplatePage> {
    let items = state.templates.list().iter().map(summary).collect();
    axum::Json(Page {
        items,
        next_cursor: None,
    })
}

/// One template with the JSON Schema of its settings.
#[utoipa::path(
    get, path = "/templates/{name}", tag = "templates", params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The template", body = TemplateSummary),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(
    _who: Principal,
    State(state): State<AppState>,
    PathParam(name): PathParam,
) -> Result<axum::Json<TemplateSummary>, ApiError> {
    // A name that is not well formed belongs to no template either.
    TemplateName::new(name.as_str())
        .ok()
        .and_then(|name| state.templates.refresh(&name))
        .map(|entry| axum::Json(summary(&entry)))
        .ok_or_else(|| {
            let shown: String = name.chars().take(80).collect();
            ApiError::new(Code::NotFound, format!("there is no template {shown:?}"))
        })
}
