//! Where the daemon is: what the user says, else what a running daemon left in `api.json`.

use std::{
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{arguments::GlobalOptions, failure::Failure};
use crate::{client::Client, config::Config};

/// Used when nothing else says where the daemon is.
const DEFAULT_URL: &str = "http://127.0.0.1:7420";

/// Where the service's runtime folder is (`RuntimeDirectory=minimcp`).
const SERVICE_FILE: &str = "/run/minimcp/api.json";

/// What a running daemon tells the command line of the same host. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Discovery {
    /// The API over TCP.
    pub(crate) api_url: String,
    /// The file with the administrator's token.
    pub(crate) admin_token_file: PathBuf,
    /// The daemon's process: a file whose process is gone is stale.
    pub(crate) pid: u32,
}

impl Discovery {
    /// Writes the file (mode 0600), and its folder (0700) if it is missing. Gives what another living daemon had
    /// written there, for [`Self::withdraw`] to put back.
    pub(crate) fn write(&self, file: &Path) -> std::io::Result<Option<Self>> {
        let before = Self::read(file).filter(|found| found.pid != self.pid && found.is_alive());
        self.put(file)?;
        Ok(before)
    }

    fn put(&self, file: &Path) -> std::io::Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let draft = file.with_extension(format!("{}.new", self.pid));
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")?;
        std::fs::rename(&draft, file)
    }

    fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    /// Removes the file, or gives it back to the daemon that was there `before` and still lives; does nothing when
    /// another daemon has written its own meanwhile.
    pub(crate) fn withdraw(&self, file: &Path, before: Option<&Self>) {
        if Self::read(file).is_none_or(|found| found.pid != self.pid) {
            return;
        }
        let given_back = before
            .filter(|before| before.is_alive())
            .is_some_and(|before| before.put(file).is_ok());
        if !given_back {
            // Gone already is as good; a stale file is recognised by its process.
            let _ = std::fs::remove_file(file);
        }
    }

    fn is_alive(&self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

/// Reads variables through a function, so that tests never touch the process's environment.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment; a variable that is empty or not UTF-8 counts as absent.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where a quickstart keeps its data when it is not told.
pub(crate) fn user_data_dir(variables: Variables<'_>) -> Option<PathBuf> {
    let absolute = |path: String| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    variables("XDG_DATA_HOME")
        .and_then(absolute)
        .or_else(|| Some(variables("HOME").and_then(absolute)?.join(".local/share")))
        .map(|folder| folder.join("minimcp"))
}

/// Where a daemon of this user leaves word, the best place first.
pub(crate) fn user_discovery_files(variables: Variables<'_>) -> Vec<PathBuf> {
    let runtime = variables("XDG_RUNTIME_DIR")
        .map(|folder| PathBuf::from(folder).join("minimcp/api.json"))
        .filter(|file| file.is_absolute());
    let data = user_data_dir(variables).map(|folder| folder.join("api.json"));
    runtime.into_iter().chain(data).collect()
}

/// Where `serve` leaves word: in its service's runtime folder, else where a daemon of this user does.
pub(crate) fn serve_discovery_file(variables: Variables<'_>) -> Option<PathBuf> {
    match variables("RUNTIME_DIRECTORY") {
        // Several folders are separated by colons (systemd.exec(5)).
        Some(folders) => folders
            .split(':')
            .next()
            .map(|folder| Path::new(folder).join("api.json")),
        None => user_discovery_files(variables).into_iter().next(),
    }
}

/// The address and the token to use, before a client is made of them.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    url: String,
    token_file: Option<PathBuf>,
}

fn find(options: &GlobalOptions, files: &[PathBuf]) -> Target {
    let found = files
        .iter()
        .filter_map(|file| Discovery::read(file))
        .find(Discovery::is_alive);
    match (&options.api_url, found) {
        // A token goes only to the daemon that it belongs to.
        (Some(url), Some(found)) if *url == found.api_url => Target {
            url: url.clone(),
            token_file: Some(found.admin_token_file),
        },
        (Some(url), _) => Target {
            url: url.clone(),
            token_file: None,
        },
        (None, Some(found)) => Target {
            url: found.api_url,
            token_file: Some(found.admin_token_file),
        },
        (None, None) => Target {
            url: DEFAULT_URL.to_owned(),
            token_file: None,
        },
    }
}

