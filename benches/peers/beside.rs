//! Peers that are installed, each beside minimcp.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use minimcp::bench::{
    Bench, Plan,
    calls::{self, BUSY, Server},
    daemon::Daemon,
    figures::{Figures, Summary, rate},
    many::{SETTLE, rest},
    memory::{self, Held},
};
use tempfile::TempDir;

use crate::{
    kind::Kind,
    running::{PATIENCE, Peer},
};

/// Processes at most of a peer that has one for each server: some hold 100 MiB.
const PROCESSES_MAX: usize = 10;
/// How long a round of calls of a slow peer may take.
const ROUND: Duration = Duration::from_secs(2);
/// Fewer launches than creations: a Node program takes most of a second.
const CREATIONS_PER_LAUNCH: usize = 10;

/// Rows of each of these peers, in turns with minimcp.
pub fn compare(bench: &mut Bench, plan: &Plan, found: &[Found]) -> anyhow::Result<()> {
    let null = Null::new(bench)?;
    let ours = ours_held(bench, &null, &plan.sizes)?;
    let mut daemon = null.daemon(bench)?;
    for peer in found {
        peer.lives(bench, &mut daemon, &null, plan.starts)?;
        peer.calls(bench, &mut daemon, &null, plan)?;
        peer.memory(bench, &null, &ours)?;
    }
    Ok(())
}

/// The server that does next to nothing, from a file of its own: with that of minimcp, whose own memory is measured, it
/// would share pages.
struct Null {
    command: Vec<String>,
    folder: TempDir,
}

impl Null {
    fn new(bench: &Bench) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("server-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let file = folder.path().join("null");
        fs::copy(&bench.program, &file)?;
        let mut command = bench.null_server();
        command[0] = file.to_str().context("a path is not UTF-8")?.to_owned();
        Ok(Self { command, folder })
    }

    fn daemon(&self, bench: &Bench) -> anyhow::Result<Daemon> {
        Daemon::start_with(bench, &[("null", &self.command)], |config| {
            config.sandbox.read = vec![self.folder.path().to_path_buf()];
        })
    }
}

/// What a daemon with so many instances holds.
struct Ours {
    size: usize,
    serve: Held,
    /// With the keeper and the inits.
    all: Held,
}

fn ours_held(bench: &Bench, null: &Null, sizes: &[usize]) -> anyhow::Result<Vec<Ours>> {
    let mut daemon = null.daemon(bench)?;
    let (mut live, mut ours) = (0, Vec::new());
    for size in sizes.iter().copied() {
        for _ in live..size {
            daemon.create("null")?.endpoint.initialize()?;
        }
        live = size;
        rest(bench, SETTLE)?;
        let held = memory::of(&daemon)?;
        ours.push(Ours {
            size,
            serve: held.serve,
            all: held.serve.and(held.keeper).and(held.inits),
        });
    }
    Ok(ours)
}

/// What one instance more holds, from two sizes.
fn growth((fewer, before): (usize, Held), (more, after): (usize, Held)) -> Held {
    let count = u64::try_from((more - fewer).max(1)).unwrap_or(1);
    let each = |before: u64, after: u64| after.saturating_sub(before) / count;
    let known = |before: Option<u64>, after: Option<u64>| Some(each(before?, after?));
    Held {
        processes: after.processes,
        rss_kib: each(before.rss_kib, after.rss_kib),
        pss_kib: known(before.pss_kib, after.pss_kib),
        private_kib: known(before.private_kib, after.private_kib),
        anonymous_kib: each(before.anonymous_kib, after.anonymous_kib),
    }
}

/// A peer that is installed.
pub struct Found {
    /// Which one.
    pub kind: &'static Kind,
    /// Where it is.
    pub program: PathBuf,
}

impl Found {
    fn start(&self, bench: &Bench, null: &Null, servers: usize) -> anyhow::Result<Peer> {
        Peer::start(
            self.kind,
            &self.program,
            &null.command,
            servers,
            &bench.stop,
        )
    }

