//! Tools for what libraries publish: components, component sets and styles.

use minimcp_rest::{Call, Error};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Figma,
    server::{SERVICE, checked_key, file_path, number_id},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Listed {
    /// The key of the file whose library it is: in figma.com/design/KEY/… the part KEY. Either this or teamId.
    #[serde(rename = "fileKey")]
    file_key: Option<String>,
    /// The team all of whose libraries are meant: in figma.com/files/team/ID/… the part ID.
    #[serde(rename = "teamId")]
    team_id: Option<String>,
    /// How many of a team, 1 to 100; 30 when absent.
    #[serde(rename = "pageSize")]
    page_size: Option<u32>,
    /// Of a team: the nextAfter of the page before.
    after: Option<u64>,
}

/// What kind of thing a library publishes.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Component,
    ComponentSet,
    Style,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetAsset {
    /// What it is.
    kind: Kind,
    /// Its key, as the lists give it.
    key: String,
}

/// A page of what is published.
#[derive(Serialize, JsonSchema)]
struct Assets {
    assets: Vec<Asset>,
    /// Give this as after for the next page of a team; absent: there is none.
    #[serde(rename = "nextAfter")]
    next_after: Option<u64>,
}

/// A published component, component set or style.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Asset {
    key: String,
    file_key: String,
    node_id: String,
    name: String,
    description: Option<String>,
    /// Of a style: FILL, TEXT, EFFECT or GRID.
    style_type: Option<String>,
    updated_at: Option<String>,
    thumbnail_url: Option<String>,
    /// The frame that a component stands in.
    containing_frame: Option<Frame>,
}

/// A frame around a component.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Frame {
    name: Option<String>,
    #[serde(rename = "nodeId")]
    node_id: Option<String>,
    #[serde(rename = "pageName")]
    page_name: Option<String>,
}

#[derive(Deserialize)]
struct Answer<T> {
    meta: T,
}

#[derive(Deserialize)]
struct Page {
    #[serde(alias = "components", alias = "component_sets", alias = "styles")]
    assets: Vec<Asset>,
    cursor: Option<Cursor>,
}

#[derive(Deserialize)]
struct Cursor {
    after: Option<f64>,
}

#[tool_router(router = library_tools, vis = "pub(crate)")]
impl Figma {
    #[tool(
        description = "Lists the components that a file, or all files of a team, publish as a library.",
        annotations(
            title = "List components",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_components(
        &self,
        Parameters(args): Parameters<Listed>,
    ) -> Result<Json<Assets>, String> {
        Ok(Json(self.assets(args, "components").await?))
    }

    #[tool(
        description = "Lists the component sets (components with variants) that a file, or all files of a team, publish.",
        annotations(
            title = "List component sets",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_component_sets(
        &self,
        Parameters(args): Parameters<Listed>,
    ) -> Result<Json<Assets>, String> {
        Ok(Json(self.assets(args, "component_sets").await?))
    }

    #[tool(
        description = "Lists the styles (colours, texts, effects, grids) that a file, or all files of a team, publish.",
        annotations(
            title = "List styles",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_styles(
        &self,
        Parameters(args): Parameters<Listed>,
    ) -> Result<Json<Assets>, String> {
        Ok(Json(self.assets(args, "styles").await?))
    }

    #[tool(
        description = "Reads a published component, component set or style by its key, and tells in which file it is.",
        annotations(
            title = "Get library asset",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_library_asset(
        &self,
        Parameters(args): Parameters<GetAsset>,
    ) -> Result<Json<Asset>, String> {
        let collection = match args.kind {
            Kind::Component => "components",
            Kind::ComponentSet => "component_sets",
            Kind::Style => "styles",
        };
        let key = checked_key("key", &args.key)?;
        Ok(Json(
            self.meta(Call::get(format!("/v1/{collection}/{key}")))
                .await?,
        ))
    }
}

impl Figma {
    async fn assets(&self, args: Listed, collection: &str) -> Result<Assets, Error> {
        let refuse = |message: &str| Err(Error::argument(SERVICE, message));
        if args
            .page_size
            .is_some_and(|size| !(1..=100).contains(&size))
        {
            return refuse("pageSize must be 1 to 100");
        }
        let call = match (&args.file_key, &args.team_id) {
            (Some(_), None) if args.page_size.is_some() || args.after.is_some() => {
                return refuse("a file's list has one page: pageSize and after are for teamId");
            }
            (Some(file), None) => Call::get(file_path(file, &format!("/{collection}"))?),
            (None, Some(team)) => Call::get(format!(
                "/v1/teams/{}/{collection}",
                number_id("teamId", team)?
            ))
            .query_opt("page_size", args.page_size)
            .query_opt("after", args.after),
            _ => return refuse("give fileKey or teamId"),
        };
        let page: Page = self.meta(call).await?;
        // A page without anything is the end, whatever its cursor says.
        let after = page.cursor.and_then(|cursor| cursor.after);
        let next_after = after
            .filter(|_| !page.assets.is_empty())
            .map(|after| after as u64);
        Ok(Assets {
            assets: page.assets,
            next_after,
        })
    }

    /// Sends `call` and reads the `meta` of its JSON.
    pub(crate) async fn meta<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let answer: Answer<T> = self.fetch(call).await?;
        Ok(answer.meta)
    }
}
