//! One installation: the command, its process, and the mark at its end.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::PoisonError,
    time::Duration,
};

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, BufReader},
    net::unix::pipe,
};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Installer, Package};
use crate::{
    domain::{
        exit::ExitStatus,
        id::{Generation, InstanceId},
        limits::Limits,
        package::{PackageSource, Registry},
        sandbox::{Network, Profile, Sandbox},
    },
    runtime::{LaunchPlan, Workload, WorkloadId},
};

/// The file that makes an installation count. It names the source, the programs, and the SHA-256 of the lock, with that
/// of additions behind it, which in turn names the exact version and hash of everything that was installed.
pub const MARK: &str = "installed.json";

/// Lines of an installer that a failure quotes.
const QUOTED_LINES: usize = 8;

/// How long an installer that is killed may take to be gone.
pub(super) const END_PATIENCE: Duration = Duration::from_secs(10);

/// Characters of a quoted line.
const QUOTED_CHARS: usize = 300;

/// The steps for PyPI, behind whatever else the processors have to do: `$1` is the folder, `$2` the package, the rest
/// options. The lock is pip's own report.
const PYPI_STEPS: &str = "set -eu; umask 022; renice -n 10 $$ >/dev/null 2>&1 || true; \
    folder=$1; package=$2; option=$3; shift 3; \
    python3 -m venv \"$folder/venv\"; \
    \"$folder/venv/bin/python3\" -m pip install --no-input --disable-pip-version-check --no-cache-dir \
        --report \"$folder/lock.json\" \"$option\" \"$package\"; \
    modules=$(echo \"$folder\"/venv/lib/python3*/site-packages)";

/// The steps for npm, which writes the lock itself. Its working folder is the one to install into: `--prefix` would move
/// the place of the host's own configuration as well.
const NPM_STEPS: &str = "set -eu; umask 022; renice -n 10 $$ >/dev/null 2>&1 || true; \
    folder=$1; package=$2; option=$3; shift 3; \
    printf '{\"private\":true}' >\"$folder/package.json\"; \
    npm install --no-audit --no-fund --no-update-notifier --save-exact --loglevel=error \
        \"$option\" \"$package\"; \
    rm -rf \"$folder/.npm\"; mv \"$folder/package-lock.json\" \"$folder/lock.json\"; modules=$folder/node_modules";

/// Behind either of them, for what comes besides: the folder below the modules, then packages of npm. The lock is npm's own of
/// what it put there.
const ADDITION_STEPS: &str = "; cd \"$modules/$1\"; shift; \
    npm install --no-audit --no-fund --no-update-notifier --no-save --ignore-scripts --loglevel=error \"$@\"; \
    cp node_modules/.package-lock.json \"$folder/additions.json\"; rm -rf \"$folder/.npm\"";

/// The lock of additions, beside that of the package.
const ADDITIONS_LOCK: &str = "additions.json";

pub(super) async fn install(
    installer: &Installer,
    package: &Package,
    folder: &Path,
) -> Result<(), String> {
    let source = &package.source;
    let failed = |why: String| format!("the package {source} could not be installed: {why}");
    let fresh = folder.to_owned();
    blocking(move || make_fresh(&fresh))
        .await
        .map_err(|error| {
            failed(format!(
                "its folder {} cannot be made: {error}",
                folder.display()
            ))
        })?;
    let id = InstanceId(Uuid::now_v7());
    let registered = Registered::new(installer, id);
    let argv = steps(package, folder);
    let mut plan = plan(installer, source.registry(), folder, id, argv);
    if package.additions.is_some() {
        let npm = programs(installer, Registry::Npm);
        plan.sandbox.program.extend(npm);
    }
    let workload = installer
        .runtime
        .launch(plan)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let ended = follow(installer, &workload).await;
    if ended.is_err() {
        // However we came to give it up, nothing of it may go on in the folder.
        let _ = workload.kill_tree().await;
        let _ = tokio::time::timeout(END_PATIENCE, workload.exited()).await;
    }
    // Gone already, or told by the keeper's own state; an installation leaves nothing to adopt.
    let _ = workload.forget().await;
    drop(registered);
    let made = match ended {
        Ok(()) => {
            let (folder, source) = (folder.to_owned(), source.clone());
            blocking(move || mark(&folder, &source))
                .await
                .map_err(|error| format!("it left no lock of what it installed: {error}"))
        }
        Err(why) => Err(why),
    };
    if made.is_err() {
        let folder = folder.to_owned();
        // What is left of it goes before the next try, should it not go now.
        let _ = blocking(move || fs::remove_dir_all(folder)).await;
    }
    made.map_err(failed)
}

