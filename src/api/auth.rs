//! Who asks: the administrator token of `Authorization: Bearer`, and the [`Principal`] every handler takes.

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, header, request::Parts};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    AppState,
    error::{ApiError, Code},
};
use crate::domain::{
    id::OwnerId,
    principal::{Principal, Role},
};

/// In whose name the holder of the administrator token acts.
pub const ADMINISTRATOR: &str = "admin";

/// The hash under which the administrator token is kept and compared: SHA-256 of its text.
#[must_use]
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

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
    let principal = principal_of(request.headers(), &state.admin_token_hash)?;
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

/// Compares hashes in constant time, so neither the token nor its length can be guessed by timing.
fn principal_of(headers: &HeaderMap, expected: &[u8; 32]) -> Result<Principal, ApiError> {
    let refuse = |why: &str| {
        ApiError::new(
            Code::Unauthenticated,
            format!(
                "{why}; send `Authorization: Bearer TOKEN` with the administrator token, which the daemon keeps in \
                 the file named by api.admin_token_file"
            ),
        )
    };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refuse("there is no single Authorization header"));
    };
    let token = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| refuse("the Authorization header is not of the Bearer scheme"))?;
    if bool::from(token_hash(token).ct_eq(expected)) {
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

    fn ask(values: &[&'static str]) -> Result<Principal, ApiError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        principal_of(&headers, &token_hash("mmcp_admin_right"))
    }

    #[test]
    fn only_the_right_token_passes() {
        let principal = ask(&["Bearer mmcp_admin_right"]).expect("passes");
        assert_eq!(principal.owner.as_str(), ADMINISTRATOR);
        assert!(ask(&["bearer  mmcp_admin_right"]).is_ok());
        for bad in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer mmcp_admin_righ"],
            &["Bearer mmcp_admin_right2"],
            &["Basic mmcp_admin_right"],
            &["mmcp_admin_right"],
            &["Bearer mmcp_admin_right", "Bearer mmcp_admin_right"],
        ] {
            let error = ask(bad).expect_err("refused");
            let problem = error.problem("r");
            assert_eq!(problem.status, 401, "{bad:?}");
            assert!(problem.detail.contains("Authorization: Bearer"), "{bad:?}");
            assert!(!problem.detail.contains("mmcp_admin"), "{bad:?}");
        }
    }
}
