//! Sign-ins whose tokens stay outside: what manifests may say of them.

use super::broker::{Fault, place_faults, upstream_faults, variable_fault};
use crate::domain::template::Template;

/// What is wrong with the `[oauth]` of a manifest whose keys are well-formed.
pub(super) fn faults(template: &Template) -> Vec<Fault> {
    let Some(oauth) = &template.oauth else {
        return Vec::new();
    };
    let key = |name: &str| format!("oauth.{name}");
    let mut faults = place_faults(template, "oauth");
    for (name, variable) in [
        ("token_url_variable", &oauth.token_url_variable),
        ("base_url_variable", &oauth.base_url_variable),
    ] {
        faults.extend(variable_fault(template, variable, key(name)));
        let mut credentials = template.credentials.iter();
        let other = credentials.position(|credential| {
            let broker = credential.broker.as_ref();
            broker.is_some_and(|broker| broker.base_url_variable == *variable)
        });
        if let Some(index) = other {
            let message = format!("is the base_url_variable of credential[{index}].broker already");
            faults.push((vec![key(name)], message));
        }
    }
    if oauth.token_url_variable == oauth.base_url_variable {
        let keys = vec![key("base_url_variable"), key("token_url_variable")];
        faults.push((keys, "must differ from token_url_variable".to_owned()));
    }
    faults.extend(upstream_faults(
        template,
        &oauth.token_upstream,
        &key("token_upstream"),
    ));
    faults.extend(upstream_faults(template, &oauth.upstream, &key("upstream")));
    if oauth.refresh_token.is_none() && oauth.json.is_none() {
        let message = "needs refresh_token or json: the credential that holds the refresh token";
        faults.push((vec!["oauth".to_owned()], message.to_owned()));
    }
    for (name, variable) in oauth.credentials() {
        let mut credentials = template.credentials.iter();
        let message = match credentials.find(|credential| credential.name == *variable) {
            None => format!("{variable} is not the name of a [[credential]] of this template"),
            Some(credential) if credential.broker.is_some() => {
                format!("{variable} has a [credential.broker] already")
            }
            Some(_) => continue,
        };
        faults.push((vec![key(name), "credential".to_owned()], message));
    }
    faults
}
