//! `/docs`: the OpenAPI document as one page that needs nothing else: no script, no font, no other host.

use std::fmt::Write;

use serde_json::{Map, Value};

const STYLE: &str = include_str!("docs.css");
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Renders the document as HTML.
#[must_use]
pub fn page(document: &Value) -> String {
    let mut html = String::with_capacity(128 << 10);
    let info = &document["info"];
    let title = escape(text(&info["title"]));
    let _ = write!(
        html,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{title} API</title><style>{STYLE}</style></head><body>"
    );
    navigation(&mut html, document);
    let _ = write!(
        html,
        "<main><h1>{title} API <span class=\"soft\">{}</span></h1>",
        escape(text(&info["version"]))
    );
    for paragraph in text(&info["description"]).split("\n\n") {
        let _ = write!(html, "<p>{}</p>", prose(paragraph));
    }
    html.push_str(
        "<p>The examples use two variables:</p>\
         <pre><code>MINIMCP=http://127.0.0.1:7420\n\
         TOKEN=$(cat ~/.local/share/minimcp/admin-token)   # of a quickstart\n\
         TOKEN=$(cat /var/lib/minimcp/data/admin-token)    # of the service</code></pre>\
         <p>The same as a document for programs: <a href=\"/openapi.json\">/openapi.json</a>.</p>",
    );
    for tag in list(&document["tags"]) {
        let name = text(&tag["name"]);
        let _ = write!(
            html,
            "<h2 id=\"tag-{0}\">{0}</h2><p class=\"soft\">{1}</p>",
            escape(name),
            prose(text(&tag["description"]))
        );
        for (path, method, operation) in operations(document, name) {
            section(&mut html, path, method, operation);
        }
    }
    html.push_str("<h2 id=\"schemas\">Schemas</h2>");
    for (name, schema) in entries(&document["components"]["schemas"]) {
        schema_section(&mut html, name, schema);
    }
    html.push_str("</main></body></html>");
    html
}

fn navigation(html: &mut String, document: &Value) {
    html.push_str("<nav>");
    for tag in list(&document["tags"]) {
        let name = text(&tag["name"]);
        let _ = write!(html, "<h2>{}</h2>", escape(name));
        for (path, method, _) in operations(document, name) {
            let _ = write!(
                html,
                "<a href=\"#{}\"><span class=\"method\">{}</span>{}</a>",
                anchor(path, method),
                method.to_uppercase(),
                escape(path)
            );
        }
    }
    html.push_str("<h2><a href=\"#schemas\">schemas</a></h2></nav>");
}

fn operations<'a>(
    document: &'a Value,
    tag: &'a str,
) -> impl Iterator<Item = (&'a str, &'static str, &'a Value)> {
    entries(&document["paths"]).flat_map(move |(path, item)| {
        METHODS.into_iter().filter_map(move |method| {
            let operation = item.get(method)?;
            let tagged = list(&operation["tags"]).any(|name| name == tag);
            tagged.then_some((path.as_str(), method, operation))
        })
    })
}

fn section(html: &mut String, path: &str, method: &str, operation: &Value) {
    let _ = write!(
        html,
        "<section class=\"op\" id=\"{}\"><h3><span class=\"method\">{}</span>{}</h3><p>{}</p>",
        anchor(path, method),
        method.to_uppercase(),
        escape(path),
        prose(text(&operation["summary"]))
    );
    if let Some(description) = operation["description"].as_str() {
        let _ = write!(html, "<p>{}</p>", prose(description));
    }
    let parameters: Vec<_> = list(&operation["parameters"]).collect();
    if !parameters.is_empty() {
        html.push_str("<table><tr><th>Parameter</th><th>In</th><th>Meaning</th></tr>");
        for parameter in parameters {
            let _ = write!(
                html,
                "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
                escape(text(&parameter["name"])),
                escape(text(&parameter["in"])),
                prose(text(&parameter["description"]))
            );
        }
        html.push_str("</table>");
    }
    let _ = write!(
        html,
        "<pre><code>{}</code></pre>",
        escape(&curl(path, method, operation))
    );
    html.push_str("<table><tr><th>Status</th><th>Answer</th></tr>");
    for (status, response) in entries(&operation["responses"]) {
        let schema = entries(&response["content"])
            .find_map(|(_, content)| content["schema"]["$ref"].as_str())
            .map(reference)
            .unwrap_or_default();
        let _ = write!(
            html,
            "<tr><td><code>{}</code></td><td>{} {schema}</td></tr>",
            escape(status),
            prose(text(&response["description"]))
        );
    }
    html.push_str("</table></section>");
}

