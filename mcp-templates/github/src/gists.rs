//! Tools of the toolset gists.

use std::collections::BTreeMap;

use minimcp_rest::{Call, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use crate::{
    GitHub,
    arguments::{name, not_blank, paged_arguments},
    model::Listed,
};

paged_arguments!(ListGists {
    /// The login of a user; absent: the one whose token it is.
    username: Option<String>,
    /// Only gists changed after this time, ISO 8601, such as 2026-01-31T00:00:00Z.
    since: Option<String>,
});

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetGist {
    /// The gist's id, the last part of its address.
    gist_id: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateGist {
    /// The name of its file.
    filename: String,
    /// The text of its file.
    content: String,
    /// What it is.
    description: Option<String>,
    /// Whether everyone finds it; absent: only who has its address.
    #[serde(default)]
    public: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UpdateGist {
    /// The gist's id, the last part of its address.
    gist_id: String,
    /// The file to write: a new one, or in place of the one of that name.
    filename: String,
    /// The whole text of the file.
    content: String,
    /// What the gist is, if that changes.
    description: Option<String>,
}

/// A gist.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Gist {
    id: String,
    description: Option<String>,
    public: bool,
    /// The login of its owner.
    #[serde(deserialize_with = "login", default)]
    owner: Option<String>,
    /// Its files by name; a list of gists leaves their content out.
    files: BTreeMap<String, GistFile>,
    comments: Option<u64>,
    created_at: String,
    updated_at: String,
    html_url: String,
}

/// A file of a gist.
#[derive(Deserialize, Serialize, JsonSchema)]
struct GistFile {
    language: Option<String>,
    /// Size in bytes.
    size: Option<u64>,
    content: Option<String>,
    /// Whether GitHub cut the content, as it does from 1 MB on.
    truncated: Option<bool>,
}

fn login<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Login {
        login: String,
    }
    Ok(Option::<Login>::deserialize(deserializer)?.map(|user| user.login))
}

#[tool_router(router = gist_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists the gists of a user.")]
    async fn list_gists(
        &self,
        Parameters(args): Parameters<ListGists>,
    ) -> Result<Json<Listed<Gist>>, String> {
        let page = args.page();
        let path = match &args.username {
            Some(username) => format!("/users/{}/gists", name("username", username)?),
            None => "/gists".to_owned(),
        };
        self.list(Call::get(path).query_opt("since", args.since), page)
            .await
    }

    #[tool(description = "Reads a gist with the content of its files.")]
    async fn get_gist(&self, Parameters(args): Parameters<GetGist>) -> Result<Json<Gist>, String> {
        let path = format!("/gists/{}", name("gist_id", &args.gist_id)?);
        Ok(Json(self.fetch(Call::get(path)).await?))
    }

    #[tool(description = "Creates a gist of one file.")]
    async fn create_gist(
        &self,
        Parameters(args): Parameters<CreateGist>,
    ) -> Result<Json<Gist>, String> {
        let filename = not_blank("filename", &args.filename)?;
        let content = not_blank("content", &args.content)?;
        let mut body = json!({"public": args.public, "files": {filename: {"content": content}}});
        if let Some(description) = args.description {
            body["description"] = json!(description);
        }
        Ok(Json(
            self.fetch(Call::new(Method::POST, "/gists").json(&body))
                .await?,
        ))
    }

    #[tool(description = "Writes a file of a gist; its other files stay as they are.")]
    async fn update_gist(
        &self,
        Parameters(args): Parameters<UpdateGist>,
    ) -> Result<Json<Gist>, String> {
        let path = format!("/gists/{}", name("gist_id", &args.gist_id)?);
        let filename = not_blank("filename", &args.filename)?;
        let content = not_blank("content", &args.content)?;
        let mut body = json!({"files": {filename: {"content": content}}});
        if let Some(description) = args.description {
            body["description"] = json!(description);
        }
        Ok(Json(
            self.fetch(Call::new(Method::PATCH, path).json(&body))
                .await?,
        ))
    }
}
