//! Figma's document tree, cut down to what a language model needs to understand or rebuild a design. Pure.

use serde_json::{Map, Value, json};

/// Most nodes shown in one answer.
pub(crate) const NODES_MAX: usize = 2_000;

/// Cuts trees down, and counts what it leaves out.
#[derive(Default)]
pub(crate) struct Simplifier {
    shown: usize,
    /// Whether nodes were left out because there are more than [`NODES_MAX`].
    pub(crate) truncated: bool,
}

impl Simplifier {
    /// The node and its children; `None` for what cannot be seen, and past the cap.
    pub(crate) fn simplify(&mut self, node: &Value) -> Option<Value> {
        if node["visible"] == json!(false) {
            return None;
        }
        if self.shown >= NODES_MAX {
            self.truncated = true;
            return None;
        }
        self.shown += 1;
        let mut out = Map::new();
        for name in ["id", "name", "type"] {
            out.insert(name.to_owned(), node[name].clone());
        }
        if let Some(text) = node["characters"].as_str() {
            out.insert("text".to_owned(), json!(text));
            put(&mut out, "textStyle", text_style(&node["style"]));
        }
        put(&mut out, "box", bounding_box(&node["absoluteBoundingBox"]));
        put(&mut out, "layout", layout(node));
        put(&mut out, "fills", paints(&node["fills"]));
        put(&mut out, "strokes", paints(&node["strokes"]));
        if out.contains_key("strokes") {
            put(&mut out, "strokeWeight", number(&node["strokeWeight"]));
        }
        put(&mut out, "effects", effects(&node["effects"]));
        put(&mut out, "cornerRadius", number(&node["cornerRadius"]));
        put(
            &mut out,
            "cornerRadii",
            some_array(&node["rectangleCornerRadii"]),
        );
        if node["opacity"]
            .as_f64()
            .is_some_and(|opacity| opacity < 1.0)
        {
            put(&mut out, "opacity", number(&node["opacity"]));
        }
        put(
            &mut out,
            "componentId",
            node["componentId"].as_str().map(Value::from),
        );
        put(
            &mut out,
            "componentProperties",
            component_properties(&node["componentProperties"]),
        );
        if let Some(children) = node["children"].as_array() {
            let shown: Vec<Value> = children
                .iter()
                .filter_map(|child| self.simplify(child))
                .collect();
            if !shown.is_empty() {
                out.insert("children".to_owned(), Value::Array(shown));
            }
        }
        Some(Value::Object(out))
    }
}

fn put(out: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        out.insert(name.to_owned(), value);
    }
}

/// A number, rounded to two places: more is noise of Figma's arithmetic.
fn number(value: &Value) -> Option<Value> {
    let rounded = (value.as_f64()? * 100.0).round() / 100.0;
    Some(if rounded.fract() == 0.0 && rounded.abs() < 1e15 {
        json!(rounded as i64)
    } else {
        json!(rounded)
    })
}

fn some_array(value: &Value) -> Option<Value> {
    value
        .as_array()
        .filter(|array| !array.is_empty())
        .map(|array| array.iter().filter_map(number).collect())
}

fn bounding_box(value: &Value) -> Option<Value> {
    Some(json!({
        "x": number(&value["x"])?,
        "y": number(&value["y"])?,
        "width": number(&value["width"])?,
        "height": number(&value["height"])?,
    }))
}

fn layout(node: &Value) -> Option<Value> {
    let mode = node["layoutMode"].as_str().filter(|mode| *mode != "NONE")?;
    let mut out = Map::new();
    out.insert("mode".to_owned(), json!(mode.to_lowercase()));
    for (name, from) in [
        ("gap", "itemSpacing"),
        ("paddingTop", "paddingTop"),
        ("paddingRight", "paddingRight"),
        ("paddingBottom", "paddingBottom"),
        ("paddingLeft", "paddingLeft"),
    ] {
        let value = number(&node[from]).filter(|value| *value != json!(0));
        put(&mut out, name, value);
    }
    for (name, from) in [
        ("justify", "primaryAxisAlignItems"),
        ("align", "counterAxisAlignItems"),
        ("wrap", "layoutWrap"),
        ("horizontalSizing", "layoutSizingHorizontal"),
        ("verticalSizing", "layoutSizingVertical"),
    ] {
        put(
            &mut out,
            name,
            node[from].as_str().map(|text| json!(text.to_lowercase())),
        );
    }
    Some(Value::Object(out))
}

