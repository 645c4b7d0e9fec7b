//! Tools of the toolsets context and repos.

use base64::{Engine, engine::general_purpose::STANDARD};
use minimcp_rest::{Call, Error, path_segment};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    GitHub,
    model::{CodeHit, Commit, Found, Listed, Repository, User},
    server::{SERVICE, repo_path},
};

const TEXT_BYTES_MAX: usize = 512 * 1024;
const BINARY_BYTES_MAX: usize = 256 * 1024;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Search {
    /// The query in GitHub's search syntax, such as `language:rust stars:>100 mcp`.
    query: String,
    /// What to sort by; absent: best match.
    sort: Option<RepositorySort>,
    /// The order, with sort.
    order: Option<Order>,
    /// The page, from 1.
    page: Option<u32>,
    /// Hits on a page, 1 to 100; 30 when absent.
    #[serde(rename = "perPage")]
    per_page: Option<u32>,
}

/// What repositories are sorted by.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum RepositorySort {
    Stars,
    Forks,
    HelpWantedIssues,
    Updated,
}

/// The order.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    #[serde(alias = "ASC")]
    Asc,
    #[serde(alias = "DESC")]
    Desc,
}

/// The word that a unit variant is written as.
pub(crate) fn word(value: &impl Serialize) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CodeSearch {
    /// The query in GitHub's code search syntax, such as `fn main repo:owner/name`.
    query: String,
    /// The page, from 1.
    page: Option<u32>,
    /// Hits on a page, 1 to 100; 30 when absent.
    #[serde(rename = "perPage")]
    per_page: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetFile {
    /// The owner of the repository.
    owner: String,
    /// The repository's name.
    repo: String,
    /// The file or folder; absent or `/`: the top folder.
    #[serde(default)]
    path: String,
    /// A branch, tag or `refs/pull/N/head`; absent: the default branch.
    #[serde(rename = "ref")]
    git_ref: Option<String>,
    /// A commit; it goes before ref.
    sha: Option<String>,
}

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
    /// Whether the text was cut because it is too long.
    truncated: bool,
    /// What lies in it, for a folder.
    entries: Option<Vec<DirectoryEntry>>,
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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListCommits {
    /// The owner of the repository.
    owner: String,
    /// The repository's name.
    repo: String,
    /// The branch, tag or commit to start from; absent: the default branch.
    sha: Option<String>,
    /// Only commits that touch this file or folder.
    path: Option<String>,
    /// Only commits of this author: a login or an email address.
    author: Option<String>,
    /// Only commits after this time, RFC 3339.
    since: Option<String>,
    /// Only commits before this time, RFC 3339.
    until: Option<String>,
    /// The page, from 1.
    page: Option<u32>,
    /// Commits on a page, 1 to 100; 30 when absent.
    #[serde(rename = "perPage")]
    per_page: Option<u32>,
}

#[tool_router(router = repo_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "The user whose token this server uses.",
        annotations(
            title = "Get my user",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_me(&self) -> Result<Json<User>, String> {
        Ok(Json(self.fetch(Call::get("/user")).await?))
    }

    #[tool(
        description = "Finds repositories by name, description, language, stars and more.",
        annotations(
            title = "Search repositories",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn search_repositories(
        &self,
        Parameters(args): Parameters<Search>,
    ) -> Result<Json<Found<Repository>>, String> {
        let call = Call::get("/search/repositories")
            .query("q", args.query)
            .query_opt("sort", args.sort.as_ref().map(word))
            .query_opt("order", args.order.as_ref().map(word));
        self.search(call, args.page, args.per_page).await
    }

    #[tool(
        description = "Finds code in the default branches of repositories.",
        annotations(
            title = "Search code",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn search_code(
        &self,
        Parameters(args): Parameters<CodeSearch>,
    ) -> Result<Json<Found<CodeHit>>, String> {
        let call = Call::get("/search/code").query("q", args.query);
        self.search(call, args.page, args.per_page).await
    }

    #[tool(
        description = "Reads a file, or lists a folder, of a repository.",
        annotations(
            title = "Get file or folder",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_file_contents(
        &self,
        Parameters(args): Parameters<GetFile>,
    ) -> Result<Json<Contents>, String> {
        let git_ref = args.sha.or(args.git_ref);
        let encoded = encoded_path(&args.path)?;
        let path = repo_path(&args.owner, &args.repo, &format!("/contents{encoded}"))?;
        let call = || Call::get(path.as_str()).query_opt("ref", git_ref.as_deref());
        let file = match self.fetch(call()).await? {
            ContentsAnswer::Folder(entries) => {
                return Ok(Json(Contents {
                    path: args.path,
                    sha: None,
                    size: None,
                    text: None,
                    base64: None,
                    truncated: false,
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
                self.send(call().accept("application/vnd.github.raw+json"))
                    .await?
                    .body
            }
        };
        Ok(Json(shown(file.path, file.sha, file.size, bytes)?))
    }

    #[tool(
        description = "Lists commits of a repository, newest first.",
        annotations(
            title = "List commits",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_commits(
        &self,
        Parameters(args): Parameters<ListCommits>,
    ) -> Result<Json<Listed<Commit>>, String> {
        let call = Call::get(repo_path(&args.owner, &args.repo, "/commits")?)
            .query_opt("sha", args.sha)
            .query_opt("path", args.path)
            .query_opt("author", args.author)
            .query_opt("since", args.since)
            .query_opt("until", args.until);
        self.list(call, args.page, args.per_page).await
    }
}

/// The path of a file within a repository, each segment encoded, with a slash in front.
fn encoded_path(path: &str) -> Result<String, Error> {
    let mut encoded = String::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        if matches!(segment, "." | "..") {
            return Err(Error::argument(
                SERVICE,
                "path must not have the segments . and ..",
            ));
        }
        encoded.push('/');
        encoded.push_str(&path_segment(segment));
    }
    Ok(encoded)
}

fn decoded(content: &str) -> Result<Vec<u8>, String> {
    let compact: String = content.split_ascii_whitespace().collect();
    STANDARD
        .decode(compact)
        .map_err(|_| "GitHub answered a file whose base64 cannot be read".to_owned())
}

fn shown(path: String, sha: String, size: u64, bytes: Vec<u8>) -> Result<Contents, String> {
    let mut contents = Contents {
        path,
        sha: Some(sha),
        size: Some(size),
        text: None,
        base64: None,
        truncated: false,
        entries: None,
    };
    match String::from_utf8(bytes) {
        Ok(mut text) => {
            contents.truncated = text.len() > TEXT_BYTES_MAX;
            if contents.truncated {
                text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
            }
            contents.text = Some(text);
        }
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
