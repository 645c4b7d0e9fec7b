//! What libraries publish, and variables.

use serde_json::{Value, json};

use crate::{Setup, figma_api::KEY, setup};

#[tokio::test]
async fn components_sets_and_styles_are_listed_by_file_and_by_team() {
    let Setup { mut session, .. } = setup().await;
    for (tool, kind) in [
        ("list_components", "component"),
        ("list_component_sets", "component_set"),
        ("list_styles", "style"),
    ] {
        let of_file = session.good(tool, json!({"fileKey": KEY})).await;
        assert_eq!(
            (&of_file["assets"][0]["key"], &of_file["nextAfter"]),
            (&json!(format!("{kind}1")), &Value::Null)
        );
        let page = session
            .good(tool, json!({"teamId": "5", "pageSize": 2}))
            .await;
        assert_eq!(
            (page["assets"].as_array().map(Vec::len), &page["nextAfter"]),
            (Some(2), &json!(2))
        );
        let page = session
            .good(tool, json!({"teamId": "5", "pageSize": 2, "after": 2}))
            .await;
        assert_eq!(page["assets"][0]["key"], json!(format!("{kind}3")));
        let page = session.good(tool, json!({"teamId": "5", "after": 3})).await;
        assert_eq!(
            (&page["assets"], &page["nextAfter"]),
            (&json!([]), &Value::Null)
        );
        let one = session
            .good(
                "get_library_asset",
                json!({"kind": kind, "key": format!("{kind}2")}),
            )
            .await;
        assert_eq!(
            (&one["node_id"], &one["file_key"]),
            (&json!("5:2"), &json!(KEY))
        );
    }
    let component = session
        .good(
            "get_library_asset",
            json!({"kind": "component", "key": "component1"}),
        )
        .await;
    assert_eq!(component["containing_frame"]["pageName"], "Library");
    session
        .bad(
            "get_library_asset",
            json!({"kind": "style", "key": "nothing"}),
        )
        .await;
}

#[tokio::test]
async fn variables_are_shown_by_mode_and_in_pieces() {
    let Setup { mut session, .. } = setup().await;
    let first = session.good("get_variables", json!({"fileKey": KEY})).await;
    assert_eq!(
        (&first["total"], &first["nextSkip"]),
        (&json!(600), &json!(500))
    );
    assert_eq!(
        first["variables"][0],
        json!({"id": "VariableID:1:1", "name": "colour/0001", "collection": "Palette", "type": "COLOR",
               "description": null, "values": {"Light": "#ff0000", "Dark": "{VariableID:1:1}"}})
    );
    let rest = session
        .good("get_variables", json!({"fileKey": KEY, "skip": 500}))
        .await;
    assert_eq!(
        (
            rest["variables"].as_array().map(Vec::len),
            &rest["nextSkip"]
        ),
        (Some(100), &Value::Null)
    );
    let some = session
        .good(
            "get_variables",
            json!({"fileKey": KEY, "name": "COLOUR/059"}),
        )
        .await;
    assert_eq!(some["total"], 10);
    let published = session
        .good("get_variables", json!({"fileKey": KEY, "published": true}))
        .await;
    assert_eq!(
        (&published["variables"][0]["type"], &published["total"]),
        (&json!("COLOR"), &json!(1))
    );
}
