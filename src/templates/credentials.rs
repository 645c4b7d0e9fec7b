//! What a manifest may say of its credentials beyond each key by itself. Pure.

use crate::domain::template::{Delivery, Template, Transport};

/// Keys of the manifest, the first of which the fault is told at, and what is wrong.
type Fault = (Vec<String>, String);

/// What is wrong with the credentials of a manifest whose keys are well-formed.
pub(super) fn faults(template: &Template) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, credential) in template.credentials.iter().enumerate() {
        let key = |name: &str| format!("credential[{index}].{name}");
        if credential.delivery == Delivery::Env {
            continue;
        }
        let mut oauth = template.oauth.iter().flat_map(|oauth| oauth.credentials());
        if let Some((name, _)) = oauth.find(|(_, one)| **one == credential.name) {
            let message = "\"file\" puts into the sandbox what [oauth] keeps outside of it";
            let keys = vec![key("delivery"), format!("oauth.{name}")];
            faults.push((keys, message.to_owned()));
        }
        if credential.broker.is_some() {
            let message = "\"file\" puts into the sandbox what a broker keeps outside of it";
            faults.push((vec![key("delivery"), key("broker")], message.to_owned()));
        }
        if template.server.transport == Transport::Remote {
            let keys = vec![key("delivery"), "server.transport".to_owned()];
            let message = "\"file\" is for a process of ours: a server elsewhere gets headers by server.headers";
            faults.push((keys, message.to_owned()));
        }
    }
    faults
}
