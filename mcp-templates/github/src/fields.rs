//! The argument `fields` of lists: which fields of each entry are wanted, so that long lists stay short. It is the same
//! for all of them, so it is taken out of the arguments before a tool sees them, and the entries are cut afterwards.

use std::sync::Arc;

use rmcp::model::{CallToolRequestParams, CallToolResponse, Tool};
use serde_json::{Value, json};

/// The tools that take it, and what their answers call the list.
const LISTS: &[(&str, &str)] = &[
    ("get_file_contents", "entries"),
    ("list_commits", "items"),
    ("list_issues", "issues"),
    ("list_pull_requests", "items"),
    ("list_releases", "items"),
    ("search_code", "items"),
    ("search_issues", "items"),
    ("search_pull_requests", "items"),
];

fn list_of(tool: &str) -> Option<&'static str> {
    let (_, list) = LISTS.iter().find(|(name, _)| *name == tool)?;
    Some(list)
}

/// Adds the argument to the tool's schema, with the fields of the entries of its answer, which may all be absent then.
pub(crate) fn offer(tool: &mut Tool) {
    let Some(list) = list_of(&tool.name) else {
        return;
    };
    let Some(output) = &mut tool.output_schema else {
        return;
    };
    let output = Arc::make_mut(output);
    let items = output
        .get("properties")
        .map(|properties| properties[list].clone());
    let Some(name) = items.as_ref().and_then(entry_type) else {
        return;
    };
    let Some(Value::Object(entry)) = output
        .get_mut("$defs")
        .and_then(|types| types.get_mut(name))
    else {
        return;
    };
    entry.remove("required");
    let Some(Value::Object(fields)) = entry.get("properties") else {
        return;
    };
    let names: Vec<&String> = fields.keys().collect();
    let argument = json!({
        "description": format!("Which fields of each of {list} are wanted; absent: all."),
        "type": "array",
        "items": {"type": "string", "enum": names},
    });
    let input = Arc::make_mut(&mut tool.input_schema);
    if let Some(Value::Object(arguments)) = input.get_mut("properties") {
        arguments.insert("fields".to_owned(), argument);
    }
}

/// The name of the type of the entries of a list, whose schema may allow null too.
fn entry_type(list: &Value) -> Option<&str> {
    list["items"]["$ref"].as_str()?.strip_prefix("#/$defs/")
}

/// The fields that may be named.
fn allowed(tool: &Tool) -> &Value {
    let arguments = tool.input_schema.get("properties").unwrap_or(&Value::Null);
    &arguments["fields"]["items"]["enum"]
}

/// What is wanted of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    list: &'static str,
    names: Vec<String>,
}

/// Takes the argument out of a call; `None` when everything is wanted.
pub(crate) fn take(
    tool: Option<&Tool>,
    request: &mut CallToolRequestParams,
) -> Result<Option<Wanted>, String> {
    let (Some(list), Some(tool)) = (list_of(&request.name), tool) else {
        return Ok(None);
    };
    let given = request
        .arguments
        .as_mut()
        .and_then(|arguments| arguments.remove("fields"));
    let known = allowed(tool);
    let refused = || format!("fields must be a list of some of {known}");
    let names = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(names)) => names,
        Some(_) => return Err(refused()),
    };
    let known_names = known.as_array().map(Vec::as_slice).unwrap_or_default();
    if !names.iter().all(|name| known_names.contains(name)) {
        return Err(refused());
    }
    let names: Vec<String> = names
        .iter()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect();
    Ok(Some(Wanted { list, names }).filter(|wanted| !wanted.names.is_empty()))
}

impl Wanted {
    /// Cuts the entries of a good answer.
    pub(crate) fn keep(&self, response: &mut CallToolResponse) {
        let CallToolResponse::Complete(result) = response else {
            return;
        };
        let list = result
            .structured_content
            .as_mut()
            .and_then(|value| value.get_mut(self.list));
        for entry in list.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(entry) = entry {
                entry.retain(|name, _| self.names.contains(name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rmcp::model::CallToolResult;

    use super::*;
    use crate::catalogue::{Toolset, offered};

    fn request(fields: Value) -> CallToolRequestParams {
        let mut request = CallToolRequestParams::new("list_issues");
        request.arguments = json!({"owner": "o", "fields": fields}).as_object().cloned();
        request
    }

    #[test]
    fn every_tool_of_the_list_takes_it() {
        let tools = offered(&Toolset::ALL, false);
        for (name, list) in LISTS {
            let tool = tools.get(name).unwrap_or_else(|| panic!("no tool {name}"));
            let names = allowed(tool);
            assert!(
                names.as_array().is_some_and(|names| names.len() > 3),
                "{name} {list}: {names}"
            );
        }
        let with = tools
            .map
            .values()
            .filter(|route| allowed(&route.attr).is_array());
        assert_eq!(with.count(), LISTS.len());
    }

    #[test]
    fn the_argument_is_taken_checked_and_obeyed() {
        let tools = offered(&[Toolset::Issues], false);
        let tool = tools.get("list_issues");
        let mut good = request(json!(["number", "title"]));
        let wanted = take(tool, &mut good).expect("known fields").expect("some");
        assert_eq!(good.arguments, json!({"owner": "o"}).as_object().cloned());
        let answer =
            json!({"issues": [{"number": 1, "title": "t", "body": "b"}], "next_cursor": "2"});
        let mut response = CallToolResult::structured(answer).into();
        wanted.keep(&mut response);
        let CallToolResponse::Complete(result) = response else {
            panic!("complete")
        };
        let expected = json!({"issues": [{"number": 1, "title": "t"}], "next_cursor": "2"});
        assert_eq!(result.structured_content, Some(expected));
        for everything in [json!(null), json!([])] {
            assert_eq!(take(tool, &mut request(everything)), Ok(None));
        }
        for bad in [json!(["size"]), json!("number"), json!([1])] {
            let fault = take(tool, &mut request(bad)).expect_err("unknown");
            assert!(fault.contains("state_reason"), "{fault}");
        }
    }
}
