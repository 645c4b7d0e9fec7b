//! Tools that create, change, update and merge pull requests.

use minimcp_rest::{Call, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    GitHub,
    arguments::{not_blank, refuse, repo_arguments},
    issue_lists::IssueState,
    model::{Done, PullRequest},
};

const TO_DRAFT: &str = "mutation($id: ID!) {
  convertPullRequestToDraft(input: {pullRequestId: $id}) { pullRequest { isDraft } }
}";
const TO_READY: &str = "mutation($id: ID!) {
  markPullRequestReadyForReview(input: {pullRequestId: $id}) { pullRequest { isDraft } }
}";

repo_arguments!(CreatePullRequest {
    /// The title.
    title: String,
    /// The branch with the changes; OWNER:BRANCH for one of a fork.
    head: String,
    /// The branch to merge into.
    base: String,
    /// The text, Markdown.
    body: Option<String>,
    /// Whether it is a draft.
    draft: Option<bool>,
    /// Whether maintainers may push to its branch.
    maintainer_can_modify: Option<bool>,
    /// Who is to review it: logins, or ORG/TEAM for a team.
    reviewers: Option<Vec<String>>,
});

repo_arguments!(UpdatePullRequest {
    /// The pull request's number.
    #[serde(rename = "pullNumber")]
    pull_number: u64,
    /// The new title.
    title: Option<String>,
    /// The new text, Markdown.
    body: Option<String>,
    /// Open it again or close it.
    state: Option<IssueState>,
    /// The new branch to merge into.
    base: Option<String>,
    /// Whether maintainers may push to its branch.
    maintainer_can_modify: Option<bool>,
    /// Make it a draft (true) or ready for review (false).
    draft: Option<bool>,
    /// Who is to review it as well: logins, or ORG/TEAM for a team.
    reviewers: Option<Vec<String>>,
});

repo_arguments!(UpdateBranch {
    /// The pull request's number.
    #[serde(rename = "pullNumber")]
    pull_number: u64,
    /// The last commit that its branch must have now, so that nothing newer is overlooked.
    #[serde(rename = "expectedHeadSha")]
    expected_head_sha: Option<String>,
});

repo_arguments!(MergePullRequest {
    /// The pull request's number.
    #[serde(rename = "pullNumber")]
    pull_number: u64,
    /// How; absent: merge.
    merge_method: Option<MergeMethod>,
    /// The title of the commit of the merge.
    commit_title: Option<String>,
    /// More text of the commit of the merge.
    commit_message: Option<String>,
    /// The last commit that its branch must have now, so that nothing newer is merged unseen.
    #[serde(rename = "expectedHeadSha")]
    expected_head_sha: Option<String>,
});

/// How a pull request is merged.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum MergeMethod {
    Merge,
    Squash,
    Rebase,
}

/// A merge.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Merged {
    merged: bool,
    message: String,
    /// The commit that was made.
    sha: Option<String>,
}

#[derive(Deserialize)]
struct Told {
    message: Option<String>,
}

