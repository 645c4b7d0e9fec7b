//! Credentials of which one group must be given whole: a token, or else a client's id, secret and refresh token. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{id::EnvName, template::Template, violation::Violation};

/// What is wrong with the groups of a manifest: the key, and what is allowed.
pub(super) fn faults(template: &Template) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, group) in template.credentials_one_of.iter().enumerate() {
        let key = format!("credentials_one_of[{index}]");
        for name in group {
            match template.credentials.iter().find(|spec| spec.name == *name) {
                None => faults.push((
                    key.clone(),
                    format!("{name} is not the name of a [[credential]] of this template"),
                )),
                Some(spec) if spec.required => faults.push((
                    key.clone(),
                    format!(
                        "{name} is required in any case: its [[credential]] needs required = false"
                    ),
                )),
                Some(_) => {}
            }
        }
        let names: BTreeSet<&EnvName> = group.iter().collect();
        if names.len() < group.len() {
            faults.push((key.clone(), "names one credential twice".to_owned()));
        }
        if !seen.insert(names) {
            faults.push((key, "is the same group as an earlier one".to_owned()));
        }
    }
    faults
}

/// What a request lacks for every group; nothing when one group is whole.
pub(super) fn violations(template: &Template, given: &BTreeMap<String, String>) -> Vec<Violation> {
    let groups = &template.credentials_one_of;
    let has = |name: &EnvName| given.contains_key(name.as_str());
    if groups.is_empty() || groups.iter().any(|group| group.iter().all(has)) {
        return Vec::new();
    }
    let begun = groups.iter().find(|group| group.iter().any(has));
    if let Some(group) = begun {
        let others: Vec<String> = groups
            .iter()
            .filter(|other| *other != group)
            .map(|other| words(other))
            .collect();
        let missing = group.iter().filter(|name| !has(name));
        let violation = |name: &EnvName| {
            Violation::new(
                format!("/credentials/{name}"),
                "required",
                format!(
                    "{name} goes with {}; instead of them all: {}",
                    words_of(group.iter().filter(|name| has(name))),
                    others.join(", or ")
                ),
            )
        };
        return missing.map(violation).collect();
    }
    let all: Vec<String> = groups.iter().map(|group| words(group)).collect();
    let text = format!(
        "one of these is needed: {}; store it as a credential, then give its name here",
        all.join(", or ")
    );
    vec![Violation::new("/credentials", "required", text)]
}

fn words(group: &[EnvName]) -> String {
    words_of(group.iter())
}

fn words_of<'a>(names: impl Iterator<Item = &'a EnvName>) -> String {
    let names: Vec<&str> = names.map(EnvName::as_str).collect();
    names.join(" with ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::templates::read;

    const GOOD: &str = r#"
schema = 1
name = "x"
title = "X"
description = "A server."
credentials_one_of = [["TOKEN"], ["ID", "SECRET"]]
server = { transport = "stdio", command = ["x"] }

[[credential]]
name = "TOKEN"
title = "Token"
required = false

[[credential]]
name = "ID"
title = "Id"
required = false

[[credential]]
name = "SECRET"
title = "Secret"
required = false
"#;

    fn lacks(given: &[&str]) -> Vec<(String, String)> {
        let template = read(GOOD, "x", Path::new("template.toml")).expect("it is good");
        let given = given.iter();
        let given = given.map(|name| ((*name).to_owned(), "work".to_owned()));
        let violations = violations(&template, &given.collect());
        violations
            .into_iter()
            .map(|violation| (violation.pointer, violation.message))
            .collect()
    }

    #[test]
    fn one_group_must_be_whole() {
        for given in [
            &["TOKEN"][..],
            &["ID", "SECRET"],
            &["TOKEN", "ID"],
            &["TOKEN", "ID", "SECRET"],
        ] {
            assert_eq!(lacks(given), [], "{given:?}");
        }
        let none = lacks(&[]);
        assert_eq!(none.len(), 1, "{none:?}");
        assert_eq!(none[0].0, "/credentials");
        assert!(none[0].1.contains("TOKEN, or ID with SECRET"), "{none:?}");
        let half = lacks(&["ID"]);
        assert_eq!(half.len(), 1, "{half:?}");
        assert_eq!(half[0].0, "/credentials/SECRET");
        assert!(
            half[0]
                .1
                .contains("goes with ID; instead of them all: TOKEN"),
            "{half:?}"
        );
    }

    #[test]
    fn each_fault_of_a_group_is_told() {
        for (from, to, words) in [
            ("[\"TOKEN\"]", "[\"TOKE\"]", "not the name"),
            ("[\"ID\", \"SECRET\"]", "[\"ID\", \"ID\"]", "twice"),
            ("[\"ID\", \"SECRET\"]", "[\"TOKEN\"]", "earlier"),
            ("[\"ID\", \"SECRET\"]", "[]", "1 to 16"),
            (", [\"ID\", \"SECRET\"]", "", "2 to 16"),
            ("[[\"TOKEN\"]", "[[\"A B\"]", "1 to 16"),
            (
                "title = \"Token\"\nrequired = false",
                "title = \"Token\"",
                "required = false",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let text = GOOD.replacen(from, to, 1);
            let faults = read(&text, "x", Path::new("template.toml")).expect_err(to);
            let told: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
            assert!(
                told.iter().any(|text| text.contains(words)),
                "{to}: {told:?}"
            );
        }
    }
}
