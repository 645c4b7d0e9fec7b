//! The calls on imports and client configurations.

use http::Method;

use super::{
    Call, Client,
    calls::{Answer, instance_path},
};
use crate::wire;

impl Client {
    /// `POST /imports`.
    pub async fn import(&self, request: &wire::ImportRequest) -> Answer<wire::Import> {
        let call = Call::new(Method::POST, "/api/v1/imports");
        self.send(call.body(request)?).await
    }

    /// `GET /mcps/{instance}/config`.
    pub async fn client_configs(
        &self,
        instance: &str,
        client: Option<String>,
    ) -> Answer<wire::Page<wire::ClientConfig>> {
        let path = instance_path(instance, "/config");
        self.send(Call::new(Method::GET, path).query("client", client))
            .await
    }
}