/// The command of an installation.
fn steps(package: &Package, folder: &Path) -> Vec<String> {
    let shown = folder.to_string_lossy().into_owned();
    let (steps, option) = match (package.source.registry(), package.scripts) {
        (Registry::Npm, false) => (NPM_STEPS, "--ignore-scripts"),
        (Registry::Npm, true) => (NPM_STEPS, "--no-ignore-scripts"),
        // A source distribution runs its own code to be built.
        (Registry::Pypi, false) => (PYPI_STEPS, "--only-binary=:all:"),
        (Registry::Pypi, true) => (PYPI_STEPS, "--prefer-binary"),
    };
    let specifier = package.source.specifier();
    let begin = ["/bin/sh", "-c"].map(str::to_owned).into_iter();
    let Some((sources, into)) = &package.additions else {
        let rest = [steps, "install", &shown, &specifier, option];
        return begin.chain(rest.map(str::to_owned)).collect();
    };
    let steps = format!("{steps}{ADDITION_STEPS}");
    let rest = [&steps, "install", &shown, &specifier, option, into];
    let all = begin.chain(rest.map(str::to_owned));
    all.chain(sources.iter().map(PackageSource::specifier))
        .collect()
}

/// A process in the sandbox of installations: with the network, and with nothing to write but its folder.
pub(super) fn plan(
    installer: &Installer,
    registry: Registry,
    folder: &Path,
    id: InstanceId,
    argv: Vec<String>,
) -> LaunchPlan {
    let shown = folder.to_string_lossy().into_owned();
    let path: Vec<String> = installer
        .search_path
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let own = [
        ("HOME", shown),
        ("LANG", "C.UTF-8".to_owned()),
        ("PATH", path.join(":")),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), Zeroizing::new(value)));
    let passed = installer.environment.iter();
    let passed = passed.map(|(name, value)| (name.clone(), Zeroizing::new(value.clone())));
    LaunchPlan {
        id: WorkloadId::main(id, Generation(1)),
        argv,
        env: passed.chain(own).collect(),
        files: Vec::new(),
        file_arguments: Vec::new(),
        cwd: folder.to_owned(),
        limits: Limits::default(),
        sandbox: Sandbox {
            profile: Profile::Strict,
            program: programs(installer, registry),
            hidden: installer.hidden.clone(),
            network: Network::Open,
            tmp_size_bytes: 1 << 30,
            ..Sandbox::default()
        },
        passed: Vec::new(),
    }
}

/// What the installer itself is made of, where that lies outside of what every sandbox shows.
fn programs(installer: &Installer, registry: Registry) -> Vec<PathBuf> {
    let names: &[&str] = match registry {
        Registry::Npm => &["npm", "node"],
        Registry::Pypi => &["python3"],
    };
    let mut found = Vec::new();
    for name in names {
        let mut places = installer.search_path.iter().map(|part| part.join(name));
        let real = places.find_map(|file| file.canonicalize().ok());
        // Of a prefix such as /usr/local: its programs and libraries.
        let prefix = real.as_deref().and_then(|file| file.ancestors().nth(2));
        if let Some(prefix) = prefix.filter(|prefix| !prefix.starts_with("/usr")) {
            found.extend(["bin", "lib"].map(|part| prefix.join(part)));
        }
    }
    found.retain(|folder| folder.is_dir());
    found
}

