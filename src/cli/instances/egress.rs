//! The network of an instance, for people.

use crate::wire::{EgressHost, Instance};

/// Hosts that are shown; the API has the others.
const SHOWN_MAX: usize = 12;

/// What its filter of system calls refused, as one line of title and text.
pub(super) fn denied(instance: &Instance) -> Option<(&'static str, String)> {
    let denials = instance
        .denials
        .as_ref()
        .filter(|denials| denials.total > 0)?;
    let calls = denials.calls.iter().take(SHOWN_MAX);
    let calls: Vec<String> = calls
        .map(|call| format!("{} {}", call.call, call.count))
        .collect();
    let last = denials.last_at.as_deref().unwrap_or_default();
    let text = format!(
        "{} system calls, last {last}: {}",
        denials.total,
        calls.join(", ")
    );
    Some(("Denied", text))
}

/// Lines of title and text.
pub(super) fn lines(instance: &Instance) -> Vec<(&'static str, String)> {
    let Some(egress) = &instance.egress else {
        return Vec::new();
    };
    let hosts = match (egress.learns, egress.hosts.as_slice()) {
        (true, _) => "every public host (it learns)".to_owned(),
        (false, []) => "no host".to_owned(),
        (false, hosts) => hosts.join(" "),
    };
    let mut lines = vec![("Hosts", hosts)];
    if egress.learns && !egress.reached_hosts.is_empty() {
        let reached = egress.reached_hosts.iter();
        let reached: Vec<String> = reached.map(|host| format!("{:?}", host.host)).collect();
        lines.push(("Learned", format!("hosts = [{}]", reached.join(", "))));
    }
    for (index, key) in egress.held_keys.iter().enumerate() {
        let title = if index == 0 { "Keys outside" } else { "" };
        lines.push((title, format!("{} for {}", key.variable, key.upstream)));
    }
    for (index, host) in egress.refused_hosts.iter().take(SHOWN_MAX).enumerate() {
        let title = if index == 0 { "Refused" } else { "" };
        lines.push((title, refused(host)));
    }
    if egress.refused_hosts.len() > SHOWN_MAX {
        lines.push(("", format!("… {} refusals in all", egress.refused)));
    }
    lines
}

fn refused(host: &EgressHost) -> String {
    let reason = host.reason.as_deref().unwrap_or_default();
    format!(
        "blocked: {} ({}, last {}): {reason}",
        host.host, host.count, host.last_at
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Egress;

    fn host(host: &str, reason: Option<&str>) -> EgressHost {
        EgressHost {
            host: host.to_owned(),
            reason: reason.map(str::to_owned),
            count: 3,
            last_at: "2026-11-21T10:00:00.000Z".to_owned(),
        }
    }

    #[test]
    fn what_it_may_and_may_not_is_told() {
        let mut instance =
            super::super::tests::instance("demo", "0199aaaa-0000-7000-8000-000000000001");
        assert!(lines(&instance).is_empty());
        let mut egress = Egress {
            hosts: vec!["api.example.com:443".to_owned()],
            learns: false,
            held_keys: Vec::new(),
            refused: 3,
            last_refused_at: None,
            refused_hosts: vec![host(
                "api.x.com:443",
                Some("it is not among the allowed hosts"),
            )],
            reached_hosts: vec![host("a.example.com:443", None)],
            sent_bytes: 0,
            received_bytes: 0,
        };
        instance.egress = Some(egress.clone());
        let told = lines(&instance);
        assert_eq!(told[0], ("Hosts", "api.example.com:443".to_owned()));
        assert_eq!(
            told[1].1,
            "blocked: api.x.com:443 (3, last 2026-11-21T10:00:00.000Z): it is not among the allowed hosts"
        );
        assert_eq!(
            told.len(),
            2,
            "what it reached is learned only where it is asked for"
        );
        egress.learns = true;
        instance.egress = Some(egress);
        assert_eq!(
            lines(&instance)[1],
            ("Learned", "hosts = [\"a.example.com:443\"]".to_owned())
        );
    }
}
