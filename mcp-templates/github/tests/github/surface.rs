//! The whole tool surface: every tool is called, every answer is what the tool's schema says, and every request what
//! GitHub's description says.

use std::collections::{BTreeMap, BTreeSet};

use jsonschema::Validator;
use minimcp_github::{GitHub, Settings};
use serde_json::{Value, json};

use crate::{
    description::validator, scenes, scenes_others, scenes_repos, session::Session,
    upstream::Upstream,
};

/// A session that checks answers by the schemas of the tools and remembers which tools were called.
pub struct Walk {
    session: Session,
    answers: BTreeMap<String, Validator>,
    called: BTreeSet<String>,
}

impl Walk {
    pub async fn start(upstream: &Upstream) -> Self {
        let mut session = upstream.session().await;
        let tools = session.tools().await;
        let answers = tools
            .iter()
            .map(|(name, tool)| (name.clone(), validator(&tool["outputSchema"])));
        Self {
            answers: answers.collect(),
            session,
            called: BTreeSet::new(),
        }
    }

    /// A good call on the repository of the fake.
    pub async fn good(&mut self, tool: &str, arguments: Value) -> Value {
        self.called.insert(tool.to_owned());
        let answer = self.session.good(tool, arguments).await;
        if let Some(error) = self.answers[tool].iter_errors(&answer).next() {
            panic!("{tool}: {error} at {} in {answer}", error.instance_path());
        }
        answer
    }

    /// As [`Walk::good`], with owner and repo added.
    pub async fn on(&mut self, tool: &str, arguments: Value) -> Value {
        self.good(tool, on_repo(arguments)).await
    }

    /// A failed call's text, with owner and repo added.
    pub async fn bad_on(&mut self, tool: &str, arguments: Value) -> String {
        self.session.bad(tool, on_repo(arguments)).await
    }

    pub async fn bad(&mut self, tool: &str, arguments: Value) -> String {
        self.session.bad(tool, arguments).await
    }
}

/// The arguments with owner and repo.
pub fn on_repo(mut arguments: Value) -> Value {
    arguments["owner"] = json!("octocat");
    arguments["repo"] = json!("Hello-World");
    arguments
}

#[tokio::test]
async fn every_tool_works_as_described() {
    let upstream = Upstream::start().await;
    let mut walk = Walk::start(&upstream).await;
    scenes::people(&mut walk).await;
    scenes_repos::files(&mut walk).await;
    scenes_repos::history(&mut walk).await;
    scenes_repos::repositories(&mut walk).await;
    scenes::issues(&mut walk).await;
    scenes::comments_and_labels(&mut walk).await;
    scenes::pulls(&mut walk).await;
    scenes::reviews(&mut walk).await;
    scenes_others::actions(&mut walk).await;
    scenes_others::logs(&mut walk).await;
    scenes_others::notifications(&mut walk).await;
    scenes_others::gists_and_stars(&mut walk).await;
    upstream.assert_clean();
    let offered: BTreeSet<String> = walk.answers.keys().cloned().collect();
    assert_eq!(walk.called, offered);
}

#[tokio::test]
async fn every_schema_is_valid_and_every_argument_described() {
    let upstream = Upstream::start().await;
    let tools = upstream.session().await.tools().await;
    assert_eq!(tools.len(), 65);
    for (name, tool) in &tools {
        for key in ["inputSchema", "outputSchema"] {
            assert!(jsonschema::meta::is_valid(&tool[key]), "{name}: {key}");
        }
        let schema = &tool["inputSchema"];
        described(name, schema);
        assert!(
            schema["properties"]
                .as_object()
                .is_none_or(|all| all.is_empty())
                || schema["additionalProperties"] == false,
            "{name}"
        );
        let hints = &tool["annotations"];
        assert!(
            hints["title"].is_string() && hints["openWorldHint"] == true,
            "{name}"
        );
        // What only reads destroys nothing.
        assert!(
            hints["readOnlyHint"] == false || hints["destructiveHint"] == false,
            "{name}"
        );
        let reads = ["get", "list", "search"].contains(&name.split('_').next().unwrap_or_default())
            || ["issue_read", "pull_request_read"].contains(&name.as_str())
            || ["actions_get", "actions_list"].contains(&name.as_str());
        assert_eq!(hints["readOnlyHint"], reads, "{name}");
    }
}

/// Every argument has a description, those of objects in it too.
fn described(tool: &str, schema: &Value) {
    for (argument, spec) in schema["properties"].as_object().into_iter().flatten() {
        assert!(
            spec["description"]
                .as_str()
                .is_some_and(|text| text.len() > 5),
            "{tool}: {argument}"
        );
        described(tool, spec);
        described(tool, &spec["items"]);
        for variant in spec["anyOf"].as_array().into_iter().flatten() {
            described(tool, variant);
        }
    }
}

#[tokio::test]
async fn toolsets_and_read_only_choose_the_tools() {
    let upstream = Upstream::start().await;
    let count = async |toolsets: Option<&str>, read_only: bool| {
        let toolsets = toolsets.map(str::to_owned);
        let settings = Settings {
            toolsets,
            read_only,
            ..upstream.settings()
        };
        let mut session = Session::start(GitHub::new(settings)).await;
        let tools = session.tools().await;
        let reads = tools
            .values()
            .filter(|tool| tool["annotations"]["readOnlyHint"] == true)
            .count();
        (tools.len(), reads)
    };
    let (all, all_reads) = count(Some("all"), false).await;
    assert_eq!(count(Some("all"), true).await, (all_reads, all_reads));
    let (usual, _) = count(None, false).await;
    assert_eq!(count(Some("default"), false).await.0, usual);
    assert!(usual < all);
    assert_eq!(count(Some("gists"), false).await, (4, 2));
    assert_eq!(count(Some("users,orgs,git"), false).await.0, 3);
    let settings = Settings {
        toolsets: Some("gits".to_owned()),
        ..upstream.settings()
    };
    let mut session = Session::start(GitHub::new(settings)).await;
    let text = session.bad("get_me", json!({})).await;
    assert!(
        text.contains("GITHUB_TOOLSETS") && text.contains("pull_requests"),
        "{text}"
    );
    let settings = Settings {
        read_only: true,
        ..upstream.settings()
    };
    let mut session = Session::start(GitHub::new(settings)).await;
    session
        .bad("create_gist", json!({"filename": "a", "content": "b"}))
        .await;
    assert!(upstream.take_seen().is_empty());
}

#[tokio::test]
async fn without_a_token_or_address_the_server_starts_and_says_what_to_do() {
    let upstream = Upstream::start().await;
    let settings = Settings {
        token: None,
        ..upstream.settings()
    };
    let mut session = Session::start(GitHub::new(settings)).await;
    let text = session.bad("get_me", json!({})).await;
    assert!(text.contains("GITHUB_PERSONAL_ACCESS_TOKEN"), "{text}");
    let settings = Settings {
        api: Err("GITHUB_HOST is wrong".to_owned()),
        ..upstream.settings()
    };
    let mut session = Session::start(GitHub::new(settings)).await;
    let text = session.bad("get_me", json!({})).await;
    assert!(text.contains("GITHUB_HOST is wrong"), "{text}");
}
