//! GitHub's official GraphQL schema, reduced to what the server uses, and the check of documents by it. It reads only
//! what the server writes: one operation, fields with arguments and aliases, no fragments and directives.

use std::{collections::BTreeMap, iter::Peekable, sync::LazyLock, vec::IntoIter};

use serde::Deserialize;
use serde_json::{Value, json};

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../fixtures/github-graphql.json")).expect("a schema")
});

#[derive(Deserialize)]
struct Schema {
    objects: BTreeMap<String, BTreeMap<String, Field>>,
    inputs: BTreeMap<String, BTreeMap<String, String>>,
    enums: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Field {
    #[serde(rename = "type")]
    kind: String,
    arguments: BTreeMap<String, String>,
}

/// A document that the schema allows, with its variables put in.
pub struct Asked {
    /// The one field at the top.
    pub field: String,
    pub arguments: Value,
    /// The selection below the field.
    pub selection: Vec<Selected>,
}

/// A field and what is selected of it.
pub struct Selected {
    /// How the answer calls it.
    pub alias: String,
    pub name: String,
    pub arguments: Value,
    pub selection: Vec<Selected>,
}

/// The request by the schema, or what that has against it.
pub fn check(body: &Value) -> Result<Asked, String> {
    let document = body["query"].as_str().ok_or("query is missing")?;
    let unknown = body
        .as_object()
        .into_iter()
        .flatten()
        .find(|(key, _)| *key != "query" && *key != "variables");
    if let Some((key, _)) = unknown {
        return Err(format!("{key} is no part of a request"));
    }
    let mut parser = Parser {
        tokens: tokens(document).into_iter().peekable(),
        given: &body["variables"],
        declared: BTreeMap::new(),
        used: Vec::new(),
    };
    let root = match parser.next()?.as_str() {
        "query" => "Query",
        "mutation" => "Mutation",
        other => return Err(format!("{other} is no operation")),
    };
    parser.declarations()?;
    let mut selection = parser.selection(root)?;
    if let Some(rest) = parser.tokens.next() {
        return Err(format!("{rest} after the end"));
    }
    let given = body["variables"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name);
    if let Some(name) = given
        .chain(parser.declared.keys())
        .find(|name| !parser.used.contains(name))
    {
        return Err(format!("the variable {name} is not used"));
    }
    let top = selection
        .pop()
        .filter(|_| selection.is_empty())
        .ok_or("one field at the top")?;
    Ok(Asked {
        field: top.name,
        arguments: top.arguments,
        selection: top.selection,
    })
}

/// What is selected of `value`, called as the document calls it; a field that `value` lacks is null.
pub fn select(value: &Value, selection: &[Selected]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| select(item, selection)).collect(),
        Value::Object(object) if !selection.is_empty() => {
            let field = |one: &Selected| {
                let value = object.get(&one.name).unwrap_or(&Value::Null);
                (one.alias.clone(), select(value, &one.selection))
            };
            Value::Object(selection.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

fn tokens(document: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut word = false;
    for letter in document.chars() {
        let in_word = letter.is_ascii_alphanumeric() || letter == '_';
        match letter {
            _ if in_word && word => tokens.last_mut().expect("a word has begun").push(letter),
            ',' | ' ' | '\n' => {}
            _ => tokens.push(letter.to_string()),
        }
        word = in_word;
    }
    tokens
}

struct Parser<'a> {
    tokens: Peekable<IntoIter<String>>,
    given: &'a Value,
    declared: BTreeMap<String, String>,
    used: Vec<String>,
}

impl Parser<'_> {
    fn next(&mut self) -> Result<String, String> {
        self.tokens
            .next()
            .ok_or_else(|| "the document ends early".to_owned())
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        let found = self.next()?;
        if found == token {
            Ok(())
        } else {
            Err(format!("{found} in place of {token}"))
        }
    }

    fn taken(&mut self, token: &str) -> bool {
        self.tokens.next_if(|next| next == token).is_some()
    }

    /// `($name: Type, …)`; checks what is given for each.
    fn declarations(&mut self) -> Result<(), String> {
        if !self.taken("(") {
            return Ok(());
        }
        while !self.taken(")") {
            self.expect("$")?;
            let name = self.next()?;
            self.expect(":")?;
            let mut kind = self.next()?;
            if self.taken("!") {
                kind.push('!');
            }
            let value = &self.given[&name];
            fits(value, &kind).map_err(|fault| format!("${name}: {fault}"))?;
            self.declared.insert(name, kind);
        }
        Ok(())
    }

    fn selection(&mut self, object: &str) -> Result<Vec<Selected>, String> {
        let fields = SCHEMA.objects.get(object);
        self.expect("{")?;
        let mut selection = Vec::new();
        while !self.taken("}") {
            let mut name = self.next()?;
            let alias = name.clone();
            if self.taken(":") {
                name = self.next()?;
            }
            let field = fields.and_then(|fields| fields.get(&name));
            let field = field.ok_or_else(|| format!("{object} has no field {name}"))?;
            let arguments = self.arguments(&field.arguments)?;
            let below = field.kind.trim_matches(['[', ']', '!']).to_owned();
            let is_object = SCHEMA.objects.contains_key(&below);
            let opens = self.tokens.peek().is_some_and(|next| next == "{");
            if is_object != opens {
                return Err(format!(
                    "{name} is a {below}: its selection is missing or too much"
                ));
            }
            let selection_below = if opens {
                self.selection(&below)?
            } else {
                Vec::new()
            };
            selection.push(Selected {
                alias,
                name,
                arguments,
                selection: selection_below,
            });
        }
        Ok(selection)
    }

    fn arguments(&mut self, known: &BTreeMap<String, String>) -> Result<Value, String> {
        let mut arguments = json!({});
        if self.taken("(") {
            while !self.taken(")") {
                let name = self.next()?;
                self.expect(":")?;
                let kind = known
                    .get(&name)
                    .ok_or_else(|| format!("no argument {name}"))?;
                arguments[&name] = self.value(kind)?;
            }
        }
        for (name, kind) in known {
            if kind.ends_with('!') && arguments[name].is_null() {
                return Err(format!("the argument {name} is missing"));
            }
        }
        Ok(arguments)
    }

    fn value(&mut self, kind: &str) -> Result<Value, String> {
        let first = self.next()?;
        let value = match first.as_str() {
            "$" => {
                let name = self.next()?;
                let declared = self
                    .declared
                    .get(&name)
                    .ok_or_else(|| format!("${name} is not declared"))?;
                let element = kind.trim_start_matches('[').trim_end_matches(']');
                if ![kind, kind.trim_end_matches('!'), element].contains(&declared.as_str())
                    && declared.trim_end_matches('!') != kind
                {
                    return Err(format!("${name} is a {declared}, not a {kind}"));
                }
                let value = self.given[&name].clone();
                self.used.push(name);
                return Ok(value);
            }
            "[" => {
                let element = kind
                    .trim_start_matches('[')
                    .split(']')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                let mut items = Vec::new();
                while !self.taken("]") {
                    items.push(self.value(&element)?);
                }
                Value::Array(items)
            }
            "{" => {
                let known = SCHEMA
                    .inputs
                    .get(kind.trim_end_matches('!'))
                    .ok_or_else(|| format!("{kind} is no input"))?;
                let mut object = json!({});
                while !self.taken("}") {
                    let name = self.next()?;
                    self.expect(":")?;
                    let kind = known.get(&name).ok_or_else(|| format!("no field {name}"))?;
                    object[&name] = self.value(kind)?;
                }
                object
            }
            number => json!(
                number
                    .parse::<i64>()
                    .map_err(|_| format!("{number} is no value"))?
            ),
        };
        fits(&value, kind)?;
        Ok(value)
    }
}

/// Whether a value is of a type.
fn fits(value: &Value, kind: &str) -> Result<(), String> {
    if value.is_null() {
        return if kind.ends_with('!') {
            Err(format!("a {kind} is needed"))
        } else {
            Ok(())
        };
    }
    let name = kind.trim_end_matches('!');
    let good = match name {
        "String" | "ID" => value.is_string(),
        "Int" => value
            .as_i64()
            .is_some_and(|number| i32::try_from(number).is_ok()),
        "Boolean" => value.is_boolean(),
        list if list.starts_with('[') => value.is_array(),
        name => match (SCHEMA.enums.get(name), SCHEMA.inputs.get(name)) {
            (Some(words), _) => words.iter().any(|word| value == word),
            (None, Some(fields)) => {
                let object = value.as_object().ok_or("an object is needed")?;
                if let Some(field) = object.keys().find(|field| !fields.contains_key(*field)) {
                    return Err(format!("{name} has no field {field}"));
                }
                for (field, kind) in fields {
                    fits(&value[field], kind).map_err(|fault| format!("{field}: {fault}"))?;
                }
                true
            }
            (None, None) => return Err(format!("{name} is no type of the schema")),
        },
    };
    if good {
        Ok(())
    } else {
        Err(format!("{value} is no {kind}"))
    }
}
