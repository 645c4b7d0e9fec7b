//! The rules of the house, held by tests: who may import whom, where `unsafe` and SQL live, names, lengths.
//!
//! They are written as absences: what a room does *not* know is what keeps it replaceable.

use std::{collections::BTreeMap, fs};

use crate::source::{self, SourceFile};

/// Rooms of `src/` and the rooms they may name; a name that is not listed is forbidden.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("connections", &[]),
    ("traces", &["config"]),
    ("config", &["domain"]),
    ("wire", &["domain"]),
    ("store", &["traces", "domain", "config"]),
    ("secrets", &["store", "domain", "config"]),
    ("spool", &[]),
    ("tally", &["spool", "domain"]),
    (
        "logs",
        &[
            "spool", "tally", "store", "secrets", "traces", "domain", "config",
        ],
    ),
    (
        "calls",
        &["spool", "tally", "store", "clock", "domain", "config"],
    ),
    ("runtime", &["domain", "config"]),
    ("packages", &["runtime", "domain", "config"]),
    (
        "templates",
        &["packages", "domain", "config", "mcp_servers"],
    ),
    ("upstream", &["runtime", "domain", "config"]),
    (
        "egress",
        &["runtime", "secrets", "connections", "clock", "domain"],
    ),
    (
        "supervisor",
        &[
            "runtime",
            "upstream",
            "egress",
            "store",
            "secrets",
            "logs",
            "templates",
            "packages",
            "wire",
            "traces",
            "config",
            "domain",
        ],
    ),
    (
        "gateway",
        &[
            "supervisor",
            "upstream",
            "connections",
            "traces",
            "config",
            "domain",
        ],
    ),
    (
        "tasks",
        &[
            "supervisor",
            "store",
            "secrets",
            "logs",
            "wire",
            "config",
            "domain",
        ],
    ),
    (
        "api",
        &[
            "supervisor",
            "egress",
            "store",
            "secrets",
            "logs",
            "tasks",
            "templates",
            "interchange",
            "connections",
            "traces",
            "wire",
            "config",
            "domain",
        ],
    ),
    ("client", &["wire", "domain"]),
    ("bench", &["runtime", "store", "config", "domain"]),
    ("interchange", &["domain"]),
    (
        "cli",
        &[
            "daemon",
            "client",
            "bench",
            "templates",
            "interchange",
            "config",
            "wire",
            "domain",
        ],
    ),
    ("mcp_servers", &[]),
    ("clock", &["domain"]),
];

/// The roots of the tree: they put the rooms together, so they may name every room.
const COMPOSITION: &[&str] = &["daemon", "main", "lib"];

/// A crate or standard module, and the only folders of `src/` that may name it.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("sqlx", &["src/store/"]),
    ("nix", &["src/runtime/"]),
    ("libc", &["src/runtime/"]),
    ("opentelemetry", &["src/traces/"]),
    ("opentelemetry_sdk", &["src/traces/"]),
];

/// What a folder must not name, beside rooms.
const NEVER_IN: &[(&str, &[&str])] = &[
    (
        "src/domain/",
        &[
            "tokio",
            "axum",
            "hyper",
            "reqwest",
            "nix",
            "libc",
            "sqlx",
            "tracing",
            "getrandom",
        ],
    ),
    (
        "src/runtime/keeper/",
        &["tokio", "axum", "hyper", "reqwest", "sqlx", "tracing"],
    ),
    ("src/wire/", &["tokio", "axum", "hyper", "sqlx"]),
    ("src/client", &["axum", "sqlx"]),
];

/// Words that say nothing about what a thing does.
const BANNED_WORDS: &[&str] = &[
    "util", "utils", "helper", "helpers", "manager", "common", "misc", "stuff",
];

/// Hard limit on the lines of one source file, tests included.
const LINES_MAX: usize = 500;

fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

/// `src/store/pool.rs` and `src/store.rs` are both of the room `store`.
fn room(file: &SourceFile) -> &str {
    let path = file.path.strip_prefix("src/").unwrap_or(&file.path);
    path.split('/')
        .next()
        .unwrap_or(path)
        .trim_end_matches(".rs")
}

