//! Which files of the host a program needs to run, so that its sandbox shows them without being told: the program
//! under every name that leads to it, its package, and its interpreter in the same way.

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use super::is_program;
use crate::domain::sandbox::{is_plain, shows};

/// In every sandbox anyway.
const RUNTIME: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
];
/// What of an installation prefix holds programs and libraries; `etc` and `share` may hold other things.
const PREFIX_PARTS: &[&str] = &["bin", "lib", "lib64", "libexec"];
/// Marks the top of a package.
const PACKAGE_MARKS: &[&str] = &["package.json", "pyproject.toml", "pyvenv.cfg", "Cargo.toml"];
/// Marks a home folder, which is never shown as a whole.
const HOME_MARKS: &[&str] = &[".ssh", ".gnupg", ".bashrc", ".profile", ".netrc"];
/// Interpreters of interpreters at most, and links that lead to links.
const DEPTH_MAX: usize = 8;
/// How far above a script the top of its package is looked for.
const PACKAGE_HEIGHT_MAX: usize = 6;

/// The paths to show for `program`, started with the manifest's own `arguments`. What would show something of
/// `hidden` is left out in favour of the single file. A few dozen calls to the file system.
pub(super) fn find<'a>(
    program: &Path,
    arguments: impl Iterator<Item = &'a str>,
    search_path: &[PathBuf],
    hidden: &[PathBuf],
) -> Vec<PathBuf> {
    let mut files = Files {
        search_path,
        hidden,
        found: Vec::new(),
    };
    files.program(program, DEPTH_MAX);
    for argument in arguments {
        let path = Path::new(argument);
        if is_plain(path) {
            files.named(path);
            if let Ok(real) = path.canonicalize() {
                files.named(&real);
            }
        }
    }
    files.found
}

struct Files<'a> {
    search_path: &'a [PathBuf],
    hidden: &'a [PathBuf],
    found: Vec<PathBuf>,
}

impl Files<'_> {
    fn add(&mut self, path: &Path) {
        let there = RUNTIME.iter().any(|shown| path.starts_with(shown))
            || self.found.iter().any(|shown| path == shown);
        if !there && path.exists() {
            self.found.push(path.to_owned());
        }
    }

    /// A whole folder, or only `file` where the folder holds too much.
    fn add_folder(&mut self, folder: &Path, file: &Path) {
        let broad = is_broad(folder) || shows(folder, self.hidden).is_some();
        self.add(if broad { file } else { folder });
    }

    /// A program, whatever its links lead to, and its interpreter.
    fn program(&mut self, path: &Path, depth: usize) {
        let mut name = path.to_owned();
        for _ in 0..DEPTH_MAX {
            self.package_of(&name);
            let Ok(target) = fs::read_link(&name) else {
                break;
            };
            name = normal(&name.parent().unwrap_or(Path::new("/")).join(target));
        }
        let Ok(real) = path.canonicalize() else {
            return;
        };
        self.package_of(&real);
        if let Some(interpreter) = self.interpreter(&real)
            && depth > 0
        {
            self.program(&interpreter, depth - 1);
        }
    }

    fn package_of(&mut self, file: &Path) {
        if let Some(modules) = modules(file) {
            return self.add_folder(modules, file);
        }
        let (Some(folder), Some(prefix)) = (file.parent(), file.ancestors().nth(2)) else {
            return self.add(file);
        };
        match folder.file_name().and_then(|name| name.to_str()) {
            Some("bin") if prefix.join("pyvenv.cfg").is_file() => {
                self.add_folder(prefix, file);
                let base = fs::read_to_string(prefix.join("pyvenv.cfg")).unwrap_or_default();
                let home = base.lines().find_map(|line| {
                    let (key, value) = line.split_once('=')?;
                    (key.trim() == "home").then(|| PathBuf::from(value.trim()))
                });
                if let Some(home) = home.filter(|home| is_plain(home)) {
                    self.prefix(&home, file);
                }
            }
            Some("bin") if prefix.join("lib").is_dir() => self.prefix(folder, file),
            // Of version managers: the shim runs what lies beside its folder.
            Some("shims") => self.add_folder(prefix, file),
            _ => self.add(file),
        }
    }

    /// The parts of the prefix that `bin` belongs to.
    fn prefix(&mut self, bin: &Path, file: &Path) {
        if let Some(prefix) = bin.parent() {
            for part in PREFIX_PARTS {
                self.add_folder(&prefix.join(part), file);
            }
        }
    }

    /// A file or folder in the manifest's own arguments.
    fn named(&mut self, path: &Path) {
        if path.is_dir() {
            // A folder that is too broad must be granted by name.
            if !is_broad(path) && shows(path, self.hidden).is_none() {
                self.add(path);
            }
            return;
        }
        let Some(folder) = path.parent().filter(|_| path.is_file()) else {
            return;
        };
        let marked = |folder: &&Path| PACKAGE_MARKS.iter().any(|mark| folder.join(mark).is_file());
        let top = folder
            .ancestors()
            .take(PACKAGE_HEIGHT_MAX)
            .find(marked)
            .filter(|top| !is_broad(top) && shows(top, self.hidden).is_none());
        match modules(path).or(top) {
            Some(top) => self.add_folder(top, path),
            None => self.add_folder(folder, path),
        }
    }

    /// The interpreter that the first line of a script names.
    fn interpreter(&self, script: &Path) -> Option<PathBuf> {
        const LINE_MAX: u64 = 256;
        let mut start = Vec::new();
        fs::File::open(script)
            .ok()?
            .take(LINE_MAX)
            .read_to_end(&mut start)
            .ok()?;
        let line = start
            .strip_prefix(b"#!")?
            .split(|byte| *byte == b'\n')
            .next()?;
        let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
        let first = Path::new(words.next()?);
        if first.file_name().is_some_and(|name| name == "env") {
            let name = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
            let mut places = self.search_path.iter().map(|folder| folder.join(name));
            return places.find(|file| is_program(file));
        }
        is_plain(first).then(|| first.to_owned())
    }
}

