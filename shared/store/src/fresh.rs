//! The words of the newest records, for searches.
//!
//! A record has many words, and to list each in the database would take several times as long as the rest of a write. So the
//! words of records above the id in [`INDEXED_KEY`] are listed in memory only, and read from the records at a start. When
//! they become many, the committer lists them in the database, in one step with the new id: thousands of records share most
//! of their words. Changes to older records are listed in the database at once.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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
    ids: HashMap<Arc<str>, Vec<Id>>,
    /// Its keys, for searches by how a word begins.
    sorted: BTreeSet<Arc<str>>,
    entries: usize,
}

impl Words {
    fn list(&mut self, word: &str, id: Id) {
        let Some(ids) = self.ids.get_mut(word) else {
            let word: Arc<str> = word.into();
            self.ids.insert(Arc::clone(&word), vec![id]);
            self.sorted.insert(word);
            self.entries += 1;
            return;
        };
        // Mostly it is the newest record.
        let place = if ids.last() < Some(&id) { Err(ids.len()) } else { ids.binary_search(&id) };
        if let Err(place) = place {
            ids.insert(place, id);
            self.entries += 1;
        }
    }

    fn unlist(&mut self, word: &str, id: Id) {
        let Some(ids) = self.ids.get_mut(word) else { return };
        if let Ok(place) = ids.binary_search(&id) {
            ids.remove(place);
            self.entries -= 1;
        }
        if ids.is_empty() {
            self.ids.remove(word);
            self.sorted.remove(word);
        }
    }
}

/// Changes to the words of fresh records, in order.
#[derive(Default)]
pub(crate) struct WordChanges {
    /// All words, one behind the other.
    text: String,
    /// The end of each word, the record, and whether it is listed from now on.
    changes: Vec<(usize, Id, bool)>,
}

impl WordChanges {
    /// Lists the record `id` under `word` from now on, or no longer.
    pub(crate) fn push(&mut self, word: &str, id: Id, listed: bool) {
        self.text.push_str(word);
        self.changes.push((self.text.len(), id, listed));
    }

    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.changes.clear();
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
    pub(crate) fn change(&self, WordChanges { text, changes }: &WordChanges) {
        if changes.is_empty() {
            return;
        }
        let (mut words, mut begin) = (self.write(), 0);
        for (end, id, listed) in changes {
            let word = &text[begin..*end];
            if *listed {
                words.list(word, *id)
            } else {
                words.unlist(word, *id)
            }
            begin = *end;
        }
    }

    /// Returns the fresh records with `word`.
    pub(crate) fn ids(&self, word: &str) -> Vec<Id> {
        self.read().ids.get(word).cloned().unwrap_or_default()
    }

    /// Returns the words that begin with `begin`, at most `most`.
    pub(crate) fn words_from(&self, begin: &str, most: usize) -> Vec<Box<str>> {
        let words = self.read();
        let from = words.sorted.range::<str, _>((Bound::Included(begin), Bound::Unbounded));
        from.take_while(|word| word.starts_with(begin)).take(most).map(|word| Box::from(&**word)).collect()
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
                self.made_by().list_words(json, |word| words.list(word, id));
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
        let words = self.shared.fresh.read();
        for word in &words.sorted {
            let (prefix, ids) = (layout::prefix_of(Index::WORDS, &Term::from(&**word)), &words.ids[word]);
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
