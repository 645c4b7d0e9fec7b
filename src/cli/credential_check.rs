//! `minimcp credential check`: whether a service accepts credentials.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;

use super::{
    failure::Failure,
    instances::resolve,
    option_values::key_value,
    output::{Output, plain},
    settings,
};
use crate::{client::Client, wire::CheckCredentials};

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// An instance, whose template, credentials and settings are taken: a name (of another owner: OWNER/NAME), an id, or the
    /// beginning of an id.
    #[arg(required_unless_present = "template", conflicts_with_all = ["template", "credentials", "settings"])]
    pub(crate) instance: Option<String>,
    /// A template, with the credentials and settings given here.
    #[arg(long)]
    pub(crate) template: Option<String>,
    /// Whose credentials [default: admin].
    #[arg(long, conflicts_with = "instance")]
    pub(crate) owner: Option<String>,
    /// Give the stored credential NAME as the variable ENV.
    #[arg(long = "credential", value_name = "ENV=NAME", value_parser = key_value)]
    pub(crate) credentials: Vec<(String, String)>,
    /// A setting of the template; VALUE is JSON where it reads as such, else text.
    #[arg(long = "setting", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) settings: Vec<(String, String)>,
}

/// Asks, and tells; a refusal, and a check that could not be made, are failures.
pub(super) async fn run(
    client: &Client,
    options: CheckOptions,
    out: Output,
) -> Result<ExitCode, Failure> {
    let (template, request) = match options.instance {
        Some(text) => {
            let instance = client.get(&resolve(client, &text).await?).await?.read()?;
            let request = CheckCredentials {
                owner: Some(instance.owner),
                credentials: instance.credentials,
                settings: instance.settings,
            };
            (instance.template, request)
        }
        None => {
            let chosen: BTreeMap<_, _> = options
                .settings
                .iter()
                .map(|(key, text)| (key.clone(), settings::value(text)))
                .collect();
            let request = CheckCredentials {
                owner: options.owner,
                credentials: options.credentials.into_iter().collect(),
                settings: chosen,
            };
            (options.template.unwrap_or_default(), request)
        }
    };
    let reply = client.check_credentials(&template, &request).await?;
    if out.json {
        out.line(reply.json())?;
    }
    let check = reply.read()?;
    let sentence = match check.outcome.as_str() {
        "accepted" => "The credentials are accepted",
        "refused" => "The credentials are refused",
        _ => "It could not be tried",
    };
    let sentence = format!("{sentence}: {}", plain(&check.message));
    match check.outcome.as_str() {
        "accepted" if out.json => Ok(ExitCode::SUCCESS),
        "accepted" => {
            out.line(&sentence)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::Failed(sentence)),
    }
}
