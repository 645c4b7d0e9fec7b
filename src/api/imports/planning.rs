//! From a translated server to its manifest: its package is looked up, and a name is found for it.

use std::{collections::BTreeSet, sync::Arc};

use super::{super::AppState, Asked};
use crate::{
    domain::{id::TemplateName, package::Registry, template::Grant},
    interchange::{self, Draft, Found, Release, Run, Wanted},
    templates::{Catalogue, Entry, Place},
};

/// A server, ready to be made, or why it is not.
pub(super) struct Planned {
    pub(super) server: String,
    /// Absent where the file's own words could not be translated.
    pub(super) draft: Option<Draft>,
    /// What its registry says, where it was asked.
    pub(super) release: Result<Option<Release>, String>,
}

impl Planned {
    /// For a server whose registry took too long.
    pub(super) fn late(server: String) -> Self {
        Self {
            server,
            draft: None,
            release: Err("its registry did not answer in time; import it again, alone".to_owned()),
        }
    }
}

pub(super) async fn plan(state: &AppState, asked: &Asked, found: Found) -> Planned {
    let server = found.server;
    let mut draft = match found.draft {
        Ok(draft) => draft,
        Err(why) => {
            return Planned {
                server,
                draft: None,
                release: Err(why),
            };
        }
    };
    let release = complete(state, asked, &mut draft).await;
    Planned {
        server,
        draft: Some(draft),
        release,
    }
}

/// Adds to a draft what was asked for and what others know of its package.
async fn complete(
    state: &AppState,
    asked: &Asked,
    draft: &mut Draft,
) -> Result<Option<Release>, String> {
    if let Some(package) = &asked.package {
        draft.run_package(package)?;
    }
    if let Some(name) = &asked.name {
        draft.name = name.clone();
    }
    learn_from_known(draft, &state.templates.list());
    for rule in &asked.hosts {
        if !draft.hosts.contains(rule) {
            draft.hosts.push(rule.clone());
        }
    }
    let opens = |setting: &interchange::Setting| setting.grants == Some(Grant::Host);
    let is_local = !matches!(draft.run, Run::Remote { .. });
    if is_local && draft.hosts.is_empty() && !draft.settings.iter().any(opens) {
        draft.notes.push(
            "its file names no hosts, so it has no network: name them if it needs one".to_owned(),
        );
    }
    look_up(state, draft).await
}

/// The name and the text of its template; `taken` are the names of those before it.
pub(super) async fn place(
    state: &AppState,
    asked: &Asked,
    draft: &Draft,
    release: Option<Release>,
    taken: &BTreeSet<TemplateName>,
) -> Result<Place, String> {
    let (origin, taken) = (asked.format.title(), taken.clone());
    let (draft, templates) = (draft.clone(), Arc::clone(&state.templates));
    let find = move || {
        let text_of = |name: &TemplateName| {
            let text = draft.manifest(name.as_str(), release.as_ref(), origin);
            text.map_err(|error| error.to_string())
        };
        let place = templates.place(&draft.name, &taken, text_of)?;
        let faults: Vec<String> = Catalogue::faults_of(&place)
            .iter()
            .map(|fault| format!("{}: {}", fault.key, fault.message))
            .collect();
        if faults.is_empty() {
            Ok(place)
        } else {
            Err(format!(
                "its template would not be valid: {}",
                faults.join("; ")
            ))
        }
    };
    let found = tokio::task::spawn_blocking(find).await;
    found.unwrap_or_else(|_| Err("it could not be looked at".to_owned()))
}

/// A package that a template of ours names too reaches the same hosts.
fn learn_from_known(draft: &mut Draft, known: &[Entry]) {
    let Run::Package { registry, name, .. } = &draft.run else {
        return;
    };
    let of_package = known.iter().find(|entry| {
        let source = entry.template.server.package.as_ref();
        source.is_some_and(|source| source.registry() == *registry && source.name() == name)
    });
    let Some(entry) = of_package else { return };
    let title = entry.template.name.to_string();
    for rule in &entry.template.sandbox.hosts {
        if !draft.hosts.contains(rule) {
            draft.hosts.push(rule.clone());
        }
    }
    let hosts = match entry.template.sandbox.hosts.is_empty() {
        true => "",
        false => ": its hosts are taken",
    };
    draft.notes.push(format!(
        "the template {title} runs the same package{hosts}; it may serve you as it is"
    ));
}

/// What the registry says of the package: the version, where the file names no exact one, and its programs.
async fn look_up(state: &AppState, draft: &mut Draft) -> Result<Option<Release>, String> {
    let Run::Package {
        registry,
        name,
        version,
        program,
        ..
    } = &draft.run
    else {
        return Ok(None);
    };
    let (exact, wanted) = match (version, registry) {
        (Wanted::Exact(version), Registry::Npm) => (true, version.clone()),
        (Wanted::Exact(version), Registry::Pypi) => (true, format!("=={version}")),
        (Wanted::Newest(range), _) => (false, range.clone()),
    };
    // An exact version is asked for only where its programs are not known.
    if exact && (program.is_some() || *registry == Registry::Pypi) {
        return Ok(None);
    }
    match state
        .supervisor
        .look_up_package(*registry, name, &wanted)
        .await
    {
        Ok(published) => {
            if !exact {
                draft.notes.push(format!(
                    "{name} had no exact version in the file; it stays at {} from now on",
                    published.version
                ));
            }
            Ok(Some(Release {
                version: published.version,
                programs: published.programs,
            }))
        }
        Err(why) if exact => {
            draft
                .notes
                .push(format!("the name of its program is a guess: {why}"));
            Ok(None)
        }
        Err(why) => Err(format!(
            "its file names no exact version of {name}, and the newest one could not be looked up: {why}"
        )),
    }
}
