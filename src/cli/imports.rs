//! `minimcp import`: the file of an MCP client or a registry becomes templates, and instances.

use std::{
    fs,
    io::{Read, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use zeroize::{Zeroize as _, Zeroizing};

use super::{failure::Failure, instances::created, output::Output};
use crate::{
    client::Client,
    interchange::{Format, TEXT_BYTES_MAX},
    wire::{Import, ImportRequest, ImportedServer},
};

#[derive(Debug, Args)]
pub(crate) struct ImportOptions {
    /// Its file: claude_desktop_config.json, .mcp.json, .vscode/mcp.json, config.toml of Codex, server.json,
    /// server.yaml; `-` reads stdin.
    pub(crate) file: PathBuf,
    /// What the file is [default: found out].
    #[arg(long, value_name = "FORMAT", value_parser = Format::ALL.map(Format::word))]
    pub(crate) from: Option<String>,
    /// Only this server of the file; may be given several times.
    #[arg(long = "server", value_name = "NAME")]
    pub(crate) servers: Vec<String>,
    /// What to call the template, where one server is imported.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The package to run in the place of a container, where one server is imported: npm:NAME@VERSION or
    /// pypi:NAME==VERSION.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) package: Option<String>,
    /// A host that the servers may reach, such as api.example.com:443; may be given several times.
    #[arg(long = "host", value_name = "HOST:PORT")]
    pub(crate) hosts: Vec<String>,
    /// Store the secrets of the file and make an instance of each server.
    #[arg(long, conflicts_with_all = ["dry_run", "dir"])]
    pub(crate) start: bool,
    /// Whose the credentials and instances of --start are [default: admin].
    #[arg(long, requires = "start")]
    pub(crate) owner: Option<String>,
    /// Make nothing; say what would be made.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write the templates into this folder instead of the daemon's own.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

pub(super) async fn run(
    client: &Client,
    options: ImportOptions,
    out: Output,
) -> Result<ExitCode, Failure> {
    let mut text = if options.file == Path::new("-") {
        read(std::io::stdin().lock(), "stdin")?
    } else {
        let shown = options.file.display().to_string();
        let file = fs::File::open(&options.file)
            .map_err(|error| Failure::Usage(format!("cannot read {shown}: {}", error.kind())))?;
        read(file, &shown)?
    };
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let mut request = ImportRequest {
        text: std::mem::take(&mut *text),
        format: options.from,
        servers: some(options.servers),
        name: options.name,
        package: options.package,
        hosts: some(options.hosts),
        dry_run: options.dry_run || options.dir.is_some(),
        start: options.start,
        owner: options.owner,
    };
    let reply = client.import(&request).await;
    request.text.zeroize();
    let reply = reply?;
    let import = reply.read()?;
    if let Some(dir) = options.dir.as_deref().filter(|_| !options.dry_run) {
        for server in &import.servers {
            write(dir, server)?;
        }
    }
    if out.json {
        out.line(reply.json())?;
    } else {
        for server in &import.servers {
            out.line(&told(server, options.dir.as_deref()))?;
        }
    }
    let failed = failures(&import);
    if failed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::Failed(format!(
        "{failed} of {} servers were not imported as asked",
        import.servers.len()
    )))
}

fn failures(import: &Import) -> usize {
    import
        .servers
        .iter()
        .filter(|server| server.reason.is_some())
        .count()
}

fn read(source: impl Read, shown: &str) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(16 << 10));
    source
        .take(TEXT_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("cannot read {shown}: {}", error.kind())))?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(Failure::Usage(format!(
            "{shown} is larger than {TEXT_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

/// Writes a template that the daemon only translated; what is there stays.
fn write(dir: &Path, server: &ImportedServer) -> Result<(), Failure> {
    let (Some(name), Some(manifest)) = (&server.template, &server.manifest) else {
        return Ok(());
    };
    let folder = dir.join(name);
    let file = folder.join("template.toml");
    let write = || {
        fs::create_dir_all(&folder)?;
        let mut open = fs::File::options()
            .write(true)
            .create_new(true)
            .open(&file)?;
        open.write_all(manifest.as_bytes())
    };
    write().map_err(|error| {
        Failure::Failed(format!(
            "{} cannot be written: {}",
            file.display(),
            error.kind()
        ))
    })
}

fn told(server: &ImportedServer, dir: Option<&Path>) -> String {
    let name = &server.server;
    let template = server.template.as_deref().unwrap_or_default();
    let mut lines = vec![match server.outcome.as_str() {
        "created" => format!("{name}: made the template {template}"),
        "unchanged" => format!("{name}: the template {template} is there already"),
        "would-create" => match dir {
            Some(dir) => format!(
                "{name}: wrote {}",
                dir.join(template).join("template.toml").display()
            ),
            None => format!("{name}: would become the template {template}"),
        },
        _ => format!("{name}: not imported"),
    }];
    lines.extend(server.reason.iter().map(|reason| format!("  {reason}")));
    for credential in &server.credentials {
        let variable = &credential.variable;
        lines.push(match (&credential.credential, credential.in_file) {
            (Some(stored), _) => format!("  credential {variable}: stored as {stored}"),
            (None, true) => format!("  credential {variable}: its value is in the file"),
            (None, false) => format!("  credential {variable}: not in the file"),
        });
    }
    lines.extend(server.notes.iter().map(|note| format!("  note: {note}")));
    if let Some(instance) = &server.instance {
        lines.push(created(instance));
    }
    lines.join("\n")
}
