//! `quickstart`: a daemon of one's own in the foreground, with one instance ready to use.

mod demo;
mod folder;
mod life;
mod report;

use std::process::ExitCode;

use tokio::sync::oneshot;

use super::{
    arguments::{LogFormat, QuickstartOptions},
    connection,
    failure::Failure,
    output::Output,
    serve::{self, Signals},
};
use crate::{
    client::Client,
    config::{self, Config},
    daemon::Daemon,
};
use folder::DataFolder;
pub(super) use folder::config_within;
use report::Report;

pub(super) fn run(options: &QuickstartOptions, out: Output) -> Result<ExitCode, Failure> {
    serve::start_log(LogFormat::Text, "warn")?;
    let cwd = std::env::current_dir()?;
    let folder = DataFolder::open(options.data_dir.as_deref(), &cwd)?;
    let checked = folder
        .config(options, config::environment())
        .and_then(|config| folder::check_api_port(&config).map(|()| config));
    let config = match checked {
        Ok(config) => config,
        Err(failure) => {
            folder.abandon();
            return Err(failure);
        }
    };
    let runtime = serve::runtime()?;
    let ended = runtime.block_on(foreground(options, &folder, config, out));
    // A thread that still blocks must not hold up the end.
    runtime.shutdown_background();
    folder.close();
    ended.map(|()| ExitCode::SUCCESS)
}

async fn foreground(
    options: &QuickstartOptions,
    folder: &DataFolder,
    config: Config,
    out: Output,
) -> Result<(), Failure> {
    let mut signals = Signals::listen_in_terminal()?;
    progress(
        out,
        &format!("Starting the daemon, its data in {}", folder.path.display()),
    );
    let admin_token_file = config.api.admin_token_file.clone();
    let daemon = tokio::select! {
        started = Daemon::start(config.clone()) => started?,
        () = signals.next() => return Ok(()),
    };
    let api_url = daemon.api_url();
    let client = Client::tcp(&api_url, Some(daemon.admin_token()?))?;
    let word = connection::discovery_of(&config, api_url.clone());
    let mut files = vec![folder.path.join("api.json")];
    files.extend(
        connection::user_discovery_files(&connection::environment)
            .into_iter()
            .next(),
    );
    files.dedup();
    let mut written = Vec::new();
    for file in &files {
        match word.write(file) {
            Ok(before) => written.push((file, before)),
            Err(error) => tracing::warn!(
                "cannot write {}, so other commands need --api-url and --token-file to find this daemon: {error}",
                file.display()
            ),
        }
    }
    let mut report = Report {
        access_url: None,
        access_token: None,
        connect_url: None,
        api_url,
        admin_token_file: admin_token_file.display().to_string(),
        data_dir: folder.path.display().to_string(),
        pid: std::process::id(),
        program: program(&connection::environment),
    };
    let front = async {
        if !options.no_demo {
            progress(out, "Starting the MCP server demo");
            let access = demo::ensure(&client, &folder.path).await?;
            report.access_url = Some(access.access_url);
            report.access_token = Some(access.access_token);
            report.connect_url = access.connect_url;
        }
        if out.json {
            out.line(&report.json())?;
        } else {
            out.line(&report.text(demo::NAME, out))?;
            out.line("")?;
            life::show(&client, out).await?;
        }
        Ok::<(), Failure>(())
    };
    let (give_up, given_up) = oneshot::channel::<()>();
    let serving = daemon.run_until(async {
        tokio::select! {
            () = signals.shutdown() => {}
            Ok(()) = given_up => {}
        }
        progress(out, "\nStopping everything; Ctrl-C again ends it at once");
    });
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended.map(drop).map_err(Failure::from),
        shown = front => match shown {
            // Nobody reads any more, or there is nothing to show: the daemon goes on.
            Ok(()) | Err(Failure::OutputClosed) => serving.await.map(drop).map_err(Failure::from),
            Err(failure) => {
                // The daemon may be gone by itself, which the next line tells better.
                let _ = give_up.send(());
                serving.await.map(drop).map_err(Failure::from).and(Err(failure))
            }
        },
    };
    for (file, before) in &written {
        word.withdraw(file, before.as_ref());
    }
    ended
}

/// What to type to run this program again: its name if the shell finds this very file by it, else as it was called.
fn program(variables: connection::Variables<'_>) -> String {
    const NAME: &str = "minimcp";
    let here = std::env::current_exe().ok();
    let path = variables("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(NAME))
        .find(|file| file.is_file())
        .and_then(|file| file.canonicalize().ok());
    if found.is_some() && found == here {
        return NAME.to_owned();
    }
    std::env::args().next().unwrap_or_else(|| NAME.to_owned())
}

/// Tells on stderr what takes a while; silent for programs.
fn progress(out: Output, text: &str) {
    if !out.json {
        crate::cli::output::complain(&format!("{text} …"));
    }
}
