//! What the API asks of packages: where one stands, its installation, what its registry says.

use super::Supervisor;
use crate::{
    domain::package::Registry,
    packages::{PackageState, Published},
    templates::Entry,
};

impl Supervisor {
    /// Where the package of a template stands; `None`: it names none, or its program is there without it.
    #[must_use]
    pub fn package_state(&self, entry: &Entry) -> Option<PackageState> {
        let state = self.context.packages.state(entry.package.as_ref()?);
        let without = entry.program.is_ok() && state != PackageState::Installed;
        (!without).then_some(state)
    }

    /// Begins to install the package that a template misses; nothing happens when it misses none.
    pub fn install_package(&self, entry: &Entry) {
        if let Some(package) = &entry.missing_package {
            self.context.packages.start(package);
        }
    }

    /// The newest version of a package that fits `wanted`: a tag or range of npm, a comparison of PyPI, or empty.
    ///
    /// # Errors
    /// One sentence, with the last words of npm or pip.
    pub async fn look_up_package(
        &self,
        registry: Registry,
        name: &str,
        wanted: &str,
    ) -> Result<Published, String> {
        self.context.packages.look_up(registry, name, wanted).await
    }
}
