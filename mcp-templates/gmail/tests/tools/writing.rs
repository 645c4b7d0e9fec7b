//! Sending, answering, forwarding and drafts.

use base64::{Engine, engine::general_purpose::STANDARD};
use mail_parser::{MessageParser, MimeHeaders};
use serde_json::{Value, json};

use crate::{Setup, setup};

/// The mail with this id as the mailbox holds it.
fn raw(setup: &Setup, id: &Value) -> Vec<u8> {
    let id = id.as_str().expect("an id");
    setup
        .api
        .with(|google| google.mailbox.mail(id).expect("it is there").raw.clone())
}

#[tokio::test]
async fn a_mail_with_files_is_sent_and_read_back() {
    let mut setup = setup().await;
    let arguments = json!({"to": ["Änn <ann@example.com>"], "bcc": ["boss@example.com"], "subject": "Grüße",
        "body": "First.\n>>> ÿ??", "attachments": [{"filename": "Plän.txt", "text": "drei"},
        {"filename": "a.bin", "content": STANDARD.encode([0_u8, 255])}]});
    let sent = setup.session.good("send_email", arguments).await;
    assert_eq!(
        (&sent["labelIds"], &sent["draftId"]),
        (&json!(["SENT"]), &Value::Null)
    );
    let read = setup
        .session
        .good("read_email", json!({"messageId": sent["id"]}))
        .await;
    assert_eq!(
        read["text"].as_str().map(str::trim_end),
        Some("First.\n>>> ÿ??")
    );
    assert_eq!(
        (&read["subject"], &read["to"]),
        (&json!("Grüße"), &json!("Änn <ann@example.com>"))
    );
    assert_eq!(read["attachments"][0]["filename"], "Plän.txt");
    assert_eq!(read["attachments"][1]["size"], 2);
    let mime = raw(&setup, &sent["id"]);
    let mail = MessageParser::new().parse(&mime).expect("MIME");
    assert_eq!(
        mail.bcc()
            .and_then(|bcc| bcc.first())
            .and_then(|bcc| bcc.address()),
        Some("boss@example.com")
    );
    assert_eq!(
        setup.sign_in.take_seen().len(),
        1,
        "one access token serves all calls"
    );
}

#[tokio::test]
async fn a_large_mail_is_uploaded() {
    let mut setup = setup().await;
    let bytes: Vec<u8> = (0..4_u32 << 20)
        .map(|number| (number % 251) as u8)
        .collect();
    let arguments = json!({"to": ["ann@example.com"], "subject": "big", "body": "b",
        "attachments": [{"filename": "big.bin", "content": STANDARD.encode(&bytes)}]});
    let draft = setup.session.good("draft_email", arguments.clone()).await;
    let sent = setup.session.good("send_email", arguments.clone()).await;
    let update = json!({"draftId": draft["draftId"], "email": arguments});
    let updated = setup.session.good("update_draft", update).await;
    for written in [sent, updated] {
        let mime = raw(&setup, &written["id"]);
        let mail = MessageParser::new().parse(&mime).expect("MIME");
        assert!(
            mail.attachment(0)
                .is_some_and(|file| file.contents() == bytes)
        );
    }
    assert!(
        setup
            .api
            .take_asked()
            .iter()
            .filter(|asked| asked.upload.is_some())
            .count()
            == 3
    );
}

