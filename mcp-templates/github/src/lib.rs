//! The GitHub MCP server, over GitHub's REST API. Tool names and arguments are those of GitHub's own server, so that
//! what a model learned of that one works here.

mod actions;
mod advice;
mod answer;
mod arguments;
mod branches;
mod catalogue;
mod comments;
mod commits;
mod contents;
mod context;
mod etags;
mod fields;
mod gists;
mod graphql;
mod issue_lists;
mod issue_write;
mod issues;
mod labels;
mod limits;
mod logs;
mod model;
mod notifications;
mod people;
mod pull_lists;
mod pull_read;
mod pull_write;
mod releases;
mod repositories;
mod reviews;
mod search;
mod server;
mod settings;
mod stars;
mod trees;

use std::process::ExitCode;

pub use server::GitHub;
pub use settings::Settings;

/// Serves MCP on stdin and stdout until stdin ends; told by the environment, see [`Settings::from_environment`].
#[must_use]
pub fn main() -> ExitCode {
    let mut server = GitHub::new(Settings::from_environment());
    let list = server.write_list();
    minimcp_rest::serve_with_list(server, list)
}
