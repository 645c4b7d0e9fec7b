//! Figma's nodes, cut down to what a language model needs to understand or rebuild a design. Pure.

use serde_json::{Map, Value, json};

/// Most nodes shown in one answer.
pub(crate) const NODES_MAX: usize = 2_000;
/// Most bytes of JSON that they may take together.
const BYTES_MAX: usize = 400 * 1024;
/// Most nodes named whose children were left out.
const DEEPER_MAX: usize = 50;

/// The members of a node that [`simplified`] looks at; nothing else is kept while a file is read.
pub(crate) const READ: [&str; 29] = [
    "absoluteBoundingBox",
    "characters",
    "componentId",
    "componentProperties",
    "cornerRadius",
    "counterAxisAlignItems",
    "effects",
    "fills",
    "id",
    "itemSpacing",
    "layoutMode",
    "layoutSizingHorizontal",
    "layoutSizingVertical",
    "layoutWrap",
    "name",
    "opacity",
    "paddingBottom",
    "paddingLeft",
    "paddingRight",
    "paddingTop",
    "primaryAxisAlignItems",
    "rectangleCornerRadii",
    "strokeWeight",
    "strokes",
    "style",
    "styles",
    "type",
    "visible",
    "boundVariables",
];

/// What was taken of a tree, and what was left out.
#[derive(Default)]
pub(crate) struct Taken {
    nodes: usize,
    bytes: usize,
    /// Ids of nodes whose children were left out, wholly or in part, because there are too many.
    pub(crate) deeper: Vec<String>,
    /// Whether anything was left out for that.
    pub(crate) truncated: bool,
}

impl Taken {
    /// Whether no further node has room.
    pub(crate) fn is_full(&self) -> bool {
        self.nodes >= NODES_MAX || self.bytes >= BYTES_MAX
    }

    /// Counts a node in that is about to be read.
    pub(crate) fn count_in(&mut self) {
        self.nodes += 1;
    }

    /// The node of these members with these children, ready to be shown; `left_out` children had no room.
    pub(crate) fn take(
        &mut self,
        members: &Value,
        children: Vec<Value>,
        left_out: usize,
    ) -> Map<String, Value> {
        let mut out = simplified(members);
        self.bytes += Value::Object(out.clone()).to_string().len();
        if !children.is_empty() {
            out.insert("children".to_owned(), Value::Array(children));
        }
        if left_out > 0 {
            self.truncated = true;
            out.insert("childrenLeftOut".to_owned(), json!(left_out));
            if let Some(id) = members["id"].as_str()
                && self.deeper.len() < DEEPER_MAX
            {
                self.deeper.push(id.to_owned());
            }
        }
        out
    }
}

/// What a model needs of a node, its children aside.
fn simplified(node: &Value) -> Map<String, Value> {
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
    let component = node["componentId"].as_str().map(Value::from);
    put(&mut out, "componentId", component);
    let properties = component_properties(&node["componentProperties"]);
    put(&mut out, "componentProperties", properties);
    let styles = node["styles"]
        .as_object()
        .filter(|styles| !styles.is_empty());
    put(&mut out, "styleIds", styles.cloned().map(Value::Object));
    put(
        &mut out,
        "variableIds",
        variable_ids(&node["boundVariables"]),
    );
    out
}

/// Ids of the variables that members of the node are bound to.
fn variable_ids(value: &Value) -> Option<Value> {
    let mut found = Map::new();
    for (member, bound) in value.as_object()? {
        let alias = bound
            .as_array()
            .map_or(bound, |list| list.first().unwrap_or(bound));
        put(&mut found, member, alias["id"].as_str().map(Value::from));
    }
    (!found.is_empty()).then_some(Value::Object(found))
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

/// A colour as `#rrggbb`, or `#rrggbbaa` where it is not opaque.
pub(crate) fn colour(value: &Value, opacity: f64) -> Option<String> {
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
