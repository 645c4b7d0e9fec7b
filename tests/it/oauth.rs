//! A sign-in that a server never holds: the built-in server for Gmail against a token endpoint and an API that judge every
//! request, its processes searched from outside for what it must not have.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::Request,
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases},
    leaks::assert_nowhere,
    mcp::Mcp,
    templates::fake::{Fake, Seen},
};

on_both_databases! {
    gmail_uses_a_sign_in_that_it_never_holds,
}

/// The values of one sign-in.
#[derive(Clone)]
struct SignIn {
    client_secret: String,
    refresh_token: String,
    /// Access tokens begin with it.
    access: String,
}

/// The token endpoint of RFC 6749 section 6, and two methods of the API for the newest access token. A refresh token of
/// the service may be revoked.
fn service(sign_in: &SignIn, given: &Arc<AtomicU32>) -> Router {
    let token = {
        let (own, given) = (sign_in.clone(), Arc::clone(given));
        move |headers: HeaderMap, body: String| async move {
            let kind = headers["content-type"]
                .to_str()
                .unwrap_or_default()
                .to_owned();
            let mut fields: Vec<(String, String)> = form_urlencoded::parse(body.as_bytes())
                .into_owned()
                .collect();
            fields.sort();
            let right = [
                ("client_id", "client-1"),
                ("client_secret", own.client_secret.as_str()),
                ("grant_type", "refresh_token"),
                ("refresh_token", own.refresh_token.as_str()),
            ];
            let right = right.map(|(name, value)| (name.to_owned(), value.to_owned()));
            if fields != right || !kind.starts_with("application/x-www-form-urlencoded") {
                // It repeats what it was sent, as some do.
                let answer =
                    json!({"error": "invalid_grant", "error_description": format!("bad: {body}")});
                return (StatusCode::BAD_REQUEST, Json(answer));
            }
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            let answer = json!({"access_token": format!("{}-{number}", own.access), "expires_in": 3599,
                "token_type": "Bearer", "id_token": format!("{}-id", own.access),
                "scope": "https://www.googleapis.com/auth/gmail.modify"});
            (StatusCode::OK, Json(answer))
        }
    };
    let api = |answer: fn(&str) -> Value| {
        let (access, given) = (sign_in.access.clone(), Arc::clone(given));
        move |request: Request| async move {
            let newest = format!("{access}-{}", given.load(Ordering::SeqCst));
            let asked = request.headers().get("authorization");
            if asked.is_none_or(|asked| *asked != format!("Bearer {newest}")) {
                let refusal = json!({"error": {"code": 401, "message": "Invalid Credentials",
                    "status": "UNAUTHENTICATED"}});
                return (StatusCode::UNAUTHORIZED, Json(refusal));
            }
            (StatusCode::OK, Json(answer(&newest)))
        }
    };
    // One that repeats the access token, as some do.
    let labels = |newest: &str| json!({"labels": [{"id": "INBOX", "name": format!("INBOX of {newest}"), "type": "system"}]});
    let profile = |_: &str| json!({"emailAddress": "me@example.com", "messagesTotal": 1, "threadsTotal": 1, "historyId": "9"});
    Router::new()
        .route("/token", post(token))
        .route("/gmail/v1/users/me/labels", get(api(labels)))
        .route("/gmail/v1/users/me/profile", get(api(profile)))
}

/// How often each of `needles` stands in the environment and the memory of a process; `None`: it may not be looked at.
fn in_process(pid: u32, needles: &[&str]) -> Option<Vec<usize>> {
    let mut counts = vec![0; needles.len()];
    let mut look = |data: &[u8]| {
        for (count, needle) in counts.iter_mut().zip(needles) {
            *count += memchr::memmem::find_iter(data, needle).count();
        }
    };
    look(&fs::read(format!("/proc/{pid}/environ")).ok()?);
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(span), Some(rights)) = (words.next(), words.next()) else {
            continue;
        };
        if !rights.starts_with("rw") {
            continue;
        }
        let edge = |text: &str| u64::from_str_radix(text, 16).ok();
        let edges = span.split_once('-');
        let Some((start, end)) = edges.and_then(|(from, to)| Some((edge(from)?, edge(to)?))) else {
            continue;
        };
        // In pieces: reservations may be large, and what was never touched reads as zeros.
        memory.seek(SeekFrom::Start(start)).ok()?;
        let mut data = Vec::new();
        let _ = memory
            .by_ref()
            .take((end - start).min(256 << 20))
            .read_to_end(&mut data);
        look(&data);
    }
    Some(counts)
}

async fn text(client: &mut Mcp, tool: &str) -> String {
    match client.tool(tool, json!({})).await {
        Ok(text) => text,
        Err(error) => error.to_string(),
    }
}

fn secret(kind: &str) -> String {
    format!("{kind}-{}", uuid::Uuid::new_v4().simple())
}

/// Requests to the token endpoint and to the API.
fn counts(seen: &[Seen]) -> (usize, usize) {
    let sign_ins = seen.iter().filter(|one| one.path_and_query == "/token");
    let sign_ins = sign_ins.count();
    (sign_ins, seen.len() - sign_ins)
}

