//! Gives the linker the order of the functions: those that a running `serve` needs stand side by side at the front of the
//! program, the many that it does not need behind them. A page of the program that is touched then holds little else,
//! which saves memory (a third of the RSS of `serve` with 100 instances) and time (`benches/RESULTS.md`).
//!
//! `names.txt` is recorded from a running daemon by `record.py`. It is of use to release builds alone. A name that is
//! not there (any more, or with another compiler) is passed over; a linker that knows no such list is not given one.

use std::{
    env,
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// From the folder of the package.
const NAMES: &str = "benches/function_order/names.txt";

fn main() {
    println!("cargo:rerun-if-changed={NAMES}");
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let Some(package) = env::var_os("CARGO_MANIFEST_DIR").filter(|_| is_release) else {
        return;
    };
    let names = Path::new(&package).join(NAMES);
    let Some(names) = names.to_str() else { return };
    let order = format!("--symbol-ordering-file={names}");
    // Each by a word of its own: a path may have commas, at which `-Wl,` would cut it.
    let arguments = ["-Xlinker", &order, "-Xlinker", "--no-warn-symbol-ordering"];
    if is_taken(&arguments) {
        for argument in arguments {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}

/// Whether the linker of this build takes them: asked by a program that does nothing, since an option that a linker does
/// not know is an error to it, and which linker it is the compiler decides.
fn is_taken(arguments: &[&str]) -> bool {
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| OsString::from(""));
    let trial = PathBuf::from(variable("OUT_DIR")).join("trial");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--crate-name", "trial", "--crate-type", "bin", "-"]);
    rustc.arg("--target").arg(variable("TARGET"));
    rustc.arg("-o").arg(&trial);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    for argument in arguments {
        rustc.arg("-C").arg(format!("link-arg={argument}"));
    }
    let started = rustc
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = started else { return false };
    let written = child
        .stdin
        .take()
        .is_some_and(|mut stdin| stdin.write_all(b"fn main() {}").is_ok());
    child.wait().is_ok_and(|status| status.success()) && written
}
