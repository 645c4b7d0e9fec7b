//! What a request asks of the operator's ceiling, told before anything runs.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{Catalogue, RemoteAddress, ResolveError, launch, remote};
use crate::domain::{
    egress::HostPattern,
    id::TemplateName,
    instance::InstanceSpec,
    sandbox::{Denial, Network},
    template::{Grant, Template, Transport},
    violation::{Violation, add_unless_covered},
};

impl Catalogue {
    /// What `settings` of a create request grant beyond the operator's ceiling, with pointers such as
    /// `/settings/folders`.
    #[must_use]
    pub fn check_grants(
        &self,
        template: &Template,
        settings: &BTreeMap<String, serde_json::Value>,
    ) -> Vec<Violation> {
        let denied = |at: launch::At, code: &str, why: String| {
            let entry = at.entry.map(|entry| format!("/{entry}"));
            let entry = entry.unwrap_or_default();
            Violation::new(format!("/settings/{}{entry}", at.setting), code, why)
        };
        let paths = launch::grants(template, settings).filter_map(|(at, path, access)| {
            let denial = self.ceiling.grants(&path, access).err()?;
            Some(denied(at, "not-granted", denial.to_string()))
        });
        let hosts = launch::hosts(template, settings).filter_map(|(at, rule)| match rule {
            Ok(rule) => {
                let denial = self.ceiling.opens(&rule).err()?.to_string();
                Some(denied(at, "not-granted", denial))
            }
            Err(fault) => Some(denied(at, "pattern", fault)),
        });
        let mut violations: Vec<Violation> = paths.chain(hosts).collect();
        if template.server.transport == Transport::Remote
            && let Err((pointer, why)) = self.check_remote(template, settings)
        {
            // What is no address at all was told above.
            add_unless_covered(
                &mut violations,
                [Violation::new(pointer, "not-granted", why)],
            );
        }
        violations
    }

    /// Whether the operator lets the server elsewhere of this template be reached, as far as that is known before its
    /// name is resolved; else a pointer to what names it, and why.
    fn check_remote(
        &self,
        template: &Template,
        settings: &BTreeMap<String, serde_json::Value>,
    ) -> Result<(), (String, String)> {
        if self.ceiling.widest_network < Network::AllowList {
            let denial = Denial::Network(Network::AllowList);
            return Err(("/template".to_owned(), denial.to_string()));
        }
        let named_by = template
            .settings
            .iter()
            .find(|setting| setting.grants == Some(Grant::Host));
        let pointer = named_by.map_or_else(
            || "/template".to_owned(),
            |setting| format!("/settings/{}", setting.name),
        );
        match remote::host(template, settings) {
            // What is missing is told by name elsewhere.
            None => Ok(()),
            Some(Err(_)) if named_by.is_none_or(|by| !settings.contains_key(&by.name)) => Ok(()),
            Some(Err(why)) => Err((pointer, format!("the URL {why}"))),
            Some(Ok(rule)) => {
                let denied = self.ceiling.reaches(&rule);
                denied.map_err(|denial| (pointer, denial.to_string()))
            }
        }
    }

    /// Where the server of an instance of the template `name` is, and what it is asked with; and what of the network
    /// that opens. `secrets`: the values of credentials by variable.
    ///
    /// # Errors
    /// [`ResolveError`]; the texts are fit for the instance's status.
    pub fn resolve_remote(
        &self,
        name: &TemplateName,
        spec: &InstanceSpec,
        secrets: &[(String, Zeroizing<String>)],
    ) -> Result<(RemoteAddress, Vec<HostPattern>), ResolveError> {
        let entry = self
            .get(name)
            .ok_or_else(|| ResolveError::UnknownTemplate(name.to_string()))?;
        let address = remote::resolve(&entry.template, spec, secrets)?;
        if self.ceiling.widest_network < Network::AllowList {
            let denial = Denial::Network(Network::AllowList);
            return Err(ResolveError::Denied(denial.to_string()));
        }
        Ok((address, self.ceiling.denied_hosts.clone()))
    }
}
