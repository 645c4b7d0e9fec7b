//! The network's part of the policy of [`super::sandbox`].

use super::{
    egress::{Catch, Egress, HostPattern, HostRule},
    sandbox::{Ceiling, Denial, Network, SandboxSpec},
};

impl Ceiling {
    /// Whether a host may be named.
    ///
    /// # Errors
    /// The [`Denial`].
    pub fn opens(&self, rule: &HostRule) -> Result<(), Denial> {
        let all = rule.host == HostPattern::AnyName && self.widest_network < Network::Learn;
        (!all)
            .then_some(())
            .ok_or_else(|| Denial::EveryHost(rule.clone()))
    }

    /// Whether a single host may be reached.
    ///
    /// # Errors
    /// The [`Denial`].
    pub fn reaches(&self, rule: &HostRule) -> Result<(), Denial> {
        let denied = self.denied_hosts.iter().any(|denied| match &rule.host {
            HostPattern::Name(name) => denied.matches(name),
            host => denied == host,
        });
        (!denied)
            .then_some(())
            .ok_or_else(|| Denial::Host(rule.clone()))
    }

    /// What of the network a server reaches, with every [`Denial`].
    pub(super) fn egress(
        &self,
        spec: &SandboxSpec,
        more: &[HostRule],
    ) -> Result<(Egress, Catch), Vec<Denial>> {
        let mut denials = Vec::new();
        if spec.network > self.widest_network {
            denials.push(Denial::Network(spec.network));
        }
        if !spec.network.is_gated() {
            let nothing = (Egress::default(), Catch::default());
            return if denials.is_empty() {
                Ok(nothing)
            } else {
                Err(denials)
            };
        }
        let mut hosts: Vec<HostRule> = spec.hosts.iter().chain(more).cloned().collect();
        hosts.sort();
        hosts.dedup();
        denials.extend(hosts.iter().filter_map(|rule| self.opens(rule).err()));
        let egress = Egress {
            hosts,
            denied: self.denied_hosts.clone(),
            learns: spec.network == Network::Learn,
            brokers: Vec::new(),
        };
        match egress.catches() {
            Ok(caught) if denials.is_empty() => Ok((egress, caught)),
            Ok(_) => Err(denials),
            Err(ports) => {
                denials.push(Denial::Ports(ports));
                Err(denials)
            }
        }
    }
}
