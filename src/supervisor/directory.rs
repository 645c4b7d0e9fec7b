//! From a name to the route behind it, for the path gateway: from memory, on every request.

use std::sync::Arc;

use super::{InstanceStatus, Supervisor, actor::Actor, route::Route};
use crate::domain::principal::Principal;

impl Supervisor {
    /// The route of an instance by its id, or by a name of the caller's.
    #[must_use]
    pub fn route(&self, who: &Principal, name_or_id: &str) -> Option<Arc<Route>> {
        let id = self.resolve(who, name_or_id).ok()?;
        let handle = self.context().registry.get(id)?;
        Some(Arc::clone(&handle.route))
    }

    /// Up to `most` routes, in the order of creation.
    #[must_use]
    pub fn routes(&self, most: usize) -> Vec<Arc<Route>> {
        let all = self.context().registry.after(None).into_iter();
        all.take(most)
            .map(|(_, handle)| Arc::clone(&handle.route))
            .collect()
    }
}

impl Actor {
    /// Lets the server card tell the version that the server told now. It keeps it while the server is away.
    pub(super) fn tell_version(&self, status: &InstanceStatus) {
        let Some(server) = &status.server else { return };
        let about = self.route.about.load();
        if about.version != server.version {
            let mut about = about.as_ref().clone();
            about.version.clone_from(&server.version);
            self.route.about.store(Arc::new(about));
        }
    }
}
