//! The keeper goes on as another program.

use super::{KeeperState, LocalRuntime, Reply, Request, RuntimeError, unexpected};
use crate::runtime::KeeperUpgraded;

impl LocalRuntime {
    /// Whether another program lies where the keeper's own did, such as that of a later version.
    #[must_use]
    pub fn keeper_is_replaced(&self) -> bool {
        let state = self.shared.state.borrow();
        matches!(&*state, KeeperState::Connected { host, .. } if host.program_replaced)
    }

    /// Lets the keeper go on as the program that lies where its own did: with its pid, its children and its
    /// descriptors. This connection lives on.
    ///
    /// # Errors
    /// [`RuntimeError::Refused`] with the reason; the keeper goes on as it is then.
    pub async fn upgrade_keeper(&self) -> Result<KeeperUpgraded, RuntimeError> {
        match self.shared.ask_plainly(Request::Upgrade).await?.reply {
            Reply::Upgraded { from, to, host } => {
                self.shared.state.send_modify(|state| {
                    if let KeeperState::Connected { host: known, .. } = state {
                        *known = host;
                    }
                });
                Ok(KeeperUpgraded { from, to })
            }
            _ => Err(unexpected("an upgrade")),
        }
    }
}
