//! What the server is told by its environment.

use minimcp_rest::{BaseUrl, Secret, variable};
use serde::Deserialize;

/// An OAuth client and the refresh token that a person gave it.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The client id; public.
    pub client_id: String,
    /// The client secret.
    pub client_secret: Secret,
    /// The refresh token.
    pub refresh_token: Secret,
}

/// What the server is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The credentials, or what is missing or wrong; then every tool says so.
    pub credentials: Result<Credentials, String>,
    /// The address of the Gmail API, or what is wrong with it.
    pub api: Result<BaseUrl, String>,
    /// Where access tokens are asked for, or what is wrong with that.
    pub token_uri: Result<BaseUrl, String>,
}

impl Settings {
    /// Reads `GMAIL_CREDENTIALS`, or `GMAIL_CLIENT_ID`, `GMAIL_CLIENT_SECRET` and `GMAIL_REFRESH_TOKEN`; and
    /// `GMAIL_API_BASE_URL` and `GOOGLE_TOKEN_URI`.
    #[must_use]
    pub fn from_environment() -> Self {
        let address = |name: &str, usual: &str| {
            let text = variable(name).unwrap_or_else(|| usual.to_owned());
            BaseUrl::new(&text).map_err(|error| format!("{name} {error}"))
        };
        Self {
            credentials: credentials(&variable),
            api: address("GMAIL_API_BASE_URL", "https://gmail.googleapis.com"),
            token_uri: address("GOOGLE_TOKEN_URI", "https://oauth2.googleapis.com/token"),
        }
    }
}
/// The content of an `authorized_user` file. Its `token_uri` is not read: where a secret is sent is the operator's
/// choice.
#[derive(Deserialize)]
struct AuthorizedUser {
    client_id: String,
    client_secret: String,
    refresh_token: String,
}

fn credentials(variable: &dyn Fn(&str) -> Option<String>) -> Result<Credentials, String> {
    if let Some(text) = variable("GMAIL_CREDENTIALS") {
        // The parser's own message could repeat a part of the secret.
        let user: AuthorizedUser = serde_json::from_str(&text).map_err(|_| {
            "The credential GMAIL_CREDENTIALS is not authorized_user JSON with client_id, client_secret and \
             refresh_token: ask the user to store it again"
                .to_owned()
        })?;
        return Ok(Credentials {
            client_id: user.client_id,
            client_secret: Secret::new(&user.client_secret),
            refresh_token: Secret::new(&user.refresh_token),
        });
    }
    let names = [
        "GMAIL_CLIENT_ID",
        "GMAIL_CLIENT_SECRET",
        "GMAIL_REFRESH_TOKEN",
    ];
    match names.map(variable) {
        [Some(client_id), Some(client_secret), Some(refresh_token)] => Ok(Credentials {
            client_id,
            client_secret: Secret::new(&client_secret),
            refresh_token: Secret::new(&refresh_token),
        }),
        found => {
            let missing: Vec<&str> = names
                .iter()
                .zip(&found)
                .filter(|(_, value)| value.is_none())
                .map(|(name, _)| *name)
                .collect();
            Err(format!(
                "No Gmail account is connected: ask the user to store authorized_user JSON as a credential, bind it to \
                 GMAIL_CREDENTIALS of this server, and restart it (or, instead of the JSON, what is missing: {})",
                missing.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_as_json_or_in_three_parts() {
        let json =
            r#"{"type":"authorized_user","client_id":"i","client_secret":"s","refresh_token":"r"}"#;
        let from_json = credentials(&|name| (name == "GMAIL_CREDENTIALS").then(|| json.to_owned()));
        assert_eq!(
            from_json.map(|c| c.refresh_token.expose().to_owned()),
            Ok("r".to_owned())
        );
        let from_parts =
            credentials(&|name| (name != "GMAIL_CREDENTIALS").then(|| name.to_owned()));
        assert_eq!(
            from_parts.map(|c| c.client_id),
            Ok("GMAIL_CLIENT_ID".to_owned())
        );
        let missing =
            credentials(&|name| (name == "GMAIL_CLIENT_ID").then(|| "x".to_owned())).map(drop);
        assert!(
            missing.is_err_and(|text| text.contains("GMAIL_CLIENT_SECRET, GMAIL_REFRESH_TOKEN"))
        );
        let broken = credentials(&|_| Some("top-secret".to_owned())).map(drop);
        assert!(broken.is_err_and(|text| !text.contains("top-secret")));
    }
}
