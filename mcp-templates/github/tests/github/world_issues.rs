//! The fake's issues, comments, labels and searches.

use serde_json::{Value, json};

use crate::{
    description::Checked,
    world::{Reply, World, example, named, paged},
};

impl World {
    pub fn issues(&mut self, asked: &Checked) -> Option<Reply> {
        let (path, body) = (&asked.path, &asked.body);
        let number = || path["issue_number"].as_str();
        let reply = match asked.operation.id.as_str() {
            "issues/create" => {
                let id = self.number();
                let mut issue = example("issue");
                for (key, value) in [
                    ("number", json!(id)),
                    ("id", json!(id + 1_000)),
                    ("labels", json!([])),
                    ("body", Value::Null),
                ] {
                    issue[key] = value;
                }
                for key in [
                    "assignees",
                    "milestone",
                    "pull_request",
                    "type",
                    "closed_at",
                    "assignee",
                ] {
                    issue.as_object_mut()?.remove(key);
                }
                put_issue(&mut issue, body);
                self.all("issues").push(issue.clone());
                Reply::new(201, issue)
            }
            "issues/update" => {
                let Some(issue) = self.one("issues", "number", number()) else {
                    return Some(Reply::not_found());
                };
                put_issue(issue, body);
                Reply::new(200, issue.clone())
            }
            "issues/get" => match self.one("issues", "number", number()) {
                Some(issue) => Reply::new(200, issue.clone()),
                None => Reply::not_found(),
            },
            "issues/list-for-repo" => {
                let state = asked
                    .query
                    .get("state")
                    .map_or("open", String::as_str)
                    .to_owned();
                let labels = asked.query.get("labels").cloned().unwrap_or_default();
                let fits = |issue: &&Value| {
                    let has = |label: &str| {
                        issue["labels"]
                            .as_array()
                            .is_some_and(|all| all.iter().any(|one| one["name"] == label))
                    };
                    (state == "all" || issue["state"] == state.as_str())
                        && labels
                            .split(',')
                            .all(|label| label.is_empty() || has(label))
                };
                let mut found: Vec<Value> =
                    self.all("issues").iter().filter(fits).cloned().collect();
                found.reverse();
                paged(&found, asked, "/issues")
            }
            "issues/create-comment" => {
                let issue = number().to_owned();
                let id = self.number();
                let mut comment = example("issue-comment");
                for (key, value) in [
                    ("id", json!(id)),
                    ("body", body["body"].clone()),
                    ("issue", json!(issue)),
                ] {
                    comment[key] = value;
                }
                self.all("comments").push(comment.clone());
                Reply::new(201, comment)
            }
            "issues/list-comments" => {
                let comments = self
                    .all("comments")
                    .iter()
                    .filter(|one| one["issue"] == number());
                let comments: Vec<Value> = comments.cloned().collect();
                paged(&comments, asked, "/comments")
            }
            "issues/update-comment" => {
                let Some(comment) = self.one("comments", "id", &path["comment_id"]) else {
                    return Some(Reply::not_found());
                };
                comment["body"] = body["body"].clone();
                Reply::new(200, comment.clone())
            }
            "issues/list-labels-on-issue" => {
                let labels = self.one("issues", "number", number())?["labels"]
                    .as_array()?
                    .clone();
                paged(&labels, asked, "/labels")
            }
            "reactions/create-for-issue"
            | "reactions/create-for-issue-comment"
            | "reactions/create-for-pull-request-review-comment" => {
                let mut reaction = example("reaction");
                reaction["content"] = body["content"].clone();
                Reply::new(201, reaction)
            }
            "issues/add-sub-issue"
            | "issues/reprioritize-sub-issue"
            | "issues/remove-sub-issue" => return self.sub_issues(asked),
            "issues/list-sub-issues" => {
                let children = self
                    .all("issues")
                    .iter()
                    .filter(|one| one["parent"] == number());
                let children: Vec<Value> = children.cloned().collect();
                paged(&children, asked, "/sub_issues")
            }
            "issues/get-parent" => {
                let parent = self.one("issues", "number", number())?["parent"]
                    .as_str()
                    .map(str::to_owned);
                match parent.and_then(|parent| self.one("issues", "number", &parent)) {
                    Some(parent) => Reply::new(200, parent.clone()),
                    None => Reply::not_found(),
                }
            }
            "issues/create-label" => {
                if self.one("labels", "name", body["name"].as_str()?).is_some() {
                    let errors =
                        json!([{"resource": "Label", "code": "already_exists", "field": "name"}]);
                    return Some(Reply::new(
                        422,
                        json!({"message": "Validation Failed", "errors": errors}),
                    ));
                }
                self.all("labels").push(body.clone());
                Reply::new(201, body.clone())
            }
            "issues/get-label" => match self.one("labels", "name", &path["name"]) {
                Some(label) => Reply::new(200, label.clone()),
                None => Reply::not_found(),
            },
            "issues/update-label" => {
                let Some(label) = self.one("labels", "name", &path["name"]) else {
                    return Some(Reply::not_found());
                };
                for (key, value) in body.as_object()? {
                    label[if key == "new_name" { "name" } else { key }] = value.clone();
                }
                Reply::new(200, label.clone())
            }
            "issues/delete-label" => {
                self.all("labels")
                    .retain(|label| label["name"] != path["name"].as_str());
                Reply::nothing(204)
            }
            "issues/list-labels-for-repo" => paged(&self.all("labels").clone(), asked, "/labels"),
            "search/issues-and-pull-requests" => {
                let query = &asked.query["q"];
                let wanted = query.split(' ').next()?;
                let is_pull = query.contains("is:pr");
                let fits = |one: &&Value| {
                    one["title"]
                        .as_str()
                        .is_some_and(|title| title.contains(wanted))
                };
                let found = self
                    .all(if is_pull { "pulls" } else { "issues" })
                    .iter()
                    .filter(fits);
                let items: Vec<Value> = found.cloned().collect();
                Reply::new(
                    200,
                    json!({"total_count": items.len(), "incomplete_results": false, "items": items}),
                )
            }
            _ => return None,
        };
        Some(reply)
    }

    fn sub_issues(&mut self, asked: &Checked) -> Option<Reply> {
        let parent = asked.path["issue_number"].clone();
        let id = asked.body["sub_issue_id"].to_string();
        let adds = asked.operation.id == "issues/add-sub-issue";
        let Some(child) = self.one("issues", "id", &id) else {
            return Some(Reply::not_found());
        };
        match asked.operation.id.as_str() {
            "issues/add-sub-issue"
                if child["parent"].is_string() && asked.body["replace_parent"] != true =>
            {
                return Some(Reply::refused(422, "Issue already has a parent"));
            }
            "issues/add-sub-issue" => child["parent"] = json!(parent),
            "issues/remove-sub-issue" => child["parent"] = Value::Null,
            _ => {}
        }
        let parent = self.one("issues", "number", &parent)?.clone();
        Some(Reply::new(if adds { 201 } else { 200 }, parent))
    }
}

fn put_issue(issue: &mut Value, body: &Value) {
    for (key, value) in body.as_object().into_iter().flatten() {
        match key.as_str() {
            "labels" => issue[key] = named(value, "name"),
            "assignees" => issue[key] = named(value, "login"),
            "type" if value.is_string() => issue[key] = json!({"id": 1, "name": value}),
            "milestone" => issue[key] = json!({"title": format!("M{value}")}),
            _ => issue[key] = value.clone(),
        }
    }
}
