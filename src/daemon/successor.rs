//! The program that lies where this one did takes its place: asked first whether it would serve, then by execve once
//! everything has stopped but the instances.

use std::{
    ffi::OsString,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::Checked;
use crate::{
    domain::UnixMs,
    runtime,
    wire::{ProcessFacts, UpgradeBegun},
};

/// The option of `serve` by which a program tells the one that it becomes which descriptor keeps the keeper alive.
const LIFELINE: &str = "--keeper-lifeline";

/// How long a program may take to look at configuration and database.
const CHECK_LIMIT: Duration = Duration::from_secs(20);

/// What this process was begun as.
#[derive(Debug, Clone)]
pub struct Origin {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// Where the program of this process lies, or lay when it began.
///
/// # Errors
/// When the kernel does not tell it.
pub(super) fn own_program() -> std::io::Result<PathBuf> {
    let told = std::env::current_exe()?;
    // Of a file that was replaced the kernel says so behind its name (proc(5)).
    let name = told
        .to_str()
        .and_then(|name| name.strip_suffix(" (deleted)"));
    Ok(match name {
        Some(name) if !told.exists() => name.into(),
        _ => told,
    })
}

impl Origin {
    /// Of this process, to be called before its program is replaced. `arguments` are all behind the name of the program.
    ///
    /// # Errors
    /// When the path of the program cannot be found.
    pub fn of_this_process(arguments: impl Iterator<Item = OsString>) -> std::io::Result<Self> {
        let mut own = Vec::new();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            // What a former program said to this one is not for the next.
            if argument == LIFELINE {
                arguments.next();
            } else {
                own.push(argument);
            }
        }
        Ok(Self {
            program: own_program()?,
            arguments: own,
        })
    }
}

/// Where an upgrade is asked for.
#[derive(Clone)]
pub(super) struct Desk {
    origin: Option<Origin>,
    wanted: CancellationToken,
}

impl Desk {
    /// `origin`: `None` where this process cannot become another program.
    pub(super) fn new(origin: Option<Origin>) -> Self {
        Self {
            origin,
            wanted: CancellationToken::new(),
        }
    }

    /// Resolves once an upgrade is to go on.
    pub(super) async fn wanted(&self) {
        self.wanted.cancelled().await;
    }

    /// Whether an upgrade is to go on.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.is_cancelled()
    }

    /// What this process was begun as, where it can become another program.
    pub(super) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Asks the program that lies there, and has this daemon stop for it.
    ///
    /// # Errors
    /// Why this daemon goes on as it is.
    pub(super) async fn ask(&self) -> Result<UpgradeBegun, String> {
        let Some(origin) = &self.origin else {
            return Err(
                "this daemon does not become another program by itself: restart it where it was started \
                 (systemctl restart minimcp)"
                    .to_owned(),
            );
        };
        let checked = origin.look_at().await?;
        tracing::info!(
            version = checked.version,
            pending_migrations = checked.pending_migrations,
            "the program at this one's place takes over"
        );
        self.wanted.cancel();
        Ok(UpgradeBegun {
            from: env!("CARGO_PKG_VERSION").to_owned(),
            to: checked.version,
            pending_migrations: checked.pending_migrations,
        })
    }
}

