//! Access tokens: cached, renewed in time, given up on, and what the user consented to.

use std::time::Duration;

use serde_json::json;

use crate::{MODIFY, SETTINGS, Setup, setup, setup_with};

/// Lets the clock that tokens are held by go on.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_access_token_is_renewed_before_it_expires() {
    let Setup {
        sign_in,
        api,
        mut session,
        ..
    } = setup().await;
    session.good("list_email_labels", json!({})).await;
    later(Duration::from_secs(3_500)).await;
    session.good("list_email_labels", json!({})).await;
    assert_eq!(sign_in.take_seen().len(), 1);
    // 39 seconds before the end: too close for a call on its way.
    later(Duration::from_secs(60)).await;
    session.good("list_email_labels", json!({})).await;
    assert_eq!(sign_in.take_seen().len(), 1);
    let seen = api.take_headers();
    assert_eq!(
        seen.len(),
        3,
        "nothing was sent with a token that was refused"
    );
    assert_eq!(seen[2]["authorization"], "Bearer ya29.SECRET-2");
}

#[tokio::test]
async fn many_calls_at_once_ask_for_one_token() {
    let Setup {
        sign_in,
        api,
        mut session,
        ..
    } = setup().await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let params = json!({"name": "list_email_labels", "arguments": {}});
        open.push(session.begin("tools/call", params).await);
    }
    while !open.is_empty() {
        let message = session.next().await;
        assert_ne!(message["result"]["isError"], true, "{message}");
        open.retain(|id| message["id"] != *id);
    }
    assert_eq!((sign_in.take_seen().len(), api.take_count()), (1, 8));
}

#[tokio::test]
async fn a_refused_access_token_is_renewed_once() {
    let Setup {
        shared,
        sign_in,
        api,
        mut session,
    } = setup().await;
    session.good("list_email_labels", json!({})).await;
    // Google takes the token back: only the next one is good.
    shared.lock().expect("whole").tokens += 1;
    let mail = json!({"to": ["a@b.c"], "subject": "s", "body": "b"});
    session.good("send_email", mail.clone()).await;
    assert_eq!((sign_in.take_seen().len(), api.take_count()), (2, 3));
    assert_eq!(
        api.with(|google| google.mailbox.mails.len()),
        1,
        "sent once"
    );
    // Two refusals in a row are not the token's fault.
    for number in [3, 4] {
        let message = format!("Login Required ya29.SECRET-{number}");
        let body = crate::google::refusal(401, &message, "authError").to_string();
        api.fail(crate::upstream::Fault::Status(401, vec![], body));
    }
    let text = session.bad("send_email", mail).await;
    assert!(
        text.contains("connect the Gmail account again") && !text.contains("SECRET"),
        "{text}"
    );
    assert_eq!((sign_in.take_seen().len(), api.take_count()), (1, 2));
}

#[tokio::test]
async fn a_dead_refresh_token_is_told_and_not_asked_about_again() {
    let Setup {
        sign_in,
        api,
        mut session,
        ..
    } = setup_with("1//old-SECRET").await;
    for _ in 0..3 {
        let text = session.bad("list_email_labels", json!({})).await;
        assert!(
            text.contains("refresh token expired")
                && text.contains("connect the Gmail account again"),
            "{text}"
        );
        assert!(!text.contains("SECRET"), "{text}");
    }
    assert_eq!((sign_in.take_seen().len(), api.take_count()), (1, 0));
}

#[tokio::test]
async fn a_failing_sign_in_passes() {
    let Setup {
        sign_in,
        api,
        mut session,
        ..
    } = setup().await;
    for (status, times, body, expected) in [
        (503, 3, "", "sign-in failed (HTTP 503)"),
        (429, 1, "{}", "rate limit"),
        (
            200,
            1,
            r#"{"access_token": "ya29.SECRET"#,
            "not what its API promises",
        ),
        (
            403,
            1,
            r#"{"error": "rate_limited SECRET"}"#,
            "Google's sign-in does not allow this",
        ),
    ] {
        for _ in 0..times {
            sign_in.fail(status, &[], body);
        }
        let text = session.bad("list_email_labels", json!({})).await;
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("may have taken effect"), "{text}");
        assert_eq!(sign_in.take_seen().len(), times, "{status}");
    }
    assert_eq!(api.take_count(), 0);
    // A failure that passes is not even seen.
    sign_in.fail(500, &[], "");
    session.good("list_email_labels", json!({})).await;
    let seen = sign_in.take_seen();
    let last = seen.last().expect("it was asked");
    assert_eq!(
        (
            last.path_and_query.as_str(),
            last.headers["content-type"].to_str().ok()
        ),
        ("/token", Some("application/x-www-form-urlencoded"))
    );
    assert!(!last.headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_missing_scope_is_told_before_gmail_is_asked() {
    let Setup {
        shared,
        api,
        mut session,
        ..
    } = setup().await;
    shared.lock().expect("whole").scope =
        "https://www.googleapis.com/auth/gmail.readonly".to_owned();
    let mail = json!({"to": ["a@b.c"], "subject": "s", "body": "b"});
    for (tool, arguments, scope) in [
        ("send_email", mail.clone(), MODIFY),
        ("draft_email", mail, MODIFY),
        ("trash_email", json!({"messageId": "m1"}), MODIFY),
        ("create_label", json!({"name": "a"}), MODIFY),
        (
            "create_filter",
            json!({"from": "a", "addLabelIds": ["STARRED"]}),
            SETTINGS,
        ),
    ] {
        let text = session.bad(tool, arguments).await;
        assert!(
            text.contains(&format!("{scope} is missing")),
            "{tool}: {text}"
        );
    }
    assert_eq!(api.take_count(), 0);
    for tool in [
        "list_email_labels",
        "list_filters",
        "list_drafts",
        "get_profile",
    ] {
        session.good(tool, json!({})).await;
    }
}

#[tokio::test]
async fn without_a_told_scope_gmails_own_refusal_says_what_is_missing() {
    let Setup {
        shared,
        api,
        mut session,
        ..
    } = setup().await;
    {
        let mut sign_in = shared.lock().expect("whole");
        sign_in.tells_scope = false;
        sign_in.scope = "https://www.googleapis.com/auth/gmail.readonly".to_owned();
    }
    let text = session.bad("create_label", json!({"name": "a"})).await;
    assert!(
        text.contains("HTTP 403") && text.contains(&format!("{MODIFY} is missing")),
        "{text}"
    );
    assert_eq!(api.take_count(), 1);
    session.good("get_profile", json!({})).await;
}
