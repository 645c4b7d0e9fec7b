//! Tools that find files: projects of a team, files of a project, and what a file is.

use minimcp_rest::Call;
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    Figma,
    design::Author,
    server::{file_path, number_id},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListProjects {
    /// The team: in figma.com/files/team/ID/… the part ID.
    #[serde(rename = "teamId")]
    team_id: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListFiles {
    /// The project, as list_team_projects gives it.
    #[serde(rename = "projectId")]
    project_id: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetMeta {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
}

/// The projects of a team.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Projects {
    /// The team's name.
    name: String,
    projects: Vec<Project>,
}

/// A project.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Project {
    id: String,
    name: String,
}

/// The files of a project.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Files {
    /// The project's name.
    name: String,
    files: Vec<FileHead>,
}

/// A file of a project.
#[derive(Deserialize, Serialize, JsonSchema)]
struct FileHead {
    /// What the other tools take as fileKey.
    key: String,
    name: String,
    last_modified: Option<String>,
    thumbnail_url: Option<String>,
}

/// What a file is.
#[derive(Deserialize, Serialize, JsonSchema)]
struct FileMeta {
    name: String,
    /// The project it is in.
    folder_name: Option<String>,
    last_touched_at: Option<String>,
    creator: Option<Author>,
    last_touched_by: Option<Author>,
    /// figma, figjam, slides, buzz, sites or make.
    #[serde(rename = "editorType")]
    editor_type: Option<String>,
    /// What the token's user is in it: owner, editor or viewer.
    role: Option<String>,
    url: Option<String>,
    version: Option<String>,
}

#[derive(Deserialize)]
struct MetaAnswer {
    file: FileMeta,
}

#[tool_router(router = team_tools, vis = "pub(crate)")]
impl Figma {
    #[tool(
        description = "Lists the projects of a Figma team that the token's user may see.",
        annotations(
            title = "List projects",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_team_projects(
        &self,
        Parameters(args): Parameters<ListProjects>,
    ) -> Result<Json<Projects>, String> {
        let id = number_id("teamId", &args.team_id)?;
        Ok(Json(
            self.fetch(Call::get(format!("/v1/teams/{id}/projects")))
                .await?,
        ))
    }

    #[tool(
        description = "Lists the files of a Figma project, with the keys that the other tools take.",
        annotations(
            title = "List files",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_project_files(
        &self,
        Parameters(args): Parameters<ListFiles>,
    ) -> Result<Json<Files>, String> {
        let id = number_id("projectId", &args.project_id)?;
        Ok(Json(
            self.fetch(Call::get(format!("/v1/projects/{id}/files")))
                .await?,
        ))
    }

    #[tool(
        description = "Tells what a Figma file is: name, project, creator, last change, kind and role, without its \
                       content.",
        annotations(
            title = "Get file metadata",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_file_meta(
        &self,
        Parameters(args): Parameters<GetMeta>,
    ) -> Result<Json<FileMeta>, String> {
        let answer: MetaAnswer = self
            .fetch(Call::get(file_path(&args.file_key, "/meta")?))
            .await?;
        Ok(Json(answer.file))
    }
}
