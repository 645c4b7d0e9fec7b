//! What the user consented to, and what each tool needs. Google's own rules, from its description of the API.

use std::collections::BTreeSet;

/// Where the names of the scopes begin.
const PREFIX: &str = "https://www.googleapis.com/auth/gmail.";
/// Everything, deletion for good included.
const FULL: &str = "https://mail.google.com/";

/// What a call needs; any one of its scopes is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// To see that the account exists: any scope that reads or writes mail.
    Profile,
    /// To read mail.
    Read,
    /// To list and read labels.
    ReadLabels,
    /// To make and change labels.
    WriteLabels,
    /// To read drafts.
    ReadDrafts,
    /// To make, change, send and delete drafts.
    WriteDrafts,
    /// To send mail.
    Send,
    /// To change labels of mail, and to move it to the trash and back.
    Modify,
    /// To read filters.
    ReadSettings,
    /// To make and delete filters.
    WriteSettings,
}

impl Need {
    /// The scopes, without [`PREFIX`]; the one to ask the user for comes first.
    fn scopes(self) -> &'static [&'static str] {
        match self {
            Self::Profile => &["modify", "readonly", "compose", "metadata"],
            Self::Read => &["modify", "readonly"],
            Self::ReadLabels => &["modify", "readonly", "labels", "metadata"],
            Self::WriteLabels => &["modify", "labels"],
            Self::ReadDrafts => &["modify", "readonly", "compose"],
            Self::WriteDrafts => &["modify", "compose"],
            Self::Send => &["modify", "compose", "send"],
            Self::Modify => &["modify"],
            Self::ReadSettings => &["modify", "readonly", "settings.basic"],
            Self::WriteSettings => &["settings.basic"],
        }
    }

    /// Whether [`FULL`] is enough as well.
    fn full_is_enough(self) -> bool {
        self != Self::WriteSettings
    }
}

/// What the user consented to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted(BTreeSet<String>);

impl Granted {
    /// Reads the `scope` of a token answer (RFC 6749 section 3.3).
    pub(crate) fn new(scope: &str) -> Self {
        Self(scope.split_whitespace().map(str::to_owned).collect())
    }

    /// What is missing for `need`, as a sentence that says what to do; `None` when nothing is.
    pub(crate) fn missing(&self, need: Need) -> Option<String> {
        let has = |scope: &&str| self.0.contains(&format!("{PREFIX}{scope}"));
        let full = need.full_is_enough() && self.0.contains(FULL);
        if full || need.scopes().iter().any(has) {
            return None;
        }
        Some(missing(need))
    }
}

/// What to do when the consent does not cover `need`.
pub(crate) fn missing(need: Need) -> String {
    let wanted = need.scopes()[0];
    format!(
        "The consent of this Gmail account does not cover this: the scope {PREFIX}{wanted} is missing. Do not try \
         again: ask the user to connect the account again with that scope added, to store the new credentials and to \
         restart this server."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_need_is_met_by_its_scopes_alone() {
        let readonly = Granted::new("openid https://www.googleapis.com/auth/gmail.readonly");
        assert_eq!(readonly.missing(Need::Read), None);
        assert_eq!(readonly.missing(Need::ReadSettings), None);
        let told = readonly.missing(Need::Send).expect("it reads only");
        assert!(told.contains("auth/gmail.modify is missing"), "{told}");
        let full = Granted::new(FULL);
        assert_eq!(full.missing(Need::Modify), None);
        // Google lets nothing but this one scope write filters.
        let told = full.missing(Need::WriteSettings).expect("not covered");
        assert!(told.contains("auth/gmail.settings.basic"), "{told}");
        assert!(Granted::new("").missing(Need::Profile).is_some());
    }
}
