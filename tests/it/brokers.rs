//! Keys that servers use and do not hold: over TLS to a service that judges them, and looked for by a server that wants
//! to have them.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    egress::{NAME, Site},
    harness::{Database, Server, reachable_by_all},
    leaks::assert_nowhere,
    mcp::Mcp,
};

/// Somebody without any right; no user of a usual host has this id.
const NOBODY_UID: u32 = 4_242;

/// A service that tells which of its keys it was given, repeats them, and sends elsewhere.
fn service(keys: [String; 2]) -> Site {
    Site::answering(move |asked| {
        let mut lines = asked.split("\r\n");
        let path = lines.next().and_then(|line| line.split(' ').nth(1));
        let path = path.unwrap_or_default().to_owned();
        let head = lines.take_while(|line| !line.is_empty());
        let head: Vec<(String, &str)> = head
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value))
            .collect();
        let value = |name: &str| {
            let mut all = head.iter().filter(|(own, _)| own == name);
            all.next()
                .map(|(_, value)| *value)
                .filter(|_| all.next().is_none())
        };
        let judged = match (value("authorization"), value("x-personal-key")) {
            (Some(given), None) if given == format!("token {}", keys[0]) => "the key",
            (None, Some(given)) if given == keys[1] => "the personal key",
            _ => "a stranger",
        };
        let (status, location) = match path.strip_prefix("/v1") {
            _ if judged == "a stranger" => ("401 Unauthorized", None),
            Some("/moved") => (
                "302 Found",
                Some(format!(
                    "https://{NAME}:{}/v1/there?a=b",
                    port_of(value("host"))
                )),
            ),
            Some("/away") => ("302 Found", Some("https://evil.example/take".to_owned())),
            Some("/zipped") => ("200 OK\r\nContent-Encoding: gzip", None),
            Some(_) => ("200 OK", None),
            None => ("404 Not Found", None),
        };
        let location = location.map_or_else(String::new, |to| format!("Location: {to}\r\n"));
        let body = format!("{judged}: {asked}");
        format!(
            "HTTP/1.1 {status}\r\n{location}X-Echo: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            keys.join(" "),
            body.len()
        )
    })
}

fn port_of(host: Option<&str>) -> String {
    let port = host.and_then(|host| host.rsplit_once(':'));
    port.map(|(_, port)| port.to_owned()).unwrap_or_default()
}

async fn call(client: &mut Mcp, arguments: Value) -> (u64, Option<String>, String) {
    let answer = client.tool("call", arguments).await.expect("an answer");
    let parts: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let status = parts[0].as_u64().expect("a status");
    (status, text(&parts[1]), text(&parts[2]).unwrap_or_default())
}

