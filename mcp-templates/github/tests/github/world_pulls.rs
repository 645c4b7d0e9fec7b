//! The fake's pull requests, reviews and threads, by REST and by GraphQL.

use serde_json::{Value, json};

use crate::{
    description::Checked,
    graphql::{Asked, select},
    world::{Reply, World, example, named, paged},
};

impl World {
    pub fn pulls(&mut self, asked: &Checked, accept: &str) -> Option<Reply> {
        let (path, body) = (&asked.path, &asked.body);
        let number = || path["pull_number"].as_str();
        let reply = match asked.operation.id.as_str() {
            "pulls/create" => {
                let Some(head) = self
                    .branches
                    .get(body["head"].as_str()?)
                    .map(|branch| branch.head.clone())
                else {
                    let errors =
                        json!([{"resource": "PullRequest", "field": "head", "code": "invalid"}]);
                    return Some(Reply::new(
                        422,
                        json!({"message": "Validation Failed", "errors": errors}),
                    ));
                };
                let id = self.number();
                let mut pull = example("pull-request");
                for (key, value) in [
                    ("number", json!(id)),
                    ("id", json!(id + 5_000)),
                    ("node_id", json!(format!("PR_{id}"))),
                    ("requested_reviewers", json!([])),
                    ("body", Value::Null),
                    ("draft", json!(false)),
                    ("merged_at", Value::Null),
                    ("merged", json!(false)),
                ] {
                    pull[key] = value;
                }
                pull["head"]["sha"] = json!(head);
                put_pull(&mut pull, body);
                self.all("pulls").push(pull.clone());
                Reply::new(201, pull)
            }
            "pulls/get" if accept.ends_with(".diff") => {
                let raw = Some(b"diff --git a/x b/x\n-a\n+b\n".to_vec());
                Reply {
                    status: 200,
                    raw,
                    ..Reply::default()
                }
            }
            "pulls/get" => match self.one("pulls", "number", number()) {
                Some(pull) => Reply::new(200, pull.clone()),
                None => Reply::not_found(),
            },
            "pulls/update" => {
                let Some(pull) = self.one("pulls", "number", number()) else {
                    return Some(Reply::not_found());
                };
                put_pull(pull, body);
                Reply::new(200, pull.clone())
            }
            "pulls/list" => {
                let state = asked
                    .query
                    .get("state")
                    .map_or("open", String::as_str)
                    .to_owned();
                let fits = |pull: &&Value| state == "all" || pull["state"] == state.as_str();
                let found: Vec<Value> = self.all("pulls").iter().filter(fits).cloned().collect();
                paged(&found, asked, "/pulls")
            }
            "pulls/request-reviewers" => {
                let pull = self.one("pulls", "number", number())?;
                pull["requested_reviewers"] = named(&body["reviewers"], "login");
                Reply::new(201, pull.clone())
            }
            "pulls/merge" => {
                let pull = self.one("pulls", "number", number())?;
                if pull["state"] == "closed" {
                    return Some(Reply::refused(405, "Pull Request is not mergeable"));
                }
                if body["sha"].is_string() && body["sha"] != pull["head"]["sha"] {
                    return Some(Reply::refused(
                        409,
                        "Head branch was modified. Review and try the merge again.",
                    ));
                }
                pull["state"] = json!("closed");
                pull["merged_at"] = json!("2026-01-01T00:00:00Z");
                return None;
            }
            "pulls/create-review" => {
                let id = self.number();
                let state = match body["event"].as_str() {
                    None => "PENDING",
                    Some(event) => reviewed(event),
                };
                let mut review = example("pull-request-review");
                for (key, value) in [
                    ("id", json!(id)),
                    ("node_id", json!(format!("PRR_{id}"))),
                    ("state", json!(state)),
                    ("body", body["body"].clone()),
                    ("pull", json!(number())),
                ] {
                    review[key] = value;
                }
                self.all("reviews").push(review.clone());
                Reply::new(200, review)
            }
            "pulls/list-reviews" => {
                let reviews = self
                    .all("reviews")
                    .iter()
                    .filter(|one| one["pull"] == number());
                let reviews: Vec<Value> = reviews.cloned().collect();
                paged(&reviews, asked, "/reviews")
            }
            "pulls/submit-review" => {
                let review = self.one("reviews", "id", &path["review_id"])?;
                review["state"] = json!(reviewed(body["event"].as_str()?));
                Reply::new(200, review.clone())
            }
            "pulls/delete-pending-review" => {
                let review = self.one("reviews", "id", &path["review_id"])?.clone();
                self.all("reviews").retain(|one| one["id"] != review["id"]);
                Reply::new(200, review)
            }
            "pulls/create-reply-for-review-comment" => {
                let id = self.number();
                let mut comment = example("pull-request-review-comment");
                comment["id"] = json!(id);
                comment["body"] = body["body"].clone();
                Reply::new(201, comment)
            }
            _ => return None,
        };
        Some(reply)
    }

