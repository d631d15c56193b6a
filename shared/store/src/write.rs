//! The one place where records change.
//!
//! A [`Writer`] decides nothing. It turns decided changes into one [`Step`] of records, indexes and counters, which a
//! crash leaves whole or absent: because it is one batch of sled's, or because the [journal](crate::commit::journal)
//! has it.

use std::collections::BTreeMap;

use record::id::Id;
use record::model::{Index, Record, Records, Term, Terms};

use super::fresh::WordChanges;
use super::layout::{self, Counters, Entry, Name, Page, Step, TermKey};
use super::snapshot::Before;
use super::unlisted::Sweep;
use super::{Store, StoreError};

/// A change to one record.
#[derive(Clone, Copy, Debug)]
pub enum Change<'c> {
    /// The record's new text and revision; no record had this revision before.
    Put(Record<'c>, u64),
    /// The record is deleted.
    Remove(Id),
}

impl Change<'_> {
    /// Returns the id of the changed record.
    pub fn id(&self) -> Id {
        match self {
            Change::Put(record, _) => record.id,
            Change::Remove(id) => *id,
        }
    }
}

/// A writer of a database's records. A database has one at a time.
pub struct Writer {
    store: Store,
    counters: Counters,
    /// The highest id that an index may list.
    listed_id: u64,
    /// What keeps the newest text ids in memory.
    sweep: Sweep,
    /// The highest id whose words are listed in the database.
    indexed: u64,
    /// The words of fresh records that the last step lists or unlists.
    fresh: WordChanges,
}

/// The terms of an index that gain or lose ids: `true` means listed from now on.
type IndexChanges = BTreeMap<(Index, TermKey), BTreeMap<Id, bool>>;

/// The effects of changes to records.
struct Effects<'s> {
    step: &'s mut Step,
    indexes: IndexChanges,
    /// The text ids that records gain (`true`) or lose, in order.
    names: Vec<(Name, bool)>,
    /// The records before the change, if a snapshot is being read.
    before: Vec<Before>,
}

impl Writer {
    /// Creates the writer of `store`.
    pub fn new(store: &Store) -> Result<Self, StoreError> {
        let mut counters = store.counters()?;
        // The counters may be lost or old; still, no id is given that a record has.
        counters.last_id = counters.last_id.max(store.last_id()?.map_or(0, Id::get));
        let (store, listed_id, indexed) = (store.clone(), counters.last_id, store.indexed()?);
        let sweep = Sweep::new(&store, listed_id)?;
        Ok(Self { store, counters, listed_id, sweep, indexed, fresh: WordChanges::default() })
    }

    /// Returns a revision higher than every one before it in this database. No revision is used twice, not even after
    /// its record is deleted.
    pub fn next_revision(&mut self) -> u64 {
        self.counters.revision += 1;
        self.counters.revision
    }

    /// Takes an id that no record of this database ever had; returns `None` if all are used up.
    pub fn next_id(&mut self) -> Option<Id> {
        let id = self.free_id()?;
        self.counters.last_id = id.get();
        Some(id)
    }

    /// Returns the id that [`next_id`](Self::next_id) would take.
    pub(super) fn free_id(&self) -> Option<Id> {
        Id::try_from(self.counters.last_id.checked_add(1)?).ok()
    }

    /// Returns the highest id that a record of this database ever had.
    pub fn last_id(&self) -> u64 {
        self.counters.last_id
    }

    /// Returns the counters.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Restores the record set counted at `then`, since which the database has not changed. Ids and revisions given
    /// since stay used.
    pub(super) fn take_back(&mut self, then: Counters) {
        self.counters.records = then.records;
    }

    /// Restores the counters as they were `then`, since which the database has not changed. For writes that nobody has
    /// seen and that come again.
    pub(super) fn restore(&mut self, then: Counters) {
        self.counters = then;
    }

