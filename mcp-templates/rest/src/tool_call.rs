//! One call of a tool: it ends when the client cancels it, and tells its progress while the client waits.

use std::time::Duration;

use rmcp::{
    ErrorData, Peer, RoleServer,
    handler::server::{router::tool::ToolRouter, tool::ToolCallContext},
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock,
        ProgressNotificationParam, ProgressToken,
    },
    service::RequestContext,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// A client that asked for progress hears of a silent call so often, so that it does not give it up.
const BEAT: Duration = Duration::from_secs(5);

tokio::task_local! {
    static STEPS: watch::Sender<Step>;
}

/// Where a call stands.
#[derive(Clone, Default)]
struct Step {
    done: u32,
    total: Option<u32>,
    message: String,
}

/// Calls the tool that `request` names, for use as `ServerHandler::call_tool`. A cancelled call is dropped with its
/// HTTP requests. While it runs, each [`step`], and every 5 seconds of silence, is told to a client that asked for
/// progress.
///
/// # Errors
/// As the router: the tool does not exist.
pub async fn call_tool<S: Send + Sync + 'static>(
    router: &ToolRouter<S>,
    server: &S,
    request: CallToolRequestParams,
    context: RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let cancelled = context.ct.clone();
    let token = context.meta.get_progress_token();
    let mut listener = token.map(|token| Listener::new(context.peer.clone(), token));
    let (sender, mut steps) = watch::channel(Step::default());
    let call = router.call(ToolCallContext::new(server, request, context));
    let mut call = std::pin::pin!(STEPS.scope(sender, call));
    loop {
        tokio::select! {
            biased;
            () = cancelled.cancelled() => {
                // Nobody reads this: a cancelled request is not answered.
                return Ok(CallToolResult::error(vec![ContentBlock::text("cancelled")]).into());
            }
            outcome = &mut call => return outcome,
            () = next(&mut listener, &mut steps) => {}
        }
    }
}

/// Tells that the call that runs here has done `done` of `total` steps; `message` says what comes next. Outside of
/// [`call_tool`] it does nothing.
pub fn step(done: u32, total: u32, message: impl Into<String>) {
    let step = Step {
        done,
        total: Some(total),
        message: message.into(),
    };
    let _outside = STEPS.try_with(|steps| steps.send_replace(step));
}

/// Waits for the next thing to tell and tells it; for ever, when nobody asked.
async fn next(listener: &mut Option<Listener>, steps: &mut watch::Receiver<Step>) {
    match listener {
        Some(listener) => listener.next(steps).await,
        None => std::future::pending().await,
    }
}

struct Listener {
    peer: Peer<RoleServer>,
    token: ProgressToken,
    started: Instant,
    next_beat: Instant,
    beats: i32,
    told: f64,
}

impl Listener {
    fn new(peer: Peer<RoleServer>, token: ProgressToken) -> Self {
        let now = Instant::now();
        Self {
            peer,
            token,
            started: now,
            next_beat: now + BEAT,
            beats: 0,
            told: -1.0,
        }
    }

    async fn next(&mut self, steps: &mut watch::Receiver<Step>) {
        tokio::select! {
            changed = steps.changed() => match changed {
                Ok(()) => self.beats = 0,
                // The call is over; its answer comes next.
                Err(_) => return std::future::pending().await,
            },
            () = sleep_until(self.next_beat) => self.beats += 1,
        }
        self.next_beat = Instant::now() + BEAT;
        let step = steps.borrow_and_update().clone();
        let progress = progress(step.done, self.beats);
        if progress <= self.told {
            return;
        }
        self.told = progress;
        let message = if step.message.is_empty() {
            let secs = self.started.elapsed().as_secs();
            format!("waiting for the answer, {secs} s")
        } else {
            step.message
        };
        let mut told =
            ProgressNotificationParam::new(self.token.clone(), progress).with_message(message);
        if let Some(total) = step.total {
            told = told.with_total(f64::from(total));
        }
        // A client that went away is told nothing; the call ends with the session.
        let _gone = self.peer.notify_progress(told).await;
    }
}

/// Progress must rise with each message (MCP, Progress): a beat goes half of the way that is left to the next step.
fn progress(done: u32, beats: i32) -> f64 {
    f64::from(done) + 1.0 - 0.5_f64.powi(beats.min(50))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_rises_with_every_beat_and_never_reaches_the_next_step() {
        let mut last = -1.0;
        for beats in 0..40 {
            let now = progress(3, beats);
            assert!(now > last && (3.0..4.0).contains(&now), "{beats}: {now}");
            last = now;
        }
        assert_eq!((progress(0, 0), progress(4, 0)), (0.0, 4.0));
    }

    #[test]
    fn a_step_outside_of_a_call_is_harmless() {
        step(1, 2, "nobody listens");
    }
}
