//! What an init does while its server runs. Nothing here allocates, or writes to memory beyond the stack and the page of
//! refused calls.

use std::{mem::size_of, os::fd::RawFd};

use super::{
    denials::{self, Page},
    init::exit,
    progress::StatusRecord,
};

/// What a running init still knows.
pub(super) struct Started {
    pub(super) server: libc::pid_t,
    pub(super) serial: u64,
    pub(super) status: RawFd,
    pub(super) own_namespace: bool,
    pub(super) heap_start: Option<usize>,
    /// Where refused calls of the server wait for an answer, and where they are counted.
    pub(super) denials: Option<(RawFd, Page)>,
}

/// Reaps, forwards signals and answers refused calls, until the server ends.
pub(super) fn watch_over(started: &Started) -> ! {
    // SAFETY: sigset_t is plain data, and the calls only write to it.
    let awaited = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGUSR2] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    };
    let Some((listener, page)) = started.denials else {
        loop {
            // SAFETY: both pointers are valid; the information is not asked for.
            let signal = unsafe { libc::sigwaitinfo(&raw const awaited, std::ptr::null_mut()) };
            on_signal(started, signal);
        }
    };
    // SAFETY: the set is valid; the call makes a descriptor.
    let signals = unsafe {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        libc::signalfd(-1, &raw const awaited, flags)
    };
    if signals < 0 {
        // Calls would wait for ever: then there is no server either.
        exit(1);
    }
    let entry = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut awaited = [entry(signals), entry(listener)];
    loop {
        // SAFETY: two valid entries.
        unsafe { libc::poll(awaited.as_mut_ptr(), 2, -1) };
        let [of_signals, of_calls] = &mut awaited;
        if of_calls.revents & libc::POLLIN != 0 {
            denials::refuse(listener, page);
        } else if of_calls.revents != 0 {
            // Nobody is left whom the filter holds: a negative one is not looked at.
            of_calls.fd = -1;
        }
        if of_signals.revents != 0 {
            while let Some(signal) = next_signal(signals) {
                on_signal(started, signal);
            }
        }
    }
}

fn next_signal(signals: RawFd) -> Option<libc::c_int> {
    // SAFETY: plain integers, which the call only writes to.
    let (len, told) = unsafe {
        let mut told: libc::signalfd_siginfo = std::mem::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        let len = libc::read(signals, (&raw mut told).cast(), size);
        (len, told)
    };
    (len > 0).then(|| told.ssi_signo.cast_signed())
}

fn on_signal(started: &Started, signal: libc::c_int) {
    match signal {
        libc::SIGCHLD => reap_ended(started),
        libc::SIGTERM => {
            // SAFETY: kill(2) touches no memory. The server leads its group until we reap it.
            unsafe { libc::kill(-started.server, libc::SIGTERM) };
        }
        libc::SIGUSR2 if !started.own_namespace => kill_descendants(started, None),
        _ => {}
    }
}

/// Reaps whatever ended; does not return when the server was among it.
fn reap_ended(started: &Started) {
    while let Some((pid, mut record)) = wait(started, libc::WNOHANG) {
        if pid == started.server {
            if !started.own_namespace {
                kill_descendants(started, Some(record));
            }
            record.alone = is_alone();
            finish(started, record);
        }
    }
}

/// Whether nothing is left in the process namespace of this init: all in it are its children, or below them.
fn is_alone() -> bool {
    let mut status = 0;
    loop {
        // SAFETY: the call writes only to the place given.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) } {
            1.. => {}
            0 => return false,
            // SAFETY: the place is this thread's own.
            _ => return unsafe { *libc::__errno_location() } == libc::ECHILD,
        }
    }
}

/// Kills our direct children until there are none: those of a killed child become ours. No pid can be
/// reused meanwhile, since only we reap them.
fn kill_descendants(started: &Started, mut record: Option<StatusRecord>) {
    loop {
        for_each_child(|pid| {
            // SAFETY: kill(2) touches no memory.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        });
        match wait(started, 0) {
            Some((pid, ended)) if pid == started.server => record = Some(ended),
            Some(_) => {}
            None => break,
        }
    }
    match record {
        Some(record) => finish(started, record),
        None => exit(1),
    }
}

fn wait(started: &Started, flags: libc::c_int) -> Option<(libc::pid_t, StatusRecord)> {
    let mut status = 0;
    // SAFETY: rusage is plain integers; wait4 writes only to the two places given.
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = libc::wait4(-1, &raw mut status, flags | libc::__WALL, &raw mut usage);
        (pid, usage)
    };
    (pid > 0).then(|| (pid, StatusRecord::new(started.serial, status, &usage)))
}

fn finish(started: &Started, record: StatusRecord) -> ! {
    let bytes = record.encode();
    // SAFETY: the buffer is valid for its length; a write below PIPE_BUF is whole or fails.
    unsafe { libc::write(started.status, bytes.as_ptr().cast(), bytes.len()) };
    exit(0)
}

/// Calls `visit` with the pid of each direct child, without allocating.
pub(super) fn for_each_child(mut visit: impl FnMut(libc::pid_t)) {
    let mut buffer = [0_u8; 1_024];
    let mut pid: libc::pid_t = 0;
    // SAFETY: the path is a C string, the buffer is valid for its length, the descriptor is closed below.
    unsafe {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let file = libc::open(c"/proc/thread-self/children".as_ptr(), flags);
        if file < 0 {
            return;
        }
        loop {
            let read = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
            let Some(text) = usize::try_from(read).ok().and_then(|len| buffer.get(..len)) else {
                break;
            };
            if text.is_empty() {
                break;
            }
            for byte in text {
                if byte.is_ascii_digit() {
                    pid = pid.wrapping_mul(10).wrapping_add(i32::from(byte - b'0'));
                } else if pid > 0 {
                    visit(pid);
                    pid = 0;
                }
            }
        }
        libc::close(file);
    }
    if pid > 0 {
        visit(pid);
    }
}
