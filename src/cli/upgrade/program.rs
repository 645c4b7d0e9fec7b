//! The new program: whether it can be one here, and how it comes into the place of the former one.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use crate::cli::failure::Failure;

/// How long a program may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// What says for which machines an ELF file is: magic, class, byte order, and behind them the machine (elf(5)).
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    class_and_order: [u8; 2],
    machine: [u8; 2],
}

impl Machine {
    fn of(file: &Path) -> io::Result<Option<Self>> {
        let mut head = [0; 20];
        match File::open(file)?.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok((head[..4] == *b"\x7fELF").then_some(Self {
            class_and_order: [head[4], head[5]],
            machine: [head[18], head[19]],
        }))
    }
}

/// Asks a program for its version, after a look at what it is.
///
/// # Errors
/// It is no minimcp of this machine.
pub(super) async fn version_of(program: &Path) -> Result<String, Failure> {
    let shown = program.display();
    let refused = |why: String| super::failed(format!("{shown} {why}; nothing was changed"));
    let unreadable = |cause: io::Error| refused(format!("cannot be read: {cause}"));
    let own = std::env::current_exe()
        .and_then(|own| Machine::of(&own))
        .map_err(unreadable)?;
    match Machine::of(program).map_err(unreadable)? {
        None => return Err(refused("is no program (no ELF file)".to_owned())),
        found if found != own => {
            return Err(refused(
                "is of another kind of machine than this one".to_owned(),
            ));
        }
        Some(_) => {}
    }
    let asked = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let said = match tokio::time::timeout(VERSION_LIMIT, asked).await {
        Ok(said) => said.map_err(|cause| refused(format!("cannot be run: {cause}")))?,
        Err(_) => return Err(refused("does not tell its version".to_owned())),
    };
    let text = String::from_utf8_lossy(&said.stdout);
    let version = text.trim().strip_prefix("minimcp ").map(str::to_owned);
    version
        .filter(|_| said.status.success())
        .ok_or_else(|| refused(format!("is no minimcp that runs here ({})", said.status)))
}

/// A program that was put in the place of another one.
#[derive(Debug)]
pub(super) struct Placed {
    place: PathBuf,
    former: PathBuf,
}

impl Placed {
    /// Puts a copy of `program` there, with the rights of what was there, which is kept beside it.
    pub(super) fn put(program: &Path, place: &Path) -> io::Result<Self> {
        let beside = |ending: &str| {
            let mut path = place.as_os_str().to_owned();
            path.push(ending);
            PathBuf::from(path)
        };
        let (fresh, former) = (beside(".new"), beside(".former"));
        let there = fs::metadata(place)?;
        let copied = (|| {
            fs::copy(program, &fresh)?;
            fs::set_permissions(&fresh, there.permissions())?;
            let made = fs::metadata(&fresh)?;
            if (made.uid(), made.gid()) != (there.uid(), there.gid()) {
                chown(&fresh, Some(there.uid()), Some(there.gid()))?;
            }
            File::open(&fresh)?.sync_all()?;
            match fs::remove_file(&former) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::hard_link(place, &former)?;
            fs::rename(&fresh, place)
        })();
        if let Err(error) = copied {
            // What is half made is of no use; it may not be there.
            let _ = fs::remove_file(&fresh);
            return Err(error);
        }
        Ok(Self {
            place: place.to_owned(),
            former,
        })
    }

    /// Puts the former one back.
    pub(super) fn take_back(self) -> io::Result<()> {
        fs::rename(&self.former, &self.place)
    }

    /// Where the former one is now.
    pub(super) fn former(&self) -> &Path {
        &self.former
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_was_there_is_kept_and_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let (place, fresh) = (folder.path().join("minimcp"), folder.path().join("fresh"));
        fs::write(&place, "old").expect("written");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o711)).expect("ours");
        for _ in 0..2 {
            fs::write(&fresh, "fresh").expect("written");
            let placed = Placed::put(&fresh, &place).expect("it is put there");
            assert_eq!(fs::read_to_string(&place).expect("there"), "fresh");
            let mode = fs::metadata(&place).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o711);
            assert_eq!(fs::read_to_string(placed.former()).expect("kept"), "old");
            placed.take_back().expect("it comes back");
            assert_eq!(fs::read_to_string(&place).expect("there"), "old");
        }
        let names = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 2, "nothing half made is left");
        let missing = folder.path().join("missing");
        assert!(Placed::put(&missing, &place).is_err());
        assert_eq!(fs::read_to_string(&place).expect("there"), "old");
    }

    #[tokio::test]
    async fn what_is_no_minimcp_of_this_machine_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("program");
        let own = std::env::current_exe().expect("a program runs");
        let mut other = fs::read(&own).expect("readable")[..64].to_vec();
        other[18] ^= 1;
        for (content, part) in [
            (b"#!/bin/sh\n".to_vec(), "no ELF"),
            (b"\x7fELF".to_vec(), "no ELF"),
            (other, "another kind of machine"),
        ] {
            fs::write(&file, content).expect("written");
            let refused = version_of(&file).await.expect_err("it is none").to_string();
            assert!(
                refused.contains(part) && refused.contains("nothing was changed"),
                "{refused}"
            );
        }
        let missing = version_of(&folder.path().join("missing")).await;
        assert!(missing.is_err());
        // This test is a program of this machine, and no minimcp.
        let refused = version_of(&own).await.expect_err("it is none").to_string();
        assert!(refused.contains("no minimcp"), "{refused}");
    }
}
