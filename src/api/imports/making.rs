//! Makes what was planned: the template, then the credentials, then the instance.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use zeroize::Zeroizing;

use super::{
    super::AppState,
    Asked,
    planning::{self, Planned},
};
use crate::{
    api::{error::ApiError, shown::Shown, view},
    domain::{
        id::{CredentialName, TemplateName},
        principal::Principal,
    },
    interchange::Draft,
    supervisor::CreateRequest,
    templates::Place,
    wire::{ImportedCredential, ImportedServer, Instance},
};

/// Names that are tried for one credential.
const NAMES_TRIED: u32 = 50;

pub(super) async fn make(
    state: &AppState,
    who: &Principal,
    asked: &Asked,
    planned: Planned,
    taken: &mut BTreeSet<TemplateName>,
) -> ImportedServer {
    let mut made = ImportedServer {
        server: planned.server,
        ..ImportedServer::default()
    };
    let refused = |mut made: ImportedServer, reason: String| {
        made.outcome = "refused".to_owned();
        made.reason = Some(reason);
        made
    };
    let Some(draft) = planned.draft else {
        return refused(made, planned.release.err().unwrap_or_default());
    };
    made.notes.clone_from(&draft.notes);
    made.credentials = draft
        .credentials
        .iter()
        .map(|credential| ImportedCredential {
            variable: credential.name.to_string(),
            required: credential.required,
            in_file: credential.value.is_some(),
            credential: None,
        })
        .collect();
    let place = match planned.release {
        Ok(release) => planning::place(state, asked, &draft, release, taken).await,
        Err(reason) => Err(reason),
    };
    let place = match place {
        Ok(place) => place,
        Err(reason) => return refused(made, reason),
    };
    taken.insert(place.name.clone());
    made.template = Some(place.name.to_string());
    if place.name != draft.name {
        let wanted = &draft.name;
        made.notes.push(format!(
            "there is a template {wanted} already, which is another"
        ));
    }
    made.manifest = Some(place.text.clone());
    let outcome = match (place.is_there, asked.dry_run) {
        (true, _) => "unchanged",
        (false, true) => "would-create",
        (false, false) => {
            let (templates, place) = (Arc::clone(&state.templates), place.clone());
            let written = tokio::task::spawn_blocking(move || templates.add_imported(&place)).await;
            match written.unwrap_or_else(|_| Err("it could not be written".to_owned())) {
                Ok(()) => "created",
                Err(reason) => return refused(made, reason),
            }
        }
    };
    made.outcome = outcome.to_owned();
    if asked.start && !asked.dry_run && !draft.disabled {
        match start(state, who, &draft, &place, &mut made.credentials).await {
            Ok(instance) => made.instance = Some(instance),
            Err(reason) => made.reason = Some(format!("no instance was made: {reason}")),
        }
    }
    made
}

/// Stores the secrets of the file and makes an instance of the template.
async fn start(
    state: &AppState,
    who: &Principal,
    draft: &Draft,
    place: &Place,
    told: &mut [ImportedCredential],
) -> Result<Instance, String> {
    let missing: Vec<String> = (draft.credentials.iter())
        .filter(|credential| credential.required && credential.value.is_none())
        .map(|credential| format!("the credential {}", credential.name))
        .chain(
            (draft.settings.iter())
                .filter(|setting| setting.required && setting.default.is_none())
                .map(|setting| format!("the setting {}", setting.name)),
        )
        .collect();
    if !missing.is_empty() {
        return Err(format!(
            "the file does not hold {}; give it with `minimcp run {}`",
            missing.join(", "),
            place.name
        ));
    }
    let mut stored = Vec::new();
    let made = bind(state, who, draft, place, &mut stored).await;
    if made.is_err() {
        // Secrets without an instance would only lie about.
        for (_, name) in stored.iter().filter(|(is_new, _)| *is_new) {
            let _ = state.store.delete_credential(&who.owner, name).await;
        }
    } else {
        let told = told.iter_mut().filter(|told| told.in_file);
        for ((_, name), told) in stored.iter().zip(told) {
            told.credential = Some(name.to_string());
        }
    }
    made.map_err(|error| sentence(&error))
}

/// Each credential in `stored`, with whether it is new, in the order of those that have a value.
async fn bind(
    state: &AppState,
    who: &Principal,
    draft: &Draft,
    place: &Place,
    stored: &mut Vec<(bool, CredentialName)>,
) -> Result<Instance, ApiError> {
    let mut credentials = BTreeMap::new();
    for credential in &draft.credentials {
        let Some(value) = &credential.value else {
            continue;
        };
        let wanted = format!("{}.{}", place.name, credential.name);
        let (is_new, name) = store(state, who, &wanted, value).await?;
        credentials.insert(credential.name.to_string(), name.to_string());
        stored.push((is_new, name));
    }
    let request = CreateRequest {
        template: place.name.to_string(),
        name: Some(draft.name.to_string()),
        ttl: None,
        credentials,
        settings: BTreeMap::new(),
        labels: BTreeMap::new(),
        freeze_after: None,
        sleep_after: None,
        force: false,
    };
    let granted = state.supervisor.create(who, request).await?;
    let shown = Shown::granted(&granted, &granted.status);
    shown
        .read()
        .map_err(|error| ApiError::internal(error.to_string()))
}

/// Stores a secret under a free name, or finds the credential that holds it already; the first is whether it is new.
async fn store(
    state: &AppState,
    who: &Principal,
    wanted: &str,
    value: &Zeroizing<String>,
) -> Result<(bool, CredentialName), ApiError> {
    let wanted: String = wanted.chars().take(95).collect();
    for number in 1..=NAMES_TRIED {
        let name = match number {
            1 => CredentialName::new(wanted.clone()),
            _ => CredentialName::new(format!("{wanted}-{number}")),
        };
        let name = name.map_err(|error| ApiError::internal(error.to_string()))?;
        match state.store.credential(&who.owner, &name).await? {
            None => {
                let sealed = state.keys.seal(&who.owner, &name, value.as_bytes())?;
                let now = view::now_ms();
                state
                    .store
                    .put_credential(&who.owner, &name, &sealed, now)
                    .await?;
                return Ok((true, name));
            }
            Some(row) => {
                let there = state.keys.open(&who.owner, &name, &row.sealed);
                let same = |there: &Zeroizing<String>| {
                    bool::from(subtle::ConstantTimeEq::ct_eq(
                        there.as_bytes(),
                        value.as_bytes(),
                    ))
                };
                if there.as_ref().is_ok_and(same) {
                    return Ok((false, name));
                }
            }
        }
    }
    Err(ApiError::new(
        crate::api::error::Code::NameTaken,
        format!(
            "credentials of {NAMES_TRIED} names like {wanted} are there already, with other values"
        ),
    ))
}

/// A refusal in one sentence, with every fault.
fn sentence(error: &ApiError) -> String {
    let problem = error.problem("");
    if let Some(internal) = error.internal_text() {
        tracing::error!(code = problem.code, "{internal}");
    }
    if problem.violations.is_empty() {
        return problem.detail;
    }
    let faults: Vec<String> = problem
        .violations
        .iter()
        .map(|fault| {
            format!(
                "{}: {}",
                fault.pointer.as_deref().unwrap_or_default(),
                fault.message
            )
        })
        .collect();
    faults.join("; ")
}
