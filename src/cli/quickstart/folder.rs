//! The quickstart's data folder: made, locked, and the configuration that keeps everything in it.

use std::{
    ffi::OsStr,
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read as _, Write as _},
    net::TcpListener,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use crate::{
    cli::{arguments::QuickstartOptions, connection, failure::Failure},
    config::{Config, ConfigSource},
};

/// Longest path of a unix socket that every call takes (unix(7): 108 bytes with the final NUL).
const SOCKET_PATH_BYTES: usize = 107;

const LOCK_FILE: &str = "quickstart.lock";

/// The folder, ours alone until this is dropped.
#[derive(Debug)]
pub(super) struct DataFolder {
    pub(super) path: PathBuf,
    /// Where the keeper's socket lies when the folder's own path is too long for one.
    short: Option<PathBuf>,
    /// Whether this run made the folder.
    made: bool,
    _lock: File,
}

/// The configuration with everything that is kept below `folder`.
pub(in crate::cli) fn config_within(folder: &Path) -> Config {
    let mut config = Config::default();
    let within = |name: &str| folder.join(name);
    config.database.url = format!("sqlite:{}", within("minimcp.db").display());
    config.api.admin_token_file = within("admin-token");
    config.secrets.key_file = within("master-key");
    config.logs.spool_dir = within("spool");
    config.calls.spool_dir = within("call-spool");
    config.runtime.imports_dir = within("templates");
    config.runtime.instance_dir = within("instances");
    config.packages.dir = within("packages");
    // Whatever ends quickstart ends its instances.
    config.runtime.keeper_linger = false;
    config
}

impl DataFolder {
    /// Makes the folder (mode 0700) if it is missing, and takes its lock.
    pub(super) fn open(asked: Option<&Path>, cwd: &Path) -> Result<Self, Failure> {
        let path = match asked {
            Some(path) => cwd.join(path),
            None => connection::user_data_dir(&connection::environment)
                .unwrap_or_else(|| cwd.join("minimcp-data")),
        };
        let refused = |error: std::io::Error| {
            let text = error.to_string();
            let reason = match error.kind() {
                ErrorKind::AlreadyExists => "it is not a folder",
                _ => text.split(" (os error").next().unwrap_or(&text),
            };
            Failure::Failed(format!(
                "cannot use the folder {}: {reason}; choose another with --data-dir",
                path.display()
            ))
        };
        let made = !path.exists();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(refused)?;
        // A canonical path: the daemon and the keeper see the same wherever they are started.
        let path = path.canonicalize().map_err(refused)?;
        let lock = lock(&path.join(LOCK_FILE), &path, refused)?;
        let short = match path.join("keeper.sock").as_os_str().len() {
            ..=SOCKET_PATH_BYTES => None,
            _ => Some(short_folder()?),
        };
        Ok(Self {
            path,
            short,
            made,
            _lock: lock,
        })
    }

