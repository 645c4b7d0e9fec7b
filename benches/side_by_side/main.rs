//! What the daemon costs, beside the same server without it.
//!
//! ```text
//! cargo bench --bench side_by_side                         everything
//! cargo bench --bench side_by_side -- --quick              fewer samples, some minutes less
//! cargo bench --bench side_by_side -- --logs               only log ingest, beside the databases alone
//! cargo bench --bench side_by_side -- --calls              only calls through the access URL and what they stand beside
//! cargo bench --bench side_by_side -- --layers             only what each layer of the sandbox costs at a start
//! cargo bench --bench side_by_side -- --instances 1000     memory and kills up to so many instances (default 100)
//! cargo bench --bench side_by_side -- --peer PATH          where the peer is, if neither on the PATH nor in target/
//! cargo bench --bench side_by_side -- --node-server FILE   another program for Node, with a tool echo and one argument text
//! cargo bench --bench side_by_side -- --json               the figures as JSON
//! taskset -c 0 cargo bench --bench side_by_side            all on one CPU: the steadiest latencies
//! ```
//!
//! It starts the release binary of this tree with a folder and ports of its own, and ends only what it started.
//! Everything is measured in one run, so lines can be compared with each other, not with those of another machine or
//! day. The servers are `demo` (built in), `null`, which does next to nothing, so that what is seen is the cost of the
//! host, and `node`, on the official TypeScript SDK. The floor is a bridge from HTTP to a server's pipes that does
//! nothing else. The peer is the program of the Rust crate `mcp-proxy`, the fastest of those that do the same job
//! (`cargo install mcp-proxy@0.6.0 --root target/bench-peers`). What is not there is said, and the run goes on.

mod calls;
mod daemon;
mod figures;
mod floor;
mod http;
mod layers;
mod leases;
mod logs;
mod mcp;
mod memory;
mod node;
mod peer;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use calls::Server;
use daemon::{Daemon, Instance};
use figures::{Figures, Summary};
use mcp::StdioServer;

/// Concurrent calls of the busy rows.
const BUSY: usize = 32;

/// How much is measured.
struct Plan {
    starts: usize,
    calls_alone: usize,
    calls_busy: usize,
    rounds: usize,
    kills: usize,
    api_calls: usize,
    /// Numbers of instances at which memory is measured, rising.
    sizes: Vec<usize>,
}

impl Plan {
    fn full(most: usize) -> Self {
        Self {
            starts: 100,
            calls_alone: 10_000,
            calls_busy: 64_000,
            rounds: 5,
            kills: 30,
            api_calls: 500,
            sizes: sizes(most),
        }
    }

    fn quick(most: usize) -> Self {
        Self {
            starts: 20,
            calls_alone: 2_000,
            calls_busy: 9_600,
            rounds: 3,
            kills: 5,
            api_calls: 100,
            sizes: sizes(most),
        }
    }
}

fn sizes(most: usize) -> Vec<usize> {
    let mut sizes: Vec<_> = [1, 10, 100, 1_000]
        .into_iter()
        .filter(|size| *size < most)
        .collect();
    sizes.push(most);
    sizes
}

/// What the arguments ask for.
struct Wanted {
    plan: Plan,
    json: bool,
    only_calls: bool,
    only_layers: bool,
    only_logs: bool,
    peer: Option<PathBuf>,
    node_server: Option<PathBuf>,
}

