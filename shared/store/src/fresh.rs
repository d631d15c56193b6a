//! The words of the newest records, for searches.
//!
//! A record has many words, and to list each in the database would take several times as long as the rest of a write. So the
//! words of records above the id in [`INDEXED_KEY`] are listed in memory only, and read from the records at a start. When
//! they become many, the committer lists them in the database, in one step with the new id: thousands of records share most
//! of their words. Changes to older records are listed in the database at once.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use record::id::Id;
use record::model::{Index, Term};

use super::layout::{self, INDEXED_KEY, Step};
use super::{Store, StoreError};

/// The number of words of all fresh records at which they are listed in the database.
const ENTRIES: usize = if cfg!(test) { 60 } else { 64 << 10 };

/// The words of fresh records, each with the records' ids, ascending.
#[derive(Default)]
pub(crate) struct Fresh(RwLock<Words>);

#[derive(Default)]
struct Words {
    ids: BTreeMap<Box<str>, Vec<Id>>,
    entries: usize,
}

impl Words {
    fn list(&mut self, word: &str, id: Id, listed: bool) {
        let Some(ids) = self.ids.get_mut(word) else {
            if listed {
                self.ids.insert(word.into(), vec![id]);
                self.entries += 1;
            }
            return;
        };
        match (ids.binary_search(&id), listed) {
            (Err(place), true) => {
                ids.insert(place, id);
                self.entries += 1;
            }
            (Ok(place), false) => {
                ids.remove(place);
                self.entries -= 1;
                if ids.is_empty() {
                    self.ids.remove(word);
                }
            }
            _ => {}
        }
    }
}

impl Fresh {
    fn read(&self) -> RwLockReadGuard<'_, Words> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Words> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists or unlists words of fresh records.
    pub(crate) fn change(&self, changes: &[(Box<str>, Id, bool)]) {
        if !changes.is_empty() {
            let mut words = self.write();
            changes.iter().for_each(|(word, id, listed)| words.list(word, *id, *listed));
        }
    }

    /// Returns the fresh records with `word`.
    pub(crate) fn ids(&self, word: &str) -> Vec<Id> {
        self.read().ids.get(word).cloned().unwrap_or_default()
    }

    /// Returns the words that begin with `begin`, at most `most`.
    pub(crate) fn words_from(&self, begin: &str, most: usize) -> Vec<Box<str>> {
        let words = self.read();
        let from = words.ids.range::<str, _>((std::ops::Bound::Included(begin), std::ops::Bound::Unbounded));
        from.map(|(word, _)| word).take_while(|word| word.starts_with(begin)).take(most).cloned().collect()
    }

    /// Returns whether there are so many that they are to be listed in the database.
    pub(crate) fn are_many(&self) -> bool {
        self.read().entries >= ENTRIES
    }
}

impl Store {
    /// Returns the highest id whose words are listed in the database.
    pub(super) fn indexed(&self) -> Result<u64, StoreError> {
        Ok(self.decoded(INDEXED_KEY)?.unwrap_or_default())
    }

    /// Notes that the words of all records are listed in the database.
    pub(super) fn note_all_indexed(&self) -> Result<(), StoreError> {
        self.put(INDEXED_KEY, &layout::encode(self.counters()?.last_id))?;
        *self.shared.fresh.write() = Words::default();
        Ok(())
    }

    /// Reads the words of the fresh records.
    pub(super) fn read_fresh(&self) -> Result<(), StoreError> {
        if !self.made_by().is_searchable() {
            return Ok(());
        }
        let mut words = Words::default();
        let Some(first) = self.indexed()?.checked_add(1).and_then(|id| Id::try_from(id).ok()) else { return Ok(()) };
        let mut read = |id: Result<(Id, u64), StoreError>| {
            let (id, _) = id?;
            if let Some(stored) = self.get(id)? {
                let json = std::str::from_utf8(stored.json()).unwrap_or_default();
                self.made_by().listed_words(json).iter().for_each(|word| words.list(word, id, true));
            }
            Ok(())
        };
        for id in self.revisions(first) {
            match read(id) {
                // What is damaged is not found, and fails its own requests.
                Err(StoreError::Corrupt { what, .. }) => {
                    log::error!("{}: not searched, since it is damaged: {what}", self.path().display());
                }
                read => read?,
            }
        }
        *self.shared.fresh.write() = words;
        Ok(())
    }

    /// Adds to `step` what lists the words of all fresh records in the database.
    pub(super) fn list_fresh(&self, last_id: u64, step: &mut Step) {
        for (word, ids) in &self.shared.fresh.read().ids {
            let prefix = layout::prefix_of(Index::WORDS, &Term::Text(word.clone()));
            // All other runs of the word end below these ids.
            for run in ids.chunks(layout::RUN_IDS) {
                step.put(layout::run_key(&prefix, run[0].get()), &layout::encode_run(run));
            }
        }
        step.put(INDEXED_KEY, &layout::encode(last_id));
    }

    /// Forgets the fresh records: the database lists them.
    pub(super) fn forget_fresh(&self) {
        *self.shared.fresh.write() = Words::default();
    }
}
