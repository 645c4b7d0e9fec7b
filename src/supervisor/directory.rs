//! From what an instance is called to the instance, and to the route behind it.

use std::sync::Arc;

use super::{InstanceStatus, Supervisor, SupervisorError, actor::Actor, route::Route};
use crate::domain::{
    id::InstanceId,
    principal::{Principal, Role},
    slug::Named,
};

/// Instances of other owners that an error names.
const NAMED_MAX: usize = 5;

impl Supervisor {
    /// Resolves an id or a slug.
    ///
    /// # Errors
    /// When there is none. An administrator hears which instances of other owners have that name: a name without its owner
    /// is one of the default owner's, whether that one exists or not, so that no verb ever meets another than was meant.
    pub fn resolve(
        &self,
        who: &Principal,
        id_or_slug: &str,
    ) -> Result<InstanceId, SupervisorError> {
        self.find(id_or_slug).ok_or_else(|| {
            let shown = id_or_slug.chars().take(80).collect();
            let others = match who.role {
                Role::Administrator => self.namesakes(id_or_slug),
            };
            match others.is_empty() {
                true => SupervisorError::NotFound(shown),
                false => SupervisorError::OfOthers(shown, others.join(", ")),
            }
        })
    }

    fn find(&self, id_or_slug: &str) -> Option<InstanceId> {
        let registry = &self.context().registry;
        match id_or_slug.parse::<InstanceId>() {
            Ok(id) => registry.get(id).map(|_| id),
            Err(_) => {
                let named: Named = id_or_slug.parse().ok()?;
                registry.named(&named.owner, &named.name)
            }
        }
    }

    /// The slugs of some instances that have the name of `slug` with another owner.
    fn namesakes(&self, slug: &str) -> Vec<String> {
        let Ok(named) = slug.parse::<Named>() else {
            return Vec::new();
        };
        let mut found = self.context().registry.namesakes(&named.name);
        found.truncate(NAMED_MAX);
        found.iter().map(ToString::to_string).collect()
    }

    /// The route of an instance by its id or slug: from memory, on every request of the path gateway.
    #[must_use]
    pub fn route(&self, slug_or_id: &str) -> Option<Arc<Route>> {
        let handle = self.context().registry.get(self.find(slug_or_id)?)?;
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
