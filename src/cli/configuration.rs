//! `config check` and `config show`.

use std::process::ExitCode;

use super::{
    arguments::{ConfigCommand, ConfigFile},
    failure::Failure,
    output::Output,
};
use crate::{
    config::{self, Config},
    templates::{Catalogue, Fault},
};

pub(super) fn load(file: &ConfigFile) -> Result<Config, Failure> {
    Ok(Config::load(file.config.as_deref(), config::environment())?)
}

/// Reads the template folders as `serve` would; the answer is how many templates there are, and every fault.
fn check_templates(config: &Config) -> (usize, Vec<Fault>) {
    // Only what a built-in server is launched by would need it.
    let own_program = std::env::current_exe().unwrap_or_default();
    let catalogue = Catalogue::load(&config.runtime, own_program);
    (catalogue.list().len(), catalogue.faults())
}

pub(super) fn run(command: &ConfigCommand, out: Output) -> Result<ExitCode, Failure> {
    match command {
        ConfigCommand::Check(file) => {
            let config = load(file)?;
            let (templates, faults) = check_templates(&config);
            if !faults.is_empty() {
                return Err(Failure::Usage(format!(
                    "the configuration is valid, but its templates have {}:{}",
                    match faults.len() {
                        1 => "a fault".to_owned(),
                        many => format!("{many} faults"),
                    },
                    faults
                        .iter()
                        .map(|fault| format!("\n  {fault}"))
                        .collect::<String>()
                )));
            }
            let text = match config.runtime.template_dirs.len() {
                0 => "The configuration is valid.".to_owned(),
                _ => format!("The configuration and its {templates} templates are valid."),
            };
            out.line(if out.json { "{\"valid\":true}" } else { &text })?;
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