async fn a_key_is_used_and_never_held(uid: Option<u32>) {
    // As the fixture looks for them.
    let keys = [(); 2].map(|()| format!("kept-{}", uuid::Uuid::new_v4().simple()));
    let site = service(keys.clone());
    let port = site.port;
    let certificate = site.certificate();
    let mut server = Server::start_as(Database::Sqlite, uid, |config| {
        config.sandbox.allow_private = vec![format!("127.0.0.1:{port}").parse().expect("one")];
        let names = [
            format!("{NAME}=127.0.0.1"),
            "inside.test.example=10.0.0.1".to_owned(),
        ];
        config.sandbox.host_addresses = names.map(|own| own.parse().expect("a name")).into();
        let data = config.secrets.key_file.parent().expect("a folder");
        std::fs::copy(&certificate, data.join("trusted.pem")).expect("both are ours");
    })
    .await;
    for (name, value) in [("first", &keys[0]), ("second", &keys[1])] {
        server
            .post("/credentials", json!({"name": name, "value": value}))
            .await;
    }
    let body = json!({"template": "brokered",
        "credentials": {"SERVICE_KEY": "first", "PERSONAL_KEY": "second"},
        "settings": {"service": format!("https://{NAME}:{port}")}});
    let instance = server.create(body.clone()).await;
    assert_eq!(
        instance["status"],
        "running",
        "{instance:#}\n{}",
        server.log()
    );
    let id = instance["id"].as_str().expect("an id");
    let told = server.get(&format!("/mcps/{id}")).await;
    let service = format!("https://{NAME}:{port}");
    assert_eq!(
        told["egress"]["held_keys"],
        json!([{"variable": "SERVICE_KEY", "upstream": service}, {"variable": "PERSONAL_KEY", "upstream": service}])
    );
    let mut client = Mcp::connect(&instance).await;

    // The right key each time, whatever the server says of it; the answer, which repeats both, holds none.
    for (headers, judged) in [
        (json!({"Authorization": "token held-by-minimcp"}), "the key"),
        (json!({"X-Personal-Key": "pk_held"}), "the personal key"),
        (json!({}), "the key"),
    ] {
        let (status, _, text) =
            call(&mut client, json!({"path": "/x?y=1", "headers": headers})).await;
        assert_eq!(status, 200, "{text}\n{}", server.log());
        assert!(
            text.starts_with(&format!("{judged}: GET /v1/x?y=1 ")),
            "{text}"
        );
        assert!(
            text.contains("[redacted:") && !keys.iter().any(|key| text.contains(key)),
            "{text}"
        );
    }
    let sent = json!({"path": "/x", "body": "some text"});
    let (_, _, text) = call(&mut client, sent).await;
    assert!(text.contains("POST /v1/x "), "{text}");
    assert!(text.to_lowercase().contains("content-length: 9"), "{text}");

    // Nobody else's key, no other way, no redirect that is followed, nothing that cannot be searched.
    for headers in [
        json!({"Authorization": "token attackers"}),
        json!({"X-Personal-Key": "attackers"}),
        json!({"X-Personal-Key": "pk_held", "Authorization": "Basic attackers"}),
    ] {
        let (status, _, text) = call(&mut client, json!({"headers": headers})).await;
        assert!(
            status == 403 && text.contains("another key"),
            "{status} {text}"
        );
    }
    let direct = client
        .tool("connect", json!({"name": NAME, "port": port}))
        .await;
    let direct = direct.expect("an answer");
    assert!(
        direct.starts_with("stopped: ConnectionResetError"),
        "{direct}"
    );
    let own = call(&mut client, json!({"path": "/moved"})).await;
    assert_eq!(own.0, 302);
    let led = own.1.expect("a place");
    assert!(
        led.starts_with("http://127.0.0.1:") && led.ends_with("/v1/there?a=b"),
        "{led}"
    );
    let away = call(&mut client, json!({"path": "/away"})).await;
    assert_eq!(
        (away.0, away.1.as_deref()),
        (302, Some("https://evil.example/take"))
    );
    let zipped = call(&mut client, json!({"path": "/zipped"})).await;
    assert_eq!(zipped.0, 502, "{zipped:?}");
    let told = server.get(&format!("/mcps/{id}/events?limit=200")).await;
    assert!(told.to_string().contains("names another key"), "{told:#}");

    // Only what stands for the keys is anywhere in its processes.
    let found = client.tool("search", json!({})).await.expect("an answer");
    let found: Value = serde_json::from_str(&found).unwrap_or_else(|_| panic!("{found}"));
    assert_eq!(found["key"], 0, "{found}");
    assert!(
        found["held"].as_u64() > Some(1),
        "it looked where they would be: {found}"
    );
    assert_nowhere(&server, &instance, &keys).await;

    // A new serve goes on with the same child.
    server.kill();
    server.launch().await;
    let mut client = Mcp::connect(&instance).await;
    let (status, _, text) = call(&mut client, json!({})).await;
    assert!(
        status == 200 && text.starts_with("the key: "),
        "{status} {text}"
    );

    // A name that leads inside, and a service whose certificate is another's.
    let mut inside = body.clone();
    inside["settings"]["service"] = json!(format!("https://inside.test.example:{port}"));
    let instance = server.create(inside).await;
    let mut client = Mcp::connect(&instance).await;
    let (status, _, text) = call(&mut client, json!({})).await;
    assert!(
        status == 403 && text.contains("private address"),
        "{status} {text}"
    );
    let mut stranger = body;
    stranger["settings"]["service"] = json!(format!("https://127.0.0.1:{port}"));
    let instance = server.create(stranger).await;
    let mut client = Mcp::connect(&instance).await;
    let (status, _, text) = call(&mut client, json!({})).await;
    assert!(
        status == 502 && text.contains("certificate"),
        "{status} {text}"
    );
}

#[tokio::test]
async fn a_key_is_used_and_never_held_as_whom_the_tests_run() {
    a_key_is_used_and_never_held(None).await;
}

#[tokio::test]
async fn a_key_is_used_and_never_held_as_a_plain_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: this is a plain user already");
        return;
    }
    if !reachable_by_all(Path::new(env!("CARGO_BIN_EXE_minimcp"))) {
        eprintln!("SKIPPED as a plain user: the program lies where only root may look");
        return;
    }
    a_key_is_used_and_never_held(Some(NOBODY_UID)).await;
}
