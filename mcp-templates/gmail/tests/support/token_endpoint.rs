//! A fake of Google's token endpoint (RFC 6749 section 6).

use std::sync::{Arc, Mutex};

use axum::{
    Form, Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::json;

/// What the token endpoint gave: only the newest access token is good, for what the user consented to.
#[derive(Default)]
pub struct SignIn {
    pub tokens: u32,
    /// Space-separated scopes.
    pub scope: String,
    /// Whether the answer tells the scope; RFC 6749 lets it be left out.
    pub tells_scope: bool,
}

pub type SharedSignIn = Arc<Mutex<SignIn>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenForm {
    grant_type: String,
    client_id: String,
    client_secret: String,
    refresh_token: String,
}

async fn token(State(sign_in): State<SharedSignIn>, Form(form): Form<TokenForm>) -> Response {
    let refused = |error: &str| {
        let body = json!({"error": error, "error_description": "Bad Request"});
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    };
    if form.grant_type != "refresh_token" {
        return refused("unsupported_grant_type");
    }
    if form.client_id != "client-1" || form.client_secret != "client-SECRET" {
        let body = json!({"error": "invalid_client", "error_description": "Unauthorized"});
        return (StatusCode::UNAUTHORIZED, Json(body)).into_response();
    }
    if form.refresh_token != "1//refresh-SECRET" {
        return refused("invalid_grant");
    }
    let mut sign_in = sign_in.lock().expect("whole");
    sign_in.tokens += 1;
    let mut answer = json!({"access_token": format!("ya29.SECRET-{}", sign_in.tokens), "expires_in": 3599,
        "token_type": "Bearer"});
    if sign_in.tells_scope {
        answer["scope"] = json!(sign_in.scope);
    }
    Json(answer).into_response()
}

/// The token endpoint, at `/token`.
pub fn sign_in(shared: SharedSignIn) -> Router {
    Router::new()
        .route("/token", post(token))
        .with_state(shared)
}
