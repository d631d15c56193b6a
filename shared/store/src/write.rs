//! The one place where records change.
//!
//! A [`Writer`] decides nothing: it makes what was decided one [`Step`] of records, indexes and counters, which a crash
//! leaves whole or absent: as one batch of sled's, or since the [journal](crate::commit::journal) has it.

use std::collections::BTreeMap;

use record::id::Id;
use record::model::{Index, Record, Records, Terms};

use super::layout::{self, Counters, Entry, Page, Step, TermKey};
use super::snapshot::Before;
use super::{Store, StoreError};

/// What becomes of one record.
#[derive(Clone, Copy, Debug)]
pub enum Change<'c> {
    /// It is there, and holds this, as this revision, which no record had before.
    Put(Record<'c>, u64),
    /// It is gone.
    Remove(Id),
}

impl Change<'_> {
    /// Whose change it is.
    pub fn id(&self) -> Id {
        match self {
            Change::Put(record, _) => record.id,
            Change::Remove(id) => *id,
        }
    }
}

/// Changes a database's records. There is one at a time.
pub struct Writer {
    store: Store,
    counters: Counters,
    /// The highest id that an index may list.
    listed_id: u64,
}

/// The terms of an index that gain or lose ids: `true` for an id that is listed from now on.
type IndexChanges = BTreeMap<(Index, TermKey), BTreeMap<Id, bool>>;

/// What changes of records mean.
struct Effects<'s> {
    step: &'s mut Step,
    indexes: IndexChanges,
    /// What they change, where somebody wants to read that all the same.
    before: Vec<Before>,
}

impl Writer {
    /// The writer of `store`.
    pub fn new(store: &Store) -> Result<Self, StoreError> {
        let mut counters = store.counters()?;
        // Whatever becomes of the counters, no id is given that a record has.
        counters.last_id = counters.last_id.max(store.last_id()?.map_or(0, Id::get));
        Ok(Self { store: store.clone(), counters, listed_id: counters.last_id })
    }

    /// A revision higher than every one before it in this database: no record ever has the same twice, not even after
    /// it was gone.
    pub fn next_revision(&mut self) -> u64 {
        self.counters.revision += 1;
        self.counters.revision
    }

    /// An id that no record of this database ever had; nothing where all are used up.
    pub fn next_id(&mut self) -> Option<Id> {
        let id = self.free_id()?;
        self.counters.last_id = id.get();
        Some(id)
    }

    /// The same, which is still to be given.
    pub(super) fn free_id(&self) -> Option<Id> {
        Id::try_from(self.counters.last_id.checked_add(1)?).ok()
    }

    /// The highest id that a record of this database ever had.
    pub fn last_id(&self) -> u64 {
        self.counters.last_id
    }

    /// What is counted.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Counts what the database holds as it was counted at `then`, since which it has changed nothing. Ids and revisions
    /// that were given since stay given.
    pub(super) fn take_back(&mut self, then: Counters) {
        self.counters.records = then.records;
    }

    /// Makes `changes`, at most one to an id. Nothing of them is durable before [`Store::sync`].
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut step = Step::default();
        self.step(changes, &mut step)?;
        self.store.apply(&step)
    }

    /// Adds to `step` what `changes` mean, and counts on. The next step is for the database that has made this one.
    pub(super) fn step(&mut self, changes: &[Change], step: &mut Step) -> Result<(), StoreError> {
        let mut changes: Vec<&Change> = changes.iter().collect();
        changes.sort_by_key(|change| change.id());
        let mut effects = Effects { step, indexes: IndexChanges::new(), before: Vec::new() };
        for page in changes.chunk_by(|a, b| layout::place(a.id()).0 == layout::place(b.id()).0) {
            self.change_page(page, &mut effects)?;
        }
        let Effects { step, indexes, before } = effects;
        self.store.shared.snapshots.keep(before);
        if let Some(Change::Put(record, _)) = changes.iter().rev().find(|change| matches!(change, Change::Put(..))) {
            self.counters.last_id = self.counters.last_id.max(record.id.get());
        }
        let (mut names, last_id) = (Vec::new(), self.listed_id);
        for ((index, term), ids) in &indexes {
            if *index == Index::IDS {
                names.extend(ids.iter().map(|(id, listed)| ((term.clone(), *id), *listed)));
                continue;
            }
            let ids: Vec<(Id, bool)> = ids.iter().map(|(id, listed)| (*id, *listed)).collect();
            self.store.relist(&layout::term_prefix(*index, term), &ids, |id| id.get() > last_id, step)?;
        }
        self.store.relist(&layout::NAMES, &names, |_| false, step)?;
        self.listed_id = self.counters.last_id;
        step.counters = self.counters;
        Ok(())
    }

    /// Adds to `effects` what `changes`, to records of one page, mean.
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
            effects.step.puts.push((key.into(), layout::encode_page(&key, entries.into_values())));
        }
        Ok(())
    }

    /// Adds to `effects` that the record of `entry`, which was read from `page`, is not there any more.
    fn take_out(&mut self, id: Id, page: &sled::IVec, entry: &Entry, effects: &mut Effects) -> Result<(), StoreError> {
        let key = layout::page_key(layout::place(id).0);
        let gone = || self.store.damaged(&key, &format!("a part of record {id} is gone"));
        let stored = self.store.stored(page, id, entry)?.ok_or_else(gone)?;
        for (index, term) in self.store.terms_of(id, stored.json())? {
            effects.indexes.entry((index, TermKey::of(&term))).or_default().insert(id, false);
        }
        if entry.json.is_none() {
            effects.step.removes.extend(layout::parts(id, entry.revision, stored.json()).map(|(key, _)| key));
        }
        self.counters.records.remove_record(id, entry.id_from_position, stored.json());
        if self.store.shared.snapshots.are_wanted() {
            effects.before.push(Before { id, stored });
        }
        Ok(())
    }

    /// Adds to `effects` that the record, of which `json` is the text, is there: its entry.
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
            effects.indexes.entry((*index, TermKey::of(term))).or_default().insert(id, true);
        }
        let (_, slot) = layout::place(id);
        Entry { slot, revision, id_from_position: record.id_from_position, json: (!apart).then_some(json) }
    }

    /// No id up to `last_id` is given to a new record.
    pub(super) fn give_no_id_up_to(&mut self, last_id: u64) {
        self.counters.last_id = self.counters.last_id.max(last_id);
    }
}

impl Store {
    /// What a stored record is found by.
    pub(super) fn terms_of(&self, id: Id, json: &[u8]) -> Result<Terms, StoreError> {
        let collection = self.made_by();
        let misfit = |what: String| self.corrupt(&format!("a record of {} is none: {what}", collection.name()));
        let json = std::str::from_utf8(json).map_err(|error| misfit(error.to_string()))?;
        let mut records = Records::new(collection, json.len());
        records.push_lying(json, id, false).map_err(|fault| misfit(fault.to_string()))?;
        let terms = records.iter().next().map(|record| record.terms.clone());
        Ok(terms.unwrap_or_default())
    }
}
