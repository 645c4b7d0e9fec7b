//! The fake's repositories, branches, files and commits.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    description::Checked,
    world::{Branch, Loose, Reply, World, example, paged},
};

impl World {
    pub fn repositories(&mut self, asked: &Checked, accept: &str) -> Option<Reply> {
        let (path, body) = (&asked.path, &asked.body);
        let reply = match asked.operation.id.as_str() {
            "repos/get" => {
                let name = format!("{}/{}", path["owner"], path["repo"]);
                if self.all("deleted").contains(&json!(name)) {
                    return Some(Reply::not_found());
                }
                let mut repository = example("full-repository-default-response");
                repository["default_branch"] = json!("main");
                Reply::new(200, repository)
            }
            "repos/delete" => {
                let name = format!("{}/{}", path["owner"], path["repo"]);
                self.all("deleted").push(json!(name));
                Reply::nothing(204)
            }
            "repos/create-for-authenticated-user" | "repos/create-in-org" => {
                let mut repository = example("full-repository");
                for (key, value) in body.as_object()? {
                    repository[key] = value.clone();
                }
                Reply::new(201, repository)
            }
            "repos/list-branches" => {
                let branches = self.branches.iter().map(|(name, branch)| {
                    json!({"name": name, "commit": {"sha": branch.head}, "protected": name == "main"})
                });
                let branches: Vec<Value> = branches.collect();
                paged(&branches, asked, "/branches")
            }
            "repos/get-content" => self.content(asked, accept),
            "repos/create-or-update-file-contents" => return self.write(asked),
            "repos/delete-file" => {
                let branch = self.branches.get_mut(body["branch"].as_str()?)?;
                match branch.files.remove(&path["path"]) {
                    Some((_, hash)) if body["sha"] == hash.as_str() => {
                        Reply::new(200, example("file-commit"))
                    }
                    _ => Reply::refused(409, "the sha does not match"),
                }
            }
            "git/get-ref" => self.reference(&path["ref"]),
            "git/create-ref" => {
                let name = body["ref"].as_str()?.strip_prefix("refs/heads/")?;
                if self.branches.contains_key(name) {
                    return Some(Reply::refused(422, "Reference already exists"));
                }
                let from = self
                    .branches
                    .values()
                    .find(|branch| body["sha"] == branch.head.as_str())?
                    .clone();
                self.branches.insert(name.to_owned(), from);
                Reply {
                    status: 201,
                    ..self.reference(&format!("heads/{name}"))
                }
            }
            "git/get-commit" => {
                let mut commit = example("git-commit-2");
                commit["tree"]["sha"] = json!(format!("tree-of-{}", path["commit_sha"]));
                Reply::new(200, commit)
            }
            "git/create-tree" => {
                let base = body["base_tree"].as_str()?.strip_prefix("tree-of-")?;
                let from = self.branches.values().find(|branch| branch.head == base);
                let mut files = from.map(|branch| branch.files.clone()).unwrap_or_default();
                for entry in body["tree"].as_array()? {
                    let content = entry["content"].as_str()?.as_bytes().to_vec();
                    files.insert(entry["path"].as_str()?.to_owned(), (content, self.hash()));
                }
                self.keep(
                    201,
                    Loose {
                        files,
                        parent: String::new(),
                    },
                )
            }
            "git/create-commit" => {
                let files = self.loose.get(body["tree"].as_str()?)?.files.clone();
                let parent = body["parents"][0].as_str()?.to_owned();
                self.keep(201, Loose { files, parent })
            }
            "git/update-ref" => {
                let hash = body["sha"].as_str()?;
                let commit = self.loose.get(hash)?.clone();
                let branch = self.branches.get_mut(path["ref"].strip_prefix("heads/")?)?;
                if commit.parent != branch.head && body["force"] != true {
                    return Some(Reply::refused(422, "Update is not a fast forward"));
                }
                *branch = Branch {
                    head: hash.to_owned(),
                    files: commit.files,
                };
                Reply::new(200, example("git-ref"))
            }
            "git/get-tree" => {
                let files = &self.branches.get("main")?.files;
                let entry = |(path, (content, hash)): (&String, &(Vec<u8>, String))| json!({"path": path, "mode": "100644", "type": "blob", "sha": hash, "size": content.len()});
                let tree: Vec<Value> = files.iter().map(entry).collect();
                Reply::new(
                    200,
                    json!({"sha": path["tree_sha"], "tree": tree, "truncated": false}),
                )
            }
            _ => return None,
        };
        Some(reply)
    }

