//! Finding and reading.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{Setup, setup};

const MANY_PARTS: &str = "From: =?utf-8?B?w4Ru?= <ann@example.com>
To: me@example.com
Subject: Plan
Message-ID: <plan@example.com>
Content-Type: multipart/mixed; boundary=b1

--b1
Content-Type: multipart/related; boundary=b2

--b2
Content-Type: multipart/alternative; boundary=b3

--b3
Content-Type: text/plain; charset=ISO-2022-JP
Content-Transfer-Encoding: base64

GyRCJDMkcyRLJEEkTxsoQg==
--b3
Content-Type: text/html; charset=utf-8

<p>hello</p>
--b3--
--b2
Content-Type: image/png
Content-Disposition: inline; filename=logo.png
Content-ID: <logo>
Content-Transfer-Encoding: base64

iVBORw==
--b2--
--b1
Content-Type: text/csv; charset=windows-1252
Content-Disposition: attachment;
 filename*0*=UTF-8''Gr%C3%BC;
 filename*1=sse.csv
Content-Transfer-Encoding: quoted-printable

gr=FC=DFe;1
--b1--
";

#[tokio::test]
async fn a_mail_of_many_parts_is_read_and_its_files_are_downloaded() {
    let mut setup = setup().await;
    let (id, thread) = setup.receive(MANY_PARTS);
    let session = &mut setup.session;
    let mail = session.good("read_email", json!({"messageId": id})).await;
    assert_eq!(mail["text"].as_str().map(str::trim), Some("こんにちは"));
    assert_eq!(
        (
            &mail["from"],
            &mail["messageIdHeader"],
            &mail["threadId"],
            &mail["truncated"]
        ),
        (
            &json!("Än <ann@example.com>"),
            &json!("<plan@example.com>"),
            &json!(thread),
            &json!(false)
        )
    );
    let names: Vec<&str> = mail["attachments"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|file| file["filename"].as_str())
        .collect();
    assert_eq!(names, ["logo.png", "Grüsse.csv"]);
    let png = &mail["attachments"][0];
    let params = json!({"name": "download_attachment",
        "arguments": {"messageId": id, "partId": png["partId"]}});
    let answer = session.request("tools/call", params).await;
    let resource = &answer["result"]["content"][1]["resource"];
    assert_eq!(
        (&resource["uri"], &resource["mimeType"]),
        (&png["uri"], &json!("image/png"))
    );
    assert_eq!(
        STANDARD
            .decode(resource["blob"].as_str().expect("base64"))
            .ok()
            .as_deref(),
        Some(&b"\x89PNG"[..])
    );
    assert_eq!(answer["result"]["structuredContent"]["size"], 4);
    // The same as a resource; a text comes as text, in UTF-8.
    let csv = &mail["attachments"][1];
    let answer = session
        .request("resources/read", json!({"uri": csv["uri"]}))
        .await;
    let contents = &answer["result"]["contents"][0];
    assert_eq!(
        (
            &contents["mimeType"],
            contents["text"].as_str().map(str::trim)
        ),
        (&json!("text/csv"), Some("grüße;1"))
    );
    let templates = session.request("resources/templates/list", json!({})).await;
    assert_eq!(
        templates["result"]["resourceTemplates"][0]["uriTemplate"],
        "gmail://messages/{messageId}/parts/{partId}"
    );
    let missing = format!("gmail://messages/{id}/parts/7");
    for uri in [
        missing.as_str(),
        "gmail://messages/18ffff/parts/1",
        "gmail://labels",
        "file:///etc/passwd",
    ] {
        let answer = session.request("resources/read", json!({"uri": uri})).await;
        assert_eq!(answer["error"]["code"], -32002, "{answer}");
    }
    let arguments = json!({"messageId": id, "partId": "9.9"});
    let text = session.bad("download_attachment", arguments).await;
    assert!(text.contains("no such part"), "{text}");
}

#[tokio::test]
async fn a_long_text_that_gmail_keeps_apart_is_read_all_the_same() {
    let mut setup = setup().await;
    let long = "Ünd so weiter.\n".repeat(10_000);
    let (id, thread) = setup.receive(&format!(
        "From: a@b\nSubject: long\nContent-Type: text/plain; charset=utf-8\n\n{long}"
    ));
    let mail = setup
        .session
        .good("read_email", json!({"messageId": id}))
        .await;
    let text = mail["text"].as_str().expect("text");
    assert!(
        text.starts_with("Ünd so weiter.\nÜnd") && text.len() > 100_000,
        "{}",
        text.len()
    );
    assert_eq!(mail["attachments"], json!([]));
    let thread = setup
        .session
        .good("get_thread", json!({"threadId": thread}))
        .await;
    assert_eq!(thread["messages"][0]["text"], mail["text"]);
    // An attachment beyond the limit is told, not handed out.
    let big = "QUJD\n".repeat(4_000_000);
    let (id, _) = setup.receive(&format!(
        "From: a@b\nSubject: big\nContent-Type: application/zip; name=big.zip\nContent-Transfer-Encoding: base64\n\n{big}"
    ));
    let mail = setup
        .session
        .good("read_email", json!({"messageId": id}))
        .await;
    let arguments = json!({"messageId": id, "partId": mail["attachments"][0]["partId"]});
    let text = setup.session.bad("download_attachment", arguments).await;
    assert!(
        text.contains("larger than 10485760 bytes") && text.contains("open it in Gmail"),
        "{text}"
    );
}

