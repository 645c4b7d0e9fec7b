//! Who asks: the administrator token of `Authorization: Bearer`, or of the handshake of a WebSocket, and the
//! [`Principal`] every handler takes.

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, header, request::Parts};

use super::{
    AppState,
    error::{ApiError, Code},
    websocket,
};
use crate::{
    domain::{
        id::{DEFAULT_OWNER, OwnerId},
        principal::{Principal, Role},
    },
    secrets::AdminToken,
};

/// In whose name the holder of the administrator token acts, unless a request names another owner.
pub const ADMINISTRATOR: &str = DEFAULT_OWNER;

/// The principal of the administrator.
#[must_use]
pub fn administrator() -> Principal {
    Principal {
        owner: OwnerId::new(ADMINISTRATOR).expect("the constant is a valid owner"),
        role: Role::Administrator,
    }
}

/// Lets only a caller with the administrator token pass, and hands the handlers its [`Principal`].
/// The unix socket is no exception: file permissions are a second wall, not the only one.
pub async fn authenticate(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let principal = principal_of(request.headers(), &state.admin_token)?;
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

/// Compares hashes in constant time, so neither the token nor its length can be guessed by timing.
fn principal_of(headers: &HeaderMap, expected: &AdminToken) -> Result<Principal, ApiError> {
    let refuse = |why: &str| {
        ApiError::new(
            Code::Unauthenticated,
            format!(
                "{why}; send `Authorization: Bearer TOKEN` with the administrator token, which the daemon keeps in \
                 the file named by api.admin_token_file"
            ),
        )
    };
    // A page cannot send the header with a WebSocket.
    if websocket::is_wanted(headers)
        && !headers.contains_key(header::AUTHORIZATION)
        && let Some(token) = websocket::token(headers)
    {
        return match expected.verify(&token) {
            true => Ok(administrator()),
            false => Err(refuse("the token is not valid")),
        };
    }
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => return Err(refuse("there is no Authorization header")),
        (Some(_), Some(_)) => return Err(refuse("there is more than one Authorization header")),
    };
    let token = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| refuse("the Authorization header is not of the Bearer scheme"))?;
    if expected.verify(token) {
        Ok(administrator())
    } else {
        Err(refuse("the token is not valid"))
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = ApiError;

    /// What [`authenticate`] found. A route mounted without that layer answers 401 to everyone: it fails closed.
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::new(Code::Unauthenticated, "this route is not authenticated"))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_right_token_passes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("admin-token");
        let expected = AdminToken::load_or_create(&file).expect("a token");
        let text = std::fs::read_to_string(&file).expect("the file");
        let right = text.trim();
        let ask = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = HeaderValue::from_str(value).expect("a header value");
                headers.append(header::AUTHORIZATION, value);
            }
            principal_of(&headers, &expected)
        };
        let principal = ask(&[format!("Bearer {right}")]).expect("passes");
        assert_eq!(principal.owner.as_str(), ADMINISTRATOR);
        assert!(ask(&[format!("bearer  {right}")]).is_ok());
        let bearer = format!("Bearer {right}");
        for bad in [
            vec![],
            vec![String::new()],
            vec!["Bearer".to_owned()],
            vec!["Bearer ".to_owned()],
            vec![bearer[..bearer.len() - 1].to_owned()],
            vec![format!("{bearer}2")],
            vec![format!("Basic {right}")],
            vec![right.to_owned()],
            vec![bearer.clone(), bearer.clone()],
        ] {
            let error = ask(&bad).expect_err("refused");
            let problem = error.problem("r");
            assert_eq!(problem.status, 401, "{bad:?}");
            assert!(problem.detail.contains("Authorization: Bearer"));
            assert!(!problem.detail.contains("mmcp_admin"));
        }
    }
}
