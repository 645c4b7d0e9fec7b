//! A file of Figma, read as it comes in: of each node only what is shown is kept, of a hidden one nothing. A file of a
//! hundred megabytes takes no more memory than its answer. Pure.

use std::{collections::BTreeMap, fmt, io::Read};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::tree::{READ, Taken};

/// A file, or nodes of it.
#[derive(Default)]
pub(crate) struct File {
    pub(crate) name: Option<String>,
    pub(crate) last_modified: Option<String>,
    pub(crate) version: Option<String>,
    /// The document, or the nodes that were asked for and are there.
    pub(crate) nodes: Vec<Map<String, Value>>,
    /// Names of components, by their ids.
    pub(crate) components: BTreeMap<String, String>,
    /// Names of styles, by their ids.
    pub(crate) styles: BTreeMap<String, String>,
    pub(crate) taken: Taken,
}

/// Reads the answer of `GET /v1/files/KEY` or `…/nodes`.
pub(crate) fn read(reader: &mut dyn Read) -> serde_json::Result<File> {
    let mut file = File::default();
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    FileSeed(&mut file).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(file)
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

fn add_names(names: &mut BTreeMap<String, String>, more: BTreeMap<String, Named>) {
    names.extend(more.into_iter().map(|(id, named)| (id, named.name)));
}

/// The members of a file, and those of an entry of `nodes`, which lack the name.
struct FileSeed<'a>(&'a mut File);

impl<'de> DeserializeSeed<'de> for FileSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FileSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a file or null")
    }

    /// A node that was asked for and is not there.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let file = self.0;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "name" => file.name = Some(map.next_value()?),
                "lastModified" => file.last_modified = map.next_value()?,
                "version" => file.version = map.next_value()?,
                "components" | "componentSets" => {
                    add_names(&mut file.components, map.next_value()?)
                }
                "styles" => add_names(&mut file.styles, map.next_value()?),
                "document" => {
                    if let NodeRead::Shown(node) = map.next_value_seed(NodeSeed(&mut file.taken))? {
                        file.nodes.push(node);
                    }
                }
                "nodes" => map.next_value_seed(NodesSeed(file))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The member `nodes`: an object of entries like small files.
struct NodesSeed<'a>(&'a mut File);

impl<'de> DeserializeSeed<'de> for NodesSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for NodesSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nodes by their ids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(FileSeed(self.0))?;
        }
        Ok(())
    }
}

/// What became of a node.
enum NodeRead {
    Shown(Map<String, Value>),
    /// It cannot be seen.
    Hidden,
    /// There was no room for it.
    NoRoom,
}

