//! Labels, trash and filters.

use serde_json::{Value, json};

use crate::setup;

#[tokio::test]
async fn mails_and_threads_are_labelled_archived_and_trashed() {
    let mut setup = setup().await;
    let (first, thread) = setup.receive("From: a@b\nSubject: one\n\nb");
    let (second, _) = setup.receive("From: a@b\nSubject: two\n\nb");
    let session = &mut setup.session;
    let labels = session.good("list_email_labels", json!({})).await;
    assert_eq!(
        labels["labels"][1],
        json!({"id": "Label_7", "name": "Travel", "type": "user"})
    );
    let arguments =
        json!({"messageId": first, "addLabelIds": ["Label_7"], "removeLabelIds": ["UNREAD"]});
    let changed = session.good("modify_email", arguments).await;
    assert_eq!(changed["labelIds"], json!(["INBOX", "Label_7"]));
    let arguments =
        json!({"threadId": thread, "addLabelIds": ["STARRED"], "removeLabelIds": ["INBOX"]});
    let changed = session.good("modify_thread", arguments).await;
    assert_eq!(
        changed["messages"][0]["labelIds"],
        json!(["Label_7", "STARRED"])
    );
    let arguments = json!({"messageIds": [first, second], "addLabelIds": ["IMPORTANT"]});
    let changed = session.good("batch_modify_emails", arguments).await;
    assert_eq!(changed, json!({"modified": 2}));
    let found = session
        .good("search_emails", json!({"query": "in:important"}))
        .await;
    assert_eq!(found["emails"].as_array().map(Vec::len), Some(2));
    let trashed = session
        .good("trash_email", json!({"messageId": second}))
        .await;
    assert_eq!(trashed["labelIds"], json!(["UNREAD", "IMPORTANT", "TRASH"]));
    let found = session.good("search_emails", json!({"query": "two"})).await;
    assert_eq!(found["emails"], json!([]));
    let arguments = json!({"query": "two", "includeSpamTrash": true});
    let found = session.good("search_emails", arguments).await;
    assert_eq!(found["emails"][0]["id"], json!(second));
    let back = session
        .good("untrash_email", json!({"messageId": second}))
        .await;
    assert_eq!(back["labelIds"], json!(["UNREAD", "IMPORTANT"]));
    let trashed = session
        .good("trash_thread", json!({"threadId": thread}))
        .await;
    assert!(
        trashed["messages"][0]["labelIds"]
            .to_string()
            .contains("TRASH")
    );
    let back = session
        .good("untrash_thread", json!({"threadId": thread}))
        .await;
    assert!(
        !back["messages"][0]["labelIds"]
            .to_string()
            .contains("TRASH")
    );
    let arguments = json!({"messageId": first, "addLabelIds": ["Label_404"]});
    let text = session.bad("modify_email", arguments).await;
    assert!(text.contains("Invalid label: Label_404"), "{text}");
}

#[tokio::test]
async fn a_label_is_made_renamed_hidden_and_deleted() {
    let mut setup = setup().await;
    let session = &mut setup.session;
    let made = session
        .good("create_label", json!({"name": "Reisen/Grüße"}))
        .await;
    assert_eq!(
        (&made["name"], &made["type"]),
        (&json!("Reisen/Grüße"), &json!("user"))
    );
    let text = session
        .bad("create_label", json!({"name": "Reisen/Grüße"}))
        .await;
    assert!(
        text.contains("conflict") && text.contains("HTTP 409"),
        "{text}"
    );
    let arguments =
        json!({"labelId": made["id"], "name": "Reisen", "labelListVisibility": "labelHide"});
    let renamed = session.good("update_label", arguments).await;
    assert_eq!(
        (&renamed["id"], &renamed["name"]),
        (&made["id"], &json!("Reisen"))
    );
    let arguments = json!({"labelId": made["id"], "messageListVisibility": "hide"});
    session.good("update_label", arguments).await;
    let text = session
        .bad(
            "update_label",
            json!({"labelId": "INBOX", "name": "Eingang"}),
        )
        .await;
    assert!(text.contains("Cannot change a system label"), "{text}");
    let deleted = session
        .good("delete_label", json!({"labelId": made["id"]}))
        .await;
    assert_eq!(deleted["deleted"], made["id"]);
    session
        .bad("delete_label", json!({"labelId": made["id"]}))
        .await;
}

#[tokio::test]
async fn a_filter_is_made_listed_and_deleted() {
    let mut setup = setup().await;
    let session = &mut setup.session;
    let none = session.good("list_filters", json!({})).await;
    assert_eq!(none, json!({"filters": []}));
    let arguments = json!({"from": "news@example.com", "hasAttachment": true, "addLabelIds": ["Label_7"],
        "removeLabelIds": ["INBOX"]});
    let made = session.good("create_filter", arguments).await;
    let list = session.good("list_filters", json!({})).await;
    assert_eq!(
        list["filters"],
        json!([{"id": made["id"], "criteria": {"from": "news@example.com", "hasAttachment": true},
                "action": {"addLabelIds": ["Label_7"], "removeLabelIds": ["INBOX"]}}])
    );
    session
        .good("delete_filter", json!({"filterId": made["id"]}))
        .await;
    let text = session
        .bad("delete_filter", json!({"filterId": made["id"]}))
        .await;
    assert!(text.contains("list_filters"), "{text}");
    let left: Vec<Value> = setup.api.with(|google| google.filters.clone());
    assert!(left.is_empty());
}
