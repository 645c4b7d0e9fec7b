//! Which peers are installed: in the folders given, where the bench says that they are to be installed, on the PATH.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::kind::Kind;

/// How long `--help` may take.
const HELP_TIMEOUT: Duration = Duration::from_secs(60);

/// The first program that is this peer.
pub fn find(kind: &Kind, given: &[PathBuf]) -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-peers");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = given.iter().chain([&ours]).flat_map(|one| below(one));
    folders
        .chain(std::env::split_paths(&path))
        .filter_map(|folder| std::path::absolute(folder.join(kind.program)).ok())
        .find(|program| program.is_file() && is_it(kind, program))
}

/// Where the installers of Rust, Node and Python put programs, in this folder and in those in it.
fn below(folder: &Path) -> Vec<PathBuf> {
    let inner = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut roots: Vec<PathBuf> = inner.map(|entry| entry.path()).collect();
    roots.sort();
    roots.insert(0, folder.to_path_buf());
    let of = |root: PathBuf| [root.join("bin"), root.join("node_modules/.bin"), root];
    roots.into_iter().flat_map(of).collect()
}

/// Whether a program is this peer.
pub fn is_it(kind: &Kind, program: &Path) -> bool {
    let started = Command::new(program)
        .arg("--help")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = started else {
        return false;
    };
    let mut stdout = child.stdout.take();
    let reading = std::thread::spawn(move || {
        let mut help = Vec::new();
        // What comes before a failure is enough.
        let _ = stdout.as_mut().map(|out| out.read_to_end(&mut help));
        help
    });
    let deadline = Instant::now() + HELP_TIMEOUT;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(5)); // poll
    }
    let _ = child.kill();
    let _ = child.wait();
    let help = reading.join().unwrap_or_default();
    kind.is_told_by(&String::from_utf8_lossy(&help))
}
