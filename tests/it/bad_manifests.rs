//! Bad manifests: every fault is told, with the file, the key and what is allowed; nothing of them ever runs, and they
//! keep nothing else from running.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use minimcp::templates;
use serde_json::json;

use crate::{
    harness::{Database, Server},
    manifest_schema::as_json,
};

/// A manifest in which everything is right.
const GOOD: &str = r#"schema = 1
name = "NAME"
title = "Notes"
description = "Keeps notes."
homepage = "https://example.com/notes"

[server]
transport = "stdio"
command = ["notes-server", "--root={data}"]
package = "npm:@example/notes-server@1.2.3"
sessions = "per-session"
session_children_max = 4

[[credential]]
name = "NOTES_TOKEN"
title = "Token"

[[setting]]
name = "folders"
title = "Folders"
type = "string-list"
arguments = ["--folder", "{value}"]
grants = "read"

[[setting]]
name = "mode"
title = "Mode"
type = "string"
default = "fast"
enum = ["fast", "safe"]
env = "NOTES_MODE"

[environment]
NOTES_CACHE = "{data}/cache"

[sandbox]
hosts = ["api.example.com:443"]

[health]
start_timeout = "60s"

[lease]
ttl_default = "1h"
ttl_max = "30d"
"#;

/// A good manifest of a server elsewhere, with these lines in `[server]` and these headers.
macro_rules! remote {
    ($server:literal, $headers:literal) => {
        concat!(
            "schema = 1\nname = \"NAME\"\ntitle = \"Notes\"\ndescription = \"Keeps notes.\"\n\n",
            "[server]\ntransport = \"remote\"\n",
            $server,
            "\n[server.headers]\nAuthorization = \"Bearer {credential.NOTES_TOKEN}\"\n",
            $headers,
            "\n[[credential]]\nname = \"NOTES_TOKEN\"\ntitle = \"Token\"\n"
        )
    };
}

const REMOTE: &str = remote!("url = \"https://mcp.example.com/mcp\"", "X-Region = \"eu\"");

/// Who finds the fault, beside the reader of manifests: an editor with the JSON Schema, or nobody else.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Schema {
    Refuses,
    /// A rule between keys, or one that a schema cannot say.
    Accepts,
    /// It is no TOML.
    Unreadable,
}
use Schema::{Accepts, Refuses, Unreadable};

/// A good manifest of a server with a sign-in that stays outside, with these lines in its `[oauth]`.
macro_rules! oauth {
    ($lines:literal) => {
        concat!(
            "schema = 1\nname = \"NAME\"\ntitle = \"Notes\"\ndescription = \"Keeps notes.\"\n\n",
            "[server]\ntransport = \"stdio\"\ncommand = [\"notes-server\"]\n\n",
            "[[credential]]\nname = \"NOTES_REFRESH_TOKEN\"\ntitle = \"Refresh token\"\n\n[oauth]\n",
            $lines,
            "\nbase_url_variable = \"NOTES_URL\"\nupstream = [\"https://api.example.com\"]\n\n",
            "[sandbox]\nhosts = [\"api.example.com:443\"]\n"
        )
    };
}

const OAUTH: &str = oauth!(
    "token_url_variable = \"NOTES_TOKEN_URL\"\ntoken_upstream = [\"https://api.example.com/token\"]\n\
     refresh_token = \"NOTES_REFRESH_TOKEN\""
);

