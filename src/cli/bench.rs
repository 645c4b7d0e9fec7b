//! `minimcp bench`: what this program costs on this machine. Needs no running daemon, and does not touch one.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    thread,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    block_on,
    failure::Failure,
    output::{self, Output},
    serve::Signals,
};
use crate::bench::{
    Bench, INSTANCES_MAX, Plan, Section, Stop,
    figures::{Figures, ReportError},
    machine::Machine,
};

/// As a shell reports a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

const METHOD: &str = "\
How it measures:
  It starts a daemon of this very program with a folder, keeper and ports of its own, speaks with it over loopback, and
  ends it, also after Ctrl-C. No other daemon is touched, nothing is left behind, and no network is needed.
  Everything is measured in turns with the same work without minimcp, in the same run:
    starts    a server that is spawned and asked for its tools by us, without a daemon
    calls     the server's own pipes; and the floor: a bridge from HTTP to these pipes that does nothing else
    logs      the database alone, with the table of the log and its index
    restarts  a server that is killed, reaped and spawned anew by us
    memory    the server alone
  The servers are null, which does next to nothing, so that the cost of hosting is seen, and demo. Times are medians and
  99th percentiles in microseconds; of several rounds of calls, the median of each figure.
  Compare ratios with those of another day or machine; single figures only within one run, on a quiet machine.";

#[derive(Debug, Args)]
#[command(after_help = METHOD)]
pub(crate) struct BenchOptions {
    /// Fewer samples: less than a minute.
    #[arg(long)]
    quick: bool,
    /// How many instances live at once when memory, starts, restarts, leases and the API are measured [default:
    /// 1,10,100; with --quick 1,10].
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = instances)]
    instances: Vec<usize>,
    /// Measure only these.
    #[arg(long, value_name = "SECTION,…", value_delimiter = ',', value_enum)]
    only: Vec<Section>,
    /// A PostgreSQL server for the section logs: databases are made there and dropped. An address with a password goes
    /// into the variable, since arguments are seen by everybody.
    #[arg(
        long,
        value_name = "URL",
        env = "MINIMCP_BENCH_POSTGRES_URL",
        hide_env_values = true
    )]
    postgres: Option<String>,
    /// So many times fewer samples: to see that it works, not what it costs.
    #[arg(long, value_name = "N", default_value_t = 1, hide = true)]
    divide: usize,
}

fn instances(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(count @ 1..=INSTANCES_MAX) => Ok(count),
        _ => Err(format!("a number from 1 to {INSTANCES_MAX} is expected")),
    }
}

impl BenchOptions {
    fn plan(&self) -> Plan {
        let sizes = |default: &[usize]| match self.instances[..] {
            [] => default.to_vec(),
            ref asked => asked.to_vec(),
        };
        let plan = if self.quick {
            Plan::quick(sizes(&[1, 10]))
        } else {
            Plan::full(sizes(&[1, 10, 100]))
        };
        plan.divided_by(self.divide)
    }

    fn sections(&self) -> BTreeSet<Section> {
        match self.only[..] {
            [] => Section::ALL.into(),
            ref asked => asked.iter().copied().collect(),
        }
    }
}

pub(super) fn run(options: &BenchOptions, out: Output) -> Result<ExitCode, Failure> {
    let machine = Machine::this();
    if !out.json {
        out.line(&machine.line())?;
        for doubt in machine.doubts() {
            out.line(doubt)?;
        }
    }
    let stop = Arc::new(Stop::default());
    let mut bench = Bench {
        figures: if out.json {
            Figures::kept()
        } else {
            Figures::written(Box::new(write_line))
        },
        stop: stop.clone(),
        program: program()?,
    };
    let (plan, sections) = (options.plan(), options.sections());
    let postgres = options.postgres.clone();
    let sizes = plan.sizes.clone();
    let rows = block_on(async {
        let mut signals = Signals::listen_in_terminal()?;
        let (done, mut outcome) = oneshot::channel();
        // A thread of its own: whatever it measures it waits for, without a runtime between.
        let work = thread::Builder::new().name("bench".to_owned());
        let work = work.spawn(move || {
            let outcome = bench.run(&plan, &sections, postgres.as_deref());
            // Nobody waits any more only when this process ends.
            let _ = done.send(outcome.map(|()| bench.figures.into_rows()));
        })?;
        let outcome = loop {
            tokio::select! {
                outcome = &mut outcome => break outcome,
                () = signals.next() => {
                    if !stop.asked() {
                        output::complain("minimcp: ending everything that the bench has started");
                    }
                    stop.ask();
                }
            }
        };
        if let Err(panic) = work.join() {
            std::panic::resume_unwind(panic);
        }
        outcome.map_err(|_| Failure::Failed("the bench ended without figures".to_owned()))
    })?;
    let rows = match rows {
        // What went wrong once everything was told to end is no news.
        Err(_) if stop.asked() => return Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => return Err(failure(error)),
        Ok(rows) => rows,
    };
    if out.json {
        out.line(&document(options, &machine, &sizes, rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of the table, at once.
fn write_line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// This very program.
fn program() -> Result<String, Failure> {
    let program = std::env::current_exe().context("this program does not find its own file")?;
    if !program.is_file() {
        return Err(Failure::Failed(format!(
            "the file of this program, {}, is not there any more; start it again",
            program.display()
        )));
    }
    let program = program.into_os_string().into_string().map_err(|path| {
        let path = path.display();
        Failure::Failed(format!(
            "the path of this program is not UTF-8, which no template can name: {path}"
        ))
    })?;
    Ok(program)
}

fn failure(error: anyhow::Error) -> Failure {
    match error.downcast::<ReportError>() {
        Ok(ReportError(cause)) => cause.into(),
        Err(error) => error.into(),
    }
}

fn document(
    options: &BenchOptions,
    machine: &Machine,
    sizes: &[usize],
    rows: Vec<Value>,
) -> String {
    let document = json!({
        "machine": machine, "quick": options.quick, "instances": sizes, "figures": rows,
    });
    format!("{document:#}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: BenchOptions,
    }

    fn parsed(line: &str) -> Result<BenchOptions, clap::Error> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.options)
    }

    #[test]
    fn without_options_everything_is_measured() {
        let options = parsed("").expect("valid");
        assert_eq!(options.sections().len(), Section::ALL.len());
        assert_eq!(options.plan(), Plan::full([1, 10, 100]));
        let quick = parsed("--quick").expect("valid");
        assert_eq!(quick.plan(), Plan::quick([1, 10]));
    }

    #[test]
    fn sections_and_sizes_are_lists() {
        let options = parsed("--only starts,calls --instances 20,5").expect("valid");
        let sections: Vec<Section> = options.sections().into_iter().collect();
        assert_eq!(sections, [Section::Starts, Section::Calls]);
        assert_eq!(options.plan().sizes, [5, 20]);
        for wrong in ["--only nothing", "--instances 0", "--instances 9999", "x"] {
            let error = parsed(wrong).expect_err(wrong);
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = ReportError(io::ErrorKind::BrokenPipe.into());
        assert!(matches!(failure(gone.into()), Failure::OutputClosed));
        // The same of a connection to the daemon is one.
        let lost = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(failure(lost), Failure::Failed(_)));
    }
}
