//! The servers one by one: what each is given, which of its tools is called, and what shows that it was.

/// What shows that a call got where it should.
#[derive(Clone, Copy)]
pub enum Proof {
    /// The answer says so.
    Says(&'static str),
    /// The host that it needs an account of was asked for, and the gate had it that it is allowed.
    Asks(&'static str),
}
use Proof::{Asks, Says};

/// One server. Placeholders: `@API@` a web server of the test, `@DATABASE@` and `@DATABASE_HOST@` its PostgreSQL,
/// `@REPOSITORY@` a Git repository.
pub struct Case {
    /// Its template.
    pub template: &'static str,
    /// Values that are made up.
    pub credentials: &'static [(&'static str, &'static str)],
    /// As JSON.
    pub settings: &'static str,
    /// A tool and its arguments as JSON.
    pub call: (&'static str, &'static str),
    /// What shows that the call got there.
    pub proof: Proof,
    /// Hosts that it asks for beside, in vain and without harm: statistics.
    pub asks_besides: &'static [&'static str],
    /// It needs the PostgreSQL of the test.
    pub needs_database: bool,
    /// Too large for every run of all tests.
    pub on_demand: bool,
    /// What is asked of it instead where there is a [`BROWSER`] and every server is tried: settings, call, proof.
    pub with_browser: Option<(&'static str, (&'static str, &'static str), Proof)>,
}

const fn case(template: &'static str, call: (&'static str, &'static str), proof: Proof) -> Case {
    Case {
        template,
        credentials: &[],
        settings: "{}",
        call,
        proof,
        asks_besides: &[],
        needs_database: false,
        on_demand: false,
        with_browser: None,
    }
}

/// Where Debian's package chromium puts it.
pub const BROWSER: &str = "/usr/bin/chromium";

/// All templates that name a package.
pub const CASES: &[Case] = &[
    Case {
        credentials: &[("AIRTABLE_API_KEY", "patAAAAAAAAAAAAAA.0")],
        ..case(
            "airtable",
            ("list_bases", "{}"),
            Asks("api.airtable.com:443"),
        )
    },
    Case {
        credentials: &[
            ("JIRA_API_TOKEN", "made-up"),
            ("CONFLUENCE_API_TOKEN", "made-up"),
        ],
        settings: r#"{"jira_url": "https://example.atlassian.net", "jira_username": "ann@example.com",
            "confluence_url": "https://example.atlassian.net/wiki", "confluence_username": "ann@example.com"}"#,
        ..case(
            "atlassian",
            ("jira_search", r#"{"jql": "project = A"}"#),
            Asks("example.atlassian.net:443"),
        )
    },
    case(
        "aws-documentation",
        ("search_documentation", r#"{"search_phrase": "bucket"}"#),
        Asks("proxy.search.docs.aws.com:443"),
    ),
    Case {
        credentials: &[("BRAVE_API_KEY", "made-up")],
        ..case(
            "brave-search",
            ("brave_web_search", r#"{"query": "mcp"}"#),
            Asks("api.search.brave.com:443"),
        )
    },
    Case {
        settings: r#"{"browser": "/usr/bin/no-browser-here"}"#,
        asks_besides: &["update.googleapis.com", "clients2.google.com"],
        with_browser: Some((
            r#"{"hosts": ["@API@"]}"#,
            ("new_page", r#"{"url": "@API@/page"}"#),
            Says("/page [selected]"),
        )),
        ..case(
            "chrome-devtools",
            ("list_pages", "{}"),
            Says("no-browser-here"),
        )
    },
    Case {
        credentials: &[("CONTEXT7_API_KEY", "ctx7sk-made-up")],
        ..case(
            "context7",
            (
                "resolve-library-id",
                r#"{"query": "routing", "libraryName": "axum"}"#,
            ),
            Asks("context7.com:443"),
        )
    },
    Case {
        credentials: &[("DSN", "@DATABASE@")],
        settings: r#"{"host": "@DATABASE_HOST@"}"#,
        needs_database: true,
        ..case(
            "dbhub",
            ("execute_sql", r#"{"sql": "SELECT 6 * 7 AS answer"}"#),
            Says("42"),
        )
    },
    case(
        "duckduckgo",
        ("search", r#"{"query": "mcp"}"#),
        Asks("html.duckduckgo.com:443"),
    ),
    case(
        "everything",
        ("echo", r#"{"message": "hello"}"#),
        Says("Echo: hello"),
    ),
    Case {
        credentials: &[("EXA_API_KEY", "made-up")],
        asks_besides: &["api.agnost.ai"],
        ..case(
            "exa",
            ("web_search_exa", r#"{"query": "mcp"}"#),
            Asks("api.exa.ai:443"),
        )
    },
    Case {
        settings: r#"{"hosts": ["@API@"]}"#,
        ..case(
            "fetch",
            ("fetch", r#"{"url": "@API@/page"}"#),
            Says("A page of the test."),
        )
    },
    case(
        "filesystem",
        ("list_allowed_directories", "{}"),
        Says("/instances/"),
    ),
    Case {
        credentials: &[("FIRECRAWL_API_KEY", "fc-made-up")],
        ..case(
            "firecrawl",
            ("firecrawl_scrape", r#"{"url": "https://example.com"}"#),
            Asks("api.firecrawl.dev:443"),
        )
    },
    Case {
        settings: r#"{"repository": "@REPOSITORY@"}"#,
        ..case(
            "git",
            ("git_status", r#"{"repo_path": "@REPOSITORY@"}"#),
            Says("No commits yet"),
        )
    },
    Case {
        credentials: &[(
            "GOOGLE_SERVICE_ACCOUNT_KEY_FILE",
            r#"{"type": "service_account", "project_id": "made-up", "private_key_id": "0", "private_key": "made up",
                "client_email": "a@made-up.iam.gserviceaccount.com", "client_id": "1",
                "token_uri": "https://oauth2.googleapis.com/token"}"#,
        )],
        settings: r#"{"user": "ann@example.com"}"#,
        ..case(
            "google-workspace",
            ("list_calendars", "{}"),
            Says("service account credentials"),
        )
    },
    case("memory", ("read_graph", "{}"), Says("entities")),
    Case {
        credentials: &[(
            "MDB_MCP_CONNECTION_STRING",
            "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500",
        )],
        on_demand: true,
        ..case("mongodb", ("list-databases", "{}"), Says("connect"))
    },
    Case {
        credentials: &[("NOTION_TOKEN", "ntn_made_up")],
        settings: r#"{"api_base": "@API@"}"#,
        ..case("notion", ("API-get-self", "{}"), Says("The stand-in"))
    },
    Case {
        settings: r#"{"browser": "/usr/bin/no-browser-here"}"#,
        asks_besides: &["update.googleapis.com", "clients2.google.com"],
        with_browser: Some((
            r#"{"hosts": ["@API@"]}"#,
            ("browser_navigate", r#"{"url": "@API@/page"}"#),
            Says("- Page URL: http://127.0.0.1"),
        )),
        ..case(
            "playwright",
            ("browser_navigate", r#"{"url": "https://example.com"}"#),
            Says("no-browser-here"),
        )
    },
    Case {
        credentials: &[("REDIS_PWD", "made-up")],
        settings: r#"{"url": "redis://ann@redis.example.com:6379/0"}"#,
        ..case(
            "redis",
            ("get", r#"{"key": "a"}"#),
            Asks("redis.example.com:6379"),
        )
    },
    Case {
        credentials: &[("SENTRY_ACCESS_TOKEN", "made-up")],
        ..case(
            "sentry",
            ("find_organizations", "{}"),
            Asks("sentry.io:443"),
        )
    },
    case(
        "sequential-thinking",
        (
            "sequentialthinking",
            r#"{"thought": "so", "thoughtNumber": 1, "totalThoughts": 1, "nextThoughtNeeded": false}"#,
        ),
        Says("thoughtHistoryLength"),
    ),
    Case {
        credentials: &[("SLACK_BOT_TOKEN", "xoxb-made-up")],
        settings: r#"{"team_id": "T0123456789"}"#,
        ..case(
            "slack",
            ("slack_list_channels", "{}"),
            Asks("slack.com:443"),
        )
    },
    Case {
        credentials: &[("SUPABASE_ACCESS_TOKEN", "sbp_made_up")],
        settings: r#"{"api_url": "@API@", "features": "account,database"}"#,
        ..case(
            "supabase",
            ("list_organizations", "{}"),
            Says("The stand-in"),
        )
    },
    Case {
        credentials: &[("TAVILY_API_KEY", "tvly-made-up")],
        ..case(
            "tavily",
            ("tavily_search", r#"{"query": "mcp"}"#),
            Asks("api.tavily.com:443"),
        )
    },
    case(
        "time",
        (
            "convert_time",
            r#"{"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}"#,
        ),
        Says("T21:00:00+09:00"),
    ),
];
