//! What the template says about living and dying.

use super::{
    restart::RestartSpec,
    template::{HealthSpec, StopSpec, Template},
};

/// What the template says about living and dying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// After an end that nobody asked for.
    pub restart: RestartSpec,
    /// Readiness and liveness.
    pub health: HealthSpec,
    /// Grace periods.
    pub stop: StopSpec,
}

impl From<&Template> for Policy {
    fn from(template: &Template) -> Self {
        Self {
            restart: template.restart,
            health: template.health,
            stop: template.stop,
        }
    }
}