fn text_style(style: &Value) -> Option<Value> {
    let mut out = Map::new();
    put(
        &mut out,
        "font",
        style["fontFamily"].as_str().map(Value::from),
    );
    for (name, from) in [
        ("weight", "fontWeight"),
        ("size", "fontSize"),
        ("lineHeight", "lineHeightPx"),
        ("letterSpacing", "letterSpacing"),
    ] {
        put(
            &mut out,
            name,
            number(&style[from]).filter(|value| *value != json!(0)),
        );
    }
    put(
        &mut out,
        "align",
        style["textAlignHorizontal"]
            .as_str()
            .map(|t| json!(t.to_lowercase())),
    );
    put(
        &mut out,
        "case",
        style["textCase"].as_str().map(|t| json!(t.to_lowercase())),
    );
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Paints as texts: `#rrggbb`, `#rrggbbaa`, `image:REF`, or the gradient's colours.
fn paints(value: &Value) -> Option<Value> {
    let shown: Vec<Value> = value
        .as_array()?
        .iter()
        .filter(|paint| paint["visible"] != json!(false))
        .filter_map(|paint| {
            let opacity = paint["opacity"].as_f64().unwrap_or(1.0);
            match paint["type"].as_str()? {
                "SOLID" => Some(json!(colour(&paint["color"], opacity)?)),
                "IMAGE" => Some(json!(format!(
                    "image:{}",
                    paint["imageRef"].as_str().unwrap_or("?")
                ))),
                kind => {
                    let stops = paint["gradientStops"].as_array()?;
                    let colours: Vec<String> = stops
                        .iter()
                        .filter_map(|stop| colour(&stop["color"], opacity))
                        .collect();
                    Some(json!(format!(
                        "{}({})",
                        kind.to_lowercase(),
                        colours.join(", ")
                    )))
                }
            }
        })
        .collect();
    (!shown.is_empty()).then_some(Value::Array(shown))
}

fn colour(value: &Value, opacity: f64) -> Option<String> {
    let channel = |name: &str| {
        value[name]
            .as_f64()
            .map(|c| (c.clamp(0.0, 1.0) * 255.0).round() as u8)
    };
    let (red, green, blue) = (channel("r")?, channel("g")?, channel("b")?);
    let alpha = (value["a"].as_f64().unwrap_or(1.0) * opacity).clamp(0.0, 1.0);
    let alpha = (alpha * 255.0).round() as u8;
    Some(if alpha == u8::MAX {
        format!("#{red:02x}{green:02x}{blue:02x}")
    } else {
        format!("#{red:02x}{green:02x}{blue:02x}{alpha:02x}")
    })
}

fn effects(value: &Value) -> Option<Value> {
    let shown: Vec<Value> = value
        .as_array()?
        .iter()
        .filter(|effect| effect["visible"] != json!(false))
        .filter_map(|effect| {
            let mut out = Map::new();
            out.insert(
                "type".to_owned(),
                json!(effect["type"].as_str()?.to_lowercase()),
            );
            put(&mut out, "radius", number(&effect["radius"]));
            put(&mut out, "x", number(&effect["offset"]["x"]));
            put(&mut out, "y", number(&effect["offset"]["y"]));
            put(
                &mut out,
                "colour",
                colour(&effect["color"], 1.0).map(Value::from),
            );
            Some(Value::Object(out))
        })
        .collect();
    (!shown.is_empty()).then_some(Value::Array(shown))
}

fn component_properties(value: &Value) -> Option<Value> {
    let properties: Map<String, Value> = value
        .as_object()?
        .iter()
        .map(|(name, property)| {
            // Figma appends an id that says nothing: "Label#12:3".
            let name = name.split('#').next().unwrap_or(name);
            (name.to_owned(), property["value"].clone())
        })
        .collect();
    (!properties.is_empty()).then_some(Value::Object(properties))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_what_a_model_needs() {
        let node = json!({
            "id": "1:2", "name": "Card", "type": "FRAME", "scrollBehavior": "SCROLLS",
            "layoutMode": "VERTICAL", "itemSpacing": 8.0, "paddingTop": 0, "paddingLeft": 16,
            "absoluteBoundingBox": {"x": 0.0, "y": 1.005_001, "width": 320, "height": 64.333},
            "fills": [{"type": "SOLID", "color": {"r": 1, "g": 0.5, "b": 0, "a": 1}, "opacity": 0.5},
                      {"type": "SOLID", "visible": false, "color": {"r": 0, "g": 0, "b": 0, "a": 1}}],
            "children": [
                {"id": "1:3", "name": "T", "type": "TEXT", "characters": "Hi",
                 "style": {"fontFamily": "Inter", "fontWeight": 600, "fontSize": 14, "letterSpacing": 0}},
                {"id": "1:4", "name": "hidden", "type": "FRAME", "visible": false},
            ],
        });
        let mut simplifier = Simplifier::default();
        assert_eq!(
            simplifier.simplify(&node),
            Some(json!({
                "id": "1:2", "name": "Card", "type": "FRAME",
                "box": {"x": 0, "y": 1.01, "width": 320, "height": 64.33},
                "layout": {"mode": "vertical", "gap": 8, "paddingLeft": 16},
                "fills": ["#ff800080"],
                "children": [{"id": "1:3", "name": "T", "type": "TEXT", "text": "Hi",
                              "textStyle": {"font": "Inter", "weight": 600, "size": 14}}],
            }))
        );
        assert!(!simplifier.truncated);
    }

    #[test]
    fn a_huge_tree_is_cut_and_told() {
        let child = json!({"id": "2:1", "name": "n", "type": "FRAME"});
        let node =
            json!({"id": "1:1", "name": "n", "type": "FRAME", "children": vec![child; NODES_MAX]});
        let mut simplifier = Simplifier::default();
        let shown = simplifier.simplify(&node).expect("visible");
        assert_eq!(
            shown["children"].as_array().map(Vec::len),
            Some(NODES_MAX - 1)
        );
        assert!(simplifier.truncated);
    }
}
