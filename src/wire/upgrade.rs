//! The daemon's own program, and another one in its place.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The process that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessFacts {
    /// Its number, as it sees it itself.
    pub pid: u32,
    /// When it began, RFC 3339; a program that takes the place of another one in the same process begins anew.
    #[schema(format = DateTime)]
    pub started_at: String,
    /// Where its program lay then.
    pub program: String,
    /// Whether `POST /upgrade` makes it go on as the program that lies there now; else it is to be restarted by whoever
    /// runs it.
    pub upgrades_in_place: bool,
}

/// The daemon goes on as another program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeBegun {
    /// The version that ends.
    pub from: String,
    /// The version that takes over.
    pub to: String,
    /// Migrations that it applies to the database first.
    pub pending_migrations: usize,
}
