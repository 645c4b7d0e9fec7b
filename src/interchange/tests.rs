use std::collections::BTreeMap;

use super::{draft::Run, *};
use crate::domain::package::Registry;

/// The only server of a file.
fn one(text: &str) -> Result<Draft, String> {
    let (_, mut found) = import(text, None).map_err(|error| error.to_string())?;
    assert_eq!(found.len(), 1, "{text}");
    found.remove(0).draft
}

/// The server that a command line starts.
fn of_command(line: &str) -> Result<Draft, String> {
    let mut words = line.split(' ').map(str::to_owned);
    let command = words.next().unwrap_or_default();
    let args: Vec<String> = words.collect();
    one(&serde_json::json!({"mcpServers": {"x": {"command": command, "args": args}}}).to_string())
}

fn run_of(draft: &Draft) -> String {
    match &draft.run {
        Run::Package {
            registry,
            name,
            version,
            program,
            arguments,
        } => {
            let version = match version {
                Wanted::Exact(version) => version.clone(),
                Wanted::Newest(range) => format!("({range})"),
            };
            let program = program.as_deref().unwrap_or("?");
            format!(
                "{}:{name} {version} {program} {}",
                registry.word(),
                arguments.join(" ")
            )
        }
        Run::Command(command) => command.join(" "),
        Run::Container { image, arguments } => format!("image {image} {}", arguments.join(" ")),
        Run::Remote { url, headers } => format!("{url} {headers:?}"),
    }
    .trim_end()
    .to_owned()
}

