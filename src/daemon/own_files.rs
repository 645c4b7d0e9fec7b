//! What `serve` needs of the file system after it has read its configuration.

use std::path::{Path, PathBuf};

use crate::{config::Config, runtime::OwnFiles};

/// What lies beside the `bin` folder of an installation and is read to find out what its programs need.
const BESIDE_PROGRAMS: &[&str] = &["lib", "lib64", "libexec", "pyvenv.cfg"];

/// Where resolvers lead to from `/etc/resolv.conf`.
const RESOLVERS: &[&str] = &[
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/mnt/wsl/resolv.conf",
];

/// Keeps the calling thread, and those that it starts, to the files that a daemon with this configuration needs; makes
/// its folders first. `word` is where it leaves word of its address, `variable` gives the environment. The answer says
/// what holds.
///
/// # Errors
/// Why nothing does, in words.
pub fn keep_to_own_files(
    config: &Config,
    file: Option<&Path>,
    word: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<bool, String> {
    let own = own_files(config, file, word, variable);
    // A folder that is not there cannot be named in a rule.
    for folder in folders(config) {
        let _ = std::fs::create_dir_all(folder);
    }
    if let Some(folder) = word.and_then(Path::parent) {
        let _ = std::fs::create_dir_all(folder);
    }
    own.restrict()
}

/// The folders that are the daemon's alone.
fn folders(config: &Config) -> Vec<&Path> {
    vec![
        &config.runtime.instance_dir,
        &config.runtime.imports_dir,
        &config.packages.dir,
        &config.logs.spool_dir,
        &config.calls.spool_dir,
    ]
}

fn own_files(
    config: &Config,
    file: Option<&Path>,
    word: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
) -> OwnFiles {
    let folder_of = |file: &Path| match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut write: Vec<PathBuf> = folders(config).into_iter().map(Path::to_owned).collect();
    write.push(folder_of(&config.secrets.key_file));
    write.push(folder_of(&config.api.admin_token_file));
    write.extend(config.api.unix_socket.as_deref().map(folder_of));
    write.extend(word.map(folder_of));
    // Its folder: an editor puts another file into its place, and SIGHUP reads that one.
    let mut read: Vec<PathBuf> = file.map(folder_of).into_iter().collect();
    match config.database.url.strip_prefix("sqlite:") {
        Some(path) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            write.push(folder_of(Path::new(path)));
            // What does not fit into its memory while it sorts.
            let own = ["SQLITE_TMPDIR", "TMPDIR"]
                .into_iter()
                .filter_map(&variable);
            write.extend(own.map(PathBuf::from));
            write.extend(["/var/tmp", "/tmp"].map(PathBuf::from));
        }
        None => read.extend(postgres_files(&config.database.url, &variable)),
    }
    read.extend(config.traces.headers_file.iter().cloned());
    read.extend(config.runtime.template_dirs.iter().cloned());
    for folder in &config.runtime.search_path {
        read.push(folder.clone());
        match (folder.file_name(), folder.parent()) {
            // Of the packages of npm: node_modules/.bin.
            (Some(name), Some(above)) if name == ".bin" => read.push(above.to_owned()),
            (Some(_), Some(above)) => {
                read.extend(BESIDE_PROGRAMS.iter().map(|name| above.join(name)));
            }
            _ => {}
        }
    }
    let sandbox = &config.sandbox;
    let granted = [&sandbox.read, &sandbox.allow_read, &sandbox.allow_write];
    read.extend(granted.into_iter().flatten().cloned());
    read.extend(RESOLVERS.iter().map(PathBuf::from));
    for name in ["CREDENTIALS_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let value = variable(name).unwrap_or_default();
        let paths = value.split(':').filter(|path| !path.is_empty());
        read.extend(paths.map(PathBuf::from));
    }
    OwnFiles {
        read,
        write,
        abstract_sockets: variable("NOTIFY_SOCKET").is_some_and(|name| name.starts_with('@')),
    }
}

/// Files that a connection to PostgreSQL reads: certificates that its address names, and passwords.
fn postgres_files(url: &str, variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let named = ["sslrootcert", "sslcert", "sslkey"];
    let pairs = form_urlencoded::parse(query.as_bytes());
    let named = pairs.filter(|(name, _)| named.contains(&name.replace('-', "").as_str()));
    let mut files: Vec<PathBuf> = named.map(|(_, path)| PathBuf::from(&*path)).collect();
    let variables = ["PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"];
    files.extend(
        variables
            .into_iter()
            .filter_map(&variable)
            .map(PathBuf::from),
    );
    files.extend(variable("HOME").map(|home| Path::new(&home).join(".pgpass")));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(change: impl FnOnce(&mut Config), variables: &[(&str, &str)]) -> OwnFiles {
        let mut config = Config::default();
        change(&mut config);
        let variable = |name: &str| {
            let mut all = variables.iter();
            all.find(|(own, _)| *own == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let word = Path::new("/run/minimcp/api.json");
        own_files(
            &config,
            Some(Path::new("/etc/minimcp/config.toml")),
            Some(word),
            variable,
        )
    }

    #[test]
    fn what_is_written_is_the_daemons_own() {
        let own = of(
            |config| {
                config.database.url = "sqlite:/var/lib/minimcp/minimcp.db".to_owned();
                config.runtime.search_path = vec![
                    "/srv/tools/node_modules/.bin".into(),
                    "/srv/venv/bin".into(),
                ];
                config.sandbox.allow_write = vec!["/srv/notes".into()];
            },
            &[
                ("NOTIFY_SOCKET", "@systemd"),
                ("SSL_CERT_DIR", "/a:/b"),
                ("HOME", "/home/x"),
            ],
        );
        let has = |all: &[PathBuf], path: &str| all.iter().any(|one| one == Path::new(path));
        assert!(has(&own.write, "/var/lib/minimcp") && has(&own.write, "/run/minimcp"));
        for path in [
            // The folder of the configuration.
            "/etc/minimcp",
            "/srv/tools/node_modules",
            "/srv/venv/pyvenv.cfg",
            "/srv/notes",
            "/b",
        ] {
            assert!(
                has(&own.read, path) && !has(&own.write, path),
                "{path}: {own:?}"
            );
        }
        assert!(own.abstract_sockets);
        assert!(
            !own.read.iter().any(|path| path.starts_with("/home")),
            "{own:?}"
        );
        // A relative file without a folder lies in the working directory.
        let own = of(|config| config.secrets.key_file = "key".into(), &[]);
        assert!(has(&own.write, ".") && !own.abstract_sockets);
    }

    #[test]
    fn a_connection_to_postgres_reads_what_its_address_names() {
        let own = of(
            |config| {
                config.database.url =
                    "postgres://m@h/d?sslmode=verify-full&sslrootcert=%2Fetc%2Fpg%2Fca.pem"
                        .to_owned();
            },
            &[("HOME", "/home/x"), ("PGPASSFILE", "/etc/pg/pass")],
        );
        for path in ["/etc/pg/ca.pem", "/etc/pg/pass", "/home/x/.pgpass"] {
            assert!(own.read.contains(&PathBuf::from(path)), "{own:?}");
        }
        assert!(!own.write.contains(&PathBuf::from("/tmp")));
    }
}