/// The client that the options, the environment and the running daemons of this host lead to.
pub(crate) fn connect(
    options: &GlobalOptions,
    variables: Variables<'_>,
) -> Result<Client, Failure> {
    let mut files = user_discovery_files(variables);
    files.push(SERVICE_FILE.into());
    let target = find(options, &files);
    let token = match (&options.token_file, variables("MINIMCP_TOKEN")) {
        (_, Some(token)) => Some(Zeroizing::new(token)),
        (Some(file), None) => Some(read_token(file)?),
        (None, None) => match &target.token_file {
            Some(file) => Some(read_token(file)?),
            None => None,
        },
    };
    let client = match target.url.strip_prefix("unix:") {
        Some(path) => Client::unix(Path::new(path), token),
        None => Client::tcp(&target.url, token),
    };
    Ok(client?)
}

fn read_token(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = std::fs::read_to_string(file)
        .map(Zeroizing::new)
        .map_err(|error| {
            Failure::Failed(format!(
                "cannot read the token in {}: {error}; run as the user of the daemon, or set MINIMCP_TOKEN",
                file.display()
            ))
        })?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// The word that a daemon with `config` at `api_url` leaves.
pub(crate) fn discovery_of(config: &Config, api_url: String) -> Discovery {
    let file = &config.api.admin_token_file;
    Discovery {
        api_url,
        admin_token_file: std::path::absolute(file).unwrap_or_else(|_| file.clone()),
        pid: std::process::id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery(url: &str, pid: u32) -> Discovery {
        Discovery {
            api_url: url.to_owned(),
            admin_token_file: "/data/admin-token".into(),
            pid,
        }
    }

    fn options(url: Option<&str>) -> GlobalOptions {
        GlobalOptions {
            api_url: url.map(str::to_owned),
            ..GlobalOptions::default()
        }
    }

    #[test]
    fn the_first_living_daemon_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let files: Vec<PathBuf> = ["a", "b/c", "d", "e"]
            .map(|name| folder.path().join(name).join("api.json"))
            .to_vec();
        // No process has this number: the kernel's largest is 2^22 (proc(5)).
        discovery("http://dead", u32::MAX)
            .write(&files[1])
            .expect("written");
        discovery("http://alive", std::process::id())
            .write(&files[2])
            .expect("written");
        discovery("http://later", std::process::id())
            .write(&files[3])
            .expect("written");
        assert_eq!(find(&options(None), &files).url, "http://alive");
        assert_eq!(find(&options(None), &files[..2]).url, DEFAULT_URL);
    }

    #[test]
    fn a_token_is_not_sent_to_another_address() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("api.json");
        discovery("http://alive", std::process::id())
            .write(&file)
            .expect("written");
        let files = [file];
        assert_eq!(
            find(&options(Some("http://other")), &files).token_file,
            None
        );
        assert!(
            find(&options(Some("http://alive")), &files)
                .token_file
                .is_some()
        );
    }

    #[test]
    fn only_the_writer_withdraws() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("api.json");
        discovery("http://mine", 7).write(&file).expect("written");
        discovery("http://other", 8).withdraw(&file, None);
        assert!(file.exists());
        discovery("http://mine", 7).withdraw(&file, None);
        assert!(!file.exists());
    }

    #[test]
    fn a_second_daemon_gives_the_place_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("api.json");
        let first = discovery("http://first", std::process::id());
        assert_eq!(first.write(&file).expect("written"), None);
        let second = discovery("http://second", u32::MAX);
        let before = second.write(&file).expect("written");
        assert_eq!(before.as_ref(), Some(&first));
        second.withdraw(&file, before.as_ref());
        assert_eq!(Discovery::read(&file), Some(first));
    }

    #[test]
    fn the_service_leaves_word_in_its_runtime_folder() {
        let service =
            |name: &str| (name == "RUNTIME_DIRECTORY").then(|| "/run/minimcp:/run/x".to_owned());
        assert_eq!(
            serve_discovery_file(&service),
            Some("/run/minimcp/api.json".into())
        );
        let user = |name: &str| (name == "HOME").then(|| "/home/ann".to_owned());
        assert_eq!(
            serve_discovery_file(&user),
            Some("/home/ann/.local/share/minimcp/api.json".into())
        );
    }
}
