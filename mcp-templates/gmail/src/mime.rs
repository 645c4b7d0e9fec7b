//! What mail is written in, made into text: charsets, encoded words, names of files, HTML. Pure.

use std::collections::BTreeMap;

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use mail_parser::{
    MessageParser, MimeHeaders,
    decoders::{charsets::map::charset_decoder, html::html_to_text},
};
use minimcp_rest::path_segment;

/// Gmail writes base64url, mostly without padding.
pub(crate) const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a body of the API; `None` when they are not base64url.
pub(crate) fn body_bytes(data: &str) -> Option<Vec<u8>> {
    BASE64_URL.decode(data.trim()).ok()
}

/// A header value on one line, its encoded words (RFC 2047) decoded.
pub(crate) fn decoded_words(value: &str) -> String {
    let line = one_line(value);
    if !line.contains("=?") {
        return line;
    }
    MessageParser::new()
        .parse(format!("Subject: {line}\r\n\r\n").as_bytes())
        .and_then(|message| message.subject().map(one_line))
        .unwrap_or(line)
}

/// Folded lines become one, and no control character stays.
pub(crate) fn one_line(value: &str) -> String {
    let spaced: String = value
        .replace("\r\n", " ")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    spaced.trim().to_owned()
}

/// The name of a part: what Gmail made of it, else the parameters of its headers with their continuations, charsets
/// and percent-encoding (RFC 2231), else encoded words, which RFC 2047 forbids there and mailers write all the same.
pub(crate) fn file_name(
    of_api: Option<&str>,
    disposition: Option<&str>,
    content_type: Option<&str>,
) -> String {
    if let Some(name) = of_api.filter(|name| !name.trim().is_empty()) {
        return decoded_words(name);
    }
    let mut head = String::new();
    for (header, value) in [
        ("Content-Type", content_type),
        ("Content-Disposition", disposition),
    ] {
        if let Some(value) = value {
            head.push_str(&format!(
                "{header}: {}\r\n",
                without_continuations(&one_line(value))
            ));
        }
    }
    head.push_str("\r\n");
    MessageParser::new()
        .parse(head.as_bytes())
        .and_then(|message| Some(decoded_words(message.parts.first()?.attachment_name()?)))
        .unwrap_or_default()
}

/// A header value whose parameters in pieces (`name*0*=…; name*1*=…`, RFC 2231 section 3) are put together, as the
/// library knows the charset of the first piece only.
fn without_continuations(value: &str) -> String {
    let mut whole: Vec<String> = Vec::new();
    // Of each parameter in pieces: its name, and its pieces by their numbers.
    let mut in_pieces: Vec<(String, BTreeMap<u32, String>)> = Vec::new();
    for field in fields(value) {
        let piece = field.split_once('=').and_then(|(name, text)| {
            let (name, number) = name.trim().split_once('*')?;
            let is_encoded = number.ends_with('*');
            let number = number.trim_end_matches('*').parse().ok()?;
            let text = text.trim().trim_matches('"');
            let text = if is_encoded {
                text.to_owned()
            } else {
                path_segment(text)
            };
            Some((name.to_ascii_lowercase(), number, text))
        });
        let Some((name, number, text)) = piece else {
            whole.push(field.trim().to_owned());
            continue;
        };
        match in_pieces.iter_mut().find(|(known, _)| *known == name) {
            Some((_, pieces)) => drop(pieces.insert(number, text)),
            None => in_pieces.push((name, BTreeMap::from([(number, text)]))),
        }
    }
    for (name, pieces) in in_pieces {
        let text: String = pieces.into_values().collect();
        // Without a charset in front there are no quotes, which the form with the one star must have.
        let start = if text.matches('\'').count() >= 2 {
            ""
        } else {
            "utf-8''"
        };
        whole.push(format!("{name}*={start}{text}"));
    }
    whole.join("; ")
}

