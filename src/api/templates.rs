//! `/templates`: what can be run here.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

use super::{
    AppState,
    error::{ApiError, Code},
    extract::{Json, PathParam},
    openapi::PREFIX,
    owners,
};
use crate::{
    domain::{id::TemplateName, principal::Principal, template::Template},
    supervisor::{CheckOutcome, CreateRequest, PackageState, Supervisor},
    templates::{Entry, settings_schema},
    wire::{
        CheckCredentials, CredentialCheck, Page, Problem, TemplateCredential, TemplateIcon,
        TemplatePackage, TemplateSummary,
    },
};

/// The answer for the list of templates; always one page.
pub type TemplatePage = Page<TemplateSummary>;

fn package(entry: &Entry, supervisor: &Supervisor) -> Option<TemplatePackage> {
    let source = entry.template.server.package.as_ref()?.to_string();
    let (state, error) = match supervisor.package_state(entry) {
        None => ("not-needed", None),
        Some(PackageState::Missing) => ("missing", None),
        Some(PackageState::Installing) => ("installing", None),
        Some(PackageState::Installed) => ("installed", None),
        Some(PackageState::Failed(why)) => ("failed", Some(why)),
    };
    Some(TemplatePackage {
        source,
        state: state.to_owned(),
        error,
    })
}

fn summary(entry: &Entry, supervisor: &Supervisor) -> TemplateSummary {
    let template: &Template = &entry.template;
    TemplateSummary {
        name: template.name.to_string(),
        title: template.title.clone(),
        description: template.description.clone(),
        icons: entry
            .icon
            .iter()
            .map(|icon| TemplateIcon {
                src: format!("{PREFIX}/templates/{}/icon", template.name),
                mime_type: icon.media_type.to_owned(),
                sizes: vec![icon.sizes.clone()],
            })
            .collect(),
        transport: template.server.transport.word().to_owned(),
        available: entry.program.is_ok() || entry.missing_package.is_some(),
        unavailable_reason: match entry.missing_package {
            Some(_) => None,
            None => entry.program.as_ref().err().cloned(),
        },
        package: package(entry, supervisor),
        check: template.check.as_ref().map(|check| check.tool.clone()),
        credentials_one_of: template
            .credentials_one_of
            .iter()
            .map(|group| group.iter().map(ToString::to_string).collect())
            .collect(),
        credentials: template
            .credentials
            .iter()
            .map(|credential| TemplateCredential {
                name: credential.name.to_string(),
                title: credential.title.clone(),
                help: credential.help.clone(),
                required: credential.required,
                delivery: credential.delivery.word().to_owned(),
                pattern: credential.pattern.clone(),
                pattern_help: credential.pattern_help.clone(),
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
    responses((status = 200, description = "All templates, by name", body = Page<TemplateSummary>))
)]
pub async fn list(_who: Principal, State(state): State<AppState>) -> axum::Json<TemplatePage> {
    let list = state.templates.list();
    let items = list.iter().map(|entry| summary(entry, &state.supervisor));
    let items = items.collect();
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
    let entry = find(&state, &name)?;
    Ok(axum::Json(summary(&entry, &state.supervisor)))
}

/// What an icon may do in a browser that opens it: be seen.
const ICON_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox";

/// The picture of a template: SVG or PNG, at most 64 KiB.
///
/// Scripts in it are neither accepted when the template is read nor run by a browser that opens it.
#[utoipa::path(
    get, path = "/templates/{name}/icon", tag = "templates", params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The picture", body = String, content_type = "image/svg+xml"),
        (status = 404, description = "`not-found`: there is no such template, or it has no picture", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn icon(
    _who: Principal,
    State(state): State<AppState>,
    PathParam(name): PathParam,
) -> Result<Response, ApiError> {
    let entry = find(&state, &name)?;
    let Some(icon) = entry.icon else {
        let text = format!("the template {} has no icon", entry.template.name);
        return Err(ApiError::new(Code::NotFound, text));
    };
    let headers = [
        (header::CONTENT_TYPE, icon.media_type),
        (header::CONTENT_SECURITY_POLICY, ICON_POLICY),
        (header::CACHE_CONTROL, "private, max-age=300"),
    ];
    Ok((headers, icon.bytes.to_vec()).into_response())
}

/// Installs the package of a template ahead of its first start.
///
/// The answer does not wait for it: see `package` of the template. Nothing happens when there is nothing to install.
#[utoipa::path(
    post, path = "/templates/{name}/install", tag = "templates", params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 202, description = "It is being installed, or was so before", body = TemplateSummary),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn install(
    _who: Principal,
    State(state): State<AppState>,
    PathParam(name): PathParam,
) -> Result<(StatusCode, axum::Json<TemplateSummary>), ApiError> {
    let entry = find(&state, &name)?;
    state.supervisor.install_package(&entry);
    let summary = summary(&entry, &state.supervisor);
    Ok((StatusCode::ACCEPTED, axum::Json(summary)))
}

/// Checks credentials with a template: whether the service that it leads to accepts them.
///
/// A short-lived instance of the template calls the tool that its manifest names in `[check]`. It counts as an instance
/// meanwhile, and nothing is left of it. The answer comes when it is done, within a minute.
#[utoipa::path(
    post, path = "/templates/{name}/check", tag = "templates", params(("name" = String, Path, description = "Its name")),
    request_body(content = CheckCredentials),
    responses(
        (status = 200, description = "What it showed", body = CredentialCheck),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation-failed`: every fault is listed; `no-check`: the template names no call", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn check(
    who: Principal,
    State(state): State<AppState>,
    PathParam(name): PathParam,
    Json(body, mut faults): Json<CheckCredentials>,
) -> Result<axum::Json<CredentialCheck>, ApiError> {
    let entry = find(&state, &name)?;
    let who = owners::acting(who, body.owner, &mut faults)?;
    let request = CreateRequest {
        template: entry.template.name.to_string(),
        credentials: body.credentials,
        settings: body.settings,
        force: true,
        ..CreateRequest::default()
    };
    if faults.any() {
        faults.of(state.supervisor.check_create(&who, request.clone()).await)?;
    }
    faults.refuse()?;
    let report = state.supervisor.check_credentials(&who, request).await?;
    let outcome = match report.outcome {
        CheckOutcome::Accepted => "accepted",
        CheckOutcome::Refused => "refused",
        CheckOutcome::NotTried => "not-tried",
    };
    Ok(axum::Json(CredentialCheck {
        outcome: outcome.to_owned(),
        tool: report.tool,
        message: report.message,
        took_ms: report.took_ms,
    }))
}

fn find(state: &AppState, name: &str) -> Result<Entry, ApiError> {
    // A name that is not well formed belongs to no template either.
    TemplateName::new(name)
        .ok()
        .and_then(|name| state.templates.refresh(&name))
        .ok_or_else(|| {
            let shown: String = name.chars().take(80).collect();
            ApiError::new(Code::NotFound, format!("there is no template {shown:?}"))
        })
}
