//! What a server may reach: the pure policy. A template asks, the operator's ceiling bounds, deny beats allow.
//!
//! The answer is a [`Sandbox`] that the keeper builds, or every [`Denial`], each naming the grant that is missing.

use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::layer::Layer;
use super::{
    egress::{Catch, Egress, HostPattern, HostRule, PORTS_MAX},
    id::TemplateName,
    own_user::UserIds,
};

/// How much of the sandbox is built; the strictest is the smallest.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Every layer that the host allows, and a wall around files in any case.
    #[default]
    Strict,
    /// All but the private root: the server sees the host's files as its user may, less those of the daemon.
    Relaxed,
    /// A process tree of its own, `no_new_privs` and limits, nothing else.
    Off,
}

impl Profile {
    /// The word that people write.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
            Self::Off => "off",
        }
    }
}

/// What of the network a server reaches; the narrowest is the smallest.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Nothing but a loopback of its own.
    None,
    /// The hosts that are named, through our gate.
    #[default]
    AllowList,
    /// Every name, through our gate, which records what is asked for: to find the list.
    Learn,
    /// Whatever the host reaches.
    Open,
}

impl Network {
    /// The word that people write.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AllowList => "allow-list",
            Self::Learn => "learn",
            Self::Open => "open",
        }
    }

    /// Whether it goes through our gate.
    #[must_use]
    pub fn is_gated(self) -> bool {
        matches!(self, Self::AllowList | Self::Learn)
    }
}

/// The `[sandbox]` section of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxSpec {
    /// How much of it is built; weaker than strict only as far as the operator's ceiling goes.
    pub profile: Profile,
    /// Paths of the host that it reads, beside the runtime and its own program. Absolute.
    pub read: Vec<PathBuf>,
    /// Folders of the host that it writes, beside its own. Absolute.
    pub write: Vec<PathBuf>,
    /// What of the network it reaches; wider than an allow-list only as far as the operator's ceiling goes.
    pub network: Network,
    /// Hosts that it reaches where its network is an allow-list.
    pub hosts: Vec<HostRule>,
    /// Layers without which it does not start.
    pub require: Vec<Layer>,
    /// Size of its private `/tmp`, and again of `/dev/shm`, in bytes.
    pub tmp_size_bytes: u64,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            profile: Profile::Strict,
            read: Vec::new(),
            write: Vec::new(),
            network: Network::AllowList,
            hosts: Vec::new(),
            require: Vec::new(),
            tmp_size_bytes: 64 << 20,
        }
    }
}

/// What a path is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// To be read, and executed.
    Read,
    /// To be written as well.
    Write,
}

/// A weaker profile for one template, on the operator's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Which.
    pub template: TemplateName,
    /// The weakest profile that it may choose.
    pub profile: Profile,
    /// Why; each of its instances shows it.
    pub reason: String,
}

/// The most that any template gets on this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ceiling {
    /// The weakest profile.
    pub weakest_profile: Profile,
    /// Single templates that may go below it.
    pub exceptions: Vec<Exception>,
    /// The widest network.
    pub widest_network: Network,
    /// Hosts that no server reaches, whatever templates and settings name.
    pub denied_hosts: Vec<HostPattern>,
    /// Folders below which grants to read are given.
    pub allow_read: Vec<PathBuf>,
    /// Folders below which grants to write, and to read, are given.
    pub allow_write: Vec<PathBuf>,
    /// Shown to every server, read-only.
    pub read: Vec<PathBuf>,
    /// Never shown to any server, whatever is granted: the daemon's own files.
    pub hidden: Vec<PathBuf>,
    /// Users that instances may have for themselves, where the keeper is root; `None`: none.
    pub user_ids: Option<UserIds>,
}

/// What one launch gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// How much of it is built.
    pub profile: Profile,
    /// Why the operator lets this template choose a weaker profile than others, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_reason: Option<String>,
    /// Where its program and what that needs lie, read-only. Symbolic links are followed.
    pub program: Vec<PathBuf>,
    /// Granted to be read. No symbolic link is followed.
    pub read: Vec<PathBuf>,
    /// Granted to be written. No symbolic link is followed.
    pub write: Vec<PathBuf>,
    /// Never shown.
    pub hidden: Vec<PathBuf>,
    /// What of the network it reaches.
    pub network: Network,
    /// What of its connections are caught, where they go through the gate.
    pub caught: Catch,
    /// Which of them go on: decided by the gate, not by the keeper.
    #[serde(skip)]
    pub egress: Egress,
    /// Layers without which it must not start.
    pub require: Vec<Layer>,
    /// Size of its private `/tmp`, and again of `/dev/shm`, in bytes; 0 means the default.
    pub tmp_size_bytes: u64,
    /// From where its own user comes, where the keeper is root; `None`: it has none.
    pub user_ids: Option<UserIds>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            profile: Profile::Strict,
            program: Vec::new(),
            read: Vec::new(),
            write: Vec::new(),
            hidden: Vec::new(),
            profile_reason: None,
            // What a launch without a word on it had before there was a gate.
            network: Network::Open,
            caught: Catch::default(),
            egress: Egress::default(),
            require: Vec::new(),
            tmp_size_bytes: 0,
            user_ids: None,
        }
    }
}