/// One bad manifest: its folder, what is changed in the good one, and its faults by key and a part of the message.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
    Schema,
);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("schema-2", &[("schema = 1", "schema = 2")], &[("schema", "must be the number 1")], Refuses),
    ("schema-text", &[("schema = 1", "schema = \"1\"")], &[("schema", "must be the number 1")], Refuses),
    ("schema-missing", &[("schema = 1\n", "")], &[("schema", "is missing: the number 1")], Refuses),
    ("name-other", &[("NAME", "other")], &[("name", "must equal the folder's name, \"name-other\"")], Accepts),
    ("name-capital", &[("NAME", "Notes")], &[("name", "a-z, 0-9 and '-'")], Refuses),
    ("name-number", &[("\"NAME\"", "7")], &[("name", "must be text: 1 to 40 of a-z")], Refuses),
    ("title-blank", &[("title = \"Notes\"", "title = \"  \"")], &[("title", "text of 1 to 100 bytes")], Refuses),
    ("title-long", &[("title = \"Notes\"", concat!("title = \"", "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789x", "\""))], &[("title", "text of 1 to 100 bytes")], Refuses),
    ("title-control", &[("title = \"Notes\"", "title = \"a\\u0007b\"")], &[("title", "text of 1 to 100 bytes")], Accepts),
    ("description-missing", &[("description = \"Keeps notes.\"\n", "")], &[("description", "is missing: text of 1 to 1000 bytes")], Refuses),
    ("homepage-ftp", &[("https://example.com", "ftp://example.com")], &[("homepage", "starts with https:// or http://")], Refuses),
    ("unknown-top", &[("title = ", "titel = \"x\"\ntitle = ")], &[("titel", "unknown key; the keys here are schema, name, title")], Refuses),
    ("unknown-server", &[("[server]", "[server]\nport = 80")], &[("server.port", "unknown key; the keys here are transport")], Refuses),
    ("unknown-section", &[("[health]", "[helth]")], &[("helth", "unknown key"), ], Refuses),
    ("unknown-credential", &[("title = \"Token\"", "title = \"Token\"\nvalue = \"s3cret\"")], &[("credential[0].value", "unknown key; the keys here are name, title")], Refuses),
    ("server-missing", &[("[server]\ntransport", "[lease2]\ntransport")], &[("server", "is missing: a table"), ("lease2", "unknown key")], Refuses),
    ("server-list", &[("[server]", "[[server]]")], &[("server", "must be a table")], Refuses),
    ("transport-missing", &[("transport = \"stdio\"\n", "")], &[("server.transport", "is missing: one of stdio, http")], Refuses),
    ("transport-sse", &[("\"stdio\"", "\"sse\"")], &[("server.transport", "must be one of stdio, http")], Refuses),
    ("command-text", &[("[\"notes-server\", \"--root={data}\"]", "\"notes-server --root\"")], &[("server.command", "must be a list of at most 256 texts")], Refuses),
    ("command-relative", &[("\"notes-server\"", "\"bin/notes-server\"")], &[("server.command", "a plain name, or an absolute path")], Accepts),
    ("command-value", &[("--root={data}", "--root={value}")], &[("server.command", "the placeholders here are {data} and {port}")], Accepts),
    ("command-port", &[("--root={data}", "--port={port}")], &[("server.command", "a stdio server has no port")], Accepts),
    ("command-and-builtin", &[("[server]", "[server]\nbuiltin = \"demo\"")], &[("server.command", "exactly one of the two"), ("server.package", "a built-in server is in this binary")], Accepts),
    ("builtin-unknown", &[("command = [\"notes-server\", \"--root={data}\"]\npackage = \"npm:@example/notes-server@1.2.3\"", "builtin = \"notes\"")], &[("server.builtin", "must be one of the servers in this binary: ")], Accepts),
    ("nothing-to-run", &[("command = [\"notes-server\", \"--root={data}\"]\npackage = \"npm:@example/notes-server@1.2.3\"", "")], &[("server", "needs either builtin or command")], Accepts),
    ("package-latest", &[("@1.2.3", "@latest")], &[("server.package", "not one exact version")], Refuses),
    ("package-range", &[("@1.2.3", "@^1.2.3")], &[("server.package", "ranges and tags such as latest are not")], Refuses),
    ("package-no-registry", &[("npm:@example", "@example")], &[("server.package", "npm:NAME@VERSION or pypi:NAME==VERSION")], Refuses),
    ("package-path", &[("npm:@example/notes-server", "npm:../../etc")], &[("server.package", "is not the name of a package")], Refuses),
    ("package-absolute", &[("\"notes-server\"", "\"/usr/bin/notes\"")], &[("server.command", "the plain name of a program of the package")], Accepts),
    ("scripts-without-package", &[("package = \"npm:@example/notes-server@1.2.3\"", "package_scripts = true")], &[("server.package_scripts", "goes with package")], Accepts),
    ("http-no-port", &[("\"stdio\"", "\"http\""), ("sessions = \"per-session\"\nsession_children_max = 4\n", "")], &[("server.port_env", "must be told its port")], Accepts),
    ("http-path", &[("\"stdio\"", "\"http\"\nport_env = \"PORT\"\npath = \"mcp?x\""), ("sessions = \"per-session\"\nsession_children_max = 4\n", "")], &[("server.path", "starts with '/', without '?'")], Refuses),
    ("http-sessions", &[("\"stdio\"", "\"http\"\nport_env = \"PORT\"")], &[("server.sessions", "per-session is for stdio servers")], Accepts),
    ("era-date", &[("[server]", "[server]\nera = \"2025-06-18\"")], &[("server.era", "must be one of auto, session, stateless")], Refuses),
    ("children-none", &[("session_children_max = 4", "session_children_max = 0")], &[("server.session_children_max", "from 1 to 1000")], Refuses),
    ("children-shared", &[("sessions = \"per-session\"\n", "")], &[("server.session_children_max", "goes with sessions = \"per-session\"")], Accepts),
    ("pattern", &[("title = \"Token\"", "title = \"Token\"\npattern = \"(ghp_\"")], &[("credential[0].pattern", "a regular expression")], Accepts),
    ("pattern-help", &[("title = \"Token\"", "title = \"Token\"\npattern_help = \"begin\"")], &[("credential[0].pattern_help", "goes with pattern")], Accepts),
    ("additions-nowhere", &[("@1.2.3\"\n", "@1.2.3\"\npackage_additions = [\"npm:a@1.0.0\"]\n")], &[("server.package_additions", "goes with package_additions_into")], Accepts),
    ("additions-up", &[("@1.2.3\"\n", "@1.2.3\"\npackage_additions = [\"npm:a@1.0.0\"]\npackage_additions_into = \"a/../b\"\n")], &[("server.package_additions_into", "separated by '/'")], Refuses),
    ("additions-pypi", &[("@1.2.3\"\n", "@1.2.3\"\npackage_additions = [\"pypi:a==1.0\"]\npackage_additions_into = \"a\"\n")], &[("server.package_additions", "must be packages of npm")], Accepts),
    ("delivery-word", &[("title = \"Token\"", "title = \"Token\"\ndelivery = \"argument\"")], &[("credential[0].delivery", "must be one of env, file")], Refuses),
    ("delivery-broker", &[("title = \"Token\"", "title = \"Token\"\ndelivery = \"file\"\nbroker = { base_url_variable = \"URL\", upstream = [\"https://api.example.com\"] }")], &[("credential[0].delivery", "keeps outside")], Accepts),
    ("setting-file-type", &[("[[setting]]", "[[setting]]\nname = \"n\"\ntitle = \"N\"\ntype = \"integer\"\ndelivery = \"file\"\nenv = \"N_FILE\"\n[[setting]]")], &[("setting[0].delivery", "is for a string")], Accepts),
    ("setting-file-env", &[("[[setting]]", "[[setting]]\nname = \"n\"\ntitle = \"N\"\ntype = \"string\"\ndelivery = \"file\"\narguments = [\"{value}\"]\n[[setting]]")], &[("setting[0].delivery", "needs env")], Accepts),
    ("credential-dash", &[("NOTES_TOKEN", "NOTES-TOKEN")], &[("credential[0].name", "A-Z, a-z, 0-9 and '_'")], Refuses),
    ("credential-path", &[("NOTES_TOKEN", "PATH")], &[("credential[0].name", "is not for requests to set")], Accepts),
    ("credential-twice", &[("NOTES_MODE", "NOTES_TOKEN")], &[("setting[1].env", "is set by credential[0].name already")], Accepts),
    ("credential-table", &[("[[credential]]", "[credential]")], &[("credential", "at most 64 tables, written as [[…]]")], Refuses),
    ("setting-name", &[("name = \"mode\"", "name = \"Mode\"")], &[("setting[1].name", "1 to 64 of a-z, 0-9 and '_'")], Refuses),
    ("setting-twice", &[("name = \"mode\"", "name = \"folders\"")], &[("setting[1].name", "comes earlier")], Accepts),
    ("setting-type", &[("type = \"string\"\n", "type = \"text\"\n")], &[("setting[1].type", "must be one of string, integer, boolean, string-list")], Refuses),
    ("setting-lost", &[("env = \"NOTES_MODE\"\n", "")], &[("setting[1]", "needs env or arguments")], Accepts),
    ("setting-no-value", &[("\"{value}\"]", "\"x\"]")], &[("setting[0].arguments", "must contain {value}")], Accepts),
    ("setting-default", &[("default = \"fast\"", "default = \"slow\"")], &[("setting[1].default", "must be one of \"fast\", \"safe\"")], Accepts),
    ("setting-default-type", &[("default = \"fast\"", "default = 1.5")], &[("setting[1].default", "text, a whole number, true or false, or a list of texts")], Refuses),
    ("setting-enum", &[("\"safe\"]", "7]")], &[("setting[1].enum", "must be text")], Accepts),
    ("setting-grants", &[("grants = \"read\"", "grants = \"everything\"")], &[("setting[0].grants", "must be one of read, write, host")], Refuses),
    ("setting-grants-number", &[("type = \"string-list\"", "type = \"integer\"")], &[("setting[0].grants", "is for a string or a string-list")], Accepts),
    ("environment-name", &[("NOTES_CACHE", "\"NOTES CACHE\"")], &[("environment", "A-Z, a-z, 0-9 and '_'")], Refuses),
    ("environment-number", &[("\"{data}/cache\"", "5")], &[("environment.NOTES_CACHE", "must be text of at most 8192 bytes")], Refuses),
    ("hosts-no-port", &[("api.example.com:443", "api.example.com")], &[("sandbox.hosts[0]", "names no port")], Refuses),
    ("hosts-address", &[("api.example.com:443", "https://api.example.com/v1:443")], &[("sandbox.hosts[0]", "names no port")], Accepts),
    ("hosts-closed", &[("[sandbox]", "[sandbox]\nnetwork = \"none\"")], &[("sandbox.hosts", "goes with network = \"allow-list\" or \"learn\"")], Accepts),
    ("sandbox-up", &[("[sandbox]", "[sandbox]\nread = [\"/srv/../etc\"]")], &[("sandbox.read", "is not an absolute path without \"..\"")], Accepts),
    ("sandbox-layer", &[("[sandbox]", "[sandbox]\nrequire = [\"chroot\"]")], &[("sandbox.require", "a list of pid-namespace")], Refuses),
    ("limits-text", &[("[health]", "[limits]\nmax_memory_bytes = \"512M\"\n[health]")], &[("limits.max_memory_bytes", "a whole number, at least 4194304")], Refuses),
    ("limits-high", &[("[health]", "[limits]\nmax_memory_bytes = 5000000\nmemory_high_bytes = 6000000\n[health]")], &[("limits.memory_high_bytes", "the first is above the second")], Accepts),
    ("health-zero", &[("\"60s\"", "0")], &[("health.start_timeout", "a duration above zero and up to 3650d")], Refuses),
    ("health-unit", &[("\"60s\"", "\"60 sec\"")], &[("health.start_timeout", "such as 30s, 5m, 2h")], Refuses),
    ("restart-policy", &[("[health]", "[restart]\npolicy = \"unless-stopped\"\n[health]")], &[("restart.policy", "must be one of never, on-failure, always")], Refuses),
    ("restart-backoff", &[("[health]", "[restart]\nbackoff_initial = \"2m\"\n[health]")], &[("restart.backoff_initial", "must be at most backoff_max, 30s")], Accepts),
    ("lease-default", &[("\"1h\"", "\"60d\"")], &[("lease.ttl_default", "must be at most ttl_max, 30d")], Accepts),
    ("lease-century", &[("\"30d\"", "\"36500d\"")], &[("lease.ttl_max", "up to 3650d")], Accepts),
    ("stop-negative", &[("[health]", "[stop]\nterm_grace = -1\n[health]")], &[("stop.term_grace", "a duration such as 30s, 5m, 2h or 0")], Refuses),
    ("remote-no-url", &[(GOOD, remote!("", ""))], &[("server.url", "is needed: where the server is")], Accepts),
    ("remote-placeholder", &[(GOOD, remote!("url = \"https://mcp.example.com/{token}\"", ""))], &[("server.url", "those here are {setting.NAME} and {credential.NAME}")], Accepts),
    ("remote-scheme", &[(GOOD, remote!("url = \"ftp://mcp.example.com/\"", ""))], &[("server.url", "must begin with https://")], Accepts),
    ("remote-command", &[(GOOD, remote!("url = \"https://mcp.example.com/mcp\"\ncommand = [\"x\"]", ""))], &[("server.command", "is for a process of ours")], Accepts),
    ("remote-header", &[(GOOD, remote!("url = \"https://mcp.example.com/mcp\"", "Host = \"x\""))], &[("server.headers.Host", "which minimcp sets itself")], Accepts),
    ("remote-header-number", &[(GOOD, remote!("url = \"https://mcp.example.com/mcp\"", "X-Region = 5"))], &[("server.headers.X-Region", "must be text of 1 to 8192 bytes")], Refuses),
    ("remote-credential", &[(GOOD, remote!("url = \"https://mcp.example.com/mcp\"", "X-Key = \"{credential.OTHER}\""))], &[("server.headers.X-Key", "there is no credential \"OTHER\"")], Accepts),
    ("oauth-no-token-url", &[(GOOD, oauth!("token_upstream = [\"https://api.example.com/token\"]\nrefresh_token = \"NOTES_REFRESH_TOKEN\""))], &[("oauth.token_url_variable", "is missing: text: an environment variable")], Refuses),
    ("oauth-no-credential", &[(GOOD, OAUTH), ("refresh_token = \"NOTES_REFRESH_TOKEN\"", "")], &[("oauth", "needs refresh_token or json")], Accepts),
    ("oauth-credential", &[(GOOD, OAUTH), ("refresh_token = \"NOTES_REFRESH_TOKEN\"", "json = \"NOTES_JSON\"")], &[("oauth.json", "NOTES_JSON is not the name of a [[credential]]")], Accepts),
    ("oauth-one-variable", &[(GOOD, OAUTH), ("\"NOTES_URL\"", "\"NOTES_TOKEN_URL\"")], &[("oauth.base_url_variable", "must differ from token_url_variable")], Accepts),
    ("oauth-variable", &[(GOOD, OAUTH), ("\"NOTES_URL\"", "\"NOTES_REFRESH_TOKEN\"")], &[("oauth.base_url_variable", "is set by another key already")], Accepts),
    ("oauth-host", &[(GOOD, OAUTH), ("https://api.example.com/token", "https://login.example.com/token")], &[("oauth.token_upstream", "login.example.com:443 is not among sandbox.hosts")], Accepts),
    ("oauth-no-place", &[(GOOD, OAUTH), ("upstream = [\"https://api.example.com\"]\n\n", "upstream = []\n\n")], &[("oauth.upstream", "needs at least one address")], Accepts),
    ("oauth-http", &[(GOOD, OAUTH), ("https://api.example.com/token", "http://api.example.com/token")], &[("oauth.token_upstream[0]", "an address such as https://api.example.com/v1")], Accepts),
    ("oauth-format", &[(GOOD, OAUTH), ("[oauth]\n", "[oauth]\nformat = \"Bearer\"\n")], &[("oauth.format", "with one {}")], Refuses),
    ("oauth-open", &[(GOOD, OAUTH), ("[sandbox]\nhosts = [\"api.example.com:443\"]", "[sandbox]\nnetwork = \"open\"")], &[("oauth", "goes with network = \"allow-list\" or \"learn\"")], Accepts),
    ("oauth-unknown", &[(GOOD, OAUTH), ("[oauth]\n", "[oauth]\nclient_id = \"X\"\n")], &[("oauth.client_id", "unknown key; the keys here are token_url_variable")], Refuses),
    ("url-of-a-process", &[("[server]", "[server]\nurl = \"https://mcp.example.com/mcp\"")], &[("server.url", "goes with transport = \"remote\"")], Accepts),
    ("toml-quote", &[("title = \"Notes\"", "title = \"Notes")], &[("line 3", "")], Unreadable),
    ("toml-twice", &[("[environment]", "[server]")], &[("line 33", "duplicate key")], Unreadable),
    ("toml-two-faults", &[("title = \"Notes\"", "title = Notes"), ("[health]", "[health")], &[("line 3", ""), ("line 39", "unclosed table")], Unreadable),
    ("everything-at-once", &[("schema = 1", "schema = 9"), ("title = \"Notes\"", "title = 5"), ("\"stdio\"", "\"smtp\""), ("NOTES_TOKEN", "9"),
        ("default = \"fast\"", "default = \"slow\""), ("api.example.com:443", "api.example.com"), ("\"60s\"", "0"), ("\"1h\"", "\"90d\"")],
        &[("schema", "the number 1"), ("title", "text of 1 to 100 bytes"), ("server.transport", "one of stdio"), ("credential[0].name", "not starting with a digit"),
        ("setting[1].default", "must be one of"), ("sandbox.hosts[0]", "names no port"), ("health.start_timeout", "above zero"), ("lease.ttl_default", "at most ttl_max")], Refuses),
];

