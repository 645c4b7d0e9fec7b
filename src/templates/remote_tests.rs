use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use super::{
    read,
    remote::{self, Piece, pieces, resolve, shown_url},
};
use crate::domain::{
    id::{CredentialName, EnvName},
    instance::InstanceSpec,
    template::Template,
};

const GOOD: &str = r#"
schema = 1
name = "x"
title = "X"
description = "A server elsewhere."

[server]
transport = "remote"
url = "https://mcp.example.com/{setting.team}/mcp?key={credential.KEY}"

[server.headers]
Authorization = "Bearer {credential.TOKEN}"
X-Team = "{setting.team}"
X-Version = "2"
X-Region = "{setting.region}"

[[credential]]
name = "KEY"
title = "Key"

[[credential]]
name = "TOKEN"
title = "Token"
required = false

[[setting]]
name = "team"
title = "Team"
type = "string"
required = true

[[setting]]
name = "region"
title = "Region"
type = "string"
"#;

fn faulty(from: &str, to: &str) -> Vec<(String, String)> {
    assert!(GOOD.contains(from), "{from}");
    match read(&GOOD.replacen(from, to, 1), "x", Path::new("template.toml")) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.into_iter().map(|f| (f.key, f.message)).collect(),
    }
}

fn good() -> Template {
    read(GOOD, "x", Path::new("template.toml")).expect("it is good")
}

fn spec(settings: &[(&str, &str)], credentials: &[&str]) -> InstanceSpec {
    let settings = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)));
    let credentials = credentials.iter().map(|name| {
        let stored = CredentialName::new(name.to_lowercase()).expect("a name");
        (EnvName::new(*name).expect("a variable"), stored)
    });
    InstanceSpec {
        settings: settings.collect(),
        credentials: credentials.collect(),
        ..InstanceSpec::default()
    }
}

fn secrets(pairs: &[(&str, &str)]) -> Vec<(String, Zeroizing<String>)> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), Zeroizing::new((*value).to_owned())))
        .collect()
}

