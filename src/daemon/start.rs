//! What is known of the process that a daemon is started in.

use std::os::fd::OwnedFd;

use super::{Origin, Reread};

/// How a daemon comes to be.
#[derive(Debug, Default)]
pub struct Start {
    /// What came of [`super::keep_to_own_files`], for a process that tried.
    pub own_files: Option<Result<bool, String>>,
    /// What this process was begun as, where another program may take its place.
    pub origin: Option<Origin>,
    /// What keeps a keeper alive that this process started when it was another program.
    pub lifeline: Option<OwnedFd>,
    /// Where SIGHUP finds the configuration; `None`: only templates are read anew.
    pub reread: Option<Reread>,
}
