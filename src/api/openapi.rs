//! The OpenAPI document, made from the handlers: a route exists only if it is documented, and the other way round.

use axum::{Router, body::Bytes};
use utoipa::{
    OpenApi,
    openapi::{
        Content, HttpMethod, OpenApi as Document, Ref, RefOr, Response,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        schema::{Object, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AppState, access_tokens, calls, client_configs, credentials, diagnostics, docs,
    error::PROBLEM_JSON, events, imports, instances, keys, logs, owners, ports, system, tasks,
    templates, upgrade, verbs,
};
use crate::wire::{Problem, ProblemViolation};

/// Where the API is mounted in the document; the same routes answer under `/api`.
pub const PREFIX: &str = "/api/v1";
const SCHEME: &str = "administrator-token";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "MiniMCP",
        description = "Runs MCP servers for other people: create an instance from a template, give its access URL to \
an MCP client, read its logs.\n\nEvery path under `/api/v1` also answers under `/api`. Send \
`Authorization: Bearer TOKEN` with the administrator token. Errors are RFC 9457 problem details with a stable `code` \
and a `request_id`; `validation-failed` (of the body, or of both) and `invalid-query` list every fault. Mutations take an `Idempotency-Key`: the same key with the \
same body answers again what it answered first, for 24 hours; the kept answer is sealed like a credential. Lists are \
paged by `cursor`. Times are RFC 3339 in UTC; durations are seconds or texts such as `30m`.\n\nBeside this API the same port \
serves MCP itself: `/i/{slug or id}/mcp` is the access URL of an instance under this address (`path_url`). It takes the \
access token of the instance, not the administrator's, as a header or in the path, `/i/{slug or id}/TOKEN/mcp`; \
`/i/{slug or id}/mcp/server-card` is its server card. Errors there are JSON-RPC."
    ),
    components(schemas(Problem, ProblemViolation, crate::wire::EventMessage)),
    tags(
        (name = "instances", description = "MCP servers that run here"),
        (name = "templates", description = "What can be run"),
        (name = "credentials", description = "Secrets for instances; never read back"),
        (name = "operations", description = "Ports, background tasks, events, health, metrics"),
    )
)]
struct Base;

/// The routers, by who may use them, and the document of them all.
pub struct Parts {
    /// Everything that is mounted under `/api/v1` and `/api`.
    pub api: Router<AppState>,
    /// `/metrics`: the token is required, there is no prefix.
    pub metrics: Router<AppState>,
    /// What anyone may read.
    pub open: Router<AppState>,
    /// The document.
    pub document: Document,
}

impl Parts {
    /// The document as it is served, made once.
    #[must_use]
    pub fn published(&self) -> Published {
        let value = serde_json::to_value(&self.document)
            .expect("the document is made of texts and numbers");
        Published {
            page: Bytes::from(docs::page(&value)),
            json: Bytes::from(value.to_string()),
        }
    }
}

/// The document as it is served.
#[derive(Debug, Clone)]
pub struct Published {
    /// For programs.
    pub json: Bytes,
    /// For people (HTML).
    pub page: Bytes,
}

/// Builds the routers and the document.
#[must_use]
pub fn parts() -> Parts {
    let (api, api_document) = api_routes().split_for_parts();
    let (metrics, metrics_document) = OpenApiRouter::new()
        .routes(routes!(system::metrics))
        .split_for_parts();
    let (open, open_document) = OpenApiRouter::new()
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(system::openapi_json))
        .routes(routes!(system::docs))
        .split_for_parts();

    let mut guarded = Base::openapi().nest(PREFIX, api_document);
    guarded.merge(metrics_document);
    for item in guarded.paths.paths.values_mut() {
        for (method, operation) in operations_mut(item) {
            guard(&method, operation);
        }
    }
    guarded.merge(open_document);
    guarded.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let components = guarded.components.get_or_insert_default();
    components.add_security_scheme(
        SCHEME,
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("The text of the file named by api.admin_token_file"))
                .build(),
        ),
    );
    Parts {
        api,
        metrics,
        open,
        document: guarded,
    }
}

fn api_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(instances::create, instances::list))
        .routes(routes!(instances::get, instances::patch, instances::delete))
        .routes(routes!(instances::stats))
        .routes(routes!(client_configs::list))
        .routes(routes!(verbs::start))
        .routes(routes!(verbs::stop))
        .routes(routes!(verbs::restart))
        .routes(routes!(verbs::extend))
        .routes(routes!(verbs::restore))
        .routes(routes!(verbs::rotate_access_token))
        .routes(routes!(access_tokens::create, access_tokens::list))
        .routes(routes!(
            access_tokens::get,
            access_tokens::patch,
            access_tokens::delete
        ))
        .routes(routes!(access_tokens::rotate))
        .routes(routes!(templates::list))
        .routes(routes!(templates::get))
        .routes(routes!(templates::icon))
        .routes(routes!(templates::check))
        .routes(routes!(templates::install))
        .routes(routes!(imports::create))
        .routes(routes!(credentials::create, credentials::list))
        .routes(routes!(credentials::replace, credentials::delete))
        .routes(routes!(ports::list))
        .routes(routes!(owners::list))
        .routes(routes!(events::stream_all))
        .routes(routes!(events::of_instance))
        .routes(routes!(logs::read))
        .routes(routes!(calls::list))
        .routes(routes!(diagnostics::read))
        .routes(routes!(upgrade::begin))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::run))
        .routes(routes!(keys::list))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::retire))
}

/// The operations of a path.
pub fn operations_mut(
    item: &mut utoipa::openapi::PathItem,
) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    [
        (HttpMethod::Get, item.get.as_mut()),
        (HttpMethod::Post, item.post.as_mut()),
        (HttpMethod::Put, item.put.as_mut()),
        (HttpMethod::Patch, item.patch.as_mut()),
        (HttpMethod::Delete, item.delete.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.map(|operation| (method, operation)))
}

/// What holds for every operation behind the token: the scheme, the common problems, the common headers.
fn guard(method: &HttpMethod, operation: &mut Operation) {
    operation.security = Some(vec![SecurityRequirement::new(SCHEME, [""; 0])]);
    let mut common = vec![
        ("401", "`unauthenticated`"),
        ("500", "`internal`"),
        (
            "503",
            "`database-unavailable`, `busy`, `actor-failed`, `shutting-down` or `timeout`; see `Retry-After`",
        ),
    ];
    if operation.request_body.is_some() {
        common.extend([
            (
                "400",
                "`malformed-json` with line and column, or `invalid-query`",
            ),
            ("413", "`body-too-large`"),
            ("415", "`unsupported-media-type`"),
            ("422", "`validation-failed`: every fault is listed"),
        ]);
    } else if operation.parameters.is_some() {
        common.push(("400", "`invalid-query` or `invalid-header`"));
    }
    for (status, description) in common {
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert_with(|| RefOr::T(problem_response(description)));
    }
    if !matches!(method, HttpMethod::Get) {
        operation
            .parameters
            .get_or_insert_default()
            .push(RefOr::T(idempotency_key()));
    }
}

/// A problem, in the document.
pub fn problem_response(description: &str) -> Response {
    let mut response = Response::new(description);
    response.content.insert(
        PROBLEM_JSON.to_owned(),
        RefOr::T(Content::new(Some(Ref::from_schema_name("Problem")))),
    );
    response
}

fn idempotency_key() -> Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "1 to 128 visible ASCII characters. The same key with the same request answers again what it answered \
             first (`Idempotency-Replayed: true`).",
        ))
        .schema(Some(Object::with_type(Type::String)))
        .build()
}