    /// Rows of launches to the first `initialize`, and of kills of a server to the next good answer, in turns with ours.
    fn lives(
        &self,
        bench: &mut Bench,
        daemon: &mut Daemon,
        null: &Null,
        creations: usize,
    ) -> anyhow::Result<()> {
        let (mut launched, mut served, mut created) = (Vec::new(), Vec::new(), Vec::new());
        let (mut back, mut ours_back, mut is_lost) = (Vec::new(), Vec::new(), false);
        for _ in 0..(creations / CREATIONS_PER_LAUNCH).max(1) {
            let began = Instant::now();
            let peer = self.start(bench, null, 1)?;
            let endpoint = peer.endpoint(0);
            peer.wait_until(|| endpoint.initialize().is_ok())?;
            launched.push(began.elapsed());
            peer.wait_until(|| endpoint.answers())?;
            if !is_lost {
                let time = peer.kill_and_wait()?;
                is_lost = time.is_none();
                back.extend(time);
            }
            drop(peer);

            let began = Instant::now();
            let mut another = null.daemon(bench)?;
            another.create("null")?.endpoint.initialize()?;
            served.push(began.elapsed());
            drop(another);

            let began = Instant::now();
            let instance = daemon.create("null")?;
            instance.endpoint.initialize()?;
            created.push(began.elapsed());
            ours_back.push(daemon.kill_and_wait(&instance)?);
            daemon.delete(&instance)?;
        }
        let name = self.kind.name;
        let peer = format!("peer: {name}");
        let figures = &mut bench.figures;
        figures.heading(
            &format!("to the first initialize, beside {name}"),
            Figures::TIMES,
        )?;
        let base = Summary::of(launched);
        figures.times(&format!("{peer}, launch"), base, None)?;
        let ours = "minimcp: launch of serve, creation";
        figures.times(ours, Summary::of(served), Some(base))?;
        let ours = "minimcp: creation in a daemon that runs";
        figures.times(ours, Summary::of(created), Some(base))?;
        let title = format!("kill -9 to a good answer, beside {name}");
        figures.heading(&title, Figures::TIMES)?;
        let base = (!is_lost).then(|| Summary::of(back));
        match base {
            Some(base) => figures.times(&peer, base, None)?,
            None => figures.never(&peer, PATIENCE)?,
        }
        figures.times("minimcp", Summary::of(ours_back), base)?;
        Ok(())
    }

    /// Rows of calls, with as many as the peer answers in a few seconds.
    fn calls(
        &self,
        bench: &mut Bench,
        daemon: &mut Daemon,
        null: &Null,
        plan: &Plan,
    ) -> anyhow::Result<()> {
        let peer = self.start(bench, null, 1)?;
        let endpoint = peer.endpoint(0);
        peer.wait_until(|| endpoint.answers())?;
        let per_second = |count, outstanding| {
            let load = endpoint.load(count, outstanding, &bench.stop)?;
            anyhow::Ok(rate(load.times.len(), load.took))
        };
        let (alone, busy) = (per_second(BUSY, 1)?, per_second(10 * BUSY, BUSY)?);
        let server = Server {
            name: "null",
            command: &null.command,
            slowness: calls::slowness(plan, alone, busy, ROUND),
        };
        let beside = Some((self.kind.name, &endpoint));
        calls::compare(bench, daemon, plan, &server, beside)?;
        Ok(())
    }

    /// Rows of memory, at the sizes at which ours was looked at.
    fn memory(&self, bench: &mut Bench, null: &Null, ours: &[Ours]) -> anyhow::Result<()> {
        let name = self.kind.name;
        let peer = format!("peer: {name}");
        let mut sizes: Vec<(usize, Held, &Ours)> = Vec::new();
        for its in ours {
            let noun = if its.size == 1 { "server" } else { "servers" };
            let title = format!("memory with {} {noun}, beside {name}", its.size);
            let figures = &mut bench.figures;
            figures.heading(&title, Figures::MEMORY_TOGETHER)?;
            if !self.kind.is_host_of_many && its.size > PROCESSES_MAX {
                let why = format!("a process for each, of which {PROCESSES_MAX} are started");
                figures.missing(&peer, &why)?;
                continue;
            }
            let held = self.held(bench, null, its.size)?;
            let figures = &mut bench.figures;
            figures.held_together(&peer, held, None)?;
            let all = "minimcp: serve, keeper and inits";
            figures.held_together(all, its.all, Some(held))?;
            figures.held_together("minimcp: serve", its.serve, Some(held))?;
            sizes.push((its.size, held, its));
        }
        if let [(few, before, ours_before), .., (many, after, ours_after)] = sizes[..] {
            let of = |held: fn(&Ours) -> Held| {
                growth((few, held(ours_before)), (many, held(ours_after)))
            };
            let figures = &mut bench.figures;
            let title = format!("one server more, beside {name}");
            figures.heading(&title, Figures::MEMORY_TOGETHER)?;
            let base = growth((few, before), (many, after));
            figures.held_together(&peer, base, None)?;
            let all = "minimcp: serve, keeper and inits";
            figures.held_together(all, of(|ours| ours.all), Some(base))?;
            figures.held_together("minimcp: serve", of(|ours| ours.serve), Some(base))?;
        }
        Ok(())
    }

    fn held(&self, bench: &Bench, null: &Null, size: usize) -> anyhow::Result<Held> {
        let (processes, servers) = if self.kind.is_host_of_many {
            (1, size)
        } else {
            (size, 1)
        };
        let mut peers = Vec::new();
        for _ in 0..processes {
            let peer = self.start(bench, null, servers)?;
            for number in 0..servers {
                let endpoint = peer.endpoint(number);
                peer.wait_until(|| endpoint.answers())?;
            }
            peers.push(peer);
        }
        rest(bench, SETTLE)?;
        let mut all = Held::default();
        for peer in &peers {
            all = all.and(peer.held()?);
        }
        Ok(all)
    }
}