#[tokio::test]
async fn an_answer_keeps_the_thread() {
    let mut setup = setup().await;
    let (id, thread) = setup.receive(
        "From: Ann <ann@x.org>\nTo: me@example.com, bob@x.org\nCc: Cyd <cyd@x.org>\nReply-To: list@x.org\nSubject: \
         =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\nMessage-ID: <2@x.org>\nReferences: <1@x.org>\nDate: Mon, 2 Nov 2026 10:00:00 \
         +0000\n\nhow?",
    );
    let arguments = json!({"messageId": id, "body": "So.", "replyAll": true, "quote": true,
        "attachments": [{"filename": "a.txt", "text": "t"}]});
    let sent = setup.session.good("reply_to_email", arguments).await;
    assert_eq!(sent["threadId"], json!(thread));
    let mime = raw(&setup, &sent["id"]);
    let mail = MessageParser::new().parse(&mime).expect("MIME");
    assert_eq!(mail.subject(), Some("Re: Grüße"));
    assert_eq!(mail.in_reply_to().as_text(), Some("2@x.org"));
    let references: Vec<&str> = mail
        .references()
        .as_text_list()
        .expect("two")
        .iter()
        .map(AsRef::as_ref)
        .collect();
    assert_eq!(references, ["1@x.org", "2@x.org"]);
    let addresses = |list: Option<&mail_parser::Address<'_>>| -> Vec<String> {
        let people = list.into_iter().flat_map(|list| list.iter());
        people
            .filter_map(|person| person.address().map(str::to_owned))
            .collect()
    };
    assert_eq!(addresses(mail.to()), ["list@x.org"]);
    assert_eq!(addresses(mail.cc()), ["bob@x.org", "cyd@x.org"]);
    let text = mail.body_text(0).unwrap_or_default().replace("\r\n", "\n");
    assert_eq!(
        text.trim_end(),
        "So.\n\nOn Mon, 2 Nov 2026 10:00:00 +0000, Ann <ann@x.org> wrote:\n> how?"
    );
    assert_eq!(
        mail.attachment(0).and_then(|file| file.attachment_name()),
        Some("a.txt")
    );
    // As a draft nothing is sent.
    let arguments = json!({"messageId": id, "body": "Maybe.", "asDraft": true});
    let draft = setup.session.good("reply_to_email", arguments).await;
    assert_eq!(
        (&draft["labelIds"], draft["draftId"].is_string()),
        (&json!(["DRAFT"]), true)
    );
}

#[tokio::test]
async fn a_forward_takes_the_files_along() {
    let mut setup = setup().await;
    let (id, _) = setup.receive(
        "From: ann@x.org\nTo: me@example.com\nSubject: Plan\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\
         Content-Type: text/plain\n\nsee file\n--b\nContent-Type: application/pdf; name=\"p.pdf\"\n\
         Content-Transfer-Encoding: base64\n\nJVBERg==\n--b--\n",
    );
    let arguments = json!({"messageId": id, "to": ["bob@x.org"], "body": "fyi",
        "attachments": [{"filename": "more.txt", "text": "t"}]});
    let sent = setup.session.good("forward_email", arguments.clone()).await;
    let mime = raw(&setup, &sent["id"]);
    let mail = MessageParser::new().parse(&mime).expect("MIME");
    assert_eq!(mail.subject(), Some("Fwd: Plan"));
    let text = mail.body_text(0).unwrap_or_default().into_owned();
    assert!(
        text.starts_with("fyi") && text.contains("From: ann@x.org") && text.contains("see file"),
        "{text}"
    );
    let names: Vec<&str> = mail
        .attachments()
        .filter_map(|file| file.attachment_name())
        .collect();
    assert_eq!(names, ["more.txt", "p.pdf"]);
    assert_eq!(
        mail.attachment(1).map(|file| file.contents().to_vec()),
        Some(b"%PDF".to_vec())
    );
    let mut without = arguments;
    without["withAttachments"] = json!(false);
    without["asDraft"] = json!(true);
    let draft = setup.session.good("forward_email", without).await;
    let mime = raw(&setup, &draft["id"]);
    assert_eq!(
        MessageParser::new()
            .parse(&mime)
            .map(|mail| mail.attachment_count()),
        Some(1)
    );
    // A file of another mail, attached to a new one.
    let arguments = json!({"to": ["bob@x.org"], "subject": "s", "body": "b",
        "attachments": [{"messageId": id, "partId": "1", "filename": "renamed.pdf"}]});
    let sent = setup.session.good("send_email", arguments).await;
    let mime = raw(&setup, &sent["id"]);
    let mail = MessageParser::new().parse(&mime).expect("MIME");
    assert_eq!(
        mail.attachment(0).and_then(|file| file.attachment_name()),
        Some("renamed.pdf")
    );
}