#[test]
fn rooms_import_only_what_the_map_allows() {
    let allowed: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut offences = Vec::new();
    for file in source::rust_under("src/") {
        let from = room(&file).to_owned();
        if COMPOSITION.contains(&from.as_str()) {
            continue;
        }
        let Some(allowed) = allowed.get(from.as_str()) else {
            offences.push(format!("{}: the room {from} is not on the map", file.path));
            continue;
        };
        let code = source::code_of(&file.text);
        for (line, to) in source::paths_below(&code, "crate") {
            // A macro or an item of the crate root is not a room.
            let is_room =
                MAY_IMPORT.iter().any(|(name, _)| *name == to) || COMPOSITION.contains(&to);
            let clock = to == "clock" && from != "domain";
            if is_room && to != from && !clock && !allowed.contains(&to) {
                offences.push(format!("{}:{line}: {from} must not know {to}", file.path));
            }
        }
    }
    assert_none("rooms that know too much", &offences);
}

#[test]
fn every_room_on_disk_is_on_the_map() {
    let mut offences = Vec::new();
    for entry in fs::read_dir(source::root().join("src")).expect("src is readable") {
        let name = entry.expect("src is readable").file_name();
        let name = name.to_string_lossy();
        let name = name.trim_end_matches(".rs");
        let known = MAY_IMPORT.iter().any(|(room, _)| *room == name) || COMPOSITION.contains(&name);
        if !known {
            offences.push(name.to_owned());
        }
    }
    assert_none("rooms missing in MAY_IMPORT", &offences);
}

#[test]
fn crates_stay_in_their_room() {
    let mut offences = Vec::new();
    for file in source::rust_under("src/") {
        let code = source::code_of(&file.text);
        for (name, folders) in ONLY_IN {
            if folders.iter().any(|folder| file.path.starts_with(folder)) {
                continue;
            }
            for (line, _) in source::paths_below(&code, name) {
                offences.push(format!("{}:{line}: {name} outside {folders:?}", file.path));
            }
        }
        for (folder, names) in NEVER_IN {
            if !file.path.starts_with(folder) {
                continue;
            }
            for name in *names {
                for (line, _) in source::paths_below(&code, name) {
                    offences.push(format!("{}:{line}: {name} in {folder}", file.path));
                }
            }
        }
    }
    assert_none("crates outside their room", &offences);
}

#[test]
fn the_domain_has_no_clock_and_no_effects() {
    let mut offences = Vec::new();
    for file in source::rust_under("src/domain/") {
        let code = source::code_of(&file.text);
        for (line, module) in source::paths_below(&code, "std") {
            if ["fs", "env", "process", "thread", "os"].contains(&module) {
                offences.push(format!("{}:{line}: std::{module}", file.path));
            }
        }
        for (line, word) in source::words(&code) {
            if ["SystemTime", "Instant"].contains(&word) {
                offences.push(format!("{}:{line}: {word}", file.path));
            }
        }
    }
    assert_none("the domain must stay pure", &offences);
}

