//! `doctor`: what this host allows, what is installed, and whether the daemon is well.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    arguments::{ConfigFile, GlobalOptions},
    configuration, connection,
    failure::Failure,
    output::{GREEN, Output, RED, YELLOW, plain},
};
use crate::{
    client::{Client, ListQuery},
    config::{Config, DEFAULT_FILE},
    daemon::landlock_version,
    domain::sandbox::Layer,
    wire::Instance,
};

/// Descriptors that the process should be allowed: four for each of a thousand instances.
const OPEN_FILES_WANTED: u64 = 4_096;

/// From this version of Landlock on signals and abstract sockets are closed, too (landlock(7)).
const LANDLOCK_WITH_SCOPES: u32 = 6;

/// One line of the report.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    part: &'static str,
    verdict: Verdict,
    pub(super) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// Works, with less.
    Warning,
    /// Does not work.
    Failed,
}

pub(super) fn check(part: &'static str, verdict: Verdict, message: impl Into<String>) -> Check {
    Check {
        part,
        verdict,
        message: message.into(),
    }
}

/// Looks at host and daemon.
pub(super) async fn checks(options: &GlobalOptions) -> Vec<Check> {
    let mut checks = host(Path::new("/"), landlock_version());
    let config = match configuration::load(&ConfigFile { config: None }) {
        Ok(config) => config,
        Err(failure) => {
            checks.push(check("configuration", Verdict::Failed, failure.to_string()));
            Config::default()
        }
    };
    let of_daemon = daemon(options).await;
    // A daemon that answers tells its own ports, whatever its configuration is.
    let answers = of_daemon.iter().any(|check| check.verdict == Verdict::Ok);
    if !answers {
        checks.push(ports(
            config.runtime.port_min,
            config.runtime.port_max,
            |port| TcpListener::bind((config.gateway.address, port)).is_ok(),
        ));
    }
    // As `serve` looks programs up where it has a configuration, else as a quickstart does.
    let path = match Path::new(DEFAULT_FILE).exists() {
        true => std::env::join_paths(&config.runtime.search_path).ok(),
        false => connection::environment("PATH").map(Into::into),
    };
    let path = path.unwrap_or_default().to_string_lossy().into_owned();
    for (part, program, without) in [
        ("node", "node", "templates of npm servers are unavailable"),
        ("npm", "npm", "npm servers cannot be installed"),
        (
            "python",
            "python3",
            "templates of Python servers are unavailable",
        ),
        ("pip", "pip", "Python servers cannot be installed by pip"),
    ] {
        checks.push(match find_program(program, &path) {
            Some(found) => check(part, Verdict::Ok, found.display().to_string()),
            None => check(
                part,
                Verdict::Warning,
                format!("{program} is not in {path}: {without}"),
            ),
        });
    }
    checks.extend(of_daemon);
    checks
}

