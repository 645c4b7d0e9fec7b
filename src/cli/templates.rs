//! `minimcp template`: what an author of templates needs.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Subcommand;

use super::{failure::Failure, output::Output};
use crate::{
    client::Client,
    domain::{id::TemplateName, package::PackageSource},
    templates::{self, Fault},
    wire::TemplateSummary,
};

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Tell every fault of template folders; needs no daemon.
    Check {
        /// Folders that hold a template.toml.
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// Write a template.toml to begin with; needs no daemon.
    New {
        /// Its folder, which is made; the last part is the template's name.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The package that brings the server: npm:NAME@VERSION or pypi:NAME==VERSION.
        #[arg(long, value_name = "SOURCE")]
        package: Option<PackageSource>,
        /// The server's command [default: the name of the package].
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Print the JSON Schema of template.toml; needs no daemon.
    Schema,
    /// Install the package of a template ahead of its first start, and wait for it.
    Install {
        /// The template.
        name: String,
    },
    /// Print the hosts that instances reached which learn (network = "learn"), as the manifest has them.
    Learned {
        /// The template.
        name: String,
    },
}

const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Longer than any installation that a daemon allows by default.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Prints the JSON Schema of the manifest.
pub(super) fn schema(out: Output) -> Result<ExitCode, Failure> {
    let schema = templates::manifest_schema();
    let text = serde_json::to_string_pretty(&schema);
    out.line(&text.map_err(|error| Failure::Failed(error.to_string()))?)?;
    Ok(ExitCode::SUCCESS)
}

/// Tells every fault of every folder.
pub(super) fn check(folders: &[PathBuf], out: Output) -> Result<ExitCode, Failure> {
    let mut faulty = 0;
    for folder in folders {
        let faults = faults(folder);
        faulty += usize::from(!faults.is_empty());
        if out.json {
            let faults: Vec<_> = faults
                .iter()
                .map(|fault| serde_json::json!({"key": fault.key, "message": fault.message}))
                .collect();
            let line =
                serde_json::json!({"folder": folder, "valid": faults.is_empty(), "faults": faults});
            out.line(&line.to_string())?;
        } else if faults.is_empty() {
            out.line(&format!("{}: valid", folder.display()))?;
        } else {
            for fault in faults {
                out.line(&fault.to_string())?;
            }
        }
    }
    if faulty > 0 {
        let of = folders.len();
        return Err(Failure::Failed(format!(
            "{faulty} of {of} templates are faulty"
        )));
    }
    Ok(ExitCode::SUCCESS)
}

fn faults(folder: &Path) -> Vec<Fault> {
    let fault = |file: &Path, key: &str, message: String| Fault {
        file: file.to_owned(),
        key: key.to_owned(),
        message,
    };
    // `.` has no name of its own.
    let absolute = match folder.canonicalize() {
        Ok(absolute) => absolute,
        Err(error) => return vec![fault(folder, "folder", format!("cannot be read: {error}"))],
    };
    let file = folder.join("template.toml");
    let Some(name) = absolute.file_name().and_then(|name| name.to_str()) else {
        return vec![fault(folder, "folder", "has no name".to_owned())];
    };
    match templates::read_file(&file) {
        Ok(text) => match templates::read(&text, name, &file) {
            Ok(template) => templates::read_icon(&template, Some(folder))
                .err()
                .map(|message| fault(&file, "icon", message))
                .into_iter()
                .collect(),
            Err(faults) => faults,
        },
        Err(message) => vec![fault(&file, "file", message)],
    }
}

/// Writes a manifest to begin with.
pub(super) fn new(
    folder: &Path,
    package: Option<&PackageSource>,
    command: &[String],
    out: Output,
) -> Result<ExitCode, Failure> {
    let name = folder.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Failure::Usage("the folder has no name".to_owned()))?;
    let name = TemplateName::new(name)
        .map_err(|error| Failure::Usage(format!("{name:?} cannot name a template: {error}")))?;
    let command = match (package, command) {
        (Some(package), []) => vec![package.program().to_owned()],
        (None, []) => {
            let message = "what is to run? Give --package, or a command after --";
            return Err(Failure::Usage(message.to_owned()));
        }
        (_, command) => command.to_vec(),
    };
    let file = folder.join("template.toml");
    let text = draft(name.as_str(), package, &command);
    if let Err(faults) = templates::read(&text, name.as_str(), &file) {
        let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
        return Err(Failure::Usage(faults.join("; ")));
    }
    fs::create_dir_all(folder)
        .and_then(|()| {
            let mut options = fs::File::options();
            let mut open = options.write(true).create_new(true).open(&file)?;
            std::io::Write::write_all(&mut open, text.as_bytes())
        })
        .map_err(|error| {
            Failure::Failed(format!("{} cannot be written: {error}", file.display()))
        })?;
    if out.json {
        out.line(&serde_json::json!({"file": file}).to_string())?;
    } else {
        out.line(&format!(
            "Wrote {}. Its folder belongs into one of runtime.template_dirs; SIGHUP makes the daemon read it.",
            file.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn draft(name: &str, package: Option<&PackageSource>, command: &[String]) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let command: Vec<String> = command.iter().map(|argument| text(argument)).collect();
    let mut draft = format!(
        "schema = 1\n\
         name = {}\n\
         title = {}\n\
         # What people read before they choose it: one or two sentences.\n\
         description = {}\n\n\
         [server]\n\
         transport = \"stdio\"\n\
         command = [{}]\n",
        text(name),
        text(name),
        text(&format!("The MCP server {name}.")),
        command.join(", ")
    );
    if let Some(package) = package {
        let _ = writeln!(draft, "package = {}", text(&package.to_string()));
    }
    draft.push_str(
        "\n\
         # A secret that it takes as an environment variable; one section for each.\n\
         # [[credential]]\n\
         # name = \"EXAMPLE_API_KEY\"\n\
         # title = \"API key\"\n\
         # help = \"Where to get one, step by step.\"\n\
         \n\
         # A setting that it takes, as a variable or as arguments; one section for each.\n\
         # [[setting]]\n\
         # name = \"log_level\"\n\
         # title = \"Log level\"\n\
         # type = \"string\"\n\
         # enum = [\"debug\", \"info\"]\n\
         # default = \"info\"\n\
         # env = \"LOG_LEVEL\"\n\
         \n\
         # A list of the hosts that it may reach; without one it has no network.\n\
         # [sandbox]\n\
         # hosts = [\"api.example.com:443\"]\n\
         \n\
         # [lease]\n\
         # ttl_max = \"30d\"\n",
    );
    draft
}

/// Has the daemon install a template's package, and waits for it.
pub(super) async fn install(client: &Client, name: &str, out: Output) -> Result<ExitCode, Failure> {
    let mut template = client.install_template(name).await?.read()?;
    let deadline = tokio::time::Instant::now() + INSTALL_TIMEOUT;
    while is_installing(&template) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(POLL_INTERVAL).await;
        template = client.template(name).await?.read()?;
    }
    let Some(package) = &template.package else {
        return Err(Failure::Failed(format!(
            "the template {name} names no package"
        )));
    };
    match (package.state.as_str(), &package.error) {
        ("failed", Some(error)) => return Err(Failure::Failed(error.clone())),
        ("installing", _) => {
            let source = &package.source;
            return Err(Failure::Failed(format!(
                "{source} is still being installed"
            )));
        }
        _ => {}
    }
    if out.json {
        let json =
            serde_json::to_string(&template).map_err(|error| Failure::Failed(error.to_string()))?;
        out.line(&json)?;
    } else {
        let state = match package.state.as_str() {
            "not-needed" => "is not needed: the program is there",
            state => state,
        };
        out.line(&format!("{} {state}", package.source))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_installing(template: &TemplateSummary) -> bool {
    let package = template.package.as_ref();
    package.is_some_and(|package| package.state == "installing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_valid_with_and_without_its_comments() {
        let package: PackageSource = "npm:@a/server-b@1.2.3".parse().expect("a source");
        let command = ["server \"b\"".to_owned(), "--root={data}".to_owned()];
        for text in [
            draft("b", Some(&package), &command),
            draft("b", None, &command),
        ] {
            let file = Path::new("template.toml");
            assert_eq!(templates::read(&text, "b", file).err(), None, "{text}");
            let all = text.replace("# ", "").replace(
                "What people read before they choose it: one or two sentences.\n",
                "",
            );
            let all: String = all
                .lines()
                .filter(|line| !line.starts_with("A "))
                .map(|line| format!("{line}\n"))
                .collect();
            assert_eq!(templates::read(&all, "b", file).err(), None, "{all}");
        }
    }
}
