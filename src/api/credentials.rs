//! `/credentials`: secrets of an owner, sealed at rest, bound to instances by name, never read back.

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use zeroize::Zeroizing;

use super::{
    AppState,
    error::{ApiError, Code},
    extract::{Field, Json, PathParam, Query, RequestBody, Shape, optional, required},
    instances::page_limit,
    view,
};
use crate::{
    domain::{
        id::{CredentialName, OwnerId},
        principal::Principal,
        violation::Violation,
    },
    wire::{Credential, Page, Problem, PutCredential, ReplaceCredential},
};

/// Largest value in bytes: it becomes an environment variable, and the kernel takes 128 KiB for one (execve(2)).
const VALUE_BYTES_MAX: usize = 64 << 10;

/// The answer for one page of credentials.
pub type CredentialPage = Page<Credential>;

impl RequestBody for PutCredential {
    const FIELDS: &'static [Field] = &[
        required("name", Shape::Text),
        required("value", Shape::Text),
    ];
}

impl RequestBody for ReplaceCredential {
    const FIELDS: &'static [Field] = &[
        optional("name", Shape::Text),
        required("value", Shape::Text),
    ];
}

/// Query of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CredentialQuery {
    /// Only credentials of this owner.
    owner: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Entries of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

fn not_found(name: &str) -> ApiError {
    let shown: String = name.chars().take(100).collect();
    ApiError::new(Code::NotFound, format!("you have no credential {shown:?}"))
}

/// Checks name and value and lists the faults of both.
fn check(name: &str, value: &str) -> Result<CredentialName, ApiError> {
    let mut violations = Vec::new();
    let name = CredentialName::new(name);
    if let Err(error) = &name {
        violations.push(Violation::new("/name", "pattern", error.to_string()));
    }
    if !(1..=VALUE_BYTES_MAX).contains(&value.len()) {
        let message = format!("value must hold 1 to {VALUE_BYTES_MAX} bytes");
        violations.push(Violation::new("/value", "out-of-range", message));
    }
    if value.contains('\0') {
        let message = "value must not hold a NUL character: no environment variable can";
        violations.push(Violation::new("/value", "pattern", message));
    }
    match (name, violations.is_empty()) {
        (Ok(name), true) => Ok(name),
        _ => Err(ApiError::invalid(violations)),
    }
}

async fn put(
    state: &AppState,
    who: &Principal,
    name: &str,
    value: Zeroizing<String>,
) -> Result<(StatusCode, axum::Json<Credential>), ApiError> {
    let name = check(name, &value)?;
    let known = state.store.credential(&who.owner, &name).await?;
    let sealed = state.keys.seal(&who.owner, &name, value.as_bytes())?;
    let now = view::now_ms();
    state
        .store
        .put_credential(&who.owner, &name, &sealed, now)
        .await?;
    let shown = Credential {
        name: name.to_string(),
        owner: who.owner.to_string(),
        key_id: sealed.key_id,
        created_at: view::time(known.as_ref().map_or(now, |row| row.created_at)),
        updated_at: view::time(now),
    };
    let status = if known.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, axum::Json(shown)))
}

/// Stores a secret, in place of the one of this name if there is one.
///
/// Instances that run keep the old value until their next launch.
#[utoipa::path(
    post, path = "/credentials", tag = "credentials",
    request_body(content = PutCredential, example = json!({"name": "github-work", "value": "ghp_…"})),
    responses(
        (status = 200, description = "Replaced", body = Credential),
        (status = 201, description = "Stored", body = Credential),
    )
)]
pub async fn create(
    who: Principal,
    State(state): State<AppState>,
    Json(body): Json<PutCredential>,
) -> Result<(StatusCode, axum::Json<Credential>), ApiError> {
    put(&state, &who, &body.name, Zeroizing::new(body.value)).await
}

/// Stores or rotates the secret of this name.
///
/// Instances that run keep the old value until their next launch.
#[utoipa::path(
    put, path = "/credentials/{name}", tag = "credentials", params(("name" = String, Path, description = "Its name")),
    request_body(content = ReplaceCredential, example = json!({"value": "ghp_…"})),
    responses(
        (status = 200, description = "Replaced", body = Credential),
        (status = 201, description = "Stored", body = Credential),
    )
)]
pub async fn replace(
    who: Principal,
    State(state): State<AppState>,
    PathParam(name): PathParam,
    Json(body): Json<ReplaceCredential>,
) -> Result<(StatusCode, axum::Json<Credential>), ApiError> {
    let value = Zeroizing::new(body.value);
    if body.name.is_some_and(|given| given != name) {
        let message = "name must be the one in the path, or absent";
        let violation = Violation::new("/name", "mismatch", message);
        return Err(ApiError::invalid(vec![violation]));
    }
    put(&state, &who, &name, value).await
}

/// Lists credentials by owner and name, without their values.
#[utoipa::path(
    get, path = "/credentials", tag = "credentials", params(CredentialQuery),
    responses((status = 200, description = "One page", body = Page<Credential>))
)]
pub async fn list(
    _who: Principal,
    State(state): State<AppState>,
    Query(query): Query<CredentialQuery>,
) -> Result<axum::Json<CredentialPage>, ApiError> {
    let limit = page_limit(query.limit)?;
    let owner = query
        .owner
        .map(OwnerId::new)
        .transpose()
        .map_err(|error| ApiError::new(Code::InvalidQuery, error.to_string()))?;
    let after = match query.cursor.as_deref().map(|cursor| cursor.split_once('/')) {
        None => None,
        Some(Some((owner, name))) => Some((owner.to_owned(), name.to_owned())),
        Some(None) => {
            let text = "cursor is not one that a list of credentials gave";
            return Err(ApiError::new(Code::InvalidQuery, text));
        }
    };
    let mut rows = state.store.credentials(owner.as_ref()).await?;
    // The database's collation may differ from ours; the cursor needs one order.
    rows.sort_by(|a, b| {
        (a.owner.as_str(), a.name.as_str()).cmp(&(b.owner.as_str(), b.name.as_str()))
    });
    rows.retain(|row| {
        after.as_ref().is_none_or(|(owner, name)| {
            (row.owner.as_str(), row.name.as_str()) > (owner.as_str(), name.as_str())
        })
    });
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows
        .last()
        .filter(|_| more)
        .map(|row| format!("{}/{}", row.owner, row.name));
    let items = rows
        .into_iter()
        .map(|row| Credential {
            name: row.name.to_string(),
            owner: row.owner.to_string(),
            key_id: row.key_id,
            created_at: view::time(row.created_at),
            updated_at: view::time(row.updated_at),
        })
        .collect();
    Ok(axum::Json(Page { items, next_cursor }))
}

/// Deletes a credential; the next launch of an instance that is bound to it fails and says so.
#[utoipa::path(
    delete, path = "/credentials/{name}", tag = "credentials", params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 204, description = "Gone"),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete(
    who: Principal,
    State(state): State<AppState>,
    PathParam(name): PathParam,
) -> Result<StatusCode, ApiError> {
    let checked = CredentialName::new(name.as_str()).map_err(|_| not_found(&name))?;
    if state.store.delete_credential(&who.owner, &checked).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(not_found(&name))
    }
}
