//! Which tools there are: their toolset, title and effect, and which of them a server offers.

use std::sync::Arc;

use minimcp_rest::{joined, without_number_formats};
use rmcp::{handler::server::router::tool::ToolRouter, model::ToolAnnotations};

use crate::{GitHub, answer, fields};

/// A group of tools that is switched on as a whole; the names are those of GitHub's own server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toolset {
    Context,
    Repos,
    Issues,
    PullRequests,
    Users,
    Actions,
    Gists,
    Git,
    Labels,
    Notifications,
    Orgs,
    Stargazers,
}

impl Toolset {
    pub(crate) const ALL: [Self; 12] = [
        Self::Context,
        Self::Repos,
        Self::Issues,
        Self::PullRequests,
        Self::Users,
        Self::Actions,
        Self::Gists,
        Self::Git,
        Self::Labels,
        Self::Notifications,
        Self::Orgs,
        Self::Stargazers,
    ];

    pub(crate) const DEFAULT: [Self; 5] = [
        Self::Context,
        Self::Repos,
        Self::Issues,
        Self::PullRequests,
        Self::Users,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Repos => "repos",
            Self::Issues => "issues",
            Self::PullRequests => "pull_requests",
            Self::Users => "users",
            Self::Actions => "actions",
            Self::Gists => "gists",
            Self::Git => "git",
            Self::Labels => "labels",
            Self::Notifications => "notifications",
            Self::Orgs => "orgs",
            Self::Stargazers => "stargazers",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|toolset| toolset.name() == name)
    }

    /// Its tools as they are listed: one line of JSON each, by name. The tests write these files anew when
    /// `MINIMCP_WRITE_TOOLS=1` is set, and fail when a file is not what [`offered`] makes.
    fn written(self) -> &'static str {
        match self {
            Self::Context => include_str!("../tools/context.jsonl"),
            Self::Repos => include_str!("../tools/repos.jsonl"),
            Self::Issues => include_str!("../tools/issues.jsonl"),
            Self::PullRequests => include_str!("../tools/pull_requests.jsonl"),
            Self::Users => include_str!("../tools/users.jsonl"),
            Self::Actions => include_str!("../tools/actions.jsonl"),
            Self::Gists => include_str!("../tools/gists.jsonl"),
            Self::Git => include_str!("../tools/git.jsonl"),
            Self::Labels => include_str!("../tools/labels.jsonl"),
            Self::Notifications => include_str!("../tools/notifications.jsonl"),
            Self::Orgs => include_str!("../tools/orgs.jsonl"),
            Self::Stargazers => include_str!("../tools/stargazers.jsonl"),
        }
    }

    /// Its tools, in parts. Schemas are made here, so a toolset that is off costs nothing.
    fn tools(self) -> Vec<ToolRouter<GitHub>> {
        match self {
            Self::Context => vec![GitHub::context_tools()],
            Self::Repos => vec![
                GitHub::contents_tools(),
                GitHub::commit_tools(),
                GitHub::branch_tools(),
                GitHub::release_tools(),
                GitHub::repository_tools(),
                GitHub::repo_search_tools(),
            ],
            Self::Issues => vec![
                GitHub::issue_list_tools(),
                GitHub::issue_tools(),
                GitHub::issue_write_tools(),
                GitHub::comment_tools(),
                GitHub::one_label_tools(),
            ],
            Self::PullRequests => vec![
                GitHub::pull_list_tools(),
                GitHub::pull_read_tools(),
                GitHub::pull_write_tools(),
                GitHub::review_tools(),
            ],
            Self::Users => vec![GitHub::user_tools()],
            Self::Actions => vec![
                GitHub::actions_read_tools(),
                GitHub::actions_write_tools(),
                GitHub::log_tools(),
            ],
            Self::Gists => vec![GitHub::gist_tools()],
            Self::Git => vec![GitHub::tree_tools()],
            Self::Labels => vec![GitHub::label_tools(), GitHub::one_label_tools()],
            Self::Notifications => vec![GitHub::notification_tools(), GitHub::subscription_tools()],
            Self::Orgs => vec![GitHub::org_tools()],
            Self::Stargazers => vec![GitHub::star_tools()],
        }
    }
}

/// What a tool does to GitHub; the hints of the protocol follow from it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Nothing.
    Reads,
    /// Something new comes to be with every call.
    Adds,
    /// A state is set, the same with every call; nothing is lost.
    Sets,
    /// Something is changed or lost.
    Overwrites,
    /// Something is lost, once.
    Removes,
}

