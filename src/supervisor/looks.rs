//! How a credential must look for the instances that are bound to it.

use super::Supervisor;
use crate::{
    domain::{id::CredentialName, principal::Principal},
    templates,
};

impl Supervisor {
    /// Why `value` is not what an instance of the caller wants of the credential that it is bound to, in a sentence that
    /// names the instance and not the value. `None`: nothing speaks against it.
    #[must_use]
    pub fn unlike_for_users(
        &self,
        who: &Principal,
        credential: &CredentialName,
        value: &str,
    ) -> Option<String> {
        let all = self.context().registry.after(None);
        all.iter().find_map(|(_, handle)| {
            let status = handle.status.borrow();
            let record = &status.record;
            if record.owner != who.owner {
                return None;
            }
            let entry = self.context().catalogue.get(&record.template)?;
            let mut specs = entry.template.credentials.iter();
            let sentence = specs.find_map(|spec| {
                let bound = record.spec.credentials.get(&spec.name) == Some(credential);
                bound.then(|| templates::unlike(spec, value)).flatten()
            })?;
            Some(format!(
                "value does not look right for the instance {}: {sentence}; if it is all the same, say force",
                record.name
            ))
        })
    }
}
