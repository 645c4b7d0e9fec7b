use base64::engine::general_purpose::STANDARD;
use mail_parser::{MessageParser, MimeHeaders};
use serde_json::{Value, json};

use super::*;

fn compose(arguments: Value) -> Result<Vec<u8>, Error> {
    let compose: Compose = serde_json::from_value(arguments).expect("the tool's shape");
    let mut files = Vec::new();
    for attachment in &compose.attachments {
        files.extend(attachment.given()?);
    }
    let mut outgoing = compose.into_outgoing()?;
    outgoing.files = files;
    Ok(outgoing.into_mime()?.0)
}

#[test]
fn a_message_reads_back_as_it_was_meant() {
    let mime = compose(json!({
        "to": ["Änn Bee <ann@example.com>", "bob@example.com"], "cc": ["c@example.com"],
        "bcc": ["d@example.com"], "replyTo": ["e@example.com"], "subject": "Grüße \u{1f600} ".repeat(12).trim_end(),
        "body": "hällo\n.\nend", "htmlBody": "<b>hi</b>", "inReplyTo": "<id1@example.com>",
        "attachments": [
            {"filename": "Plän.csv", "text": "a;ü\n"},
            {"filename": "a.bin", "mimeType": "application/x-thing", "content": STANDARD.encode([0, 255, 13, 10])},
        ],
    }))
    .expect("a good message");
    let head_end = mime
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    let head = std::str::from_utf8(&mime[..head_end]).expect("a head is ASCII");
    assert!(
        head.is_ascii() && head.lines().all(|line| line.len() <= 998),
        "{head}"
    );
    assert!(!head.to_ascii_lowercase().contains("message-id:"), "{head}");
    let mail = MessageParser::new().parse(&mime).expect("MIME");
    assert_eq!(
        mail.subject(),
        Some("Grüße \u{1f600} ".repeat(12).trim_end())
    );
    let text = mail.body_text(0).map(|text| text.replace("\r\n", "\n"));
    assert_eq!(text.as_deref().map(str::trim_end), Some("hällo\n.\nend"));
    assert_eq!(
        mail.body_html(0).as_deref().map(str::trim_end),
        Some("<b>hi</b>")
    );
    let to = mail.to().and_then(|to| to.first()).expect("a recipient");
    assert_eq!(
        (to.name(), to.address()),
        (Some("Änn Bee"), Some("ann@example.com"))
    );
    assert_eq!(mail.in_reply_to().as_text(), Some("id1@example.com"));
    assert_eq!(mail.references().as_text(), Some("id1@example.com"));
    for (list, address) in [
        (mail.bcc(), "d@example.com"),
        (mail.reply_to(), "e@example.com"),
    ] {
        assert_eq!(
            list.and_then(|list| list.first())
                .and_then(|one| one.address()),
            Some(address)
        );
    }
    let csv = mail.attachment(0).expect("the first file");
    assert_eq!(
        (csv.attachment_name(), csv.text_contents()),
        (Some("Plän.csv"), Some("a;ü\n"))
    );
    let binary = mail.attachment(1).expect("the second file");
    assert_eq!(binary.contents(), [0, 255, 13, 10]);
    assert_eq!(
        binary.content_type().map(|kind| kind.ctype()),
        Some("application")
    );
}

#[test]
fn no_header_can_be_smuggled_in() {
    let with = |name: &str, value: Value| {
        let mut arguments = json!({"to": ["a@b"], "subject": "s", "body": "b"});
        arguments[name] = value;
        arguments
    };
    let file = |name: &str, value: &str| {
        let mut file = json!({"filename": "a.txt", "text": "t"});
        file[name] = json!(value);
        with("attachments", json!([file]))
    };
    for arguments in [
        with("to", json!([])),
        with("to", json!(["a@b\r\nBcc: x@y"])),
        with("to", json!(["Ann\r\nBcc: x@y <a@b>"])),
        with("to", json!(["a@b, c@d"])),
        with("to", json!(["a@b@c"])),
        with("to", json!(["nobody"])),
        with("to", json!(vec!["a@b"; 101])),
        with("cc", json!(["a@b\nX: y"])),
        with("replyTo", json!(["a@b\u{0}"])),
        with("subject", json!("s\r\nBcc: x@y")),
        with("subject", json!("s\rX: y")),
        with("subject", json!("s".repeat(1_001))),
        with("inReplyTo", json!("a@b>\r\nBcc: x@y")),
        with("inReplyTo", json!("a@b> <c@d")),
        file("filename", "a\r\nX: y.txt"),
        file("filename", "../a.txt"),
        file("filename", ""),
        file("mimeType", "text/plain\r\nX: y"),
        file("mimeType", "text/plain; charset=utf-8"),
        file("mimeType", "multipart/mixed"),
        file("mimeType", "text"),
        file("content", "YQ=="),
        file("messageId", "m1"),
        with(
            "attachments",
            json!([{"filename": "a", "content": "no base64!"}]),
        ),
        with("attachments", json!([{"text": "no name"}])),
        with("attachments", json!([{"filename": "empty"}])),
    ] {
        assert!(compose(arguments.clone()).is_err(), "{arguments}");
    }
}

#[test]
fn what_looks_like_a_header_in_a_text_stays_text() {
    let mime = compose(json!({"to": ["\"A: <x>\" <a@b>"], "subject": "Bcc: x@y",
        "body": "Bcc: x@y\r\n\r\n--boundary--"}))
    .expect("it is only text");
    let mail = MessageParser::new().parse(&mime).expect("MIME");
    assert!(mail.bcc().is_none());
    assert_eq!(mail.subject(), Some("Bcc: x@y"));
    assert_eq!(
        mail.body_text(0).as_deref().map(str::trim_end),
        Some("Bcc: x@y\r\n\r\n--boundary--")
    );
}
