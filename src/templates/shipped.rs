//! The templates inside this binary: the one list of them.

/// One of them.
pub(super) struct Shipped {
    /// Its name.
    pub(super) name: &'static str,
    /// Its `template.toml`.
    pub(super) manifest: &'static str,
    /// Its `icon.svg`.
    pub(super) icon: &'static [u8],
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(Shipped {
            name: $name,
            manifest: include_str!(concat!("../../mcp-templates/", $name, "/template.toml")),
            icon: include_bytes!(concat!("../../mcp-templates/", $name, "/icon.svg")),
        }),*]
    };
}

/// All of them, by name.
pub(super) const SHIPPED: &[Shipped] = shipped![
    "airtable",
    "atlassian",
    "aws-documentation",
    "brave-search",
    "chrome-devtools",
    "context7",
    "dbhub",
    "demo",
    "duckduckgo",
    "everything",
    "exa",
    "fetch",
    "figma",
    "filesystem",
    "firecrawl",
    "git",
    "github",
    "gmail",
    "google-workspace",
    "memory",
    "mongodb",
    "notion",
    "playwright",
    "redis",
    "remote",
    "sentry",
    "sequential-thinking",
    "slack",
    "supabase",
    "tavily",
    "time",
];
