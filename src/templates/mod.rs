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

use self::shipped::{SHIPPED, Shipped};
use crate::{
    config::RuntimeConfig,
    domain::{
        id::TemplateName,
        instance::InstanceSpec,
        package::Registry,
        sandbox::{Ceiling, Denial},
        template::{Template, Transport},
    },
    packages::{self, Package},
};

mod broker;
mod credential_groups;
mod credentials;
mod forms;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grants;
mod icons;
mod imported;
mod json_schema;
mod launch;
mod manifest;
#[cfg(test)]
mod manifest_tests;
mod oauth;
mod parameters;
mod program_files;
mod remote;
#[cfg(test)]
mod remote_tests;
mod schema;
mod shipped;
#[cfg(test)]
mod tests;

pub(crate) use credentials::unlike;
pub use icons::{ICON_BYTES_MAX, Icon, read_icon};
pub use imported::Place;
pub use json_schema::manifest_schema;
pub use launch::{ResolveError, Resolved, resolve};
pub use manifest::{Fault, MANIFEST_BYTES_MAX, read};
pub use parameters::{
    SETTING_BYTES_MAX, SETTING_ENTRIES_MAX, SETTING_FILE_BYTES_MAX, check, settings_schema,
};
pub use remote::{RemoteAddress, shown_url};

/// One template, and whether it can run here.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The manifest.
    pub template: Arc<Template>,
    /// The file it came from; `None`: it is inside the binary.
    pub file: Option<PathBuf>,
    /// Its picture.
    pub icon: Option<Icon>,
    /// The absolute path of its program (empty for a server elsewhere), or why there is none, with the install hint.
    pub program: Result<PathBuf, String>,
    /// The package that its program may come from, as it can be installed here.
    pub package: Option<Package>,
    /// The package that would bring the missing program, and whose installer is here.
    pub missing_package: Option<Package>,
}

