use std::path::Path;

use super::*;

fn faults(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).expect("written");
    match load(&file, variables) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Faulty(faults)) => faults.iter().map(ToString::to_string).collect(),
        Err(other) => vec![other.to_string()],
    }
}

fn load(file: &Path, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(file), variables)
}

fn loaded(text: &str, variables: &[(&str, &str)]) -> Config {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).expect("written");
    load(&file, variables).expect("a valid configuration")
}

const DOCUMENTED: &str = include_str!("../../config.toml");

#[test]
fn the_documented_file_is_the_default() {
    let config = Config::parse(DOCUMENTED, Path::new("config.toml")).expect("valid");
    assert_eq!(config, Config::default());
}

#[test]
fn every_key_is_documented() {
    let mut section = String::new();
    let mut documented = std::collections::BTreeSet::new();
    for line in DOCUMENTED.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
            documented.insert(format!("{section}.{key}"));
        }
    }
    for (section, keys) in overlay::known_keys() {
        for key in keys.keys().filter(|_| section != "tasks") {
            let place = format!("{section}.{key}");
            assert!(documented.contains(&place), "{place} is not in config.toml");
        }
    }
}

#[test]
fn variables_go_before_the_file() {
    let config = loaded(
        "[api]\nport = 8000\n[logs]\nbatch_rows = 9\n[database]\nurl = 'sqlite:file.db'",
        &[
            ("MINIMCP_API__PORT", "9000"),
            (
                "MINIMCP_API__CORS_ORIGINS",
                "https://a.example, https://b.example",
            ),
            ("MINIMCP_GATEWAY__ALLOWED_HOSTS", "[\"a\", \"b\"]"),
            ("MINIMCP_GATEWAY__PUBLIC_HOST", "mcp.example.com"),
            ("MINIMCP_GATEWAY__WAKE_BUDGET", "10"),
            ("MINIMCP_RUNTIME__LEAVE_INSTANCES_RUNNING", "true"),
            ("MINIMCP_TASKS__LOG_RETENTION", "off"),
            ("DATABASE_URL", "postgres://ann@db/x"),
            // No keys of the configuration:
            ("MINIMCP_TOKEN", "x"),
            ("MINIMCP_LOG", "debug"),
            ("OTHER__THING", "x"),
        ],
    );
    assert_eq!(config.api.port, 9_000);
    assert_eq!(
        config.api.cors_origins,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.gateway.allowed_hosts, ["a", "b"]);
    assert_eq!(
        config.gateway.public_host.as_deref(),
        Some("mcp.example.com")
    );
    assert_eq!(config.gateway.wake_budget, HumanDuration::from_secs(10));
    assert!(config.runtime.leave_instances_running);
    assert_eq!(config.tasks["log-retention"], "off");
    assert_eq!(config.database.url, "postgres://ann@db/x");
    assert_eq!(config.logs.batch_rows, 9);
}

#[test]
fn our_own_variable_goes_before_database_url_and_a_file_may_hold_the_url() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("url");
    std::fs::write(&secret, "postgres://ann:pw@db/y\n").expect("written");
    let secret = secret.to_str().expect("text");
    let config = loaded(
        "",
        &[
            ("MINIMCP_DATABASE__URL_FILE", secret),
            ("DATABASE_URL", "postgres://ann@db/x"),
        ],
    );
    assert_eq!(config.database.url, "postgres://ann:pw@db/y");
    assert!(!format!("{config:?}").contains("pw@"));
    let shown = toml::to_string(&config.without_password()).expect("TOML");
    assert!(!shown.contains("pw"), "{shown}");
    let gone = faults("", &[("MINIMCP_DATABASE__URL_FILE", "/nowhere/url")]);
    assert!(
        gone[0].starts_with("MINIMCP_DATABASE__URL_FILE: cannot read /nowhere/url"),
        "{gone:?}"
    );
}

#[test]
fn an_empty_variable_takes_an_optional_key_away() {
    let config = loaded(
        "[api]\nunix_socket = '/run/x.sock'",
        &[("MINIMCP_API__UNIX_SOCKET", "")],
    );
    assert_eq!(config.api.unix_socket, None);
}

#[test]
fn addresses_for_every_program_count_where_none_is_ours() {
    let general = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://every:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/x"),
    ];
    let traces = |file: &str, variables: &[(&str, &str)]| {
        let traces = loaded(file, variables).traces;
        (traces.endpoint, traces.url)
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(traces("", &[]), (None, None));
    let both = (text("http://every:4318"), text("http://traces:4318/x"));
    assert_eq!(traces("", &general), both);
    let file = "[traces]\nendpoint = 'http://ours:4318'";
    assert_eq!(traces(file, &general), (text("http://ours:4318"), None));
    let ours = ("MINIMCP_TRACES__ENDPOINT", "http://ours:4318");
    let all = [general[0], ours, general[1]];
    assert_eq!(traces("", &all), (text("http://ours:4318"), None));
    let empty = ("OTEL_EXPORTER_OTLP_ENDPOINT", "");
    assert_eq!(traces("", &[empty]), (None, None));
}

