//! The Gmail tools against a fake of the Gmail API and of Google's token endpoint.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mail_parser::MessageParser;
use minimcp_gmail::{Credentials, Gmail, Settings};
use minimcp_rest::{BaseUrl, Secret};
use serde_json::{Value, json};

#[path = "../../rest/tests/support/fake.rs"]
mod fake;
#[path = "support/google.rs"]
mod google;
#[path = "../../rest/tests/support/session.rs"]
mod session;
use fake::Fake;
use google::Google;
use session::Session;

struct Setup {
    api: Fake,
    sign_in: Fake,
    google: Arc<Google>,
    session: Session,
}

async fn setup_with(refresh_token: &str) -> Setup {
    let google = Arc::<Google>::default();
    let api = Fake::start(google::api(google.clone()), None).await;
    let sign_in = Fake::start(google::sign_in(google.clone()), None).await;
    let address = |url: &str| BaseUrl::new(url).map_err(|error| error.to_string());
    let settings = Settings {
        credentials: Ok(Credentials {
            client_id: "client-1".to_owned(),
            client_secret: Secret::new("client-SECRET"),
            refresh_token: Secret::new(refresh_token),
        }),
        api: address(&api.url),
        token_uri: address(&format!("{}/token", sign_in.url)),
    };
    let session = Session::start(Gmail::new(settings)).await;
    Setup {
        api,
        sign_in,
        google,
        session,
    }
}

async fn setup() -> Setup {
    setup_with("1//refresh-SECRET").await
}

/// Lets the clock that tokens are held by go on.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn every_tool_is_described() {
    let Setup { mut session, .. } = setup().await;
    let tools = session.tools().await;
    let names: Vec<&str> = tools.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "draft_email",
            "list_email_labels",
            "modify_email",
            "read_email",
            "search_emails",
            "send_email"
        ]
    );
    assert_eq!(tools["send_email"]["annotations"]["destructiveHint"], true);
}

#[tokio::test]
async fn a_draft_and_a_sent_mail_are_found_and_read_back() {
    let Setup {
        api,
        sign_in,
        mut session,
        ..
    } = setup().await;
    let arguments =
        json!({"to": ["Ann <ann@example.com>"], "subject": "Grüße", "body": "First.\n>>> ÿ??"});
    let draft = session.good("draft_email", arguments).await;
    assert_eq!(
        (&draft["id"], &draft["message"]["labelIds"]),
        (&json!("r-77"), &json!(["DRAFT"]))
    );
    let found = session
        .good("search_emails", json!({"query": "in:draft"}))
        .await;
    let head = &found["emails"][0];
    assert_eq!(
        (&head["id"], &head["to"], &head["subject"]),
        (
            &draft["message"]["id"],
            &json!("ann@example.com"),
            &json!("Grüße")
        )
    );
    let read = session
        .good("read_email", json!({"messageId": head["id"]}))
        .await;
    assert_eq!(
        read["text"].as_str().map(str::trim_end),
        Some("First.\n>>> ÿ??")
    );

    let arguments = json!({"to": ["ann@example.com"], "subject": "Re: Grüße", "body": "Second.",
        "threadId": head["threadId"], "inReplyTo": read["messageIdHeader"]});
    let sent = session.good("send_email", arguments).await;
    assert_eq!(
        (&sent["labelIds"], &sent["threadId"]),
        (&json!(["SENT"]), &head["threadId"])
    );
    let found = session
        .good("search_emails", json!({"query": "in:sent"}))
        .await;
    assert_eq!(found["emails"][0]["snippet"], "Second.");
    let request = api
        .take_seen()
        .into_iter()
        .find(|seen| seen.method == "POST" && seen.path_and_query.ends_with("/send"));
    let body: Value = serde_json::from_str(&request.expect("it was sent").body).expect("JSON");
    let raw = URL_SAFE_NO_PAD
        .decode(body["raw"].as_str().expect("text"))
        .expect("base64url, unpadded");
    let mail = MessageParser::new().parse(&raw).expect("MIME");
    let id = read["messageIdHeader"]
        .as_str()
        .expect("text")
        .trim_matches(['<', '>']);
    assert_eq!(mail.in_reply_to().as_text(), Some(id));
    assert_eq!(
        sign_in.take_seen().len(),
        1,
        "one access token serves all calls"
    );
}

