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
//! It measures as `minimcp bench` does (`src/bench/`), and beside it what a user's machine does not have: a peer, a server
//! on the official TypeScript SDK (`node`), the layers of the sandbox by themselves, and the goals. It starts the release
//! binary of this tree. The peer is the program of the Rust crate `mcp-proxy`, the fastest of those that do the same job
//! (`cargo install mcp-proxy@0.6.0 --root target/bench-peers`); `benches/peers` has the others. What is not there is said,
//! and the run goes on. Ctrl-C or SIGTERM ends what was started first.

mod goals;
#[path = "../peers/installed.rs"]
mod installed;
#[path = "../peers/interrupt.rs"]
mod interrupt;
#[path = "../peers/kind.rs"]
#[expect(dead_code, reason = "one peer of several is started here")]
mod kind;
mod layers;
mod node;
#[path = "../peers/running.rs"]
#[expect(dead_code, reason = "no peer is killed or weighed here")]
mod running;

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use kind::FASTEST;
use minimcp::bench::{
    Bench, Plan, Section, Stop,
    calls::{self, Server},
    daemon::Daemon,
    figures::Figures,
    logs, many, starts,
};
use running::Peer;

/// Where PostgreSQL may be used: databases are made in it and dropped again.
const POSTGRES: &str = "MINIMCP_BENCH_POSTGRES_URL";

/// 1, 10, 100 and 1,000, as far as `most`, and `most`.
fn sizes(most: usize) -> impl Iterator<Item = usize> {
    let smaller = [1, 10, 100, 1_000].into_iter();
    smaller.filter(move |size| *size < most).chain([most])
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
        let plan = if quick {
            Plan::quick(sizes(most))
        } else {
            Plan::full(sizes(most))
        };
        Self {
            plan,
            json,
            only_calls,
            only_layers,
            only_logs,
            peer,
            node_server,
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = Wanted::parse(&arguments);
    let stop = Arc::new(Stop::default());
    interrupt::work(&stop.clone(), || run(&wanted, stop))
}

fn run(wanted: &Wanted, stop: Arc<Stop>) -> anyhow::Result<()> {
    let figures = if wanted.json {
        Figures::kept()
    } else {
        Figures::written(Box::new(|line| {
            writeln!(std::io::stdout().lock(), "{line}")
        }))
    };
    let mut bench = Bench {
        figures,
        stop,
        program: env!("CARGO_BIN_EXE_minimcp").to_owned(),
    };
    if wanted.only_layers {
        layers::compare(&mut bench, wanted.plan.starts)?;
    } else if wanted.only_logs {
        let postgres = std::env::var(POSTGRES).ok();
        logs::ingest(&mut bench, &wanted.plan, postgres.as_deref())?;
    } else {
        measure(&mut bench, wanted)?;
    }
    if wanted.json {
        let figures = serde_json::json!({"figures": bench.figures.into_rows()});
        writeln!(std::io::stdout().lock(), "{figures:#}")?;
    }
    Ok(())
}

/// The program given, else where it is installed.
///
/// # Panics
/// When one is given and is not the peer.
fn peer(given: Option<&Path>) -> Option<PathBuf> {
    let Some(given) = given else {
        return installed::find(FASTEST, &[]);
    };
    let given = std::path::absolute(given).expect("a path that is not empty");
    assert!(
        installed::is_it(FASTEST, &given),
        "--peer {}: not the program of {} ({})",
        given.display(),
        FASTEST.title,
        FASTEST.install
    );
    Some(given)
}

fn measure(bench: &mut Bench, wanted: &Wanted) -> anyhow::Result<()> {
    let plan = &wanted.plan;
    let (null, demo) = (bench.null_server(), bench.demo_server());
    let peer = peer(wanted.peer.as_deref());
    let node = node::find(wanted.node_server.as_deref());
    let mut templates: Vec<(&str, &[String])> = vec![("null", &null)];
    let mut servers = vec![("null", &null[..], 1), ("demo", &demo[..], 1)];
    if let Some(node) = &node {
        templates.push(("node", &node.command));
        servers.push(("node", &node.command, 4));
    }
    let reads = node.as_ref().map_or(&[][..], |node| &node.reads);
    let mut daemon = Daemon::start_with(bench, &templates, |config| {
        config.sandbox.read = reads.to_vec();
    })?;
    for (name, command, slowness) in servers {
        if !wanted.only_calls && name != "node" {
            starts::compare(bench, &mut daemon, name, command, 0, plan.starts)?;
        }
        let server = Server {
            name,
            command,
            slowness,
        };
        let running = match &peer {
            Some(program) => Some(Peer::start(FASTEST, program, command, 1, &bench.stop)?),
            None => None,
        };
        let endpoint = running.as_ref().map(|peer| peer.endpoint(0));
        if let (Some(peer), Some(endpoint)) = (&running, &endpoint) {
            peer.wait_until(|| endpoint.answers())?;
        }
        let beside = endpoint.as_ref().map(|endpoint| (FASTEST.name, endpoint));
        let (alone, busy) = calls::compare(bench, &mut daemon, plan, &server, beside)?;
        if peer.is_none() {
            let name = format!("peer: {}", FASTEST.name);
            bench.figures.missing(&name, FASTEST.install)?;
        }
        goals::compare(&mut bench.figures, name, &alone, &busy)?;
    }
    if node.is_none() {
        bench.figures.heading("calls to node", "")?;
        let name = "a server on the TypeScript SDK";
        bench.figures.missing(name, node::INSTALL)?;
    }
    drop(daemon);
    if wanted.only_calls {
        return Ok(());
    }
    layers::compare(bench, plan.starts)?;
    let sections = [
        Section::Memory,
        Section::Api,
        Section::Restarts,
        Section::Leases,
    ];
    many::measure(bench, plan, &BTreeSet::from(sections))
}