    /// Makes `changes`, at most one per id. They are durable only after [`Store::sync`].
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut step = Step::default();
        self.step(changes, &mut step)?;
        self.store.apply(&step)?;
        self.note_fresh();
        Ok(())
    }

    /// Notes the words and text ids of new records that the last step has changed.
    pub(super) fn note_fresh(&mut self) {
        self.sweep.apply(&self.store);
        self.store.shared.fresh.change(&self.fresh);
        self.fresh.clear();
    }

    /// Returns the step that lists the words of the fresh records in the database, if these are many.
    pub(super) fn fold(&self) -> Option<Step> {
        self.store.shared.fresh.are_many().then(|| {
            let mut step = Step { counters: self.counters, ..Step::default() };
            self.store.list_fresh(self.counters.last_id, &mut step);
            step
        })
    }

    /// Notes that the step of [`fold`](Self::fold) is applied.
    pub(super) fn note_folded(&mut self) {
        self.indexed = self.counters.last_id;
        self.store.forget_fresh();
    }

    /// Adds the effects of `changes` to `step` and updates the counters. The database must apply this step before the
    /// next is made.
    pub(super) fn step(&mut self, changes: &[Change], step: &mut Step) -> Result<(), StoreError> {
        let mut changes: Vec<&Change> = changes.iter().collect();
        changes.sort_by_key(|change| change.id());
        self.fresh.clear();
        self.sweep.forget();
        let mut effects = Effects { step, indexes: IndexChanges::new(), names: Vec::new(), before: Vec::new() };
        for page in changes.chunk_by(|a, b| layout::place(a.id()).0 == layout::place(b.id()).0) {
            self.change_page(page, &mut effects)?;
        }
        let Effects { step, indexes, names, before } = effects;
        self.store.shared.snapshots.keep(before);
        if let Some(Change::Put(record, _)) = changes.iter().rev().find(|change| matches!(change, Change::Put(..))) {
            self.counters.last_id = self.counters.last_id.max(record.id.get());
        }
        let last_id = self.listed_id;
        for ((index, term), ids) in &indexes {
            let ids: Vec<(Id, bool)> = ids.iter().map(|(id, listed)| (*id, *listed)).collect();
            self.store.relist(&layout::term_prefix(*index, term), &ids, |id| id.get() > last_id, step)?;
        }
        if self.store.made_by().has_text_ids() {
            self.change_names(&names, last_id, step)?;
        }
        self.listed_id = self.counters.last_id;
        step.counters = self.counters;
        Ok(())
    }

    /// Adds to `step` what these changes of names do to buckets. `last_id` is the highest id before the step.
    fn change_names(&mut self, names: &[(Name, bool)], last_id: u64, step: &mut Step) -> Result<(), StoreError> {
        let (records, puts) = (self.counters.records.count, step.puts.len());
        let of_buckets = self.sweep.step(&self.store, names, last_id, step);
        match self.store.change_names(&of_buckets, records, step) {
            Err(StoreError::Corrupt { .. }) if self.sweep.moves() => {
                self.sweep.stop(&self.store);
                step.puts.truncate(puts);
                let of_buckets = self.sweep.step(&self.store, names, last_id, step);
                self.store.change_names(&of_buckets, records, step)
            }
            changed => changed,
        }
    }

    /// Adds the effects of `changes`, all to one page, to `effects`.
    fn change_page(&mut self, changes: &[&Change], effects: &mut Effects) -> Result<(), StoreError> {
        let (page, _) = layout::place(changes[0].id());
        let key = layout::page_key(page);
        let there = self.store.unchecked(&key)?;
        let texts: Vec<_> = changes
            .iter()
            .map(|change| if let Change::Put(record, _) = change { record.json() } else { "".into() })
            .collect();
        let mut entries: BTreeMap<u8, Entry> = BTreeMap::new();
        if let Some(value) = &there {
            let damaged = |what: String| self.store.damaged(&key, &what);
            for entry in Page::read(&key, value).map_err(damaged)?.iter() {
                let entry = entry.map_err(damaged)?;
                entries.insert(entry.slot, entry);
            }
        }
        for (change, json) in changes.iter().zip(&texts) {
            let (_, slot) = layout::place(change.id());
            if let (Some(entry), Some(page)) = (entries.remove(&slot), &there) {
                self.take_out(change.id(), page, &entry, effects)?;
            }
            if let Change::Put(record, revision) = change {
                entries.insert(slot, self.put_in(record, *revision, json, effects));
            }
        }
        if entries.is_empty() {
            effects.step.removes.push(key.into());
        } else {
            let entries: Vec<Entry> = entries.into_values().collect();
            effects.step.puts.push((key.into(), layout::encode_page(&key, &entries)));
        }
        Ok(())
    }

    /// Removes the record of `entry`, read from `page`.
    fn take_out(&mut self, id: Id, page: &sled::IVec, entry: &Entry, effects: &mut Effects) -> Result<(), StoreError> {
        let key = layout::page_key(layout::place(id).0);
        let gone = || self.store.damaged(&key, &format!("a part of record {id} is gone"));
        let stored = self.store.stored(page, id, entry)?.ok_or_else(gone)?;
        for (index, term) in self.store.terms_of(id, stored.json())? {
            self.relist(id, index, &term, false, effects);
        }
        self.relist_words(id, stored.json(), false, effects);
        if entry.json.is_none() {
            effects.step.removes.extend(layout::parts(id, entry.revision, stored.json()).map(|(key, _)| key));
        }
        self.counters.records.remove_record(id, entry.id_from_position, stored.json());
        if self.store.shared.snapshots.are_wanted() {
            effects.before.push(Before { id, stored });
        }
        Ok(())
    }

    /// Adds the record with the text `json`; returns its entry.
    fn put_in<'j>(&mut self, record: &Record, revision: u64, json: &'j str, effects: &mut Effects) -> Entry<'j> {
        let (id, json) = (record.id, json.as_bytes());
        let apart = layout::lies_apart(json);
        if apart {
            for (key, part) in layout::parts(id, revision, json) {
                effects.step.put(key, part);
            }
        }
        self.counters.records.add_record(id, record.id_from_position, json);
        for (index, term) in record.terms.iter() {
            self.relist(id, *index, term, true, effects);
        }
        self.relist_words(id, json, true, effects);
        let (_, slot) = layout::place(id);
        Entry { slot, revision, id_from_position: record.id_from_position, json: (!apart).then_some(json) }
    }

    /// Lists the words of the record with the text `json` from now on, or no longer.
    fn relist_words(&mut self, id: Id, json: &[u8], listed: bool, effects: &mut Effects) {
        let (json, collection) = (std::str::from_utf8(json).unwrap_or_default(), self.store.made_by());
        if id.get() > self.indexed {
            collection.list_words(json, |word| self.fresh.push(word, id, listed));
            return;
        }
        for word in collection.listed_words(json) {
            self.relist(id, Index::WORDS, &Term::Text(word), listed, effects);
        }
    }

    /// Lists `id` under `term` from now on, or no longer.
    fn relist(&self, id: Id, index: Index, term: &Term, listed: bool, effects: &mut Effects) {
        match (index, term) {
            (Index::IDS, Term::Text(text)) => {
                let name = (self.store.hash_of(text), id);
                // A record that changes keeps its text id.
                match effects.names.pop_if(|last| listed && *last == (name, false)) {
                    Some(_) => {}
                    None => effects.names.push((name, listed)),
                }
            }
            _ => drop(effects.indexes.entry((index, TermKey::of(term))).or_default().insert(id, listed)),
        }
    }

    /// Marks all ids up to `last_id` as used.
    pub(super) fn give_no_id_up_to(&mut self, last_id: u64) {
        self.counters.last_id = self.counters.last_id.max(last_id);
    }
}

impl Store {
    /// Returns the index terms of a stored record.
    pub(super) fn terms_of(&self, id: Id, json: &[u8]) -> Result<Terms, StoreError> {
        let collection = self.made_by();
        let misfit = |what: String| self.corrupt(&format!("a record is not one of {}: {what}", collection.name()));
        let json = std::str::from_utf8(json).map_err(|error| misfit(error.to_string()))?;
        let mut records = Records::new(collection, json.len());
        records.push_lying(json, id, false).map_err(|fault| misfit(fault.to_string()))?;
        let terms = records.iter().next().map(|record| record.terms.clone());
        Ok(terms.unwrap_or_default())
    }
}