#[tool_router(router = pull_write_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Opens a pull request.")]
    async fn create_pull_request(
        &self,
        Parameters(args): Parameters<CreatePullRequest>,
    ) -> Result<Json<PullRequest>, String> {
        let reviewers = requested(args.reviewers.as_deref().unwrap_or_default())?;
        let mut body = Map::new();
        for (key, value) in [
            ("title", &args.title),
            ("head", &args.head),
            ("base", &args.base),
        ] {
            body.insert(key.to_owned(), json!(not_blank(key, value)?));
        }
        put(&mut body, "body", args.body.as_ref());
        put(&mut body, "draft", args.draft);
        put(
            &mut body,
            "maintainer_can_modify",
            args.maintainer_can_modify,
        );
        let call = Call::new(Method::POST, args.path("/pulls")?).json(&body);
        let made: PullRequest = self.fetch(call).await?;
        let Some(reviewers) = reviewers else {
            return Ok(Json(made));
        };
        let path = args.path(&format!("/pulls/{}/requested_reviewers", made.number()))?;
        let asked = self
            .fetch(Call::new(Method::POST, path).json(&reviewers))
            .await;
        asked.map(Json).map_err(|error| {
            format!(
                "Pull request {} was opened, but nobody was asked to review it. {error}",
                made.number()
            )
        })
    }

    #[tool(
        description = "Changes a pull request: its title, text, state, base, draft state, or who is to review it."
    )]
    async fn update_pull_request(
        &self,
        Parameters(args): Parameters<UpdatePullRequest>,
    ) -> Result<Json<PullRequest>, String> {
        let reviewers = requested(args.reviewers.as_deref().unwrap_or_default())?;
        let path = args.path(&format!("/pulls/{}", args.pull_number))?;
        let mut body = Map::new();
        put(&mut body, "title", args.title.as_ref());
        put(&mut body, "body", args.body.as_ref());
        put(&mut body, "state", args.state);
        put(&mut body, "base", args.base.as_ref());
        put(
            &mut body,
            "maintainer_can_modify",
            args.maintainer_can_modify,
        );
        if body.is_empty() && reviewers.is_none() && args.draft.is_none() {
            return refuse("there is nothing to change");
        }
        if !body.is_empty() {
            self.send(Call::new(Method::PATCH, path.as_str()).json(&body))
                .await?;
        }
        if let Some(draft) = args.draft {
            let pull: PullRequest = self.fetch(Call::get(path.as_str())).await?;
            if pull.draft() != draft {
                let document = if draft { TO_DRAFT } else { TO_READY };
                self.graphql::<Value>(document, json!({"id": pull.node_id}))
                    .await?;
            }
        }
        if let Some(reviewers) = reviewers {
            let path = format!("{path}/requested_reviewers");
            self.send(Call::new(Method::POST, path).json(&reviewers))
                .await?;
        }
        Ok(Json(self.fetch(Call::get(path)).await?))
    }

    #[tool(
        description = "Brings the newest of its base into the branch of a pull request. GitHub does it in the background."
    )]
    async fn update_pull_request_branch(
        &self,
        Parameters(args): Parameters<UpdateBranch>,
    ) -> Result<Json<Done>, String> {
        let path = args.path(&format!("/pulls/{}/update-branch", args.pull_number))?;
        let mut body = Map::new();
        put(&mut body, "expected_head_sha", args.expected_head_sha);
        let told: Told = self
            .fetch(Call::new(Method::PUT, path).once().json(&body))
            .await?;
        let done = told
            .message
            .unwrap_or_else(|| "The branch is being updated".to_owned());
        Ok(Json(Done { done }))
    }

    #[tool(description = "Merges a pull request.")]
    async fn merge_pull_request(
        &self,
        Parameters(args): Parameters<MergePullRequest>,
    ) -> Result<Json<Merged>, String> {
        let path = args.path(&format!("/pulls/{}/merge", args.pull_number))?;
        let mut body = Map::new();
        put(&mut body, "merge_method", args.merge_method);
        put(&mut body, "commit_title", args.commit_title);
        put(&mut body, "commit_message", args.commit_message);
        put(&mut body, "sha", args.expected_head_sha);
        let merged = self
            .fetch(Call::new(Method::PUT, path).once().json(&body))
            .await;
        Ok(Json(merged.map_err(|mut error| {
            if error.failure.status == Some(405) {
                error.advice = Some(
                    "It cannot be merged as it is: pull_request_read with the methods get, get_check_runs and \
                     get_reviews tells what is missing."
                        .to_owned(),
                );
            }
            error
        })?))
    }
}

fn put(body: &mut Map<String, Value>, key: &str, value: Option<impl Serialize>) {
    if let Some(value) = value {
        body.insert(key.to_owned(), json!(value));
    }
}

/// Who is asked to review, people and teams apart; `None` for nobody.
fn requested(reviewers: &[String]) -> Result<Option<Value>, String> {
    let (mut people, mut teams) = (Vec::new(), Vec::new());
    for reviewer in reviewers {
        match reviewer.split_once('/') {
            _ if reviewer.trim().is_empty() => return refuse("reviewers must not be empty texts"),
            Some((_, team)) => teams.push(team),
            None => people.push(reviewer.as_str()),
        }
    }
    if reviewers.is_empty() {
        return Ok(None);
    }
    Ok(Some(json!({"reviewers": people, "team_reviewers": teams})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_teams_are_told_apart() {
        let names = ["ann".to_owned(), "org/core".to_owned()];
        let body = json!({"reviewers": ["ann"], "team_reviewers": ["core"]});
        assert_eq!(requested(&names), Ok(Some(body)));
        assert_eq!(requested(&[]), Ok(None));
        assert!(requested(&[" ".to_owned()]).is_err());
    }
}
