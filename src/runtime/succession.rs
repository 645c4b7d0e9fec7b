//! This process goes on as another program (execve): the pid stays, and with it the keeper that it started.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::stat::{SFlag, fstat},
};

/// The file of the program that runs, also when it has no name any more.
const OWN: &str = "/proc/self/exe";

/// Becomes `program` with `arguments`, and `kept` stays open for it under its number. Where it cannot be run, the program
/// that runs now begins anew in its place. Returns only when neither can be.
pub fn become_program(program: &Path, arguments: &[OsString], kept: Option<&OwnedFd>) -> io::Error {
    if let Some(kept) = kept
        && let Err(errno) = fcntl(kept, FcntlArg::F_SETFD(FdFlag::empty()))
    {
        return errno.into();
    }
    let cause = Command::new(program).args(arguments).exec();
    tracing::error!(%cause, program = %program.display(), "the new program cannot be run: the former one begins anew");
    Command::new(OWN).arg0(program).args(arguments).exec()
}

/// Takes over the pipe that a former program left open under this number; no child inherits it.
///
/// # Errors
/// It is not open, or is no pipe.
pub fn inherited_pipe(number: RawFd) -> io::Result<OwnedFd> {
    let wrong = |why: &str| {
        let text = format!("descriptor {number} {why}");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    if number <= io::stderr().as_raw_fd() {
        return Err(wrong("is none of a former program"));
    }
    // SAFETY: F_SETFD takes an integer and touches no memory, whatever the number is.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(wrong("is not open"));
    }
    // SAFETY: it is open, and whoever names it on our command line gave it to us. This is called before the program has
    // opened a descriptor of its own that could have this number.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let kind = SFlag::from_bits_truncate(fstat(&descriptor)?.st_mode);
    if kind & SFlag::S_IFMT != SFlag::S_IFIFO {
        // Not ours to close.
        std::mem::forget(descriptor);
        return Err(wrong("is no pipe"));
    }
    Ok(descriptor)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn only_a_pipe_is_taken_over() {
        let (read, write) = io::pipe().expect("a pipe");
        let number = OwnedFd::from(write).into_raw_fd();
        let taken = inherited_pipe(number).expect("it is one");
        assert_eq!(taken.as_raw_fd(), number);
        drop((read, taken));
        let file = std::fs::File::open("/dev/null").expect("it is there");
        let refused = inherited_pipe(file.as_raw_fd()).expect_err("it is none");
        assert!(refused.to_string().contains("no pipe"), "{refused}");
        assert!(file.metadata().is_ok(), "it was not closed");
        for wrong in [-1, 0, 2, 1 << 20] {
            assert!(inherited_pipe(wrong).is_err(), "{wrong}");
        }
    }
}
