//! `config check` and `config show`.

use std::process::ExitCode;

use super::{
    arguments::{ConfigCommand, ConfigFile},
    failure::Failure,
    output::Output,
};
use crate::config::Config;

/// The variables of the process that are text; no key of ours has a name or value that is not.
pub(super) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

pub(super) fn load(file: &ConfigFile) -> Result<Config, Failure> {
    Ok(Config::load(file.config.as_deref(), variables())?)
}

pub(super) fn run(command: &ConfigCommand, out: Output) -> Result<ExitCode, Failure> {
    match command {
        ConfigCommand::Check(file) => {
            load(file)?;
            out.line(if out.json {
                "{\"valid\":true}"
            } else {
                "The configuration is valid."
            })?;
        }
        ConfigCommand::Show(file) => {
            let shown = load(file)?.without_password();
            let text = if out.json {
                serde_json::to_string(&shown).map_err(|error| Failure::Failed(error.to_string()))?
            } else {
                toml::to_string(&shown).map_err(|error| Failure::Failed(error.to_string()))?
            };
            out.line(text.trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
