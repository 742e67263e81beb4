//! Is this process fit to work? Its parts say what ails them; `/readyz` tells whoever asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What ails the parts of this process, by the part's name. Shared by all of them.
#[derive(Debug, Default)]
pub struct Health {
    parts: Mutex<BTreeMap<&'static str, Option<String>>>,
}

impl Health {
    /// The part works.
    pub fn well(&self, part: &'static str) {
        self.set(part, None);
    }

    /// The part does not work; `trouble` is one sentence for the operator. Anyone may read it:
    /// no address, no secret.
    pub fn ill(&self, part: &'static str, trouble: impl Into<String>) {
        self.set(part, Some(trouble.into()));
    }

    /// Every part that has spoken, by name, with its trouble.
    pub fn parts(&self) -> BTreeMap<&'static str, Option<String>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, part: &'static str, trouble: Option<String>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(part, trouble);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_recovers_has_no_trouble_left() {
        let health = Health::default();
        health.ill("broker", "The broker is not answering.");
        health.well("store");
        assert_eq!(health.parts()["broker"].as_deref(), Some("The broker is not answering."));
        health.well("broker");
        assert!(health.parts().values().all(Option::is_none));
    }
}
