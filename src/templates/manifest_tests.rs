use std::{collections::BTreeSet, path::Path};

use super::{read, tests::GOOD};

/// The keys of the faults of GOOD with `from` replaced by `to`.
fn faulty_keys(from: &str, to: &str) -> BTreeSet<String> {
    assert!(GOOD.contains(from), "{from}");
    match read(&GOOD.replacen(from, to, 1), "x", Path::new("template.toml")) {
        Ok(_) => BTreeSet::new(),
        Err(faults) => faults.into_iter().map(|fault| fault.key).collect(),
    }
}

#[test]
fn each_fault_names_its_key() {
    let mut wrong = Vec::new();
    for (from, to, key) in [
        ("schema = 1", "schema = 2", "schema"),
        ("schema = 1\n", "", "schema"),
        ("name = \"x\"", "name = \"y\"", "name"),
        ("name = \"x\"", "name = \"X!\"", "name"),
        ("title = \"X\"", "title = 5", "title"),
        ("title = \"X\"", "title = \"\"", "title"),
        ("title = \"X\"", "title = \"X\"\ntitel = 1", "titel"),
        ("description = \"A server.\"", "", "description"),
        (
            "title = \"X\"",
            "title = \"X\"\nhomepage = \"ftp://x\"",
            "homepage",
        ),
        ("\"stdio\"", "\"smtp\"", "server.transport"),
        (
            "\"stdio\"",
            "\"stdio\"\nsessions = \"own\"",
            "server.sessions",
        ),
        (
            "\"stdio\"",
            "\"stdio\"\nsession_children_max = 2",
            "server.session_children_max",
        ),
        (
            "\"stdio\"",
            "\"stdio\"\nsession_idle = \"5m\"",
            "server.session_idle",
        ),
        (
            "\"stdio\"",
            "\"stdio\"\nsessions = \"per-session\"\nsession_children_max = 0",
            "server.session_children_max",
        ),
        (
            "\"stdio\"",
            "\"stdio\"\nsessions = \"per-session\"\nsession_idle = 0",
            "server.session_idle",
        ),
        (
            "\"stdio\"",
            "\"http\"\nport_env = \"PORT\"\nsessions = \"per-session\"",
            "server.sessions",
        ),
        (
            "\"stdio\"",
            "\"stdio\"\nera = \"stateless\"\nsessions = \"per-session\"",
            "server.sessions",
        ),
        ("transport = \"stdio\"", "", "server.transport"),
        (
            "transport = \"stdio\"",
            "transport = \"stdio\"\nera = \"2026-07-28\"",
            "server.era",
        ),
        (
            "transport = \"stdio\"",
            "transport = \"stdio\"\nunclaimed_requests = \"oldest\"",
            "server.unclaimed_requests",
        ),
        ("command = [\"prog\", \"--data={data}\"]", "", "server"),
        (
            "command = [\"prog\",",
            "builtin = \"demo\"\ncommand = [\"prog\",",
            "server.command",
        ),
        (
            "command = [\"prog\", \"--data={data}\"]",
            "builtin = \"nope\"",
            "server.builtin",
        ),
        ("\"prog\"", "\"bin/prog\"", "server.command"),
        ("\"--data={data}\"", "\"{value}\"", "server.command"),
        ("\"--data={data}\"", "\"{port}\"", "server.command"),
        ("\"--data={data}\"", "7", "server.command"),
        ("\"stdio\"", "\"http\"", "server.port_env"),
        (
            "\"stdio\"",
            "\"stdio\"\nport_env = \"PORT\"",
            "server.port_env",
        ),
        (
            "\"stdio\"",
            "\"http\"\nport_env = \"PORT\"\npath = \"mcp\"",
            "server.path",
        ),
        (
            "name = \"TOKEN\"",
            "name = \"TO-KEN\"",
            "credential[0].name",
        ),
        ("name = \"TOKEN\"", "name = \"MODE\"", "setting[1].env"),
        ("env = \"MODE\"", "env = \"LD_PRELOAD\"", "setting[1].env"),
        (
            "[[setting]]\nname = \"folders\"",
            "[[setting]]\nname = \"mode\"",
            "setting[1].name",
        ),
        (
            "name = \"folders\"",
            "name = \"Folders\"",
            "setting[0].name",
        ),
        ("\"string-list\"", "\"list\"", "setting[0].type"),
        ("arguments = [\"--folder\", \"{value}\"]", "", "setting[0]"),
        ("\"{value}\"]", "\"x\"]", "setting[0].arguments"),
        (
            "default = \"fast\"",
            "default = \"slow\"",
            "setting[1].default",
        ),
        ("default = \"fast\"", "default = 5", "setting[1].default"),
        (
            "default = \"fast\"",
            "default = 2020-01-01",
            "setting[1].default",
        ),
        ("\"safe\"]", "5]", "setting[1].enum"),
        ("[\"-q\"]", "[\"-q={value}\"]", "setting[3].arguments"),
        (
            "[[credential]]",
            "[health]\nstart_timeout = 0\n[[credential]]",
            "health.start_timeout",
        ),
        (
            "[[credential]]",
            "[health]\ntimeout = \"10x\"\n[[credential]]",
            "health.timeout",
        ),
        (
            "[[credential]]",
            "[limits]\nmemory_high_bytes = 3221225472\n[[credential]]",
            "limits.memory_high_bytes",
        ),
        (
            "[[credential]]",
            "[limits]\nmax_processes = 0\n[[credential]]",
            "limits.max_processes",
        ),
        (
            "[[credential]]",
            "[lease]\nttl_default = \"2d\"\nttl_max = \"1d\"\n[[credential]]",
            "lease.ttl_default",
        ),
        (
            "[[credential]]",
            "[restart]\npolicy = \"maybe\"\n[[credential]]",
            "restart.policy",
        ),
        (
            "[[credential]]",
            "[restart]\nbackoff_initial = \"2m\"\n[[credential]]",
            "restart.backoff_initial",
        ),
        (
            "[[credential]]",
            "[stop]\nterm_grace = -1\n[[credential]]",
            "stop.term_grace",
        ),
        (
            "[[credential]]",
            "[environment]\n\"A=B\" = \"x\"\n[[credential]]",
            "environment",
        ),
        (
            "[[credential]]",
            "[environment]\nTOKEN = \"x\"\n[[credential]]",
            "credential[0].name",
        ),
        ("[[credential]]", "[server]\n[[credential]]", "line 10"),
    ] {
        let keys = faulty_keys(from, to);
        if keys != BTreeSet::from([key.to_owned()]) {
            wrong.push(format!("{to}: {keys:?}, not {key}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "schema = 3\nname = \"y\"\ntitle = \"T\"\nnonsense = 1\n[server]\ntransport = \"stdio\"\n\
                [[setting]]\nname = \"a\"\ntype = \"integer\"\ndefault = \"x\"\n[health]\ninterval = 0\n";
    let faults = read(text, "x", Path::new("t/template.toml")).expect_err("faulty");
    let keys: BTreeSet<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    let expected = [
        "schema",
        "name",
        "nonsense",
        "description",
        "server",
        "setting[0].title",
        "setting[0]",
        "setting[0].default",
        "health.interval",
    ];
    assert_eq!(keys, BTreeSet::from(expected));
    let unknown = faults
        .iter()
        .find(|fault| fault.key == "nonsense")
        .expect("told")
        .to_string();
    assert!(
        unknown.starts_with("t/template.toml: nonsense: unknown key")
            && unknown.contains("homepage")
    );
}