impl Wanted {
    fn parse(arguments: &[String]) -> Self {
        let (mut quick, mut json, mut only_calls, mut most) = (false, false, false, 100);
        let (mut only_layers, mut only_logs) = (false, false);
        let (mut peer, mut node_server) = (None, None);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || {
                rest.next()
                    .unwrap_or_else(|| panic!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--quick" => quick = true,
                "--json" => json = true,
                "--calls" => only_calls = true,
                "--layers" => only_layers = true,
                "--logs" => only_logs = true,
                "--instances" => most = value().parse().expect("--instances needs a number"),
                "--peer" => peer = Some(value().into()),
                "--node-server" => node_server = Some(value().into()),
                // Cargo gives it to every bench.
                "--bench" => {}
                other => {
                    panic!("unknown argument {other}; see the head of benches/side_by_side/main.rs")
                }
            }
        }
        let plan = if quick { Plan::quick } else { Plan::full };
        Self {
            plan: plan(most),
            json,
            only_calls,
            only_layers,
            only_logs,
            peer,
            node_server,
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("null-server") => return floor::serve_null(),
        Some("flood-server") => return logs::flood(&arguments[1]),
        Some("floor") => return floor::serve_floor(&arguments[1..]),
        _ => {}
    }
    let wanted = Wanted::parse(&arguments);
    let plan = &wanted.plan;
    if wanted.only_layers {
        let mut figures = Figures::new(wanted.json);
        layers::compare(&mut figures, plan.starts);
        return figures.finish();
    }
    if wanted.only_logs {
        let mut figures = Figures::new(wanted.json);
        logs::ingest(&mut figures);
        return figures.finish();
    }
    let this = std::env::current_exe().expect("a program knows its file");
    let this = this.to_str().expect("the checkout has a plain path");
    let null = [this, "null-server"].map(str::to_owned);
    let demo = [env!("CARGO_BIN_EXE_minimcp"), "mcp", "demo"].map(str::to_owned);
    let peer = peer::find(wanted.peer.as_deref());
    let node = node::find(wanted.node_server.as_deref());

    let mut figures = Figures::new(wanted.json);
    let mut templates: Vec<(&str, &[String])> = vec![("null", &null)];
    let mut servers = vec![("null", &null[..], 1), ("demo", &demo[..], 1)];
    if let Some(node) = &node {
        templates.push(("node", &node.command));
        servers.push(("node", &node.command, 4));
    }
    let reads = node.as_ref().map_or(&[][..], |node| &node.reads);
    let mut daemon = Daemon::start(&templates, reads);
    for (name, command, slowness) in servers {
        if !wanted.only_calls && name != "node" {
            starts(&mut figures, &mut daemon, plan, name, command);
        }
        let server = Server {
            name,
            command,
            slowness,
        };
        calls::compare(&mut figures, &mut daemon, plan, &server, peer.as_deref());
    }
    if node.is_none() {
        figures.heading("calls to node", "");
        figures.missing("a server on the TypeScript SDK", node::INSTALL);
    }
    drop(daemon);
    if !wanted.only_calls {
        layers::compare(&mut figures, plan.starts);
        figures.heading("how late leases end", Figures::TIMES);
        for count in [10, 100] {
            leases::ends(&mut figures, &null, count);
        }
        many(&mut figures, plan, &null);
    }
    figures.finish();
}

/// Create to ready: one call of the API and the first `initialize` through the access URL, beside a bare child.
fn starts(figures: &mut Figures, daemon: &mut Daemon, plan: &Plan, name: &str, command: &[String]) {
    figures.heading(&format!("create to ready, {name}"), Figures::TIMES);
    let (mut bare, mut hosted) = (Vec::new(), Vec::new());
    for _ in 0..plan.starts {
        let began = Instant::now();
        let server = StdioServer::start(command);
        bare.push(began.elapsed());
        drop(server);

        let began = Instant::now();
        let instance = daemon.create(name);
        instance.endpoint.initialize();
        hosted.push(began.elapsed());
        daemon.delete(&instance);
    }
    let bare = Summary::of(bare);
    figures.times("bare: spawn, handshake, tool list", bare, None);
    figures.times(
        "minimcp: POST /mcps?wait=ready, initialize by URL",
        Summary::of(hosted),
        Some(bare),
    );
}

/// Memory, the API and kills with many instances of `null` on a fresh daemon.
fn many(figures: &mut Figures, plan: &Plan, null: &[String]) {
    /// What was just done settles: log rows are written, caches are given back.
    const SETTLE: Duration = Duration::from_secs(2);
    /// How long the CPU time of an idle daemon is counted.
    const IDLE: Duration = Duration::from_secs(10);

    let mut daemon = Daemon::start(&[("null", null)], &[]);
    let mut instances: Vec<Instance> = Vec::new();
    let mut serve_kib = Vec::new();
    for size in &plan.sizes {
        let began = Instant::now();
        let missing = size - instances.len();
        while instances.len() < *size {
            let instance = daemon.create("null");
            instance.endpoint.initialize();
            instances.push(instance);
        }
        let took = began.elapsed().as_secs_f64();
        std::thread::sleep(SETTLE);
        figures.heading(&format!("{size} instances of null"), Figures::MEMORY);
        let memory = memory::of(&daemon);
        serve_kib.push((*size, memory.serve.anonymous_kib));
        figures.memory(*size, &memory);
        #[expect(clippy::cast_precision_loss, reason = "a count of instances is small")]
        let rate = missing as f64 / took;
        figures.number("creations per second, one at a time", rate, "/s");
    }
    if let [.., (fewer, before), (more, after)] = serve_kib[..] {
        #[expect(clippy::cast_precision_loss, reason = "memory in KiB is small")]
        let each = (after as f64 - before as f64) / (more - fewer) as f64;
        figures.number("serve's own memory for one instance more", each, "KiB");
    }

    let before = memory::cpu_ms(daemon.pid());
    std::thread::sleep(IDLE);
    #[expect(clippy::cast_precision_loss, reason = "ten seconds at most")]
    let busy = (memory::cpu_ms(daemon.pid()) - before) as f64 / IDLE.as_secs_f64() / 10.0;
    figures.number("serve's CPU time while idle", busy, "% of a CPU");

    figures.heading(
        &format!("the API at {} instances", instances.len()),
        Figures::TIMES,
    );
    let one = format!("/mcps/{}", instances[0].id);
    let one = Summary::of(daemon.times_of(&one, plan.api_calls));
    figures.times("GET /mcps/{id}", one, None);
    let all = Summary::of(daemon.times_of("/mcps?limit=1000", plan.api_calls));
    figures.times("GET /mcps?limit=1000", all, None);

    figures.heading(
        "kill -9 of a server to its next good answer",
        Figures::TIMES,
    );
    let killed = instances.iter().take(plan.kills);
    let times = killed
        .map(|instance| daemon.kill_and_wait(instance))
        .collect();
    figures.times(
        "minimcp: new process, call by URL",
        Summary::of(times),
        None,
    );
}
