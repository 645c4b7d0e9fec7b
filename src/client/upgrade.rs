//! The daemon's own program.

use std::time::Duration;

use http::Method;

use super::{Call, Client, calls::Answer};
use crate::wire;

/// The daemon asks the program first, which asks the database.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Client {
    /// `POST /upgrade`: the daemon goes on as the program that lies where its own did.
    pub async fn upgrade(&self) -> Answer<wire::UpgradeBegun> {
        let call = Call::new(Method::POST, "/api/v1/upgrade").timeout(TIMEOUT);
        self.send(call).await
    }
}
