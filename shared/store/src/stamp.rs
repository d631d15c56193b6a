//! Stamps: they tell whether what was read from the database is still current.
//!
//! A reader takes the stamp of a key before it reads the key. A step marks the stamps of its keys before it changes the
//! first of them, and renews them after the last. So what was read under a current stamp is what a new read would find.
//! Keys share stamps by their hash: a change may make more reads look old than it must, never fewer.

use std::sync::atomic::{AtomicU64, Ordering};

use record::model::{Index, Term};

use super::layout::{self, Step};
use super::{Store, StoreError};

/// The number of stamps. A group of writes renews some 200 of them.
const STAMPS: usize = 1 << 15;

/// The stamp of a key at the moment it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    slot: u16,
    count: u64,
}

impl Stamp {
    /// The stamp of what was read without one. It is never current.
    pub(super) const NONE: Self = Self { slot: 0, count: CHANGING };
}

/// The part that every step changes.
const ALL: &[u8] = layout::COUNTERS_KEY;

/// The bit of a count that is set while a step changes a key.
const CHANGING: u64 = 1;

/// All stamps of a database: for each, how often it was marked and renewed.
pub(super) struct Stamps(Box<[AtomicU64]>);

impl Default for Stamps {
    fn default() -> Self {
        Self((0..STAMPS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Stamps {
    fn take(&self, key: &[u8]) -> Stamp {
        let slot = slot_of(key);
        Stamp { slot, count: self.0[usize::from(slot)].load(Ordering::Acquire) }
    }

    /// Runs `apply`, which makes the step's changes. Only one step is applied at a time.
    pub(super) fn change(&self, step: &Step, apply: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let keys = step.puts.iter().map(|(key, _)| key).chain(&step.removes);
        let parts = keys.filter_map(|key| stamped_part(key)).chain([ALL]);
        let changed: Vec<&AtomicU64> = parts.map(|key| &self.0[usize::from(slot_of(key))]).collect();
        for stamp in &changed {
            stamp.fetch_or(CHANGING, Ordering::AcqRel);
        }
        let applied = apply();
        // After an error, too: a part may have been changed.
        for stamp in &changed {
            if stamp.load(Ordering::Acquire) & CHANGING != 0 {
                stamp.fetch_add(1, Ordering::AcqRel);
            }
        }
        applied
    }
}

fn slot_of(key: &[u8]) -> u16 {
    (crc32c::crc32c(key) as usize % STAMPS) as u16
}

/// Returns the part of a key that has a stamp: a page's key; of a run's key, index and term, since a run may get
/// another key. A record's page changes with its other parts.
fn stamped_part(key: &[u8]) -> Option<&[u8]> {
    match *key.first()? {
        layout::PAGE => Some(key),
        layout::INDEX => key.get(..key.len().checked_sub(size_of::<u64>())?),
        _ => None,
    }
}

impl Store {
    /// Takes the stamp of the list of ids under `term` of `index`.
    pub fn stamp_of(&self, index: Index, term: &Term) -> Stamp {
        self.shared.stamps.take(&layout::prefix_of(index, term))
    }

    /// Takes the stamp of the whole database.
    pub(super) fn stamp_of_all(&self) -> Stamp {
        self.shared.stamps.take(ALL)
    }

    /// Takes the stamp of a page of records.
    pub(super) fn stamp_of_page(&self, page: u64) -> Stamp {
        self.shared.stamps.take(&layout::page_key(page))
    }

    /// Returns whether nothing that was read under `stamp` has changed since.
    pub fn is_current(&self, stamp: Stamp) -> bool {
        stamp.count & CHANGING == 0
            && self.shared.stamps.0[usize::from(stamp.slot)].load(Ordering::Acquire) == stamp.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(keys: &[&[u8]]) -> Step {
        let mut step = Step::default();
        keys.iter().for_each(|key| step.put(*key, b""));
        step
    }

    #[test]
    fn a_stamp_is_old_from_the_first_change_of_its_step_on() {
        let stamps = Stamps::default();
        let current = |stamp: Stamp| stamp.count & CHANGING == 0 && stamps.take(b"\x01page") == stamp;
        let before = stamps.take(b"\x01page");
        assert!(current(before));
        let mut during = before;
        // Twice the same key, as pieces of one run have.
        let changed = step(&[b"\x01page", b"\x01page"]);
        let applied = stamps.change(&changed, || {
            during = stamps.take(b"\x01page");
            assert!(!current(before) && !current(during));
            Ok(())
        });
        assert!(applied.is_ok());
        assert!(!current(before) && !current(during));
        assert!(current(stamps.take(b"\x01page")));
    }

    #[test]
    fn a_failed_step_makes_stamps_old() {
        let stamps = Stamps::default();
        let before = stamps.take(b"\x01page");
        let failed = stamps.change(&step(&[b"\x01page"]), || Err(StoreError::NoRoom("".into())));
        assert!(failed.is_err());
        assert_ne!(stamps.take(b"\x01page"), before);
    }

    #[test]
    fn a_run_has_the_stamp_of_its_term() {
        let term = Term::Id(7.try_into().expect("7 is an id"));
        let prefix = layout::prefix_of(Index(1), &term);
        for first in [1, 300, u64::MAX] {
            assert_eq!(stamped_part(&layout::run_key(&prefix, first)), Some(&prefix[..]));
        }
        assert_eq!(stamped_part(layout::COUNTERS_KEY), None);
    }
}
