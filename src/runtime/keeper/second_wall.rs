//! Landlock: a second wall around files, signals and abstract sockets inside the private root, and the first one where
//! the host allows no namespaces.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope, path_beneath_rules,
};
use nix::errno::Errno;

use super::root;
use crate::domain::sandbox::Sandbox;

/// The newest version of which all is used; an older kernel gives less.
const NEWEST: ABI = ABI::V6;
/// From this version on signals and abstract sockets are closed, too.
pub(super) const WITH_SCOPES: i32 = 6;

/// The version that this kernel offers; 0: none (landlock_create_ruleset(2)).
pub(in crate::runtime) fn abi() -> i32 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call reads no memory and makes no descriptor.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// Restricts this process and all that it starts. `credentials` is the folder of its credential files;
/// `private_root`: it sees nothing but its own root already.
///
/// # Errors
/// When a kernel that offers Landlock does not enforce it.
pub(super) fn restrict(
    sandbox: &Sandbox,
    folder: &Path,
    credentials: Option<&Path>,
    private_root: bool,
) -> Result<(), Errno> {
    match try_restrict(sandbox, folder, credentials, private_root) {
        Ok(RulesetStatus::NotEnforced) => Err(Errno::EOPNOTSUPP),
        Ok(_) => Ok(()),
        Err(_) => Err(Errno::last()),
    }
}

fn try_restrict(
    sandbox: &Sandbox,
    folder: &Path,
    credentials: Option<&Path>,
    private_root: bool,
) -> Result<RulesetStatus, RulesetError> {
    let everything = AccessFs::from_all(NEWEST);
    let reading = AccessFs::from_read(NEWEST);
    let writing = reading | AccessFs::WriteFile;
    let own = [folder]
        .into_iter()
        .chain(sandbox.write.iter().map(PathBuf::as_path));
    let rules = Ruleset::default()
        .handle_access(everything)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(own, everything))?
        .add_rules(path_beneath_rules(root::DEVICES, writing))?;
    let rules = if private_root {
        rules
            .add_rules(path_beneath_rules(["/"], reading))?
            // The few files by which a process sets its own name and priority.
            .add_rules(path_beneath_rules(["/proc"], writing))?
            .add_rules(path_beneath_rules(["/tmp", "/dev/shm"], everything))?
    } else {
        let named = root::named(sandbox).map(PathBuf::as_path);
        rules
            .add_rules(path_beneath_rules(root::shown_to_all(), reading))?
            .add_rules(path_beneath_rules(named, reading))?
            .add_rules(path_beneath_rules(credentials, reading))?
            .add_rules(path_beneath_rules(
                ["/proc", "/etc/passwd", "/etc/group"],
                reading,
            ))?
    };
    Ok(rules.restrict_self()?.ruleset)
}