#[tokio::test]
async fn a_draft_is_made_changed_listed_sent_and_deleted() {
    let mut setup = setup().await;
    let session = &mut setup.session;
    let first = json!({"to": ["ann@x.org"], "subject": "one", "body": "b"});
    let draft = session.good("draft_email", first.clone()).await;
    assert_eq!(draft["labelIds"], json!(["DRAFT"]));
    let update = json!({"draftId": draft["draftId"],
        "email": {"to": ["ann@x.org"], "subject": "two", "body": "c"}});
    let updated = session.good("update_draft", update).await;
    assert_eq!(updated["draftId"], draft["draftId"]);
    let other = session.good("draft_email", first).await;
    let list = session.good("list_drafts", json!({})).await;
    let subjects: Vec<&Value> = list["drafts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["email"]["subject"])
        .collect();
    assert_eq!(subjects, [&json!("one"), &json!("two")]);
    let sent = session
        .good("send_draft", json!({"draftId": draft["draftId"]}))
        .await;
    assert_eq!(sent["labelIds"], json!(["SENT"]));
    let deleted = session
        .good("delete_draft", json!({"draftId": other["draftId"]}))
        .await;
    assert_eq!(deleted["deleted"], other["draftId"]);
    let list = session.good("list_drafts", json!({"maxResults": 1})).await;
    assert_eq!(list["drafts"], json!([]));
    for (tool, arguments) in [
        ("send_draft", json!({"draftId": draft["draftId"]})),
        ("delete_draft", json!({"draftId": other["draftId"]})),
    ] {
        let text = session.bad(tool, arguments).await;
        assert!(text.contains("list_drafts"), "{text}");
    }
    let wrong = json!({"to": ["a@b"], "subject": "s", "body": "b", "threadId": "18fffe"});
    let text = session.bad("draft_email", wrong).await;
    assert!(text.contains("Invalid thread_id 18fffe"), "{text}");
}

#[tokio::test]
async fn bad_arguments_never_reach_gmail() {
    let mut setup = setup().await;
    let mail = |name: &str, value: Value| {
        let mut mail = json!({"to": ["a@b.c"], "subject": "s", "body": "b"});
        mail[name] = value;
        mail
    };
    let labels = |name: &str, value: Value| {
        let mut change = json!({"messageIds": ["m1"], "addLabelIds": ["STARRED"]});
        change[name] = value;
        change
    };
    for (tool, arguments) in [
        ("search_emails", json!({"query": "a", "maxResults": 51})),
        ("search_threads", json!({"query": "a", "maxResults": 0})),
        ("list_drafts", json!({"maxResults": 51})),
        ("read_email", json!({"messageId": "../labels"})),
        ("read_email", json!({"messageId": ""})),
        ("get_thread", json!({"threadId": "a/b"})),
        (
            "download_attachment",
            json!({"messageId": "m1", "partId": "../1"}),
        ),
        ("modify_email", json!({"messageId": "m1"})),
        (
            "modify_email",
            json!({"messageId": "m1", "addLabelIds": ["A"], "removeLabelIds": ["A"]}),
        ),
        (
            "modify_thread",
            json!({"threadId": "t1", "addLabelIds": vec!["A"; 101]}),
        ),
        ("batch_modify_emails", labels("messageIds", json!([]))),
        (
            "batch_modify_emails",
            labels("messageIds", json!(vec!["m"; 1_001])),
        ),
        ("batch_modify_emails", labels("messageIds", json!(["a b"]))),
        ("trash_email", json!({"messageId": "m1/../../labels"})),
        ("send_email", mail("to", json!([]))),
        ("send_email", mail("to", json!(["a@b\r\nBcc: c@d"]))),
        ("draft_email", mail("subject", json!("s\nX: y"))),
        ("draft_email", mail("sendAt", json!("now"))),
        (
            "draft_email",
            mail("attachments", json!([{"filename": "a", "content": "%"}])),
        ),
        (
            "update_draft",
            json!({"draftId": "", "email": mail("cc", json!([]))}),
        ),
        ("send_draft", json!({"draftId": "a b"})),
        ("create_label", json!({"name": " "})),
        (
            "create_label",
            json!({"name": "a", "labelListVisibility": "never"}),
        ),
        ("update_label", json!({"labelId": "Label_7"})),
        ("delete_label", json!({"labelId": "."})),
        ("create_filter", json!({"addLabelIds": ["STARRED"]})),
        ("create_filter", json!({"from": "a@b"})),
        (
            "create_filter",
            json!({"from": " ", "addLabelIds": ["STARRED"]}),
        ),
        (
            "create_filter",
            json!({"from": "a", "addLabelIds": ["STARRED"], "forward": "x@y"}),
        ),
        ("delete_filter", json!({"filterId": "../filters"})),
    ] {
        setup.session.bad(tool, arguments).await;
    }
    assert_eq!(
        (setup.api.take_count(), setup.sign_in.take_seen().len()),
        (0, 0)
    );
}
