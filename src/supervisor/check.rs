//! Whether credentials are accepted: an instance of the template, the call of a tool that its manifest names, and nothing
//! left of it.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    CreateRequest, Seen, Supervisor, SupervisorError,
    route::RouteState,
    sealed::{SealedByVariable, open_all, read_sealed},
};
use crate::{
    domain::{
        duration::HumanDuration, id::TemplateName, principal::Principal, state::StatusWord,
        template::CheckSpec, violation::Violation,
    },
    secrets::redaction::Redactions,
    upstream::UpstreamError,
};

/// How long the instance may take to be ready: together with the call less than a request of the API may take.
const READY_MAX: HumanDuration = HumanDuration::from_secs(30);
/// How long the call may take.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Should the daemon die meanwhile, the instance expires after this.
const TTL: HumanDuration = HumanDuration::from_secs(120);
/// Most characters of the server's words.
const WORDS_MAX: usize = 1_000;

/// What the service says of the credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// It accepts them.
    Accepted,
    /// It refuses them.
    Refused,
    /// It was not asked, or its answer tells nothing of them.
    NotTried,
}

/// How a check went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// What it showed.
    pub outcome: CheckOutcome,
    /// The tool that was called, or would have been.
    pub tool: String,
    /// In a sentence; what the server said in it holds none of the secrets.
    pub message: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What the raw result of the call shows, and what the server said.
fn verdict(result: &str) -> (CheckOutcome, String) {
    let result: Value = serde_json::from_str(result).unwrap_or_default();
    if !result.is_object() {
        let text = "what it answered is not the result of a tool";
        return (CheckOutcome::NotTried, text.to_owned());
    }
    if result["isError"] != true {
        return (CheckOutcome::Accepted, String::new());
    }
    let parts = result["content"].as_array().into_iter().flatten();
    let texts = parts.filter_map(|part| part["text"].as_str());
    let said = texts.collect::<Vec<_>>().join(" ");
    (of_error(&said), said)
}

/// Whether an error speaks of the credentials, or of something else. An error says so in words only; what is not known
/// for something else is taken for a refusal, because the call needs nothing but them.
fn of_error(said: &str) -> CheckOutcome {
    const ELSE: [&str; 14] = [
        "http 429",
        "http 5",
        "rate limit",
        "too many requests",
        "timed out",
        "timeout",
        "in time",
        "could not be reached",
        "cannot be reached",
        "network",
        "enotfound",
        "econnrefused",
        "getaddrinfo",
        "unknown tool",
    ];
    let said = said.to_lowercase();
    let is_refusal = ["http 401", "(401)", "unauthorized"];
    if is_refusal.iter().any(|words| said.contains(words)) {
        return CheckOutcome::Refused;
    }
    match ELSE.iter().any(|words| said.contains(words)) {
        true => CheckOutcome::NotTried,
        false => CheckOutcome::Refused,
    }
}

/// Why an instance that never came up shows something of its credentials: only a server elsewhere says so by its status.
fn of_reason(seen: &Seen) -> CheckOutcome {
    let reason = seen.reason().unwrap_or_default();
    let refused = seen.remote.is_some() && (reason.contains("(401)") || reason.contains("(403)"));
    match refused {
        true => CheckOutcome::Refused,
        false => CheckOutcome::NotTried,
    }
}

impl Supervisor {
    /// Tries the credentials of `request` with the call that its template names. The instance for it is gone when this
    /// returns, also when the caller stops waiting.
    ///
    /// # Errors
    /// Those of [`Supervisor::create`], and a template that names no such call.
    pub async fn check_credentials(
        &self,
        who: &Principal,
        request: CreateRequest,
    ) -> Result<CheckReport, SupervisorError> {
        let name = TemplateName::new(request.template.clone()).ok();
        let entry = name.and_then(|name| self.context().catalogue.get(&name));
        let template = entry.map(|entry| entry.template);
        let check = template
            .as_ref()
            .and_then(|template| template.check.clone());
        let (Some(template), Some(check)) = (template, check) else {
            let message =
                "this template names no call by which its credentials could be checked ([check])";
            let violation = Violation::new("/template", "no-check", message);
            return Err(SupervisorError::Invalid(vec![violation]));
        };
        let ttl = TTL.min(template.lease.ttl_max);
        let request = CreateRequest {
            name: None,
            // What the service says counts for more than how it looks.
            force: true,
            ttl: Some(json!(ttl.to_string())),
            labels: [("minimcp/purpose".to_owned(), "credential-check".to_owned())].into(),
            ..request
        };
        let (supervisor, who) = (self.clone(), who.clone());
        let checking =
            tokio::spawn(async move { supervisor.check_and_remove(&who, request, check).await });
        checking
            .await
            .map_err(|error| SupervisorError::Internal(error.to_string()))?
    }

