//! What the keeper holds for us by name.

use std::os::fd::OwnedFd;

use super::{LocalRuntime, Reply, Request, RuntimeError, unexpected};

impl LocalRuntime {
    pub(super) async fn list_held(&self) -> Result<Vec<(String, OwnedFd)>, RuntimeError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let mut answer = self.shared.ask_plainly(Request::NextHeld { after }).await?;
            match (answer.reply, answer.descriptors.pop()) {
                (Reply::Held { name }, Some(descriptor)) => {
                    after = Some(name.clone());
                    all.push((name, descriptor));
                }
                (Reply::End, _) => return Ok(all),
                _ => return Err(unexpected("a list")),
            }
        }
    }

    /// Not from [`Self::list_held`], which has all descriptors open at once.
    pub(super) async fn list_held_names(&self) -> Result<Vec<String>, RuntimeError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let answer = self.shared.ask_plainly(Request::NextHeld { after }).await?;
            match answer.reply {
                Reply::Held { name } => {
                    after = Some(name.clone());
                    all.push(name);
                }
                Reply::End => return Ok(all),
                _ => return Err(unexpected("a list")),
            }
        }
    }

    pub(super) async fn find_held(&self, name: String) -> Result<Option<OwnedFd>, RuntimeError> {
        // Names are handed out in their order, so those between are few.
        let mut after = name.clone();
        after.pop();
        loop {
            let request = Request::NextHeld { after: Some(after) };
            let mut answer = self.shared.ask_plainly(request).await?;
            match (answer.reply, answer.descriptors.pop()) {
                (Reply::Held { name: found }, held) if found == name => return Ok(held),
                (Reply::Held { name: found }, _) if found < name => after = found,
                (Reply::Held { .. } | Reply::End, _) => return Ok(None),
                _ => return Err(unexpected("a list")),
            }
        }
    }
}
