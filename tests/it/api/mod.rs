//! The router over a real store (a database of its own), a real supervisor and a runtime without processes.

mod bad_input;
mod document;
mod idempotency;
mod instances;
mod owners;
mod refusals;
mod sockets;
mod streams;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::{Router, body::Body};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::harness::Database;
use minimcp::api::{AppParts, AppState, Metrics, ReadinessCheck, router};
use minimcp::{
    clock::Clock,
    config::Config,
    logs::LogPipeline,
    runtime::fake::{FakeChild, FakeRuntime},
    secrets::{AdminToken, KeyRing},
    store::Store,
    supervisor::{Context, Supervisor, route::AccessEvent},
    tasks::{BackgroundTask, FnTask, TaskDriver},
    templates::Catalogue,
};

/// Ports for the tests of this module; each fixture takes ten, so that parallel tests do not meet, and each process
/// begins elsewhere, below the ephemeral ports.
static PORT_NEXT: LazyLock<Mutex<u16>> = LazyLock::new(|| {
    let slot = u16::try_from(std::process::id() % 9).expect("below 9");
    Mutex::new(20_000 + slot * 1_200)
});

/// An answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Asserts a well-formed problem with this status and code, and gives it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(
            problem["request_id"],
            self.headers["x-request-id"].to_str().expect("text")
        );
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
        problem
    }
}

/// The API with everything behind it.
pub struct Fixture {
    pub router: Router,
    pub state: AppState,
    pub token: String,
    _children: mpsc::Receiver<FakeChild>,
    _access: mpsc::Receiver<AccessEvent>,
    _logs: LogPipeline,
    _folder: TempDir,
}

impl Fixture {
    pub async fn new(database: Database) -> Self {
        Self::with(database, |_| {}).await
    }

    /// With a change to the configuration.
    pub async fn with(database: Database, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let mut config = Config::default();
        config.database.url = database.create(folder.path()).await;
        config.runtime.instance_dir = at("instances");
        config.logs.spool_dir = at("spool");
        {
            let mut next = PORT_NEXT.lock().unwrap_or_else(PoisonError::into_inner);
            config.runtime.port_min = *next;
            config.runtime.port_max = *next + 9;
            *next += 10;
        }
        change(&mut config);
        let store = Store::connect(&config.database).await.expect("a store");
        let keys = Arc::new(KeyRing::load(&at("key"), None, None).expect("a key ring"));
        let logs = LogPipeline::start(&config.logs, Arc::new(store.clone()))
            .await
            .expect("a pipeline");
        let templates = Arc::new(Catalogue::load(
            &config.runtime,
            std::env::current_exe().expect("our own path"),
        ));
        let (runtime, children) = FakeRuntime::new();
        let (access, access_events) = mpsc::channel(64);
        let context = Context::new(
            Arc::new(config.clone()),
            store.clone(),
            Arc::clone(&keys),
            Arc::new(runtime),
            logs.logs(),
            Arc::clone(&templates),
            Clock::System,
            access,
            "http://127.0.0.1:7420",
        );
        let (supervisor, _, _) = Supervisor::start_up(context).await.expect("a supervisor");
        let task: Box<dyn BackgroundTask> =
            Box::new(FnTask::new("count-sheep", "Counts sheep", || async {
                Ok(serde_json::json!({"sheep": 3}))
            }));
        let tasks = TaskDriver::start(vec![task], &std::collections::BTreeMap::new())
            .await
            .expect("tasks");
        let token_file = at("admin-token");
        let admin_token = AdminToken::load_or_create(&token_file).expect("a token");
        let token = std::fs::read_to_string(&token_file).expect("the token file");
        let pinged = store.clone();
        let state = AppState::new(AppParts {
            supervisor,
            templates,
            store,
            keys,
            logs: logs.logs(),
            tasks: Arc::new(tasks),
            admin_token,
            log_bytes_max: 1 << 30,
            spools: Box::new(Vec::new),
            config: config.api.clone(),
            metrics: Metrics::new(Vec::new()),
            process: minimcp::wire::ProcessFacts {
                pid: std::process::id(),
                started_at: "2026-11-21T09:36:17.123Z".to_owned(),
                program: "/usr/bin/minimcp".to_owned(),
                upgrades_in_place: false,
            },
            upgrade: Box::new(|| Box::pin(async { Err("it is a test".to_owned()) })),
            readiness: vec![ReadinessCheck {
                name: "database",
                required: true,
                ask: Box::new(move || {
                    let store = pinged.clone();
                    Box::pin(async move { store.ping().await.map_err(|error| error.to_string()) })
                }),
            }],
            shutdown: CancellationToken::new(),
            mutations: TaskTracker::new(),
        });
        Self {
            router: router(state.clone()),
            state,
            token: token.trim().to_owned(),
            _children: children,
            _access: access_events,
            _logs: logs,
            _folder: folder,
        }
    }

    /// Sends a request as it is.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await;
        let (parts, body) = response.expect("a router never fails").into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).expect("text"),
        }
    }

    /// A request with the token, and a JSON body unless it is empty; `headers` come on top.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Request<Body> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
            .body(Body::from(body.to_owned()))
            .expect("a request")
    }

    /// Sends [`Fixture::request`] without further headers.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send(self.request(method, path, body, &[])).await
    }
}
