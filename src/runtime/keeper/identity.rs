//! As whom a server runs: as a user of its own where we are root and nothing speaks against it, else as we do.
//!
//! The owner of its folder is the record: a user belongs to an instance for as long as the folder is there, whatever
//! happens to us, to `serve` or to the database, and is free again once the folder was removed, which is after the
//! tree is gone.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat},
    sys::stat::{Mode, SFlag, fstatat},
    unistd::{Gid, Uid, fchown, fchownat, setgroups, setresgid, setresuid},
};

use super::{layers::Host, protocol::Launch, taken_users::TakenUsers};
use crate::domain::{
    own_user::UserIds,
    sandbox::{Profile, Sandbox},
};

/// How deep a folder that is handed over may be nested: each level holds a descriptor.
const DEPTH_MAX: usize = 64;

/// As whom a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// A user, and a group of the same number, of the instance alone.
    Own(u32),
    /// As the keeper, and why.
    Keepers(Shared),
}

/// Why an instance has no user of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// Only root can become somebody else.
    NotRoot,
    /// No range of user ids.
    NoRange,
    /// Not part of its profile.
    Profile,
    /// Without a root of its own it could not reach its folder, which lies where only we may look.
    NoPrivateRoot,
    /// It is to use files of the host as we may.
    Grants,
    /// Its program is not for everyone.
    Program,
}

impl Shared {
    /// Why, as the end of a sentence.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NotRoot => "it is not root",
            Self::NoRange => "no range of user ids is set (sandbox.uid_min)",
            Self::Profile => "the profile is not strict",
            Self::NoPrivateRoot => {
                "there is no private root, without which it could not reach its folder"
            }
            Self::Grants => "paths of the host are granted, which another user could not use",
            Self::Program => "its program may not be read by every user",
        }
    }
}

/// Decides it for one launch.
///
/// # Errors
/// When every user of the range is taken.
pub(super) fn decide(
    host: &Host,
    launch: &Launch,
    taken_users: &mut TakenUsers,
) -> Result<Identity, String> {
    let sandbox = &launch.sandbox;
    let ids = match eligible(host, sandbox) {
        Ok(ids) => ids,
        Err(why) => return Ok(Identity::Keepers(why)),
    };
    if !for_everyone(launch) {
        return Ok(Identity::Keepers(Shared::Program));
    }
    if let Ok(folder) = fs::symlink_metadata(&launch.cwd)
        && ids.contains(folder.uid())
    {
        return Ok(Identity::Own(folder.uid()));
    }
    let taken = launch.cwd.parent().map(|all| taken_users.of(all, ids));
    let free = ids.pick(launch.id.instance, &taken.unwrap_or_default());
    free.map(Identity::Own).ok_or_else(|| {
        format!(
            "each of the {} users of sandbox.uid_min to uid_max belongs to an instance",
            ids.count()
        )
    })
}

fn eligible(host: &Host, sandbox: &Sandbox) -> Result<UserIds, Shared> {
    if !host.own_user {
        return Err(Shared::NotRoot);
    }
    if sandbox.profile != Profile::Strict {
        return Err(Shared::Profile);
    }
    if !host.private_root {
        return Err(Shared::NoPrivateRoot);
    }
    if !sandbox.read.is_empty() || !sandbox.write.is_empty() {
        return Err(Shared::Grants);
    }
    sandbox.user_ids.ok_or(Shared::NoRange)
}

/// Whether the program and what it needs are there for every user. What is missing is told by others.
fn for_everyone(launch: &Launch) -> bool {
    let open = |path: &Path, bits: u32| {
        fs::metadata(path).map_or(true, |found| {
            let bits = if found.is_dir() { 0o005 } else { bits };
            found.mode() & bits == bits
        })
    };
    let program = launch.argv.first().map(Path::new);
    program.is_none_or(|program| !program.is_absolute() || open(program, 0o005))
        && launch.sandbox.program.iter().all(|path| open(path, 0o004))
}

