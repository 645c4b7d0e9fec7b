//! The types of the HTTP API, shared by the server, the CLI and the tests.

mod calls;
mod diagnostics;
mod imports;
mod instances;
mod logs;
mod owners;
mod problem;
mod schemas;
mod system;
mod templates;
mod tokens;
mod upgrade;

pub use calls::*;
pub use diagnostics::*;
pub use imports::*;
pub use instances::*;
pub use logs::*;
pub use owners::*;
pub use problem::*;
pub use schemas::*;
pub use system::*;
pub use templates::*;
pub use tokens::*;
pub use upgrade::*;
