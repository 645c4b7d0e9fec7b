//! The fake's runs of GitHub Actions, notifications, stars and gists.

use serde_json::{Value, json};

use crate::{
    description::Checked,
    world::{Reply, World, example, paged},
};

impl World {
    pub fn others(&mut self, asked: &Checked) -> Option<Reply> {
        let (path, body) = (&asked.path, &asked.body);
        let reply = match asked.operation.id.as_str() {
            "actions/create-workflow-dispatch" => {
                let id = self.number();
                let mut run = example("workflow-run");
                for (key, value) in [
                    ("id", json!(id)),
                    ("head_branch", body["ref"].clone()),
                    ("inputs", body["inputs"].clone()),
                ] {
                    run[key] = value;
                }
                self.all("runs").push(run);
                Reply::nothing(204)
            }
            "actions/list-workflow-runs" | "actions/list-workflow-runs-for-repo" => {
                let wanted = asked.query.get("status");
                let fits = |run: &&Value| {
                    wanted.is_none_or(|status| {
                        run["status"] == status.as_str() || run["conclusion"] == status.as_str()
                    })
                };
                let runs: Vec<Value> = self.all("runs").iter().filter(fits).cloned().collect();
                let mut reply = paged(&runs, asked, "/runs");
                reply.body = json!({"total_count": runs.len(), "workflow_runs": reply.body});
                reply
            }
            "actions/get-workflow-run" => match self.one("runs", "id", &path["run_id"]) {
                Some(run) => Reply::new(200, run.clone()),
                None => Reply::not_found(),
            },
            "actions/cancel-workflow-run" => {
                let run = self.one("runs", "id", &path["run_id"])?;
                (run["status"], run["conclusion"]) = (json!("completed"), json!("cancelled"));
                Reply::new(202, json!({}))
            }
            "actions/list-jobs-for-workflow-run" => {
                let mut job = example("job");
                job["conclusion"] = json!("failure");
                let good = example("job");
                Reply::new(200, json!({"total_count": 2, "jobs": [job, good]}))
            }
            "actions/download-job-logs-for-workflow-run" => {
                let location = format!("{}/store/{}?sig=abc", self.url, path["job_id"]);
                Reply {
                    status: 302,
                    headers: vec![("location", location)],
                    ..Reply::default()
                }
            }
            "actions/download-workflow-run-logs" | "actions/download-artifact" => {
                let location = "https://store.example.com/file.zip?sig=abc".to_owned();
                Reply {
                    status: 302,
                    headers: vec![("location", location)],
                    ..Reply::default()
                }
            }
            "activity/list-notifications-for-authenticated-user"
            | "activity/list-repo-notifications-for-authenticated-user" => {
                let all = asked.query.get("all").is_some_and(|all| all == "true");
                let fits = |one: &&Value| all || one["unread"] == true;
                let found: Vec<Value> = self
                    .all("notifications")
                    .iter()
                    .filter(fits)
                    .cloned()
                    .collect();
                paged(&found, asked, "/notifications")
            }
            "activity/get-thread" => match self.one("notifications", "id", &path["thread_id"]) {
                Some(thread) => Reply::new(200, thread.clone()),
                None => Reply::not_found(),
            },
            "activity/mark-thread-as-read" => {
                self.one("notifications", "id", &path["thread_id"])?["unread"] = json!(false);
                Reply::nothing(205)
            }
            "activity/mark-thread-as-done" => {
                self.all("notifications")
                    .retain(|one| one["id"] != path["thread_id"].as_str());
                Reply::nothing(204)
            }
            "activity/mark-notifications-as-read" | "activity/mark-repo-notifications-as-read" => {
                for one in self.all("notifications") {
                    one["unread"] = json!(false);
                }
                Reply::nothing(205)
            }
            "activity/star-repo-for-authenticated-user" => {
                let mut repository = example("repository-items-default-response")[0].clone();
                repository["full_name"] = json!(format!("{}/{}", path["owner"], path["repo"]));
                self.all("starred").push(repository);
                Reply::nothing(204)
            }
            "activity/unstar-repo-for-authenticated-user" => {
                let name = format!("{}/{}", path["owner"], path["repo"]);
                self.all("starred")
                    .retain(|one| one["full_name"] != name.as_str());
                Reply::nothing(204)
            }
            "activity/list-repos-starred-by-authenticated-user"
            | "activity/list-repos-starred-by-user" => {
                paged(&self.all("starred").clone(), asked, "/starred")
            }
            "gists/create" => {
                let id = format!("{:020x}", self.number());
                let mut gist = example("gist");
                (gist["id"], gist["files"]) = (json!(id), json!({}));
                put_gist(&mut gist, body);
                self.all("gists").push(gist.clone());
                Reply::new(201, gist)
            }
            "gists/get" => match self.one("gists", "id", &path["gist_id"]) {
                Some(gist) => Reply::new(200, gist.clone()),
                None => Reply::not_found(),
            },
            "gists/update" => {
                let Some(gist) = self.one("gists", "id", &path["gist_id"]) else {
                    return Some(Reply::not_found());
                };
                put_gist(gist, body);
                Reply::new(200, gist.clone())
            }
            "gists/list" | "gists/list-for-user" => {
                let mut gists = self.all("gists").clone();
                for gist in &mut gists {
                    for file in gist["files"].as_object_mut()?.values_mut() {
                        file.as_object_mut()?.remove("content");
                    }
                }
                paged(&gists, asked, "/gists")
            }
            _ => return None,
        };
        Some(reply)
    }
}

fn put_gist(gist: &mut Value, body: &Value) {
    for (key, value) in body.as_object().into_iter().flatten() {
        if key != "files" {
            gist[key] = value.clone();
            continue;
        }
        for (name, file) in value.as_object().into_iter().flatten() {
            let content = file["content"].as_str().unwrap_or_default();
            gist["files"][name] = json!({
                "filename": name, "type": "text/plain", "language": null, "size": content.len(), "truncated": false,
                "content": content, "encoding": "utf-8",
            });
        }
    }
}
