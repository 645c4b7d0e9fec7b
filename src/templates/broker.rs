//! Credentials whose values stay outside: what manifests may say of them, and what a launch command is told instead.

use serde_json::Value;

use super::{
    forms::Form,
    launch::{Resolved, plain},
};
use crate::domain::{
    broker::{BROKERS_MAX, BrokerSpec, BrokerWork, Upstream, brokers, settings_of},
    egress::Egress,
    id::EnvName,
    instance::InstanceSpec,
    oauth::oauth_brokers,
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
    HEADER_NAME.accepts_if(good)
}

fn header_text(text: &str) -> Result<(), String> {
    let good = (1..=500).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b));
    HEADER_TEXT.accepts_if(good)
}

fn header_format(text: &str) -> Result<(), String> {
    let good = header_text(text).is_ok() && text.matches("{}").count() == 1;
    HEADER_FORMAT.accepts_if(good)
}

/// Keys of the manifest, the first of which the fault is told at, and what is wrong.
pub(super) type Fault = (Vec<String>, String);

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
        faults.extend(place_faults(template, &at));
        let variable = &broker.base_url_variable;
        faults.extend(variable_fault(template, variable, key("base_url_variable")));
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
        faults.extend(upstream_faults(
            template,
            &broker.upstream,
            &key("upstream"),
        ));
    }
    let of_sign_in = if template.oauth.is_some() { 2 } else { 0 };
    if known.len() + of_sign_in > BROKERS_MAX {
        let message = format!(
            "have brokers at {} addresses; at most {BROKERS_MAX} are allowed",
            known.len() + of_sign_in
        );
        faults.push((vec!["credential".to_owned()], message));
    }
    faults
}

/// Why a template can have no broker at all, which the key `at` asks for.
pub(super) fn place_faults(template: &Template, at: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut wrong = |key: &str, message: &str| {
        faults.push((vec![at.to_owned(), key.to_owned()], message.to_owned()));
    };
    if !template.sandbox.network.is_gated() {
        let message =
            "goes with network = \"allow-list\" or \"learn\": only there is a way between";
        wrong("sandbox.network", message);
    }
    if template.server.transport == Transport::Remote {
        let message = "is for a process of ours: a server elsewhere gets headers by server.headers";
        wrong("server.transport", message);
    }
    faults
}

/// Why a variable cannot tell the address of a broker.
pub(super) fn variable_fault(template: &Template, variable: &EnvName, at: String) -> Option<Fault> {
    let is_set = template.environment.contains_key(variable)
        || template.server.port_env.as_ref() == Some(variable)
        || template.credentials.iter().any(|one| one.name == *variable);
    let message = || format!("the variable {variable} is set by another key already");
    is_set.then(|| (vec![at], message()))
}

/// What is wrong with the addresses of one broker.
pub(super) fn upstream_faults(template: &Template, upstream: &[String], at: &str) -> Vec<Fault> {
    if upstream.is_empty() {
        return vec![(vec![at.to_owned()], "needs at least one address".to_owned())];
    }
    let unfit = upstream.iter().filter_map(|text| unfit(template, text));
    let keys = [at, "setting", "sandbox.hosts"].map(str::to_owned);
    unfit.map(|message| (keys.to_vec(), message)).collect()
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
    let mut brokers = brokers(bound, setting, |number| {
        caught.contains(&number) || port == Some(number)
    })?;
    if let Some(oauth) = &template.oauth {
        let used: Vec<u16> = brokers.iter().map(|broker| broker.port).collect();
        let is_taken = |number: u16| {
            caught.contains(&number) || port == Some(number) || used.contains(&number)
        };
        let is_bound = |name: &EnvName| spec.credentials.contains_key(name);
        brokers.extend(oauth_brokers(oauth, is_bound, setting, is_taken)?);
    }
    for broker in &brokers {
        caught.push(broker.port);
        let base_url = broker.base_url_variable.to_string();
        resolved.env.insert(base_url, broker.base_url());
        let placeholders: Vec<(String, String)> = match &broker.work {
            BrokerWork::Keys(keys) => keys
                .iter()
                .map(|key| (key.variable.to_string(), key.placeholder.clone()))
                .collect(),
            BrokerWork::Refresh(grant) => grant
                .placeholders()
                .map(|(variable, text)| (variable.to_string(), text))
                .collect(),
            BrokerWork::AccessTokens(_) => Vec::new(),
        };
        resolved.env.extend(placeholders);
    }
    resolved.sandbox.egress.brokers = brokers;
    Ok(())
}
