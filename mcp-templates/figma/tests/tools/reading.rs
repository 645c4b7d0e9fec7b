//! Designs, pictures, versions and files.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{Setup, figma_api::KEY, setup};

#[tokio::test]
async fn a_design_is_read_whole_by_depth_and_by_node() {
    let Setup {
        api, mut session, ..
    } = setup().await;
    let whole = session
        .good("get_figma_data", json!({"fileKey": KEY}))
        .await;
    assert_eq!(
        (
            &whole["name"],
            &whole["version"],
            &whole["truncated"],
            &whole["deeper"]
        ),
        (&json!("Shop"), &json!("42"), &json!(false), &json!([]))
    );
    let card = &whole["nodes"][0]["children"][0]["children"][0];
    assert_eq!(card["fills"], json!(["image:abc123"]));
    assert_eq!(
        card["children"][0],
        json!({"id": "1:3", "name": "Title", "type": "TEXT", "text": "Hello", "fills": ["#000000"],
               "box": {"x": 8, "y": 8, "width": 100, "height": 20}, "styleIds": {"text": "9:1"},
               "textStyle": "textStyle_1"})
    );
    assert_eq!(
        whole["shared"],
        json!({"textStyle_1": {"font": "Inter", "weight": 700, "size": 16, "lineHeight": 19.36, "align": "left"}})
    );
    assert_eq!(
        (&whole["components"], &whole["styles"]),
        (&json!({"5:5": "Button"}), &json!({"9:1": "Heading"}))
    );
    let shallow = session
        .good("get_figma_data", json!({"fileKey": KEY, "depth": 1}))
        .await;
    assert!(shallow["nodes"][0]["children"][0]["children"].is_null());
    // Addresses write 1-2 for 1:2; what is not there is left out.
    let arguments = json!({"fileKey": KEY, "nodeId": "1-2,1:3,5:5", "depth": 3});
    let nodes = session.good("get_figma_data", arguments).await;
    let names: Vec<&Value> = nodes["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|node| &node["name"])
        .collect();
    assert_eq!(names, [&json!("Card"), &json!("Title")]);
    let asked = api.take_asked();
    assert_eq!(asked[2].one("ids"), Some("1:2,1:3,5:5"));
    assert_eq!(
        (asked[2].one("depth"), asked[1].one("depth")),
        (Some("3"), Some("1"))
    );
    let text = session
        .bad("get_figma_data", json!({"fileKey": KEY, "nodeId": "5:5"}))
        .await;
    assert!(text.contains("no such node"), "{text}");
    let text = session
        .bad("get_figma_data", json!({"fileKey": "gone"}))
        .await;
    assert!(text.contains("Check fileKey"), "{text}");
}

#[tokio::test]
async fn a_file_larger_than_what_may_be_held_is_read_and_cut() {
    let Setup {
        api, mut session, ..
    } = setup().await;
    api.with(|figma| {
        let filler = "x".repeat(14_000);
        figma.more_children = (0..2_500)
            .map(|number| {
                json!({"id": format!("7:{number}"), "name": "n", "type": "VECTOR",
                "fillGeometry": [{"path": filler, "windingRule": "NONZERO"}]})
            })
            .collect();
    });
    let design = session
        .good("get_figma_data", json!({"fileKey": KEY}))
        .await;
    assert_eq!(design["truncated"], true);
    let page = &design["nodes"][0]["children"][0];
    let shown = page["children"].as_array().map_or(0, Vec::len);
    assert_eq!(
        page["childrenLeftOut"]
            .as_u64()
            .map(|left| left as usize + shown),
        Some(2_501)
    );
    assert_eq!(design["deeper"], json!(["0:1"]));
    assert!(design.to_string().len() < 500_000);
}

#[tokio::test]
async fn nodes_are_rendered_and_a_failed_rendering_is_told() {
    let Setup {
        api,
        pictures,
        mut session,
    } = setup().await;
    let arguments = json!({"fileKey": KEY, "nodeIds": ["1:2", "9-9"], "format": "svg", "scale": 2});
    let images = session.good("get_figma_images", arguments).await;
    assert_eq!(
        images["images"],
        json!([{"nodeId": "1:2", "url": format!("{}/pictures/1-2.svg", pictures.url)}, {"nodeId": "9:9", "url": null}])
    );
    let fills = session
        .good("get_image_fills", json!({"fileKey": KEY}))
        .await;
    assert!(fills["images"]["abc123"].is_string());
    let body = r#"{"err": "Render \u0007 timeout", "images": {}}"#.to_owned();
    api.fail(crate::upstream::Fault::Status(200, vec![], body));
    let arguments = json!({"fileKey": KEY, "nodeIds": ["1:2"]});
    let text = session.bad("get_figma_images", arguments).await;
    assert!(
        text.contains("It said: Render  timeout") && text.contains("fewer nodes"),
        "{text}"
    );
}

#[tokio::test]
async fn pictures_come_with_the_answer_and_as_resources_and_the_token_stays_here() {
    let Setup {
        api,
        pictures,
        mut session,
    } = setup().await;
    let arguments = json!({"fileKey": KEY, "pngScale": 3, "nodes": [
        {"nodeId": "1:2", "fileName": "card.png"}, {"nodeId": "1:3", "fileName": "title.svg"},
        {"nodeId": "1:2", "fileName": "card.pdf"}, {"imageRef": "abc123", "fileName": "photo.jpg"}]});
    let params = json!({"name": "download_figma_images", "arguments": arguments});
    let answer = session.request("tools/call", params).await;
    let result = &answer["result"];
    let types: Vec<&str> = result["structuredContent"]["files"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|file| file["mimeType"].as_str())
        .collect();
    assert_eq!(
        types,
        [
            "image/png",
            "image/svg+xml",
            "application/pdf",
            "image/jpeg"
        ]
    );
    let content = &result["content"];
    assert_eq!(
        (&content[1]["type"], &content[1]["mimeType"]),
        (&json!("image"), &json!("image/png"))
    );
    let bytes = STANDARD
        .decode(content[1]["data"].as_str().expect("base64"))
        .expect("base64");
    assert!(bytes.starts_with(b"\x89PNG"));
    assert!(
        content[2]["text"]
            .as_str()
            .is_some_and(|text| text.contains("<svg"))
    );
    assert_eq!(content[3]["resource"]["mimeType"], "application/pdf");
    let scales: Vec<(Option<String>, Option<String>)> = api
        .take_asked()
        .iter()
        .filter(|asked| asked.operation == "getImages")
        .map(|asked| {
            (
                asked.one("format").map(str::to_owned),
                asked.one("scale").map(str::to_owned),
            )
        })
        .collect();
    assert!(
        scales.contains(&(Some("png".to_owned()), Some("3".to_owned()))),
        "{scales:?}"
    );
    assert!(
        scales.contains(&(Some("svg".to_owned()), None)),
        "{scales:?}"
    );
    for seen in pictures.take_seen() {
        assert!(
            !format!("{:?}", seen.headers).contains("SECRET"),
            "no token for a stranger"
        );
    }
    let uri = format!("figma://files/{KEY}/nodes/1:2.png");
    let answer = session.request("resources/read", json!({"uri": uri})).await;
    assert_eq!(answer["result"]["contents"][0]["mimeType"], "image/png");
    for uri in [
        format!("figma://files/{KEY}/nodes/9:9.png"),
        "figma://files/gone/nodes/1:2.png".to_owned(),
        format!("figma://files/{KEY}/nodes/1:2.gif"),
        "file:///etc/passwd".to_owned(),
    ] {
        let answer = session.request("resources/read", json!({"uri": uri})).await;
        let refused = answer["error"]["code"] == -32002;
        assert!(refused || uri.contains("gone"), "{uri}: {answer}");
        assert!(answer["error"].is_object(), "{uri}: {answer}");
    }
    let templates = session.request("resources/templates/list", json!({})).await;
    assert_eq!(
        templates["result"]["resourceTemplates"][0]["uriTemplate"],
        "figma://files/{fileKey}/nodes/{nodeId}.{format}"
    );
    for (nodes, expected) in [
        (
            json!([{"nodeId": "9:9", "fileName": "a.png"}]),
            "9:9 does not exist or has nothing to show",
        ),
        (
            json!([{"imageRef": "nothing", "fileName": "a.png"}]),
            "no placed image nothing",
        ),
    ] {
        let text = session
            .bad(
                "download_figma_images",
                json!({"fileKey": KEY, "nodes": nodes}),
            )
            .await;
        assert!(text.contains(expected), "{text}");
    }
    // A picture that cannot be had, or is too large, is told without its address.
    pictures.fail(403, &[], "<Error>AccessDenied</Error>");
    let nodes = json!([{"nodeId": "1:2", "fileName": "a.png"}]);
    let text = session
        .bad(
            "download_figma_images",
            json!({"fileKey": KEY, "nodes": nodes}),
        )
        .await;
    assert!(
        text.contains("HTTP 403") && !text.contains("/pictures/"),
        "{text}"
    );
    pictures.fail(200, &[], &"x".repeat((10 << 20) + 1));
    let text = session
        .bad(
            "download_figma_images",
            json!({"fileKey": KEY, "nodes": nodes}),
        )
        .await;
    assert!(text.contains("larger than 10485760 bytes"), "{text}");
}

#[tokio::test]
async fn versions_come_page_by_page() {
    let Setup { mut session, .. } = setup().await;
    let page = session
        .good("list_versions", json!({"fileKey": KEY, "pageSize": 2}))
        .await;
    assert_eq!(
        (&page["versions"][0]["id"], &page["versions"][1]["id"]),
        (&json!("3"), &json!("2"))
    );
    assert_eq!(page["versions"][0]["user"]["handle"], "Ann");
    let arguments = json!({"fileKey": KEY, "pageSize": 2, "before": "2"});
    let page = session.good("list_versions", arguments).await;
    assert_eq!(page["versions"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn files_are_found_by_team_and_project() {
    let Setup { mut session, .. } = setup().await;
    let projects = session
        .good("list_team_projects", json!({"teamId": "5"}))
        .await;
    assert_eq!(
        projects,
        json!({"name": "Team", "projects": [{"id": "11", "name": "Web"}]})
    );
    let files = session
        .good("list_project_files", json!({"projectId": "11"}))
        .await;
    assert_eq!(files["files"][0]["key"], KEY);
    let meta = session.good("get_file_meta", json!({"fileKey": KEY})).await;
    assert_eq!(
        (
            &meta["folder_name"],
            &meta["creator"]["handle"],
            &meta["editorType"]
        ),
        (&json!("Web"), &json!("Ann"), &json!("figma"))
    );
}