#[tokio::test]
async fn mails_are_found_page_by_page_and_one_deleted_meanwhile_is_left_out() {
    let mut setup = setup().await;
    for number in 1..=3 {
        setup.receive(&format!(
            "From: a@b\nTo: me@example.com\nSubject: s{number}\n\nbody {number}"
        ));
    }
    let Setup { api, session, .. } = &mut setup;
    let arguments = json!({"query": "in:inbox", "maxResults": 2});
    let page = session.good("search_emails", arguments).await;
    assert_eq!(
        (
            &page["emails"][0]["subject"],
            &page["emails"][1]["subject"],
            &page["nextPageToken"]
        ),
        (&json!("s3"), &json!("s2"), &json!("2"))
    );
    assert_eq!(page["emails"][0]["snippet"], "body 3");
    let arguments = json!({"query": "in:inbox", "maxResults": 2, "pageToken": "2"});
    let page = session.good("search_emails", arguments).await;
    assert_eq!(
        (&page["emails"][0]["subject"], &page["nextPageToken"]),
        (&json!("s1"), &Value::Null)
    );
    api.with(|google| google.mailbox.mails[1].gone = true);
    let params = json!({"name": "search_emails", "arguments": {"query": "in:inbox"}, "_meta": {"progressToken": 7}});
    session.notifications.clear();
    let found = session.request("tools/call", params).await;
    let emails = found["result"]["structuredContent"]["emails"]
        .as_array()
        .expect("a list")
        .clone();
    let subjects: Vec<&Value> = emails.iter().map(|mail| &mail["subject"]).collect();
    assert_eq!(subjects, [&json!("s3"), &json!("s1")]);
    let told = session
        .notifications
        .iter()
        .filter(|message| message["params"]["progressToken"] == 7);
    assert!(told.count() >= 1, "progress is told");
    let none = session
        .good("search_emails", json!({"query": "in:spam"}))
        .await;
    assert_eq!(
        (&none["emails"], &none["resultSizeEstimate"]),
        (&json!([]), &json!(0))
    );
}

#[tokio::test]
async fn threads_are_found_and_read_in_pieces() {
    let mut setup = setup().await;
    let (_, thread) = setup.receive("From: ann@x\nTo: me@example.com\nSubject: Plan\n\nfirst");
    setup.receive("From: bob@x\nTo: me@example.com\nSubject: Other\n\nalone");
    setup.api.with(|google| {
        for number in 2..=25 {
            let raw = format!("From: ann@x\r\nSubject: Re: Plan\r\n\r\nmail {number}");
            google
                .mailbox
                .store(raw.as_bytes(), Some(&thread), &["INBOX"])
                .expect("a good mail");
        }
    });
    let session = &mut setup.session;
    let found = session
        .good("search_threads", json!({"query": "in:inbox"}))
        .await;
    assert_eq!(found["threads"].as_array().map(Vec::len), Some(2));
    let plan = found["threads"]
        .as_array()
        .and_then(|threads| threads.iter().find(|one| one["threadId"] == thread))
        .expect("it is found");
    assert_eq!(
        (
            &plan["messages"],
            &plan["first"]["subject"],
            &plan["last"]["snippet"]
        ),
        (&json!(25), &json!("Plan"), &json!("mail 25"))
    );
    let piece = session
        .good("get_thread", json!({"threadId": thread}))
        .await;
    assert_eq!(
        (&piece["total"], &piece["nextSkip"]),
        (&json!(25), &json!(20))
    );
    assert_eq!(piece["messages"][0]["text"], "first");
    let piece = session
        .good("get_thread", json!({"threadId": thread, "skip": 20}))
        .await;
    assert_eq!(
        (
            piece["messages"].as_array().map(Vec::len),
            &piece["nextSkip"]
        ),
        (Some(5), &Value::Null)
    );
    let profile = session.good("get_profile", json!({})).await;
    assert_eq!(profile["emailAddress"], "me@example.com");
}
