//! Which instances are bound to a credential, and how it must look for them.

use super::Supervisor;
use crate::{
    domain::{id::CredentialName, principal::Principal},
    templates,
};

impl Supervisor {
    /// The names of the caller's instances that are bound to a credential, whatever their state, oldest first.
    #[must_use]
    pub fn users_of(&self, who: &Principal, credential: &CredentialName) -> Vec<String> {
        let all = self.context().registry.after(None);
        let users = all.iter().filter_map(|(_, handle)| {
            let record = &handle.status.borrow().record;
            let bound = record
                .spec
                .credentials
                .values()
                .any(|name| name == credential);
            (record.owner == who.owner && bound).then(|| record.name.to_string())
        });
        users.collect()
    }

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
