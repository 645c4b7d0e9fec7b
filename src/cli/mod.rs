//! The command line of `minimcp`.

mod arguments;
mod backup;
mod bench;
mod calls;
mod configuration;
mod connect;
mod connection;
mod credential_check;
mod credentials;
mod doctor;
mod doctor_budgets;
mod doctor_reconcile;
mod doctor_sizes;
mod failure;
mod imports;
mod instances;
mod learned;
mod logs;
mod option_values;
mod output;
mod owners;
mod quickstart;
mod redaction;
mod run_options;
mod serve;
mod settings;
mod support_bundle;
mod system;
mod templates;
mod tokens;
mod upgrade;

use std::{future::Future, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};

use arguments::{Arguments, Command, CredentialCommand, KeyCommand, TasksCommand};
use failure::Failure;
use output::Output;
use templates::TemplateCommand;

use crate::client::Client;

/// Runs the program with the arguments of the process and answers its exit code; `--help` documents them.
///
/// `minimcp keeper` and `minimcp mcp` must have been dispatched before, while the process had one thread only.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed pipe behind `--help` is no reason to fail.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let json = arguments.global.json;
    match dispatch(arguments) {
        Ok(code) => code,
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed) {
                if json && let Some(problem) = failure.json() {
                    // A reader that went away misses nothing more than the next line tells.
                    let _ = Output::of_stdout(true, true).line(problem);
                }
                output::complain(&format!(
                    "minimcp: {}",
                    output::plain_lines(&failure.to_string())
                ));
            }
            failure.exit_code()
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<ExitCode, Failure> {
    let no_color = connection::environment("NO_COLOR").is_some();
    let out = Output::of_stdout(arguments.global.json, no_color);
    match arguments.command {
        Command::Serve(options) => serve::run(&options, out),
        Command::Quickstart(options) => quickstart::run(&options, out),
        Command::Keeper(_) | Command::Mcp { .. } => Err(Failure::Usage(
            "keeper and mcp must be the first argument".to_owned(),
        )),
        Command::Config(command) => configuration::run(&command, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "minimcp", &mut script);
            out.line(String::from_utf8_lossy(&script).trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Backup(command) => backup::run(&command, out),
        Command::Bench(options) => bench::run(&options, out),
        Command::Template(TemplateCommand::Check { folders }) => templates::check(&folders, out),
        Command::Template(TemplateCommand::Schema) => templates::schema(out),
        Command::Template(TemplateCommand::New {
            folder,
            package,
            command,
        }) => templates::new(&folder, package.as_ref(), &command, out),
        Command::Upgrade(options) => block_on(upgrade::run(&arguments.global, &options, out)),
        Command::Doctor => block_on(doctor::run(&arguments.global, out)),
        Command::SupportBundle(options) => {
            block_on(support_bundle::run(&arguments.global, &options, out))
        }
        command => {
            let client = connection::connect(&arguments.global, &connection::environment)?;
            block_on(ask(&client, command, out))
        }
    }
}

/// Runs a command that only waits for answers: one thread is enough.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// The verbs that ask the API.
async fn ask(client: &Client, command: Command, out: Output) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(options) => return instances::create(client, *options, out).await,
        Command::Ls(options) => instances::list(client, options, out).await?,
        Command::Inspect(option) => instances::inspect(client, &option.instance, out).await?,
        Command::Start(option) => {
            return instances::act(client, &option.instances, "start", out).await;
        }
        Command::Stop(option) => {
            return instances::act(client, &option.instances, "stop", out).await;
        }
        Command::Restart(option) => {
            return instances::act(client, &option.instances, "restart", out).await;
        }
        Command::Restore(options) => return instances::lease(client, options, true, out).await,
        Command::Extend(options) => return instances::lease(client, options, false, out).await,
        Command::Sleep(options) => return instances::sleep(client, options, out).await,
        Command::Rm(option) => return instances::delete(client, &option.instances, out).await,
        Command::Connect(options) => connect::run(client, options, out).await?,
        Command::Import(options) => return imports::run(client, *options, out).await,
        Command::Calls(options) => calls::print(client, options, out).await?,
        Command::Logs(options) => logs::print(client, options, out).await?,
        Command::Events { after } => logs::events(client, after, out).await?,
        Command::Templates { name: None } => system::templates(client, out).await?,
        Command::Templates { name: Some(name) } => system::template(client, &name, out).await?,
        Command::Template(TemplateCommand::Learned { name }) => {
            return learned::show(client, &name, out).await;
        }
        Command::Template(TemplateCommand::Install { name }) => {
            return templates::install(client, &name, out).await;
        }
        Command::Credential(CredentialCommand::Put {
            name,
            owner,
            file,
            force,
        }) => {
            credentials::put(client, (name, owner), file.as_deref(), force, out).await?;
        }
        Command::Credential(CredentialCommand::Check(options)) => {
            return credential_check::run(client, options, out).await;
        }
        Command::Credential(CredentialCommand::Ls { owner }) => {
            credentials::list(client, owner.as_deref(), out).await?;
        }
        Command::Credential(CredentialCommand::Rm { name, owner, force }) => {
            credentials::delete(client, (&name, owner), force, out).await?;
        }
        Command::Token(command) => tokens::run(client, command, out).await?,
        Command::Owners => owners::print(client, out).await?,
        Command::Tasks { command: None } => system::tasks(client, out).await?,
        Command::Tasks {
            command: Some(TasksCommand::Run { name }),
        } => return system::run_task(client, &name, out).await,
        Command::Key(KeyCommand::List) => system::keys(client, out).await?,
        Command::Key(KeyCommand::Retire) => system::retire_keys(client, out).await?,
        Command::Key(KeyCommand::Rotate) => system::rotate_key(client, out).await?,
        Command::Quickstart(_)
        | Command::Serve(_)
        | Command::Keeper(_)
        | Command::Mcp { .. }
        | Command::Backup(_)
        | Command::Bench(_)
        | Command::Template(_)
        | Command::Doctor
        | Command::Upgrade(_)
        | Command::SupportBundle(_)
        | Command::Config(_)
        | Command::Completions { .. } => unreachable!("dispatched before a client is made"),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_are_generated_for_every_shell() {
        use clap::ValueEnum as _;
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "minimcp", &mut script);
            let script = String::from_utf8(script).expect("a script is text");
            assert!(script.contains("quickstart"), "{shell}");
        }
    }
}
