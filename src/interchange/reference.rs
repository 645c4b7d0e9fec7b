//! References inside values: `${NAME}`, `${env:NAME}`, `${NAME:-default}`, `${input:id}`, and a plain `$NAME` as a
//! whole value.

/// What a value is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    /// A variable of the client's environment, and its default.
    Variable(String, Option<String>),
    /// What an editor asks a person for.
    Input(String),
    /// Something that only the client knows (`${workspaceFolder}`).
    Client(String),
}

/// Every reference in a text, in its order.
pub(super) fn all(text: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        rest = &rest[at + 2..];
        let Some(end) = rest.find('}') else { break };
        found.push(read(&rest[..end]));
        rest = &rest[end + 1..];
    }
    if found.is_empty()
        && let Some(name) = text.strip_prefix('$')
        && is_variable(name)
    {
        found.push(Reference::Variable(name.to_owned(), None));
    }
    found
}

/// The reference that a text wholly is.
pub(super) fn whole(text: &str) -> Option<Reference> {
    let text = text.trim();
    let one = match text.strip_prefix("${") {
        Some(rest) => rest.find('}').is_some_and(|at| at + 1 == rest.len()),
        None => text.starts_with('$'),
    };
    let mut found = all(text);
    (one && found.len() == 1).then(|| found.remove(0))
}

fn read(inside: &str) -> Reference {
    if let Some(id) = inside.strip_prefix("input:") {
        return Reference::Input(id.to_owned());
    }
    let inside = inside.strip_prefix("env:").unwrap_or(inside);
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default.to_owned())),
        None => (inside, None),
    };
    // Editors write their own in camel case, and never a variable of the environment.
    let of_the_client = name.chars().next().is_some_and(|c| c.is_ascii_lowercase())
        && name.chars().any(|c| c.is_ascii_uppercase());
    if is_variable(name) && !of_the_client {
        Reference::Variable(name.to_owned(), default)
    } else {
        Reference::Client(
            inside
                .chars()
                .take(40)
                .filter(|c| !c.is_control())
                .collect(),
        )
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_and_told_apart() {
        let variable = |name: &str| Reference::Variable(name.to_owned(), None);
        assert_eq!(whole("${TOKEN}"), Some(variable("TOKEN")));
        assert_eq!(whole("${env:TOKEN}"), Some(variable("TOKEN")));
        assert_eq!(whole("$TOKEN"), Some(variable("TOKEN")));
        let with = Reference::Variable("A".to_owned(), Some("x".to_owned()));
        assert_eq!(whole("${A:-x}"), Some(with));
        assert_eq!(
            whole("${input:key}"),
            Some(Reference::Input("key".to_owned()))
        );
        let folder = Reference::Client("workspaceFolder".to_owned());
        assert_eq!(whole("${workspaceFolder}"), Some(folder));
        assert_eq!(whole("Bearer ${TOKEN}"), None);
        assert_eq!(whole("${A}${B}"), None);
        assert_eq!(all("${A}-${input:b}").len(), 2);
        for text in ["", "$", "${", "plain", "$5", "a$B", "${}"] {
            assert_eq!(
                whole(text).filter(|it| !matches!(it, Reference::Client(_))),
                None,
                "{text}"
            );
        }
    }
}