#[test]
fn the_clock_and_the_environment_are_read_in_one_place() {
    let mut offences = Vec::new();
    for file in source::rust_under("src/") {
        let code = source::code_of(&file.text);
        for (index, line) in code.lines().enumerate() {
            let clock = line.contains("SystemTime::now") && file.path != "src/clock.rs";
            let reader = ["main", "cli", "config", "daemon", "client"].contains(&room(&file));
            let variable = line.contains("env::var") && !reader;
            if clock || variable {
                offences.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    assert_none("clock or environment read outside their place", &offences);
}

#[test]
fn unsafe_code_lives_in_the_runtime_only() {
    let mut offences = Vec::new();
    for file in source::all() {
        if !file.path.ends_with(".rs") || file.path.starts_with("src/runtime/") {
            continue;
        }
        let code = source::code_of(&file.text);
        for (line, word) in source::words(&code) {
            if word == "unsafe" {
                offences.push(format!("{}:{line}", file.path));
            }
        }
    }
    assert_none("unsafe outside src/runtime", &offences);
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    let mut offences = Vec::new();
    for file in source::all()
        .iter()
        .filter(|file| file.path.ends_with(".rs"))
    {
        let code = source::code_of(&file.text);
        for (index, line) in code.lines().enumerate() {
            let line = line.replace(' ', "");
            if line.contains("#[allow(") || line.contains("#![allow(") {
                offences.push(format!("{}:{}", file.path, index + 1));
            }
        }
    }
    assert_none("allow instead of expect with a reason", &offences);
}

#[test]
fn names_say_what_a_thing_is() {
    let mut offences = Vec::new();
    for file in source::all() {
        let stem = file
            .path
            .split('/')
            .flat_map(|part| part.split(['.', '_', '-']));
        if stem.into_iter().any(|word| BANNED_WORDS.contains(&word)) {
            offences.push(file.path.clone());
        }
        if !file.path.ends_with(".rs") {
            continue;
        }
        let code = source::code_of(&file.text);
        let mut previous = "";
        for (line, word) in source::words(&code) {
            if ["struct", "enum", "trait", "mod", "type"].contains(&previous)
                && snake_words(word).any(|part| BANNED_WORDS.contains(&part.as_str()))
            {
                offences.push(format!("{}:{line}: {word}", file.path));
            }
            previous = word;
        }
    }
    assert_none("names that say nothing", &offences);
}

/// The words of a name in either case style: `PortHelper` and `port_helper` give port, helper.
fn snake_words(name: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter == '_' || letter.is_uppercase() {
            words.push(String::new());
        }
        if letter != '_' {
            let last = words.last_mut().expect("it never becomes empty");
            last.extend(letter.to_lowercase());
        }
    }
    words.into_iter().filter(|word| !word.is_empty())
}

#[test]
fn files_are_short() {
    const KINDS: &[&str] = &[".rs", ".py", ".mjs", ".sql", ".toml", "/run", "/smoke"];
    let mut offences = Vec::new();
    for file in source::all() {
        let lines = file.text.lines().count();
        if KINDS.iter().any(|kind| file.path.ends_with(kind)) && lines > LINES_MAX {
            offences.push(format!("{}: {lines} lines", file.path));
        }
    }
    assert_none("files longer than 500 lines", &offences);
}

#[test]
fn both_databases_have_the_same_migrations() {
    let names = |dialect: &str| -> Vec<String> {
        let folder = source::root().join("migrations").join(dialect);
        let mut names: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| {
                entry
                    .expect("readable")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    };
    let sqlite = names("sqlite");
    assert!(!sqlite.is_empty(), "there is no migration");
    assert_eq!(sqlite, names("postgres"));
    for (index, name) in sqlite.iter().enumerate() {
        let number = name.split('_').next().unwrap_or("");
        assert_eq!(
            number.parse::<usize>().ok(),
            Some(index + 1),
            "{name}: migrations are numbered from 1 without a gap"
        );
    }
}

#[test]
fn the_tree_names_no_registry_and_no_build_machine() {
    // Put together here, so that this file does not name them either.
    let hosts = [
        ["npmjs", "org"],
        ["npmjs", "com"],
        ["pypi", "org"],
        ["pythonhosted", "org"],
        ["crates", "io"],
        ["golang", "org"],
        ["debian", "org"],
    ]
    .map(|parts| parts.join("."));
    let paths = [
        ["", "work", "shared"],
        ["", "work", "main"],
        ["", "tmp", "wt"],
        ["", "root", ""],
    ]
    .map(|parts| parts.join("/"));
    let mut offences = Vec::new();
    for file in source::all() {
        // Cargo itself writes the source of every crate into its lock file.
        if file.path.ends_with("Cargo.lock") {
            continue;
        }
        for (index, line) in file.text.lines().enumerate() {
            for word in hosts.iter().chain(&paths) {
                if line.contains(word.as_str()) {
                    offences.push(format!("{}:{}: {word}", file.path, index + 1));
                }
            }
        }
    }
    assert_none("names of registries or of build machines", &offences);
}

#[test]
fn tests_do_not_sleep_and_hope() {
    let mut offences = Vec::new();
    for folder in ["src/", "tests/", "mcp-templates/"] {
        for file in source::rust_under(folder) {
            // Paused time makes a sleep exact; a poll with a deadline says so beside its sleep.
            if file.text.contains("start_paused") {
                continue;
            }
            let code = source::code_of(&file.text);
            let tests_from = if folder == "tests/" {
                0
            } else {
                code.find("#[cfg(test)]").unwrap_or(code.len())
            };
            let first_line = code[..tests_from].matches('\n').count();
            let lines: Vec<_> = file.text.lines().collect();
            for (line, word) in source::words(&code[tests_from..]) {
                let line = line + first_line;
                let near = &lines[line.saturating_sub(2)..line];
                let poll = near.iter().any(|text| text.contains("// poll"));
                if word == "sleep" && lines[line - 1].contains("sleep(") && !poll {
                    offences.push(format!("{}:{line}", file.path));
                }
            }
        }
    }
    assert_none(
        "sleeps in tests (poll with a deadline, and write `// poll` at the sleep)",
        &offences,
    );
}
