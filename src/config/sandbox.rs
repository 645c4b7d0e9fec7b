//! The operator's ceiling over what servers may reach.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Config;
use crate::domain::{
    egress::{HostAddress, HostPattern},
    own_user::UserIds,
    private_address::Opened,
    sandbox::{Ceiling, Exception, Network, Profile},
};

/// The most that instances may reach, whatever their templates and settings ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// The weakest profile that a template may choose.
    pub weakest_profile: Profile,
    /// Single templates that may choose a weaker one, each with the reason.
    pub exceptions: Vec<Exception>,
    /// The widest network that a template may choose.
    pub widest_network: Network,
    /// Hosts that no instance reaches, whatever templates and settings name.
    pub deny_hosts: Vec<HostPattern>,
    /// Private addresses that instances reach all the same, by an allowed name or address.
    pub allow_private: Vec<Opened>,
    /// Names that the gate does not ask this host's resolver for.
    pub host_addresses: Vec<HostAddress>,
    /// Most connections of one child at the same time.
    pub connections_max: usize,
    /// Most bytes that one instance sends through the gate in an hour.
    pub sent_bytes_per_hour: u64,
    /// Folders below which templates and settings may open paths to be read.
    pub allow_read: Vec<PathBuf>,
    /// Folders below which templates and settings may open folders to be written.
    pub allow_write: Vec<PathBuf>,
    /// Shown to every instance, read-only.
    pub read: Vec<PathBuf>,
    /// Shown to no instance, whatever is granted; the daemon's own files are so without being named.
    pub hide: Vec<PathBuf>,
    /// First of the user ids, and group ids of the same numbers, that instances get one each where the keeper is root;
    /// 0: none has a user of its own.
    pub uid_min: u32,
    /// The last of them.
    pub uid_max: u32,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            weakest_profile: Profile::default(),
            exceptions: Vec::new(),
            widest_network: Network::AllowList,
            deny_hosts: Vec::new(),
            allow_private: Vec::new(),
            host_addresses: Vec::new(),
            connections_max: 128,
            sent_bytes_per_hour: 4 << 30,
            allow_read: Vec::new(),
            allow_write: Vec::new(),
            read: Vec::new(),
            hide: Vec::new(),
            // Above what systemd gives to services, below what distributions give to containers (subuid(5)).
            uid_min: 70_000,
            uid_max: 79_999,
        }
    }
}

impl SandboxConfig {
    /// What is wrong with the range of user ids, in one sentence.
    pub(super) fn uid_fault(&self) -> Option<&'static str> {
        let Self {
            uid_min, uid_max, ..
        } = self;
        match uid_min {
            0 => None,
            1..UID_LOWEST => Some("is below 1000: users of the host's own services are there"),
            _ if uid_min > uid_max => Some("is above sandbox.uid_max"),
            // The kernel's and NFS's nobody, and the two numbers that mean "no change".
            _ if (*uid_min..=*uid_max).contains(&65_534)
                || (*uid_min..=*uid_max).contains(&65_535)
                || *uid_max == u32::MAX =>
            {
                Some("and sandbox.uid_max hold 65534, 65535 or 4294967295, which are nobody's")
            }
            _ => None,
        }
    }
}

/// Below it are the users of the host's own services.
const UID_LOWEST: u32 = 1_000;

impl Config {
    /// The ceiling, with the daemon's own files hidden under the names given here and under their real ones. Looks at
    /// the file system.
    #[must_use]
    pub fn ceiling(&self) -> Ceiling {
        let own = [
            Some(&self.api.admin_token_file),
            self.api.unix_socket.as_ref(),
            Some(&self.runtime.imports_dir),
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
            exceptions: self.sandbox.exceptions.clone(),
            widest_network: self.sandbox.widest_network,
            denied_hosts: self.sandbox.deny_hosts.clone(),
            allow_read: self.sandbox.allow_read.clone(),
            allow_write: self.sandbox.allow_write.clone(),
            read: self.sandbox.read.clone(),
            hidden,
            user_ids: (self.sandbox.uid_min > 0).then_some(UserIds {
                min: self.sandbox.uid_min,
                max: self.sandbox.uid_max,
            }),
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
