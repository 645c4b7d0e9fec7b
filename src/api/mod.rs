//! The management API: `/api/v1` (and the same under `/api`), health, metrics, the OpenAPI document and its page.
//!
//! One file per resource; `error` is the only status table; `openapi` collects the document from the handlers.
//! Requests pass: CORS, `layers::observe` (request id, span, problems, metrics, timeout, panics), `auth`,
//! `mutations` (body limit, `Idempotency-Key`), handler.

pub mod access_tokens;
pub mod auth;
pub mod calls;
pub mod client_configs;
pub mod credentials;
pub mod diagnostics;
pub mod docs;
pub mod error;
pub mod event_follow;
pub mod event_socket;
pub mod events;
pub mod extract;
pub mod faults;
pub mod idempotency;
pub mod imports;
pub mod instances;
pub mod keys;
pub mod layers;
pub mod logs;
pub mod metrics;
pub mod mutations;
pub mod openapi;
mod owners;
pub mod ports;
pub mod serve;
pub mod shape;
pub mod shown;
pub mod system;
pub mod tasks;
pub mod templates;
mod upgrade;
pub mod verbs;
pub mod view;
pub mod websocket;

use std::{ops::Deref, sync::Arc};

use axum::{Router, extract::DefaultBodyLimit, middleware, response::Redirect, routing::get};
use futures_util::future::BoxFuture;
use idempotency::InFlight;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use metrics::{Metrics, MetricsSource, Sample, SampleKind};
pub use serve::{Listeners, UnixSocket, bind_tcp, bind_unix, serve};
pub use upgrade::UpgradeDesk;

use crate::{
    config::ApiConfig,
    domain::duration::HumanDuration,
    logs::Logs,
    secrets::{AdminToken, KeyRing},
    store::Store,
    supervisor::Supervisor,
    tasks::TaskDriver,
    templates::Catalogue,
};

/// One part of `/readyz`: its name, and a question that answers `Err(sentence)` when the part is not fit.
pub struct ReadinessCheck {
    /// `database`, `keeper`, …
    pub name: &'static str,
    /// Whether nothing can be served without it; else its trouble is told and no more.
    pub required: bool,
    /// Asked at most once a request; must answer quickly (a second is the most it is waited for).
    pub ask: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

/// What the handlers work with.
pub struct AppParts {
    /// The instances.
    pub supervisor: Supervisor,
    /// The templates.
    pub templates: Arc<Catalogue>,
    /// What instances, credentials, logs and events are kept in.
    pub store: Store,
    /// Seals credentials and kept answers.
    pub keys: Arc<KeyRing>,
    /// The log pipeline, for follows.
    pub logs: Logs,
    /// The background tasks.
    pub tasks: Arc<TaskDriver>,
    /// The administrator token.
    pub admin_token: AdminToken,
    /// Most bytes of log lines in the database (`logs.retention_bytes_total`).
    pub log_bytes_max: u64,
    /// How full the spools are.
    pub spools: Box<dyn Fn() -> Vec<crate::wire::SpoolFacts> + Send + Sync>,
    /// Limits, timeouts, origins.
    pub config: ApiConfig,
    /// Counters and where the other numbers of `/metrics` come from.
    pub metrics: Metrics,
    /// This process.
    pub process: crate::wire::ProcessFacts,
    /// Where another program takes over.
    pub upgrade: UpgradeDesk,
    /// The parts that `/readyz` asks.
    pub readiness: Vec<ReadinessCheck>,
    /// Cancelled when the daemon goes down: streams end, no new connection is taken.
    pub shutdown: CancellationToken,
    /// Mutations under way; [`serve`] waits for them, because a client that hangs up must not leave one half done.
    pub mutations: TaskTracker,
}

/// Most open event streams and log follows together.
const STREAMS_MAX: usize = 256;

/// The state of every handler; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    parts: Arc<AppParts>,
    streams: Arc<Semaphore>,
    in_flight: InFlight,
}

impl AppState {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        Self {
            parts: Arc::new(parts),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            in_flight: InFlight::default(),
        }
    }

    /// How long a handler may wait on someone's behalf and still answer within the request timeout.
    #[must_use]
    pub fn wait_budget(&self, asked: HumanDuration) -> HumanDuration {
        let timeout_ms = self.config.request_timeout.ms();
        let most_ms = timeout_ms.saturating_sub((timeout_ms / 10).min(1_000));
        HumanDuration::from_ms(asked.ms().min(most_ms))
    }
}

impl Deref for AppState {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.parts
    }
}

/// The whole API as one router, ready for [`serve`].
pub fn router(state: AppState) -> Router {
    let parts = openapi::parts();
    let published = parts.published();
    let api = parts
        .api
        .route_layer(middleware::from_fn_with_state(
            state.clone(),
            mutations::guard,
        ))
        .route_layer(middleware::from_fn_with_state(
            state.clone(),
            auth::authenticate,
        ));
    let metrics = parts.metrics.route_layer(middleware::from_fn_with_state(
        state.clone(),
        auth::authenticate,
    ));
    Router::new()
        .nest("/api/v1", api.clone())
        .nest("/api", api)
        .merge(metrics)
        .merge(parts.open)
        // Whoever opens the address in a browser wants to read.
        .route("/", get(|| async { Redirect::to("/docs") }))
        .fallback(system::no_such_route)
        .method_not_allowed_fallback(system::method_not_allowed)
        .layer(axum::Extension(published))
        .layer(DefaultBodyLimit::max(state.config.body_limit_bytes))
        .layer(middleware::from_fn_with_state(
            state.clone(),
            layers::observe,
        ))
        .layer(layers::cors(&state.config.cors_origins))
        .with_state(state)
}