#[test]
fn every_fault_is_told_at_once() {
    let found = faults(
        r#"
        [api]
        prot = 1
        address = "here"
        [gatway]
        port = 1
        [logs]
        retention = "10x"
        batch_rows = 0
        [tasks]
        reconcile = "* * *"
        "#,
        &[
            ("MINIMCP_API__PORT", "many"),
            ("MINIMCP_RUNTIME__KEEPER_SPAWN", "perhaps"),
            ("MINIMCP_RUNTIME__PORT_MAXX", "1"),
        ],
    );
    insta::assert_snapshot!(found.join("\n"));
}

/// One wrong line each, with the place that must be named.
#[test]
fn what_cannot_be_is_refused() {
    for (text, place) in [
        ("[runtime]\nport_min = 0", "runtime.port_min"),
        ("[runtime]\nport_min = 4000", "runtime.port_max"),
        ("[runtime]\nport_max = 70000", "runtime.port_max"),
        ("[runtime]\ninstances_max = 0", "runtime.instances_max"),
        ("[runtime]\nlaunches_max = 0", "runtime.launches_max"),
        ("[runtime]\nsearch_path = ['bin']", "runtime.search_path"),
        ("[runtime]\nkeeper_socket = ''", "runtime.keeper_socket"),
        ("[runtime]\ninstance_dir = ''", "runtime.instance_dir"),
        ("[api]\nport = 3500", "api.port"),
        ("[api]\nport = '7420'", "api.port"),
        ("[api]\nbody_limit_bytes = 0", "api.body_limit_bytes"),
        ("[api]\nrequest_timeout = 0", "api.request_timeout"),
        (
            "[api]\ncors_origins = ['https://a.example/']",
            "api.cors_origins",
        ),
        (
            "[api]\ncors_origins = 'https://a.example'",
            "api.cors_origins",
        ),
        (
            "[gateway]\nallowed_origins = ['a.example']",
            "gateway.allowed_origins",
        ),
        ("[gateway]\npublic_host = 'http://a'", "gateway.public_host"),
        ("[gateway]\nallowed_hosts = ['']", "gateway.allowed_hosts"),
        ("[gateway]\nsessions_max = 0", "gateway.sessions_max"),
        ("[gateway]\nwake_budget = '0s'", "gateway.wake_budget"),
        ("[database]\nurl = 'mysql://a'", "database.url"),
        ("[database]\nurl = 'sqlite:'", "database.url"),
        (
            "[database]\nconnections_max = 0",
            "database.connections_max",
        ),
        ("[logs]\nretention = 0", "logs.retention"),
        ("[logs]\nspool_bytes = 1", "logs.spool_bytes"),
        ("[logs]\nline_limit_bytes = 33554432", "logs.queue_bytes"),
        ("[tasks]\nreconcile = '0 0'", "tasks.reconcile"),
        ("[tasks]\nreconcile = 5", "tasks.reconcile"),
        ("[tasks]\nreconcil = '0 * * * * *'", "tasks.reconcil"),
        ("tasks = 5", "tasks"),
        ("api = 5", "api"),
    ] {
        let found = faults(text, &[]);
        assert!(
            found.len() == 1 && found[0].starts_with(&format!("{place}: ")),
            "{text:?} gave {found:?}"
        );
    }
}

#[test]
fn a_variable_with_one_underscore_too_few_is_told() {
    let found = faults(
        "",
        &[
            ("MINIMCP_API_PORT", "8000"),
            ("MINIMCP_API_URL", "http://x"),
        ],
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("MINIMCP_API__PORT"), "{found:?}");
    let found = faults("", &[("MINIMCP_RUNTIME_PORT_MIN", "1")]);
    assert!(found[0].contains("MINIMCP_RUNTIME__PORT_MIN"), "{found:?}");
}

#[test]
fn a_socket_path_has_a_limit() {
    let fits = format!("/{}", "x".repeat(106));
    assert_eq!(
        faults(&format!("[api]\nunix_socket = '{fits}'"), &[]),
        [""; 0]
    );
    let found = faults(&format!("[api]\nunix_socket = '{fits}x'"), &[]);
    assert_eq!(
        found,
        ["api.unix_socket: is 108 bytes long; a unix socket's path has at most 107 bytes"]
    );
}

#[test]
fn a_password_in_a_wrong_url_is_not_repeated() {
    let found = faults("[database]\nurl = 'mysql://ann:s3cret@db/x'", &[]);
    assert!(!found.concat().contains("s3cret"), "{found:?}");
}

#[test]
fn a_named_file_must_exist_and_be_toml() {
    let error = load(Path::new("/nowhere/config.toml"), &[]).expect_err("missing");
    assert!(
        error
            .to_string()
            .starts_with("cannot read the configuration /nowhere/config.toml")
    );
    let found = faults("[api\nport = 1", &[]);
    assert!(
        found[0].contains("is not valid TOML") && found[0].contains("line 1"),
        "{found:?}"
    );
}