#[tokio::test]
async fn mails_are_found_page_by_page_and_one_deleted_meanwhile_is_left_out() {
    let Setup {
        google,
        mut session,
        ..
    } = setup().await;
    for number in 1..=3 {
        let arguments = json!({"to": ["a@b.c"], "subject": format!("s{number}"), "body": "b"});
        session.good("send_email", arguments).await;
    }
    let arguments = json!({"query": "in:sent", "maxResults": 2});
    let page = session.good("search_emails", arguments).await;
    assert_eq!(
        (
            &page["emails"][0]["subject"],
            &page["emails"][1]["subject"],
            &page["nextPageToken"]
        ),
        (&json!("s3"), &json!("s2"), &json!("2"))
    );
    let arguments = json!({"query": "in:sent", "maxResults": 2, "pageToken": "2"});
    let page = session.good("search_emails", arguments).await;
    assert_eq!(
        (&page["emails"][0]["subject"], &page["nextPageToken"]),
        (&json!("s1"), &Value::Null)
    );
    google.messages.lock().expect("whole")[1]["gone"] = json!(true);
    let found = session
        .good("search_emails", json!({"query": "in:sent"}))
        .await;
    let subjects: Vec<&Value> = found["emails"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| &m["subject"])
        .collect();
    assert_eq!(subjects, [&json!("s3"), &json!("s1")]);
    let none = session
        .good("search_emails", json!({"query": "in:spam"}))
        .await;
    assert_eq!(
        (&none["emails"], &none["resultSizeEstimate"]),
        (&json!([]), &json!(0))
    );
}

#[tokio::test]
async fn a_mail_of_many_parts_is_read() {
    let Setup {
        google,
        mut session,
        ..
    } = setup().await;
    let encode = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    google.messages.lock().expect("whole").push(json!({
        "id": "m1", "threadId": "t1", "labelIds": ["INBOX", "UNREAD"], "snippet": "…",
        "payload": {"mimeType": "multipart/mixed", "filename": "", "body": {"size": 0}, "headers": [
            {"name": "From", "value": "=?utf-8?B?w4Ru?= <ann@example.com>"}, {"name": "Subject", "value": "Plan"},
            {"name": "Message-Id", "value": "<x@example.com>"},
        ], "parts": [
            {"partId": "0", "mimeType": "multipart/alternative", "filename": "", "body": {"size": 0}, "parts": [
                {"partId": "0.0", "mimeType": "text/plain", "filename": "", "body": {"size": 2, "data": encode(b"\r\n")}},
                {"partId": "0.1", "mimeType": "text/html", "filename": "",
                 "body": {"size": 9, "data": encode("<p>Grüße</p>".as_bytes())}},
            ]},
            {"partId": "1", "mimeType": "application/pdf", "filename": "plan.pdf",
             "body": {"attachmentId": "ANGj", "size": 7000}},
            {"partId": "2", "mimeType": "message/rfc822", "filename": "", "body": {"attachmentId": "ANGk", "size": 9}},
        ]},
    }));
    let mail = session.good("read_email", json!({"messageId": "m1"})).await;
    assert_eq!(mail["text"].as_str().map(str::trim), Some("Grüße"));
    assert_eq!(
        (&mail["from"], &mail["messageIdHeader"], &mail["truncated"]),
        (
            &json!("Än <ann@example.com>"),
            &json!("<x@example.com>"),
            &json!(false)
        )
    );
    assert_eq!(
        mail["attachments"],
        json!([{"filename": "plan.pdf", "mimeType": "application/pdf", "size": 7000},
               {"filename": "", "mimeType": "message/rfc822", "size": 9}])
    );
}

#[tokio::test]
async fn labels_are_listed_and_changed() {
    let Setup { mut session, .. } = setup().await;
    let labels = session.good("list_email_labels", json!({})).await;
    assert_eq!(
        labels["labels"][1],
        json!({"id": "Label_7", "name": "Travel", "type": "user"})
    );
    let sent = session
        .good(
            "send_email",
            json!({"to": ["a@b.c"], "subject": "s", "body": "b"}),
        )
        .await;
    let arguments =
        json!({"messageId": sent["id"], "addLabelIds": ["Label_7"], "removeLabelIds": ["SENT"]});
    let changed = session.good("modify_email", arguments).await;
    assert_eq!(changed["labelIds"], json!(["Label_7"]));
    let found = session
        .good("search_emails", json!({"query": "in:label_7"}))
        .await;
    assert_eq!(found["emails"][0]["id"], sent["id"]);
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
    let seen = api.take_seen();
    assert_eq!(
        seen.len(),
        3,
        "nothing was sent with a token that was refused"
    );
    assert_eq!(seen[2].headers["authorization"], "Bearer ya29.SECRET-2");
}

