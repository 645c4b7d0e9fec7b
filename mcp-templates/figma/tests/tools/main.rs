//! The Figma tools against a fake of the REST API that judges every request by Figma's own description.

use std::collections::BTreeSet;

use axum::{Router, extract::Path, routing::get};
use minimcp_figma::{Figma, Settings};
use minimcp_rest::{BaseUrl, Secret};
use serde_json::json;

#[path = "../../../rest/tests/support/contract.rs"]
mod contract;
#[expect(dead_code, reason = "what only other tests look at")]
#[path = "../../../rest/tests/support/fake.rs"]
mod fake;
mod faults;
#[path = "../support/figma_api.rs"]
mod figma_api;
mod libraries;
mod reading;
#[path = "../../../rest/tests/support/session.rs"]
mod session;
#[path = "../../../rest/tests/support/upstream.rs"]
mod upstream;
mod writing;

use fake::Fake;
use figma_api::FigmaApi;
use session::Session;
use upstream::Upstream;

const TOKEN: &str = "figd_SECRET";

/// Every tool, by name.
const TOOLS: [&str; 24] = [
    "add_comment_reaction",
    "create_dev_resource",
    "delete_comment",
    "delete_comment_reaction",
    "delete_dev_resource",
    "download_figma_images",
    "get_figma_data",
    "get_figma_images",
    "get_file_meta",
    "get_image_fills",
    "get_library_asset",
    "get_me",
    "get_variables",
    "list_comment_reactions",
    "list_comments",
    "list_component_sets",
    "list_components",
    "list_dev_resources",
    "list_project_files",
    "list_styles",
    "list_team_projects",
    "list_versions",
    "post_comment",
    "update_dev_resource",
];

struct Setup {
    api: Upstream<FigmaApi>,
    /// Where pictures lie.
    pictures: Fake,
    session: Session,
}

fn settings(url: &str) -> Settings {
    Settings {
        oauth_token: None,
        api_key: Some(Secret::new(TOKEN)),
        api: BaseUrl::new(url).map_err(|error| error.to_string()),
    }
}

/// A picture of the format that its name ends in.
async fn picture(Path(name): Path<String>) -> Vec<u8> {
    match name.rsplit('.').next() {
        Some("png") => b"\x89PNG\r\n\x1a\n0123".to_vec(),
        Some("jpg") => b"\xff\xd8\xff\xe0jpg".to_vec(),
        Some("svg") => b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec(),
        _ => b"%PDF-1.7".to_vec(),
    }
}

async fn setup_with(
    credential: (&'static str, &'static str),
    change: impl FnOnce(&mut Settings),
) -> Setup {
    let pictures = Fake::start(Router::new().route("/pictures/{name}", get(picture)), None).await;
    let api = FigmaApi::new(credential, pictures.url.clone());
    let api = Upstream::start(api, figma_api::FIXTURE).await;
    let mut settings = settings(&api.url);
    change(&mut settings);
    let session = Session::start(Figma::new(settings)).await;
    Setup {
        api,
        pictures,
        session,
    }
}

async fn setup() -> Setup {
    setup_with(("x-figma-token", TOKEN), |_| {}).await
}

#[tokio::test]
async fn every_tool_is_described() {
    let Setup { mut session, .. } = setup().await;
    let tools = session.tools().await;
    let names: BTreeSet<&str> = tools.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(TOOLS));
    for (name, tool) in &tools {
        for schema in ["inputSchema", "outputSchema"] {
            if !tool[schema].is_null() {
                jsonschema::validator_for(&tool[schema])
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
        let reads = name.starts_with("get_") || name.starts_with("list_");
        assert_eq!(tool["annotations"]["readOnlyHint"], reads, "{name}");
        let deletes = name.starts_with("delete_");
        assert!(
            !deletes || tool["annotations"]["destructiveHint"] == true,
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_oauth_token_goes_before_the_personal_one() {
    let oauth = |settings: &mut Settings| settings.oauth_token = Some(Secret::new("oauth-SECRET"));
    let Setup {
        api, mut session, ..
    } = setup_with(("authorization", "Bearer oauth-SECRET"), oauth).await;
    let me = session.good("get_me", json!({})).await;
    assert_eq!(
        me,
        json!({"id": "7", "handle": "Ann", "email": "ann@example.com"})
    );
    assert!(!api.take_headers()[0].contains_key("x-figma-token"));
    let text = session
        .bad("list_comments", json!({"fileKey": figma_api::KEY}))
        .await;
    assert!(
        text.contains("Invalid scope(s)") && text.contains("lacks the scope"),
        "{text}"
    );
}

#[tokio::test]
async fn without_a_token_or_with_a_wrong_address_it_says_what_to_do() {
    let without = setup_with(("x-figma-token", TOKEN), |settings| settings.api_key = None).await;
    let wrong = setup_with(("x-figma-token", TOKEN), |settings| {
        settings.api = Err("FIGMA_API_BASE is wrong".to_owned());
    })
    .await;
    for (mut setup, expected) in [
        (without, "FIGMA_API_KEY"),
        (wrong, "FIGMA_API_BASE is wrong"),
    ] {
        for (tool, arguments) in [
            ("get_me", json!({})),
            ("get_figma_data", json!({"fileKey": "KeY123"})),
        ] {
            let text = setup.session.bad(tool, arguments).await;
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(setup.api.take_count(), 0);
    }
}
