//! Tools on the files of a repository: read, write, delete, and push many at once.

use base64::{Engine, engine::general_purpose::STANDARD};
use minimcp_rest::{Call, Method, Trouble};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    GitHub,
    arguments::{not_blank, refuse, repo_arguments, segments, some_segments},
    branches::Reference,
    model::FileCommit,
};

const TEXT_BYTES_MAX: usize = 192 * 1024;
const BINARY_BYTES_MAX: usize = 128 * 1024;
const FILES_MAX: usize = 100;

repo_arguments!(GetFile {
    /// The file or folder; absent or `/`: the top folder.
    #[serde(default)]
    path: String,
    /// A branch, tag or `refs/pull/N/head`; absent: the default branch.
    #[serde(rename = "ref")]
    git_ref: Option<String>,
    /// A commit; it goes before ref.
    sha: Option<String>,
    /// The first line wanted of a text, from 1.
    start_line: Option<usize>,
    /// The last line wanted of a text.
    end_line: Option<usize>,
});

/// A file or a folder.
#[derive(Serialize, JsonSchema)]
struct Contents {
    /// Where it lies.
    path: String,
    /// The blob's hash, needed to change the file.
    sha: Option<String>,
    /// Size in bytes.
    size: Option<u64>,
    /// The text, for a file that is UTF-8.
    text: Option<String>,
    /// The content in base64, for another file.
    base64: Option<String>,
    /// Which lines the text has, where it is not the whole file.
    lines: Option<Lines>,
    /// What lies in it, for a folder.
    entries: Option<Vec<DirectoryEntry>>,
}

/// Lines of a text.
#[derive(Serialize, JsonSchema)]
struct Lines {
    /// The first one shown.
    first: usize,
    /// The last one shown; give one more as start_line for what comes next.
    last: usize,
    /// How many the file has.
    total: usize,
}

/// An entry of a folder.
#[derive(Deserialize, Serialize, JsonSchema)]
struct DirectoryEntry {
    path: String,
    /// file, dir, symlink or submodule.
    #[serde(rename = "type")]
    kind: String,
    /// Size in bytes.
    size: u64,
    sha: String,
}

#[derive(Deserialize)]
struct FileContents {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    sha: String,
    size: u64,
    content: Option<String>,
    encoding: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ContentsAnswer {
    Folder(Vec<DirectoryEntry>),
    File(FileContents),
}

repo_arguments!(WriteFile {
    /// Where the file lies or is to lie.
    path: String,
    /// The whole text of the file as it is to be, not in base64.
    content: String,
    /// The commit message.
    message: String,
    /// The branch to commit to.
    branch: String,
    /// The blob's hash of the file that is replaced, from get_file_contents; absent for a new file.
    sha: Option<String>,
});

repo_arguments!(DeleteFile {
    /// The file.
    path: String,
    /// The commit message.
    message: String,
    /// The branch to commit to.
    branch: String,
});

repo_arguments!(PushFiles {
    /// The branch to push to; it must exist.
    branch: String,
    /// The files, at most 100; those not named stay as they are.
    files: Vec<PushedFile>,
    /// The commit message.
    message: String,
});

/// A file to push.
#[derive(Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
struct PushedFile {
    /// Where it lies or is to lie.
    path: String,
    /// Its whole text, not in base64.
    content: String,
}

/// What was pushed.
#[derive(Serialize, JsonSchema)]
struct Pushed {
    branch: String,
    /// The commit that was made.
    sha: String,
    /// How many files it wrote.
    files: usize,
    html_url: Option<String>,
}

#[derive(Deserialize)]
struct Hash {
    sha: String,
    html_url: Option<String>,
}

#[derive(Deserialize)]
struct GitCommit {
    tree: Hash,
}

#[tool_router(router = contents_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Reads a file, whole or by lines, or lists a folder, of a repository.")]
    async fn get_file_contents(
        &self,
        Parameters(args): Parameters<GetFile>,
    ) -> Result<Json<Contents>, String> {
        if args.start_line == Some(0)
            || args
                .end_line
                .is_some_and(|end| end < args.start_line.unwrap_or(1))
        {
            return refuse("start_line counts from 1, and end_line must not be before it");
        }
        let below = segments("path", &args.path)?;
        // The top folder has an empty path behind the slash.
        let below = if below.is_empty() { "/" } else { &below };
        let path = args.path(&format!("/contents{below}"))?;
        let git_ref = args.sha.as_ref().or(args.git_ref.as_ref());
        let call = || Call::get(path.as_str()).query_opt("ref", git_ref);
        let file = match self.fetch(call()).await? {
            ContentsAnswer::Folder(entries) => {
                return Ok(Json(Contents {
                    path: args.path,
                    sha: None,
                    size: None,
                    text: None,
                    base64: None,
                    lines: None,
                    entries: Some(entries),
                }));
            }
            ContentsAnswer::File(file) => file,
        };
        if file.kind != "file" && file.content.is_none() {
            return Err(format!(
                "{} is a {}, which has no content of its own",
                file.path, file.kind
            ));
        }
        let bytes = match (file.content, file.encoding.as_deref()) {
            (Some(content), Some("base64")) => decoded(&content)?,
            // From 1 MB on GitHub leaves the content out of the JSON.
            _ => {
                let raw = call().accept("application/vnd.github.raw+json");
                self.send(raw).await?.body
            }
        };
        let wanted = (args.start_line.unwrap_or(1), args.end_line);
        let mut contents = shown(file.path, file.size, bytes, wanted)?;
        contents.sha = Some(file.sha);
        Ok(Json(contents))
    }

