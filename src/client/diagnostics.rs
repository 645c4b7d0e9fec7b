//! What a daemon tells about itself.

use http::Method;

use super::{
    Call, Client, ClientError,
    calls::{Answer, instance_path},
};
use crate::wire;

impl Client {
    /// `GET /owners`.
    pub async fn owners(&self) -> Answer<wire::Page<wire::Owner>> {
        self.every_page("/api/v1/owners", |call| call).await
    }

    /// `GET /diagnostics`.
    pub async fn diagnostics(&self) -> Answer<wire::Diagnostics> {
        let call = Call::new(Method::GET, "/api/v1/diagnostics");
        self.send(call).await
    }

    /// `GET /mcps/{instance}/events`: the oldest after `cursor`, a page of 1000.
    pub async fn events_of(
        &self,
        instance: &str,
        cursor: Option<String>,
    ) -> Answer<wire::Page<wire::InstanceEvent>> {
        let call = Call::new(Method::GET, instance_path(instance, "/events"));
        let call = call
            .query("cursor", cursor)
            .query("limit", Some("1000".to_owned()));
        self.send(call).await
    }

    /// `GET /metrics`: its OpenMetrics text.
    ///
    /// # Errors
    /// The daemon does not answer, or refuses.
    pub async fn metrics_text(&self) -> Result<String, ClientError> {
        let reply = self
            .send::<serde::de::IgnoredAny>(Call::new(Method::GET, "/metrics"))
            .await?;
        Ok(reply.json().to_owned())
    }
}