const TOOLS: &[(&str, &str, Effect)] = &[
    ("get_me", "Get my user", Effect::Reads),
    ("get_teams", "Get teams", Effect::Reads),
    ("get_team_members", "Get team members", Effect::Reads),
    ("get_file_contents", "Get file or folder", Effect::Reads),
    ("create_or_update_file", "Write file", Effect::Overwrites),
    ("delete_file", "Delete file", Effect::Removes),
    ("push_files", "Push files", Effect::Overwrites),
    ("list_commits", "List commits", Effect::Reads),
    ("get_commit", "Get commit", Effect::Reads),
    ("list_branches", "List branches", Effect::Reads),
    ("create_branch", "Create branch", Effect::Adds),
    ("list_tags", "List tags", Effect::Reads),
    ("get_tag", "Get tag", Effect::Reads),
    ("list_releases", "List releases", Effect::Reads),
    ("get_latest_release", "Get latest release", Effect::Reads),
    ("get_release_by_tag", "Get release of a tag", Effect::Reads),
    ("create_repository", "Create repository", Effect::Adds),
    ("fork_repository", "Fork repository", Effect::Sets),
    ("delete_repository", "Delete repository", Effect::Removes),
    (
        "list_repository_collaborators",
        "List collaborators",
        Effect::Reads,
    ),
    ("search_repositories", "Search repositories", Effect::Reads),
    ("search_code", "Search code", Effect::Reads),
    ("search_commits", "Search commits", Effect::Reads),
    ("search_users", "Search users", Effect::Reads),
    ("search_orgs", "Search organizations", Effect::Reads),
    ("list_issues", "List issues", Effect::Reads),
    ("search_issues", "Search issues", Effect::Reads),
    ("list_issue_types", "List issue types", Effect::Reads),
    ("list_issue_fields", "List issue fields", Effect::Reads),
    ("issue_read", "Read issue", Effect::Reads),
    ("issue_write", "Write issue", Effect::Overwrites),
    ("sub_issue_write", "Change sub-issues", Effect::Overwrites),
    ("add_issue_comment", "Add comment or reaction", Effect::Adds),
    ("update_issue_comment", "Change comment", Effect::Overwrites),
    ("get_label", "Get label", Effect::Reads),
    ("list_label", "List labels", Effect::Reads),
    ("label_write", "Write label", Effect::Overwrites),
    ("list_pull_requests", "List pull requests", Effect::Reads),
    (
        "search_pull_requests",
        "Search pull requests",
        Effect::Reads,
    ),
    ("pull_request_read", "Read pull request", Effect::Reads),
    ("create_pull_request", "Create pull request", Effect::Adds),
    (
        "update_pull_request",
        "Change pull request",
        Effect::Overwrites,
    ),
    (
        "update_pull_request_branch",
        "Update branch of pull request",
        Effect::Sets,
    ),
    ("merge_pull_request", "Merge pull request", Effect::Removes),
    (
        "pull_request_review_write",
        "Write review",
        Effect::Overwrites,
    ),
    (
        "add_comment_to_pending_review",
        "Add comment to pending review",
        Effect::Adds,
    ),
    (
        "add_reply_to_pull_request_comment",
        "Reply to review comment",
        Effect::Adds,
    ),
    ("actions_list", "List of Actions", Effect::Reads),
    ("actions_get", "Get of Actions", Effect::Reads),
    (
        "actions_run_trigger",
        "Run, rerun or cancel workflow",
        Effect::Overwrites,
    ),
    ("get_job_logs", "Get logs of jobs", Effect::Reads),
    ("list_gists", "List gists", Effect::Reads),
    ("get_gist", "Get gist", Effect::Reads),
    ("create_gist", "Create gist", Effect::Adds),
    ("update_gist", "Change gist", Effect::Overwrites),
    ("get_repository_tree", "Get tree of files", Effect::Reads),
    ("list_notifications", "List notifications", Effect::Reads),
    (
        "get_notification_details",
        "Get notification",
        Effect::Reads,
    ),
    ("dismiss_notification", "Dismiss notification", Effect::Sets),
    (
        "mark_all_notifications_read",
        "Mark notifications as read",
        Effect::Sets,
    ),
    (
        "manage_notification_subscription",
        "Follow or mute thread",
        Effect::Sets,
    ),
    (
        "manage_repository_notification_subscription",
        "Follow or mute repository",
        Effect::Sets,
    ),
    (
        "list_starred_repositories",
        "List starred repositories",
        Effect::Reads,
    ),
    ("star_repository", "Star repository", Effect::Sets),
    ("unstar_repository", "Unstar repository", Effect::Sets),
];

