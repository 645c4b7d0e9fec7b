//! The faults of one request, gathered from its body, its query string and their values, and told together.

use super::error::ApiError;
use crate::{
    domain::violation::{Violation, add_unless_covered},
    supervisor::SupervisorError,
};

/// What is wrong with a request, so far.
#[derive(Debug, Default)]
pub struct Faults(Vec<Violation>);

impl Faults {
    /// Whether there is any.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Those found so far.
    #[must_use]
    pub fn list(&self) -> &[Violation] {
        &self.0
    }

    /// Adds what a later look found; what only follows from a fault that is known is left out.
    pub fn add(&mut self, later: impl IntoIterator<Item = Violation>) {
        add_unless_covered(&mut self.0, later);
    }

    /// Adds all faults of another part of the request.
    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// What was read, or nothing and one fault more.
    pub fn take<T>(&mut self, read: Result<T, Violation>) -> Option<T> {
        read.map_err(|violation| self.add([violation])).ok()
    }

    /// What the supervisor made of it, or nothing and the faults that it found.
    ///
    /// # Errors
    /// Its other errors.
    pub fn of<T>(&mut self, checked: Result<T, SupervisorError>) -> Result<Option<T>, ApiError> {
        match checked {
            Ok(value) => Ok(Some(value)),
            Err(SupervisorError::Invalid(found)) => {
                self.add(found);
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Refuses the request when there is any fault, with all of them.
    ///
    /// # Errors
    /// `validation-failed`, or `invalid-query` when only the query string has faults.
    pub fn refuse(self) -> Result<(), ApiError> {
        if self.any() {
            Err(self.refusal())
        } else {
            Ok(())
        }
    }

    /// The refusal with all of them, in the order of their places.
    #[must_use]
    pub fn refusal(self) -> ApiError {
        let mut all = self.0;
        all.sort_by(|a, b| (&a.parameter, &a.pointer).cmp(&(&b.parameter, &b.pointer)));
        ApiError::invalid(all)
    }
}

impl From<Vec<Violation>> for Faults {
    fn from(list: Vec<Violation>) -> Self {
        Self(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::Code;

    #[test]
    fn faults_of_body_and_query_are_one_problem() {
        let mut faults = Faults(vec![Violation::new("/b", "type", "x")]);
        faults.add([
            Violation::new("/b/c", "required", "follows"),
            Violation::new("/a", "type", "x"),
        ]);
        faults.join(Faults(vec![Violation::of_parameter("limit", "type", "x")]));
        let error = faults.refuse().expect_err("three faults");
        assert_eq!(error.code(), Code::ValidationFailed);
        let places: Vec<_> = error
            .problem("r")
            .violations
            .into_iter()
            .map(|one| (one.pointer, one.parameter))
            .collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            places,
            [
                (text("/a"), None),
                (text("/b"), None),
                (None, text("limit"))
            ]
        );
        let alone = Faults(vec![Violation::of_parameter("limit", "type", "x")]);
        assert_eq!(alone.refuse().expect_err("one").code(), Code::InvalidQuery);
        assert!(Faults::default().refuse().is_ok());
    }
}
