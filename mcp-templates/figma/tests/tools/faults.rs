//! Every fault of the API, over all tools: the right error, no crash, no leaked secret.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    Setup, TOKEN, TOOLS,
    figma_api::{KEY, refusal},
    setup,
    upstream::{Fault, faults},
};

/// Good arguments for every tool, none of which spoils another.
fn calls(setup: &Setup) -> Vec<(&'static str, Value)> {
    setup.api.with(|figma| {
        for id in ["1", "2"] {
            figma.comments.push(json!({"id": id, "file_key": KEY, "user": {"id": "7", "handle": "Ann", "img_url": ""},
                "created_at": "2026-05-01T10:00:00Z", "message": "m", "order_id": "1", "reactions": [],
                "client_meta": {"x": 0, "y": 0}}));
            figma.dev_resources.push(json!({"id": id, "name": "n", "url": format!("https://a.b/{id}"),
                "file_key": KEY, "node_id": "1:2"}));
        }
    });
    let file = json!({"fileKey": KEY});
    let comment = json!({"fileKey": KEY, "commentId": "1"});
    let reaction = json!({"fileKey": KEY, "commentId": "1", "emoji": ":heart:"});
    vec![
        ("get_me", json!({})),
        ("get_figma_data", file.clone()),
        (
            "get_figma_images",
            json!({"fileKey": KEY, "nodeIds": ["1:2"]}),
        ),
        (
            "download_figma_images",
            json!({"fileKey": KEY, "nodes": [{"nodeId": "1:2", "fileName": "a.png"}]}),
        ),
        ("get_image_fills", file.clone()),
        ("get_file_meta", file.clone()),
        ("list_versions", file.clone()),
        ("list_comments", file.clone()),
        ("list_comment_reactions", comment),
        ("post_comment", json!({"fileKey": KEY, "message": "m"})),
        ("add_comment_reaction", reaction.clone()),
        ("delete_comment_reaction", reaction),
        ("delete_comment", json!({"fileKey": KEY, "commentId": "2"})),
        ("list_components", file.clone()),
        ("list_component_sets", file.clone()),
        ("list_styles", json!({"teamId": "5"})),
        (
            "get_library_asset",
            json!({"kind": "style", "key": "style1"}),
        ),
        ("get_variables", file.clone()),
        ("list_team_projects", json!({"teamId": "5"})),
        ("list_project_files", json!({"projectId": "11"})),
        ("list_dev_resources", file),
        (
            "create_dev_resource",
            json!({"fileKey": KEY, "nodeId": "1:2", "name": "n", "url": "https://a.b/c"}),
        ),
        ("update_dev_resource", json!({"id": "1", "name": "new"})),
        ("delete_dev_resource", json!({"fileKey": KEY, "id": "2"})),
    ]
}

/// Tools that never send twice what they send.
const ONCE: [&str; 3] = [
    "post_comment",
    "add_comment_reaction",
    "create_dev_resource",
];

/// Tools that look at the status alone, so that a body that is no JSON is no fault.
const WITHOUT_BODY: [&str; 4] = [
    "add_comment_reaction",
    "delete_comment",
    "delete_comment_reaction",
    "delete_dev_resource",
];

fn told(status: u16) -> String {
    refusal(status, &format!("Figma said so, {TOKEN}")).to_string()
}

#[tokio::test]
async fn every_fault_of_every_tool_is_told_and_the_server_lives_on() {
    tokio::join!(try_part(0), try_part(1), try_part(2), try_part(3));
}

async fn try_part(part: usize) {
    let mut setup = setup().await;
    let calls = calls(&setup);
    let names: BTreeSet<&str> = calls.iter().map(|(tool, _)| *tool).collect();
    assert_eq!(names, BTreeSet::from(TOOLS), "every tool is tried");
    for (tool, arguments) in calls.iter().skip(part).step_by(4) {
        for (fault, expected) in faults(told) {
            if matches!(fault, Fault::NoJson) && WITHOUT_BODY.contains(tool) {
                continue;
            }
            setup.api.take_count();
            for _ in 0..2 {
                setup.api.fail(fault.clone());
            }
            let text = setup.session.bad(tool, arguments.clone()).await;
            assert!(text.contains(expected), "{tool}, {fault:?}: {text}");
            assert!(
                !text.contains("SECRET") && text.len() < 2_000,
                "{tool}, {fault:?}: {text}"
            );
            let passing = matches!(fault, Fault::CutOff | Fault::Status(500..600, ..));
            let count = if passing && !ONCE.contains(tool) {
                2
            } else {
                1
            };
            assert_eq!(setup.api.take_count(), count, "{tool}, {fault:?}");
            setup.api.forget_faults();
        }
        if ONCE.contains(tool) {
            setup.api.fail(Fault::Status(503, vec![], String::new()));
            let text = setup.session.bad(tool, arguments.clone()).await;
            assert!(text.contains("may have taken effect"), "{tool}: {text}");
        }
        // What was refused was not done, and what is asked now is.
        let (is_error, text, _) = setup.session.call(tool, arguments.clone()).await;
        assert!(!is_error, "{tool}: {text}");
    }
}

#[tokio::test]
async fn figmas_refusals_are_told_apart() {
    let Setup {
        api, mut session, ..
    } = setup().await;
    for (status, headers, body, expected) in [
        (401, vec![], told(401), "token is wrong or expired"),
        (
            403,
            vec![],
            refusal(403, "Invalid token").to_string(),
            "It said: Invalid token. The token is wrong",
        ),
        (
            404,
            vec![],
            refusal(404, "Not found").to_string(),
            "Check fileKey",
        ),
        (
            429,
            vec![
                ("retry-after", "396000".to_owned()),
                ("x-figma-plan-tier", "starter".to_owned()),
            ],
            refusal(429, "Rate limit exceeded").to_string(),
            "Try again in 396000 seconds, not before",
        ),
        (
            400,
            vec![],
            r#"{"err":true,"status":400,"message":"Request too large"}"#.to_owned(),
            "Request too large",
        ),
        (
            200,
            vec![],
            r#"{"handle": "Ann"}"#.to_owned(),
            "not what its API promises",
        ),
    ] {
        api.fail(Fault::Status(status, headers, body));
        let text = session.bad("get_me", json!({})).await;
        assert!(
            text.contains(expected) && !text.contains("SECRET"),
            "{status}: {text}"
        );
        assert_eq!(api.take_count(), 1, "{status} is not tried again");
    }
    // A short wait is waited.
    api.fail(Fault::Status(
        429,
        vec![("retry-after", "0".to_owned())],
        String::new(),
    ));
    assert_eq!(session.good("get_me", json!({})).await["handle"], "Ann");
    api.fail(Fault::Endless);
    let text = session.bad("list_comments", json!({"fileKey": KEY})).await;
    assert!(
        text.contains("larger than 33554432 bytes") && text.contains("Ask for less"),
        "{text}"
    );
}

#[tokio::test]
async fn silence_ends_in_advice_to_ask_for_less() {
    let Setup {
        api, mut session, ..
    } = setup().await;
    session.good("get_me", json!({})).await;
    api.fail(Fault::Silence);
    api.fail(Fault::Silence);
    // From here on the clock jumps to the next timer whenever nothing else is to do.
    tokio::time::pause();
    let text = session.bad("get_figma_data", json!({"fileKey": KEY})).await;
    assert!(
        text.contains("did not answer in time") && text.contains("Ask for less"),
        "{text}"
    );
}