/// The tools of these toolsets, with their annotations; without those that change something if `read_only`.
pub(crate) fn offered(toolsets: &[Toolset], read_only: bool) -> ToolRouter<GitHub> {
    let once = toolsets
        .iter()
        .enumerate()
        .filter(|(index, toolset)| !toolsets[..*index].contains(toolset));
    let mut tools = joined(once.flat_map(|(_, toolset)| toolset.tools()));
    for (name, title, effect) in TOOLS {
        if read_only && *effect != Effect::Reads {
            tools.remove_route(name);
        }
        if let Some(route) = tools.map.get_mut(*name) {
            route.attr.annotations = Some(hints(title, *effect));
            if let Some(schema) = &mut route.attr.output_schema {
                answer::allow_absent(Arc::make_mut(schema));
            }
            fields::offer(&mut route.attr);
        }
    }
    without_number_formats(tools)
}

/// The list of the same tools as [`offered`], each the JSON of one tool, by name.
pub(crate) fn written(toolsets: &[Toolset], read_only: bool) -> Vec<&'static str> {
    let lines = toolsets
        .iter()
        .flat_map(|toolset| toolset.written().lines());
    let mut tools: Vec<(&str, &str)> = lines
        .filter_map(|line| {
            let name = line.strip_prefix(r#"{"name":""#)?.split('"').next()?;
            Some((name, line))
        })
        .filter(|(name, _)| {
            !read_only || effect_of(name).is_some_and(|effect| effect == Effect::Reads)
        })
        .collect();
    tools.sort_unstable();
    tools.dedup();
    tools.into_iter().map(|(_, line)| line).collect()
}

fn effect_of(name: &str) -> Option<Effect> {
    let (.., effect) = TOOLS.iter().find(|(known, ..)| *known == name)?;
    Some(*effect)
}

fn hints(title: &str, effect: Effect) -> ToolAnnotations {
    ToolAnnotations::with_title(title)
        .read_only(effect == Effect::Reads)
        .destructive(matches!(effect, Effect::Overwrites | Effect::Removes))
        .idempotent(matches!(
            effect,
            Effect::Reads | Effect::Sets | Effect::Removes
        ))
        .open_world(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_names_every_tool_once() {
        let tools = offered(&Toolset::ALL, false);
        let mut offered: Vec<_> = tools.map.keys().map(ToString::to_string).collect();
        let mut listed: Vec<_> = TOOLS.iter().map(|(name, ..)| (*name).to_owned()).collect();
        offered.sort();
        listed.sort();
        assert_eq!(offered, listed);
    }

    fn made(toolsets: &[Toolset], read_only: bool) -> Vec<String> {
        let tools = offered(toolsets, read_only).list_all();
        let json = |tool| serde_json::to_string(tool).expect("JSON");
        tools.iter().map(json).collect()
    }

    #[test]
    fn what_is_written_is_what_would_be_made() {
        for toolset in Toolset::ALL {
            let file = format!(
                "{}/tools/{}.jsonl",
                env!("CARGO_MANIFEST_DIR"),
                toolset.name()
            );
            let lines = made(&[toolset], false).join("\n") + "\n";
            if std::env::var_os("MINIMCP_WRITE_TOOLS").is_some() {
                std::fs::write(&file, &lines).expect("written");
                continue;
            }
            assert!(
                toolset.written() == lines,
                "{file} is not what the code makes: run this test with MINIMCP_WRITE_TOOLS=1, then again"
            );
        }
    }

    #[test]
    fn the_written_list_is_the_list() {
        for toolsets in [
            Toolset::DEFAULT.as_slice(),
            Toolset::ALL.as_slice(),
            &[Toolset::Issues, Toolset::Labels, Toolset::Labels],
        ] {
            for read_only in [false, true] {
                assert_eq!(written(toolsets, read_only), made(toolsets, read_only));
            }
        }
    }

    #[test]
    fn a_toolset_brings_its_tools_only() {
        let tools = offered(&[Toolset::Labels, Toolset::Labels], false);
        let mut names: Vec<_> = tools.map.keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(names, ["get_label", "label_write", "list_label"]);
        assert_eq!(offered(&[Toolset::Labels], true).map.len(), 2);
    }
}
