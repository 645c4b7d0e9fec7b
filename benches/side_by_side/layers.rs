//! What each layer of the sandbox costs at a start: from the keeper's request to its answer, which is that the program
//! is executed, beside a bare spawn of the same program. No daemon: the keeper is asked directly.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use minimcp::{
    domain::{
        egress::Catch,
        id::{Generation, InstanceId},
        limits::Limits,
        own_user::UserIds,
        sandbox::{Network, Profile, Sandbox},
    },
    runtime::{
        LaunchPlan, Runtime, Workload, WorkloadId,
        local::{LocalRuntime, SpawnKeeper},
    },
};

use minimcp::bench::{
    Bench,
    figures::{Figures, Summary},
};

/// Inits that live at the same time while their memory is looked at.
const HELD: u128 = 8;
const TRUE: &str = "/bin/true";
/// So long nothing is launched before the launch of a kind whose namespaces are to be made ahead: longer than the keeper
/// waits, and than it takes.
const REST: Duration = Duration::from_millis(100);

/// What a launch gets, and whether its namespaces are made ahead, after the one before, which is of the same kind.
struct Kind {
    name: &'static str,
    sandbox: Sandbox,
    is_ahead: bool,
}

fn kinds() -> Vec<Kind> {
    let of = |profile, network| Sandbox {
        profile,
        network,
        ..Sandbox::default()
    };
    let gated = Sandbox {
        caught: Catch {
            ports: vec![80, 443],
            addresses: Vec::new(),
        },
        ..of(Profile::Strict, Network::AllowList)
    };
    let own_user = Sandbox {
        user_ids: Some(UserIds {
            min: 70_000,
            max: 79_999,
        }),
        ..gated.clone()
    };
    let kind = |name, sandbox: &Sandbox, is_ahead| Kind {
        name,
        sandbox: sandbox.clone(),
        is_ahead,
    };
    vec![
        kind(
            "off: PID, user and mount namespace, own /proc, limits",
            &of(Profile::Off, Network::Open),
            false,
        ),
        kind(
            "relaxed: and IPC, no capabilities, filter of system calls",
            &of(Profile::Relaxed, Network::Open),
            false,
        ),
        kind(
            "strict: and a root of its own, Landlock",
            &of(Profile::Strict, Network::Open),
            false,
        ),
        kind(
            "strict, and an empty network",
            &of(Profile::Strict, Network::None),
            false,
        ),
        kind("strict, and a network through the gate", &gated, false),
        kind("the same, namespaces made ahead", &gated, true),
        kind(
            "with a network through the gate, and a user of its own where the keeper is root",
            &own_user,
            false,
        ),
        kind("the same, namespaces made ahead", &own_user, true),
    ]
}

/// Measures in `rounds` rounds, in each of which every kind has its turn.
pub fn compare(bench: &mut Bench, rounds: usize) -> anyhow::Result<()> {
    let (figures, stop) = (&mut bench.figures, &bench.stop);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let threads = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let threads = threads.expect("a runtime");
    figures.heading(
        "what each layer costs at a start, /bin/true",
        Figures::TIMES,
    )?;
    let kinds = kinds();
    let mut bare = Vec::new();
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); kinds.len()];
    let mut private = Vec::new();
    threads.block_on(async {
        let spawn = SpawnKeeper {
            exe: env!("CARGO_BIN_EXE_minimcp").into(),
            linger: false,
        };
        let keeper = LocalRuntime::connect(&folder.path().join("k.sock"), Some(spawn)).await;
        let keeper = keeper.expect("a keeper");
        let mut number = 0;
        for round in 0..=rounds {
            if stop.asked() {
                break;
            }
            let began = Instant::now();
            let mut child = Command::new(TRUE).stdin(Stdio::null()).spawn().expect(TRUE);
            let took = began.elapsed();
            child.wait().expect("our child");
            // The first round fills caches.
            if round > 0 {
                bare.push(took);
            }
            for (at, kind) in kinds.iter().enumerate() {
                number += 1;
                let plan = plan(folder.path(), number, &[TRUE], &kind.sandbox);
                if kind.is_ahead {
                    tokio::time::sleep(REST).await;
                }
                let began = Instant::now();
                let workload = keeper.launch(plan).await.expect("it starts");
                let took = began.elapsed();
                if round > 0 {
                    times[at].push(took);
                }
                workload.exited().await;
                forget(&workload).await;
            }
        }
        for Kind { sandbox, .. } in &kinds {
            if stop.asked() {
                break;
            }
            let mut held = Vec::new();
            for _ in 0..HELD {
                number += 1;
                let plan = plan(folder.path(), number, &["/bin/sleep", "600"], sandbox);
                held.push(keeper.launch(plan).await.expect("it starts"));
            }
            let sum: u64 = held
                .iter()
                .map(|workload| private_kib(init_of(workload.pid())))
                .sum();
            private.push(sum / held.len() as u64);
            for workload in held {
                let _ = workload.kill_tree().await;
                workload.exited().await;
                forget(&workload).await;
            }
        }
        keeper.shutdown(true).await;
    });
    stop.check()?;
    let bare = Summary::of(bare);
    figures.times("bare: fork and exec", bare, None)?;
    for (Kind { name, .. }, times) in kinds.iter().zip(times) {
        figures.times(name, Summary::of(times), Some(bare))?;
    }
    figures.heading("private memory of an init, the mean of 8", "")?;
    for (Kind { name, .. }, kib) in kinds.iter().zip(private) {
        #[expect(clippy::cast_precision_loss, reason = "memory in KiB is small")]
        figures.number(name, kib as f64, "KiB")?;
    }
    Ok(())
}

async fn forget(workload: &Workload) {
    let forgotten = workload.forget().await;
    forgotten.expect("the keeper lives");
}

fn plan(folder: &Path, number: u128, argv: &[&str], sandbox: &Sandbox) -> LaunchPlan {
    let instance = InstanceId(uuid::Uuid::from_u128(number));
    LaunchPlan {
        files: Vec::new(),
        file_arguments: Vec::new(),
        id: WorkloadId::main(instance, Generation(1)),
        argv: argv.iter().map(|text| (*text).to_owned()).collect(),
        env: Vec::new(),
        cwd: folder.join(number.to_string()),
        limits: Limits::default(),
        sandbox: sandbox.clone(),
        passed: Vec::new(),
    }
}

/// The parent of a server.
fn init_of(server: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{server}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let parent = fields
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok());
    parent.expect("it lives")
}

fn private_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("Private_Dirty:"));
    let kib = lines.filter_map(|rest| {
        rest.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.sum()
}
