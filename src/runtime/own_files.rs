//! Which files `serve` keeps to while it runs beside a keeper of another unit (landlock(7)).
//!
//! A thread's restriction is that of the threads that it starts, so this comes before any other one is there.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope, path_beneath_rules,
};

use super::keeper::root::{DEVICES, shown_to_all};

/// The newest version of which all is used; an older kernel gives less.
const NEWEST: ABI = ABI::V6;

/// What a process keeps of the file system; what is not there is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnFiles {
    /// Read, and listed where they are folders.
    pub read: Vec<PathBuf>,
    /// Read, made, changed and removed.
    pub write: Vec<PathBuf>,
    /// Whether it speaks with a socket of an abstract name outside (unix(7)).
    pub abstract_sockets: bool,
}

impl OwnFiles {
    /// Keeps this thread, and those that it starts from now on, to these files, to programs, libraries and certificates
    /// of the host, and to `/proc` for reading; it starts no program and signals nobody else. `false`: the kernel holds
    /// only a part of this.
    ///
    /// # Errors
    /// On a kernel without Landlock.
    pub fn restrict(&self) -> Result<bool, String> {
        match self.try_restrict().map_err(|cause| cause.to_string())? {
            RulesetStatus::FullyEnforced => Ok(true),
            RulesetStatus::PartiallyEnforced => Ok(false),
            RulesetStatus::NotEnforced => Err("this kernel has no Landlock (lsm=landlock)".into()),
        }
    }

    fn try_restrict(&self) -> Result<RulesetStatus, RulesetError> {
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        let everything = AccessFs::from_all(NEWEST);
        let writing = everything & !AccessFs::Execute;
        let scopes = match self.abstract_sockets {
            true => Scope::Signal.into(),
            false => Scope::Signal | Scope::AbstractUnixSocket,
        };
        let host = ["/proc", "/sys/fs/cgroup", "/etc/passwd", "/etc/group"].map(Path::new);
        let rules = Ruleset::default()
            .handle_access(everything)?
            .scope(scopes)?
            .create()?
            .add_rules(path_beneath_rules(shown_to_all(), reading))?
            .add_rules(path_beneath_rules(host, reading))?
            .add_rules(path_beneath_rules(DEVICES, reading | AccessFs::WriteFile))?
            .add_rules(path_beneath_rules(&self.read, reading))?
            .add_rules(path_beneath_rules(&self.write, writing))?;
        Ok(rules.restrict_self()?.ruleset)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_thread_keeps_to_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["own", "shown", "other"] {
            fs::create_dir(at(name)).expect("ours");
            fs::write(at(name).join("file"), name).expect("ours");
        }
        let own = OwnFiles {
            read: vec![at("shown"), at("missing")],
            write: vec![at("own")],
            abstract_sockets: false,
        };
        let look = || {
            let holds = own.restrict().is_ok();
            let reads = |name: &str| fs::read_to_string(at(name).join("file")).is_ok();
            let writes = |name: &str| fs::write(at(name).join("new"), "x").is_ok();
            let seen = ["own", "shown", "other"].map(|name| (reads(name), writes(name)));
            (holds, seen, fs::read_to_string("/proc/self/stat").is_ok())
        };
        // A thread of its own, which takes the restriction with it.
        let looked = std::thread::scope(|scope| scope.spawn(look).join());
        let (holds, seen, of_host) = looked.expect("no panic");
        if !holds {
            return eprintln!("SKIPPED: this kernel has no Landlock");
        }
        assert_eq!(seen, [(true, true), (true, false), (false, false)]);
        assert!(of_host);
    }
}