    #[tool(
        description = "Writes one file in a commit of its own: a new one, or in place of the one whose sha is given."
    )]
    async fn create_or_update_file(
        &self,
        Parameters(args): Parameters<WriteFile>,
    ) -> Result<Json<FileCommit>, String> {
        let path = args.path(&format!("/contents{}", some_segments("path", &args.path)?))?;
        let mut body = json!({
            "message": not_blank("message", &args.message)?,
            "content": STANDARD.encode(&args.content),
            "branch": not_blank("branch", &args.branch)?,
        });
        if let Some(sha) = args.sha {
            body["sha"] = json!(sha);
        }
        let sent = self
            .fetch(Call::new(Method::PUT, path).once().json(&body))
            .await;
        let written = sent.map_err(|mut error| {
            if matches!(error.failure.trouble, Trouble::Conflict | Trouble::Refused) {
                error.advice = Some(
                    "If the file exists, its sha must be given and be the present one: read it with get_file_contents \
                     from this branch, decide anew, and give the sha found there."
                        .to_owned(),
                );
            }
            error
        });
        Ok(Json(written?))
    }

    #[tool(description = "Deletes one file in a commit of its own.")]
    async fn delete_file(
        &self,
        Parameters(args): Parameters<DeleteFile>,
    ) -> Result<Json<FileCommit>, String> {
        let path = args.path(&format!("/contents{}", some_segments("path", &args.path)?))?;
        let branch = not_blank("branch", &args.branch)?;
        let message = not_blank("message", &args.message)?;
        let there = self
            .fetch(Call::get(path.as_str()).query("ref", branch))
            .await?;
        let ContentsAnswer::File(file) = there else {
            return refuse(
                "path is a folder; name its files one by one, or use push_files for other changes",
            );
        };
        let body = json!({"message": message, "sha": file.sha, "branch": branch});
        Ok(Json(
            self.fetch(Call::new(Method::DELETE, path).once().json(&body))
                .await?,
        ))
    }

    #[tool(description = "Writes many files in one commit on top of a branch.")]
    async fn push_files(
        &self,
        Parameters(args): Parameters<PushFiles>,
    ) -> Result<Json<Pushed>, String> {
        if !(1..=FILES_MAX).contains(&args.files.len()) {
            return refuse(format!("files must name 1 to {FILES_MAX} files"));
        }
        let message = not_blank("message", &args.message)?;
        let heads = format!("/heads{}", some_segments("branch", &args.branch)?);
        let mut tree = Vec::new();
        for file in &args.files {
            some_segments("path", &file.path)?;
            let path = file.path.trim_matches('/');
            tree.push(
                json!({"path": path, "mode": "100644", "type": "blob", "content": file.content}),
            );
        }
        let head: Reference = self
            .fetch(Call::get(args.path(&format!("/git/ref{heads}"))?))
            .await?;
        let parent = head.object.sha;
        let commit: GitCommit = self
            .fetch(Call::get(args.path(&format!("/git/commits/{parent}"))?))
            .await?;
        let post = |rest: &str, body: Value| -> Result<Call, String> {
            Ok(Call::new(Method::POST, args.path(rest)?).json(&body))
        };
        let body = json!({"base_tree": commit.tree.sha, "tree": tree});
        let tree: Hash = self.fetch(post("/git/trees", body)?).await?;
        let body = json!({"message": message, "tree": tree.sha, "parents": [parent]});
        let made: Hash = self.fetch(post("/git/commits", body)?).await?;
        // Without force, so that a commit that came meanwhile is not lost.
        let path = args.path(&format!("/git/refs{heads}"))?;
        self.send(Call::new(Method::PATCH, path).json(&json!({"sha": made.sha, "force": false})))
            .await?;
        Ok(Json(Pushed {
            branch: args.branch,
            sha: made.sha,
            files: args.files.len(),
            html_url: made.html_url,
        }))
    }
}

