//! What a manifest may say of its credentials beyond each key by itself. Pure.

use regex::bytes::{Regex, RegexBuilder};

use super::forms::Form;
use crate::domain::template::{CredentialSpec, Delivery, Template, Transport};

/// Largest compiled pattern in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

pub(super) const PATTERN: Form = Form {
    check: pattern,
    allowed: "a regular expression of 1 to 500 bytes for the whole value, without looking around and back references",
    pattern: r"^[\s\S]{1,500}$",
};

fn pattern(text: &str) -> Result<(), String> {
    let good = (1..=500).contains(&text.len()) && whole(text).is_some();
    PATTERN.accepts_if(good)
}

/// The pattern, for a value from its beginning to its end. Classes such as `\d` are those of ASCII.
fn whole(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .unicode(false)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .ok()
}

/// Why a value cannot be what a credential wants, without the value.
pub(crate) fn unlike(credential: &CredentialSpec, value: &str) -> Option<String> {
    let pattern = credential.pattern.as_deref()?;
    if whole(pattern)?.is_match(value.as_bytes()) {
        return None;
    }
    let must = match &credential.pattern_help {
        Some(help) => format!("must {help}"),
        None => format!("must match {pattern}"),
    };
    let hint = match value.trim() == value {
        true => "",
        false => "; it begins or ends with a space or a line break",
    };
    Some(format!("{} {must}{hint}", credential.title))
}

/// Keys of the manifest, the first of which the fault is told at, and what is wrong.
type Fault = (Vec<String>, String);

/// What is wrong with the credentials of a manifest whose keys are well-formed.
pub(super) fn faults(template: &Template) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, credential) in template.credentials.iter().enumerate() {
        let key = |name: &str| format!("credential[{index}].{name}");
        if credential.pattern_help.is_some() && credential.pattern.is_none() {
            let keys = vec![key("pattern_help"), key("pattern")];
            faults.push((keys, "goes with pattern".to_owned()));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(pattern: &str, help: Option<&str>) -> CredentialSpec {
        let text = format!("name = 'KEY'\ntitle = 'The key'\npattern = '{pattern}'");
        let mut credential: CredentialSpec = toml::from_str(&text).expect("it is good");
        credential.pattern_help = help.map(str::to_owned);
        credential
    }

    #[test]
    fn a_pattern_is_for_the_whole_value_and_the_value_is_never_told() {
        let token = credential("a_[0-9]+|b_.*", Some("begin with a_ or b_"));
        for good in ["a_1", "b_", "b_x y"] {
            assert_eq!(unlike(&token, good), None, "{good}");
        }
        for bad in ["", "xa_1", "a_", "a_1\n", " a_1", "a_1x", "B_hidden"] {
            let told = unlike(&token, bad).expect(bad);
            assert!(
                told.starts_with("The key must begin with a_ or b_"),
                "{told}"
            );
            assert!(!told.contains("hidden"), "{told}");
            assert_eq!(told.contains("line break"), bad.trim() != bad, "{told}");
        }
        let told = unlike(&credential("[a-f]{3}", None), "abcd").expect("too long");
        assert_eq!(told, "The key must match [a-f]{3}");
    }

    #[test]
    fn what_is_no_pattern_or_too_large_a_one_is_refused() {
        for good in [r"\d+", "(?s).*", r"^x$", "[^ ]{1,200}"] {
            assert_eq!(pattern(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "(",
            "(?=x)",
            r"(a)\1",
            "((a{1000}){1000}){1000}",
            &"x".repeat(501),
        ] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
