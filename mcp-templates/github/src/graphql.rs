//! GitHub's GraphQL API, for the few things that its REST API cannot do.

use minimcp_rest::{Call, Error, Method, Trouble};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    GitHub,
    server::{SERVICE, failed},
};

#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    #[serde(default)]
    errors: Vec<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(rename = "type")]
    kind: Option<String>,
    message: String,
}

impl GitHub {
    /// Sends a document and reads its data. An answer with errors is a failure, also when it has some data.
    pub(crate) async fn graphql<T: DeserializeOwned>(
        &self,
        document: &str,
        variables: Value,
    ) -> Result<T, Error> {
        let body = json!({"query": document, "variables": variables});
        let mut call = Call::new(Method::POST, "/graphql").json(&body);
        if document.starts_with("query") {
            call = call.repeatable();
        }
        // The errors come first: with them, data is often null where it must not be.
        let answer: Answer<Value> = self.fetch(call).await?;
        if let Some(fault) = answer.errors.first() {
            return Err(self.told(fault));
        }
        let data = answer.data.unwrap_or_default();
        serde_json::from_value(data).map_err(|_| Error::new(SERVICE, Trouble::Malformed))
    }

    fn told(&self, fault: &Fault) -> Error {
        let trouble = match fault.kind.as_deref() {
            Some("NOT_FOUND") => Trouble::NotFound,
            Some("FORBIDDEN" | "INSUFFICIENT_SCOPES") => Trouble::Forbidden,
            Some("RATE_LIMITED" | "RATE_LIMIT") => Trouble::RateLimited(None),
            _ => Trouble::Refused,
        };
        failed(trouble, self.shown(&fault.message))
    }
}
