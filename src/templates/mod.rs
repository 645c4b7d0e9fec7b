//! The templates that instances are made from: those inside the binary, and those of `runtime.template_dirs`.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;

use crate::{
    config::RuntimeConfig,
    domain::{
        id::TemplateName,
        instance::InstanceSpec,
        sandbox::{Ceiling, Denial},
        template::Template,
        violation::Violation,
    },
};

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod launch;
mod manifest;
#[cfg(test)]
mod manifest_tests;
mod parameters;
mod program_files;
mod schema;
#[cfg(test)]
mod tests;

pub use launch::{ResolveError, Resolved, resolve};
pub use manifest::{Fault, MANIFEST_BYTES_MAX, read};
pub use parameters::{SETTING_BYTES_MAX, SETTING_ENTRIES_MAX, check, settings_schema};

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../mcp-templates/", $name, "/template.toml")))),*]
    };
}

/// The manifests inside this binary.
const EMBEDDED: &[(&str, &str)] = embedded![
    "demo",
    "everything",
    "fetch",
    "figma",
    "filesystem",
    "git",
    "github",
    "gmail",
    "memory",
    "time",
];

/// One template, and whether it can run here.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The manifest.
    pub template: Arc<Template>,
    /// The file it came from; `None`: it is inside the binary.
    pub file: Option<PathBuf>,
    /// The absolute path of its program, or why there is none, with the install hint.
    pub program: Result<PathBuf, String>,
}

/// All templates. Reading takes no lock; cheap to share.
pub struct Catalogue {
    dirs: Vec<PathBuf>,
    search_path: Vec<PathBuf>,
    exe: PathBuf,
    ceiling: Ceiling,
    loaded: ArcSwap<Loaded>,
}

#[derive(Clone, Default)]
struct Loaded {
    entries: BTreeMap<TemplateName, Entry>,
    faults: Vec<Fault>,
}

impl Catalogue {
    /// Reads all templates; what is faulty is in [`Catalogue::faults`]. `exe` is the absolute path of this binary,
    /// which built-in servers run from. Reads files, so not for an async thread.
    #[must_use]
    pub fn load(config: &RuntimeConfig, exe: PathBuf) -> Self {
        let catalogue = Self {
            dirs: config.template_dirs.clone(),
            search_path: config.search_path.clone(),
            exe,
            ceiling: Ceiling::default(),
            loaded: ArcSwap::default(),
        };
        catalogue.reload();
        catalogue
    }

    /// Bounds what templates and settings may ask for.
    #[must_use]
    pub fn under(mut self, ceiling: Ceiling) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// What `settings` of a create request grant beyond the operator's ceiling, with pointers such as
    /// `/settings/folders`.
    #[must_use]
    pub fn check_grants(
        &self,
        template: &Template,
        settings: &BTreeMap<String, serde_json::Value>,
    ) -> Vec<Violation> {
        launch::grants(template, settings)
            .filter_map(|(name, path, access)| {
                let denial = self.ceiling.grants(&path, access).err()?;
                let pointer = format!("/settings/{name}");
                Some(Violation::new(pointer, "not-granted", denial.to_string()))
            })
            .collect()
    }

    /// Reads all templates anew and looks for their programs again; the answer is every fault found. A manifest
    /// that was good and is now faulty stays in use as it was. Reads files, so not for an async thread.
    pub fn reload(&self) -> Vec<Fault> {
        let before = self.loaded.load_full();
        let mut loaded = Loaded::default();
        for (name, text) in EMBEDDED {
            let file = PathBuf::from(format!("(built in) mcp-templates/{name}/template.toml"));
            match read(text, name, &file) {
                Ok(template) => self.add(&mut loaded, template, None),
                Err(faults) => loaded.faults.extend(faults),
            }
        }
        for dir in &self.dirs {
            self.load_dir(dir, &before, &mut loaded);
        }
        let faults = loaded.faults.clone();
        self.loaded.store(Arc::new(loaded));
        faults
    }

