//! What to launch, and how it is named between `serve` and the keeper.

use std::{fmt, os::fd::OwnedFd, path::PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::{
    file_argument::FileArgument,
    id::{Generation, InstanceId},
    limits::Limits,
    sandbox::Sandbox,
};

/// Most descriptors that a launch hands to the server beyond stdin, stdout and stderr.
pub const PASSED_MAX: usize = 8;

/// One child of one instance: the key under which the keeper holds it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct WorkloadId {
    /// The instance.
    pub instance: InstanceId,
    /// Which of its launches.
    pub generation: Generation,
    /// 0: the instance's main child; else the number of a member, the child of one client session. A keeper or a
    /// `serve` from before there were members knows main children only.
    #[serde(default, skip_serializing_if = "is_main")]
    pub member: u32,
}

fn is_main(member: &u32) -> bool {
    *member == 0
}

impl WorkloadId {
    /// The main child of a launch.
    #[must_use]
    pub fn main(instance: InstanceId, generation: Generation) -> Self {
        Self {
            instance,
            generation,
            member: 0,
        }
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.generation)?;
        if self.member > 0 {
            write!(f, ".{}", self.member)?;
        }
        Ok(())
    }
}

/// Everything that the keeper needs to start a server.
///
/// The values of `env` are secrets: they are wiped when the plan is dropped, and `Debug` does not show them.
pub struct LaunchPlan {
    /// The key of the new workload; must not be held by the keeper already.
    pub id: WorkloadId,
    /// Program and arguments. A program without a slash is looked up in the `PATH` of `env`.
    /// Never put a secret here: every user of the host can read it.
    pub argv: Vec<String>,
    /// The whole environment; nothing else is inherited.
    pub env: Vec<(String, Zeroizing<String>)>,
    /// Secrets that the server reads from files: variable, which will hold the path, and content. Nobody else on this
    /// host but root can read them, and they end with the child.
    pub files: Vec<(String, Zeroizing<String>)>,
    /// Where in `argv` the paths of some of these go.
    pub file_arguments: Vec<FileArgument>,
    /// The working folder, absolute; made with mode 0700 if it is missing.
    pub cwd: PathBuf,
    /// Limits; each is lowered to the keeper's own hard limit.
    pub limits: Limits,
    /// What it may reach.
    pub sandbox: Sandbox,
    /// Become descriptors 3, 4, … of the server, at most [`PASSED_MAX`].
    pub passed: Vec<OwnedFd>,
}

impl fmt::Debug for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        let files: Vec<&str> = self.files.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("LaunchPlan")
            .field("id", &self.id)
            .field("argv", &self.argv)
            .field("env", &names)
            .field("files", &files)
            .field("cwd", &self.cwd)
            .field("limits", &self.limits)
            .field("sandbox", &self.sandbox)
            .field("passed", &self.passed.len())
            .finish()
    }
}

/// What the keeper found when it tried each layer of isolation at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReport {
    /// The keeper's version of `minimcp`.
    pub version: String,
    /// Layer to state, in words, for example `pid-namespace` to `on`.
    pub isolation: std::collections::BTreeMap<String, String>,
    /// How many descriptors the keeper may open (`RLIMIT_NOFILE`). Each child takes four, three pipe ends and a pidfd,
    /// and where its network goes through the gate two and one for each port that is caught; each instance one more, the
    /// listener of its access port.
    pub open_files_max: u64,
    /// Whether it tells the members of an instance from its main child.
    pub members: bool,
    /// Whether it makes network namespaces whose connections are caught.
    pub gates: bool,
    /// Whether it delivers credentials as files.
    pub credential_files: bool,
    /// Whether the path of such a file can stand in an argument.
    pub file_arguments: bool,
    /// Whether it can let the processes of a child hold still.
    pub freezes: bool,
    /// Whether it can take back the memory of those.
    pub reclaims: bool,
    /// Whether another program lies where the keeper's own did: it can be asked to go on as that one.
    pub program_replaced: bool,
}

impl Default for HostReport {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            isolation: std::collections::BTreeMap::new(),
            open_files_max: 0,
            members: false,
            gates: false,
            credential_files: false,
            file_arguments: false,
            freezes: false,
            reclaims: false,
            program_replaced: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_value() {
        let plan = LaunchPlan {
            id: WorkloadId::main(InstanceId(uuid::Uuid::nil()), Generation(1)),
            argv: vec!["server".into()],
            env: vec![("API_KEY".into(), Zeroizing::new("hunter2".into()))],
            files: vec![("KEY_FILE".into(), Zeroizing::new("hunter2".into()))],
            file_arguments: Vec::new(),
            cwd: "/tmp".into(),
            limits: Limits::default(),
            sandbox: Sandbox::default(),
            passed: Vec::new(),
        };
        let shown = format!("{plan:?}");
        assert!(
            shown.contains("API_KEY") && shown.contains("KEY_FILE"),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_main_child_is_named_as_before_there_were_members() {
        let main = WorkloadId::main(InstanceId(uuid::Uuid::nil()), Generation(3));
        let old = format!(r#"{{"instance":"{}","generation":3}}"#, uuid::Uuid::nil());
        assert_eq!(serde_json::to_string(&main).expect("writable"), old);
        let read: WorkloadId = serde_json::from_str(&old).expect("readable");
        assert_eq!(read, main);
        let member = WorkloadId { member: 2, ..main };
        let json = serde_json::to_string(&member).expect("writable");
        let read: WorkloadId = serde_json::from_str(&json).expect("readable");
        assert_eq!((read, member > main), (member, true));
        assert!(member.to_string().ends_with("/3.2"), "{member}");
    }
}
