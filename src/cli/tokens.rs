//! The verbs on access tokens.

use jiff::Timestamp;

use super::{
    arguments::{TokenCommand, TokenOptions},
    failure::Failure,
    instances::{created, resolve},
    output::{Output, age},
};
use crate::{
    client::Client,
    domain::duration::HumanDuration,
    interchange::export::claude_line,
    wire::{AccessToken, CreateAccessToken},
};

pub(super) async fn run(
    client: &Client,
    command: TokenCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        TokenCommand::Ls { instance } => list(client, &instance, out).await,
        TokenCommand::Create(options) => create(client, options, out).await,
        TokenCommand::Rotate {
            instance,
            name,
            overlap,
        } => rotate(client, &instance, name.as_deref(), overlap, out).await,
        TokenCommand::Rm { instance, name } => revoke(client, &instance, &name, out).await,
    }
}

async fn list(client: &Client, instance: &str, out: Output) -> Result<(), Failure> {
    let instance = resolve(client, instance).await?;
    let reply = client.access_tokens(&instance).await?;
    if out.json {
        return out.line(reply.json());
    }
    let items = reply.read()?.items;
    if items.is_empty() {
        return out
            .line("There are no access tokens; `minimcp token create INSTANCE NAME` makes one.");
    }
    out.line(&listed(&items, Timestamp::now(), out))
}

fn listed(items: &[AccessToken], now: Timestamp, out: Output) -> String {
    let rows = items
        .iter()
        .map(|token| {
            [
                token.name.clone(),
                scope(&token.scope),
                token
                    .expires_at
                    .clone()
                    .unwrap_or_else(|| "never".to_owned()),
                age(token.last_used_at.as_deref(), now),
                limits(token),
                token.fingerprint.clone(),
            ]
        })
        .collect();
    let header = ["name", "scope", "expires", "used", "limits", "fingerprint"];
    out.table(header, rows)
}

fn scope(value: &serde_json::Value) -> String {
    match (value.as_str(), value["tools"].as_array()) {
        (Some(word), _) => word.to_owned(),
        (None, Some(tools)) => {
            let tools: Vec<&str> = tools.iter().filter_map(serde_json::Value::as_str).collect();
            tools.join(",")
        }
        (None, None) => value.to_string(),
    }
}

fn limits(token: &AccessToken) -> String {
    let rate = token
        .rate_limit
        .as_ref()
        .map(|rate| format!("{}/{}", rate.requests, rate.per));
    let calls = token.concurrency_max.map(|most| format!("{most} at once"));
    let both: Vec<String> = rate.into_iter().chain(calls).collect();
    if both.is_empty() {
        "-".to_owned()
    } else {
        both.join(", ")
    }
}

async fn create(client: &Client, options: TokenOptions, out: Output) -> Result<(), Failure> {
    let instance = resolve(client, &options.instance).await?;
    let scope = if options.tools.is_empty() {
        options.scope.map(Into::into)
    } else {
        Some(serde_json::json!({"tools": options.tools}))
    };
    let request = CreateAccessToken {
        name: options.name,
        scope,
        ttl: options.ttl.map(|ttl| ttl.to_string().into()),
        expires_at: None,
        rate_limit: options.rate.map(
            |rate| serde_json::json!({"requests": rate.requests, "per": rate.per.to_string()}),
        ),
        concurrency_max: options.concurrency.map(Into::into),
    };
    let reply = client.create_access_token(&instance, &request).await?;
    if out.json {
        return out.line(reply.json());
    }
    out.line(&shown(&options.instance, &reply.read()?))
}

/// A token with its secret.
fn shown(instance: &str, token: &AccessToken) -> String {
    let mut text = format!("{} ({})\n\n", token.name, scope(&token.scope));
    text.push_str(&format!("  Access URL   {}\n", token.access_url));
    if let Some(secret) = &token.access_token {
        text.push_str(&format!("  Token        {secret}   (shown this once)\n"));
        if let Some(url) = &token.connect_url {
            text.push_str(&format!("  Both in one  {url}\n"));
        }
        let line = claude_line(instance, &token.access_url, secret);
        text.push_str(&format!("\n  {line}\n"));
    }
    text.trim_end().to_owned()
}

/// Without a name it is the first token, and the answer is the instance.
async fn rotate(
    client: &Client,
    text: &str,
    name: Option<&str>,
    overlap: Option<HumanDuration>,
    out: Output,
) -> Result<(), Failure> {
    let instance = resolve(client, text).await?;
    let Some(name) = name else {
        let reply = client.rotate_access_token(&instance, overlap).await?;
        if out.json {
            return out.line(reply.json());
        }
        return out.line(&created(&reply.read()?));
    };
    let reply = client.rotate_named_access_token(&instance, name, overlap);
    let reply = reply.await?;
    if out.json {
        return out.line(reply.json());
    }
    out.line(&shown(text, &reply.read()?))
}

async fn revoke(client: &Client, instance: &str, name: &str, out: Output) -> Result<(), Failure> {
    let instance = resolve(client, instance).await?;
    client.revoke_access_token(&instance, name).await?;
    if out.json {
        return Ok(());
    }
    out.line(&format!("{name} is revoked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, scope: serde_json::Value) -> AccessToken {
        AccessToken {
            name: name.to_owned(),
            scope,
            created_at: "2026-01-01T00:00:00.000Z".to_owned(),
            rotated_at: "2026-01-01T00:00:00.000Z".to_owned(),
            expires_at: None,
            overlap_until: None,
            last_used_at: None,
            rate_limit: None,
            concurrency_max: None,
            fingerprint: "0a1b2c3d".to_owned(),
            access_url: "http://127.0.0.1:3001/mcp".to_owned(),
            access_token: None,
            connect_url: None,
        }
    }

    #[test]
    fn tokens_are_a_table_without_secrets() {
        let mut limited = token("ci", serde_json::json!({"tools": ["get_me", "list_*"]}));
        limited.expires_at = Some("2026-02-01T00:00:00.000Z".to_owned());
        limited.last_used_at = Some("2026-01-01T11:00:00.000Z".to_owned());
        limited.rate_limit = Some(crate::wire::RateLimit {
            requests: 100,
            per: "1m".to_owned(),
        });
        limited.concurrency_max = Some(4);
        let items = [token("default", "all".into()), limited];
        let now = "2026-01-01T12:00:00Z".parse().expect("a time");
        insta::assert_snapshot!(listed(&items, now, Output::plain()));
    }

    #[test]
    fn a_secret_is_shown_where_it_was_made() {
        let mut made = token("ci", "read-only".into());
        made.access_token = Some("mmcp_0123".to_owned());
        made.connect_url = Some("http://127.0.0.1:3001/mmcp_0123/mcp".to_owned());
        insta::assert_snapshot!(shown("github", &made));
    }
}
