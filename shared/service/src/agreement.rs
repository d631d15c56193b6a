//! Whether a replica's records are those of the others.
//!
//! Every so many messages each replica publishes what its records amount to behind that message. One that finds most of
//! the others in agreement on something else knows that it is the one that is wrong.

use std::collections::{BTreeMap, HashMap};

/// Replicas tell their states behind each message whose number this divides.
pub(crate) const EVERY: u64 = 1024;

/// The most places that are compared at once: what is told later than this is not.
const PLACES: usize = 8;

/// What replicas have told of their states.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// For each place the states, each with those who told it.
    places: BTreeMap<u64, HashMap<u64, String>>,
    /// The own states.
    own: BTreeMap<u64, String>,
    /// The last place at which another replica was in the same state.
    last: Option<u64>,
}

impl Agreement {
    /// Notes this replica's state behind message `place`.
    pub(crate) fn note_own(&mut self, place: u64, state: String) -> Result<(), String> {
        self.own.insert(place, state);
        while self.own.len() > PLACES {
            self.own.pop_first();
        }
        self.judge(place)
    }

    /// Notes the state behind message `place` that another replica tells.
    ///
    /// # Errors
    /// This replica is apart from most others. The text says since when.
    pub(crate) fn note(&mut self, place: u64, publisher: u64, state: String) -> Result<(), String> {
        self.places.entry(place).or_default().insert(publisher, state);
        while self.places.len() > PLACES {
            self.places.pop_first();
        }
        self.judge(place)
    }

    fn judge(&mut self, place: u64) -> Result<(), String> {
        let (Some(own), Some(told)) = (self.own.get(&place), self.places.get(&place)) else { return Ok(()) };
        let count = |state: &str| told.values().filter(|other| *other == state).count();
        let with_us = count(own);
        if with_us > 0 {
            self.last = self.last.max(Some(place));
        }
        // This replica is one more on its own side.
        let apart = told.values().find(|other| *other != own && count(other) > with_us + 1);
        apart.map_or(Ok(()), |other| {
            let last = match self.last {
                Some(last) => format!("they were the same behind message {last}"),
                None => "it is not known when they were last the same".to_owned(),
            };
            Err(format!(
                "behind message {place} its records are not those of the other replicas, but {own} instead of {other}; {last}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(agreement: &mut Agreement, place: u64, publisher: u64, state: &str) -> bool {
        agreement.note(place, publisher, state.to_owned()).is_ok()
    }

    #[test]
    fn only_who_is_in_the_minority_is_apart() {
        let mut one = Agreement::default();
        assert!(one.note_own(1, "a".to_owned()).is_ok());
        assert!(note(&mut one, 1, 7, "a") && note(&mut one, 1, 8, "a"));
        assert!(one.note_own(2, "a".to_owned()).is_ok());
        assert!(note(&mut one, 2, 7, "b"), "one against one");
        assert!(note(&mut one, 2, 7, "b"), "the same again");
        assert!(one.clone_note(2, 8, "a").is_ok(), "the other is apart");
        let apart = one.note(2, 8, "b".to_owned()).unwrap_err();
        assert!(apart.contains("behind message 2 ") && apart.contains("the same behind message 1"), "{apart}");
    }

    #[test]
    fn what_is_told_before_this_replica_is_there_counts_too() {
        let mut late = Agreement::default();
        assert!(note(&mut late, 1, 7, "a") && note(&mut late, 1, 8, "a"));
        assert!(late.note_own(1, "b".to_owned()).is_err());
        for place in 2..100 {
            assert!(note(&mut late, place, 7, "a"));
        }
        assert_eq!(late.places.len(), PLACES);
        assert!(late.note_own(3, "b".to_owned()).is_ok(), "nothing is known any more");
    }

    impl Agreement {
        /// Tries what a note would say.
        fn clone_note(&self, place: u64, publisher: u64, state: &str) -> Result<(), String> {
            let mut copy = Self { places: self.places.clone(), own: self.own.clone(), last: self.last };
            copy.note(place, publisher, state.to_owned())
        }
    }
}
