//! Every fault of the API, over all tools: the right error, no crash, no leaked secret.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    Setup, TOOLS, google, setup,
    upstream::{Fault, faults},
};

/// Good arguments for every tool, none of which spoils another.
fn calls(setup: &Setup) -> Vec<(&'static str, Value)> {
    let (id, thread) = setup.receive(
        "From: ann@x.org\nTo: me@example.com\nSubject: s\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\
         Content-Type: text/plain\n\nsee file\n--b\nContent-Type: application/pdf; name=p.pdf\n\nPDF\n--b--\n",
    );
    let draft = |subject: &str| {
        setup.api.with(|google| {
            let raw = format!("To: a@b.c\r\nSubject: {subject}\r\n\r\nb");
            let mail = google
                .mailbox
                .store(raw.as_bytes(), None, &["DRAFT"])
                .expect("a good mail");
            let draft = google.mailbox.new_draft_id();
            google.mailbox.drafts.push((draft.clone(), mail.id));
            draft
        })
    };
    let (to_send, to_delete, to_update) = (draft("one"), draft("two"), draft("three"));
    setup.api.with(|google| {
        google
            .filters
            .push(json!({"id": "f1", "criteria": {"from": "a"}, "action": {}}))
    });
    let mail = json!({"to": ["a@b.c"], "subject": "s", "body": "b"});
    vec![
        ("get_profile", json!({})),
        ("search_emails", json!({"query": "in:inbox"})),
        ("read_email", json!({"messageId": id})),
        ("search_threads", json!({"query": "in:inbox"})),
        ("get_thread", json!({"threadId": thread})),
        (
            "download_attachment",
            json!({"messageId": id, "partId": "1"}),
        ),
        ("list_drafts", json!({})),
        ("list_email_labels", json!({})),
        ("list_filters", json!({})),
        ("send_email", mail.clone()),
        ("draft_email", mail.clone()),
        ("reply_to_email", json!({"messageId": id, "body": "b"})),
        ("forward_email", json!({"messageId": id, "to": ["a@b.c"]})),
        ("update_draft", json!({"draftId": to_update, "email": mail})),
        ("send_draft", json!({"draftId": to_send})),
        ("delete_draft", json!({"draftId": to_delete})),
        (
            "modify_email",
            json!({"messageId": id, "addLabelIds": ["STARRED"]}),
        ),
        (
            "modify_thread",
            json!({"threadId": thread, "addLabelIds": ["STARRED"]}),
        ),
        (
            "batch_modify_emails",
            json!({"messageIds": [id], "addLabelIds": ["STARRED"]}),
        ),
        ("trash_email", json!({"messageId": id})),
        ("untrash_email", json!({"messageId": id})),
        ("trash_thread", json!({"threadId": thread})),
        ("untrash_thread", json!({"threadId": thread})),
        ("create_label", json!({"name": "new"})),
        (
            "update_label",
            json!({"labelId": "Label_7", "name": "renamed"}),
        ),
        ("delete_label", json!({"labelId": "Label_7"})),
        (
            "create_filter",
            json!({"from": "a", "addLabelIds": ["STARRED"]}),
        ),
        ("delete_filter", json!({"filterId": "f1"})),
    ]
}

/// Tools that never send twice what they send.
const ONCE: [&str; 7] = [
    "send_email",
    "draft_email",
    "reply_to_email",
    "forward_email",
    "send_draft",
    "create_label",
    "create_filter",
];

/// Tools whose good answer has no body, so that one that is no JSON is no fault.
const WITHOUT_BODY: [&str; 4] = [
    "batch_modify_emails",
    "delete_draft",
    "delete_filter",
    "delete_label",
];

fn told(status: u16) -> String {
    google::refusal(status, "Google said so, ya29.SECRET-1", "backendError").to_string()
}

/// Most of the time is spent waiting between attempts, so the tools are tried in four parts at once.
#[tokio::test]
async fn every_fault_of_every_tool_is_told_and_the_server_lives_on() {
    tokio::join!(try_part(0), try_part(1), try_part(2), try_part(3));
}

