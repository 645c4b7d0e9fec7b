//! The calls on call records.

use http::Method;

use super::{
    Call, Client,
    calls::{Answer, instance_path},
};
use crate::wire;

/// Which calls of tools; what is absent does not filter.
#[derive(Debug, Clone, Default)]
pub struct CallFilter {
    /// Of this tool.
    pub tool: Option<String>,
    /// With this access token.
    pub token: Option<String>,
    /// That ended so.
    pub outcome: Option<String>,
    /// From this time on, or how long ago.
    pub since: Option<String>,
    /// At most so many.
    pub limit: u32,
}

impl Client {
    /// `GET /mcps/{instance}/calls`: one page, newest first.
    pub async fn tool_calls(
        &self,
        instance: &str,
        filter: &CallFilter,
    ) -> Answer<wire::Page<wire::CallEntry>> {
        let call = Call::new(Method::GET, instance_path(instance, "/calls"))
            .query("tool", filter.tool.clone())
            .query("token", filter.token.clone())
            .query("outcome", filter.outcome.clone())
            .query("since", filter.since.clone())
            .query("limit", Some(filter.limit.to_string()));
        self.send(call).await
    }
}
