//! Takes what may be a secret out of what goes into a support bundle. Nothing secret should come here at all; this is the
//! second wall.

use serde_json::Value;

/// Stands where something was.
const HIDDEN: &str = "REDACTED";

/// In the name of a key: its text is a secret.
const SECRET_WORDS: [&str; 9] = [
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "api_key",
    "apikey",
    "private_key",
    "credential",
];

/// At the end of a key: it tells where something is, or how it is used, not what it is.
const HARMLESS_ENDS: [&str; 3] = ["_file", "_dir", "_rate_limit"];

/// Keys below which every text is the user's own.
const FREE_KEYS: [&str; 5] = ["settings", "env", "environment", "headers", "arguments"];

/// Hides texts by their keys, then what looks like a secret in all others.
pub(super) fn hide_in_value(value: &mut Value) {
    hide(value, false);
}

fn hide(value: &mut Value, all: bool) {
    match value {
        Value::String(text) if all => HIDDEN.clone_into(text),
        Value::String(text) => *text = hide_in_text(text),
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, all)),
        Value::Object(fields) => {
            for (key, field) in fields {
                let key = key.to_ascii_lowercase();
                let harmless = HARMLESS_ENDS.iter().any(|end| key.ends_with(end));
                let secret = SECRET_WORDS.iter().any(|word| key.contains(word)) && !harmless;
                hide(field, all || secret || FREE_KEYS.contains(&key.as_str()));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Hides our own tokens, what follows `Bearer` or `Basic`, user parts and queries of URLs, and values of names that say
/// that they are secret (`password=…`, `API_KEY: …`).
pub(super) fn hide_in_text(text: &str) -> String {
    text.split_inclusive('\n').map(hide_in_line).collect()
}

/// What the next word of a line means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing special.
    Plain,
    /// A name was there: after `:` or `=` comes its value.
    Sign,
    /// It is a value to be hidden.
    Hidden,
}

fn hide_in_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut next = Next::Plain;
    let mut rest = line;
    while !rest.is_empty() {
        let is_gap = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '<' | '>');
        let gap = rest.find(|c| !is_gap(c)).unwrap_or(rest.len());
        out.push_str(&rest[..gap]);
        rest = &rest[gap..];
        let end = rest.find(is_gap).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if word.is_empty() {
            continue;
        }
        let lower = word.to_ascii_lowercase();
        let is_sign = matches!(word, ":" | "=");
        if matches!(lower.as_str(), "bearer" | "basic") {
            out.push_str(word);
            next = Next::Hidden;
        } else if is_sign {
            out.push_str(word);
            next = match next {
                Next::Plain => Next::Plain,
                Next::Sign | Next::Hidden => Next::Hidden,
            };
        } else if next == Next::Hidden {
            out.push_str(HIDDEN);
            next = Next::Plain;
        } else {
            out.push_str(&hide_in_word(word));
            let named = lower.trim_end_matches([':', '=']);
            next = match (is_secret_name(named), named.len() < lower.len()) {
                (true, true) => Next::Hidden,
                (true, false) => Next::Sign,
                (false, _) => Next::Plain,
            };
        }
    }
    out
}

fn is_secret_name(name: &str) -> bool {
    let harmless = HARMLESS_ENDS.iter().any(|end| name.ends_with(end));
    !harmless && SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn hide_in_word(word: &str) -> String {
    // Tokens of ours, wherever they stand: also in the path of a URL.
    if let Some(at) = word.find("mmcp_") {
        let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let rest = &word[at..];
        let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
        return format!("{}{HIDDEN}{}", &word[..at], hide_in_word(&rest[end..]));
    }
    if let Some((scheme, rest)) = word.split_once("://") {
        let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
        // A password may hold a slash when nobody encoded it.
        let user_end = rest
            .rfind('@')
            .filter(|at| *at < authority_end || rest[..*at].contains(':'));
        let (user, rest) = match user_end {
            Some(at) => (format!("{HIDDEN}@"), &rest[at + 1..]),
            None => (String::new(), rest),
        };
        let (path, query) = rest
            .split_once('?')
            .map_or((rest, None), |(path, query)| (path, Some(query)));
        let query = query.map_or(String::new(), |_| format!("?{HIDDEN}"));
        return format!("{scheme}://{user}{path}{query}");
    }
    match word.split_once('=').or_else(|| word.split_once(':')) {
        Some((name, value)) if !value.is_empty() && is_secret_name(&name.to_ascii_lowercase()) => {
            format!("{name}={HIDDEN}")
        }
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_hidden_and_the_rest_stays() {
        for (text, shown) in [
            (
                "an Authorization: Bearer abc.def came",
                "an Authorization: Bearer REDACTED came",
            ),
            ("Authorization: abc", "Authorization: REDACTED"),
            (
                "http://127.0.0.1:3001/mmcp_access_Ab-1_x/mcp",
                "http://127.0.0.1:3001/REDACTED/mcp",
            ),
            ("the token mmcp_admin_xyz.", "the token REDACTED."),
            (
                "postgres://ann:pa/s@s@db:5432/x?password=y",
                "postgres://REDACTED@db:5432/x?REDACTED",
            ),
            (
                "GET https://api.example.com/a?key=1 HTTP/1.1",
                "GET https://api.example.com/a?REDACTED HTTP/1.1",
            ),
            ("PGPASSWORD=hunter2 psql", "PGPASSWORD=REDACTED psql"),
            (
                "{\"api_key\": \"abc\", \"n\": 1}",
                "{\"api_key\": \"REDACTED\", \"n\": 1}",
            ),
            ("password: hunter2", "password: REDACTED"),
            (
                "admin_token_file = \"/run/x\"",
                "admin_token_file = \"/run/x\"",
            ),
            ("two\nlines at 12:30:00", "two\nlines at 12:30:00"),
        ] {
            assert_eq!(hide_in_text(text), shown, "{text}");
        }
    }

    #[test]
    fn keys_decide_in_values() {
        let mut value = json!({
            "name": "a", "settings": {"team": "x", "deep": [{"k": "y"}]}, "access_token": "t",
            "admin_token_file": "/etc/x", "tokens_max": 3, "url": "postgres://u:p@h/d",
            "environment": {"A": "b"}, "events": [{"message": "saw Bearer abc"}],
        });
        hide_in_value(&mut value);
        assert_eq!(
            value,
            json!({
                "name": "a", "settings": {"team": "REDACTED", "deep": [{"k": "REDACTED"}]}, "access_token": "REDACTED",
                "admin_token_file": "/etc/x", "tokens_max": 3, "url": "postgres://REDACTED@h/d",
                "environment": {"A": "REDACTED"}, "events": [{"message": "saw Bearer REDACTED"}],
            })
        );
    }
}
