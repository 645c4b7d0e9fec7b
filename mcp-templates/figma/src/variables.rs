//! Tools for variables: the tokens of a design system.

use std::collections::BTreeMap;

use minimcp_rest::{Call, Error};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Figma,
    server::{SERVICE, file_path},
    tree::colour,
};

/// Most variables of one answer.
const VARIABLES_MAX: usize = 500;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetVariables {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// Only the published ones, without their values.
    #[serde(default)]
    published: bool,
    /// Only variables whose names contain this.
    name: Option<String>,
    /// How many to leave out: the nextSkip of the page before.
    #[serde(default)]
    skip: usize,
}

/// Variables of a file, by their names.
#[derive(Serialize, JsonSchema)]
struct Variables {
    /// How many there are in all.
    total: usize,
    variables: Vec<Variable>,
    /// Give this as skip for those that follow; absent: there are none.
    #[serde(rename = "nextSkip")]
    next_skip: Option<usize>,
}

/// A variable.
#[derive(Serialize, JsonSchema)]
struct Variable {
    id: String,
    name: String,
    /// The name of its collection.
    collection: Option<String>,
    /// BOOLEAN, FLOAT, STRING or COLOR.
    #[serde(rename = "type")]
    kind: Option<String>,
    description: Option<String>,
    /// Its value in each mode, by the mode's name: a colour as #rrggbb, an alias as {id of the variable}.
    values: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    variables: BTreeMap<String, ApiVariable>,
    variable_collections: BTreeMap<String, Collection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiVariable {
    id: String,
    name: String,
    variable_collection_id: String,
    #[serde(alias = "resolvedDataType")]
    resolved_type: Option<String>,
    description: Option<String>,
    #[serde(default)]
    values_by_mode: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Collection {
    name: String,
    #[serde(default)]
    modes: Vec<Mode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    mode_id: String,
    name: String,
}

#[tool_router(router = variable_tools, vis = "pub(crate)")]
impl Figma {
    #[tool(
        description = "Lists the variables of a Figma file with their values in each mode. Figma gives them to members \
                       of Enterprise organisations only.",
        annotations(
            title = "Get variables",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_variables(
        &self,
        Parameters(args): Parameters<GetVariables>,
    ) -> Result<Json<Variables>, String> {
        if args
            .name
            .as_ref()
            .is_some_and(|name| name.trim().is_empty())
        {
            return Err(Error::argument(SERVICE, "name must not be empty").into());
        }
        let rest = if args.published {
            "/variables/published"
        } else {
            "/variables/local"
        };
        let meta: Meta = self
            .meta(Call::get(file_path(&args.file_key, rest)?))
            .await?;
        Ok(Json(page(meta, args.name.as_deref(), args.skip)))
    }
}

/// The variables that are asked for.
fn page(meta: Meta, name: Option<&str>, skip: usize) -> Variables {
    let collections = meta.variable_collections;
    let wanted = name.map(str::to_lowercase);
    let mut found: Vec<ApiVariable> = meta
        .variables
        .into_values()
        .filter(|variable| {
            wanted
                .as_ref()
                .is_none_or(|wanted| variable.name.to_lowercase().contains(wanted))
        })
        .collect();
    found.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
    let total = found.len();
    let variables: Vec<Variable> = found
        .into_iter()
        .skip(skip)
        .take(VARIABLES_MAX)
        .map(|variable| shown(variable, &collections))
        .collect();
    let next = skip.saturating_add(variables.len());
    Variables {
        total,
        variables,
        next_skip: (next < total).then_some(next),
    }
}

fn shown(variable: ApiVariable, collections: &BTreeMap<String, Collection>) -> Variable {
    let collection = collections.get(&variable.variable_collection_id);
    let mode_name = |id: &String| {
        let modes = collection.map(|collection| &collection.modes);
        let mode = modes.into_iter().flatten().find(|mode| mode.mode_id == *id);
        mode.map_or_else(|| id.clone(), |mode| mode.name.clone())
    };
    let values = variable.values_by_mode.iter().map(|(mode, value)| {
        let alias = value["id"]
            .as_str()
            .filter(|_| value["type"] == "VARIABLE_ALIAS");
        let value = match (alias, colour(value, 1.0)) {
            (Some(id), _) => Value::String(format!("{{{id}}}")),
            (None, Some(colour)) => Value::String(colour),
            (None, None) => value.clone(),
        };
        (mode_name(mode), value)
    });
    Variable {
        values: values.collect(),
        collection: collection.map(|collection| collection.name.clone()),
        id: variable.id,
        name: variable.name,
        kind: variable.resolved_type,
        description: variable.description.filter(|text| !text.is_empty()),
    }
}
