//! Tools on the labels of a repository.

use minimcp_rest::{Call, Method, path_segment};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::{
    GitHub,
    arguments::{not_blank, paged_repo_arguments, refuse, repo_arguments},
    model::{Label, Listed},
};

repo_arguments!(GetLabel {
    /// The label's name.
    name: String,
});

paged_repo_arguments!(ListLabels {});

repo_arguments!(LabelWrite {
    /// What to do.
    method: LabelMethod,
    /// The label's name.
    name: String,
    /// To change it: its new name.
    new_name: Option<String>,
    /// Six hexadecimal digits without #, such as f29513; needed to create.
    color: Option<String>,
    /// What it means.
    description: Option<String>,
});

/// What to do with a label.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum LabelMethod {
    Create,
    Update,
    Delete,
}

/// What became of a label.
#[derive(Serialize, JsonSchema)]
struct WrittenLabel {
    /// The label as it is now; absent when it was deleted.
    label: Option<Label>,
    deleted: bool,
}

#[tool_router(router = one_label_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Reads a label of a repository.")]
    async fn get_label(
        &self,
        Parameters(args): Parameters<GetLabel>,
    ) -> Result<Json<Label>, String> {
        let name = path_segment(not_blank("name", &args.name)?);
        Ok(Json(
            self.fetch(Call::get(args.path(&format!("/labels/{name}"))?))
                .await?,
        ))
    }
}

#[tool_router(router = label_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists the labels of a repository.")]
    async fn list_label(
        &self,
        Parameters(args): Parameters<ListLabels>,
    ) -> Result<Json<Listed<Label>>, String> {
        self.list(Call::get(args.path("/labels")?), args.page())
            .await
    }

    #[tool(description = "Creates, changes or deletes a label of a repository.")]
    async fn label_write(
        &self,
        Parameters(args): Parameters<LabelWrite>,
    ) -> Result<Json<WrittenLabel>, String> {
        let name = not_blank("name", &args.name)?;
        let hexadecimal =
            |color: &String| color.len() == 6 && color.bytes().all(|b| b.is_ascii_hexdigit());
        if !args.color.as_ref().is_none_or(hexadecimal) {
            return refuse("color must be six hexadecimal digits without #, such as f29513");
        }
        let mut body = Map::new();
        for (key, value) in [
            ("new_name", &args.new_name),
            ("color", &args.color),
            ("description", &args.description),
        ] {
            if let Some(value) = value {
                body.insert(key.to_owned(), json!(value));
            }
        }
        let one = args.path(&format!("/labels/{}", path_segment(name)))?;
        let call = match args.method {
            LabelMethod::Create if args.new_name.is_some() => {
                return refuse("new_name is for the method update");
            }
            LabelMethod::Create if args.color.is_none() => {
                return refuse("color is needed to create a label");
            }
            LabelMethod::Create => {
                body.insert("name".to_owned(), json!(name));
                Call::new(Method::POST, args.path("/labels")?).json(&body)
            }
            LabelMethod::Update if body.is_empty() => return refuse("there is nothing to change"),
            LabelMethod::Update => Call::new(Method::PATCH, one).json(&body),
            LabelMethod::Delete => {
                self.send(Call::new(Method::DELETE, one).once()).await?;
                return Ok(Json(WrittenLabel {
                    label: None,
                    deleted: true,
                }));
            }
        };
        let label = Some(self.fetch(call).await?);
        Ok(Json(WrittenLabel {
            label,
            deleted: false,
        }))
    }
}
