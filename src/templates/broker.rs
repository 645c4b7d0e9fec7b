//! Credentials whose values stay outside: what manifests may say of them, and what a launch command is told instead.

use serde_json::Value;

use super::{
    forms::Form,
    launch::{Resolved, plain},
};
use crate::domain::{
    broker::{BROKERS_MAX, BrokerSpec, Upstream, brokers, settings_of},
    egress::Egress,
    id::EnvName,
    instance::InstanceSpec,
    template::{CredentialSpec, Grant, SettingType, Template, Transport},
};

pub(super) const UPSTREAM: Form = Form {
    check: upstream,
    allowed: "an address such as https://api.example.com/v1, or one with settings in it such as {server}/v1",
    pattern: r"^\S+$",
};

pub(super) const HEADER_NAME: Form = Form {
    check: header_name,
    allowed: "the name of an HTTP header that a request may bring along",
    pattern: r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
};

pub(super) const HEADER_TEXT: Form = Form {
    check: header_text,
    allowed: "1 to 500 printable ASCII characters",
    pattern: r"^[ -~]{1,500}$",
};

pub(super) const HEADER_FORMAT: Form = Form {
    check: header_format,
    allowed: "printable ASCII with one {}, which stands for the key, such as \"Bearer {}\"",
    pattern: r"^[ -~]*\{\}[ -~]*$",
};

/// One entry of `upstream`; with settings in it, it is known at a launch only.
fn upstream(text: &str) -> Result<(), String> {
    if text.contains(['{', '}']) {
        return Ok(());
    }
    let parsed = Upstream::parse(text).map(drop);
    parsed.map_err(|fault| fault.to_string())
}

fn header_name(text: &str) -> Result<(), String> {
    // Those that the transport sets by itself.
    let own = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
    ];
    let good = http::HeaderName::try_from(text).is_ok_and(|name| !own.contains(&name.as_str()));
    good.then_some(())
        .ok_or_else(|| HEADER_NAME.allowed.to_owned())
}

fn header_text(text: &str) -> Result<(), String> {
    let good = (1..=500).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b));
    good.then_some(())
        .ok_or_else(|| HEADER_TEXT.allowed.to_owned())
}

fn header_format(text: &str) -> Result<(), String> {
    let good = header_text(text).is_ok() && text.matches("{}").count() == 1;
    good.then_some(())
        .ok_or_else(|| HEADER_FORMAT.allowed.to_owned())
}

/// Keys of the manifest, the first of which the fault is told at, and what is wrong.
type Fault = (Vec<String>, String);

/// What is wrong with the brokers of a manifest whose keys are well-formed.
pub(super) fn faults(template: &Template) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut known: Vec<(&EnvName, &BrokerSpec, String)> = Vec::new();
    for (index, credential) in template.credentials.iter().enumerate() {
        let Some(broker) = &credential.broker else {
            continue;
        };
        let at = format!("credential[{index}].broker");
        let key = |name: &str| format!("{at}.{name}");
        if !template.sandbox.network.is_gated() {
            let keys = vec![at.clone(), "sandbox.network".to_owned()];
            let message =
                "goes with network = \"allow-list\" or \"learn\": only there is a way between";
            faults.push((keys, message.to_owned()));
        }
        if template.server.transport == Transport::Remote {
            let keys = vec![at.clone(), "server.transport".to_owned()];
            let message =
                "is for a process of ours: a server elsewhere gets headers by server.headers";
            faults.push((keys, message.to_owned()));
        }
        let variable = &broker.base_url_variable;
        let is_set = template.environment.contains_key(variable)
            || template.server.port_env.as_ref() == Some(variable)
            || template.credentials.iter().any(|one| one.name == *variable);
        if is_set {
            let message = format!("the variable {variable} is set by another key already");
            faults.push((vec![key("base_url_variable")], message));
        }
        let earlier = known.iter().find(|(name, ..)| *name == variable);
        match earlier {
            Some((_, other, at)) if other.upstream != broker.upstream => {
                let message =
                    format!("differs from that of {at}, which has the same base_url_variable");
                faults.push((vec![key("upstream")], message));
            }
            Some(_) => {}
            None => known.push((variable, broker, at.clone())),
        }
        if broker.upstream.is_empty() {
            faults.push((
                vec![key("upstream")],
                "needs at least one address".to_owned(),
            ));
        }
        for text in &broker.upstream {
            if let Some(message) = unfit(template, text) {
                let keys = vec![
                    key("upstream"),
                    "setting".to_owned(),
                    "sandbox.hosts".to_owned(),
                ];
                faults.push((keys, message));
            }
        }
    }
    if known.len() > BROKERS_MAX {
        let message = format!(
            "have brokers at {} addresses; at most {BROKERS_MAX} are allowed",
            known.len()
        );
        faults.push((vec!["credential".to_owned()], message));
    }
    faults
}

/// Why a broker could not reach what an entry of `upstream` names.
fn unfit(template: &Template, text: &str) -> Option<String> {
    if text.contains(['{', '}']) {
        let opens = |name: &&str| {
            template.settings.iter().any(|setting| {
                setting.name == **name
                    && setting.kind == SettingType::String
                    && setting.grants == Some(Grant::Host)
            })
        };
        let strange = settings_of(text).find(|name| !opens(name));
        return strange.map(|name| {
            format!("{{{name}}} names no setting of type string with grants = \"host\"")
        });
    }
    let upstream = Upstream::parse(text).ok()?;
    let rules = Egress {
        hosts: template.sandbox.hosts.clone(),
        learns: !template.sandbox.network.is_gated(),
        ..Egress::default()
    };
    let reached = rules.brokers_to(&upstream).is_ok();
    let authority = upstream.authority();
    (!reached).then(|| format!("{authority} is not among sandbox.hosts"))
}

/// Puts a broker between the server and each service for which a credential is bound that stays outside.
pub(super) fn put_between(
    template: &Template,
    spec: &InstanceSpec,
    port: Option<u16>,
    resolved: &mut Resolved,
) -> Result<(), String> {
    let bound = template.credentials.iter().filter_map(|credential| {
        let CredentialSpec { name, broker, .. } = credential;
        let is_bound = spec.credentials.contains_key(name);
        Some((name, broker.as_ref().filter(|_| is_bound)?))
    });
    let setting = |name: &str| {
        let known = template
            .settings
            .iter()
            .find(|setting| setting.name == name)?;
        let value: &Value = spec.settings.get(name).or(known.default.as_ref())?;
        Some(plain(value))
    };
    let caught = &mut resolved.sandbox.caught.ports;
    let brokers = brokers(bound, setting, |number| {
        caught.contains(&number) || port == Some(number)
    })?;
    for broker in &brokers {
        caught.push(broker.port);
        let base_url = broker.base_url_variable.to_string();
        resolved.env.insert(base_url, broker.base_url());
        for key in &broker.keys {
            let variable = key.variable.to_string();
            resolved.env.insert(variable, key.placeholder.clone());
        }
    }
    resolved.sandbox.egress.brokers = brokers;
    Ok(())
}
