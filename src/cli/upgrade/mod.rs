//! `upgrade`: another program takes the daemon's place while its instances run on and its clients wait.

mod knocks;
mod program;
mod unit;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    arguments::GlobalOptions,
    connection,
    failure::Failure,
    output::{self, Output},
};
use crate::{
    client::{Client, ListQuery},
    daemon,
    domain::duration::HumanDuration,
    wire::{Diagnostics, Instance, ProcessFacts},
};
use knocks::{Heard, Knocks};
use program::Placed;
use unit::Unit;

/// Between two looks at the new daemon.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long it may take until it tells of every instance that it took over.
const INSTANCES_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct UpgradeOptions {
    /// First put this program in the place of the daemon's; the former one is kept beside it, as PROGRAM.former.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// How long to wait until the new daemon answers.
    #[arg(long, value_name = "TIME", default_value = "2m")]
    timeout: HumanDuration,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    from: String,
    to: String,
    pid: u32,
    program: String,
    /// Until the new daemon told of its instances.
    took_ms: u64,
    /// Where the former program is now, if it was replaced by this command.
    former_program: Option<PathBuf>,
    /// Instances that ran and have their processes still.
    kept: usize,
    lost: Vec<Lost>,
    waits: Vec<Heard>,
}

/// An instance whose process is another one than before, or none.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Lost {
    id: String,
    name: String,
    pid_before: u32,
    pid_now: Option<u32>,
}

/// Who brings the new program to life.
enum Manner {
    /// The daemon itself.
    InPlace,
    /// systemd.
    Unit(Unit),
}