struct NodeSeed<'a>(&'a mut Taken);

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = NodeRead;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<NodeRead, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = NodeRead;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NodeRead, A::Error> {
        let taken = self.0;
        if taken.is_full() {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(NodeRead::NoRoom);
        }
        taken.count_in();
        let mut members = Map::new();
        let (mut children, mut left_out) = (Vec::new(), 0);
        while let Some(key) = map.next_key::<String>()? {
            let hidden = members.get("visible") == Some(&Value::Bool(false));
            match key.as_str() {
                "children" if !hidden => {
                    (children, left_out) = map.next_value_seed(ChildrenSeed(taken))?;
                }
                name if READ.contains(&name) => {
                    let value = map.next_value()?;
                    members.insert(key, value);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if members.get("visible") == Some(&Value::Bool(false)) {
            return Ok(NodeRead::Hidden);
        }
        Ok(NodeRead::Shown(taken.take(
            &Value::Object(members),
            children,
            left_out,
        )))
    }
}

/// The children of a node, and how many of them had no room.
struct ChildrenSeed<'a>(&'a mut Taken);

impl<'de> DeserializeSeed<'de> for ChildrenSeed<'_> {
    type Value = (Vec<Value>, usize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ChildrenSeed<'_> {
    type Value = (Vec<Value>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("children")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (mut shown, mut left_out) = (Vec::new(), 0);
        while let Some(child) = seq.next_element_seed(NodeSeed(self.0))? {
            match child {
                NodeRead::Shown(node) => shown.push(Value::Object(node)),
                NodeRead::Hidden => {}
                NodeRead::NoRoom => left_out += 1,
            }
        }
        Ok((shown, left_out))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tree::NODES_MAX;

    fn file(document: &Value) -> File {
        let answer =
            json!({"name": "F", "document": document, "junk": [1, {"deep": null}]}).to_string();
        read(&mut answer.as_bytes()).expect("a file")
    }

    #[test]
    fn a_node_keeps_what_a_model_needs() {
        let node = json!({
            "id": "1:2", "name": "Card", "type": "FRAME", "scrollBehavior": "SCROLLS",
            "children": [
                {"id": "1:3", "name": "T", "type": "TEXT", "characters": "Hi", "styles": {"text": "9:1"},
                 "style": {"fontFamily": "Inter", "fontWeight": 600, "fontSize": 14, "letterSpacing": 0}},
                {"id": "1:4", "name": "hidden", "visible": false, "type": "FRAME", "children": [{"id": "1:5"}]},
                // Hidden is hidden, also where that is told last.
                {"id": "1:6", "name": "hidden", "type": "FRAME", "children": [], "visible": false},
            ],
            "layoutMode": "VERTICAL", "itemSpacing": 8.0, "paddingTop": 0, "paddingLeft": 16,
            "absoluteBoundingBox": {"x": 0.0, "y": 1.005_001, "width": 320, "height": 64.333},
            "fills": [{"type": "SOLID", "color": {"r": 1, "g": 0.5, "b": 0, "a": 1}, "opacity": 0.5},
                      {"type": "SOLID", "visible": false, "color": {"r": 0, "g": 0, "b": 0, "a": 1}}],
            "boundVariables": {"fills": [{"type": "VARIABLE_ALIAS", "id": "VariableID:1:1"}]},
        });
        let file = file(&node);
        assert_eq!(
            Value::Object(file.nodes[0].clone()),
            json!({
                "id": "1:2", "name": "Card", "type": "FRAME",
                "box": {"x": 0, "y": 1.01, "width": 320, "height": 64.33},
                "layout": {"mode": "vertical", "gap": 8, "paddingLeft": 16},
                "fills": ["#ff800080"], "variableIds": {"fills": "VariableID:1:1"},
                "children": [{"id": "1:3", "name": "T", "type": "TEXT", "text": "Hi", "styleIds": {"text": "9:1"},
                              "textStyle": {"font": "Inter", "weight": 600, "size": 14}}],
            })
        );
        assert!(!file.taken.truncated);
    }

    #[test]
    fn a_huge_tree_is_cut_and_where_to_go_on_is_told() {
        let child = json!({"id": "2:1", "name": "n", "type": "FRAME", "children": [
            {"id": "2:2", "name": "n", "type": "FRAME"}]});
        let file = file(
            &json!({"id": "1:1", "name": "n", "type": "FRAME", "children": vec![child; NODES_MAX]}),
        );
        let root = &file.nodes[0];
        let children = root["children"].as_array().map_or(0, Vec::len);
        assert!(
            file.taken.truncated && (NODES_MAX / 2 - 1..=NODES_MAX / 2).contains(&children),
            "{children}"
        );
        assert_eq!(root["childrenLeftOut"], NODES_MAX - children);
        assert!(file.taken.deeper.contains(&"1:1".to_owned()));
        let long = json!({"id": "1:1", "type": "FRAME", "children": vec![
            json!({"id": "2:1", "type": "TEXT", "characters": "x".repeat(10_000)}); 100]});
        let answer = json!({"name": "F", "document": long}).to_string();
        let read = read(&mut answer.as_bytes()).expect("a file");
        let size = Value::Object(read.nodes[0].clone()).to_string().len();
        assert!(size < 450_000 && read.taken.truncated, "{size}");
    }

    #[test]
    fn nodes_come_with_their_names_and_those_not_there_as_null() {
        let answer = json!({"name": "F", "nodes": {"1:2": null, "1:3": {
            "document": {"id": "1:3", "name": "n", "type": "INSTANCE", "componentId": "5:5"},
            "components": {"5:5": {"key": "k", "name": "Button", "description": ""}}, "componentSets": {},
            "styles": {"9:1": {"name": "Heading", "key": "s"}}}}})
        .to_string();
        let file = read(&mut answer.as_bytes()).expect("a file");
        assert_eq!((file.nodes.len(), file.name.as_deref()), (1, Some("F")));
        assert_eq!(file.components["5:5"], "Button");
        assert_eq!(file.styles["9:1"], "Heading");
        for broken in [
            "",
            "[]",
            "{",
            r#"{"document": 7}"#,
            r#"{"document": {"children": {}}}"#,
            "{} {}",
        ] {
            assert!(read(&mut broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
