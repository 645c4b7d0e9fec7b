//! What looks like a secret: by the name of its variable, or by the value itself. A guess, and one that errs on the
//! side of sealing: a setting that is kept as a credential does no harm, a password in a manifest does.

use serde_json::Value;

/// Parts of names that secrets have.
const WORDS: [&str; 23] = [
    "key",
    "apikey",
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "pat",
    "credential",
    "credentials",
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "cookies",
    "private",
    "dsn",
    "jwt",
    "signature",
    "webhook",
    "session",
];

/// Parts of names that say that it is none: where a key lies, or how long it lives.
const HARMLESS: [&str; 14] = [
    "path", "file", "dir", "folder", "url", "uri", "host", "endpoint", "id", "name", "type",
    "timeout", "ttl", "max",
];

/// How the tokens of well-known services begin.
const PREFIXES: [&str; 29] = [
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "sk-",
    "sk_",
    "pk_live_",
    "rk_live_",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xapp-",
    "figd_",
    "figu_",
    "ntn_",
    "secret_",
    "AKIA",
    "ASIA",
    "AIza",
    "ya29.",
    "eyJ",
    "fc-",
    "hf_",
    "lin_api_",
    "dapi",
    "npm_",
    "pat-",
];

/// Whether a variable or option of this name holds a secret.
pub(super) fn names_one(name: &str) -> bool {
    let words = words(name);
    let last_is_harmless = words
        .last()
        .is_some_and(|word| HARMLESS.contains(&word.as_str()));
    !last_is_harmless && words.iter().any(|word| WORDS.contains(&word.as_str()))
}

/// The words of `API_KEY`, `api-key`, `apiKey`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        let begins = !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && lower);
        lower = c.is_ascii_lowercase();
        if begins {
            words.push(String::new());
        }
        if c.is_ascii_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.push(c.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether a text is a secret by itself.
pub(super) fn is_one(text: &str) -> bool {
    let trimmed = text.trim();
    let word = trimmed
        .split_once(' ')
        .map_or(trimmed, |(_, rest)| rest.trim());
    PREFIXES.iter().any(|prefix| {
        [trimmed, word]
            .iter()
            .any(|text| text.starts_with(prefix) && text.len() >= prefix.len() + 8)
    }) || has_password(trimmed)
        || trimmed.contains("-----BEGIN ")
        || trimmed.to_ascii_lowercase().contains("bearer ")
        || trimmed.to_ascii_lowercase().contains("basic ") && trimmed.len() > 12
        || is_random(trimmed)
}

/// An address with a password in it, or with a secret in its query.
fn has_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let in_user = authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.contains(':'));
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let in_query = query.split('&').any(|pair| {
        pair.split_once('=')
            .is_some_and(|(name, value)| names_one(name) && !value.is_empty())
    });
    in_user || in_query
}

/// Long, of one piece, and of letters and digits mixed as no word is.
fn is_random(text: &str) -> bool {
    let alphabet = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '=');
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let letters = text.bytes().filter(u8::is_ascii_alphabetic).count();
    // A UUID names something more often than it opens it, but it can do both.
    (32..=4_096).contains(&text.len()) && text.chars().all(alphabet) && digits >= 4 && letters >= 4
}

/// Whether anything in a value is a secret, or is named like one.
pub(super) fn holds_one(name: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => is_one(text) || (names_one(name) && !text.is_empty()),
        Value::Number(_) => names_one(name),
        Value::Array(entries) => entries.iter().any(|entry| holds_one(name, entry)),
        Value::Object(entries) => entries.iter().any(|(name, entry)| holds_one(name, entry)),
        Value::Null | Value::Bool(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_tell_secrets_from_settings() {
        for name in [
            "GITHUB_PERSONAL_ACCESS_TOKEN",
            "API_KEY",
            "NOTION_TOKEN",
            "DB_PASSWORD",
            "apiKey",
            "--figma-api-key",
            "SLACK_BOT_TOKEN",
            "Authorization",
            "X-API-Key",
            "SENTRY_DSN",
            "PAT",
        ] {
            assert!(names_one(name), "{name}");
        }
        for name in [
            "LOG_LEVEL",
            "GITHUB_HOST",
            "TOKEN_URL",
            "KEYCLOAK_URL",
            "MONKEY",
            "API_KEY_FILE",
            "SECRET_PATH",
            "AUTHOR",
            "TOKENIZER",
            "KEY_ID",
            "CLIENT_ID",
        ] {
            assert!(!names_one(name), "{name}");
        }
    }

    #[test]
    fn values_tell_secrets_too() {
        for text in [
            "ghp_0123456789abcdef",
            "Bearer abc",
            "postgres://me:pw@db/x",
            "sk-proj-abcdefgh",
            "-----BEGIN PRIVATE KEY-----",
            "https://x.example/?api_key=1",
            "0123456789abcdef0123456789abcdef",
            "token ghp_0123456789abcdef",
        ] {
            assert!(is_one(text), "{text}");
        }
        for text in [
            "info",
            "https://api.example.com/v1?page=1",
            "/home/me/a-long-folder-name-without-digits",
            "@modelcontextprotocol/server-filesystem",
            "a plain sentence with 4 or 5 words in it 2026",
        ] {
            assert!(!is_one(text), "{text}");
        }
        assert!(holds_one("headers", &json!({"Authorization": "x"})));
        assert!(holds_one("x", &json!([1, {"a": ["ghp_0123456789abcdef"]}])));
        assert!(!holds_one("autoApprove", &json!(["list_issues", true])));
    }
}
