//! Access tokens by OAuth 2.0 refresh (RFC 6749 section 6): cached, renewed before they expire, and given up on when
//! the refresh token is dead.

use std::time::Duration;

use minimcp_rest::{BaseUrl, Call, Client, ClientSpec, Error, Method, Secret, Trouble};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use crate::{Credentials, server::SERVICE};

/// A token is renewed so long before it expires, so that it does not expire on its way.
const MARGIN: Duration = Duration::from_secs(60);

/// Gives access tokens.
pub(crate) struct TokenSource {
    client: Client,
    credentials: Credentials,
    state: Mutex<State>,
}

enum State {
    Empty,
    Held {
        token: Secret,
        until: Instant,
    },
    /// The refresh token is dead; asking again would only draw attention.
    Dead,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default = "one_hour")]
    expires_in: u64,
}

fn one_hour() -> u64 {
    3_600
}

impl TokenSource {
    pub(crate) fn new(token_uri: BaseUrl, credentials: Credentials) -> Self {
        let mut spec = ClientSpec::new("Google's sign-in", token_uri);
        spec.body_bytes_max = 64 * 1024;
        Self {
            client: Client::new(spec),
            credentials,
            state: Mutex::new(State::Empty),
        }
    }

    /// An access token that is good for a minute at least. Calls that come while one is asked for wait for it.
    pub(crate) async fn token(&self) -> Result<Secret, Error> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Held { token, until } if Instant::now() < *until => return Ok(token.clone()),
            State::Dead => return Err(connect_again()),
            _ => {}
        }
        let asked = Instant::now();
        let call = Call::new(Method::POST, "")
            .hide(self.credentials.client_secret.clone())
            .hide(self.credentials.refresh_token.clone())
            .form(vec![
                ("grant_type", "refresh_token".to_owned()),
                ("client_id", self.credentials.client_id.clone()),
                (
                    "client_secret",
                    self.credentials.client_secret.expose().to_owned(),
                ),
                (
                    "refresh_token",
                    self.credentials.refresh_token.expose().to_owned(),
                ),
            ]);
        let answer: TokenAnswer = match self.client.send(call).await {
            Ok(answer) => answer.json()?,
            // Google answers 400 invalid_grant to a dead refresh token, 401 invalid_client to a wrong client.
            Err(error) if matches!(error.failure.status, Some(400 | 401)) => {
                *state = State::Dead;
                return Err(connect_again());
            }
            Err(mut error) => {
                error.failure.maybe_done = false;
                return Err(error);
            }
        };
        let token = Secret::new(&answer.access_token);
        let lifetime = Duration::from_secs(answer.expires_in.min(86_400)).saturating_sub(MARGIN);
        *state = State::Held {
            token: token.clone(),
            until: asked + lifetime,
        };
        Ok(token)
    }

    /// Forgets `token`, which Gmail did not accept, unless it was renewed meanwhile.
    pub(crate) async fn discard(&self, token: &Secret) {
        let mut state = self.state.lock().await;
        if matches!(&*state, State::Held { token: held, .. } if held.expose() == token.expose()) {
            *state = State::Empty;
        }
    }
}

fn connect_again() -> Error {
    let message = "Google no longer accepts the sign-in of this account (it expired, was revoked, or belongs to \
                   another client). Do not try again: ask the user to connect the Gmail account again, store the new \
                   credentials and restart this server";
    Error::new(SERVICE, Trouble::NotConfigured(message.to_owned()))
}
