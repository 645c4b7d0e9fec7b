//! The odd servers of `tests/fixtures`, as templates, and where programs of the tests are found.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::source;

/// Stands for the folder of the fixture programs in their manifests.
const SERVERS: &str = "@SERVERS@";
/// Stands for the folder of the installed SDKs: a Node program finds its packages from where it lies.
const CLIENTS: &str = "@CLIENTS@";

/// Writes the fixtures' manifests, with absolute paths, to a folder for `runtime.template_dirs`.
pub fn write_templates(folder: &Path) -> PathBuf {
    let fixtures = source::root().join("tests/fixtures");
    let servers = fixtures.join("servers");
    let servers = servers.to_str().expect("the checkout has a plain path");
    let clients = std::env::var("MINIMCP_TEST_DEPS").unwrap_or_else(|_| "/absent".to_owned());
    let target = folder.join("templates");
    for entry in fs::read_dir(fixtures.join("templates")).expect("fixtures are in the tree") {
        let entry = entry.expect("fixtures are readable");
        let text = fs::read_to_string(entry.path().join("template.toml"))
            .expect("every fixture has a manifest");
        let folder = target.join(entry.file_name());
        fs::create_dir_all(&folder).expect("the folder is ours");
        let text = text.replace(SERVERS, servers).replace(CLIENTS, &clients);
        fs::write(folder.join("template.toml"), text).expect("the folder is ours");
    }
    target
}

/// The folder where `./tests/run` puts SDK clients and reference servers; says so when it did not run.
pub fn deps() -> Option<PathBuf> {
    let found = std::env::var_os("MINIMCP_TEST_DEPS").map(PathBuf::from);
    if found.is_none() {
        eprintln!("SKIPPED with SDK clients and reference servers: run ./tests/run");
    }
    found
}

/// `runtime.search_path` of the tests: reference servers first, then the PATH.
pub fn search_path() -> Vec<PathBuf> {
    let deps = std::env::var_os("MINIMCP_TEST_DEPS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    deps.iter()
        .flat_map(|deps| {
            [
                deps.join("node/node_modules/.bin"),
                deps.join("python-sdk2/bin"),
            ]
        })
        .chain(std::env::split_paths(&path))
        .filter(|folder| folder.is_absolute())
        .collect()
}

/// The folder of the third-party servers for Node, beside which those for Python lie; says so when `./tests/run` did not
/// install them.
pub fn third_party() -> Option<PathBuf> {
    let folder = deps()?.join("third-party/node_modules/.bin");
    if !folder.is_dir() {
        eprintln!("SKIPPED with third-party servers: run ./tests/run");
        return None;
    }
    Some(folder)
}

/// `runtime.search_path` with the third-party servers before everything else.
pub fn third_party_search_path() -> Vec<PathBuf> {
    let python = ["python-third-1/bin", "python-third-2/bin"];
    let python = python.map(|folder| deps().map(|deps| deps.join(folder)));
    let own = python.into_iter().flatten();
    // What the environments have in common, such as python3, is found where it is found in every test.
    let known = search_path();
    third_party().into_iter().chain(known).chain(own).collect()
}

/// `runtime.search_path` without any server of the tests.
pub fn bare_search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .collect()
}