fn decoded(content: &str) -> Result<Vec<u8>, String> {
    let compact: String = content.split_ascii_whitespace().collect();
    STANDARD
        .decode(compact)
        .map_err(|_| "GitHub answered a file whose base64 cannot be read".to_owned())
}

/// The content as text, the wanted lines of it, or as base64.
fn shown(
    path: String,
    size: u64,
    bytes: Vec<u8>,
    (first, end): (usize, Option<usize>),
) -> Result<Contents, String> {
    let mut contents = Contents {
        path,
        sha: None,
        size: Some(size),
        text: None,
        base64: None,
        lines: None,
        entries: None,
    };
    match String::from_utf8(bytes) {
        Ok(text) => (contents.text, contents.lines) = some_lines(text, first, end)?,
        Err(error) if error.as_bytes().len() <= BINARY_BYTES_MAX => {
            contents.base64 = Some(STANDARD.encode(error.as_bytes()));
        }
        Err(_) => {
            return Err(format!(
                "{} is a binary file of {size} bytes; more than {BINARY_BYTES_MAX} are not shown",
                contents.path
            ));
        }
    }
    Ok(contents)
}

/// The lines wanted, as many as fit; a single line that does not is cut.
fn some_lines(
    text: String,
    first: usize,
    end: Option<usize>,
) -> Result<(Option<String>, Option<Lines>), String> {
    if first == 1 && end.is_none() && text.len() <= TEXT_BYTES_MAX {
        return Ok((Some(text), None));
    }
    let total = text.lines().count();
    if first > total.max(1) {
        return refuse(format!(
            "the file has {total} lines, so start_line {first} is behind its end"
        ));
    }
    let (mut kept, mut last) = (String::new(), first - 1);
    let wanted = end.map_or(usize::MAX, |end| end + 1 - first);
    for line in text.split_inclusive('\n').skip(first - 1).take(wanted) {
        if kept.len() + line.len() > TEXT_BYTES_MAX {
            if kept.is_empty() {
                kept.push_str(&line[..line.floor_char_boundary(TEXT_BYTES_MAX)]);
                last += 1;
            }
            break;
        }
        kept.push_str(line);
        last += 1;
    }
    Ok((Some(kept), Some(Lines { first, last, total })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_picked_and_bounded() {
        let text = "one\ntwo\nthree\n";
        let (kept, lines) = some_lines(text.to_owned(), 2, Some(2)).expect("lines");
        let lines = lines.expect("not the whole");
        assert_eq!(
            (kept.as_deref(), lines.first, lines.last, lines.total),
            (Some("two\n"), 2, 2, 3)
        );
        assert!(some_lines(text.to_owned(), 4, None).is_err());
        let (kept, lines) =
            some_lines(format!("{}\nb\n", "é".repeat(TEXT_BYTES_MAX)), 1, None).expect("lines");
        assert!(kept.is_some_and(|kept| kept.len() <= TEXT_BYTES_MAX));
        assert_eq!(lines.map(|lines| lines.last), Some(1));
        let many = "line\n".repeat(TEXT_BYTES_MAX);
        let (_, lines) = some_lines(many, 1, None).expect("lines");
        assert_eq!(lines.map(|lines| lines.last), Some(TEXT_BYTES_MAX / 5));
    }
}
