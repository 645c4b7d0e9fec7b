//! One method for each call of the API.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::value::RawValue;

use super::{Call, Client, ClientError, EventStream, Reply};
use crate::{domain::duration::HumanDuration, wire};

/// Which instances to list; what is absent does not filter.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only with this status word.
    pub status: Option<String>,
    /// Only of this template.
    pub template: Option<String>,
    /// Only of this owner.
    pub owner: Option<String>,
}

/// Which log lines; what is absent does not filter.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// From this time on (RFC 3339). Pages only.
    pub since: Option<String>,
    /// Up to this time (RFC 3339). Pages only.
    pub until: Option<String>,
    /// stdout, stderr or system.
    pub stream: Option<String>,
    /// Lines that hold this text, case ignored.
    pub text: Option<String>,
    /// The last so many lines; a follow begins with them.
    pub tail: Option<u32>,
}

/// A path segment from something that a person typed.
pub(super) fn segment(raw: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(raw.len());
    for byte in raw.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    // "." and ".." would be taken for steps in the path.
    if out.bytes().all(|byte| byte == b'.') {
        out = out.replace('.', "%2E");
    }
    out
}

pub(super) fn instance_path(instance: &str, rest: &str) -> String {
    format!("/api/v1/mcps/{}{rest}", segment(instance))
}

pub(super) fn ttl_value(ttl: Option<HumanDuration>) -> Option<serde_json::Value> {
    ttl.map(|ttl| ttl.to_string().into())
}

pub(super) type Answer<T> = Result<Reply<T>, ClientError>;

/// Every call answers [`ClientError`] as its documentation says; an `instance` is an id or a name.
impl Client {
    /// `POST /mcps`; with `wait` the answer comes when it runs, failed, or the time is over.
    pub async fn create(
        &self,
        request: &wire::CreateInstance,
        wait: Option<Duration>,
    ) -> Answer<wire::Instance> {
        let mut call = Call::new(Method::POST, "/api/v1/mcps").body(request)?;
        if let Some(wait) = wait {
            call = call
                .query("wait", Some("ready".to_owned()))
                .query("timeout", Some(format!("{}s", wait.as_secs().max(1))))
                .timeout(wait + Duration::from_secs(15));
        }
        self.send(call).await
    }

    /// `GET /mcps`: every page, joined into one.
    pub async fn list(&self, query: &ListQuery) -> Answer<wire::Page<wire::Instance>> {
        self.every_page("/api/v1/mcps", |call| {
            call.query("status", query.status.clone())
                .query("template", query.template.clone())
                .query("owner", query.owner.clone())
        })
        .await
    }