#[tokio::test]
async fn a_refused_access_token_is_renewed_once() {
    let Setup {
        google,
        sign_in,
        api,
        mut session,
    } = setup().await;
    session.good("list_email_labels", json!({})).await;
    // Google takes the token back: only the next one is good.
    google.tokens.fetch_add(1, Ordering::SeqCst);
    let sent = json!({"to": ["a@b.c"], "subject": "s", "body": "b"});
    session.good("send_email", sent.clone()).await;
    assert_eq!((sign_in.take_seen().len(), api.take_seen().len()), (2, 3));
    assert_eq!(google.messages.lock().expect("whole").len(), 1, "sent once");
    // Two refusals in a row are not the token's fault.
    for number in [3, 4] {
        let message = format!("Login Required ya29.SECRET-{number}");
        let body = json!({"error": {"code": 401, "message": message}});
        api.fail(401, &[], &body.to_string());
    }
    let text = session.bad("send_email", sent).await;
    assert!(
        text.contains("connect the Gmail account again") && !text.contains("SECRET"),
        "{text}"
    );
    assert_eq!((sign_in.take_seen().len(), api.take_seen().len()), (1, 2));
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
            text.contains("connect the Gmail account again") && !text.contains("SECRET"),
            "{text}"
        );
    }
    assert_eq!((sign_in.take_seen().len(), api.take_seen().len()), (1, 0));
}

#[tokio::test]
async fn a_failing_sign_in_passes() {
    let Setup {
        sign_in,
        api,
        mut session,
        ..
    } = setup().await;
    for (status, body, expected) in [
        (503, "", "sign-in failed (HTTP 503)"),
        (429, "{}", "rate limit"),
        (
            200,
            r#"{"access_token": "ya29.SECRET"#,
            "not what its API promises",
        ),
    ] {
        sign_in.fail(status, &[], body);
        let text = session.bad("list_email_labels", json!({})).await;
        assert!(
            text.contains(expected) && !text.contains("SECRET"),
            "{text}"
        );
        assert!(!text.contains("may have taken effect"), "{text}");
    }
    assert!(api.take_seen().is_empty());
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
async fn every_fault_is_told_and_the_server_lives_on() {
    let Setup {
        api, mut session, ..
    } = setup().await;
    session.good("list_email_labels", json!({})).await;
    api.take_seen();
    let google = |code: u16, reason: &str| {
        json!({"error": {"code": code, "message": "Google said so", "errors": [
            {"domain": "global", "reason": reason, "message": "Google said so"}]}})
        .to_string()
    };
    for (status, headers, body, expected) in [
        (
            403,
            vec![],
            google(403, "insufficientPermissions"),
            "auth/gmail.modify",
        ),
        (
            403,
            vec![],
            google(403, "userRateLimitExceeded"),
            "rate limit of Gmail is reached",
        ),
        (
            403,
            vec![],
            google(403, "dailyLimitExceeded"),
            "Wait a minute",
        ),
        (
            429,
            vec![("retry-after", "90")],
            google(429, "rateLimitExceeded"),
            "Try again in 90 seconds",
        ),
        (404, vec![], google(404, "notFound"), "search_emails"),
        (
            400,
            vec![],
            google(400, "failedPrecondition"),
            "Google said so",
        ),
        (
            200,
            vec![],
            "{broken".to_owned(),
            "not what its API promises",
        ),
    ] {
        api.fail(status, &headers, &body);
        let text = session.bad("list_email_labels", json!({})).await;
        assert!(text.contains(expected), "{status}: {text}");
        assert_eq!(api.take_seen().len(), 1, "{status} is not tried again");
    }
    api.fail(503, &[], "");
    let text = session
        .bad(
            "send_email",
            json!({"to": ["a@b.c"], "subject": "s", "body": "b"}),
        )
        .await;
    assert!(text.contains("may have taken effect"), "{text}");
    assert_eq!(api.take_seen().len(), 1, "a mail is never sent twice");
    api.fail(500, &[], "");
    session.good("list_email_labels", json!({})).await;
    api.fail(0, &[], "");
    // From here on the clock jumps to the next timer whenever nothing else is to do.
    tokio::time::pause();
    let text = session
        .bad(
            "send_email",
            json!({"to": ["a@b.c"], "subject": "s", "body": "b"}),
        )
        .await;
    assert!(
        text.contains("did not answer in time") && text.contains("may have taken effect"),
        "{text}"
    );
}

#[tokio::test]
async fn bad_arguments_never_reach_gmail() {
    let Setup {
        api,
        sign_in,
        mut session,
        ..
    } = setup().await;
    for (tool, arguments) in [
        ("search_emails", json!({"query": "a", "maxResults": 51})),
        ("read_email", json!({"messageId": "../labels"})),
        ("read_email", json!({"messageId": ""})),
        ("modify_email", json!({"messageId": "m1"})),
        ("send_email", json!({"to": [], "subject": "s", "body": "b"})),
        (
            "send_email",
            json!({"to": ["a@b\r\nBcc: c@d"], "subject": "s", "body": "b"}),
        ),
        (
            "draft_email",
            json!({"to": ["a@b.c"], "subject": "s\nX: y", "body": "b"}),
        ),
        (
            "draft_email",
            json!({"to": ["a@b.c"], "subject": "s", "body": "b", "sendAt": "now"}),
        ),
    ] {
        session.bad(tool, arguments).await;
    }
    assert!(api.take_seen().is_empty() && sign_in.take_seen().is_empty());
}