/// Makes the folder, and all that is in it, that of whoever runs next: the instance's own user, or us again. Only what
/// was ours or such a user's changes hands. Tells whether it did.
///
/// # Errors
/// One sentence.
pub(super) fn hand_over(
    folder: &Path,
    identity: Identity,
    ids: Option<UserIds>,
    keeper: u32,
) -> Result<bool, String> {
    let failed = |cause: io::Error| {
        format!(
            "cannot hand the folder {} over to its user: {cause}",
            folder.display()
        )
    };
    let owner = fs::symlink_metadata(folder).map_err(failed)?.uid();
    let was_own = ids.is_some_and(|ids| ids.contains(owner));
    let to = match identity {
        Identity::Own(uid) => uid,
        Identity::Keepers(_) if was_own => keeper,
        Identity::Keepers(_) => return Ok(false),
    };
    if owner == to {
        return Ok(false);
    }
    if owner != keeper && !was_own {
        return Err(format!(
            "the folder {} belongs to user {owner}, and not to the keeper",
            folder.display()
        ));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let top = open(folder, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    give(&top, to, DEPTH_MAX).map_err(failed)?;
    Ok(true)
}

/// What is inside first: one that was cut short begins again.
fn give(folder: &OwnedFd, to: u32, depth: usize) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(to)), Some(Gid::from_raw(to)));
    for entry in fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
        let name = entry?.file_name();
        let found = fstatat(folder, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            let Some(depth) = depth.checked_sub(1) else {
                let text = format!("folders are nested deeper than {DEPTH_MAX}");
                return Err(io::Error::other(text));
            };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            give(
                &openat(folder, name.as_os_str(), flags, Mode::empty())?,
                to,
                depth,
            )?;
        } else if found.st_nlink == 1 {
            // A file with a second name may be somebody else's.
            fchownat(
                folder,
                name.as_os_str(),
                uid,
                gid,
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )?;
        }
    }
    Ok(fchown(folder, uid, gid)?)
}

/// Gives the child's ends of its pipes to the user that it will be. Without that it could use them, but not open
/// `/dev/stdout` or `/proc/self/fd/0`; some servers do, to read without blocking.
pub(super) fn give_pipes(pipes: [&OwnedFd; 3], uid: Option<u32>) -> Result<(), Errno> {
    let Some(uid) = uid else { return Ok(()) };
    for pipe in pipes {
        fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?;
    }
    Ok(())
}