/// Waits for its end, keeping its last lines.
async fn follow(installer: &Installer, workload: &Workload) -> Result<(), String> {
    let pipes = workload.take_pipes();
    let pipes = pipes.ok_or_else(|| "the keeper gave no pipes".to_owned())?;
    drop(pipes.stdin);
    let told = async {
        let (out, err) = tokio::join!(last_lines(pipes.stdout), last_lines(pipes.stderr));
        // What it complains of goes to stderr; npm and pip say much on stdout.
        if err.is_empty() { out } else { err }
    };
    let all = async { tokio::join!(workload.exited(), told) };
    let limit = installer.config.install_timeout.std();
    let Ok((report, lines)) = tokio::time::timeout(limit, all).await else {
        let limit = installer.config.install_timeout;
        return Err(format!(
            "it took longer than packages.install_timeout, {limit}"
        ));
    };
    match report.status {
        ExitStatus::Exited { code: 0 } => Ok(()),
        status if lines.is_empty() => Err(format!("the installer {status}")),
        status => Err(format!("the installer {status}: {}", lines.join(" | "))),
    }
}

/// The last lines of what is said, each cut.
pub(super) async fn last_lines(fd: OwnedFd) -> Vec<String> {
    let mut lines: VecDeque<String> = VecDeque::new();
    let Ok(pipe) = pipe::Receiver::from_owned_fd(fd) else {
        return Vec::new();
    };
    let mut reader = BufReader::new(pipe);
    let (mut chunk, mut line) = ([0_u8; 4096], Vec::new());
    loop {
        let read = reader.read(&mut chunk).await.unwrap_or(0);
        for byte in &chunk[..read] {
            if *byte != b'\n' && line.len() < 4 * QUOTED_CHARS {
                line.push(*byte);
            }
            if *byte == b'\n' {
                keep(&mut lines, &mut line);
            }
        }
        if read == 0 {
            keep(&mut lines, &mut line);
            return lines.into();
        }
    }
}

fn keep(lines: &mut VecDeque<String>, line: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(line);
    let plain = text.chars().filter(|c| !c.is_control());
    let text: String = plain.take(QUOTED_CHARS).collect();
    line.clear();
    if !text.trim().is_empty() {
        lines.push_back(text.trim().to_owned());
        if lines.len() > QUOTED_LINES {
            lines.pop_front();
        }
    }
}

/// An empty folder that every user may read: servers of other users find their code in it.
pub(super) fn make_fresh(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Writes the mark: whole or not at all, and only after everything else is on the disk.
fn mark(folder: &Path, source: &PackageSource) -> io::Result<()> {
    let mut lock = fs::read(folder.join("lock.json"))?;
    match fs::read(folder.join(ADDITIONS_LOCK)) {
        Ok(additions) => lock.extend(additions),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let digest = Sha256::digest(&lock);
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let text =
        json!({"source": source, "lock_sha256": sha256, "programs": programs_of(folder, source)});
    let text = text.to_string();
    let draft = folder.join(".installed.json");
    let mut file = fs::File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, folder.join(MARK))?;
    fs::File::open(folder)?.sync_all()
}

/// Its programs, as paths below its folder.
fn programs_of(folder: &Path, source: &PackageSource) -> Vec<PathBuf> {
    let entries = fs::read_dir(source.programs(folder));
    let files = entries.into_iter().flatten().flatten();
    let files = files
        .map(|entry| entry.path())
        .filter(|file| file.is_file());
    let below = files.filter_map(|file| file.strip_prefix(folder).ok().map(Path::to_owned));
    let mut programs: Vec<PathBuf> = below.collect();
    programs.sort();
    programs
}

/// Keeps the id of a process on the list for as long as it runs.
pub(super) struct Registered<'a> {
    installer: &'a Installer,
    id: InstanceId,
}

impl<'a> Registered<'a> {
    pub(super) fn new(installer: &'a Installer, id: InstanceId) -> Self {
        let processes = installer.processes.lock();
        processes.unwrap_or_else(PoisonError::into_inner).push(id);
        Self { installer, id }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let processes = self.installer.processes.lock();
        processes
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|id| *id != self.id);
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
