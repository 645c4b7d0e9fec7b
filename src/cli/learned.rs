//! `minimcp template learned`: the hosts for a template's manifest, as its instances found them.

use std::{collections::BTreeSet, process::ExitCode};

use super::{failure::Failure, output::Output};
use crate::{
    client::{Client, ListQuery},
    domain::egress::HostRule,
    wire::Instance,
};

/// Prints what the instances of a template reached that learn.
pub(super) async fn show(client: &Client, name: &str, out: Output) -> Result<ExitCode, Failure> {
    // A name that no template has is told as such.
    client.template(name).await?;
    let query = ListQuery {
        template: Some(name.to_owned()),
        ..ListQuery::default()
    };
    let instances = client.list(&query).await?.read()?.items;
    let learning = instances.iter().filter(|instance| learns(instance)).count();
    let hosts = hosts(&instances);
    if out.json {
        let json = serde_json::json!({"template": name, "learning": learning, "hosts": hosts});
        out.line(&json.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if learning == 0 {
        return Err(Failure::Failed(format!(
            "no instance of {name} learns: let the template have network = \"learn\", with sandbox.widest_network = \
             \"learn\" in config.toml, and use one for a while"
        )));
    }
    for line in manifest(&hosts) {
        out.line(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn learns(instance: &Instance) -> bool {
    instance.egress.as_ref().is_some_and(|egress| egress.learns)
}

/// In the order of names; what is no rule, as a name without a port, is left out.
fn hosts(instances: &[Instance]) -> Vec<String> {
    let learning = instances.iter().filter(|instance| learns(instance));
    let reached = learning.filter_map(|instance| instance.egress.as_ref());
    let reached = reached.flat_map(|egress| &egress.reached_hosts);
    let rules: BTreeSet<HostRule> = reached.filter_map(|host| host.host.parse().ok()).collect();
    rules.iter().map(ToString::to_string).collect()
}

fn manifest(hosts: &[String]) -> Vec<String> {
    let mut lines = vec![
        "[sandbox]".to_owned(),
        "network = \"allow-list\"".to_owned(),
    ];
    lines.push("hosts = [".to_owned());
    lines.extend(hosts.iter().map(|host| format!("    {host:?},")));
    lines.push("]".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Egress, EgressHost};

    #[test]
    fn what_those_that_learn_reached_is_told_once() {
        let with = |learns: bool, reached: &[&str]| {
            let mut instance = super::super::instances::tests::instance(
                "demo",
                "0199aaaa-0000-7000-8000-000000000001",
            );
            let host = |host: &&str| EgressHost {
                host: (*host).to_owned(),
                reason: None,
                count: 1,
                last_at: "2026-11-21T10:00:00.000Z".to_owned(),
            };
            instance.egress = Some(Egress {
                hosts: Vec::new(),
                learns,
                held_keys: Vec::new(),
                refused: 0,
                last_refused_at: None,
                refused_hosts: Vec::new(),
                reached_hosts: reached.iter().map(host).collect(),
                sent_bytes: 0,
                received_bytes: 0,
            });
            instance
        };
        let instances = [
            with(true, &["b.example.com:443", "a.example.com:443"]),
            with(true, &["a.example.com:443", "no-port"]),
            with(false, &["other.example.com:443"]),
        ];
        let text = manifest(&hosts(&instances)).join("\n");
        assert_eq!(
            text,
            "[sandbox]\nnetwork = \"allow-list\"\nhosts = [\n    \"a.example.com:443\",\n    \"b.example.com:443\",\n]"
        );
        assert!(text.parse::<toml::Table>().is_ok());
    }
}
