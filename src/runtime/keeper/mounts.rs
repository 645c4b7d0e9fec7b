//! What an instance's own mount namespace shows. Called between fork and exec, so nothing here allocates.

use std::ffi::CStr;

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
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