/// The parts of a header value between semicolons that are not within quotes.
fn fields(value: &str) -> Vec<&str> {
    let mut fields = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b';' if !quoted => {
                fields.push(&value[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    fields.push(&value[start..]);
    fields
}

/// The parameter `charset` of a Content-Type.
fn charset(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then_some(value)
    })
}

/// The text of a part. Gmail gives most texts in UTF-8 whatever their Content-Type says, and some as they came: what
/// is UTF-8 is taken for that, unless its charset hides other letters in ASCII; the rest goes by its charset.
pub(crate) fn decoded_text(bytes: &[u8], content_type: Option<&str>) -> String {
    let charset = content_type.and_then(charset);
    let in_ascii = charset.is_some_and(|name| {
        let name = name.to_ascii_lowercase();
        let escapes = name.starts_with("iso-2022-") && bytes.contains(&0x1b);
        escapes || (name == "utf-7" && bytes.contains(&b'+') && bytes.is_ascii())
    });
    if !in_ascii && let Ok(text) = std::str::from_utf8(bytes) {
        return text.trim_start_matches('\u{feff}').to_owned();
    }
    match charset.and_then(|name| charset_decoder(name.as_bytes())) {
        Some(decode) => decode(bytes),
        None => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The text of an HTML mail, with the addresses of its links and a line for each block.
pub(crate) fn html_as_text(html: &str) -> String {
    without_blank_runs(&html_to_text(&with_lines_and_links(html)))
}

/// Elements that begin a line.
const BLOCKS: [&str; 16] = [
    "address",
    "article",
    "blockquote",
    "div",
    "dt",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "p",
    "section",
    "table",
    "tr",
];
/// A link longer than this is for counting readers, not for them, in bytes.
const LINK_BYTES_MAX: usize = 300;

/// The library knows only `<br>` and `</p>` as ends of lines and drops the addresses of links: this writes both out.
/// Linear in the length, whatever the markup is.
fn with_lines_and_links(html: &str) -> String {
    let mut out = String::with_capacity(html.len() + html.len() / 8);
    let mut link: Option<String> = None;
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let (text, from_tag) = rest.split_at(start);
        out.push_str(text);
        let Some(end) = from_tag.find('>') else {
            rest = from_tag;
            break;
        };
        let (tag, after) = from_tag.split_at(end + 1);
        let inner = &tag[1..end];
        let is_end = inner.starts_with('/');
        let name: String = inner
            .trim_start_matches('/')
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .take(12)
            .collect::<String>()
            .to_ascii_lowercase();
        match (name.as_str(), is_end) {
            ("a", false) => link = href(inner),
            ("a", true) => {
                if let Some(link) = link.take() {
                    out.push_str(&format!(" ({link})"));
                }
            }
            ("li", false) => out.push_str("<br>- "),
            ("td" | "th", true) => out.push(' '),
            (name, false) if BLOCKS.contains(&name) => out.push_str("<br>"),
            _ => {}
        }
        out.push_str(tag);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Where a link leads, if that is worth telling: the web or a mailbox.
fn href(tag: &str) -> Option<String> {
    // ASCII letters keep their places when they change case.
    let at = tag.to_ascii_lowercase().find("href=")? + "href=".len();
    let value = tag[at..].trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let value = match quote {
        Some(quote) => value[1..].split(quote).next()?,
        None => value.split_ascii_whitespace().next()?,
    };
    let leads_out = ["http://", "https://", "mailto:"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    (leads_out && value.len() <= LINK_BYTES_MAX).then(|| value.to_owned())
}

/// Lines without white space at their ends, and never more than one empty line in a row.
pub(crate) fn without_blank_runs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = 0;
    for line in text.lines().map(str::trim_end) {
        blank = if line.is_empty() { blank + 1 } else { 0 };
        if blank <= 1 {
            out.push_str(line);
            out.push('\n');
        }
    }
    out.trim().to_owned()
}

/// The people in a header such as To, as (name, address); groups are taken apart.
pub(crate) fn people(value: &str) -> Vec<(String, String)> {
    let head = format!("To: {}\r\n\r\n", one_line(value));
    let Some(message) = MessageParser::new().parse(head.as_bytes()) else {
        return Vec::new();
    };
    message
        .to()
        .into_iter()
        .flat_map(|list| list.iter())
        .filter_map(|person| {
            let address = person.address()?.trim().to_owned();
            let name = person.name().map(one_line).unwrap_or_default();
            address.contains('@').then_some((name, address))
        })
        .collect()
}

/// The ids in a header such as References, without their brackets.
pub(crate) fn message_ids(value: &str) -> Vec<String> {
    value
        .split(['<', '>', ' ', '\t', '\r', '\n', ','])
        .filter(|id| is_message_id(id))
        .map(str::to_owned)
        .collect()
}

/// Whether `text` may stand between the brackets of a message id.
pub(crate) fn is_message_id(text: &str) -> bool {
    (3..=900).contains(&text.len())
        && text.contains('@')
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_decoded_and_lines_unfolded() {
        for (value, expected) in [
            ("plain", "plain"),
            ("=?UTF-8?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
            ("=?utf-8?B?w4Ru?= <ann@example.com>", "Än <ann@example.com>"),
            ("=?ISO-2022-JP?B?GyRCJDMkcyRLJEEkTxsoQg==?=", "こんにちは"),
            (
                "=?windows-1251?Q?=CF=F0=E8?=\r\n =?windows-1251?Q?=E2=E5=F2?=",
                "Привет",
            ),
            ("two\r\n\tlines", "two  lines"),
            ("=?x?broken", "=?x?broken"),
        ] {
            assert_eq!(decoded_words(value), expected, "{value}");
        }
    }

    #[test]
    fn html_becomes_text_a_model_can_read() {
        let html = concat!(
            "<html><head><style>p{color:red}</style><title>x</title></head><body><h1>Offer</h1>",
            "<p>Grüße &amp; <A HREF=\"https://example.com/a\">more</A><a href=#top> </a></p>",
            "<table><tr><td>one</td><td>two</td></tr><tr><td>three</td></tr></table>",
            "<script>alert(1)</script><ul><li>first</li><li>second</li></ul></body></html>",
        );
        assert_eq!(
            html_as_text(html),
            "Offer\nGrüße & more (https://example.com/a)\n\none two\nthree\n- first\n- second"
        );
        // Broken and hostile markup is no failure, and takes no longer than other markup of its length.
        for html in [
            "<p>open",
            "<<<>>>",
            "<",
            "<a href=",
            "<a href=\"x",
            "&#xFFFFFFFF; &nonsense;",
            &"<div>".repeat(200_000),
            &"<table><tr><td>".repeat(100_000),
            &"<".repeat(500_000),
            &"<a href='https://x/'>".repeat(50_000),
        ] {
            html_as_text(html);
        }
        assert_eq!(html_as_text(""), "");
    }

    #[test]
    fn people_are_found_in_lists_and_groups() {
        assert_eq!(
            people(
                "\"Bee, Ann\" <ann@example.com>, bob@example.com, team: =?utf-8?Q?=C3=84n?= <c@d.e>;"
            ),
            [
                ("Bee, Ann".to_owned(), "ann@example.com".to_owned()),
                (String::new(), "bob@example.com".to_owned()),
                ("Än".to_owned(), "c@d.e".to_owned()),
            ]
        );
        assert!(people("undisclosed-recipients:;").is_empty());
    }

    #[test]
    fn only_ids_are_taken_for_ids() {
        assert_eq!(
            message_ids("<a@b>\r\n <c@d> junk, <e@f>"),
            ["a@b", "c@d", "e@f"]
        );
        assert!(message_ids("none").is_empty());
    }
}
