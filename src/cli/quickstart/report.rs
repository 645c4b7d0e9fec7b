//! What the quickstart tells when it is ready. Pure.

use serde::Serialize;

use crate::{
    cli::output::{BOLD, DIM, GREEN, Output},
    interchange::export::{Client, claude_line},
};

/// Everything a person or a program needs to go on. Holds the access token: it is shown on purpose.
#[derive(Clone, Serialize)]
pub(super) struct Report {
    /// The demo's access URL; absent with `--no-demo`, as the next two.
    pub(super) access_url: Option<String>,
    /// The secret of the access URL.
    pub(super) access_token: Option<String>,
    /// Both in one.
    pub(super) connect_url: Option<String>,
    /// The API.
    pub(super) api_url: String,
    /// The file with the administrator's token.
    pub(super) admin_token_file: String,
    /// Where everything is kept.
    pub(super) data_dir: String,
    /// This process.
    pub(super) pid: u32,
    /// How a person calls this program.
    #[serde(skip)]
    pub(super) program: String,
}

impl Report {
    /// One line for programs.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Text for people.
    pub(super) fn text(&self, name: &str, out: Output) -> String {
        let mut lines = vec![format!(
            "{} Ctrl-C stops it and everything it runs.",
            out.paint(GREEN, "MiniMCP is ready.")
        )];
        let title = |text: &str| out.paint(BOLD, text);
        if let (Some(url), Some(token)) = (&self.access_url, &self.access_token) {
            lines.push(format!(
                "\n{}\n  Access URL   {url}\n  Token        {token}",
                title(&format!("The MCP server `{name}`"))
            ));
            if let Some(both) = &self.connect_url {
                lines.push(format!("  Both in one  {both}"));
            }
            lines.push(format!(
                "\n{}\n  {}",
                title("Claude Code"),
                claude_line(name, url, token)
            ));
            lines.push(format!(
                "\n{}\n{}",
                title("Other MCP clients (mcpServers)"),
                indented(&Client::Json.snippet(name, url, Some(token)).text, 2)
            ));
        }
        lines.push(format!(
            "\n{}\n  API          {api}/api/v1\n  API docs     {api}/docs\n  Admin token  {}\n  Data         {}",
            title("The daemon"),
            self.admin_token_file,
            self.data_dir,
            api = self.api_url,
        ));
        lines.push(format!(
            "\n{}",
            out.paint(
                DIM,
                &format!(
                    "In another terminal: {0} ls, {0} templates, {0} logs -f {name}",
                    self.program
                )
            )
        ));
        lines.join("\n")
    }
}

/// Every line of `text` moved in by `by` columns.
fn indented(text: &str, by: usize) -> String {
    text.lines()
        .map(|line| format!("{:by$}{line}", ""))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            access_url: Some("http://127.0.0.1:3001/mcp".to_owned()),
            access_token: Some("mmcp_0123".to_owned()),
            connect_url: Some("http://127.0.0.1:3001/mmcp_0123/mcp".to_owned()),
            api_url: "http://127.0.0.1:7420".to_owned(),
            admin_token_file: "/home/ann/.local/share/minimcp/admin-token".to_owned(),
            data_dir: "/home/ann/.local/share/minimcp".to_owned(),
            pid: 42,
            program: "minimcp".to_owned(),
        }
    }

    #[test]
    fn people_read_this() {
        insta::assert_snapshot!(report().text("demo", Output::plain()));
    }

    #[test]
    fn without_the_demo_there_is_no_access_url() {
        let mut report = report();
        (report.access_url, report.access_token, report.connect_url) = (None, None, None);
        let text = report.text("demo", Output::plain());
        assert!(
            !text.contains("Access URL") && !text.contains("mcpServers"),
            "{text}"
        );
        assert!(text.contains("http://127.0.0.1:7420/docs"), "{text}");
    }

    #[test]
    fn programs_read_this() {
        let line = report().json();
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        for key in [
            "access_url",
            "access_token",
            "connect_url",
            "api_url",
            "admin_token_file",
            "data_dir",
        ] {
            assert!(value[key].is_string(), "{key}");
        }
        assert_eq!(value["pid"], 42);
    }
}