/// The outermost `node_modules` above a file: packages in it find each other.
fn modules(file: &Path) -> Option<&Path> {
    let mut above = file.ancestors().skip(1);
    let mut found = None;
    while let Some(folder) = above.find(|folder| {
        folder
            .file_name()
            .is_some_and(|name| name == "node_modules")
    }) {
        found = Some(folder);
    }
    found
}

/// A folder that belongs to many, or is somebody's home.
fn is_broad(folder: &Path) -> bool {
    const STICKY: u32 = 0o1000;
    folder.components().count() <= 2
        || fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & STICKY != 0)
        || HOME_MARKS.iter().any(|mark| folder.join(mark).exists())
}

/// Resolves `..` by the text alone.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(path: PathBuf, text: &str) -> PathBuf {
        fs::create_dir_all(path.parent().expect("not the root")).expect("ours");
        fs::write(&path, text).expect("ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        path
    }

    fn found(
        program: &Path,
        arguments: &[&str],
        search_path: &[PathBuf],
        hidden: &[PathBuf],
    ) -> Vec<PathBuf> {
        let mut found = find(program, arguments.iter().copied(), search_path, hidden);
        found.sort();
        found
    }

    #[test]
    fn a_node_package_comes_with_all_that_are_installed_beside_it_and_its_interpreter() {
        let top = tempfile::tempdir().expect("a folder");
        let top = top.path().canonicalize().expect("it is there");
        let node = file(top.join("versions/v20/bin/node"), "\u{7f}ELF");
        fs::create_dir(top.join("versions/v20/lib")).expect("ours");
        let script = file(
            top.join("app/node_modules/@x/server/dist/index.js"),
            "#!/usr/bin/env node\n",
        );
        fs::create_dir(top.join("app/node_modules/.bin")).expect("ours");
        let program = top.join("app/node_modules/.bin/server");
        symlink("../@x/server/dist/index.js", &program).expect("ours");
        let search_path = [node.parent().expect("bin").to_owned()];
        let expected = [
            top.join("app/node_modules"),
            top.join("versions/v20/bin"),
            top.join("versions/v20/lib"),
        ];
        assert_eq!(found(&program, &[], &search_path, &[]), expected);
        assert_eq!(found(&script, &[], &search_path, &[]), expected);
    }

    #[test]
    fn a_virtual_environment_comes_with_its_base() {
        let top = tempfile::tempdir().expect("a folder");
        let top = top.path().canonicalize().expect("it is there");
        let python = file(top.join("base/bin/python3.12"), "\u{7f}ELF");
        fs::create_dir(top.join("base/lib")).expect("ours");
        file(
            top.join("venv/pyvenv.cfg"),
            &format!("home = {}\n", top.join("base/bin").display()),
        );
        fs::create_dir(top.join("venv/bin")).expect("ours");
        symlink(&python, top.join("venv/bin/python")).expect("ours");
        let line = format!("#!{}\n", top.join("venv/bin/python").display());
        let program = file(top.join("venv/bin/server"), &line);
        let expected = [top.join("base/bin"), top.join("base/lib"), top.join("venv")];
        assert_eq!(found(&program, &[], &[], &[]), expected);
    }

    #[test]
    fn neither_a_home_nor_a_shared_folder_nor_what_is_hidden_is_shown_as_a_whole() {
        let top = tempfile::tempdir().expect("a folder");
        let top = top.path().canonicalize().expect("it is there");
        let at_home = file(top.join("ann/server.py"), "");
        file(top.join("ann/.bashrc"), "");
        let beside = file(top.join("data/server.py"), "");
        let shared = file(top.join("shared/server.py"), "");
        fs::set_permissions(top.join("shared"), fs::Permissions::from_mode(0o1777)).expect("ours");
        let hidden = [top.join("data/master-key")];
        for script in [at_home, beside, shared] {
            let argument = script.to_str().expect("ASCII");
            assert_eq!(
                found(Path::new("/usr/bin/python3"), &[argument], &[], &hidden),
                std::slice::from_ref(&script)
            );
        }
    }

    #[test]
    fn a_script_comes_with_its_package_or_its_folder() {
        let top = tempfile::tempdir().expect("a folder");
        let top = top.path().canonicalize().expect("it is there");
        let alone = file(top.join("servers/one.py"), "");
        file(top.join("app/package.json"), "{}");
        let deep = file(top.join("app/dist/src/index.js"), "");
        let arguments = [
            alone.to_str().expect("ASCII"),
            deep.to_str().expect("ASCII"),
            "--port={port}",
        ];
        let expected = [top.join("app"), top.join("servers")];
        assert_eq!(
            found(Path::new("/usr/bin/node"), &arguments, &[], &[]),
            expected
        );
    }
}
