//! The instance `demo`: made through the API on the first start, found again later.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    cli::failure::Failure,
    client::Client,
    wire::{CreateAccessToken, CreateInstance, Instance},
};

/// The instance's name, and its template's.
pub(super) const NAME: &str = "demo";

/// How long the server may take until it answers; a cold disk is slow.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The access of the instance. The database has only the token's hash, so the quickstart keeps the token itself, in
/// a file of mode 0600, to show the same again next time.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Access {
    id: String,
    pub(super) access_url: String,
    pub(super) access_token: String,
    pub(super) connect_url: Option<String>,
    /// Tells whether the token is still the one that the instance takes. Absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

impl Access {
    /// `None` when the answer has no token: it is only in the answer that made it.
    fn of(instance: &Instance) -> Option<Self> {
        Some(Self {
            id: instance.id.clone(),
            access_url: instance.access_url.clone(),
            access_token: instance.access_token.clone()?,
            connect_url: instance.connect_url.clone(),
            fingerprint: None,
        })
    }

    fn file(folder: &Path) -> PathBuf {
        folder.join("demo.json")
    }

    fn load(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::file(folder)).ok()?).ok()
    }

    fn save(&self, folder: &Path) -> std::io::Result<()> {
        let file = Self::file(folder);
        let draft = file.with_extension("new");
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        serde_json::to_writer(&mut out, self)?;
        out.flush()?;
        std::fs::rename(draft, file)
    }
}

/// Sees to it that the instance exists and answers; same URL and token as last time.
pub(super) async fn ensure(client: &Client, folder: &Path) -> Result<Access, Failure> {
    let (instance, access) = match client.get(NAME).await {
        Ok(reply) => again(client, reply.read()?, folder).await?,
        Err(error) if error.status() == Some(404) => first_time(client).await?,
        Err(error) => return Err(error.into()),
    };
    access.save(folder).map_err(|error| {
        Failure::Failed(format!("cannot write into {}: {error}", folder.display()))
    })?;
    wait_running(client, instance).await?;
    Ok(access)
}

async fn first_time(client: &Client) -> Result<(Instance, Access), Failure> {
    let request = CreateInstance {
        template: NAME.to_owned(),
        name: Some(NAME.to_owned()),
        ..CreateInstance::default()
    };
    let made = client.create(&request, Some(READY_TIMEOUT / 2)).await;
    let instance = match made {
        Err(error) if error.code() == Some("ports-exhausted") => {
            return Err(Failure::Failed(format!(
                "{error}; choose another range with --ports"
            )));
        }
        made => made?.read()?,
    };
    let access = Access::of(&instance).ok_or_else(no_token)?;
    let access = with_fingerprint(client, access).await?;
    Ok((instance, access))
}

/// The token of a quickstart beside one that somebody rotated.
const OWN_TOKEN: &str = "quickstart";

/// Adds the fingerprint of the token that the instance began with.
async fn with_fingerprint(client: &Client, access: Access) -> Result<Access, Failure> {
    let tokens = client.access_tokens(&access.id).await?.read()?.items;
    let first = tokens.into_iter().find(|token| token.name == "default");
    Ok(Access {
        fingerprint: first.map(|token| token.fingerprint),
        ..access
    })
}

/// A token of the quickstart's own: whoever rotated the first one goes on with theirs.
async fn own_token(client: &Client, access: Access) -> Result<Access, Failure> {
    let tokens = client.access_tokens(&access.id).await?.read()?.items;
    let wanted = access.fingerprint.as_ref();
    let taken = |fingerprint: &String| tokens.iter().any(|token| token.fingerprint == *fingerprint);
    if wanted.is_none_or(taken) {
        return Ok(access);
    }
    let made = if tokens.iter().any(|token| token.name == OWN_TOKEN) {
        let rotated = client
            .rotate_named_access_token(&access.id, OWN_TOKEN, None)
            .await?;
        rotated.read()?
    } else {
        let request = CreateAccessToken {
            name: OWN_TOKEN.to_owned(),
            ..CreateAccessToken::default()
        };
        client
            .create_access_token(&access.id, &request)
            .await?
            .read()?
    };
    Ok(Access {
        access_token: made.access_token.ok_or_else(no_token)?,
        connect_url: made.connect_url,
        fingerprint: Some(made.fingerprint),
        ..access
    })
}

async fn again(
    client: &Client,
    mut instance: Instance,
    folder: &Path,
) -> Result<(Instance, Access), Failure> {
    instance = match instance.status.as_str() {
        "expired" => client.restore(&instance.id, None).await?.read()?,
        "stopped" | "failed" => client.act(&instance.id, "start").await?.read()?,
        _ => instance,
    };
    let saved = Access::load(folder).filter(|saved| saved.id == instance.id);
    let access = match saved {
        Some(saved) => {
            // The address may be another one this time.
            let moved = Access {
                connect_url: saved
                    .connect_url
                    .map(|url| url.replacen(&saved.access_url, &instance.access_url, 1)),
                access_url: instance.access_url.clone(),
                ..saved
            };
            own_token(client, moved).await?
        }
        None => {
            let rotated = client
                .rotate_access_token(&instance.id, None)
                .await?
                .read()?;
            let access = Access::of(&rotated).ok_or_else(no_token)?;
            with_fingerprint(client, access).await?
        }
    };
    Ok((instance, access))
}

fn no_token() -> Failure {
    Failure::Failed("the API gave no access token for the new instance".to_owned())
}

async fn wait_running(client: &Client, mut instance: Instance) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
    loop {
        match instance.status.as_str() {
            "running" | "unhealthy" => return Ok(()),
            "failed" => break,
            _ if tokio::time::Instant::now() >= deadline => break,
            _ => {}
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        instance = client.get(&instance.id).await?.read()?;
    }
    let reason = instance.reason.as_deref().unwrap_or("it gave no reason");
    Err(Failure::Failed(format!(
        "the MCP server {NAME} is {} instead of running: {reason}",
        instance.status
    )))
}