    /// The configuration that `options` and the environment ask for, with everything in this folder.
    pub(super) fn config(
        &self,
        options: &QuickstartOptions,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Failure> {
        let mut base = config_within(&self.path);
        base.runtime.keeper_socket = self
            .short
            .as_ref()
            .unwrap_or(&self.path)
            .join("keeper.sock");
        let path = variables_path(connection::environment("PATH").as_deref());
        if !path.is_empty() {
            base.runtime.search_path = path;
        }
        let mut asked: Vec<(String, String)> = Vec::new();
        let mut ask = |key: &str, value: String| asked.push((format!("MINIMCP_{key}"), value));
        if let Some(port) = options.port {
            ask("API__PORT", port.to_string());
        }
        if let Some((min, max)) = options.ports {
            ask("RUNTIME__PORT_MIN", min.to_string());
            ask("RUNTIME__PORT_MAX", max.to_string());
        }
        if let Some(address) = options.address {
            ask("API__ADDRESS", address.to_string());
            ask("GATEWAY__ADDRESS", address.to_string());
        }
        // What the command line says goes before the environment.
        let environment: Vec<(String, String)> = variables
            .into_iter()
            .filter(|(name, _)| asked.iter().all(|(taken, _)| taken != name))
            .collect();
        let source = ConfigSource {
            base,
            file: None,
            shared_sources: false,
        };
        Ok(source.load(environment.into_iter().chain(asked))?)
    }

    /// For a run that never began: removes the folder as well, if this run made it.
    pub(super) fn abandon(self) {
        if self.made {
            // What is not empty by then is someone's, and stays.
            let _ = std::fs::remove_file(self.path.join(LOCK_FILE));
            let _ = std::fs::remove_dir(&self.path);
        }
        self.close();
    }

    /// Removes what must not outlive the run.
    pub(super) fn close(self) {
        if let Some(short) = &self.short {
            // Only the keeper's socket lay in it, and the keeper is gone.
            let _ = std::fs::remove_dir_all(short);
        }
    }
}

fn lock(
    file: &Path,
    folder: &Path,
    refused: impl Fn(std::io::Error) -> Failure,
) -> Result<File, Failure> {
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(file)
        .map_err(&refused)?;
    match lock.try_lock() {
        Ok(()) => {
            lock.set_len(0).map_err(&refused)?;
            writeln!(lock, "{}", std::process::id()).map_err(&refused)?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The number is only for the message.
            let _ = lock.take(20).read_to_string(&mut pid);
            let who = match pid.trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            Err(Failure::Failed(format!(
                "another quickstart ({who}) uses the folder {}; stop it, or choose another folder with --data-dir",
                folder.display()
            )))
        }
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

/// A fresh folder with a short path, for the one socket. It must be new: in a folder for everyone, an existing one
/// could be someone else's.
fn short_folder() -> Result<PathBuf, Failure> {
    let parent = connection::environment("XDG_RUNTIME_DIR")
        .map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let folder = parent.join(format!("minimcp-{}", uuid::Uuid::new_v4().simple()));
    DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(|error| {
            Failure::Failed(format!(
                "cannot make the folder {}: {error}",
                folder.display()
            ))
        })?;
    Ok(folder)
}

/// The absolute folders of a `PATH`; what is relative would hang on the working folder.
fn variables_path(path: Option<&str>) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in std::env::split_paths(OsStr::from_bytes(path.unwrap_or_default().as_bytes())) {
        if folder.is_absolute() && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Whether the API's port can be had: the commonest reason why a first try fails deserves its own sentence.
pub(super) fn check_api_port(config: &Config) -> Result<(), Failure> {
    let (address, port) = (config.api.address, config.api.port);
    match TcpListener::bind((address, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Failure::Failed(format!(
            "port {port} of {address}, the API's, is in use by another program; choose another with --port"
        ))),
        Err(error) => Err(Failure::Failed(format!(
            "cannot listen on {address} port {port}: {error}; choose another with --address or --port"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> QuickstartOptions {
        QuickstartOptions {
            data_dir: None,
            port: None,
            ports: None,
            address: None,
            no_demo: false,
        }
    }

    #[test]
    fn everything_is_kept_in_the_folder() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().expect("a folder");
        let folder = DataFolder::open(Some(Path::new("a/b")), root.path()).expect("opened");
        let mode = std::fs::metadata(&folder.path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
        let config = folder.config(&options(), []).expect("valid");
        for path in [
            &config.api.admin_token_file,
            &config.secrets.key_file,
            &config.logs.spool_dir,
            &config.calls.spool_dir,
            &config.runtime.instance_dir,
            &config.runtime.keeper_socket,
        ] {
            assert!(path.starts_with(&folder.path), "{}", path.display());
        }
        let url = format!("sqlite:{}/minimcp.db", folder.path.display());
        assert_eq!(config.database.url, url);
    }

    #[test]
    fn a_second_quickstart_is_told_who_the_first_is() {
        let root = tempfile::tempdir().expect("a folder");
        let first = DataFolder::open(Some(Path::new("data")), root.path()).expect("opened");
        let error = DataFolder::open(Some(Path::new("data")), root.path()).expect_err("locked");
        let sentence = error.to_string();
        let pid = format!("another quickstart (process {})", std::process::id());
        assert!(sentence.starts_with(&pid), "{sentence}");
        first.close();
        DataFolder::open(Some(Path::new("data")), root.path()).expect("free again");
    }

    #[test]
    fn a_run_that_never_began_leaves_no_folder_that_it_made() {
        let root = tempfile::tempdir().expect("a folder");
        let data = root.path().join("data");
        DataFolder::open(Some(&data), root.path())
            .expect("opened")
            .abandon();
        assert!(!data.exists());
        std::fs::create_dir(&data).expect("made");
        DataFolder::open(Some(&data), root.path())
            .expect("opened")
            .abandon();
        assert!(data.exists(), "it was there before");
    }

    #[test]
    fn a_long_folder_still_gets_a_socket() {
        let root = tempfile::tempdir().expect("a folder");
        let long = "long".repeat(25);
        let folder = DataFolder::open(Some(Path::new(&long)), root.path()).expect("opened");
        let config = folder.config(&options(), []).expect("valid");
        assert!(config.runtime.keeper_socket.as_os_str().len() <= SOCKET_PATH_BYTES);
        let short = folder.short.clone().expect("a short folder");
        folder.close();
        assert!(!short.exists());
    }

    #[test]
    fn the_command_line_goes_before_the_environment_and_database_url_is_not_taken_over() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = DataFolder::open(Some(root.path()), root.path()).expect("opened");
        let asked = QuickstartOptions {
            port: Some(9_000),
            ports: Some((4_001, 4_010)),
            ..options()
        };
        let variables = [
            ("MINIMCP_API__PORT", "8000"),
            ("MINIMCP_LOGS__BATCH_ROWS", "7"),
            ("DATABASE_URL", "postgres://someone@else/else"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = folder.config(&asked, variables).expect("valid");
        assert_eq!(config.api.port, 9_000);
        assert_eq!(config.logs.batch_rows, 7);
        assert_eq!(
            (config.runtime.port_min, config.runtime.port_max),
            (4_001, 4_010)
        );
        assert!(config.database.url.starts_with("sqlite:"));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("bound").port();
        let mut config = Config::default();
        config.api.port = port;
        let sentence = check_api_port(&config).expect_err("in use").to_string();
        assert!(
            sentence.contains(&port.to_string()) && sentence.contains("--port"),
            "{sentence}"
        );
        drop(taken);
        check_api_port(&config).expect("free again");
    }

    #[test]
    fn only_absolute_folders_of_path_count() {
        assert_eq!(
            variables_path(Some("/usr/bin:.::bin:/bin:/usr/bin")),
            [PathBuf::from("/usr/bin"), PathBuf::from("/bin")]
        );
    }
}
