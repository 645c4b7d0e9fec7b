//! What the daemon costs, beside other programs that put stdio servers behind MCP over HTTP: those that are installed.
//!
//! ```text
//! cargo bench --bench peers                          everything, some minutes for each peer
//! cargo bench --bench peers -- --quick               fewer samples, less than a minute for each
//! cargo bench --bench peers -- --peers DIR           where they are (also MINIMCP_BENCH_PEERS, folders with colons between)
//! cargo bench --bench peers -- --only NAME,…         only these (mcp-proxy-rust, supergateway, mcp-proxy-node, mcp-proxy-python)
//! cargo bench --bench peers -- --instances 1,10,100  how many servers live when memory is looked at
//! cargo bench --bench peers -- --program FILE        the minimcp that is measured, if not the one of this build
//! cargo bench --bench peers -- --json                the figures as JSON
//! taskset -c 0 cargo bench --bench peers             all on one CPU: the steadiest latencies
//! ```
//!
//! The client, the load, the server (`null`) and the summaries are those of `minimcp bench` (`src/bench/`), and each peer
//! takes turns with minimcp in the same run. A peer that is not found is named with what installs it. Plain supervisors of
//! processes (pm2, supervisord), mcp-hub and mcpo are left out: they do not speak MCP's Streamable HTTP.
//!
//! Ratios are minimcp's figure to the peer's. "Launch" of a peer, with its servers in its configuration, stands beside
//! two things: launching `serve` and creating an instance in it, and creating one in a daemon that runs, which is what
//! its users wait for. Every connection has a session of its own, which a peer may give a server of its own. Slow peers
//! get fewer calls, and minimcp as many beside them. Memory is what the processes hold together without the servers;
//! inits share most of theirs with the keeper, so that their RSS says little. After the kill of its server a peer has
//! twelve seconds to answer some client again. Ctrl-C or SIGTERM ends everything that was started first.

mod beside;
mod installed;
mod interrupt;
mod kind;
mod running;

use std::{io::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use beside::Found;
use kind::Kind;
use minimcp::bench::{Bench, Plan, Stop, figures::Figures, machine::Machine};

/// Folders where peers are looked for.
const PEERS: &str = "MINIMCP_BENCH_PEERS";

/// What the arguments ask for.
struct Wanted {
    plan: Plan,
    json: bool,
    folders: Vec<PathBuf>,
    kinds: Vec<&'static Kind>,
    program: String,
}

impl Wanted {
    fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let (mut quick, mut json, mut divide) = (false, false, 1);
        let mut sizes = vec![1, 10, 100];
        let mut folders: Vec<PathBuf> = std::env::var_os(PEERS)
            .map(|paths| std::env::split_paths(&paths).collect())
            .unwrap_or_default();
        let mut kinds = kind::ALL.to_vec();
        let mut program = env!("CARGO_BIN_EXE_minimcp").to_owned();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || {
                rest.next()
                    .with_context(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--quick" => quick = true,
                "--json" => json = true,
                // To see that it works, not what anything costs.
                "--divide" => divide = value()?.parse()?,
                "--peers" => folders.insert(0, value()?.into()),
                "--program" => {
                    let given = std::path::absolute(value()?)?;
                    program = given.to_str().context("a path is not UTF-8")?.to_owned();
                }
                "--instances" => {
                    let numbers = value()?.split(',').map(str::parse);
                    sizes = numbers.collect::<Result<_, _>>()?;
                }
                "--only" => {
                    let named = value()?.split(',').map(|name| {
                        let kind = kind::ALL.into_iter().find(|kind| kind.name == name);
                        kind.with_context(|| format!("there is no peer {name}"))
                    });
                    kinds = named.collect::<Result<_, _>>()?;
                }
                // Cargo gives it to every bench.
                "--bench" => {}
                other => {
                    anyhow::bail!("unknown argument {other}; see the head of benches/peers/main.rs")
                }
            }
        }
        let plan = if quick {
            Plan::quick(sizes)
        } else {
            Plan::full(sizes)
        };
        Ok(Self {
            plan: plan.divided_by(divide),
            json,
            folders,
            kinds,
            program,
        })
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = Wanted::parse(&arguments)?;
    let stop = Arc::new(Stop::default());
    interrupt::work(&stop.clone(), || run(&wanted, stop))
}

fn run(wanted: &Wanted, stop: Arc<Stop>) -> anyhow::Result<()> {
    let machine = Machine::this();
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
        program: wanted.program.clone(),
    };
    bench.figures.remark(&machine.line())?;
    for doubt in machine.doubts() {
        bench.figures.remark(doubt)?;
    }
    bench.figures.heading("peers", "")?;
    let mut found = Vec::new();
    for kind in &wanted.kinds {
        bench.stop.check()?;
        let Some(program) = installed::find(kind, &wanted.folders) else {
            bench.figures.missing(kind.name, kind.install)?;
            continue;
        };
        let line = format!("{:<20} {}: {}", kind.name, kind.title, program.display());
        bench.figures.remark(&line)?;
        found.push(Found { kind, program });
    }
    if !found.is_empty() {
        beside::compare(&mut bench, &wanted.plan, &found)?;
    }
    if wanted.json {
        let figures = bench.figures.into_rows();
        let document = serde_json::json!({"machine": machine, "figures": figures});
        writeln!(std::io::stdout().lock(), "{document:#}")?;
    }
    Ok(())
}
