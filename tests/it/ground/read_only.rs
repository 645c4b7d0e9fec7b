//! A file system that turns read-only below a running daemon, as ext4 does after an error of the device.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::{credentials, disk::whole_log, is_root, store_credential, until};
use crate::{
    chaos::lines::Ledger,
    harness::{Database, Server},
    mcp::Mcp,
};

/// An image with an empty ext4, if this host can mount one.
fn image(folder: &Path) -> Option<PathBuf> {
    let image = folder.join("disk.img");
    let file = fs::File::create(&image).expect("the folder is ours");
    file.set_len(48 << 20).expect("the disk has room");
    let runs = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let probe = "mount -o loop,errors=remount-ro \"$1\" /mnt && \
                 test -w /sys/fs/ext4/$(basename $(findmnt -no SOURCE /mnt))/trigger_fs_error";
    let usable = runs(Command::new("mkfs.ext4").arg("-q").arg(&image))
        && runs(
            Command::new("unshare")
                .args(["--mount", "sh", "-c", probe, "sh"])
                .arg(&image),
        );
    if !usable {
        eprintln!("SKIPPED: this host mounts no image of ext4");
    }
    usable.then_some(image)
}

/// The name of the device on which `place` lies, as the process with this number sees it.
fn device(pid: u32, place: &Path) -> String {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it lives");
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == place.to_str())
        .unwrap_or_else(|| panic!("nothing is mounted there: {mounts}"));
    let (_, behind) = line.split_once(" - ").expect("proc_pid_mountinfo(5)");
    let source = behind.split(' ').nth(1).expect("it has a source");
    source.trim_start_matches("/dev/").to_owned()
}

#[tokio::test]
async fn a_file_system_that_turns_read_only_refuses_with_the_reason_and_loses_nothing() {
    let own = tempfile::tempdir().expect("a folder");
    let Some(image) = is_root().then(|| image(own.path())).flatten() else {
        return;
    };
    let mut place = PathBuf::new();
    let mut server = Server::begin_under(Database::Sqlite, |config| {
        let data = config.runtime.instance_dir.parent().expect("it has one");
        place = data.join("disk");
        fs::create_dir(&place).expect("the folder is ours");
        config.database.url = format!("sqlite:{}", place.join("minimcp.db").display());
        config.runtime.instance_dir = place.join("instances");
        config.logs.spool_dir = place.join("spool");
        config.calls.spool_dir = place.join("call-spool");
        // At the second start what the error left behind is mended first: 1 says so (e2fsck(8)).
        let mount = format!(
            "{{ e2fsck -p {image} || [ $? -eq 1 ]; }} && mount -o loop,errors=remount-ro {image} {place}",
            image = image.display(),
            place = place.display(),
        );
        let mut words = vec!["unshare".to_owned(), "--mount".to_owned()];
        words.extend(super::after(&mount));
        words
    })
    .await;
    server.until_ready().await;
    let instance = server.create(json!({"template": "demo"})).await;
    let id = instance["id"].as_str().expect("it has an id").to_owned();
    let mut ledger = Ledger::default();
    let mut client = Mcp::connect(&instance).await;
    let before = ledger.begin("before", 50);
    crate::outage::write_lines(&mut client, &before, 50).await;
    ledger.answered(&before);
    until(&server, "the lines are stored", || async {
        whole_log(&server, &id).await.len() >= 50
    })
    .await;
    store_credential(&server, "early").await.expect("stored");

    // The error comes when all of this has reached the disk: what had not is lost as at a loss of power.
    let seen = Path::new("/proc")
        .join(server.pid().to_string())
        .join("root");
    let seen = seen.join(place.strip_prefix("/").expect("it is absolute"));
    let synced = Command::new("sync").arg("-f").arg(&seen).status();
    assert!(synced.is_ok_and(|status| status.success()), "{seen:?}");
    let trigger = Path::new("/sys/fs/ext4").join(device(server.pid(), &place));
    fs::write(trigger.join("trigger_fs_error"), "a test").expect("it is ours");
    let refusal = store_credential(&server, "late").await;
    let refusal = refusal.expect_err("it cannot be written");
    assert_eq!(refusal["code"], "database-unavailable", "{refusal:#}");
    assert!(
        refusal.to_string().contains("read-only"),
        "why: {refusal:#}"
    );
    // What needs no disk goes on, and what is there can be read.
    let answer = client.tool("echo", json!({"text": "still here"})).await;
    assert_eq!(answer.as_deref(), Ok("still here"));
    let now = server.get(&format!("/mcps/{id}")).await;
    assert_eq!(now["status"], "running", "{now:#}");
    assert_eq!(credentials(&server).await, ["early"]);
    let during = ledger.begin("during", 500);
    crate::outage::write_lines(&mut client, &during, 500).await;
    until(&server, "lines that have no place are counted", || async {
        server.get("/diagnostics").await["logs"]["dropped"].as_u64() >= Some(1)
    })
    .await;

    // As after a look at the disk and a restart of the machine.
    server.kill();
    let left = server.processes();
    for process in &left {
        crate::processes::kill(process.pid);
    }
    until(&server, "the image is mounted no more", || async {
        let used = Command::new("losetup").arg("-j").arg(&image).output();
        used.is_ok_and(|said| said.status.success() && said.stdout.is_empty())
    })
    .await;
    server.launch().await;
    let now = server.wait_status(&id, &["running"], super::SOON).await;
    assert_eq!(now["access_url"], instance["access_url"]);
    assert_eq!(credentials(&server).await, ["early"]);
    let rows = whole_log(&server, &id).await;
    assert_eq!(
        ledger.read_all(&rows),
        Ok(0),
        "nothing acknowledged is gone"
    );
    store_credential(&server, "late").await.expect("stored");
}
