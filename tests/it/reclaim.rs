//! The memory of what holds still is taken back, and comes again as it is touched: with a keeper of root, which needs no
//! controller for it. `tests/systemd/vm` has the controller, and swap.

use std::{
    fs,
    time::{Duration, Instant},
};

use minimcp::runtime::{Runtime, local::LocalRuntime, usage};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
};

use crate::{
    cgroups::Given,
    freezing::freeze,
    keeper::{plan, within},
};

const SOON: Duration = Duration::from_secs(60);

/// Maps a file of 32 MiB and sums it up, once by itself and once for each line that it reads.
const MAPS_A_FILE: &str = r"
import mmap, os, sys
with open('data', 'wb') as out:
    out.write(os.urandom(1 << 20) * 32)
    out.flush()
    os.fsync(out.fileno())
data = mmap.mmap(os.open('data', os.O_RDONLY), 0, prot=mmap.PROT_READ)
first = sum(data[::4096])
print('mapped', flush=True)
for line in sys.stdin:
    print('the same' if sum(data[::4096]) == first else 'another', flush=True)
";

/// Without swap the kernel takes back what it can read again, so a file shows it.
#[tokio::test]
async fn the_memory_of_what_is_frozen_is_taken_back_and_comes_again_as_it_is_touched() {
    const MIB: u64 = 1 << 20;
    let Some(given) = Given::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut keeper = given.keeper_of_root(folder.path());
    let socket = folder.path().join("k.sock");
    let runtime = LocalRuntime::connect(&socket, None).await;
    let runtime = runtime.expect("a living keeper");
    assert!(runtime.state().borrow().reclaims());
    let launch = plan(folder.path(), &["python3", "-c", MAPS_A_FILE]);
    let child = runtime.launch(launch).await.expect("there is a Python");
    let pipes = child.take_pipes().expect("fresh");
    let said = pipe::Receiver::from_owned_fd(pipes.stdout).expect("a pipe");
    let mut said = BufReader::new(said).lines();
    let mut next = async || within(said.next_line()).await.expect("readable");
    assert_eq!(next().await.as_deref(), Some("mapped"));
    let resident = || usage(child.pid()).expect("it lives").rss_kib * 1_024;
    let before = resident();
    assert!(before > 32 * MIB, "{before}");

    // Nothing is taken from one that runs.
    child.reclaim().await.expect("a living keeper");
    freeze(&child).await;
    assert!(resident() > 32 * MIB);
    assert_eq!(runtime.reclaimed_bytes(), 0);
    child.reclaim().await.expect("a living keeper");
    let reclaimed = crate::harness::wait_until(SOON, || {
        (before.saturating_sub(resident()) > 30 * MIB).then_some(())
    });
    assert!(reclaimed.is_some(), "{} of {before}", resident());
    let deadline = Instant::now() + SOON;
    while runtime.reclaimed_bytes() < 24 * MIB {
        assert!(Instant::now() < deadline, "{}", runtime.reclaimed_bytes());
        tokio::time::sleep(Duration::from_millis(5)).await; // poll
    }
    child.thaw().await.expect("a living keeper");
    let mut stdin = pipe::Sender::from_owned_fd(pipes.stdin).expect("a pipe");
    stdin.write_all(b"again\n").await.expect("it reads");
    assert_eq!(next().await.as_deref(), Some("the same"));
    assert!(resident() > 32 * MIB, "{}", resident());

    // Frozen, asked and thawed at once, again and again: it always goes on.
    for _ in 0..20 {
        freeze(&child).await;
        child.reclaim().await.expect("a living keeper");
        child.thaw().await.expect("a living keeper");
        stdin.write_all(b"again\n").await.expect("it reads");
        assert_eq!(next().await.as_deref(), Some("the same"));
    }
    // Nobody is left of those that did it, and an upgrade is not kept from going on by one.
    freeze(&child).await;
    child.reclaim().await.expect("a living keeper");
    runtime.upgrade_keeper().await.expect("it goes on");
    let path = format!("/proc/{0}/task/{0}/children", keeper.id());
    let alone = || {
        fs::read_to_string(&path)
            .expect("it lives")
            .split(' ')
            .count()
            == 2
    };
    let alone = crate::harness::wait_until(SOON, || alone().then_some(()));
    assert!(alone.is_some(), "{:?}", fs::read_to_string(&path));
    child.kill_tree().await.expect("a living keeper");
    within(child.exited()).await;
    keeper.kill().expect("it is our child");
    keeper.wait().expect("it is our child");
}
