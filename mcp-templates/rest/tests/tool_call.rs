//! Calls that take long: their progress is told, and they end when they are cancelled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    handler::server::router::tool::ToolRouter,
    model::{CallToolRequestParams, CallToolResponse, ServerCapabilities, ServerConfig},
    service::RequestContext,
    tool, tool_handler, tool_router,
};
use serde_json::json;
use tokio::sync::Notify;

#[expect(dead_code, reason = "what only the tests of real tools need")]
#[path = "support/session.rs"]
mod session;
use session::Session;

#[derive(Clone, Default)]
struct Slow {
    started: Arc<Notify>,
    dropped: Arc<AtomicBool>,
}

struct Server {
    tools: ToolRouter<Self>,
    slow: Slow,
}

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tool_router(router = tools)]
impl Server {
    #[tool(description = "Takes three steps and twelve seconds.")]
    async fn steps(&self) -> String {
        for done in 0..3 {
            minimcp_rest::step(done, 3, format!("step {done}"));
            tokio::task::yield_now().await;
        }
        // The clock of this test is paused: this is exact and takes no time.
        tokio::time::timeout(Duration::from_secs(12), std::future::pending::<()>())
            .await
            .expect_err("it never comes");
        "done".to_owned()
    }

    #[tool(description = "Never answers by itself.")]
    async fn stuck(&self) -> String {
        let _flag = Flag(self.slow.dropped.clone());
        self.slow.started.notify_one();
        std::future::pending().await
    }
}

#[tool_handler(router = self.tools)]
impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        minimcp_rest::call_tool(&self.tools, self, request, context).await
    }
}

async fn setup() -> (Slow, Session) {
    let slow = Slow::default();
    let server = Server {
        tools: Server::tools(),
        slow: slow.clone(),
    };
    (slow, Session::start(server).await)
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_to_who_asked_and_rises() {
    let (_, mut session) = setup().await;
    let params = json!({"name": "steps", "arguments": {}, "_meta": {"progressToken": "p"}});
    let answer = session.request("tools/call", params).await;
    assert_eq!(answer["result"]["content"][0]["text"], "done");
    let told: Vec<f64> = session
        .notifications
        .iter()
        .filter(|message| message["method"] == "notifications/progress")
        .map(|message| {
            assert_eq!(message["params"]["progressToken"], "p");
            assert_eq!(message["params"]["total"], 3.0);
            message["params"]["progress"].as_f64().expect("a number")
        })
        .collect();
    // The last step is told, and two beats of five seconds after it.
    assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
    assert_eq!(told[told.len() - 3..], [2.0, 2.5, 2.75]);
    session.notifications.clear();
    session.good("steps", json!({})).await;
    assert!(session.notifications.is_empty(), "nobody asked");
}

#[tokio::test]
async fn a_cancelled_call_is_dropped_and_the_server_lives_on() {
    let (slow, mut session) = setup().await;
    let id = session
        .begin("tools/call", json!({"name": "stuck", "arguments": {}}))
        .await;
    slow.started.notified().await;
    let params = json!({"requestId": id, "reason": "the user pressed stop"});
    session.notify("notifications/cancelled", params).await;
    let answer = session.request("tools/list", json!({})).await;
    assert_eq!(answer["result"]["tools"].as_array().map(Vec::len), Some(2));
    let dropped = async {
        while !slow.dropped.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dropped)
        .await
        .expect("the call is dropped");
}

#[tokio::test]
async fn a_tool_that_is_not_there_is_a_protocol_error() {
    let (_, mut session) = setup().await;
    let params = json!({"name": "nothing", "arguments": {}});
    let answer = session.request("tools/call", params).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
}
