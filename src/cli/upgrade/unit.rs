//! A daemon that systemd runs: which unit it is, what a program would find in its place, and its restart.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use crate::{
    cli::failure::Failure,
    daemon::{Checked, verdict},
};

/// How long a program may take to look at configuration and database.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// A unit of which the daemon is the main process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    name: String,
    /// Of a user's own manager.
    of_user: bool,
    pid: u32,
}

/// The unit in the lines of `/proc/PID/cgroup` (cgroups(7)): the last part of the path, if that is a service.
fn unit_in(cgroups: &str) -> Option<(String, bool)> {
    let paths = cgroups.lines().filter_map(|line| {
        let (_, controllers, path) = split_line(line)?;
        (controllers.is_empty() || controllers == "name=systemd").then_some(path)
    });
    let services = paths.filter_map(|path| {
        let (above, name) = path.rsplit_once('/')?;
        let of_user = above.contains("/user@");
        name.ends_with(".service")
            .then(|| (name.to_owned(), of_user))
    });
    services.into_iter().next()
}

fn split_line(line: &str) -> Option<(&str, &str, &str)> {
    let mut parts = line.splitn(3, ':');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

impl Unit {
    /// The unit whose main process this is, if it is one.
    pub(super) async fn of(pid: u32) -> Option<Self> {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let (name, of_user) = unit_in(&cgroups)?;
        let unit = Self { name, of_user, pid };
        let shown = unit
            .systemctl(&["show", "--property=MainPID", "--value"])
            .await;
        let shown = shown.ok()?;
        let is_main = shown.trim() == pid.to_string();
        is_main.then_some(unit)
    }

    /// The command that shows its log.
    pub(super) fn log_command(&self) -> String {
        format!("journalctl {}-u {}", self.scope(), self.name)
    }

    /// The command that restarts it.
    pub(super) fn restart_command(&self) -> String {
        format!("systemctl {}restart {}", self.scope(), self.name)
    }

    fn scope(&self) -> &'static str {
        if self.of_user { "--user " } else { "" }
    }

    /// Restarts it, and waits until it serves.
    ///
    /// # Errors
    /// In the words of systemctl.
    pub(super) async fn restart(&self) -> Result<(), String> {
        self.systemctl(&["restart"]).await.map(drop)
    }

    async fn systemctl(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("systemctl");
        if self.of_user {
            command.arg("--user");
        }
        let said = command
            .args(words)
            .arg(&self.name)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|cause| format!("systemctl cannot be run: {cause}"))?;
        if said.status.success() {
            return Ok(String::from_utf8_lossy(&said.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&said.stderr);
        Err(format!("systemctl: {}", words.trim()))
    }

    /// Lets `program` look at configuration and database as it would find them in the unit: as its user, in its folder,
    /// with its variables and arguments.
    ///
    /// # Errors
    /// Why it would not serve, or why that cannot be found out.
    pub(super) async fn check(&self, program: &Path) -> Result<Checked, Failure> {
        let begun = Begun::of(self.pid).map_err(|cause| {
            super::failed(format!(
                "how {} was started cannot be read ({cause}), so the new program cannot be asked; run this as root",
                self.name
            ))
        })?;
        let asked = begun.command(program).output();
        let said = match tokio::time::timeout(CHECK_LIMIT, asked).await {
            Ok(said) => said?,
            Err(_) => {
                let limit_s = CHECK_LIMIT.as_secs();
                let text = format!(
                    "{} did not come to an end within {limit_s} s",
                    program.display()
                );
                return Err(Failure::Failed(text));
            }
        };
        verdict(said.status.success(), &said.stdout, &said.stderr)
            .map_err(|why| Failure::Failed(format!("{} would not serve: {why}", program.display())))
    }
}

/// How a process was begun.
#[derive(Debug)]
struct Begun {
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    folder: PathBuf,
    uid: u32,
    gid: u32,
    /// Whether we are that user already.
    is_ours: bool,
}

impl Begun {
    fn of(pid: u32) -> std::io::Result<Self> {
        let place = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(place.join("status"))?;
        let id = |key: &str| effective(&status, key).unwrap_or_default();
        let cmdline = fs::read(place.join("cmdline"))?;
        let environ = fs::read(place.join("environ"))?;
        let variables = texts(&environ).filter_map(|text| {
            let at = text.iter().position(|byte| *byte == b'=')?;
            Some((owned(&text[..at]), owned(&text[at + 1..])))
        });
        Ok(Self {
            arguments: texts(&cmdline).skip(1).map(owned).collect(),
            variables: variables.collect(),
            folder: fs::read_link(place.join("cwd"))?,
            uid: id("Uid:"),
            gid: id("Gid:"),
            is_ours: fs::metadata("/proc/self")?.uid() == id("Uid:"),
        })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .args(&self.arguments)
            .args(["--check", "--json"])
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            // It has nothing to tell the service manager.
            .env_remove("NOTIFY_SOCKET")
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if !self.is_ours {
            command.gid(self.gid).uid(self.uid);
        }
        command
    }
}

/// Texts with a zero behind each.
fn texts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let texts = bytes.split(|byte| *byte == 0);
    texts.filter(|text| !text.is_empty())
}

fn owned(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

/// The effective one of the four ids in a line of `/proc/PID/status` (proc(5)).
fn effective(status: &str, key: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_last_part_of_the_cgroup() {
        let found = |text| unit_in(text);
        let system = Some(("minimcp.service".to_owned(), false));
        assert_eq!(found("0::/system.slice/minimcp.service\n"), system);
        let hybrid = "12:memory:/system.slice/other.service\n1:name=systemd:/system.slice/minimcp.service\n0::/\n";
        assert_eq!(found(hybrid), system);
        let own = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/minimcp.service\n";
        assert_eq!(found(own), Some(("minimcp.service".to_owned(), true)));
        for none in [
            "",
            "0::/\n",
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            "0::/system.slice/minimcp-keeper.service/keeper\n",
            "rubbish\n",
        ] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn what_a_process_was_begun_with_is_read() {
        let status = "Name:\tx\nUid:\t0\t107\t0\t0\nGid:\t5\t6\t7\t8\n";
        assert_eq!(effective(status, "Uid:"), Some(107));
        assert_eq!(effective(status, "Gid:"), Some(6));
        assert_eq!(effective(status, "Pid:"), None);
        let own = Begun::of(std::process::id()).expect("it is ours");
        assert!(own.is_ours);
        assert_eq!(own.folder, std::env::current_dir().expect("there is one"));
        let arguments: Vec<OsString> = std::env::args_os()
            .skip(1)
            .filter(|one| !one.is_empty())
            .collect();
        assert_eq!(own.arguments, arguments);
    }
}
