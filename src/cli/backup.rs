//! `minimcp backup`: what a daemon keeps, in one file and back. It needs no running daemon, and does not mind one.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    arguments::ConfigFile,
    configuration,
    failure::Failure,
    output::{self, Output},
    quickstart, serve,
};
use crate::{
    config::Config,
    daemon::{self, backup::Contents},
};

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Write the SQLite database and the instances' folders into a new file, while the daemon runs or not.
    ///
    /// The master key is not in it. Run it in the working folder and as the user of the daemon.
    Save {
        /// The file, such as minimcp.tar.gz; it must not exist.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Leave the database to the tools of its own, as for PostgreSQL.
        #[arg(long)]
        folders_only: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Put a backup where there is nothing yet, for the next start of the daemon.
    ///
    /// The master key must be in its place already.
    Restore {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

/// Whose data it is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    config: ConfigFile,
    /// The data folder of `quickstart`, in place of a configuration.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

impl Place {
    fn config(&self) -> Result<Config, Failure> {
        match &self.data_dir {
            Some(folder) => Ok(quickstart::config_within(&std::path::absolute(folder)?)),
            None => configuration::load(&self.config),
        }
    }
}

pub(super) fn run(command: &BackupCommand, out: Output) -> Result<ExitCode, Failure> {
    let runtime = serve::runtime()?;
    match command {
        BackupCommand::Save {
            file,
            folders_only,
            place,
        } => {
            let config = place.config()?;
            let contents = runtime.block_on(daemon::backup::save(&config, file, *folders_only))?;
            tell(out, &contents, &format!("{} holds", file.display()))?;
            if !out.json && !folders_only {
                out.line(&format!(
                    "The master key is not in it: keep a copy of {} elsewhere, no credential can be opened without it.",
                    config.secrets.key_file.display()
                ))?;
            }
        }
        BackupCommand::Restore { file, place } => {
            let config = place.config()?;
            let (header, contents) = runtime.block_on(daemon::restore(&config, file))?;
            tell(out, &contents, "Restored")?;
            if !out.json && !header.database {
                out.line("The database was not in it.")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(out: Output, contents: &Contents, verb: &str) -> Result<(), Failure> {
    if out.json {
        let text =
            serde_json::to_string(contents).map_err(|error| Failure::Failed(error.to_string()))?;
        return out.line(&text);
    }
    let Contents {
        folders,
        files,
        bytes,
        left_out,
    } = contents;
    out.line(&format!(
        "{verb} the folders of {folders} instances, with {files} files of {bytes} bytes."
    ))?;
    for one in left_out {
        output::complain(&format!("left out: {}", output::plain_lines(one)));
    }
    Ok(())
}
