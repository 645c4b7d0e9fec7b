//! `minimcp connect`: what an MCP client keeps of an instance, to be pasted.

use clap::Args;

use super::{
    failure::Failure,
    instances::resolve,
    output::{self, Output},
};
use crate::{
    client::Client,
    interchange::export::{self, Snippet},
    wire::CreateAccessToken,
};

#[derive(Debug, Args)]
pub(crate) struct ConnectOptions {
    /// A name (of another owner: OWNER/NAME), an id, or the beginning of an id.
    pub(crate) instance: String,
    /// Which client.
    #[arg(long, default_value = "json", value_parser = export::Client::ALL.map(export::Client::word))]
    pub(crate) client: String,
    /// Make another access token of this name, and write it into what is printed; it is shown this once.
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    pub(crate) new_token: Option<String>,
    /// The address behind the reverse proxy (path_url) instead of the access port's.
    #[arg(long)]
    pub(crate) path_url: bool,
}

pub(super) async fn run(
    client: &Client,
    options: ConnectOptions,
    out: Output,
) -> Result<(), Failure> {
    let instance = resolve(client, &options.instance).await?;
    if out.json {
        let reply = client
            .client_configs(&instance, Some(options.client))
            .await?;
        return out.line(reply.json());
    }
    let unknown = || Failure::Usage(format!("there is no client {}", options.client));
    let kind = export::Client::of_word(&options.client).ok_or_else(unknown)?;
    let instance = client.get(&instance).await?.read()?;
    let url = if options.path_url {
        &instance.path_url
    } else {
        &instance.access_url
    };
    let token = match options.new_token {
        None => None,
        Some(name) => {
            let request = CreateAccessToken {
                name,
                scope: None,
                ttl: None,
                expires_at: None,
                rate_limit: None,
                concurrency_max: None,
            };
            let made = client
                .create_access_token(&instance.id, &request)
                .await?
                .read()?;
            made.access_token
        }
    };
    let snippet = kind.snippet(&instance.name, url, token.as_deref());
    tell(&snippet);
    out.line(&snippet.text)
}

/// What is not to be pasted goes to stderr, so that a file can be made of the rest.
fn tell(snippet: &Snippet) {
    if let Some(file) = snippet.file {
        output::complain(&format!("Belongs into {file}, beside what is there:"));
    }
    if let Some(token) = &snippet.token {
        output::complain(&format!("Then {token}."));
    }
    if let Some(command) = &snippet.command {
        output::complain(&format!("Or: {command}"));
    }
}
