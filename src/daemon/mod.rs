//! The composition root: builds every part from the configuration, runs it, takes it down in order.

use std::future::Future;

use zeroize::Zeroizing;

use crate::{config::Config, supervisor::Supervisor};

/// The running daemon.
pub struct Daemon {
    api_url: String,
    admin_token: Zeroizing<String>,
    supervisor: Supervisor,
}

impl Daemon {
    /// Starts everything; when this answers, the API listens.
    ///
    /// # Errors
    /// One readable sentence: a port in use, a folder that cannot be written, a wrong key.
    #[expect(clippy::unused_async, reason = "interface first; the body follows")]
    pub async fn start(_config: Config) -> anyhow::Result<Self> {
        anyhow::bail!("the daemon is not part of this build yet")
    }

    /// Where the API listens, such as `http://127.0.0.1:7420`.
    #[must_use]
    pub fn api_url(&self) -> String {
        self.api_url.clone()
    }

    /// The administrator's token.
    #[must_use]
    pub fn admin_token(&self) -> Zeroizing<String> {
        self.admin_token.clone()
    }

    /// The handle to the instances.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Serves until `shutdown` resolves, then stops in order.
    ///
    /// # Errors
    /// When a part ended by itself.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        shutdown.await;
        Ok(())
    }
}
