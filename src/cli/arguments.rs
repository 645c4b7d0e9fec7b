//! The command line: every verb, every option, and what they mean.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    backup::BackupCommand,
    bench::BenchOptions,
    connect::ConnectOptions,
    imports::ImportOptions,
    option_values::port_range,
    run_options::{RunOptions, SleepOptions},
    serve::ServeOptions,
    support_bundle::SupportBundleOptions,
    templates::TemplateCommand,
    upgrade::UpgradeOptions,
};
use crate::domain::{access::RateLimit, duration::HumanDuration};

const AFTER_HELP: &str = "\
Where the daemon is, first match wins:
  --api-url or MINIMCP_API_URL (http://…, https://… or unix:PATH)
  $XDG_RUNTIME_DIR/minimcp/api.json  a quickstart or serve of yours
  $XDG_DATA_HOME/minimcp/api.json    the same
  /run/minimcp/api.json              the service
  http://127.0.0.1:7420
Its token, first match wins:
  MINIMCP_TOKEN
  --token-file or MINIMCP_TOKEN_FILE
  the file that api.json names

Exit codes:
  0  done
  1  failed or refused
  2  wrong usage or configuration
  3  no daemon answers
  4  token refused
  130  interrupted twice (bench: once)";

/// Runs other people's MCP servers safely, with a private URL each.
#[derive(Debug, Parser)]
#[command(name = "minimcp", version, max_term_width = 120, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every verb takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GlobalOptions {
    /// The API: http://…, https://… or unix:PATH.
    #[arg(long, global = true, env = "MINIMCP_API_URL", value_name = "URL")]
    pub(crate) api_url: Option<String>,
    /// A file that holds the token.
    #[arg(long, global = true, env = "MINIMCP_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Print JSON, as the API gives it.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Try it: a daemon of your own in the foreground, with one instance ready to use.
    Quickstart(QuickstartOptions),
    /// Run the daemon (the service).
    Serve(ServeOptions),
    /// The process that forks, isolates and reaps instances; `serve` or systemd starts it.
    ///
    /// It takes its own options; this entry only documents it.
    #[command(disable_help_flag = true)]
    Keeper(RawOptions),
    /// Run a built-in MCP server on stdin and stdout.
    Mcp {
        /// demo, github, figma or gmail.
        name: String,
    },
    /// Create an instance of a template and print its access URL.
    #[command(visible_alias = "create")]
    Run(Box<RunOptions>),
    /// List instances.
    #[command(visible_aliases = ["list", "ps"])]
    Ls(LsOptions),
    /// Show everything about one instance.
    #[command(visible_alias = "status")]
    Inspect(InstanceOption),
    /// Print what an MCP client keeps of an instance, to be pasted into its file.
    Connect(ConnectOptions),
    /// Make templates of the servers in a file of an MCP client or a registry.
    Import(Box<ImportOptions>),
    /// Print an instance's log lines.
    Logs(LogsOptions),
    /// Show the latest calls of an instance's tools, newest first.
    Calls(CallsOptions),
    /// Start instances.
    Start(InstancesOption),
    /// Stop instances; they keep their URL, token and data.
    Stop(InstancesOption),
    /// Stop, then start instances.
    Restart(InstancesOption),
    /// Bring expired instances back: same URL, token and data.
    Restore(LeaseOptions),
    /// Give instances a new deadline, counted from now.
    Extend(LeaseOptions),
    /// Say how long nobody uses instances before they sleep.
    Sleep(SleepOptions),
    /// Stop and delete instances.
    #[command(visible_alias = "delete")]
    Rm(InstancesOption),
    /// List what can be run, or show one template.
    Templates {
        /// Show this one.
        name: Option<String>,
    },
    /// Make, check and install templates.
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Secrets that instances are given.
    #[command(subcommand, visible_alias = "secret")]
    Credential(CredentialCommand),
    /// List owners: what each has, and what its budget allows.
    Owners,
    /// Follow what happens to every instance.
    Events {
        /// First what happened after the event with this number.
        #[arg(long, value_name = "ID")]
        after: Option<i64>,
    },
    /// Access tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Background tasks: list them, or run one now.
    Tasks {
        #[command(subcommand)]
        command: Option<TasksCommand>,
    },
    /// Say what this host allows and whether the daemon is well.
    Doctor,
    /// Collect the state of host and daemon in one file for whoever looks for a fault; without secrets.
    SupportBundle(SupportBundleOptions),
    /// Measure what this program costs on this machine, beside the same work without it.
    Bench(BenchOptions),
    /// Master keys, which seal the credentials.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Keep a copy of everything, and put it back.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Let another program take the daemon's place, while instances run on and clients wait.
    Upgrade(UpgradeOptions),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a shell's completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RawOptions {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) rest: Vec<std::ffi::OsString>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct QuickstartOptions {
    /// Where everything is kept; made if it is missing [default: $XDG_DATA_HOME/minimcp, else
    /// ~/.local/share/minimcp, else ./minimcp-data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The API's port; 0 picks a free one [default: 7420].
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// The range of access ports [default: 3001-3999].
    #[arg(long, value_name = "MIN-MAX", value_parser = port_range)]
    pub(crate) ports: Option<(u16, u16)>,
    /// The address to listen on [default: 127.0.0.1].
    #[arg(long)]
    pub(crate) address: Option<IpAddr>,
    /// Do not create the instance `demo`.
    #[arg(long)]
    pub(crate) no_demo: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people and the journal.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct LsOptions {
    /// Only with this status.
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Only of this template.
    #[arg(long)]
    pub(crate) template: Option<String>,
    /// Only of this owner.
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// Print ids only, one a line.
    #[arg(long, short, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InstanceOption {
    /// A name (of another owner: OWNER/NAME), an id, or the beginning of an id.
    pub(crate) instance: String,
}

#[derive(Debug, Args)]
pub(crate) struct InstancesOption {
    /// Names (of other owners: OWNER/NAME), ids, or beginnings of ids.
    #[arg(required = true, value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LeaseOptions {
    /// Names (of other owners: OWNER/NAME), ids, or beginnings of ids.
    #[arg(required = true, value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
    /// Time to live from now, such as 30m, 2h or 7d [default: as it was last asked for].
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) ttl: Option<HumanDuration>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsOptions {
    /// A name (of another owner: OWNER/NAME), an id, or the beginning of an id.
    pub(crate) instance: String,
    /// Go on with what comes.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// From then on: an age such as 10m, or a time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only this stream.
    #[arg(long, value_parser = ["stdout", "stderr", "system"])]
    pub(crate) stream: Option<String>,
    /// Only lines that hold this text, case ignored.
    #[arg(long, value_name = "TEXT")]
    pub(crate) grep: Option<String>,
    /// The last so many lines.
    #[arg(long, short = 'n', value_name = "LINES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(crate) tail: u32,
    /// Begin each line with its time and stream.
    #[arg(long, short)]
    pub(crate) timestamps: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CallsOptions {
    /// A name (of another owner: OWNER/NAME), an id, or the beginning of an id.
    pub(crate) instance: String,
    /// Only of this tool.
    #[arg(long)]
    pub(crate) tool: Option<String>,
    /// Only with this access token.
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Only those that ended so: ok, tool-error, rpc-error, cancelled, ….
    #[arg(long)]
    pub(crate) outcome: Option<String>,
    /// From then on: an age such as 10m, or a time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// The last so many.
    #[arg(long, short = 'n', value_name = "CALLS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CredentialCommand {
    /// Store a secret, or replace it. The value comes from --file, a pipe, or a prompt; never from the command line.
    Put {
        /// What to call it.
        name: String,
        /// Whose it is [default: admin].
        #[arg(long)]
        owner: Option<String>,
        /// Read the value from this file.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Even when it does not look as the template of an instance wants that uses it.
        #[arg(long)]
        force: bool,
    },
    /// Ask the service behind a template or an instance whether it accepts the credentials.
    Check(super::credential_check::CheckOptions),
    /// List names; values are never shown.
    #[command(visible_alias = "list")]
    Ls {
        /// Only of this owner.
        #[arg(long)]
        owner: Option<String>,
    },
    /// Delete a secret.
    #[command(visible_alias = "delete")]
    Rm {
        /// Its name.
        name: String,
        /// Whose it is [default: admin].
        #[arg(long)]
        owner: Option<String>,
        /// Even when instances use it; their next launch fails.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List the access tokens of an instance.
    #[command(visible_alias = "list")]
    Ls {
        /// A name (of another owner: OWNER/NAME), an id, or the beginning of an id.
        instance: String,
    },
    /// Make another access token; its secret is shown this once.
    Create(TokenOptions),
    /// Give an access token a new secret; it is shown this once.
    Rotate {
        /// A name (of another owner: OWNER/NAME), an id, or the beginning of an id.
        instance: String,
        /// The token [default: the one that the instance began with].
        name: Option<String>,
        /// How long the old secret stays valid.
        #[arg(long, value_name = "TIME")]
        overlap: Option<HumanDuration>,
    },
    /// Revoke an access token at once.
    #[command(visible_aliases = ["delete", "revoke"])]
    Rm {
        /// A name (of another owner: OWNER/NAME), an id, or the beginning of an id.
        instance: String,
        /// The token.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenOptions {
    /// A name (of another owner: OWNER/NAME), an id, or the beginning of an id.
    pub(crate) instance: String,
    /// What the token shall be called.
    pub(crate) name: String,
    /// all, or read-only: tools that the server itself calls so [default: all].
    #[arg(long, value_parser = ["all", "read-only"])]
    pub(crate) scope: Option<String>,
    /// Only this tool, or tools that begin so (`list_*`); may be given several times.
    #[arg(long = "tool", value_name = "TOOL", conflicts_with = "scope")]
    pub(crate) tools: Vec<String>,
    /// How long it is valid, such as 30d [default: without end].
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<HumanDuration>,
    /// How often it may be used, such as 100/1m [default: gateway.token_rate_limit].
    #[arg(long, value_name = "REQUESTS/TIME")]
    pub(crate) rate: Option<RateLimit>,
    /// Most calls at the same time [default: gateway.token_concurrency_max].
    #[arg(long, value_name = "CALLS")]
    pub(crate) concurrency: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// Run one now and wait for its result.
    Run {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List keys by id; the keys themselves are never shown.
    #[command(visible_alias = "ls")]
    List,
    /// Add a key, make it the active one, and seal every credential again while the daemon runs.
    Rotate,
    /// Remove the keys that seal no credential any more; backups made before need them, so keep a copy of the file.
    Retire,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the configuration and its templates as `serve` would; every fault is listed.
    Check(ConfigFile),
    /// Print the configuration in force; the database's password is left out.
    Show(ConfigFile),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration [default: /etc/minimcp/config.toml, if it exists].
    #[arg(long, env = "MINIMCP_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_of_run_are_read() {
        let parsed = Arguments::try_parse_from([
            "minimcp",
            "run",
            "github",
            "--ttl",
            "2h",
            "--credential",
            "GITHUB_TOKEN=work",
            "--setting",
            "depth=3",
            "--label",
            "team=a=b",
            "--json",
        ])
        .expect("a valid line");
        assert!(parsed.global.json);
        let Command::Run(run) = parsed.command else {
            panic!("not run: {:?}", parsed.command);
        };
        assert_eq!(run.ttl, Some(HumanDuration::from_secs(7_200)));
        assert_eq!(
            run.credentials,
            [("GITHUB_TOKEN".to_owned(), "work".to_owned())]
        );
        assert_eq!(run.labels, [("team".to_owned(), "a=b".to_owned())]);
        assert_eq!(run.wait, HumanDuration::from_secs(60));
    }

    #[test]
    fn wait_does_not_swallow_the_template() {
        let parsed = Arguments::try_parse_from(["minimcp", "run", "--wait", "demo"]);
        let Command::Run(run) = parsed.expect("a valid line").command else {
            panic!("not run");
        };
        assert_eq!(run.template, "demo");
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            &["minimcp", "run"][..],
            &["minimcp", "run", "demo", "--ttl", "10x"],
            &["minimcp", "run", "demo", "--ttl", "-5"],
            &["minimcp", "run", "demo", "--credential", "=x"],
            &["minimcp", "quickstart", "--ports", "9-8"],
            &["minimcp", "quickstart", "--ports", "0-8"],
            &["minimcp", "credential", "put", "name", "the-secret-value"],
            &["minimcp", "logs", "demo", "--stream", "stdin"],
            &["minimcp", "rm"],
        ] {
            let error = Arguments::try_parse_from(line.iter().copied()).expect_err("a wrong line");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
