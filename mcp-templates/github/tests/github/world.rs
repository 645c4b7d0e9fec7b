//! What the fake GitHub knows, and its answers. An operation that has no state here answers with GitHub's own example.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::description::{Checked, GITHUB, Operation};

/// An answer of the fake.
#[derive(Default)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
    /// In place of JSON.
    pub raw: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, String)>,
}

impl Reply {
    pub fn new(status: u16, body: Value) -> Self {
        Self {
            status,
            body,
            ..Self::default()
        }
    }

    pub fn nothing(status: u16) -> Self {
        Self::new(status, Value::Null)
    }

    pub fn not_found() -> Self {
        Self::new(404, json!({"message": "Not Found"}))
    }

    pub fn refused(status: u16, message: &str) -> Self {
        Self::new(status, json!({"message": message}))
    }
}

/// The state: collections by name, such as `issues`, each of one repository, for there is but one; and files.
#[derive(Default)]
pub struct World {
    pub collections: BTreeMap<&'static str, Vec<Value>>,
    /// Files by branch and path.
    pub branches: BTreeMap<String, Branch>,
    /// Trees and commits of Git that no branch has yet.
    pub loose: BTreeMap<String, Loose>,
    /// Refuses what comes after something was created: parents and reviewers.
    pub refused_after_create: bool,
    last_number: u64,
    /// Where the fake listens.
    pub url: String,
}

/// A branch.
#[derive(Clone, Default)]
pub struct Branch {
    pub head: String,
    /// Content and hash by path.
    pub files: BTreeMap<String, (Vec<u8>, String)>,
}

/// A tree, or a commit with its parent.
#[derive(Clone, Default)]
pub struct Loose {
    pub files: BTreeMap<String, (Vec<u8>, String)>,
    pub parent: String,
}

impl World {
    pub fn new(url: &str) -> Self {
        let mut world = Self {
            url: url.to_owned(),
            ..Self::default()
        };
        let head = world.hash();
        let mut main = Branch {
            head,
            ..Branch::default()
        };
        for (path, content) in [
            ("a b/c.txt", b"hello".to_vec()),
            ("logo.png", vec![0x89, b'P', b'N', b'G', 0xff]),
            ("big.txt", "a line of text\n".repeat(80_000).into_bytes()),
        ] {
            let hash = world.hash();
            main.files.insert(path.to_owned(), (content, hash));
        }
        world.branches.insert("main".to_owned(), main);
        for id in 1..=3 {
            let mut thread = example("thread");
            thread["id"] = json!(id.to_string());
            world.all("notifications").push(thread);
        }
        world
    }

    pub fn all(&mut self, collection: &'static str) -> &mut Vec<Value> {
        self.collections.entry(collection).or_default()
    }

    pub fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// A hash as Git has them.
    pub fn hash(&mut self) -> String {
        format!("{:040x}", self.number() + 0xabc0)
    }

    /// The entry of a collection whose `key` is the parameter of that text.
    pub fn one(&mut self, collection: &'static str, key: &str, wanted: &str) -> Option<&mut Value> {
        let texts = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        self.all(collection)
            .iter_mut()
            .find(|one| texts(&one[key]) == wanted)
    }

    pub fn answer(&mut self, asked: &Checked, accept: &str) -> Reply {
        let id = asked.operation.id.as_str();
        if self.refused_after_create
            && ["issues/add-sub-issue", "pulls/request-reviewers"].contains(&id)
        {
            return Reply::refused(422, "Could not be done");
        }
        let family = id.split('/').next().unwrap_or_default();
        let stateful = match family {
            "issues" | "reactions" | "search" => self.issues(asked),
            "pulls" => self.pulls(asked, accept),
            "repos" | "git" => self.repositories(asked, accept),
            "actions" | "activity" | "gists" => self.others(asked),
            _ => None,
        };
        stateful.unwrap_or_else(|| documented(asked.operation))
    }
}

/// GitHub's own example, with the first good status.
fn documented(operation: &Operation) -> Reply {
    let status = *operation.good_statuses.first().expect("a status");
    let body = operation.example.as_deref().map(example);
    Reply::new(status, body.unwrap_or_default())
}

/// GitHub's example of that name.
pub fn example(name: &str) -> Value {
    GITHUB
        .examples
        .get(name)
        .unwrap_or_else(|| panic!("no example {name}"))
        .clone()
}

/// The page asked for, with the Link header that tells of the next.
pub fn paged(items: &[Value], asked: &Checked, path: &str) -> Reply {
    let number = |name: &str, default: usize| {
        asked
            .query
            .get(name)
            .map_or(default, |text| text.parse().expect("checked"))
    };
    let (page, per_page) = (number("page", 1), number("per_page", 30));
    let shown: Vec<Value> = items
        .iter()
        .skip((page - 1) * per_page)
        .take(per_page)
        .cloned()
        .collect();
    let mut reply = Reply::new(200, json!(shown));
    if items.len() > page * per_page {
        let link = format!(
            "<http://x{path}?per_page={per_page}&page={}>; rel=\"next\", <http://x{path}?page=99>; rel=\"last\"",
            page + 1
        );
        reply.headers.push(("link", link));
    }
    reply
}

/// The objects that GitHub makes of names.
pub fn named(names: &Value, key: &str) -> Value {
    names
        .as_array()
        .into_iter()
        .flatten()
        .map(|name| json!({key: name}))
        .collect()
}
