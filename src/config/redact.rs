//! A configuration that may be shown.

use super::Config;

/// Stands where a password stood.
const HIDDEN: &str = "REDACTED";

impl Config {
    /// The same without the database's password, be it within the URL's user part or its query.
    #[must_use]
    pub fn without_password(&self) -> Self {
        let mut shown = self.clone();
        shown.database.url = hidden(&self.database.url);
        shown
    }
}

fn hidden(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // The last '@' of all: a password that was not percent-encoded may hold '@', '/' and '?' too.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let user = match user.map(|user| user.split_once(':').ok_or(user)) {
        Some(Ok((user, _))) => format!("{user}:{HIDDEN}@"),
        Some(Err(user)) => format!("{user}@"),
        None => String::new(),
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let query = query.map(|query| {
        let pairs: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((key, _)) if key.to_ascii_lowercase().contains("password") => {
                    format!("{key}={HIDDEN}")
                }
                _ => pair.to_owned(),
            })
            .collect();
        format!("?{}", pairs.join("&"))
    });
    format!("{scheme}://{user}{rest}{}", query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_they_are() {
        for (url, shown) in [
            ("sqlite:data/minimcp.db", "sqlite:data/minimcp.db"),
            ("postgres://ann@db/x", "postgres://ann@db/x"),
            (
                "postgres://ann:s3cret@db:5432/x",
                "postgres://ann:REDACTED@db:5432/x",
            ),
            (
                "postgres://ann:a@b/c?d@db/x",
                "postgres://ann:REDACTED@db/x",
            ),
            (
                "postgres:///x?host=/run&user=a&password=s3cret&sslmode=require",
                "postgres:///x?host=/run&user=a&password=REDACTED&sslmode=require",
            ),
        ] {
            assert_eq!(hidden(url), shown);
        }
    }
}
