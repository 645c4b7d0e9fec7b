//! What a registry says of a package, asked in the sandbox of installations: the newest version that fits, and the
//! programs in it. Nothing of the package is run or kept.

use std::{fs, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, BufReader},
    net::unix::pipe,
};
use uuid::Uuid;

use super::{
    Installer,
    work::{self, Registered},
};
use crate::domain::{exit::ExitStatus, id::InstanceId, package::Registry};

/// A version that a registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The exact version.
    pub version: String,
    /// Its programs; npm names them, PyPI does not.
    pub programs: Vec<String>,
}

/// Longest answer of a registry in bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(45);

const NPM_STEPS: &str =
    "set -eu; npm view --no-update-notifier --loglevel=error --json \"$2\" version bin";

const PYPI_STEPS: &str = "set -eu; python3 -m venv \"$1/venv\"; \
    \"$1/venv/bin/python3\" -m pip install --no-input --disable-pip-version-check --no-cache-dir --quiet \
        --dry-run --no-deps --ignore-installed --report \"$1/report.json\" \"$2\" >&2; \
    \"$1/venv/bin/python3\" -c 'import json, sys; \
print(json.dumps(json.load(open(sys.argv[1]))[\"install\"][0][\"metadata\"][\"version\"]))' \"$1/report.json\"";

impl Installer {
    /// The newest version of a package that fits `wanted`: a tag or range of npm, a comparison of PyPI, or empty.
    ///
    /// # Errors
    /// One sentence, with the last words of npm or pip.
    pub async fn look_up(
        self: &Arc<Self>,
        registry: Registry,
        name: &str,
        wanted: &str,
    ) -> Result<Published, String> {
        let specifier = match (registry, wanted) {
            (Registry::Npm, "") => name.to_owned(),
            (Registry::Npm, wanted) => format!("{name}@{wanted}"),
            (Registry::Pypi, wanted) => format!("{name}{wanted}"),
        };
        let failed = |why: String| format!("{}: {specifier} was not found: {why}", registry.word());
        let program = super::installer(registry);
        let there = self
            .search_path
            .iter()
            .any(|folder| folder.join(program).is_file());
        if !there {
            return Err(failed(format!("{program} is not in runtime.search_path")));
        }
        let _turn = self
            .look_ups
            .acquire()
            .await
            .map_err(|_| failed("the daemon is going down".to_owned()))?;
        let answer = ask(self, registry, &specifier).await.map_err(failed)?;
        read(registry, &answer).ok_or_else(|| failed("no version fits".to_owned()))
    }
}

async fn ask(installer: &Installer, registry: Registry, specifier: &str) -> Result<String, String> {
    let id = InstanceId(Uuid::now_v7());
    let folder = installer.store.join(format!(".look-up-{id}"));
    let fresh = folder.clone();
    work::blocking(move || work::make_fresh(&fresh))
        .await
        .map_err(|error| format!("a folder for the question cannot be made: {}", error.kind()))?;
    let _registered = Registered::new(installer, id);
    let steps = match registry {
        Registry::Npm => NPM_STEPS,
        Registry::Pypi => PYPI_STEPS,
    };
    let shown = folder.to_string_lossy().into_owned();
    let argv = ["/bin/sh", "-c", steps, "look-up", &shown, specifier].map(str::to_owned);
    let plan = work::plan(installer, registry, &folder, id, argv.to_vec());
    let launched = installer.runtime.launch(plan).await;
    let answer = match launched {
        Ok(workload) => {
            let answer = follow(&workload).await;
            if answer.is_err() {
                let _ = workload.kill_tree().await;
                let _ = tokio::time::timeout(work::END_PATIENCE, workload.exited()).await;
            }
            // Gone already, or told by the keeper's own state.
            let _ = workload.forget().await;
            answer
        }
        Err(error) => Err(error.to_string()),
    };
    // What is left of it is found by nobody.
    let _ = work::blocking(move || fs::remove_dir_all(folder)).await;
    answer
}

async fn follow(workload: &crate::runtime::Workload) -> Result<String, String> {
    let pipes = workload.take_pipes();
    let pipes = pipes.ok_or_else(|| "the keeper gave no pipes".to_owned())?;
    drop(pipes.stdin);
    let all = async {
        tokio::join!(
            workload.exited(),
            whole(pipes.stdout),
            work::last_lines(pipes.stderr)
        )
    };
    let Ok((report, answer, lines)) = tokio::time::timeout(TIMEOUT, all).await else {
        return Err(format!("no answer within {} s", TIMEOUT.as_secs()));
    };
    match report.status {
        ExitStatus::Exited { code: 0 } => Ok(answer),
        status if lines.is_empty() => Err(format!("the question {status}")),
        _ => Err(lines.join(" | ")),
    }
}

/// Everything that is said, up to a bound; the rest is read and dropped, so that nobody waits at a full pipe.
async fn whole(fd: std::os::fd::OwnedFd) -> String {
    let Ok(pipe) = pipe::Receiver::from_owned_fd(fd) else {
        return String::new();
    };
    let mut reader = BufReader::new(pipe);
    let mut answer = Vec::new();
    let _ = (&mut reader)
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await;
    let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The newest version in an answer; npm lists all that fit, the newest last.
fn read(registry: Registry, answer: &str) -> Option<Published> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    if registry == Registry::Pypi {
        let version = answer.as_str()?.to_owned();
        return Some(Published {
            version,
            programs: Vec::new(),
        });
    }
    let last = match &answer {
        Value::Array(all) => all.last()?,
        one => one,
    };
    let programs = last["bin"].as_object().into_iter().flatten();
    Some(Published {
        // Without programs npm says the version alone.
        version: last["version"]
            .as_str()
            .or_else(|| last.as_str())?
            .to_owned(),
        programs: programs.map(|(name, _)| name.clone()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_npm_are_read_in_each_of_their_forms() {
        let published = |version: &str, programs: &[&str]| {
            Some(Published {
                version: version.to_owned(),
                programs: programs.iter().map(|it| (*it).to_owned()).collect(),
            })
        };
        for (answer, expected) in [
            (
                r#"{"version": "1.2.3", "bin": {"a": "x.js", "b": "y.js"}}"#,
                published("1.2.3", &["a", "b"]),
            ),
            (r#""1.2.3""#, published("1.2.3", &[])),
            (
                r#"[{"version": "1.0.0", "bin": {"a": "x"}}, {"version": "1.1.0", "bin": {"a": "x"}}]"#,
                published("1.1.0", &["a"]),
            ),
            (r#"["1.0.0", "1.1.0"]"#, published("1.1.0", &[])),
            ("", None),
            ("[]", None),
            ("{}", None),
        ] {
            assert_eq!(read(Registry::Npm, answer), expected, "{answer}");
        }
        assert_eq!(read(Registry::Pypi, "\"2.0\"\n"), published("2.0", &[]));
        assert_eq!(read(Registry::Pypi, "{}"), None);
    }
}