fn manifest((name, changes, ..): &Case) -> String {
    let mut text = GOOD.to_owned();
    for (from, to) in *changes {
        assert!(
            text.contains(from),
            "{name}: {from:?} is not in the manifest"
        );
        text = text.replacen(from, to, 1);
    }
    text.replace("NAME", name)
}

/// Writes every case as a folder below `folder`.
fn write(folder: &Path) -> Vec<PathBuf> {
    let write = |case: &Case| {
        let own = folder.join(case.0);
        fs::create_dir_all(&own).expect("the folder is ours");
        fs::write(own.join("template.toml"), manifest(case)).expect("the folder is ours");
        own
    };
    CASES.iter().map(write).collect()
}

#[test]
fn every_fault_is_told_with_its_file_its_key_and_what_is_allowed() {
    let file = Path::new("somewhere/template.toml");
    let schema = jsonschema::validator_for(&templates::manifest_schema()).expect("a schema");
    for good in [GOOD, REMOTE, OAUTH] {
        let good = good.replace("NAME", "notes");
        assert_eq!(templates::read(&good, "notes", file).err(), None);
        assert!(schema.is_valid(&as_json(&good).expect("TOML")));
    }
    let mut wrong = Vec::new();
    for case in CASES {
        let (name, _, expected, by_schema) = case;
        let text = manifest(case);
        let faults = templates::read(&text, name, file).expect_err(name);
        let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
        let told = expected.iter().all(|(key, part)| {
            let of_key = |fault: &&templates::Fault| fault.key == *key && fault.file == file;
            faults
                .iter()
                .filter(of_key)
                .any(|fault| !fault.message.is_empty() && fault.message.contains(part))
        });
        let only: BTreeSet<&str> = expected.iter().map(|(key, _)| *key).collect();
        if !told || keys.iter().copied().collect::<BTreeSet<_>>() != only {
            wrong.push(format!("{name}: {faults:?}"));
        }
        let verdict = match as_json(&text) {
            None => Unreadable,
            Some(manifest) if schema.is_valid(&manifest) => Accepts,
            Some(_) => Refuses,
        };
        if verdict != *by_schema {
            wrong.push(format!("{name}: the schema {verdict:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(CASES.len() >= 40, "{}", CASES.len());
}

#[test]
fn the_command_line_tells_the_faults_of_all_folders_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folders = write(folder.path());
    let said = Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .args(["template", "check"])
        .args(&folders)
        .output()
        .expect("it starts");
    let out = String::from_utf8(said.stdout).expect("text");
    assert_eq!(said.status.code(), Some(1), "{out}");
    for (name, _, faults, _) in CASES {
        let file = folder.path().join(name).join("template.toml");
        for (key, part) in *faults {
            let line = out.lines().find(|line| {
                line.starts_with(&format!("{}: {key}: ", file.display())) && line.contains(part)
            });
            assert!(line.is_some(), "{name}: {key} is not told in\n{out}");
        }
    }
    let err = String::from_utf8_lossy(&said.stderr);
    let all = format!("{0} of {0} templates are faulty", CASES.len());
    assert!(err.contains(&all), "{err}");
}

#[tokio::test]
async fn a_daemon_with_bad_manifests_says_so_and_runs_the_good_ones() {
    let server = Server::start_with(Database::Sqlite, |config| {
        write(&config.runtime.template_dirs[0]);
    })
    .await;
    let log = server.log();
    for (name, _, faults, _) in CASES {
        for (key, _) in *faults {
            let place = format!("{name}/template.toml: {key}: ");
            assert!(log.contains(&place), "{place} is not in\n{log}");
        }
    }
    let templates = server.get("/templates").await;
    let listed = templates["items"].as_array().expect("a list");
    let listed: BTreeSet<&str> = listed
        .iter()
        .filter_map(|item| item["name"].as_str())
        .collect();
    assert!(listed.contains("demo"));
    assert!(
        CASES.iter().all(|(name, ..)| !listed.contains(name)),
        "{listed:?}"
    );
    let instance = server.create(json!({"template": "demo"})).await;
    assert_eq!(instance["status"], "running", "{instance:#}");
}