pub(super) async fn run(options: &GlobalOptions, out: Output) -> Result<ExitCode, Failure> {
    let checks = checks(options).await;
    if out.json {
        let text =
            serde_json::to_string(&checks).map_err(|error| Failure::Failed(error.to_string()))?;
        out.line(&format!("{{\"checks\":{text}}}"))?;
    } else {
        out.line(&shown(&checks, out))?;
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Failed);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn shown(checks: &[Check], out: Output) -> String {
    checks
        .iter()
        .map(|check| {
            let word = match check.verdict {
                Verdict::Ok => out.paint(GREEN, "ok  "),
                Verdict::Warning => out.paint(YELLOW, "warn"),
                Verdict::Failed => out.paint(RED, "FAIL"),
            };
            format!("{word}  {:<16} {}", check.part, plain(&check.message))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn read(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok()
}

/// What the kernel of this host allows: read from its files below `root`, and the version of Landlock that it gave.
fn host(root: &Path, landlock_version: u32) -> Vec<Check> {
    let mut checks = Vec::new();
    let release = read(root, "proc/sys/kernel/osrelease").unwrap_or_default();
    checks.push(check(
        "kernel",
        Verdict::Ok,
        format!("Linux {}", release.trim()),
    ));
    checks.push(user_namespaces(
        read(root, "proc/sys/user/max_user_namespaces").as_deref(),
        read(root, "proc/sys/kernel/unprivileged_userns_clone").as_deref(),
        read(
            root,
            "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        )
        .as_deref(),
    ));
    checks.push(match read(root, "sys/fs/cgroup/cgroup.controllers") {
        Some(controllers) => {
            let missing: Vec<&str> = ["memory", "pids", "cpu"]
                .into_iter()
                .filter(|wanted| controllers.split_whitespace().all(|has| has != *wanted))
                .collect();
            if missing.is_empty() {
                check("cgroup v2", Verdict::Ok, controllers.trim())
            } else {
                let text = format!("mounted, but without {}", missing.join(", "));
                check("cgroup v2", Verdict::Warning, text)
            }
        }
        None => check(
            "cgroup v2",
            Verdict::Warning,
            "not mounted at /sys/fs/cgroup: limits hold by process only",
        ),
    });
    checks.push(landlock(landlock_version));
    checks.push(open_files(read(root, "proc/self/limits").as_deref()));
    checks
}

fn landlock(version: u32) -> Check {
    const PART: &str = "landlock";
    match version {
        0 => {
            let text = format!("the kernel offers none: {}", Layer::Landlock.remedy());
            check(PART, Verdict::Warning, text)
        }
        1..LANDLOCK_WITH_SCOPES => {
            let text = format!(
                "version {version}: files only; signals and abstract sockets from version {LANDLOCK_WITH_SCOPES} on"
            );
            check(PART, Verdict::Ok, text)
        }
        _ => check(PART, Verdict::Ok, format!("version {version}")),
    }
}

fn user_namespaces(max: Option<&str>, debian: Option<&str>, apparmor: Option<&str>) -> Check {
    const PART: &str = "user namespaces";
    let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<u64>().ok());
    if number(max) == Some(0) {
        let text = "user.max_user_namespaces is 0: instances share our process list unless the keeper runs as root";
        return check(PART, Verdict::Warning, text);
    }
    for (value, forbidding, name) in [
        (number(debian), 0, "kernel.unprivileged_userns_clone"),
        (
            number(apparmor),
            1,
            "kernel.apparmor_restrict_unprivileged_userns",
        ),
    ] {
        if value == Some(forbidding) {
            let text = format!("only root may make them ({name} is {forbidding})");
            return check(PART, Verdict::Warning, text);
        }
    }
    match number(max) {
        Some(max) => check(PART, Verdict::Ok, format!("allowed, at most {max}")),
        None => check(PART, Verdict::Warning, "this kernel has none"),
    }
}

/// From the line `Max open files  SOFT  HARD  files` of proc_pid_limits(5); the daemon raises soft to hard.
fn open_files(limits: Option<&str>) -> Check {
    const PART: &str = "open files";
    let hard = limits
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("Max open files"))
        })
        .and_then(|rest| rest.split_whitespace().nth(1));
    match hard {
        Some("unlimited") => check(PART, Verdict::Ok, "unlimited"),
        Some(text) => match text.parse::<u64>() {
            Ok(files) if files >= OPEN_FILES_WANTED => {
                check(PART, Verdict::Ok, format!("up to {files}"))
            }
            _ => check(
                PART,
                Verdict::Warning,
                format!(
                    "up to {text}: about {OPEN_FILES_WANTED} are needed for 1,000 instances (ulimit -Hn)"
                ),
            ),
        },
        None => check(PART, Verdict::Warning, "the limit cannot be read"),
    }
}

fn ports(min: u16, max: u16, free: impl Fn(u16) -> bool) -> Check {
    const PART: &str = "access ports";
    let all = usize::from(max - min) + 1;
    let usable = (min..=max).filter(|port| free(*port)).count();
    let text = format!("{usable} of {all} free, {min} to {max}");
    match usable {
        0 => check(PART, Verdict::Failed, text),
        _ if usable * 2 < all => check(PART, Verdict::Warning, text),
        _ => check(PART, Verdict::Ok, text),
    }
}

fn find_program(name: &str, path: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| {
            std::fs::metadata(file)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
}

async fn daemon(options: &GlobalOptions) -> Vec<Check> {
    const PART: &str = "daemon";
    let client = match connection::connect(options, &connection::environment) {
        Ok(client) => client,
        Err(failure) => return vec![check(PART, Verdict::Failed, failure.to_string())],
    };
    let readiness = match client.readiness().await {
        Ok(reply) => reply.read(),
        Err(error) => Err(error),
    };
    let readiness = match readiness {
        Ok(readiness) => readiness,
        // None has to run for the host to be fit for one.
        Err(error) if error.is_unreachable() => {
            return vec![check(PART, Verdict::Warning, error.to_string())];
        }
        Err(error) => return vec![check(PART, Verdict::Failed, error.to_string())],
    };
    let verdict = |well: bool| if well { Verdict::Ok } else { Verdict::Failed };
    let text = format!(
        "{} at {}",
        if readiness.ready {
            "ready"
        } else {
            "not ready"
        },
        client.target()
    );
    let mut checks = vec![check(PART, verdict(readiness.ready), text)];
    for (name, state) in &readiness.checks {
        let text = format!("{name}: {state}");
        // What the daemon gives up of its own rights: without it all works.
        let verdict = match state == "ok" {
            false if name.starts_with("own-") => Verdict::Warning,
            well => verdict(well),
        };
        checks.push(check(PART, verdict, text));
    }
    checks.extend(sandboxes(&client).await);
    checks.extend(super::doctor_sizes::checks(&client).await);
    checks.extend(super::doctor_budgets::checks(&client).await);
    checks.extend(super::doctor_reconcile::checks(&client).await);
    checks.push(match client.ports().await {
        Ok(reply) => match reply.read() {
            Ok(ports) => {
                let text = format!(
                    "token accepted; {} access ports leased, {} resting, {} free",
                    ports.leased.len(),
                    ports.quarantined.len(),
                    ports.free
                );
                check(PART, Verdict::Ok, text)
            }
            Err(error) => check(PART, Verdict::Failed, error.to_string()),
        },
        Err(error) => check(PART, Verdict::Failed, error.to_string()),
    });
    checks
}

/// What really holds for the instances that run: a weaker profile than strict, and each layer that is missing.
async fn sandboxes(client: &Client) -> Vec<Check> {
    const PART: &str = "sandbox";
    match client
        .list(&ListQuery::default())
        .await
        .and_then(|page| page.read())
    {
        Ok(page) => judge(&page.items),
        Err(error) => vec![check(PART, Verdict::Failed, error.to_string())],
    }
}

fn judge(instances: &[Instance]) -> Vec<Check> {
    const PART: &str = "sandbox";
    let state = |instance: &Instance, key: &str| instance.isolation.get(key).cloned();
    let mut checks = Vec::new();
    for instance in instances {
        if let Some(profile) = state(instance, "profile").filter(|profile| profile != "strict") {
            let text = format!("{} runs with the profile {profile}", instance.name);
            checks.push(check(PART, Verdict::Warning, text));
        }
    }
    for layer in Layer::ALL {
        let strict = |instance: &&Instance| state(instance, "profile").as_deref() == Some("strict");
        let lacking: Vec<(&str, String)> = instances
            .iter()
            .filter(strict)
            .filter_map(|instance| Some((instance.name.as_str(), state(instance, layer.word())?)))
            .filter(|(_, state)| state.starts_with("off"))
            .collect();
        if let Some((name, state)) = lacking.first() {
            let text = format!(
                "{} does not hold for {} of {} instances, such as {name} ({state}). To get it: {}",
                layer.word(),
                lacking.len(),
                instances.len(),
                layer.remedy()
            );
            checks.push(check(PART, Verdict::Warning, text));
        }
    }
    if checks.is_empty() && !instances.is_empty() {
        checks.push(check(
            PART,
            Verdict::Ok,
            "every layer holds for every instance that runs",
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_namespaces_are_judged_by_every_switch() {
        let verdict = |max, debian, apparmor| user_namespaces(max, debian, apparmor).verdict;
        assert_eq!(verdict(Some("1000\n"), None, None), Verdict::Ok);
        assert_eq!(verdict(Some("1000"), Some("1"), Some("0")), Verdict::Ok);
        assert_eq!(verdict(Some("0"), None, None), Verdict::Warning);
        assert_eq!(verdict(Some("1000"), Some("0\n"), None), Verdict::Warning);
        assert_eq!(verdict(Some("1000"), None, Some("1")), Verdict::Warning);
        assert_eq!(verdict(None, None, None), Verdict::Warning);
    }

    #[test]
    fn landlock_is_told_by_its_version() {
        assert_eq!(landlock(0).verdict, Verdict::Warning);
        assert!(
            landlock(0).message.contains("Linux 5.13"),
            "{:?}",
            landlock(0)
        );
        assert_eq!(landlock(6), check("landlock", Verdict::Ok, "version 6"));
        assert!(landlock(5).message.starts_with("version 5: files only"));
    }

    #[test]
    fn limits_and_ports_are_judged() {
        let limits = "Max cpu time  unlimited unlimited seconds\nMax open files            1024                 524288               files\n";
        assert_eq!(open_files(Some(limits)).message, "up to 524288");
        let low = limits.replace("524288", "1024");
        assert_eq!(open_files(Some(&low)).verdict, Verdict::Warning);
        assert_eq!(open_files(None).verdict, Verdict::Warning);
        assert_eq!(ports(3001, 3010, |_| true).verdict, Verdict::Ok);
        assert_eq!(
            ports(3001, 3010, |port| port < 3003).verdict,
            Verdict::Warning
        );
        assert_eq!(ports(3001, 3010, |_| false).verdict, Verdict::Failed);
        assert_eq!(
            ports(65_535, 65_535, |_| true).message,
            "1 of 1 free, 65535 to 65535"
        );
    }

    #[test]
    fn a_host_without_anything_gets_an_answer_for_each_part() {
        let root = tempfile::tempdir().expect("a folder");
        let parts: Vec<&str> = host(root.path(), 0)
            .iter()
            .map(|check| check.part)
            .collect();
        assert_eq!(
            parts,
            [
                "kernel",
                "user namespaces",
                "cgroup v2",
                "landlock",
                "open files"
            ]
        );
    }

    #[test]
    fn weaker_profiles_and_missing_layers_are_told_with_the_remedy() {
        let instance = |name: &str, words: &[(&str, &str)]| {
            let mut instance = super::super::instances::tests::instance(name, "0");
            let words = words
                .iter()
                .map(|(part, state)| ((*part).into(), (*state).into()));
            instance.isolation = words.collect();
            instance
        };
        let well = instance("well", &[("profile", "strict"), ("landlock", "on")]);
        let loud = instance("loud", &[("profile", "off: a trial"), ("landlock", "off")]);
        let poor = instance(
            "poor",
            &[("profile", "strict"), ("landlock", "off: too old")],
        );
        let verdicts = |all: &[Instance]| {
            judge(all)
                .into_iter()
                .map(|check| check.verdict)
                .collect::<Vec<_>>()
        };
        assert_eq!(verdicts(std::slice::from_ref(&well)), [Verdict::Ok]);
        assert_eq!(verdicts(&[]), []);
        let checks = judge(&[well, loud, poor]);
        let texts: Vec<&str> = checks.iter().map(|check| check.message.as_str()).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            texts[0].contains("loud") && texts[0].contains("a trial"),
            "{texts:?}"
        );
        assert!(
            texts[1].contains("poor") && texts[1].contains(Layer::Landlock.remedy()),
            "{texts:?}"
        );
    }
}
