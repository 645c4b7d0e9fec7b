//! `/credentials`: secrets of an owner, sealed at rest, bound to instances by name, never read back.

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use zeroize::Zeroizing;

use super::{
    AppState,
    error::{ApiError, Code},
    extract::{Faults, Json, PathParam, Query},
    instances::page_limit,
    owners, view,
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

fn not_found(who: &Principal, name: &str) -> ApiError {
    let shown: String = name.chars().take(100).collect();
    let text = format!("{} no credential {shown:?}", who.has());
    ApiError::new(Code::NotFound, text)
}

/// Checks name and value and adds the faults of both.
fn check(name: &str, value: &str, mut faults: Faults) -> Result<CredentialName, ApiError> {
    let name = CredentialName::new(name)
        .map_err(|error| Violation::new("/name", "pattern", error.to_string()));
    let name = faults.take(name);
    let mut found = Vec::new();
    if !(1..=VALUE_BYTES_MAX).contains(&value.len()) {
        let message = format!("value must hold 1 to {VALUE_BYTES_MAX} bytes");
        found.push(Violation::new("/value", "out-of-range", message));
    }
    if value.contains('\0') {
        let message = "value must not hold a NUL character: no environment variable can";
        found.push(Violation::new("/value", "pattern", message));
    }
    faults.add(found);
    faults.refuse()?;
    name.ok_or_else(|| ApiError::internal("a name without a fault was not read"))
}

async fn put(
    state: &AppState,
    who: &Principal,
    name: &str,
    value: Zeroizing<String>,
    force: bool,
    faults: Faults,
) -> Result<(StatusCode, axum::Json<Credential>), ApiError> {
    let name = check(name, &value, faults)?;
    if !force && let Some(message) = state.supervisor.unlike_for_users(who, &name, &value) {
        let mut faults = Faults::default();
        faults.add([Violation::new("/value", "pattern", message)]);
        faults.refuse()?;
    }
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

/// Query of a value that is stored.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PutQuery {
    /// `true`: even when it does not look as the template of an instance wants that is bound to this name.
    force: Option<bool>,
}

/// Stores a secret, in place of the one of this name if there is one.
///
/// Instances that run keep the old value until their next launch.
#[utoipa::path(
    post, path = "/credentials", tag = "credentials", params(PutQuery),
    request_body(content = PutCredential, example = json!({"name": "github-work", "value": "ghp_…"})),
    responses(
        (status = 200, description = "Replaced", body = Credential),
        (status = 201, description = "Stored", body = Credential),
    )
)]
pub async fn create(
    who: Principal,
    State(state): State<AppState>,
    Query(query, mut faults): Query<PutQuery>,
    Json(body, of_body): Json<PutCredential>,
) -> Result<(StatusCode, axum::Json<Credential>), ApiError> {
    let value = Zeroizing::new(body.value);
    faults.join(of_body);
    let who = owners::acting(who, body.owner, &mut faults)?;
    let force = query.force.unwrap_or(false);
    put(&state, &who, &body.name, value, force, faults).await
}

/// Stores or rotates the secret of this name.
///
/// Instances that run keep the old value until their next launch.
#[utoipa::path(
    put, path = "/credentials/{name}", tag = "credentials", params(("name" = String, Path, description = "Its name"), PutQuery),
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
    Query(query, mut faults): Query<PutQuery>,
    Json(body, of_body): Json<ReplaceCredential>,
) -> Result<(StatusCode, axum::Json<Credential>), ApiError> {
    let value = Zeroizing::new(body.value);
    faults.join(of_body);
    let who = owners::acting(who, body.owner, &mut faults)?;
    let force = query.force.unwrap_or(false);
    if body.name.is_some_and(|given| given != name) {
        let message = "name must be the one in the path, or absent";
        faults.add([Violation::new("/name", "mismatch", message)]);
    }
    put(&state, &who, &name, value, force, faults).await
}

/// Lists credentials by owner and name, without their values.
#[utoipa::path(
    get, path = "/credentials", tag = "credentials", params(CredentialQuery),
    responses((status = 200, description = "One page", body = Page<Credential>))
)]
pub async fn list(
    _who: Principal,
    State(state): State<AppState>,
    Query(query, mut faults): Query<CredentialQuery>,
) -> Result<axum::Json<CredentialPage>, ApiError> {
    let limit = page_limit(query.limit, &mut faults);
    let wrong = |name: &str, message: String| Violation::of_parameter(name, "pattern", message);
    let owner = query.owner.map(OwnerId::new).transpose();
    let owner = faults.take(owner.map_err(|error| wrong("owner", error.to_string())));
    let after = match query.cursor.as_deref().map(|cursor| cursor.split_once('/')) {
        None => Ok(None),
        Some(Some((owner, name))) => Ok(Some((owner.to_owned(), name.to_owned()))),
        Some(None) => {
            let text = "cursor is not one that a list of credentials gave";
            Err(wrong("cursor", text.to_owned()))
        }
    };
    let after = faults.take(after).flatten();
    faults.refuse()?;
    let owner = owner.flatten();
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

/// Query of a deletion.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// `true`: even when instances use it.
    force: Option<bool>,
    /// Whose it is; absent: of `admin`.
    owner: Option<String>,
}

/// Instances that are named in a refusal.
const NAMED_MAX: usize = 5;

/// Refuses the deletion of what instances would miss at their next launch.
fn check_unused(state: &AppState, who: &Principal, name: &CredentialName) -> Result<(), ApiError> {
    let users = state.supervisor.users_of(who, name);
    let Some(first) = users.first() else {
        return Ok(());
    };
    let by = match users.len() {
        1 => format!("the instance {first}"),
        many => {
            let shown = users[..many.min(NAMED_MAX)].join(", ");
            let more = if many > NAMED_MAX { ", …" } else { "" };
            format!("{many} instances ({shown}{more})")
        }
    };
    let text = format!(
        "the credential {name} is used by {by}, whose next launch would fail without it; force deletes it all the same"
    );
    Err(ApiError::new(Code::CredentialInUse, text))
}

/// Deletes a credential. One that instances use, stopped and expired ones too, is deleted only with `force=true`; their
/// next launch fails then and says so.
#[utoipa::path(
    delete, path = "/credentials/{name}", tag = "credentials",
    params(("name" = String, Path, description = "Its name"), DeleteQuery),
    responses(
        (status = 204, description = "Gone"),
        (status = 409, description = "`credential-in-use`: by the instances that are named", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete(
    who: Principal,
    State(state): State<AppState>,
    PathParam(name): PathParam,
    Query(query, mut faults): Query<DeleteQuery>,
) -> Result<StatusCode, ApiError> {
    let who = owners::acting_by_query(who, query.owner, &mut faults)?;
    faults.refuse()?;
    let checked = CredentialName::new(name.as_str()).map_err(|_| not_found(&who, &name))?;
    if !query.force.unwrap_or(false) {
        // Instances may be bound to what was deleted before.
        let known = state.store.credential(&who.owner, &checked).await?;
        known.ok_or_else(|| not_found(&who, &name))?;
        check_unused(&state, &who, &checked)?;
    }
    if state.store.delete_credential(&who.owner, &checked).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(not_found(&who, &name))
    }
}
