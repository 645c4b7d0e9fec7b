//! The layers that a sandbox is made of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One layer of isolation, by the name that `isolation` reports it under.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Its own process numbers; everything in it ends with its init.
    PidNamespace,
    /// Its own user namespace of one id.
    UserNamespace,
    /// A user and a group of this instance alone.
    OwnUser,
    /// Its own minimal root, read-only but for its folder.
    PrivateRoot,
    /// Its own System V IPC, message queues, host name and cgroup root.
    IpcNamespace,
    /// No capability in any set.
    NoCapabilities,
    /// The allow-list of system calls.
    SystemCalls,
    /// Landlock rules on files, signals and abstract sockets.
    Landlock,
    /// A cgroup of its own in which memory, processes and CPU time are limited.
    CgroupLimits,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::PidNamespace,
        Self::UserNamespace,
        Self::OwnUser,
        Self::PrivateRoot,
        Self::IpcNamespace,
        Self::NoCapabilities,
        Self::SystemCalls,
        Self::Landlock,
        Self::CgroupLimits,
    ];

    /// The word that manifests and `isolation` use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::PidNamespace => "pid-namespace",
            Self::UserNamespace => "user-namespace",
            Self::OwnUser => "own-user",
            Self::PrivateRoot => "private-root",
            Self::IpcNamespace => "ipc-namespace",
            Self::NoCapabilities => "no-capabilities",
            Self::SystemCalls => "system-calls",
            Self::Landlock => "landlock",
            Self::CgroupLimits => "cgroup-limits",
        }
    }

    /// How an operator gets it on a host that lacks it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::PidNamespace | Self::PrivateRoot | Self::IpcNamespace | Self::UserNamespace => {
                "allow user namespaces (sysctl user.max_user_namespaces above 0, \
                 kernel.apparmor_restrict_unprivileged_userns=0, RestrictNamespaces of the keeper's unit), or run \
                 the keeper as root; Linux 5.12 or later"
            }
            Self::OwnUser => {
                "run serve and keeper as root with a range of user ids (sandbox.uid_min and uid_max in config.toml) and \
                 the profile strict; the program must be readable for every user, and no path of the host granted"
            }
            Self::NoCapabilities | Self::SystemCalls => {
                "use the profile strict or relaxed, on a kernel with seccomp filters"
            }
            Self::CgroupLimits => {
                "run the keeper as a unit of its own with Delegate=yes, as systemd/minimcp-keeper.service does, on a host \
                 with cgroup v2 and its controllers memory, pids and cpu"
            }
            Self::Landlock => {
                "use Linux 5.13 or later with landlock among its security modules (lsm=)"
            }
        }
    }
}
