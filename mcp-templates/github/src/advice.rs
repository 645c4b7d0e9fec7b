//! What to do next after a refusal by GitHub, told by its status and headers.

use minimcp_rest::{Failure, Trouble};

use crate::limits::is_primary;

/// The headers that [`advise`] reads.
pub(crate) const TELLING_HEADERS: &[&str] = &[
    "x-oauth-scopes",
    "x-accepted-oauth-scopes",
    "x-accepted-github-permissions",
    "x-github-sso",
    "x-ratelimit-remaining",
    "x-ratelimit-limit",
];

/// The advice to a language model.
pub(crate) fn advise(failure: &Failure) -> Option<String> {
    match &failure.trouble {
        Trouble::Unauthorized => Some(
            "The token is wrong, expired or revoked. Do not try again: ask the user to store a new one for \
             GITHUB_PERSONAL_ACCESS_TOKEN and restart this server."
                .to_owned(),
        ),
        Trouble::Forbidden => Some(forbidden(failure)),
        Trouble::NotFound => Some(match missing_scope(failure) {
            Some(scopes) => format!(
                "{scopes} GitHub says so of everything that a token may not see: ask the user for a token with such a \
                 scope if owner, repository, path and number are right."
            ),
            None => "Check owner, repository, path and number. GitHub also says so of private repositories that the \
                     token may not see: then ask the user to give the token access."
                .to_owned(),
        }),
        Trouble::RateLimited(wait) => {
            let when = match wait {
                Some(wait) => format!("Try again in {} seconds, not before.", wait.as_secs().max(1)),
                None => "Wait a minute before you try again.".to_owned(),
            };
            Some(if is_primary(failure) {
                let limit = failure.header("x-ratelimit-limit").unwrap_or("its");
                format!("The token has used up {limit} calls of its hour or minute. {when}")
            } else {
                format!("It is the secondary limit: too many calls at once or too many changes. {when} Then make one call after the other.")
            })
        }
        _ => None,
    }
}

fn forbidden(failure: &Failure) -> String {
    if let Some(told) = failure.header("x-github-sso") {
        let link = told
            .split("url=")
            .nth(1)
            .filter(|url| url.starts_with("https://github.com/"));
        let link = link.map(|url| format!(" at {url}")).unwrap_or_default();
        return format!(
            "The organization demands single sign-on for the token. Do not try again: ask the user to authorize the \
             token for it{link}."
        );
    }
    if let Some(scopes) = missing_scope(failure) {
        return format!("{scopes} Do not try again: ask the user for a token with such a scope.");
    }
    let permissions = match failure.header("x-accepted-github-permissions") {
        Some(needed) => format!("GitHub wants these permissions for it: {needed}."),
        None => "The token lacks a permission for this (such as Contents, Issues or Pull requests; write for changes)."
            .to_owned(),
    };
    format!(
        "{permissions} Do not try again: ask the user to give them to the token, or to authorize it for the \
         organization's single sign-on."
    )
}

/// The scopes that the token has and those of which it needs one, if it has none of them. Only classic tokens have
/// scopes; a scope such as `repo` holds those below it, such as `repo:status` and `public_repo`.
fn missing_scope(failure: &Failure) -> Option<String> {
    let list = |name: &str| -> Option<Vec<&str>> {
        let scopes = failure.header(name)?.split(',').map(str::trim);
        Some(scopes.filter(|scope| !scope.is_empty()).collect())
    };
    let (has, accepted) = (list("x-oauth-scopes")?, list("x-accepted-oauth-scopes")?);
    if accepted.is_empty() || accepted.iter().any(|scope| has.contains(scope)) {
        return None;
    }
    let has = if has.is_empty() {
        "no scopes".to_owned()
    } else {
        format!("the scopes {}", has.join(", "))
    };
    Some(format!(
        "The token has {has}, and GitHub wants one of these: {}.",
        accepted.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use minimcp_rest::Error;

    use super::*;

    fn advice(trouble: Trouble, headers: &[(&'static str, &str)]) -> String {
        let mut failure = *Error::new("GitHub", trouble).failure;
        failure.headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        advise(&failure).expect("advice")
    }

    #[test]
    fn a_missing_scope_is_named() {
        let headers = [
            ("x-oauth-scopes", "gist, read:org"),
            ("x-accepted-oauth-scopes", "repo"),
        ];
        for trouble in [Trouble::NotFound, Trouble::Forbidden] {
            let text = advice(trouble, &headers);
            assert!(
                text.contains("gist, read:org") && text.contains("these: repo"),
                "{text}"
            );
        }
        let text = advice(
            Trouble::NotFound,
            &[("x-oauth-scopes", ""), ("x-accepted-oauth-scopes", "repo")],
        );
        assert!(text.contains("no scopes"), "{text}");
    }

    #[test]
    fn a_scope_that_is_there_is_not_blamed() {
        for headers in [
            &[
                ("x-oauth-scopes", "repo"),
                ("x-accepted-oauth-scopes", "repo, public_repo"),
            ][..],
            &[("x-oauth-scopes", "repo"), ("x-accepted-oauth-scopes", "")],
            &[],
        ] {
            let text = advice(Trouble::NotFound, headers);
            assert!(text.contains("private repositories"), "{text}");
        }
    }

    #[test]
    fn permissions_and_single_sign_on_are_named() {
        let text = advice(
            Trouble::Forbidden,
            &[("x-accepted-github-permissions", "issues=write")],
        );
        assert!(text.contains("issues=write"), "{text}");
        let sso = "required; url=https://github.com/orgs/o/sso?authorization_request=a";
        let text = advice(Trouble::Forbidden, &[("x-github-sso", sso)]);
        assert!(text.contains("https://github.com/orgs/o/sso"), "{text}");
        let text = advice(
            Trouble::Forbidden,
            &[("x-github-sso", "required; url=https://evil.example/")],
        );
        assert!(!text.contains("evil"), "{text}");
    }

    #[test]
    fn the_two_kinds_of_rate_limits_are_told_apart() {
        let wait = || Trouble::RateLimited(Some(Duration::from_secs(90)));
        let primary = advice(
            wait(),
            &[
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-limit", "5000"),
            ],
        );
        assert!(
            primary.contains("5000") && primary.contains("90 seconds"),
            "{primary}"
        );
        let secondary = advice(wait(), &[("x-ratelimit-remaining", "4000")]);
        assert!(
            secondary.contains("secondary") && secondary.contains("90 seconds"),
            "{secondary}"
        );
    }
}