/// All templates. Reading takes no lock; cheap to share.
pub struct Catalogue {
    imports: PathBuf,
    dirs: Vec<PathBuf>,
    search_path: Vec<PathBuf>,
    exe: PathBuf,
    ceiling: Ceiling,
    packages: PathBuf,
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
            imports: std::path::absolute(&config.imports_dir)
                .unwrap_or_else(|_| config.imports_dir.clone()),
            dirs: config.template_dirs.clone(),
            search_path: config.search_path.clone(),
            exe,
            ceiling: Ceiling::default(),
            packages: PathBuf::new(),
            loaded: ArcSwap::default(),
        };
        catalogue.reload();
        catalogue
    }

    /// Finds the programs of packages in this folder as well.
    #[must_use]
    pub fn with_packages(mut self, folder: &Path) -> Self {
        self.packages = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        self.reload();
        self
    }

    /// Bounds what templates and settings may ask for.
    #[must_use]
    pub fn under(mut self, ceiling: Ceiling) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// Reads all templates anew and looks for their programs again; the answer is every fault found. A manifest
    /// that was good and is now faulty stays in use as it was. Reads files, so not for an async thread.
    pub fn reload(&self) -> Vec<Fault> {
        let before = self.loaded.load_full();
        let mut loaded = Loaded::default();
        for Shipped { name, manifest, .. } in SHIPPED {
            let file = PathBuf::from(format!("(built in) mcp-templates/{name}/template.toml"));
            match whole(read(manifest, name, &file), &file, None) {
                Ok((template, icon)) => self.add(&mut loaded, template, icon, None),
                Err(faults) => loaded.faults.extend(faults),
            }
        }
        if self.imports.is_dir() {
            self.load_dir(&self.imports, &before, &mut loaded);
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
        let (program, missing_package) = self.find_program(&entry.template);
        if program != entry.program || missing_package != entry.missing_package {
            entry.package = self.package_of(&entry.template);
            entry.program = program;
            entry.missing_package = missing_package;
            self.loaded.rcu(|loaded| {
                let mut loaded = Loaded::clone(loaded);
                if let Some(known) = loaded.entries.get_mut(name) {
                    known.program.clone_from(&entry.program);
                    known.package.clone_from(&entry.package);
                    known.missing_package.clone_from(&entry.missing_package);
                }
                loaded
            });
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
        let hosts: Result<Vec<_>, _> = launch::hosts(template, &spec.settings)
            .map(|(at, rule)| rule.map_err(|fault| (at.setting, fault)))
            .collect();
        let hosts = hosts.map_err(|(name, message)| ResolveError::Setting {
            template: template.name.to_string(),
            name: name.to_owned(),
            message,
        })?;
        let decided =
            self.ceiling
                .decide(&template.name, &template.sandbox, &wanted, &hosts, files);
        resolved.sandbox = decided.map_err(|denials| {
            let sentences: Vec<String> = denials.iter().map(Denial::to_string).collect();
            ResolveError::Denied(sentences.join("; "))
        })?;
        broker::put_between(template, spec, port, &mut resolved).map_err(ResolveError::Denied)?;
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

    fn add(
        &self,
        loaded: &mut Loaded,
        template: Template,
        icon: Option<Icon>,
        file: Option<PathBuf>,
    ) {
        let (program, missing_package) = self.find_program(&template);
        let name = template.name.clone();
        let template = Arc::new(template);
        loaded.entries.insert(
            name,
            Entry {
                package: self.package_of(&template),
                template,
                file,
                icon,
                program,
                missing_package,
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
            let read = read_file(&file)
                .map_err(|message| {
                    vec![Fault {
                        file: file.clone(),
                        key: "file".to_owned(),
                        message,
                    }]
                })
                .and_then(|text| whole(read(&text, name, &file), &file, Some(&folder)));
            match read {
                Ok((template, icon)) => self.add(loaded, template, icon, Some(file)),
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

    /// Where the program of `template` lies, or why it cannot run here; and the package that would bring it.
    fn find_program(&self, template: &Template) -> (Result<PathBuf, String>, Option<Package>) {
        let server = &template.server;
        if server.transport == Transport::Remote {
            return (Ok(PathBuf::new()), None);
        }
        let Some(program) = server.command.first() else {
            return (Ok(self.exe.clone()), None);
        };
        let found = if program.starts_with('/') {
            Some(PathBuf::from(program)).filter(|path| is_program(path))
        } else {
            // What the operator installed goes before a package of ours.
            self.on_search_path(program)
        };
        if let Some(found) = found {
            return (Ok(found), None);
        }
        let hint = server.install.as_ref().map_or_else(String::new, |install| {
            format!("; install it with: {install}")
        });
        let missing = format!("the program {program} was not found in runtime.search_path{hint}");
        let Some(package) = self.package_of(template) else {
            return (Err(missing), None);
        };
        let source = &package.source;
        let folder = package.folder(&self.packages);
        if packages::is_whole(&folder) {
            let file = source.programs(&folder).join(program);
            if is_program(&file) {
                return (Ok(file), None);
            }
            let reason = format!("the package {source} has no program {program}");
            return (Err(reason), None);
        }
        let installer = packages::installer(source.registry());
        if self.packages.as_os_str().is_empty() || self.on_search_path(installer).is_none() {
            let reason = format!("{missing}; nor is {installer} there, to install {source}");
            return (Err(reason), None);
        }
        let reason = format!("the package {source} is installed at the first start");
        (Err(reason), Some(package))
    }

    fn package_of(&self, template: &Template) -> Option<Package> {
        let npm = packages::installer(Registry::Npm);
        let has_npm = || self.on_search_path(npm).is_some();
        let server = &template.server;
        Package::of(server, !server.package_additions.is_empty() && has_npm())
    }

    fn on_search_path(&self, program: &str) -> Option<PathBuf> {
        self.search_path
            .iter()
            .filter_map(|folder| std::path::absolute(folder.join(program)).ok())
            .find(|path| is_program(path))
    }
}

/// A manifest with its icon; a fault of either is one of the template.
fn whole(
    read: Result<Template, Vec<Fault>>,
    file: &Path,
    folder: Option<&Path>,
) -> Result<(Template, Option<Icon>), Vec<Fault>> {
    let template = read?;
    match read_icon(&template, folder) {
        Ok(icon) => Ok((template, icon)),
        Err(message) => Err(vec![Fault {
            file: file.to_owned(),
            key: "icon".to_owned(),
            message,
        }]),
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The text of a manifest.
///
/// # Errors
/// What is wrong: it cannot be read, is no text, or is larger than [`MANIFEST_BYTES_MAX`].
pub fn read_file(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    fs::File::open(file)
        .and_then(|open| open.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(format!("must be at most {MANIFEST_BYTES_MAX} bytes"));
    }
    Ok(text)
}
