//! What a plan must be like before anything is done for it.

use super::{credential_files, protocol::Launch, root};
use crate::{domain::sandbox::is_plain, runtime::PASSED_MAX};

/// Refuses a plan that cannot be carried out as it is meant.
///
/// # Errors
/// One sentence.
pub(super) fn check(launch: &Launch, values: &[u8], passed: usize) -> Result<(), String> {
    let total: usize = launch
        .env
        .iter()
        .chain(&launch.files)
        .map(|(_, len)| *len)
        .fold(0, usize::saturating_add);
    if total != values.len() {
        return Err("the plan's environment is not as long as it says".into());
    }
    if launch.argv.first().is_none_or(String::is_empty) {
        return Err("the plan names no program".into());
    }
    if launch.argv.iter().any(|argument| argument.contains('\0')) || values.contains(&0) {
        return Err("an argument or a variable holds a NUL byte".into());
    }
    if let Some((name, _)) = launch
        .env
        .iter()
        .find(|(name, _)| name.is_empty() || name.contains(['=', '\0']))
    {
        return Err(format!("{name:?} cannot be the name of a variable"));
    }
    if let Some((name, _)) = launch
        .files
        .iter()
        .find(|(name, _)| !credential_files::is_name(name))
    {
        return Err(format!("{name:?} cannot be the name of a credential file"));
    }
    if !launch.cwd.is_absolute() {
        return Err(format!(
            "the working folder {} is not absolute",
            launch.cwd.display()
        ));
    }
    if let Some(path) = root::named(&launch.sandbox).find(|path| !is_plain(path)) {
        return Err(format!("{} cannot be shown to it", path.display()));
    }
    if passed > PASSED_MAX {
        return Err(format!("more than {PASSED_MAX} descriptors to pass on"));
    }
    Ok(())
}