pub(super) async fn run(
    global: &GlobalOptions,
    options: &UpgradeOptions,
    out: Output,
) -> Result<ExitCode, Failure> {
    let client = connection::connect(global, &connection::environment)?;
    let before = client.diagnostics().await?.read()?;
    let Some(process) = before.process.clone() else {
        return Err(Failure::Failed(format!(
            "the daemon ({}) is of a version that does not know how to be upgraded: restart it where it was started \
             (systemctl restart minimcp)",
            before.version
        )));
    };
    let manner = manner_of(&process).await?;
    let place = Path::new(&process.program);
    // A name without a folder would be looked for elsewhere when it is run.
    let binary = options.binary.as_deref().map(std::path::absolute);
    let binary = binary.transpose()?;
    if let Some(binary) = &binary {
        program::version_of(binary).await?;
    } else if matches!(manner, Manner::Unit(_)) {
        program::version_of(place).await?;
    }
    let placed = match &binary {
        Some(binary) => Some(put(binary, place)?),
        None => None,
    };
    let former_program = placed.as_ref().map(|placed| placed.former().to_owned());
    let instances = running(&client).await?;
    let url = instances.first().map(|one| one.access_url.as_str());
    let limit = options.timeout.std();
    let knocks = Knocks::begin(client.knocker()?, url, limit)?;
    // systemd ends the process of its unit, and starts another one.
    let ended = matches!(manner, Manner::InPlace).then(|| daemon::ended(process.pid, place));
    let ended = async {
        match ended {
            Some(ended) => ended.await,
            None => std::future::pending().await,
        }
    };
    let began = Instant::now();
    let expected = match begin(&manner, &client, place).await {
        Ok(version) => version,
        Err(failure) => {
            knocks.end().await;
            return Err(taken_back(failure, placed));
        }
    };
    if let Manner::Unit(unit) = &manner
        && let Err(cause) = unit.restart().await
    {
        // Who knocks waits for a daemon, and systemd tries the new program no more than ten times.
        drop(knocks);
        return Err(brought_back(unit, &cause, placed).await);
    }
    let after = tokio::select! {
        biased;
        () = ended => {
            // Who knocks waits: the keeper holds the listeners for the next daemon.
            drop(knocks);
            let text = died(&process, former_program.as_deref(), instances.len());
            return Err(taken_back(Failure::Failed(text), placed));
        }
        after = next_daemon(&client, &process, began + limit) => after,
    };
    let Some(after) = after else {
        return Err(Failure::Failed(remedy(
            &manner,
            &process,
            former_program.as_deref(),
            options,
        )));
    };
    let lost = lost(&client, &instances).await?;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let report = Report {
        from: before.version,
        to: after.version,
        pid: after.process.as_ref().map_or(0, |process| process.pid),
        program: process.program,
        took_ms,
        former_program,
        kept: instances.len() - lost.len(),
        lost,
        waits: knocks.end().await,
    };
    if out.json {
        let text =
            serde_json::to_string(&report).map_err(|error| Failure::Failed(error.to_string()))?;
        out.line(&text)?;
    } else {
        out.line(&report.text())?;
    }
    if report.to != expected {
        output::complain(&format!("minimcp: {expected} was to take over"));
    }
    let is_well = report.to == expected && report.lost.is_empty();
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn manner_of(process: &ProcessFacts) -> Result<Manner, Failure> {
    if process.upgrades_in_place {
        return Ok(Manner::InPlace);
    }
    match Unit::of(process.pid).await {
        Some(unit) => Ok(Manner::Unit(unit)),
        None => Err(Failure::Failed(format!(
            "the daemon (process {}) does not become another program by itself, and is no unit of systemd on this host: \
             restart it where it was started",
            process.pid
        ))),
    }
}

/// A failure in words of which some may be the system's.
fn failed(text: String) -> Failure {
    anyhow::Error::msg(text).into()
}

fn put(binary: &Path, place: &Path) -> Result<Placed, Failure> {
    Placed::put(binary, place).map_err(|cause| {
        failed(format!(
            "{} cannot be put in the place of {}: {cause}; nothing was changed",
            binary.display(),
            place.display()
        ))
    })
}

/// Instances that have a process.
async fn running(client: &Client) -> Result<Vec<Instance>, Failure> {
    let all = client.list(&ListQuery::default()).await?.read()?.items;
    Ok(all.into_iter().filter(|one| one.pid.is_some()).collect())
}

/// Lets the new program be asked, and the old one go, which a unit does not by itself. Answers the version that takes over.
async fn begin(manner: &Manner, client: &Client, place: &Path) -> Result<String, Failure> {
    match manner {
        Manner::InPlace => Ok(client.upgrade().await?.read()?.to),
        Manner::Unit(unit) => {
            let checked = unit.check(place).await?;
            Ok(checked.version)
        }
    }
}

/// A program that did not come up as a unit: what was put in place is taken back, and serves again.
async fn brought_back(unit: &Unit, cause: &str, placed: Option<Placed>) -> Failure {
    let log = unit.log_command();
    let failure = failed(format!(
        "the new program did not come up: {log} tells why ({cause})"
    ));
    let Some(placed) = placed else {
        return failure;
    };
    let former = placed.former().to_owned();
    if let Err(cause) = placed.take_back() {
        let former = former.display();
        return failed(format!(
            "{failure}; and the former program could not be put back from {former}: {cause}"
        ));
    }
    match unit.restart().await {
        Ok(()) => failed(format!(
            "{failure}; the former program is back in its place and serves"
        )),
        Err(cause) => failed(format!(
            "{failure}; the former program is back in its place and does not come up either ({cause}): {}",
            unit.restart_command()
        )),
    }
}

/// The failure, after what was put in place was taken back.
fn taken_back(failure: Failure, placed: Option<Placed>) -> Failure {
    let Some(placed) = placed else {
        return failure;
    };
    let former = placed.former().to_owned();
    match placed.take_back() {
        Ok(()) => failure,
        Err(cause) => failed(format!(
            "{failure}; and the former program could not be put back from {}: {cause}",
            former.display()
        )),
    }
}

/// Waits until another daemon answers than the one that was.
async fn next_daemon(
    client: &Client,
    former: &ProcessFacts,
    until: Instant,
) -> Option<Diagnostics> {
    let look = async {
        loop {
            let told = client.diagnostics().await.and_then(|told| told.read());
            if let Ok(told) = told {
                let begun = told.process.as_ref().map(|process| &process.started_at);
                if begun != Some(&former.started_at) {
                    return told;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout_at(until, look).await.ok()
}

/// Those that do not have the process that they had.
async fn lost(client: &Client, before: &[Instance]) -> Result<Vec<Lost>, Failure> {
    let until = Instant::now() + INSTANCES_LIMIT;
    loop {
        let now = running(client).await?;
        let now: BTreeMap<&str, Option<u32>> =
            now.iter().map(|one| (one.id.as_str(), one.pid)).collect();
        let lost: Vec<Lost> = before
            .iter()
            .filter_map(|one| {
                let pid_now = now.get(one.id.as_str()).copied().flatten();
                (pid_now != one.pid).then(|| Lost {
                    id: one.id.clone(),
                    name: one.name.clone(),
                    pid_before: one.pid.unwrap_or_default(),
                    pid_now,
                })
            })
            .collect();
        if lost.is_empty() || Instant::now() >= until {
            return Ok(lost);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What to do about a daemon that ended where the new program should have begun.
fn died(process: &ProcessFacts, former: Option<&Path>, instances: usize) -> String {
    let program = match former {
        Some(_) => format!("the former program is at {} again: start", process.program),
        None => format!(
            "put the former program at {} again, and start",
            process.program
        ),
    };
    let held = match instances {
        0 => String::new(),
        1 => " within 10 minutes: the keeper holds the running instance so long".to_owned(),
        many => {
            format!(" within 10 minutes: the keeper holds the {many} running instances so long")
        }
    };
    format!(
        "the new program ended at its start, its log tells why; {program} the daemon as it was started{held}"
    )
}

/// What to do about a daemon that does not come.
fn remedy(
    manner: &Manner,
    process: &ProcessFacts,
    former: Option<&Path>,
    options: &UpgradeOptions,
) -> String {
    let (log, start) = match manner {
        Manner::InPlace => (
            "its log".to_owned(),
            "start it again as it was started".to_owned(),
        ),
        Manner::Unit(unit) => (unit.log_command(), unit.restart_command()),
    };
    let back = former.map_or_else(String::new, |former| {
        format!(" mv {} {}, then", former.display(), process.program)
    });
    format!(
        "the new daemon did not answer within {}. {log} tells why; to go back:{back} {start}. A keeper of its own unit holds \
         the instances meanwhile",
        options.timeout
    )
}

impl Report {
    fn text(&self) -> String {
        let mut lines = vec![format!(
            "minimcp {} took the place of {} (process {}) within {} ms.",
            self.to, self.from, self.pid, self.took_ms
        )];
        lines.push(match (self.kept, self.lost.len()) {
            (0, 0) => "No instance was running.".to_owned(),
            (1, 0) => "The running instance kept its process.".to_owned(),
            (kept, 0) => format!("All {kept} running instances kept their processes."),
            (kept, lost) => {
                format!("{kept} running instances kept their processes, {lost} did not:")
            }
        });
        for lost in &self.lost {
            let now = match lost.pid_now {
                Some(pid) => format!("{pid} now"),
                None => "none now".to_owned(),
            };
            let name = output::plain(&lost.name);
            lines.push(format!(
                "  {name} ({}): process {} before, {now}",
                lost.id, lost.pid_before
            ));
        }
        for heard in &self.waits {
            let place = if heard.at == "api" {
                "The API"
            } else {
                "An access URL"
            };
            let failed = match heard.failed {
                0 => "all were answered".to_owned(),
                failed => format!("{failed} were not answered"),
            };
            lines.push(format!(
                "{place} kept nobody waiting for more than {} ms ({} fresh connections, {failed}).",
                heard.longest_ms, heard.asked
            ));
        }
        if let Some(former) = &self.former_program {
            lines.push(format!("The former program is {}.", former.display()));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_who_waited_and_what_was_lost() {
        let mut report = Report {
            from: "0.1.0".to_owned(),
            to: "0.2.0".to_owned(),
            pid: 7,
            program: "/usr/bin/minimcp".to_owned(),
            took_ms: 812,
            former_program: Some("/usr/bin/minimcp.former".into()),
            kept: 3,
            lost: Vec::new(),
            waits: vec![Heard {
                at: "api",
                asked: 40,
                failed: 0,
                longest_ms: 310,
            }],
        };
        assert_eq!(
            report.text(),
            "minimcp 0.2.0 took the place of 0.1.0 (process 7) within 812 ms.\n\
             All 3 running instances kept their processes.\n\
             The API kept nobody waiting for more than 310 ms (40 fresh connections, all were answered).\n\
             The former program is /usr/bin/minimcp.former."
        );
        report.lost.push(Lost {
            id: "i-1".to_owned(),
            name: "one".to_owned(),
            pid_before: 5,
            pid_now: None,
        });
        let text = report.text();
        assert!(
            text.contains("1 did not:\n  one (i-1): process 5 before, none now"),
            "{text}"
        );
    }
}
