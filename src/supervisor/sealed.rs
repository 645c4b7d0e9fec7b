//! The credentials of an instance: read sealed from the store, opened for a launch.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{Context, launch::not_started};
use crate::{
    domain::{credential::SealedSecret, exit::ExitStatus, id::EnvName, instance::InstanceRecord},
    store::StoreError,
};

/// Sealed credentials as last read, so that a restart needs no database.
pub(super) type SealedByVariable = BTreeMap<EnvName, SealedSecret>;

/// The sealed credentials of an instance; those known from an earlier launch serve while the store is away.
pub(super) async fn read_sealed(
    context: &Context,
    record: &InstanceRecord,
    known: SealedByVariable,
) -> Result<SealedByVariable, ExitStatus> {
    let mut sealed = SealedByVariable::new();
    for (variable, name) in &record.spec.credentials {
        match context.store.credential(&record.owner, name).await {
            Ok(Some(row)) => {
                sealed.insert(variable.clone(), row.sealed);
            }
            Ok(None) => {
                return Err(not_started(format!(
                    "its credential {name} for {variable} is not there any more"
                )));
            }
            Err(StoreError::Unavailable(_)) if known.contains_key(variable) => return Ok(known),
            Err(error) => {
                return Err(not_started(format!(
                    "its credential {name} cannot be read: {error}"
                )));
            }
        }
    }
    Ok(sealed)
}

pub(super) fn open_all(
    context: &Context,
    record: &InstanceRecord,
    sealed: &SealedByVariable,
) -> Result<Vec<(String, Zeroizing<String>)>, ExitStatus> {
    let mut secrets = Vec::with_capacity(sealed.len());
    for (variable, secret) in sealed {
        let Some(name) = record.spec.credentials.get(variable) else {
            continue;
        };
        let value = context
            .keys
            .open(&record.owner, name, secret)
            .map_err(|error| {
                not_started(format!("its credential {name} cannot be opened: {error}"))
            })?;
        secrets.push((variable.to_string(), value));
    }
    Ok(secrets)
}