/// Becomes that user for good, in a user namespace of one id where `own_namespace`. What root alone may do must be done.
pub(super) fn become_user(uid: u32, own_namespace: bool) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    if own_namespace {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
        super::init::write_maps(uid, uid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::{
        domain::id::{Generation, InstanceId},
        runtime::WorkloadId,
    };

    const IDS: UserIds = UserIds {
        min: 70_000,
        max: 70_001,
    };

    /// What one case changes.
    type Change<'a> = dyn Fn(&mut Host, &mut Launch) + 'a;

    fn launch(folder: &Path) -> Launch {
        Launch {
            id: WorkloadId::main(InstanceId(uuid::Uuid::nil()), Generation(1)),
            argv: vec!["/bin/true".into()],
            env: Vec::new(),
            files: Vec::new(),
            file_arguments: Vec::new(),
            cwd: folder.join("one"),
            limits: crate::domain::limits::Limits::default().into(),
            resources: crate::domain::limits::Resources::default(),
            sandbox: Sandbox {
                user_ids: Some(IDS),
                ..Sandbox::default()
            },
        }
    }

    #[test]
    fn each_reason_against_a_user_of_its_own_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let plain = launch(folder.path());
        let of = |change: &Change<'_>| {
            let (mut host, mut launch) = (super::super::layers::ALL, plain.clone());
            host.own_user = true;
            change(&mut host, &mut launch);
            decide(&host, &launch, &mut TakenUsers::default())
        };
        assert_eq!(of(&|_, _| {}), Ok(Identity::Own(70_000)));
        let secret = folder.path().join("program");
        fs::write(&secret, "").expect("ours");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).expect("ours");
        let program = secret.to_str().expect("plain").to_owned();
        let cases: [(&Change<'_>, Shared); 6] = [
            (&|host, _| host.own_user = false, Shared::NotRoot),
            (&|_, l| l.sandbox.user_ids = None, Shared::NoRange),
            (
                &|_, l| l.sandbox.profile = Profile::Relaxed,
                Shared::Profile,
            ),
            (&|host, _| host.private_root = false, Shared::NoPrivateRoot),
            (
                &|_, l| l.sandbox.write = vec!["/srv".into()],
                Shared::Grants,
            ),
            (&|_, l| l.argv = vec![program.clone()], Shared::Program),
        ];
        for (change, why) in cases {
            assert_eq!(of(change), Ok(Identity::Keepers(why)), "{}", why.reason());
        }
    }

    #[test]
    fn the_user_that_a_child_will_be_can_open_its_pipes() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give pipes away");
            return;
        }
        let pipes = || [(); 3].map(|()| nix::unistd::pipe().expect("descriptors").0);
        let opens = |pipes: &[OwnedFd; 3]| {
            use std::os::unix::process::CommandExt;
            let mut shell = std::process::Command::new("/bin/sh");
            shell.args(["-c", ": < /proc/self/fd/0"]).uid(4_242);
            let stdin = pipes[0].try_clone().expect("a descriptor");
            let ended = shell
                .stdin(stdin)
                .stderr(std::process::Stdio::null())
                .status();
            ended.expect("a shell").success()
        };
        let [given, kept] = [pipes(), pipes()];
        give_pipes(given.each_ref(), Some(4_242)).expect("root may");
        give_pipes(kept.each_ref(), None).expect("nothing to do");
        assert!(opens(&given) && !opens(&kept));
    }

    #[test]
    fn files_change_hands_and_nothing_behind_a_link_does() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give files away");
            return;
        }
        let all = tempfile::tempdir().expect("a folder");
        let launch = launch(all.path());
        let (inside, outside) = (launch.cwd.join("a/b"), all.path().join("outside"));
        fs::create_dir_all(&inside).expect("ours");
        fs::write(inside.join("file"), "x").expect("ours");
        fs::write(&outside, "x").expect("ours");
        symlink(&outside, inside.join("link")).expect("ours");
        fs::hard_link(&outside, inside.join("second-name")).expect("ours");
        hand_over(&launch.cwd, Identity::Own(70_001), Some(IDS), 0).expect("root may");
        let owner = |path: &Path| fs::symlink_metadata(path).expect("there").uid();
        for path in [
            &launch.cwd,
            &inside,
            &inside.join("file"),
            &inside.join("link"),
        ] {
            assert_eq!(owner(path), 70_001, "{}", path.display());
        }
        assert_eq!(owner(&outside), 0);
        let mut host = super::super::layers::ALL;
        host.own_user = true;
        assert_eq!(
            decide(&host, &launch, &mut TakenUsers::default()),
            Ok(Identity::Own(70_001)),
            "it stays its user"
        );
        let mut other = launch.clone();
        other.cwd = all.path().join("two");
        assert_eq!(
            decide(&host, &other, &mut TakenUsers::default()),
            Ok(Identity::Own(70_000))
        );
        fs::create_dir(&other.cwd).expect("ours");
        hand_over(&other.cwd, Identity::Own(70_000), Some(IDS), 0).expect("root may");
        other.cwd = all.path().join("three");
        let full = decide(&host, &other, &mut TakenUsers::default()).expect_err("both are taken");
        assert!(full.contains("uid_min"), "{full}");
        let back = Identity::Keepers(Shared::Grants);
        hand_over(&launch.cwd, back, Some(IDS), 0).expect("root may");
        assert_eq!(owner(&inside.join("file")), 0);
        let stranger = all.path().join("stranger");
        fs::create_dir(&stranger).expect("ours");
        std::os::unix::fs::chown(&stranger, Some(4_242), None).expect("root may");
        let refused = hand_over(&stranger, Identity::Own(70_000), Some(IDS), 0);
        assert!(refused.expect_err("not ours").contains("4242"));
    }
}
