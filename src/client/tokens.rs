//! The calls on access tokens.

use http::Method;

use super::{
    Call, Client,
    calls::{Answer, instance_path, segment, ttl_value},
};
use crate::{domain::duration::HumanDuration, wire};

fn token_path(instance: &str, name: &str, rest: &str) -> String {
    instance_path(instance, &format!("/access-tokens/{}{rest}", segment(name)))
}

impl Client {
    /// `GET /mcps/{instance}/access-tokens`.
    pub async fn access_tokens(&self, instance: &str) -> Answer<wire::Page<wire::AccessToken>> {
        let path = instance_path(instance, "/access-tokens");
        self.send(Call::new(Method::GET, path)).await
    }

    /// `POST /mcps/{instance}/access-tokens`: the secret is shown this once.
    pub async fn create_access_token(
        &self,
        instance: &str,
        request: &wire::CreateAccessToken,
    ) -> Answer<wire::AccessToken> {
        let path = instance_path(instance, "/access-tokens");
        self.send(Call::new(Method::POST, path).body(request)?)
            .await
    }

    /// `POST /mcps/{instance}/access-tokens/{name}/rotate`: the new secret is shown this once.
    pub async fn rotate_named_access_token(
        &self,
        instance: &str,
        name: &str,
        overlap: Option<HumanDuration>,
    ) -> Answer<wire::AccessToken> {
        let request = wire::RotateAccessToken {
            overlap: ttl_value(overlap),
        };
        let path = token_path(instance, name, "/rotate");
        self.send(Call::new(Method::POST, path).body(&request)?)
            .await
    }

    /// `DELETE /mcps/{instance}/access-tokens/{name}`.
    pub async fn revoke_access_token(&self, instance: &str, name: &str) -> Answer<()> {
        self.send(Call::new(Method::DELETE, token_path(instance, name, "")))
            .await
    }
}
