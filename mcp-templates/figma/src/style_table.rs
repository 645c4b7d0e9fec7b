//! What many nodes share, written once: the same text style in a hundred nodes is a hundredth of the words for a model.
//! Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The members that are shared.
const SHARED: [&str; 5] = ["textStyle", "layout", "fills", "strokes", "effects"];
/// What is shorter than this, as JSON, is not worth a name, in bytes.
const BYTES_MIN: usize = 24;

/// Moves what occurs more than once in `nodes` into a table and puts its name there instead.
pub(crate) fn share(nodes: &mut [Map<String, Value>]) -> Map<String, Value> {
    let mut counts = BTreeMap::new();
    for node in nodes.iter() {
        count(node, &mut counts);
    }
    let mut table = Map::new();
    let mut names = BTreeMap::new();
    for (text, (member, times)) in counts {
        if times > 1 {
            let name = format!("{member}_{}", table.len() + 1);
            let value = serde_json::from_str(&text).unwrap_or_default();
            table.insert(name.clone(), value);
            names.insert(text, name);
        }
    }
    for node in nodes {
        replace(node, &names);
    }
    table
}

fn count(node: &Map<String, Value>, counts: &mut BTreeMap<String, (&'static str, usize)>) {
    for member in SHARED {
        if let Some(value) = node.get(member) {
            let text = value.to_string();
            if text.len() >= BYTES_MIN {
                counts.entry(text).or_insert((member, 0)).1 += 1;
            }
        }
    }
    for child in children(node) {
        count(child, counts);
    }
}

fn children(node: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    let children = node.get("children").and_then(Value::as_array);
    children.into_iter().flatten().filter_map(Value::as_object)
}

fn replace(node: &mut Map<String, Value>, names: &BTreeMap<String, String>) {
    for member in SHARED {
        if let Some(value) = node.get_mut(member)
            && let Some(name) = names.get(&value.to_string())
        {
            *value = json!(name);
        }
    }
    let children = node.get_mut("children").and_then(Value::as_array_mut);
    for child in children
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        replace(child, names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_is_written_once() {
        let style = json!({"font": "Inter", "weight": 700, "size": 16});
        let text = json!({"id": "1", "textStyle": style, "fills": ["#000000"]});
        let node = json!({"id": "0", "children": [text, text, {"id": "3", "layout": {"mode": "vertical", "gap": 888}}]});
        let mut nodes = vec![node.as_object().cloned().expect("an object")];
        let table = share(&mut nodes);
        assert_eq!(Value::Object(table), json!({"textStyle_1": style}));
        let named = json!({"id": "1", "textStyle": "textStyle_1", "fills": ["#000000"]});
        assert_eq!(nodes[0]["children"][0], named);
        assert_eq!(nodes[0]["children"][1], named);
        assert_eq!(
            nodes[0]["children"][2]["layout"]["gap"], 888,
            "once is not shared"
        );
    }
}