    pub(super) async fn every_page<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        filter: impl Fn(Call) -> Call,
    ) -> Answer<wire::Page<T>> {
        let mut items: Vec<Box<RawValue>> = Vec::new();
        let mut cursor = None;
        loop {
            let call = filter(Call::new(Method::GET, path)).query("cursor", cursor.clone());
            let page: wire::Page<Box<RawValue>> = self.send(call).await?.read()?;
            let empty = page.items.is_empty();
            items.extend(page.items);
            if page.next_cursor.is_none() || page.next_cursor == cursor || empty {
                break;
            }
            cursor = page.next_cursor;
        }
        let joined = wire::Page {
            items,
            next_cursor: None,
        };
        let json = serde_json::to_string(&joined).map_err(|error| ClientError::Strange {
            reason: format!("pages that cannot be joined ({error})"),
        })?;
        Ok(Reply::new(json))
    }

    /// `GET /mcps/{instance}`.
    pub async fn get(&self, instance: &str) -> Answer<wire::Instance> {
        self.send(Call::new(Method::GET, instance_path(instance, "")))
            .await
    }

    /// `DELETE /mcps/{instance}`.
    pub async fn delete(&self, instance: &str) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, instance_path(instance, ""));
        self.send::<serde::de::IgnoredAny>(call).await.map(|_| ())
    }

    /// `POST /mcps/{instance}/start`, `/stop` or `/restart`.
    pub async fn act(&self, instance: &str, verb: &str) -> Answer<wire::Instance> {
        let path = instance_path(instance, &format!("/{verb}"));
        self.send(Call::new(Method::POST, path)).await
    }

    /// `POST /mcps/{instance}/extend`: a new deadline, counted from now.
    pub async fn extend(
        &self,
        instance: &str,
        ttl: Option<HumanDuration>,
    ) -> Answer<wire::Instance> {
        self.lease(instance, "/extend", ttl).await
    }

    /// `PATCH /mcps/{instance}`: what is absent stays.
    pub async fn change(
        &self,
        instance: &str,
        change: &wire::PatchInstance,
    ) -> Answer<wire::Instance> {
        let call = Call::new(Method::PATCH, instance_path(instance, "")).body(change)?;
        self.send(call).await
    }

    /// `POST /mcps/{instance}/restore`: an expired instance comes back.
    pub async fn restore(
        &self,
        instance: &str,
        ttl: Option<HumanDuration>,
    ) -> Answer<wire::Instance> {
        self.lease(instance, "/restore", ttl).await
    }

    async fn lease(
        &self,
        instance: &str,
        verb: &str,
        ttl: Option<HumanDuration>,
    ) -> Answer<wire::Instance> {
        let request = wire::TtlRequest {
            ttl: ttl_value(ttl),
        };
        let call = Call::new(Method::POST, instance_path(instance, verb)).body(&request)?;
        self.send(call).await
    }

    /// `POST /mcps/{instance}/access-token`: a new token, shown this once.
    pub async fn rotate_access_token(
        &self,
        instance: &str,
        overlap: Option<HumanDuration>,
    ) -> Answer<wire::Instance> {
        let request = wire::RotateAccessToken {
            overlap: ttl_value(overlap),
        };
        let path = instance_path(instance, "/access-token");
        self.send(Call::new(Method::POST, path).body(&request)?)
            .await
    }

    /// `GET /mcps/{instance}/stats`.
    pub async fn stats(&self, instance: &str) -> Answer<wire::Stats> {
        self.send(Call::new(Method::GET, instance_path(instance, "/stats")))
            .await
    }

    /// `GET /mcps/{instance}/logs`: one page, oldest line first.
    pub async fn logs(
        &self,
        instance: &str,
        query: &LogQuery,
    ) -> Answer<wire::Page<wire::LogLine>> {
        let call = Call::new(Method::GET, instance_path(instance, "/logs"));
        self.send(log_filter(call, query)).await
    }

    /// `GET /mcps/{instance}/logs` as a stream: the last `tail` lines, or those after `last_event_id`; then what comes.
    pub async fn follow_logs(
        &self,
        instance: &str,
        query: &LogQuery,
        last_event_id: Option<i64>,
    ) -> Result<EventStream, ClientError> {
        let call = Call::new(Method::GET, instance_path(instance, "/logs"));
        self.stream(log_filter(call, query), last_event_id).await
    }

    /// `GET /events`: what happens to every instance.
    pub async fn events(&self, last_event_id: Option<i64>) -> Result<EventStream, ClientError> {
        self.stream(Call::new(Method::GET, "/api/v1/events"), last_event_id)
            .await
    }

    /// `GET /templates`.
    pub async fn templates(&self) -> Answer<wire::Page<wire::TemplateSummary>> {
        self.every_page("/api/v1/templates", |call| call).await
    }

    /// `GET /templates/{name}`.
    pub async fn template(&self, name: &str) -> Answer<wire::TemplateSummary> {
        let path = format!("/api/v1/templates/{}", segment(name));
        self.send(Call::new(Method::GET, path)).await
    }

    /// `POST /templates/{name}/install`: begun, not awaited.
    pub async fn install_template(&self, name: &str) -> Answer<wire::TemplateSummary> {
        let path = format!("/api/v1/templates/{}/install", segment(name));
        self.send(Call::new(Method::POST, path)).await
    }

    /// `POST /templates/{name}/check`: what a service says of credentials.
    pub async fn check_credentials(
        &self,
        template: &str,
        request: &wire::CheckCredentials,
    ) -> Answer<wire::CredentialCheck> {
        let path = format!("/api/v1/templates/{}/check", segment(template));
        self.send(Call::new(Method::POST, path).body(request)?)
            .await
    }

    /// `PUT /credentials/{name}`: stored, or replaced; `force`: even when it does not look as instances want it.
    pub async fn put_credential(
        &self,
        request: &wire::PutCredential,
        force: bool,
    ) -> Answer<wire::Credential> {
        let query = if force { "?force=true" } else { "" };
        let path = format!("/api/v1/credentials/{}{query}", segment(&request.name));
        self.send(Call::new(Method::PUT, path).body(request)?).await
    }

    /// `GET /credentials`: names, never values; of one owner or of all.
    pub async fn credentials(&self, owner: Option<&str>) -> Answer<wire::Page<wire::Credential>> {
        let owner = owner.map(str::to_owned);
        self.every_page("/api/v1/credentials", |call| {
            call.query("owner", owner.clone())
        })
        .await
    }

    /// `DELETE /credentials/{name}`; `force`: even when instances use it.
    pub async fn delete_credential(
        &self,
        name: &str,
        owner: Option<String>,
        force: bool,
    ) -> Result<(), ClientError> {
        let path = format!("/api/v1/credentials/{}", segment(name));
        let call = Call::new(Method::DELETE, path)
            .query("force", force.then(|| "true".to_owned()))
            .query("owner", owner);
        self.send::<serde::de::IgnoredAny>(call).await.map(|_| ())
    }

    /// `GET /ports`.
    pub async fn ports(&self) -> Answer<wire::Ports> {
        self.send(Call::new(Method::GET, "/api/v1/ports")).await
    }

    /// `GET /tasks`.
    pub async fn tasks(&self) -> Answer<wire::Page<wire::TaskStatus>> {
        self.every_page("/api/v1/tasks", |call| call).await
    }

    /// `POST /tasks/{name}/run`; the answer does not wait for the run.
    pub async fn run_task(&self, name: &str) -> Answer<wire::TaskStatus> {
        let path = format!("/api/v1/tasks/{}/run", segment(name));
        self.send(Call::new(Method::POST, path)).await
    }

    /// `GET /keys`: ids only.
    pub async fn keys(&self) -> Answer<wire::Page<wire::MasterKey>> {
        self.every_page("/api/v1/keys", |call| call).await
    }

    /// `POST /keys/retire`: answers the keys removed.
    pub async fn retire_keys(&self) -> Answer<wire::Page<wire::MasterKey>> {
        self.send(Call::new(Method::POST, "/api/v1/keys/retire"))
            .await
    }

    /// `POST /keys/rotate`: a new active key; credentials are sealed again meanwhile.
    pub async fn rotate_key(&self) -> Answer<wire::MasterKey> {
        self.send(Call::new(Method::POST, "/api/v1/keys/rotate"))
            .await
    }

    /// `GET /readyz`; a daemon that is not ready answers too.
    pub async fn readiness(&self) -> Answer<wire::Readiness> {
        let call = Call::new(Method::GET, "/readyz");
        self.send_either(call, StatusCode::SERVICE_UNAVAILABLE)
            .await
    }
}

fn log_filter(call: Call, query: &LogQuery) -> Call {
    call.query("since", query.since.clone())
        .query("until", query.until.clone())
        .query("stream", query.stream.clone())
        .query("q", query.text.clone())
        .query("tail", query.tail.map(|tail| tail.to_string()))
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn what_a_person_types_stays_one_segment() {
        assert_eq!(segment("my-demo_1.2"), "my-demo_1.2");
        assert_eq!(segment("a/../b?x#y"), "a%2F..%2Fb%3Fx%23y");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("é"), "%C3%A9");
    }
}