#[test]
fn placeholders_are_read_in_one_pass() {
    let found = pieces("a{setting.x}{credential.Y}b}").expect("good");
    let expected = [
        Piece::Text("a"),
        Piece::Setting("x"),
        Piece::Credential("Y"),
        Piece::Text("b}"),
    ];
    assert_eq!(found, expected);
    for wrong in ["{", "{x}", "{data}", "{setting}", "a{credential.X"] {
        assert!(pieces(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn values_stay_within_their_part_of_the_url() {
    let spec = spec(&[("team", "../a?b/ü")], &["KEY", "TOKEN"]);
    let secrets = secrets(&[("KEY", "s3cret&x=1"), ("TOKEN", "t0ken")]);
    let address = resolve(&good(), &spec, &secrets).expect("it can be made");
    let url = "https://mcp.example.com/..%2Fa%3Fb%2F%C3%BC/mcp?key=s3cret%26x%3D1";
    assert_eq!(address.url.to_string(), url);
    assert_eq!(address.host.to_string(), "mcp.example.com:443");
    assert_eq!(address.headers["authorization"], "Bearer t0ken");
    assert!(address.headers["authorization"].is_sensitive());
    assert_eq!(address.headers["x-version"], "2");
    assert!(!address.headers["x-version"].is_sensitive());
    assert_eq!(
        address.credentials,
        "the credential key (KEY) and the credential token (TOKEN)"
    );
    let shown = shown_url(&good(), &spec.settings).expect("it has one");
    assert!(shown.ends_with("key={credential.KEY}"), "{shown}");
    assert!(!format!("{:?}", address.headers).contains("t0ken"));
}

#[test]
fn a_header_without_its_value_is_not_sent() {
    let spec = spec(&[("team", "a")], &["KEY"]);
    let address = resolve(&good(), &spec, &secrets(&[("KEY", "k")])).expect("it can be made");
    let mut names: Vec<&str> = address.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["x-team", "x-version"]);
}

#[test]
fn a_value_that_a_header_cannot_carry_is_told_without_it() {
    let spec = spec(&[("team", "a")], &["KEY", "TOKEN"]);
    let secrets = secrets(&[("KEY", "k"), ("TOKEN", "s3cret\nX-Evil: 1")]);
    let error = resolve(&good(), &spec, &secrets).err().expect("refused");
    let text = error.to_string();
    assert!(text.contains("Authorization"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn a_whole_url_may_be_a_setting() {
    let text = r#"
schema = 1
name = "x"
title = "X"
description = "A server elsewhere."
server = { transport = "remote", url = "{setting.url}/mcp" }

[[setting]]
name = "url"
title = "Address"
type = "string"
required = true
grants = "host"
"#;
    let template = read(text, "x", Path::new("template.toml")).expect("it is good");
    let at = |url: &str| {
        let made = resolve(&template, &spec(&[("url", url)], &[]), &[]);
        made.map(|address| (address.url.to_string(), address.host.to_string()))
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        at("https://a.example.com:8443/x/"),
        Ok((
            "https://a.example.com:8443/x/mcp".to_owned(),
            "a.example.com:8443".to_owned()
        ))
    );
    for (url, words) in [
        ("ftp://a.example.com", "https://"),
        ("https://user:s3cret@a.example.com", "password"),
        ("a.example.com", "web address"),
        ("https://", "web address"),
        ("https://*.example.com", "no host"),
    ] {
        let text = at(url).expect_err(url);
        assert!(text.contains(words), "{url}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn each_fault_of_a_server_elsewhere_names_its_key() {
    assert_eq!(faulty("schema = 1", "schema = 1"), []);
    let url = "https://mcp.example.com/{setting.team}/mcp?key={credential.KEY}";
    for (from, to, key) in [
        (
            "transport = \"remote\"",
            "transport = \"remote\"\ncommand = [\"x\"]",
            "server.command",
        ),
        (
            "transport = \"remote\"",
            "transport = \"remote\"\nbuiltin = \"demo\"",
            "server.builtin",
        ),
        (
            "transport = \"remote\"",
            "transport = \"remote\"\nsessions = \"per-session\"",
            "server.sessions",
        ),
        (
            "transport = \"remote\"",
            "transport = \"stdio\"\ncommand = [\"x\"]",
            "server.url",
        ),
        (
            "[[credential]]",
            "[limits]\nmax_processes = 1\n[[credential]]",
            "limits",
        ),
        (
            "[[credential]]",
            "[sandbox]\nhosts = [\"x.example.com:443\"]\n[[credential]]",
            "sandbox",
        ),
        (
            "[[credential]]",
            "[environment]\nX = \"1\"\n[[credential]]",
            "environment",
        ),
        (url, "", "server.url"),
        (
            url,
            "ftp://mcp.example.com/{setting.team}/{credential.KEY}",
            "server.url",
        ),
        (
            url,
            "https://{setting.team}.example.com/{credential.KEY}",
            "server.url",
        ),
        (
            url,
            "https://mcp.example.com{setting.team}/{credential.KEY}",
            "server.url",
        ),
        (url, "{setting.team}/{credential.KEY}", "server.url"),
        (url, "{credential.KEY}/{setting.team}", "server.url"),
        (
            url,
            "https://a:b@mcp.example.com/{setting.team}/{credential.KEY}",
            "server.url",
        ),
        (
            url,
            "https://mcp.example.com/#{setting.team}/{credential.KEY}",
            "server.url",
        ),
        (
            url,
            "https://mcp.example.com/{setting.region}/{setting.team}/{credential.KEY}",
            "server.url",
        ),
        (
            url,
            "https://mcp.example.com/{setting.no}/{setting.team}/{credential.KEY}",
            "server.url",
        ),
        (
            url,
            "https://mcp.example.com/{data}/{setting.team}/{credential.KEY}",
            "server.url",
        ),
        (
            url,
            "https://mcp.example.com/{setting.team}/mcp",
            "credential[0]",
        ),
        ("X-Region = \"{setting.region}\"", "", "setting[1]"),
        (
            "X-Region = \"{setting.region}\"",
            "X-Region = \"{setting.regio}\"",
            "server.headers.X-Region",
        ),
        (
            "X-Version = \"2\"",
            "X-Version = \"{2}\"",
            "server.headers.X-Version",
        ),
        ("X-Version = \"2\"", "Host = \"2\"", "server.headers.Host"),
        (
            "X-Version = \"2\"",
            "Mcp-Session-Id = \"2\"",
            "server.headers.Mcp-Session-Id",
        ),
        (
            "X-Version = \"2\"",
            "\"X Version\" = \"2\"",
            "server.headers.X Version",
        ),
        (
            "X-Version = \"2\"",
            "X-Version = 2",
            "server.headers.X-Version",
        ),
        (
            "type = \"string\"",
            "type = \"string\"\nenv = \"TEAM\"",
            "setting[0]",
        ),
        (
            "type = \"string\"",
            "type = \"string-list\"",
            "setting[0].type",
        ),
    ] {
        let found = faulty(from, to);
        assert!(found.iter().any(|(at, _)| at == key), "{to}: {found:?}");
    }
}

#[test]
fn the_host_is_known_before_the_secrets_are() {
    let host = |team: &str| remote::host(&good(), &spec(&[("team", team)], &[]).settings);
    let rule = host("a").expect("remote").expect("a host");
    assert_eq!(rule.to_string(), "mcp.example.com:443");
}
