//! Access tokens by OAuth 2.0 refresh (RFC 6749 section 6): cached, renewed before they expire, one refresh at a time,
//! and given up on when the refresh token is dead.

use std::time::Duration;

use minimcp_rest::{BaseUrl, Call, Client, ClientSpec, Error, Method, Secret, Trouble};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    Credentials,
    scopes::{Granted, Need},
    server::SERVICE,
};

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
        /// What the token may do, when Google told it.
        granted: Option<Granted>,
    },
    /// The refresh token or the client is not accepted; asking again would only draw attention.
    Dead(&'static str),
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default = "one_hour")]
    expires_in: u64,
    scope: Option<String>,
}

fn one_hour() -> u64 {
    3_600
}

impl TokenSource {
    pub(crate) fn new(token_uri: BaseUrl, credentials: Credentials) -> Self {
        let mut spec = ClientSpec::new("Google's sign-in", token_uri);
        spec.body_bytes_max = 64 * 1024;
        spec.timeout = Duration::from_secs(15);
        Self {
            client: Client::new(spec),
            credentials,
            state: Mutex::new(State::Empty),
        }
    }

    /// An access token that is good for a minute at least and covers `need`, as far as Google told. Calls that come
    /// while one is asked for wait for it.
    pub(crate) async fn token(&self, need: Need) -> Result<Secret, Error> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Held {
                token,
                until,
                granted,
            } if Instant::now() < *until => return covered(token, granted.as_ref(), need),
            State::Dead(why) => return Err(connect_again(why)),
            _ => {}
        }
        let asked = Instant::now();
        let answer: TokenAnswer = match self.client.send(self.refresh()).await {
            Ok(answer) => answer.json()?,
            Err(mut error) => {
                error.failure.maybe_done = false;
                if let Some(why) = dead(&error) {
                    *state = State::Dead(why);
                    return Err(connect_again(why));
                }
                return Err(error);
            }
        };
        let token = Secret::new(&answer.access_token);
        let granted = answer.scope.as_deref().map(Granted::new);
        let outcome = covered(&token, granted.as_ref(), need);
        let lifetime = Duration::from_secs(answer.expires_in.min(86_400)).saturating_sub(MARGIN);
        *state = State::Held {
            token,
            until: asked + lifetime,
            granted,
        };
        outcome
    }

    /// The call for a new access token. Sent twice it gives two tokens, of which one is forgotten: it may be repeated.
    fn refresh(&self) -> Call {
        let Credentials {
            client_id,
            client_secret,
            refresh_token,
        } = &self.credentials;
        Call::new(Method::POST, "")
            .hide(client_secret.clone())
            .hide(refresh_token.clone())
            .form(vec![
                ("grant_type", "refresh_token".to_owned()),
                ("client_id", client_id.clone()),
                ("client_secret", client_secret.expose().to_owned()),
                ("refresh_token", refresh_token.expose().to_owned()),
            ])
            .repeatable()
    }

    /// Forgets `token`, which Gmail did not accept, unless it was renewed meanwhile.
    pub(crate) async fn discard(&self, token: &Secret) {
        let mut state = self.state.lock().await;
        if matches!(&*state, State::Held { token: held, .. } if held.expose() == token.expose()) {
            *state = State::Empty;
        }
    }
}

fn covered(token: &Secret, granted: Option<&Granted>, need: Need) -> Result<Secret, Error> {
    match granted.and_then(|granted| granted.missing(need)) {
        Some(missing) => Err(Error::new(SERVICE, Trouble::NotConfigured(missing))),
        None => Ok(token.clone()),
    }
}

/// Why asking again is of no use, for a failure that will not pass (RFC 6749 section 5.2).
fn dead(error: &Error) -> Option<&'static str> {
    match (error.failure.status?, error.failure.reason.as_deref()) {
        (400, Some("invalid_grant")) => {
            Some("its refresh token expired, was revoked, or belongs to another client")
        }
        (400 | 401 | 403, Some("invalid_client" | "unauthorized_client" | "deleted_client")) => {
            Some("its OAuth client id or secret is wrong, or the client was deleted")
        }
        (400 | 401, _) => Some("the refresh was refused"),
        _ => None,
    }
}

fn connect_again(why: &str) -> Error {
    let message = format!(
        "Google no longer accepts the sign-in of this account: {why}. Do not try again: ask the user to connect the \
         Gmail account again, to store the new credentials and to restart this server"
    );
    Error::new(SERVICE, Trouble::NotConfigured(message))
}
