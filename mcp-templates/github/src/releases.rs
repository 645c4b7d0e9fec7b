//! Tools on the releases of a repository.

use minimcp_rest::Call;
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    GitHub,
    arguments::{paged_repo_arguments, repo_arguments, some_segments},
    model::Listed,
};

paged_repo_arguments!(ListReleases {});
repo_arguments!(GetLatestRelease {});
repo_arguments!(GetReleaseByTag {
    /// The tag, such as v1.2.0.
    tag: String,
});

/// A release.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Release {
    id: u64,
    tag_name: String,
    name: Option<String>,
    /// The notes, Markdown.
    body: Option<String>,
    draft: bool,
    prerelease: bool,
    /// The branch or commit that it was made from.
    target_commitish: String,
    created_at: String,
    published_at: Option<String>,
    /// Its files.
    #[serde(default)]
    assets: Vec<Asset>,
    html_url: String,
}

/// A file of a release.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Asset {
    name: String,
    /// Size in bytes.
    size: u64,
    download_count: u64,
    browser_download_url: Option<String>,
}

#[tool_router(router = release_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists the releases of a repository, newest first.")]
    async fn list_releases(
        &self,
        Parameters(args): Parameters<ListReleases>,
    ) -> Result<Json<Listed<Release>>, String> {
        self.list(Call::get(args.path("/releases")?), args.page())
            .await
    }

    #[tool(
        description = "Reads the latest release of a repository; drafts and prereleases do not count."
    )]
    async fn get_latest_release(
        &self,
        Parameters(args): Parameters<GetLatestRelease>,
    ) -> Result<Json<Release>, String> {
        Ok(Json(
            self.fetch(Call::get(args.path("/releases/latest")?))
                .await?,
        ))
    }

    #[tool(description = "Reads the release of a tag.")]
    async fn get_release_by_tag(
        &self,
        Parameters(args): Parameters<GetReleaseByTag>,
    ) -> Result<Json<Release>, String> {
        let path = args.path(&format!(
            "/releases/tags{}",
            some_segments("tag", &args.tag)?
        ))?;
        Ok(Json(self.fetch(Call::get(path)).await?))
    }
}
