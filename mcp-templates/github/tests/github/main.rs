//! The GitHub server against a fake of GitHub that is strict by the official description, stateful, and fails on
//! demand.

mod description;
mod faults;
mod graphql;
mod honesty;
mod scenes;
mod scenes_others;
mod scenes_repos;
mod strictness;
mod surface;
mod upstream;
mod world;
mod world_issues;
mod world_others;
mod world_pulls;
mod world_repos;

#[path = "../../../rest/tests/support/fake.rs"]
mod fake;
#[path = "../../../rest/tests/support/session.rs"]
mod session;