    fn keep(&mut self, status: u16, loose: Loose) -> Reply {
        let hash = self.hash();
        self.loose.insert(hash.clone(), loose);
        Reply::new(
            status,
            json!({"sha": hash, "html_url": format!("https://github.com/o/r/commit/{hash}")}),
        )
    }

    fn reference(&mut self, name: &str) -> Reply {
        let hash = match name.split_once('/') {
            Some(("heads", branch)) => self
                .branches
                .get(branch)
                .map(|branch| ("commit", branch.head.clone())),
            Some(("tags", "v0.0.1")) => {
                Some(("tag", "940bd336248efae0f9ee5bc7b2d5c985887b16ac".to_owned()))
            }
            Some(("tags", "light")) => Some((
                "commit",
                "c5b97d5ae6c19d5c5df71a34c7fbeeda2479ccbc".to_owned(),
            )),
            _ => None,
        };
        match hash {
            Some((kind, hash)) => Reply::new(
                200,
                json!({"ref": format!("refs/{name}"), "object": {"type": kind, "sha": hash}}),
            ),
            None => Reply::not_found(),
        }
    }

    fn content(&mut self, asked: &Checked, accept: &str) -> Reply {
        let name = asked
            .query
            .get("ref")
            .map_or("main", |name| name.trim_start_matches("refs/heads/"));
        let Some(branch) = self.branches.get(name) else {
            return Reply::not_found();
        };
        let path = &asked.path["path"];
        if path == "vendored" {
            let submodule =
                json!({"type": "submodule", "path": path, "sha": branch.head, "size": 0});
            return Reply::new(200, submodule);
        }
        if let Some((content, hash)) = branch.files.get(path) {
            if accept.ends_with(".raw+json") {
                return Reply {
                    status: 200,
                    raw: Some(content.clone()),
                    ..Reply::default()
                };
            }
            // As GitHub does from 1 MB on.
            let (encoding, text) = match content.len() {
                0..1_000_000 => ("base64", STANDARD.encode(content) + "\n"),
                _ => ("none", String::new()),
            };
            return Reply::new(
                200,
                json!({
                    "type": "file", "path": path, "sha": hash, "size": content.len(), "encoding": encoding, "content": text,
                }),
            );
        }
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let below = |(name, (content, hash)): (&String, &(Vec<u8>, String))| {
            let rest = name.strip_prefix(&prefix)?;
            Some(match rest.split_once('/') {
                Some((folder, _)) => {
                    json!({"type": "dir", "path": format!("{prefix}{folder}"), "sha": hash, "size": 0})
                }
                None => json!({"type": "file", "path": name, "sha": hash, "size": content.len()}),
            })
        };
        let entries: Vec<Value> = branch.files.iter().filter_map(below).collect();
        match entries.is_empty() {
            true => Reply::not_found(),
            false => Reply::new(200, json!(entries)),
        }
    }

    fn write(&mut self, asked: &Checked) -> Option<Reply> {
        let (path, body) = (&asked.path["path"], &asked.body);
        let content = STANDARD.decode(body["content"].as_str()?).ok()?;
        let hash = self.hash();
        let branch = self.branches.get_mut(body["branch"].as_str()?)?;
        let there = branch.files.get(path).map(|(_, hash)| hash.clone());
        match (&there, body["sha"].as_str()) {
            (Some(_), None) => {
                return Some(Reply::refused(
                    422,
                    "Invalid request.\n\n\"sha\" wasn't supplied.",
                ));
            }
            (Some(there), Some(given)) if there != given => {
                return Some(Reply::refused(
                    409,
                    &format!("{path} does not match {given}"),
                ));
            }
            _ => {}
        }
        branch.files.insert(path.clone(), (content, hash.clone()));
        let mut written = example("file-commit-example-for-updating-a-file");
        written["content"]["path"] = json!(path);
        written["content"]["sha"] = json!(hash);
        written["commit"]["message"] = body["message"].clone();
        Some(Reply::new(if there.is_some() { 200 } else { 201 }, written))
    }
}