impl Origin {
    /// Lets the program there look at configuration and database as it would find them in our place.
    async fn look_at(&self) -> Result<Checked, String> {
        let shown = self.program.display();
        let asked = Command::new(&self.program)
            .args(&self.arguments)
            .args(["--check", "--json"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let said = match tokio::time::timeout(CHECK_LIMIT, asked).await {
            Ok(said) => said.map_err(|cause| format!("{shown} cannot be run: {}", cause.kind()))?,
            Err(_) => {
                let limit_s = CHECK_LIMIT.as_secs();
                return Err(format!("{shown} did not come to an end within {limit_s} s"));
            }
        };
        verdict(said.status.success(), &said.stdout, &said.stderr)
            .map_err(|why| format!("{shown} would not serve: {why}"))
    }
}

/// What `serve --check --json` said.
///
/// # Errors
/// Its own words.
pub fn verdict(succeeded: bool, out: &[u8], err: &[u8]) -> Result<Checked, String> {
    const WORDS_MAX: usize = 2_000;
    if !succeeded {
        let words = String::from_utf8_lossy(err);
        let words = words.trim().trim_start_matches("minimcp: ");
        return Err(match words.is_empty() {
            true => "it ended without a word".to_owned(),
            false => words.chars().take(WORDS_MAX).collect(),
        });
    }
    serde_json::from_slice(out).map_err(|_| "it is no minimcp that can be asked".to_owned())
}

/// A daemon that has stopped for its successor, but for the instances.
#[derive(Debug)]
pub struct Departure {
    pub(super) origin: Origin,
    pub(super) lifeline: Option<OwnedFd>,
}

impl Departure {
    /// Becomes the program that lies where this one did; where that cannot be run, this one begins anew. Returns only
    /// when neither can be: why.
    #[must_use]
    pub fn go(self) -> anyhow::Error {
        let mut arguments = self.origin.arguments;
        if let Some(lifeline) = &self.lifeline {
            arguments.push(LIFELINE.into());
            arguments.push(lifeline.as_raw_fd().to_string().into());
        }
        let program = &self.origin.program;
        let cause = runtime::become_program(program, &arguments, self.lifeline.as_ref());
        anyhow::Error::new(cause)
            .context("the daemon has stopped, and no other program could be run")
    }
}

/// Resolves when the process with this number has ended, whatever programs it runs one after the other. Never, where it does
/// not run `program` now, as far as this process can see.
pub fn ended(pid: u32, program: &Path) -> impl Future<Output = ()> + use<> {
    let seen = runtime::Pidfd::open(pid).ok().flatten();
    let runs = std::fs::read_link(format!("/proc/{pid}/exe"));
    // Of a file that was replaced the kernel says so behind its name.
    let is_it = runs.is_ok_and(|runs| {
        let (runs, program) = (runs.as_os_str().as_bytes(), program.as_os_str().as_bytes());
        runs.strip_suffix(b" (deleted)").unwrap_or(runs) == program
    });
    let seen = seen.filter(|_| is_it);
    async move {
        if let Some(seen) = seen
            && seen.ended().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// Takes over what keeps the keeper of the former program alive.
///
/// # Errors
/// There is nothing of the kind under this number.
pub fn lifeline(number: RawFd) -> anyhow::Result<OwnedFd> {
    runtime::inherited_pipe(number).with_context(|| format!("{LIFELINE} {number}"))
}

/// This process, for the API.
pub(super) fn facts(desk: &Desk, program: &Path, started_at: UnixMs) -> ProcessFacts {
    let at = Timestamp::from_millisecond(started_at).unwrap_or(Timestamp::UNIX_EPOCH);
    ProcessFacts {
        pid: std::process::id(),
        started_at: format!("{at:.3}"),
        program: program.display().to_string(),
        upgrades_in_place: desk.origin.is_some(),
    }
}

/// The desk, for the API.
pub(super) fn asked(desk: &Desk) -> crate::api::UpgradeDesk {
    let desk = Arc::new(desk.clone());
    Box::new(move || {
        let desk = Arc::clone(&desk);
        Box::pin(async move { desk.ask().await })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_former_program_said_is_not_passed_on() {
        let line = ["serve", "--keeper-lifeline", "7", "--config", "c"];
        let origin = Origin::of_this_process(line.into_iter().map(OsString::from));
        let origin = origin.expect("a program runs");
        assert_eq!(origin.arguments, ["serve", "--config", "c"]);
    }

    #[test]
    fn a_program_is_believed_when_it_says_that_it_would_serve() {
        let out = br#"{"version":"9.1.0","pending_migrations":2,"template_faults":[]}"#;
        let checked = verdict(true, out, b"a warning").expect("it would");
        assert_eq!(
            (checked.version.as_str(), checked.pending_migrations),
            ("9.1.0", 2)
        );
        for (succeeded, out, err, part) in [
            (true, &b""[..], &b""[..], "no minimcp"),
            (true, b"ok", b"", "no minimcp"),
            (false, out, b"minimcp: a newer minimcp\n", "a newer minimcp"),
            (false, b"", b"", "without a word"),
        ] {
            let refused = verdict(succeeded, out, err).expect_err("it would not");
            assert!(refused.contains(part), "{refused}");
        }
    }
}
