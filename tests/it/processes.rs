//! What the kernel says: processes that belong to one test's folder, and ports that listen.

use std::{collections::BTreeSet, fs, path::Path};

use nix::{sys::signal, unistd::Pid};

/// A living process (zombies are left out: they hold nothing but a number).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its host pid.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Program and arguments, joined by spaces.
    pub command: String,
}

/// Every process that works in `folder` or below, or names it in its arguments. Keepers and inits are found by their
/// arguments (an init is a fork of its keeper), servers by their working folder.
pub fn of_folder(folder: &Path) -> Vec<Process> {
    let folder = folder
        .to_str()
        .expect("temporary folders are named in ASCII");
    let mut found: Vec<_> = fs::read_dir("/proc")
        .expect("proc is mounted")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            let words = fs::read(path.join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&words).replace('\0', " ");
            // Not readable for a process that has made itself undumpable, unless we are root.
            let place = fs::read_link(path.join("cwd")).unwrap_or_default();
            let ours = command.contains(folder) || place.starts_with(folder);
            let (state, parent) = state_and_parent(&path)?;
            (ours && state != "Z").then_some(Process {
                pid,
                parent,
                command: command.trim_end().to_owned(),
            })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// From `/proc/PID/stat`: the fields behind the name in parentheses, which may itself hold spaces.
fn state_and_parent(path: &Path) -> Option<(String, u32)> {
    let stat = fs::read_to_string(path.join("stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.to_owned();
    Some((state, fields.next()?.parse().ok()?))
}

/// Sends SIGKILL to one process; one that is gone already is fine.
pub fn kill(pid: u32) {
    send(pid, signal::Signal::SIGKILL);
}

/// Holds a process still.
pub fn freeze(pid: u32) {
    send(pid, signal::Signal::SIGSTOP);
}

/// Lets it go on.
pub fn thaw(pid: u32) {
    send(pid, signal::Signal::SIGCONT);
}

/// Sends SIGKILL to a group of processes that a test started.
pub fn kill_group(leader: u32) {
    let leader = Pid::from_raw(i32::try_from(leader).expect("pids are small"));
    match signal::killpg(leader, signal::Signal::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => panic!("cannot end the group of {leader}: {error}"),
    }
}

/// Sends SIGTERM to one process; one that is gone already is fine.
pub fn terminate(pid: u32) {
    send(pid, signal::Signal::SIGTERM);
}

/// Sends SIGINT to one process, as Ctrl-C does.
pub fn interrupt(pid: u32) {
    send(pid, signal::Signal::SIGINT);
}

/// Sends SIGHUP to one process.
pub fn signal_hangup(pid: u32) {
    send(pid, signal::Signal::SIGHUP);
}

fn send(pid: u32, what: signal::Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("pids are small"));
    match signal::kill(pid, what) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => panic!("cannot send {what} to {pid}: {error}"),
    }
}

/// Every TCP port that listens in this network namespace.
pub fn listening_ports() -> BTreeSet<u16> {
    const LISTEN: &str = "0A";
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| {
            table
                .lines()
                .skip(1)
                .filter_map(|line| {
                    let fields: Vec<_> = line.split_whitespace().collect();
                    let (_, port) = fields.get(1)?.rsplit_once(':')?;
                    let port = u16::from_str_radix(port, 16).ok()?;
                    (*fields.get(3)? == LISTEN).then_some(port)
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Unix sockets below `folder` that somebody still holds.
pub fn unix_sockets(folder: &Path) -> Vec<String> {
    let folder = folder
        .to_str()
        .expect("temporary folders are named in ASCII");
    fs::read_to_string("/proc/net/unix")
        .expect("proc is mounted")
        .lines()
        .filter(|line| line.contains(folder))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_child_is_found_by_its_folder_and_by_its_arguments() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spawn = |command: &mut std::process::Command| {
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("cat starts")
    };
    let mut inside = spawn(std::process::Command::new("cat").current_dir(folder.path()));
    let mut named = spawn(
        std::process::Command::new("cat")
            .arg("-")
            .arg(folder.path()),
    );
    // While a program is being loaded, the kernel does not tell its arguments.
    let began = std::time::Instant::now();
    let found = loop {
        let found: Vec<_> = of_folder(folder.path())
            .into_iter()
            .map(|process| (process.pid, process.parent))
            .collect();
        if found.len() >= 2 || began.elapsed() > std::time::Duration::from_secs(10) {
            break found;
        }
        std::thread::yield_now();
    };
    let us = std::process::id();
    for child in [&mut inside, &mut named] {
        kill(child.id());
        child.wait().expect("our child");
    }
    assert!(found.contains(&(inside.id(), us)), "{found:?}");
    assert!(found.contains(&(named.id(), us)), "{found:?}");
    assert_eq!(of_folder(folder.path()), []);
}

#[test]
fn a_listener_is_seen_while_it_listens() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    assert!(listening_ports().contains(&port));
    drop(listener);
    assert!(!listening_ports().contains(&port));
}