    async fn check_and_remove(
        &self,
        who: &Principal,
        request: CreateRequest,
        check: CheckSpec,
    ) -> Result<CheckReport, SupervisorError> {
        let began = Instant::now();
        let granted = self.create(who, request).await?;
        let id = granted.status.record.id;
        let (outcome, message) = self.try_call(who, &granted.status, &check).await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = self.delete(who, id).await {
            tracing::warn!(instance = %id, %error, "the instance of a credential check is left to its lease");
        }
        Ok(CheckReport {
            outcome,
            tool: check.tool,
            message,
            took_ms,
        })
    }

    async fn try_call(
        &self,
        who: &Principal,
        seen: &Seen,
        check: &CheckSpec,
    ) -> (CheckOutcome, String) {
        let context = self.context();
        let record = &seen.record;
        let id = record.id;
        let settled = match self.wait_settled(who, id, READY_MAX).await {
            Ok(settled) => settled,
            Err(error) => return (CheckOutcome::NotTried, error.to_string()),
        };
        let route = context
            .registry
            .get(id)
            .map(|handle| Arc::clone(&handle.route));
        let upstream = route.and_then(|route| match &*route.state.borrow() {
            RouteState::Ready { upstream, .. } => Some(Arc::clone(upstream)),
            _ => None,
        });
        let Some(upstream) = upstream.filter(|_| settled.word == StatusWord::Running) else {
            return (of_reason(&settled), not_up(&settled));
        };
        let arguments = Value::Object(check.arguments.clone());
        let answered = upstream.call_tool(&check.tool, &arguments, CALL_MAX).await;
        let (outcome, said) = match answered {
            Ok(result) => verdict(&result),
            Err(error @ UpstreamError::Elsewhere(_)) => {
                (of_error(&error.to_string()), error.to_string())
            }
            Err(error) => (CheckOutcome::NotTried, error.to_string()),
        };
        let sealed = read_sealed(context, record, SealedByVariable::new()).await;
        let secrets = sealed.and_then(|sealed| open_all(context, record, &sealed));
        let Ok(secrets) = secrets else {
            // What it said could not be told without them.
            return (outcome, tool_sentence(outcome, &check.tool, ""));
        };
        let said = Redactions::new(secrets).redact(&said).into_owned();
        (outcome, tool_sentence(outcome, &check.tool, &said))
    }
}

fn not_up(seen: &Seen) -> String {
    let reason = seen.reason().unwrap_or("it gave no reason");
    let lines = seen.record.last_exit.iter();
    let lines: Vec<&str> = lines
        .flat_map(|exit| &exit.last_stderr)
        .map(String::as_str)
        .collect();
    let said = match lines.is_empty() {
        true => String::new(),
        false => format!("; its last lines: {}", lines.join(" | ")),
    };
    let text = format!("the server is {}: {reason}{said}", seen.word);
    text.chars().take(WORDS_MAX).collect()
}

fn tool_sentence(outcome: CheckOutcome, tool: &str, said: &str) -> String {
    let begin = match outcome {
        CheckOutcome::Accepted => return format!("{tool} was answered"),
        CheckOutcome::Refused => format!("{tool} was refused"),
        CheckOutcome::NotTried => format!("{tool} failed for another reason"),
    };
    let said: String = said.chars().take(WORDS_MAX).collect();
    match said.is_empty() {
        true => begin,
        false => format!("{begin}: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(is_error: bool, text: &str) -> (CheckOutcome, String) {
        verdict(
            &json!({"isError": is_error, "content": [{"type": "text", "text": text}]}).to_string(),
        )
    }

    #[test]
    fn a_result_tells_whether_the_credentials_are_accepted() {
        assert_eq!(of(false, "{}").0, CheckOutcome::Accepted);
        for text in [
            "GitHub does not accept the credential (HTTP 401). Do not try again.",
            "Invalid token",
            "Google does not know this refresh token any more: connect again",
            "Figma does not allow this with the credential in use (HTTP 403).",
            "Request failed with status 401: Unauthorized, network policy",
        ] {
            assert_eq!(of(true, text), (CheckOutcome::Refused, text.to_owned()));
        }
        for text in [
            "GitHub could not be reached, or the connection broke.",
            "The rate limit of GitHub is reached (HTTP 403).",
            "GitHub failed (HTTP 503). The fault is on its side.",
            "GitHub did not answer in time.",
            "getaddrinfo ENOTFOUND api.example.com",
            "Unknown tool: get_me",
        ] {
            assert_eq!(of(true, text).0, CheckOutcome::NotTried, "{text}");
        }
        assert_eq!(verdict("[]").0, CheckOutcome::NotTried);
    }
}
