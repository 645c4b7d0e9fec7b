//! The operator's ceiling over what servers may reach.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Config;
use crate::domain::sandbox::{Ceiling, Profile};

/// The most that instances may reach, whatever their templates and settings ask for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// The weakest profile that a template may choose.
    pub weakest_profile: Profile,
    /// Folders below which templates and settings may open paths to be read.
    pub allow_read: Vec<PathBuf>,
    /// Folders below which templates and settings may open folders to be written.
    pub allow_write: Vec<PathBuf>,
    /// Shown to every instance, read-only.
    pub read: Vec<PathBuf>,
    /// Shown to no instance, whatever is granted; the daemon's own files are so without being named.
    pub hide: Vec<PathBuf>,
}

impl Config {
    /// The ceiling, with the daemon's own files hidden under the names given here and under their real ones. Looks at
    /// the file system.
    #[must_use]
    pub fn ceiling(&self) -> Ceiling {
        let own = [
            Some(&self.api.admin_token_file),
            self.api.unix_socket.as_ref(),
            Some(&self.runtime.instance_dir),
            Some(&self.runtime.keeper_socket),
            Some(&self.logs.spool_dir),
            Some(&self.calls.spool_dir),
            Some(&self.secrets.key_file),
        ];
        let mut hidden: Vec<PathBuf> = own.into_iter().flatten().cloned().collect();
        if let Some(file) = self.database.url.strip_prefix("sqlite:") {
            let file = file
                .split('?')
                .next()
                .unwrap_or(file)
                .trim_start_matches("//");
            hidden.extend(
                ["", "-wal", "-shm", "-journal"].map(|end| PathBuf::from(format!("{file}{end}"))),
            );
        }
        let mut hidden: Vec<PathBuf> = hidden
            .iter()
            .filter_map(|path| std::path::absolute(path).ok())
            .chain(self.sandbox.hide.iter().cloned())
            .flat_map(|path| [real(&path), path])
            .collect();
        hidden.sort();
        hidden.dedup();
        Ceiling {
            weakest_profile: self.sandbox.weakest_profile,
            allow_read: self.sandbox.allow_read.clone(),
            allow_write: self.sandbox.allow_write.clone(),
            read: self.sandbox.read.clone(),
            hidden,
        }
    }
}

/// The path with the links of its existing part resolved.
fn real(path: &Path) -> PathBuf {
    let there = path
        .ancestors()
        .find_map(|part| Some((part, part.canonicalize().ok()?)));
    let resolved = there.and_then(|(part, real)| Some(real.join(path.strip_prefix(part).ok()?)));
    resolved.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::sandbox::shows;

    #[test]
    fn the_daemons_own_files_are_hidden_under_every_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::create_dir(&real).expect("ours");
        std::os::unix::fs::symlink(&real, &link).expect("ours");
        let mut config = Config::default();
        config.database.url = format!("sqlite:{}/m.db", link.display());
        config.secrets.key_file = link.join("key");
        let hidden = config.ceiling().hidden;
        for shown in [
            link.join("m.db-wal"),
            real.join("m.db"),
            real.join("key"),
            real,
            link,
        ] {
            assert!(shows(&shown, &hidden).is_some(), "{}", shown.display());
        }
        assert!(shows(Path::new("/srv/notes"), &hidden).is_none());
    }
}
