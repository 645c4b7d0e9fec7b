//! The options of `minimcp run`, and of `minimcp sleep`.

use clap::Args;

use super::option_values::key_value;
use crate::domain::duration::HumanDuration;

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The template, see `minimcp templates`.
    pub(crate) template: String,
    /// A name of one's own.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// In whose name, with credentials of that owner [default: admin].
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// Time to live, such as 30m, 2h or 7d [default: the template's].
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) ttl: Option<HumanDuration>,
    /// Give the stored credential NAME as the variable ENV.
    #[arg(long = "credential", value_name = "ENV=NAME", value_parser = key_value)]
    pub(crate) credentials: Vec<(String, String)>,
    /// A setting of the template; VALUE is JSON where it reads as such, else text.
    #[arg(long = "setting", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) settings: Vec<(String, String)>,
    /// The setting that the server gets as the variable NAME; secrets go with --credential.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = key_value)]
    pub(crate) variables: Vec<(String, String)>,
    /// A label.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) labels: Vec<(String, String)>,
    /// How long nobody uses it before it is frozen, such as 1m; 0s: it never is [default: the template's].
    #[arg(long, value_name = "TIME")]
    pub(crate) freeze_after: Option<HumanDuration>,
    /// How long nobody uses it before it sleeps, such as 15m; 0s: it never does [default: the template's].
    #[arg(long, value_name = "TIME")]
    pub(crate) sleep_after: Option<HumanDuration>,
    /// Take credentials even if they do not look as the template says.
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not wait until the server answers.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// How long to wait until the server answers.
    #[arg(long, value_name = "TIME", default_value = "60s", num_args = 0..=1, require_equals = true, default_missing_value = "60s")]
    pub(crate) wait: HumanDuration,
}

#[derive(Debug, Args)]
pub(crate) struct SleepOptions {
    /// Names (of other owners: OWNER/NAME), ids, or beginnings of ids.
    #[arg(required = true, value_name = "INSTANCE")]
    pub(crate) instances: Vec<String>,
    /// How long nobody uses it before it sleeps, such as 15m; 0s: it never does [default: the template's].
    #[arg(long, value_name = "TIME")]
    pub(crate) after: Option<HumanDuration>,
}
