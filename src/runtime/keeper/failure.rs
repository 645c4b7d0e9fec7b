//! Why a launch gave no running program, in one sentence for people.

use std::path::Path;

use nix::errno::Errno;

use super::{launch::LAUNCH_TIMEOUT_MS, progress::Stage, protocol::Launch, root};

/// Why there is no running program.
pub(super) enum Failure {
    /// The number is that of a path of the plan, where one is at fault.
    At(Stage, Errno, Option<usize>),
    DiedInSetup,
    TimedOut,
}

impl Failure {
    /// The sentence.
    pub(super) fn sentence(&self, launch: &Launch) -> String {
        let program = launch.argv.first().map_or("", String::as_str);
        let (stage, errno, place) = match self {
            Self::At(stage, errno, place) => (*stage, *errno, *place),
            Self::DiedInSetup => return "it was killed before its program ran".into(),
            Self::TimedOut => {
                return format!("{program} did not start within {LAUNCH_TIMEOUT_MS} ms");
            }
        };
        let why = errno.desc();
        match stage {
            Stage::Exec => match errno {
                Errno::ENOENT if program.contains('/') && Path::new(program).exists() => {
                    format!("the interpreter that {program} asks for is not found")
                }
                Errno::ENOENT => format!("program {program} not found"),
                Errno::EACCES => format!("{program} may not be executed: permission denied"),
                Errno::ENOEXEC => format!("{program} is not a program that this host can run"),
                Errno::E2BIG => "its arguments and environment are too long".into(),
                _ => format!("cannot execute {program}: {why}"),
            },
            Stage::Folder => format!("cannot enter {}: {why}", launch.cwd.display()),
            Stage::Limits => format!("cannot set its limits: {why}"),
            Stage::Fork => format!("cannot fork: {why}"),
            Stage::Maps | Stage::Proc => format!("cannot set up its namespaces: {why}"),
            Stage::Network | Stage::Sockets => format!("cannot set up its network: {why}"),
            Stage::Root | Stage::Place => {
                match place.and_then(|index| root::named(&launch.sandbox).nth(index)) {
                    Some(path) if errno == Errno::ELOOP => format!(
                        "{} passes through a symbolic link, which a grant must not: name the real path",
                        path.display()
                    ),
                    Some(path) => format!("cannot show {} to it: {why}", path.display()),
                    None => format!("cannot make its root: {why}"),
                }
            }
            Stage::Credentials => format!("cannot lay its credential files out: {why}"),
            Stage::Identity => format!("cannot become its own user: {why}"),
            Stage::Landlock => format!("cannot restrict it by Landlock: {why}"),
            Stage::Filter => format!("cannot filter its system calls: {why}"),
            Stage::Ahead => format!("cannot enter the namespaces that were made ahead: {why}"),
            Stage::Ready
            | Stage::Init
            | Stage::Keeper
            | Stage::Session
            | Stage::Descriptors
            | Stage::Privileges => {
                format!("set-up failed: {why}")
            }
        }
    }
}
