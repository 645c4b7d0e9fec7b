//! What the server is told by its environment.

use minimcp_rest::{BaseUrl, Secret, variable};

use crate::catalogue::Toolset;

pub(crate) const TOKEN: &str = "GITHUB_PERSONAL_ACCESS_TOKEN";

/// What the server is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The personal access token; without it every tool says what to do.
    pub token: Option<Secret>,
    /// The address of the REST API, or what is wrong with it.
    pub api: Result<BaseUrl, String>,
    /// Which groups of tools are offered, as in `GITHUB_TOOLSETS`; `None` for the default ones.
    pub toolsets: Option<String>,
    /// Offers only the tools that change nothing.
    pub read_only: bool,
}

impl Settings {
    /// Reads `GITHUB_PERSONAL_ACCESS_TOKEN`, `GITHUB_API_URL`, `GITHUB_HOST`, `GITHUB_TOOLSETS` and
    /// `GITHUB_READ_ONLY`.
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            token: variable(TOKEN).map(|text| Secret::new(&text)),
            api: api_address(
                variable("GITHUB_API_URL").as_deref(),
                variable("GITHUB_HOST").as_deref(),
            ),
            toolsets: variable("GITHUB_TOOLSETS"),
            read_only: variable("GITHUB_READ_ONLY")
                .is_some_and(|text| text == "true" || text == "1"),
        }
    }
}

/// The toolsets that a list such as `default,actions` names: `default` and `all` stand for several.
pub(crate) fn toolsets(list: Option<&str>) -> Result<Vec<Toolset>, String> {
    let names = list.unwrap_or("default").split(',').map(str::trim);
    let mut chosen = Vec::new();
    for name in names.filter(|name| !name.is_empty()) {
        match name {
            "all" => chosen.extend(Toolset::ALL),
            "default" => chosen.extend(Toolset::DEFAULT),
            name => chosen.push(Toolset::named(name).ok_or_else(|| {
                let known = Toolset::ALL.map(Toolset::name).join(", ");
                format!("GITHUB_TOOLSETS names an unknown toolset; there are default, all, {known}")
            })?),
        }
    }
    if chosen.is_empty() {
        chosen.extend(Toolset::DEFAULT);
    }
    Ok(chosen)
}

/// Where the REST API lies: as told, else `/api/v3` of an Enterprise host, else `api.` of github.com or of a
/// subdomain of ghe.com.
fn api_address(api_url: Option<&str>, host: Option<&str>) -> Result<BaseUrl, String> {
    let parse =
        |name: &str, text: &str| BaseUrl::new(text).map_err(|error| format!("{name} {error}"));
    if let Some(url) = api_url {
        return parse("GITHUB_API_URL", url);
    }
    let host = match host {
        None => return parse("GITHUB_HOST", "https://api.github.com"),
        Some(host) if host.contains("://") => host.trim_end_matches('/').to_owned(),
        Some(host) => format!("https://{}", host.trim_end_matches('/')),
    };
    let base = parse("GITHUB_HOST", &host)?;
    match base.host() {
        "github.com" | "www.github.com" | "api.github.com" => {
            parse("GITHUB_HOST", "https://api.github.com")
        }
        name if name.ends_with(".ghe.com") && !name.starts_with("api.") => {
            parse("GITHUB_HOST", &format!("https://api.{name}"))
        }
        name if name.ends_with(".ghe.com") => Ok(base),
        _ => parse("GITHUB_HOST", &format!("{}/api/v3", base.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_address_follows_the_host() {
        for (url, host, expected) in [
            (None, None, "https://api.github.com"),
            (None, Some("github.com"), "https://api.github.com"),
            (
                None,
                Some("https://ghe.example.com"),
                "https://ghe.example.com/api/v3",
            ),
            (
                None,
                Some("ghe.example.com:8443"),
                "https://ghe.example.com:8443/api/v3",
            ),
            (
                None,
                Some("https://octo.ghe.com/"),
                "https://api.octo.ghe.com",
            ),
            (
                None,
                Some("http://127.0.0.1:99"),
                "http://127.0.0.1:99/api/v3",
            ),
            (
                Some("https://proxy.example.com/gh/"),
                Some("x"),
                "https://proxy.example.com/gh",
            ),
        ] {
            let address = api_address(url, host).map(|base| base.as_str().to_owned());
            assert_eq!(address, Ok(expected.to_owned()), "{url:?} {host:?}");
        }
        assert!(api_address(None, Some("http://ghe.example.com")).is_err());
    }

    #[test]
    fn toolsets_are_named_or_told() {
        assert_eq!(toolsets(None), Ok(Toolset::DEFAULT.to_vec()));
        assert_eq!(toolsets(Some(" , ")), Ok(Toolset::DEFAULT.to_vec()));
        assert_eq!(toolsets(Some("all")), Ok(Toolset::ALL.to_vec()));
        assert_eq!(
            toolsets(Some("users, gists")),
            Ok(vec![Toolset::Users, Toolset::Gists])
        );
        let fault = toolsets(Some("users,gits")).expect_err("an unknown name");
        assert!(fault.contains("pull_requests"), "{fault}");
    }
}
