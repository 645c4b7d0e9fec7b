//! What an instance's own mount namespace shows where it has no root of its own.

use std::{
    ffi::CStr,
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};

use super::{
    network::RESOLVER_FILES,
    tree::{Show, Tree},
};

/// Cuts the namespace off from the host's and mounts a /proc that shows its own processes only.
pub(super) fn proc_of_its_own() -> Result<(), Errno> {
    let none: Option<&str> = None;
    // Our mounts must not show outside, while new ones from outside may show here.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
}

/// Puts /dev/null over a file. A server runs as the keeper's own user, whom the mode of a socket does not stop.
pub(super) fn hide(file: &CStr) -> Result<(), Errno> {
    let none: Option<&str> = None;
    match mount(Some("/dev/null"), file, none, MsFlags::MS_BIND, none) {
        // Not there under this name: nothing to be reached.
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// Hides files and folders in the same way, and shows `folder` again where it lies in one of them.
pub(super) fn hide_all(hidden: &[PathBuf], folder: &Path) -> Result<(), Errno> {
    let covers = |path: &PathBuf| folder.starts_with(path) && fs::metadata(path).is_ok();
    let own = match hidden.iter().any(covers) {
        true => Some(Tree::copy(folder, true, Show::Writable)?),
        false => None,
    };
    for path in hidden {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                let options = Some("mode=755,size=64k,nr_inodes=64");
                mount(Some("tmpfs"), path, Some("tmpfs"), flags, options)?;
            }
            Ok(_) => {
                let none: Option<&str> = None;
                mount(Some("/dev/null"), path, none, MsFlags::MS_BIND, none)?;
            }
            Err(_) => {}
        }
    }
    if let Some(own) = own {
        let failed =
            |cause: std::io::Error| Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO));
        fs::create_dir_all(folder).map_err(failed)?;
        own.attach(fs::File::open(folder).map_err(failed)?.as_fd())?;
    }
    Ok(())
}

/// Puts files of ours over those by which programs find their resolver, where the host has them. They are made on a
/// tmpfs that lies over `folder` meanwhile.
pub(super) fn resolver_files(folder: &Path) -> Result<(), Errno> {
    let failed = |cause: std::io::Error| Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("mode=755,size=64k,nr_inodes=8");
    mount(Some("tmpfs"), folder, Some("tmpfs"), flags, options)?;
    let shown = RESOLVER_FILES
        .iter()
        .enumerate()
        .try_for_each(|(index, (path, text))| {
            if fs::metadata(path).is_err() {
                return Ok(());
            }
            let file = folder.join(index.to_string());
            fs::write(&file, text).map_err(failed)?;
            let none: Option<&str> = None;
            mount(Some(&file), *path, none, MsFlags::MS_BIND, none)
        });
    umount2(folder, MntFlags::MNT_DETACH)?;
    shown
}
