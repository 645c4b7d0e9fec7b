//! What a server is told by its environment: secrets and addresses.

use std::fmt;

use reqwest::{Url, header::HeaderValue};
use zeroize::Zeroizing;

/// A secret: wiped from memory when dropped, and never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the secret over; white space around it, as a copied token often has, is cut off.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.trim().to_owned()))
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A header value of `prefix` and the secret, marked so that it is not shown; `None` when it holds what no
    /// header may.
    #[must_use]
    pub fn header(&self, prefix: &str) -> Option<HeaderValue> {
        let text = Zeroizing::new(format!("{prefix}{}", self.expose()));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The variable `name`, if it is set to more than white space.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
}

/// Where an API lies: https, or http on a loopback address; no user, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(Url);

/// Why a text is not a [`BaseUrl`]. The text is not repeated, it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be an address such as https://api.example.com, without user, query and fragment; http is for loopback addresses only"
)]
pub struct InvalidBaseUrl;

impl BaseUrl {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`InvalidBaseUrl`].
    pub fn new(text: &str) -> Result<Self, InvalidBaseUrl> {
        let url = Url::parse(text.trim()).map_err(|_| InvalidBaseUrl)?;
        let host = url.host_str().ok_or(InvalidBaseUrl)?;
        let loopback = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let good = (url.scheme() == "https" || (url.scheme() == "http" && loopback))
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        good.then_some(Self(url)).ok_or(InvalidBaseUrl)
    }

    /// The host, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The address as text, without a slash at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// The address of `path`, which starts with a slash and is percent-encoded where needed.
    #[must_use]
    pub(crate) fn at(&self, path: &str) -> Option<Url> {
        let url = Url::parse(&format!("{}{path}", self.as_str())).ok()?;
        // A parser resolves dot segments, `%2E%2E` too; then another path would be asked for than was meant.
        let meant = format!("{}{path}", self.0.path().trim_end_matches('/'));
        let kept = url.path() == meant || (meant.is_empty() && url.path() == "/");
        (url.origin() == self.0.origin() && kept).then_some(url)
    }
}

/// `text` as one segment of a path: everything but letters, digits, '-', '.', '_' and '~' percent-encoded
/// (RFC 3986 section 2.3), and the dot segments made harmless.
#[must_use]
pub fn path_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    let dots_only = matches!(text, "." | "..");
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && !dots_only);
        if plain {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new(" s3cret\n");
        assert_eq!(secret.expose(), "s3cret");
        let header = secret.header("Bearer ").expect("a header value");
        assert_eq!(header.to_str().ok(), Some("Bearer s3cret"));
        assert!(!format!("{secret:?} {header:?}").contains("s3cret"));
        assert!(Secret::new("a\nb").header("").is_none());
    }

    #[test]
    fn a_token_is_never_sent_in_the_clear() {
        for good in [
            "https://api.github.com",
            "http://127.0.0.1:8080/api/v3/",
            "http://localhost:1",
        ] {
            assert!(BaseUrl::new(good).is_ok(), "{good}");
        }
        for bad in [
            "http://api.github.com",
            "http://127.0.0.1.example.com",
            "https://user:pw@host",
            "https://host/?a=b",
            "https://host/#a",
            "ftp://host",
            "api.github.com",
            "",
        ] {
            assert!(BaseUrl::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_cannot_leave_its_base() {
        let base = BaseUrl::new("https://host/api/v3").expect("a good base");
        assert_eq!(
            base.at("/user").map(String::from),
            Some("https://host/api/v3/user".to_owned())
        );
        assert_eq!(base.at("/../../admin"), None);
        assert_eq!(path_segment("a/b c?#é.."), "a%2Fb%20c%3F%23%C3%A9..");
        // URL parsers read %2E%2E as a dot segment as well, and `at` refuses what that leads to.
        assert_eq!(
            base.at(&format!("/{}/{}", path_segment(".."), path_segment(".."))),
            None
        );
        let top = BaseUrl::new("https://host").expect("a good base");
        assert_eq!(top.at("/files/a/comments/%2e%2E"), None);
        assert_eq!(
            top.at("").map(String::from),
            Some("https://host/".to_owned())
        );
    }
}