    /// Every fault of the last load.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.loaded.load().faults.clone()
    }

    /// All templates by name, with the availability found last.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        self.loaded.load().entries.values().cloned().collect()
    }

    /// One template, with the availability found last.
    #[must_use]
    pub fn get(&self, name: &TemplateName) -> Option<Entry> {
        self.loaded.load().entries.get(name).cloned()
    }

    /// One template, its program looked for again: what was installed a moment ago is found, what was removed is
    /// not. A few stat(2) calls.
    #[must_use]
    pub fn refresh(&self, name: &TemplateName) -> Option<Entry> {
        let mut entry = self.get(name)?;
        let program = self.find_program(&entry.template);
        if program != entry.program {
            self.loaded.rcu(|loaded| {
                let mut loaded = Loaded::clone(loaded);
                if let Some(entry) = loaded.entries.get_mut(name) {
                    entry.program.clone_from(&program);
                }
                loaded
            });
            entry.program = program;
        }
        Some(entry)
    }

    /// The launch command of an instance of the template `name`: [`resolve`] with the program looked for again,
    /// `PATH` set, and `data_dir` made absolute.
    ///
    /// # Errors
    /// [`ResolveError`]; the texts are fit for the instance's status.
    pub fn resolve(
        &self,
        name: &TemplateName,
        spec: &InstanceSpec,
        data_dir: &Path,
        port: Option<u16>,
    ) -> Result<Resolved, ResolveError> {
        let entry = self
            .refresh(name)
            .ok_or_else(|| ResolveError::UnknownTemplate(name.to_string()))?;
        let program = entry.program.map_err(ResolveError::Unavailable)?;
        let data_dir = std::path::absolute(data_dir)
            .map_err(|_| ResolveError::PathEncoding(data_dir.to_owned()))?;
        let template = &entry.template;
        let mut resolved = resolve(template, &program, spec, &data_dir, port)?;
        let arguments = template.server.command.iter().skip(1);
        let files = program_files::find(
            &program,
            arguments.map(String::as_str),
            &self.search_path,
            &self.ceiling.hidden,
        );
        let wanted: Vec<_> = launch::grants(template, &spec.settings)
            .map(|(_, path, access)| (path, access))
            .collect();
        let decided = self.ceiling.decide(&template.sandbox, &wanted, files);
        resolved.sandbox = decided.map_err(|denials| {
            let sentences: Vec<String> = denials.iter().map(Denial::to_string).collect();
            ResolveError::Denied(sentences.join("; "))
        })?;
        if !resolved.env.contains_key("PATH") {
            let mut path = Vec::new();
            for folder in &self.search_path {
                path.push(
                    folder
                        .to_str()
                        .ok_or_else(|| ResolveError::PathEncoding(folder.clone()))?,
                );
            }
            resolved.env.insert("PATH".to_owned(), path.join(":"));
        }
        Ok(resolved)
    }

    fn add(&self, loaded: &mut Loaded, template: Template, file: Option<PathBuf>) {
        let program = self.find_program(&template);
        let name = template.name.clone();
        let template = Arc::new(template);
        loaded.entries.insert(
            name,
            Entry {
                template,
                file,
                program,
            },
        );
    }

    /// Adds the templates of one folder. Its subfolders without a `template.toml` are none of ours.
    fn load_dir(&self, dir: &Path, before: &Loaded, loaded: &mut Loaded) {
        let unreadable = |error: io::Error| Fault {
            file: dir.to_owned(),
            key: "runtime.template_dirs".to_owned(),
            message: format!("cannot be read: {error}"),
        };
        let folders: io::Result<Vec<PathBuf>> = fs::read_dir(dir)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect());
        let mut folders = match folders {
            Ok(folders) => folders,
            Err(error) => return loaded.faults.push(unreadable(error)),
        };
        folders.sort();
        for folder in folders {
            let file = folder.join("template.toml");
            let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.starts_with('.') || !file.exists() {
                continue;
            }
            let read = read_text(&file)
                .map_err(|message| {
                    vec![Fault {
                        file: file.clone(),
                        key: "file".to_owned(),
                        message,
                    }]
                })
                .and_then(|text| read(&text, name, &file));
            match read {
                Ok(template) => self.add(loaded, template, Some(file)),
                Err(faults) => {
                    loaded.faults.extend(faults);
                    let old = before
                        .entries
                        .iter()
                        .find(|(_, entry)| entry.file.as_ref() == Some(&file));
                    if let Some((name, entry)) = old {
                        loaded.entries.insert(name.clone(), entry.clone());
                    }
                }
            }
        }
    }

    /// Where the program of `template` lies, or why it cannot run here.
    fn find_program(&self, template: &Template) -> Result<PathBuf, String> {
        let server = &template.server;
        let Some(program) = server.command.first() else {
            return Ok(self.exe.clone());
        };
        let found = if program.starts_with('/') {
            Some(PathBuf::from(program)).filter(|path| is_program(path))
        } else {
            self.search_path
                .iter()
                .filter_map(|folder| std::path::absolute(folder.join(program)).ok())
                .find(|path| is_program(path))
        };
        found.ok_or_else(|| {
            let hint = server.install.as_ref().map_or_else(String::new, |install| {
                format!("; install it with: {install}")
            });
            format!("the program {program} was not found in runtime.search_path{hint}")
        })
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The text of a manifest; the error says what is wrong.
fn read_text(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    fs::File::open(file)
        .and_then(|open| open.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(format!("must be at most {MANIFEST_BYTES_MAX} bytes"));
    }
    Ok(text)
}