fn curl(path: &str, method: &str, operation: &Value) -> String {
    let shown = path.replace("{id}", "my-demo").replace("{name}", "NAME");
    let mut line = format!("curl \"$MINIMCP{shown}\"");
    if method != "get" {
        let _ = write!(line, " -X {}", method.to_uppercase());
    }
    if operation.get("security").is_some() {
        line.push_str(" \\\n  -H \"Authorization: Bearer $TOKEN\"");
    }
    let example = &operation["requestBody"]["content"]["application/json"]["example"];
    if !example.is_null() {
        let body = example.to_string().replace('\'', "'\\''");
        let _ = write!(
            line,
            " \\\n  -H \"Content-Type: application/json\" \\\n  -d '{body}'"
        );
    }
    line
}

fn schema_section(html: &mut String, name: &str, schema: &Value) {
    let _ = write!(
        html,
        "<section class=\"op\" id=\"schema-{0}\"><h3>{0}</h3><p>{1}</p><table>",
        escape(name),
        prose(text(&schema["description"]))
    );
    let required: Vec<_> = list(&schema["required"]).collect();
    for (key, property) in entries(&schema["properties"]) {
        let need = if required.iter().any(|name| *name == key) {
            ""
        } else {
            " <span class=\"soft\">optional</span>"
        };
        let _ = write!(
            html,
            "<tr><td><code>{}</code></td><td>{}{need}</td><td>{}</td></tr>",
            escape(key),
            kind(property),
            prose(text(&property["description"]))
        );
    }
    html.push_str("</table></section>");
}

fn kind(property: &Value) -> String {
    if let Some(path) = property["$ref"].as_str() {
        return reference(path);
    }
    if let Some(path) = property["items"]["$ref"].as_str() {
        return format!("array of {}", reference(path));
    }
    for choice in list(&property["oneOf"]).chain(list(&property["anyOf"])) {
        if choice["type"] != "null" {
            return kind(choice);
        }
    }
    match &property["type"] {
        Value::String(one) => escape(one),
        Value::Array(many) => {
            let names: Vec<_> = many
                .iter()
                .map(text)
                .filter(|name| *name != "null")
                .collect();
            escape(&names.join(" or "))
        }
        _ => "any".to_owned(),
    }
}

fn reference(path: &str) -> String {
    let name = escape(path.rsplit('/').next().unwrap_or(path));
    format!("<a href=\"#schema-{name}\">{name}</a>")
}

fn anchor(path: &str, method: &str) -> String {
    let mut anchor = method.to_owned();
    for part in path.split(|c: char| !c.is_ascii_alphanumeric()) {
        if !part.is_empty() {
            anchor.push('-');
            anchor.push_str(part);
        }
    }
    anchor
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn list(value: &Value) -> std::slice::Iter<'_, Value> {
    value
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn escape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

/// Escapes, and shows what stands between back-quotes as code.
fn prose(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for (index, part) in raw.split('`').enumerate() {
        if index % 2 == 1 {
            let _ = write!(out, "<code>{}</code>", escape(part));
        } else {
            out.push_str(&escape(part));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openapi;

    fn rendered() -> (Value, String) {
        let document = serde_json::to_value(&openapi::parts().document).expect("a document");
        let html = page(&document);
        (document, html)
    }

    #[test]
    fn the_page_shows_every_operation_and_needs_nothing_else() {
        let (document, html) = rendered();
        let mut seen = 0;
        for (path, item) in entries(&document["paths"]) {
            for method in METHODS.iter().filter(|method| item.get(**method).is_some()) {
                let id = format!("id=\"{}\"", anchor(path, method));
                assert!(html.contains(&id), "{method} {path} is not on the page");
                assert!(!item[*method]["summary"].is_null(), "{method} {path}");
                seen += 1;
            }
        }
        assert!(seen > 15, "{seen}");
        for foreign in ["<script", "src=", "https://", "@import", "<link"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn every_link_on_the_page_leads_somewhere() {
        let (_, html) = rendered();
        for part in html.split("href=\"#").skip(1) {
            let target = part.split('"').next().expect("a quoted target");
            assert!(html.contains(&format!("id=\"{target}\"")), "#{target}");
        }
    }

    #[test]
    fn the_create_example_can_be_pasted() {
        let (document, _) = rendered();
        let line = curl(
            "/api/v1/mcps",
            "post",
            &document["paths"]["/api/v1/mcps"]["post"],
        );
        assert!(
            line.starts_with("curl \"$MINIMCP/api/v1/mcps\" -X POST"),
            "{line}"
        );
        assert!(
            line.contains("Bearer $TOKEN") && line.contains("\"template\":\"demo\""),
            "{line}"
        );
    }

    #[test]
    fn markup_in_texts_stays_text() {
        assert_eq!(prose("a <b> `c<d>`"), "a &lt;b&gt; <code>c&lt;d&gt;</code>");
    }
}