    /// The answer to a GraphQL request that the schema allows.
    pub fn graphql(&mut self, asked: &Asked) -> Value {
        let input = &asked.arguments["input"];
        let found = match asked.field.as_str() {
            "user" if asked.arguments["login"] == "nobody" => None,
            "user" => {
                let team = json!({"name": "Justice League", "slug": "justice-league", "description": null});
                let org = json!({"login": "github", "teams": {"nodes": [team, null]}});
                Some(json!({"organizations": {"nodes": [org, null]}}))
            }
            "repository" => self.threads_of(asked),
            "convertPullRequestToDraft" | "markPullRequestReadyForReview" => {
                let draft = asked.field == "convertPullRequestToDraft";
                let id = input["pullRequestId"].as_str().unwrap_or_default();
                self.one("pulls", "node_id", id).map(|pull| {
                    pull["draft"] = json!(draft);
                    json!({"pullRequest": {"isDraft": draft}})
                })
            }
            "addPullRequestReviewThread" => {
                let review = input["pullRequestReviewId"].as_str().unwrap_or_default();
                let pull = self
                    .one("reviews", "node_id", review)
                    .map(|review| review["pull"].clone());
                pull.map(|pull| {
                    let id = self.number();
                    let comment = json!({
                        "fullDatabaseId": (id + 9_000_000_000).to_string(), "author": {"login": "octocat"}, "body": input["body"],
                        "path": input["path"], "line": input["line"], "originalLine": input["line"],
                        "createdAt": "2026-01-01T00:00:00Z", "url": "https://github.com/octocat/Hello-World/pull/1#r",
                    });
                    let thread = json!({
                        "id": format!("PRRT_{id}"), "isResolved": false, "isOutdated": false, "path": input["path"],
                        "line": input["line"], "pull": pull, "comments": {"totalCount": 1, "nodes": [comment]},
                    });
                    self.all("threads").push(thread.clone());
                    json!({"thread": thread})
                })
            }
            "resolveReviewThread" | "unresolveReviewThread" => {
                let resolved = asked.field == "resolveReviewThread";
                let id = input["threadId"].as_str().unwrap_or_default();
                self.one("threads", "id", id).map(|thread| {
                    thread["isResolved"] = json!(resolved);
                    json!({"thread": thread.clone()})
                })
            }
            _ => None,
        };
        match found {
            Some(found) => json!({"data": {&asked.field: select(&found, &asked.selection)}}),
            None => json!({"data": {&asked.field: null}, "errors": [
                {"type": "NOT_FOUND", "path": [asked.field], "message": "Could not resolve to a node, ghp_SECRET."}]}),
        }
    }

    fn threads_of(&mut self, asked: &Asked) -> Option<Value> {
        let pull = asked.selection.first()?;
        let arguments = &pull.selection.first()?.arguments;
        let number = pull.arguments["number"].to_string();
        self.one("pulls", "number", &number)?;
        let threads: Vec<Value> = self
            .all("threads")
            .iter()
            .filter(|one| one["pull"] == number.as_str())
            .cloned()
            .collect();
        let from: usize = arguments["after"]
            .as_str()
            .map_or(0, |cursor| cursor.parse().expect("our cursor"));
        let to = from + usize::try_from(arguments["first"].as_u64()?).expect("small");
        let nodes: Vec<&Value> = threads.iter().skip(from).take(to - from).collect();
        let info = json!({"hasNextPage": to < threads.len(), "endCursor": to.to_string()});
        Some(json!({"pullRequest": {"reviewThreads": {"pageInfo": info, "nodes": nodes}}}))
    }
}

fn reviewed(event: &str) -> &'static str {
    match event {
        "APPROVE" => "APPROVED",
        "REQUEST_CHANGES" => "CHANGES_REQUESTED",
        _ => "COMMENTED",
    }
}

fn put_pull(pull: &mut Value, body: &Value) {
    for (key, value) in body.as_object().into_iter().flatten() {
        match key.as_str() {
            "head" | "base" => pull[key]["ref"] = value.clone(),
            _ => pull[key] = value.clone(),
        }
    }
}