/// One thing that was asked for and not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A profile below the ceiling.
    #[error(
        "the profile {} is not allowed: it needs sandbox.weakest_profile = \"{}\" or an entry in sandbox.exceptions in \
         config.toml",
        .0.word(), .0.word()
    )]
    Profile(Profile),
    /// A network above the ceiling.
    #[error(
        "network = \"{}\" is not allowed: it needs sandbox.widest_network = \"{}\" in config.toml",
        .0.word(), .0.word()
    )]
    Network(Network),
    /// Every name, which is an open network but for private addresses.
    #[error(
        "{0} stands for every host, which is not allowed: it needs sandbox.widest_network = \"open\" in config.toml"
    )]
    EveryHost(HostRule),
    /// A host of the operator's list.
    #[error("{0} is not allowed: it is among sandbox.deny_hosts of config.toml")]
    Host(HostRule),
    /// More ports than can be listened on.
    #[error("its hosts have {0} different ports; at most {PORTS_MAX} are allowed")]
    Ports(usize),
    /// A path outside the folders that may be granted.
    #[error(
        "{} may not be {}: it needs a folder at or above it in sandbox.{} of config.toml",
        path.display(), access.deed(), access.key()
    )]
    Path {
        /// Which.
        path: PathBuf,
        /// For what.
        access: Access,
    },
    /// A path that holds, or lies in, what no server may see.
    #[error(
        "{} may not be shown to a server: it would show {}, which is the daemon's own",
        path.display(), hidden.display()
    )]
    Hidden {
        /// Which.
        path: PathBuf,
        /// What it would show.
        hidden: PathBuf,
    },
    /// A path that is relative or goes back.
    #[error("{} is not an absolute path without \"..\"", .0.display())]
    Shape(PathBuf),
}

impl Access {
    fn deed(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "written",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Read => "allow_read",
            Self::Write => "allow_write",
        }
    }
}

/// Whether one of the two holds the other.
#[must_use]
pub fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// What of `hidden` a path would show.
#[must_use]
pub fn shows<'a>(path: &Path, hidden: &'a [PathBuf]) -> Option<&'a Path> {
    let touched = hidden.iter().find(|hidden| overlap(path, hidden));
    touched.map(PathBuf::as_path)
}

/// Whether a path can be granted by its shape.
#[must_use]
pub fn is_plain(path: &Path) -> bool {
    let mut parts = path.components();
    parts.next() == Some(Component::RootDir)
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl Ceiling {
    /// Whether `path` may be granted.
    ///
    /// # Errors
    /// The [`Denial`].
    pub fn grants(&self, path: &Path, access: Access) -> Result<(), Denial> {
        if !is_plain(path) {
            return Err(Denial::Shape(path.to_owned()));
        }
        if let Some(hidden) = shows(path, &self.hidden) {
            return Err(Denial::Hidden {
                path: path.to_owned(),
                hidden: hidden.to_owned(),
            });
        }
        let within = |folders: &[PathBuf]| folders.iter().any(|folder| path.starts_with(folder));
        let allowed =
            within(&self.allow_write) || (access == Access::Read && within(&self.allow_read));
        allowed.then_some(()).ok_or_else(|| Denial::Path {
            path: path.to_owned(),
            access,
        })
    }

    /// The operator's word by which this template may have this profile; `Ok(None)`: everybody may.
    fn allows(&self, template: &TemplateName, profile: Profile) -> Result<Option<&str>, Denial> {
        if profile <= self.weakest_profile {
            return Ok(None);
        }
        let mut exceptions = self.exceptions.iter();
        let found = exceptions.find(|one| one.template == *template && profile <= one.profile);
        let found = found.map(|one| one.reason.as_str());
        found.map(Some).ok_or(Denial::Profile(profile))
    }

    /// Decides what a launch gets: what the template asks for, what settings add (`wanted`, `hosts`), and where its
    /// program lies (`program`, which needs no grant since whoever installed the template named it).
    ///
    /// # Errors
    /// Every [`Denial`]; never an empty list.
    pub fn decide(
        &self,
        template: &TemplateName,
        spec: &SandboxSpec,
        wanted: &[(PathBuf, Access)],
        hosts: &[HostRule],
        program: Vec<PathBuf>,
    ) -> Result<Sandbox, Vec<Denial>> {
        let mut denials = Vec::new();
        let word = self.allows(template, spec.profile);
        let reason = word.unwrap_or_else(|denial| {
            denials.push(denial);
            None
        });
        let own = spec.read.iter().map(|path| (path, Access::Read));
        let own = own.chain(spec.write.iter().map(|path| (path, Access::Write)));
        let asked = own.chain(wanted.iter().map(|(path, access)| (path, *access)));
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for (path, access) in asked {
            match self.grants(path, access) {
                Ok(()) if access == Access::Write => write.push(path.clone()),
                Ok(()) => read.push(path.clone()),
                Err(denial) => denials.push(denial),
            }
        }
        let program: Vec<PathBuf> = self.read.iter().cloned().chain(program).collect();
        for path in &program {
            if let Some(hidden) = shows(path, &self.hidden) {
                let (path, hidden) = (path.clone(), hidden.to_owned());
                denials.push(Denial::Hidden { path, hidden });
            }
        }
        let (egress, caught) = match self.egress(spec, hosts) {
            Ok(reached) if denials.is_empty() => reached,
            Ok(_) => return Err(denials),
            Err(more) => {
                denials.extend(more);
                return Err(denials);
            }
        };
        Ok(Sandbox {
            profile: spec.profile,
            profile_reason: reason.map(str::to_owned),
            program,
            read,
            write,
            hidden: self.hidden.clone(),
            network: spec.network,
            caught,
            egress,
            require: spec.require.clone(),
            tmp_size_bytes: spec.tmp_size_bytes,
            user_ids: self.user_ids,
        })
    }
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