#[test]
fn what_launchers_fetch_becomes_a_package() {
    let mut wrong = Vec::new();
    for (line, expected) in [
        ("npx -y @scope/server@1.2.3", "npm:@scope/server 1.2.3 ?"),
        (
            "npx @scope/server --flag",
            "npm:@scope/server (latest) ? --flag",
        ),
        ("npx --yes server@latest a b", "npm:server (latest) ? a b"),
        ("npx -y server@^1.2 --x=1", "npm:server (^1.2) ? --x=1"),
        (
            "npx -y -p @scope/server@1.0.0 tool go",
            "npm:@scope/server 1.0.0 tool go",
        ),
        (
            "npx --package=server@1.0.0 -- tool",
            "npm:server 1.0.0 tool",
        ),
        ("/usr/local/bin/npx -y server@1.0.0", "npm:server 1.0.0 ?"),
        (r"C:\node\npx.cmd -y server@1.0.0", "npm:server 1.0.0 ?"),
        ("cmd /c npx -y server@1.0.0", "npm:server 1.0.0 ?"),
        ("bunx --bun server@1.0.0", "npm:server 1.0.0 ?"),
        ("bun x server@1.0.0", "npm:server 1.0.0 ?"),
        ("pnpm dlx server@1.0.0", "npm:server 1.0.0 ?"),
        ("yarn dlx server@1.0.0", "npm:server 1.0.0 ?"),
        ("npm exec -y -- server@1.0.0 a", "npm:server 1.0.0 ? a"),
        (
            "uvx mcp-server-time",
            "pypi:mcp-server-time () mcp-server-time",
        ),
        (
            "uvx mcp-server-time@latest",
            "pypi:mcp-server-time () mcp-server-time",
        ),
        (
            "uvx mcp-server-time@1.2 --utc",
            "pypi:mcp-server-time 1.2 mcp-server-time --utc",
        ),
        (
            "uvx mcp-server-time==1.2",
            "pypi:mcp-server-time 1.2 mcp-server-time",
        ),
        (
            "uvx --from mcp[cli]==1.2 mcp run",
            "pypi:mcp[cli] 1.2 mcp run",
        ),
        ("uvx --from=pkg>=2 tool", "pypi:pkg (>=2) tool"),
        ("uv tool run pkg@1.0", "pypi:pkg 1.0 pkg"),
        ("pipx run pkg==1.0 a", "pypi:pkg 1.0 pkg a"),
        ("pipx run --spec pkg==1.0 tool", "pypi:pkg 1.0 tool"),
        ("env A=b npx -y server@1.0.0", "npm:server 1.0.0 ?"),
        (
            "docker run -i --rm -e TOKEN mcp/github --ro",
            "image mcp/github --ro",
        ),
        ("my-server --port-range 1-2", "my-server --port-range 1-2"),
        (
            "node /opt/server/index.js --stdio",
            "node /opt/server/index.js --stdio",
        ),
    ] {
        match of_command(line) {
            Ok(draft) if run_of(&draft) == expected => {}
            other => wrong.push(format!("{line}: {:?}", other.map(|draft| run_of(&draft)))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_cannot_run_here_is_refused_with_its_reason() {
    let mut wrong = Vec::new();
    for (line, part) in [
        ("npx", "told of no package"),
        ("npx -y", "told of no package"),
        (
            "npx -y github:user/repo",
            "not a package of the npm registry",
        ),
        (
            "npx -y https://example.com/x.tgz",
            "not a package of the npm registry",
        ),
        ("npx -c tool", "a line for a shell"),
        ("npx -p a@1.0.0 -p b@1.0.0 a", "more than one package"),
        ("uvx", "told of no package"),
        (
            "uvx --from git+https://example.com/x tool",
            "not a package of PyPI",
        ),
        ("uvx --with pandas pkg", "a template has one package"),
        ("uv --directory /x run server.py", "install the project"),
        ("sh -c npx", "a line for a shell"),
        ("bash -lc x", "a line for a shell"),
        ("./server.sh", "no absolute path"),
        ("~/bin/server", "no absolute path"),
        ("docker run -i --rm", "names no image"),
        (
            "npx -y server@1.0.0 ghp_0123456789abcdefghij",
            "argument 1 holds a secret",
        ),
        (
            "npx -y server@1.0.0 --database-url postgres://u:pw@h/db",
            "argument 1 (--database-url) holds a secret",
        ),
        (
            "npx -y server@1.0.0 ${workspaceFolder}",
            "only the client knows",
        ),
        ("npx -y server@1.0.0 {data}", "a meaning of its own"),
    ] {
        match of_command(line) {
            Err(why) if why.contains(part) && !why.contains("ghp_") && !why.contains("pw@") => {}
            other => wrong.push(format!("{line}: {:?}", other.map(|draft| run_of(&draft)))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn secrets_become_credentials_and_the_rest_settings() {
    let draft = one(
        r#"{"mcpServers": {"My Server!": {
            "command": "npx", "args": ["-y", "server@1.0.0", "--api-key", "k-1234567890", "/srv/notes", "/srv/more"],
            "env": {"SERVICE_TOKEN": "s3cret-value", "LOG_LEVEL": "debug", "API_URL": "https://api.example.com/v1",
                    "DATABASE": "postgres://u:pw@db.example.com/x", "EMPTY_TOKEN": "", "PATH": "/bin", "N": 5,
                    "LATER": "${HOME_TOKEN}", "REGION": "${REGION:-eu}"},
            "autoApprove": ["a"], "disabled": true
        }}}"#,
    )
    .expect("translated");
    assert_eq!(draft.name.as_str(), "my-server");
    assert!(draft.disabled);
    let secrets: BTreeMap<&str, Option<&str>> = draft
        .credentials
        .iter()
        .map(|it| (it.name.as_str(), it.value.as_deref().map(String::as_str)))
        .collect();
    assert_eq!(
        secrets,
        BTreeMap::from([
            ("API_KEY", Some("k-1234567890")),
            ("DATABASE", Some("postgres://u:pw@db.example.com/x")),
            ("EMPTY_TOKEN", None),
            ("LATER", None),
            ("SERVICE_TOKEN", Some("s3cret-value")),
        ])
    );
    let settings: Vec<(&str, String)> = draft
        .settings
        .iter()
        .map(|it| {
            (
                it.name.as_str(),
                it.default.clone().unwrap_or_default().to_string(),
            )
        })
        .collect();
    for expected in [
        ("paths", r#"["/srv/notes","/srv/more"]"#),
        ("log_level", r#""debug""#),
        ("api_url", r#""https://api.example.com/v1""#),
        ("n", r#""5""#),
        ("region", r#""eu""#),
    ] {
        assert!(
            settings.contains(&(expected.0, expected.1.to_owned())),
            "{settings:?}"
        );
    }
    assert_eq!(
        draft.kept,
        [("autoApprove".to_owned(), Some(r#"["a"]"#.to_owned()))]
    );
    let text = draft
        .manifest("my-server", None, "a test")
        .expect("a manifest");
    for secret in ["k-1234567890", "s3cret-value", "u:pw"] {
        assert!(!text.contains(secret), "{text}");
        assert!(draft.notes.iter().all(|note| !note.contains(secret)));
    }
    assert!(text.contains("#   autoApprove: [\"a\"]"), "{text}");
}

#[test]
fn a_secret_that_would_be_written_in_plain_refuses_its_server() {
    let draft = one(
        r#"{"mcpServers": {"x": {"command": "npx", "args": ["-y", "server@1.0.0", "--user", "hunter22"],
            "env": {"PASSWORD": "hunter22"}}}}"#,
    )
    .expect("translated");
    let error = draft.manifest("x", None, "a test").expect_err("a leak");
    assert_eq!(error, ManifestRefused::Leak);
    assert!(!error.to_string().contains("hunter22"));
}

#[test]
fn every_format_is_found_out() {
    let vs_code = r#"{ // comments and trailing commas
        "inputs": [{"type": "promptString", "id": "key", "description": "The key", "password": true},
                   {"type": "pickString", "id": "mode", "options": ["a", "b"], "default": "a"}],
        "servers": {"s": {"type": "stdio", "command": "npx", "args": ["-y", "server@1.0.0", "--mode=${input:mode}"],
            "env": {"API": "${input:key}"}},},}"#;
    let (format, found) = import(vs_code, None).expect("read");
    assert_eq!(format, Format::VsCode);
    let draft = found[0].draft.as_ref().expect("translated");
    assert_eq!(draft.credentials[0].name.as_str(), "API");
    assert_eq!(draft.credentials[0].help.as_deref(), Some("The key"));
    assert_eq!(draft.settings[0].arguments, ["--mode={value}"]);
    assert_eq!(draft.settings[0].allowed.len(), 2);

    let codex = "[mcp_servers.docs]\ncommand = \"uvx\"\nargs = [\"mcp-docs==1.0\"]\nenv = { DOCS_KEY = \"abc\" }\n\
        env_vars = [\"OTHER_TOKEN\"]\nstartup_timeout_sec = 20\ntool_timeout_sec = 60\n";
    let (format, found) = import(codex, None).expect("read");
    assert_eq!(format, Format::Codex);
    let draft = found[0].draft.as_ref().expect("translated");
    assert_eq!(draft.credentials.len(), 2);
    assert_eq!(
        draft.start_timeout.map(|it| it.to_string()).as_deref(),
        Some("20s")
    );
    assert_eq!(draft.kept[0].0, "tool_timeout_sec");

    let registry = r#"{"$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": "io.github.example/weather", "title": "Weather", "description": "Weather data", "version": "0.5.0",
        "websiteUrl": "https://example.com", "packages": [
        {"registryType": "oci", "identifier": "docker.io/x/y:1"},
        {"registryType": "pypi", "identifier": "weather-mcp", "version": "0.5.0", "runtimeHint": "uvx",
         "transport": {"type": "stdio"},
         "packageArguments": [{"type": "positional", "value": "serve"},
            {"type": "named", "name": "--units", "default": "metric", "choices": ["metric", "imperial"]},
            {"type": "positional", "valueHint": "target_dir", "format": "filepath", "isRepeated": true, "isRequired": true}],
         "environmentVariables": [{"name": "WEATHER_API_KEY", "description": "The key", "isRequired": true, "isSecret": true},
            {"name": "CACHE", "format": "boolean", "default": "true"}]}]}"#;
    let (format, found) = import(registry, None).expect("read");
    assert_eq!(
        (format, found[0].server.as_str()),
        (Format::ServerJson, "weather")
    );
    let draft = found[0].draft.as_ref().expect("translated");
    assert_eq!(run_of(draft), "pypi:weather-mcp 0.5.0 weather-mcp serve");
    let arguments: Vec<&[String]> = draft
        .settings
        .iter()
        .map(|it| it.arguments.as_slice())
        .collect();
    assert_eq!(arguments[0], ["--units={value}"]);
    assert_eq!(arguments[1], ["{value}"]);
    assert_eq!(
        draft.settings[2].default,
        Some(serde_json::Value::Bool(true))
    );
    assert!(draft.credentials[0].required && draft.credentials[0].value.is_none());
    assert!(draft.manifest("weather", None, "a test").is_ok());

    let docker = "name: notion\nimage: mcp/notion\nabout:\n  title: Notion\nsource:\n  project: https://github.com/x/y\n\
        run:\n  allowHosts:\n    - api.notion.com:443\nconfig:\n  secrets:\n    - name: notion.token\n      env: NOTION_TOKEN\n\
        \x20     example: ntn_****\n  env:\n    - name: NOTION_URL\n      example: https://x\n      value: \"{{notion.url}}\"\n";
    let (format, mut found) = import(docker, None).expect("read");
    assert_eq!(format, Format::Docker);
    let mut draft = found.remove(0).draft.expect("translated");
    let refused = draft
        .manifest("notion", None, "a test")
        .expect_err("a container");
    assert!(refused.to_string().contains("mcp/notion"), "{refused}");
    draft
        .run_package("npm:@notionhq/notion-mcp-server@2.5.2")
        .expect("a package");
    let text = draft
        .manifest("notion", None, "a test")
        .expect("a manifest");
    assert!(
        text.contains("hosts = [\"api.notion.com:443\"]") && text.contains("NOTION_TOKEN"),
        "{text}"
    );
}

#[test]
fn a_url_keeps_its_headers_and_seals_their_secrets() {
    let draft = one(
        r#"{"mcpServers": {"linear": {"url": "https://mcp.example.com/mcp",
            "headers": {"Authorization": "Bearer lin-s3cret", "X-Region": "eu"}}}}"#,
    )
    .expect("translated");
    let text = draft
        .manifest("linear", None, "a test")
        .expect("a manifest");
    assert!(
        text.contains("url = \"https://mcp.example.com/mcp\""),
        "{text}"
    );
    assert!(
        text.contains("Bearer {credential.LINEAR_AUTHORIZATION}"),
        "{text}"
    );
    assert!(
        text.contains("\"eu\"") && !text.contains("lin-s3cret"),
        "{text}"
    );
    assert_eq!(
        draft.credentials[0].value.as_deref().map(String::as_str),
        Some("lin-s3cret")
    );
    for (entry, part) in [
        (
            r#"{"type": "sse", "url": "https://x.example.com/sse"}"#,
            "HTTP+SSE",
        ),
        (
            r#"{"url": "https://x.example.com/?token=abc123"}"#,
            "holds a secret",
        ),
        (r#"{"url": "ftp://x"}"#, "https:// or http://"),
        (
            r#"{"url": "https://x", "command": "y"}"#,
            "both a command and a URL",
        ),
        (r#"{"args": []}"#, "neither a command nor a URL"),
        ("5", "is not a table"),
    ] {
        let why = one(&format!(r#"{{"mcpServers": {{"x": {entry}}}}}"#)).expect_err(entry);
        assert!(why.contains(part) && !why.contains("abc123"), "{why}");
    }
}

#[test]
fn what_holds_no_servers_is_refused_without_a_word_of_it() {
    for (text, part) in [
        ("", "neither JSON"),
        ("{\"mcpServers\": {\"a\": ghp_secret", "line 1, column"),
        ("{}", "holds no servers"),
        ("{\"mcpServers\": {}}", "holds no servers"),
        ("a: b", "holds no servers"),
        ("key = \"ghp_secret\"", "holds no servers"),
        ("just words ghp_secret", "neither JSON"),
        ("[1, 2]", "neither JSON"),
    ] {
        let error = import(text, None).expect_err(text).to_string();
        assert!(
            error.contains(part) && !error.contains("ghp_"),
            "{text}: {error}"
        );
    }
    let servers: Vec<String> = (0..=SERVERS_MAX)
        .map(|n| format!("\"s{n}\": {{\"command\": \"x\"}}"))
        .collect();
    let text = format!("{{\"mcpServers\": {{{}}}}}", servers.join(","));
    assert_eq!(
        import(&text, None).expect_err("too many"),
        ReadError::TooMany(SERVERS_MAX + 1)
    );
    assert_eq!(
        import(&" ".repeat(TEXT_BYTES_MAX + 1), None).expect_err("large"),
        ReadError::TooLarge
    );
    let asked = import(
        "{\"mcpServers\": {\"a\": {\"command\": \"x\"}}}",
        Some(Format::Codex),
    );
    assert_eq!(
        asked.expect_err("another"),
        ReadError::OtherFormat(Format::Codex)
    );
    // Deep nesting ends in a refusal, not in an overflow of the stack.
    assert!(import(&"[".repeat(200_000), None).is_err());
    assert!(import(&"{\"a\":".repeat(100_000), None).is_err());
    // Nor does YAML grow without an end.
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for level in 1..40 {
        let below = level - 1;
        bomb.push_str(&format!("a{level}: &a{level} [*a{below}, *a{below}]\n"));
    }
    assert!(import(&bomb, None).is_err());
}

#[test]
fn the_program_of_a_package_is_chosen_as_npx_does() {
    let draft = of_command("npx -y @scope/server@1.0.0").expect("translated");
    for (programs, expected) in [
        (&["mcp-server"][..], "mcp-server"),
        (&["other", "server"], "server"),
        (&["b", "c"], "b"),
        (&[], "server"),
    ] {
        let release = Release {
            version: "1.0.0".to_owned(),
            programs: programs.iter().map(|it| (*it).to_owned()).collect(),
        };
        let text = draft
            .manifest("x", Some(&release), "a test")
            .expect("a manifest");
        assert!(
            text.contains(&format!("command = [\"{expected}\"]")),
            "{text}"
        );
    }
    assert!(matches!(
        &draft.run,
        Run::Package {
            registry: Registry::Npm,
            ..
        }
    ));
}