async fn try_part(part: usize) {
    let mut setup = setup().await;
    let calls = calls(&setup);
    let names: BTreeSet<&str> = calls.iter().map(|(tool, _)| *tool).collect();
    assert_eq!(names, BTreeSet::from(TOOLS), "every tool is tried");
    setup.session.good("get_profile", json!({})).await;
    for (tool, arguments) in calls.iter().skip(part).step_by(4) {
        for (fault, expected) in faults(told) {
            if matches!(fault, Fault::NoJson) && WITHOUT_BODY.contains(tool) {
                continue;
            }
            setup.api.take_count();
            for _ in 0..3 {
                setup.api.fail(fault.clone());
            }
            let text = setup.session.bad(tool, arguments.clone()).await;
            assert!(text.contains(expected), "{tool}, {fault:?}: {text}");
            assert!(
                !text.contains("SECRET") && text.len() < 2_000,
                "{tool}, {fault:?}: {text}"
            );
            let passing = matches!(fault, Fault::CutOff | Fault::Status(500..600, ..));
            let count = setup.api.take_count();
            // Replies and forwards fail at what they read first.
            let reads_first = matches!(*tool, "reply_to_email" | "forward_email");
            if !passing || (ONCE.contains(tool) && !reads_first) {
                assert_eq!(count, 1, "{tool}, {fault:?} is not tried again");
            } else {
                assert_eq!(count, 3, "{tool}, {fault:?} is tried again");
            }
            setup.api.forget_faults();
        }
        if tool.starts_with("send_") || *tool == "draft_email" {
            setup.api.fail(Fault::Status(503, vec![], String::new()));
            let text = setup.session.bad(tool, arguments.clone()).await;
            assert!(text.contains("may have taken effect"), "{tool}: {text}");
        }
        // What was refused was not done, and what is asked now is.
        setup.session.good(tool, arguments.clone()).await;
    }
}

#[tokio::test]
async fn a_body_without_end_is_left() {
    let mut setup = setup().await;
    setup.session.good("get_profile", json!({})).await;
    setup.api.fail(Fault::Endless);
    let text = setup.session.bad("list_email_labels", json!({})).await;
    assert!(text.contains("larger than 33554432 bytes"), "{text}");
}

#[tokio::test]
async fn silence_ends_and_is_told() {
    let mut setup = setup().await;
    setup.session.good("get_profile", json!({})).await;
    for tool in ["send_email", "list_email_labels"] {
        for _ in 0..3 {
            setup.api.fail(Fault::Silence);
        }
        let arguments = match tool {
            "send_email" => json!({"to": ["a@b.c"], "subject": "s", "body": "b"}),
            _ => json!({}),
        };
        // From here on the clock jumps to the next timer whenever nothing else is to do.
        tokio::time::pause();
        let text = setup.session.bad(tool, arguments).await;
        tokio::time::resume();
        assert!(text.contains("did not answer in time"), "{text}");
        assert_eq!(
            text.contains("may have taken effect"),
            tool == "send_email",
            "{text}"
        );
        setup.api.forget_faults();
    }
}

#[tokio::test]
async fn googles_own_words_decide_what_is_advised() {
    let mut setup = setup().await;
    setup.session.good("get_profile", json!({})).await;
    for (status, reason, expected) in [
        (
            403,
            "userRateLimitExceeded",
            "rate limit of Gmail is reached",
        ),
        (403, "dailyLimitExceeded", "Wait a minute"),
        (
            403,
            "accessNotConfigured",
            "not enabled in the user's Google Cloud project",
        ),
        (403, "domainPolicy", "administrators"),
        (403, "insufficientPermissions", "gmail.modify is missing"),
        (403, "forbidden", "does not allow this"),
        (400, "failedPrecondition", "Google said so"),
        (404, "notFound", "search_emails"),
        (413, "uploadTooLarge", "HTTP 413"),
    ] {
        let body = google::refusal(status, "Google said so", reason).to_string();
        setup.api.fail(Fault::Status(status, vec![], body));
        let text = setup.session.bad("list_email_labels", json!({})).await;
        assert!(text.contains(expected), "{reason}: {text}");
    }
    // A resource fails as told as a tool.
    setup.api.fail(Fault::Status(403, vec![], told(403)));
    let params = json!({"uri": "gmail://messages/18f1/parts/1"});
    let answer = setup.session.request("resources/read", params).await;
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
    let text = answer["error"]["message"].as_str().expect("text");
    assert!(
        text.contains("HTTP 403") && !text.contains("SECRET"),
        "{text}"
    );
}

#[tokio::test]
async fn a_cancelled_call_ends_and_the_session_goes_on() {
    let mut setup = setup().await;
    setup.session.good("get_profile", json!({})).await;
    setup.api.fail(Fault::Silence);
    let params = json!({"name": "list_email_labels", "arguments": {}});
    let id = setup.session.begin("tools/call", params).await;
    setup
        .session
        .notify("notifications/cancelled", json!({"requestId": id}))
        .await;
    let answer = setup.session.request("tools/list", json!({})).await;
    assert_eq!(
        answer["result"]["tools"].as_array().map(Vec::len),
        Some(TOOLS.len())
    );
    assert!(
        setup
            .session
            .notifications
            .iter()
            .all(|message| message["id"] != id)
    );
}