async fn gmail_uses_a_sign_in_that_it_never_holds(database: Database) {
    let mut server = Server::start(database).await;
    let own = SignIn {
        client_secret: secret("client"),
        refresh_token: format!("1//{}", secret("refresh")),
        access: format!("ya29.{}", secret("access")),
    };
    let given = Arc::new(AtomicU32::new(0));
    let upstream = Fake::start(service(&own, &given), None).await;
    let json = |refresh_token: &str| {
        json!({"type": "authorized_user", "client_id": "client-1", "client_secret": own.client_secret,
            "refresh_token": refresh_token})
        .to_string()
    };
    for (name, value) in [
        ("mail", json(&own.refresh_token)),
        ("revoked", json("1//revoked-refresh-token")),
        ("broken", json!({"no": "sign-in"}).to_string()),
        ("id", "client-1".to_owned()),
        ("secret", own.client_secret.clone()),
        ("refresh", own.refresh_token.clone()),
    ] {
        server
            .post("/credentials", json!({"name": name, "value": value}))
            .await;
    }
    let settings =
        json!({"api_base_url": upstream.url, "token_uri": format!("{}/token", upstream.url)});
    let body = |credentials: Value| json!({"template": "gmail", "credentials": credentials, "settings": settings});

    let in_parts = json!({"GMAIL_CLIENT_ID": "id", "GMAIL_CLIENT_SECRET": "secret", "GMAIL_REFRESH_TOKEN": "refresh"});
    for credentials in [json!({"GMAIL_CREDENTIALS": "mail"}), in_parts] {
        upstream.take_seen();
        let instance = server.create(body(credentials.clone())).await;
        assert_eq!(
            instance["status"],
            "running",
            "{instance:#}\n{}",
            server.log()
        );
        let mut client = Mcp::connect(&instance).await;
        for _ in 0..2 {
            let profile = text(&mut client, "get_profile").await;
            assert!(
                profile.contains("me@example.com"),
                "{profile}\n{}",
                server.log()
            );
        }
        let seen = upstream.take_seen();
        assert_eq!(counts(&seen), (1, 2), "one sign-in for all calls: {seen:?}");

        // Held outside, and told so; nowhere in the server, nor in its init or the keeper.
        let id = instance["id"].as_str().expect("an id");
        let told = server.get(&format!("/mcps/{id}")).await;
        let held = told["egress"]["held_keys"].as_array().expect("a list");
        let secret = |name: &&String| *name != "GMAIL_CLIENT_ID";
        let bound = credentials
            .as_object()
            .expect("a table")
            .keys()
            .filter(secret)
            .count();
        assert_eq!(held.len(), bound, "{told:#}");
        let needles = [
            "held-by-minimcp",
            own.client_secret.as_str(),
            &own.refresh_token,
            &own.access,
        ];
        let others = server.processes().into_iter();
        let others = others.filter(|process| process.pid != server.pid());
        let found: Vec<_> = others
            .filter_map(|process| Some((process.pid, in_process(process.pid, &needles)?)))
            .collect();
        if nix::unistd::geteuid().is_root() {
            assert!(found.len() >= 2, "the keeper and the server: {found:?}");
            let held: usize = found.iter().map(|(_, counts)| counts[0]).sum();
            assert!(held > 1, "it looked where they would be: {found:?}");
        }
        for (pid, counts) in found {
            assert_eq!(counts[1..], [0, 0, 0], "process {pid}");
        }
        // An answer that repeats a token comes without it.
        let labels = text(&mut client, "list_email_labels").await;
        assert!(
            labels.contains("INBOX of") && !labels.contains(&own.access),
            "{labels}"
        );
        let secrets = [
            own.client_secret.clone(),
            own.refresh_token.clone(),
            own.access.clone(),
        ];
        assert_nowhere(&server, &instance, &secrets).await;

        // A new serve knows none of the placeholders; the same child signs in again by itself.
        upstream.take_seen();
        server.kill();
        server.launch().await;
        let mut client = Mcp::connect(&instance).await;
        let profile = text(&mut client, "get_profile").await;
        assert!(
            profile.contains("me@example.com"),
            "{profile}\n{}",
            server.log()
        );
        let now = server.get(&format!("/mcps/{id}")).await;
        assert_eq!(now["generation"], told["generation"], "{now:#}");
        assert_eq!(counts(&upstream.take_seen()), (1, 1));
        server.delete(id).await;
    }

    // What ends a sign-in is told as it was, without what was sent; a sign-in that cannot be read, too.
    for name in ["revoked", "broken"] {
        let instance = server
            .create(body(json!({"GMAIL_CREDENTIALS": name})))
            .await;
        let mut client = Mcp::connect(&instance).await;
        let told = text(&mut client, "get_profile").await;
        assert!(
            told.contains("connect the Gmail account again"),
            "{name}: {told}"
        );
        assert!(
            !told.contains("revoked-refresh") && !told.contains(&own.client_secret),
            "{told}"
        );
        assert_nowhere(&server, &instance, &["1//revoked-refresh-token".to_owned()]).await;
    }
    let asked = counts(&upstream.take_seen());
    assert_eq!(asked, (1, 0), "one that cannot be read is not even tried");
}
