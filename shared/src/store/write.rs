//! The one place where records change.
//!
//! A [`Writer`] decides nothing: it makes what was decided one atomic step. Record, indexes and counters are one batch on
//! sled's one tree, which a crash leaves whole or absent. Nothing is durable before [`Store::sync`].

use std::collections::BTreeMap;

use super::layout::{self, Counters, Entry};
use super::{Store, StoreError};
use crate::id::Id;
use crate::model::{Index, Record, Records, Term, Terms};

/// What becomes of one record.
#[derive(Clone, Copy, Debug)]
pub enum Change<'c> {
    /// It is there, and holds this, as this revision.
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
}

/// The terms of an index that gain or lose ids: `true` for an id that is listed from now on.
type IndexChanges = BTreeMap<(Index, Term), BTreeMap<Id, bool>>;

impl Writer {
    /// The writer of `store`.
    pub fn new(store: &Store) -> Result<Self, StoreError> {
        let counters = match store.value(layout::COUNTERS_KEY)? {
            Some(value) => layout::decode_counters(&value).map_err(|what| store.corrupt(&what))?,
            // As the split left it.
            None => Counters { revision: 1, last_id: store.last_id()?.map_or(0, Id::get) },
        };
        Ok(Self { store: store.clone(), counters })
    }

    /// A revision higher than every one before it in this database: no record ever has the same twice, not even after
    /// it was gone.
    pub fn next_revision(&mut self) -> u64 {
        self.counters.revision += 1;
        self.counters.revision
    }

    /// An id that no record of this database ever had; nothing where all are used up.
    pub fn next_id(&mut self) -> Option<Id> {
        let id = Id::try_from(self.counters.last_id.checked_add(1)?).ok()?;
        self.counters.last_id = id.get();
        Some(id)
    }

    /// The highest id that a record of this database ever had.
    pub fn last_id(&self) -> u64 {
        self.counters.last_id
    }

    /// Makes `changes`, at most one to an id, all or none of them.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.apply_with(changes, sled::Batch::default())
    }

    /// The same, in one step with what is in `batch` already.
    pub(super) fn apply_with(&mut self, changes: &[Change], mut batch: sled::Batch) -> Result<(), StoreError> {
        let mut changes: Vec<&Change> = changes.iter().collect();
        changes.sort_by_key(|change| change.id());
        let mut indexes = IndexChanges::new();
        for page in changes.chunk_by(|a, b| layout::place(a.id()).0 == layout::place(b.id()).0) {
            self.change_page(page, &mut batch, &mut indexes)?;
        }
        if let Some(Change::Put(record, _)) = changes.iter().rev().find(|change| matches!(change, Change::Put(..))) {
            self.counters.last_id = self.counters.last_id.max(record.id.get());
        }
        for ((index, term), ids) in &indexes {
            let ids: Vec<(Id, bool)> = ids.iter().map(|(id, listed)| (*id, *listed)).collect();
            self.store.relist(*index, term, &ids, &mut |key, value| {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
                Ok(())
            })?;
        }
        batch.insert(layout::COUNTERS_KEY, layout::encode_counters(self.counters));
        self.store.db.apply_batch(batch).map_err(|source| self.store.sled(source))
    }

    /// Adds to `batch` and `indexes` what `changes`, to records of one page, mean.
    fn change_page(
        &self,
        changes: &[&Change],
        batch: &mut sled::Batch,
        indexes: &mut IndexChanges,
    ) -> Result<(), StoreError> {
        let (page, _) = layout::place(changes[0].id());
        let key = layout::page_key(page);
        let before = self.store.value(&key)?;
        let texts: Vec<_> = changes
            .iter()
            .map(|change| if let Change::Put(record, _) = change { record.json() } else { "".into() })
            .collect();
        let mut entries: BTreeMap<u8, Entry> = BTreeMap::new();
        for entry in before.iter().flat_map(|value| layout::decode_page(value)) {
            let entry = entry.map_err(|what| self.store.corrupt(&what))?;
            entries.insert(entry.slot, entry);
        }
        for (change, json) in changes.iter().zip(&texts) {
            let id = change.id();
            let (_, slot) = layout::place(id);
            if let (Some(entry), Some(page)) = (entries.remove(&slot), &before) {
                let stored = self.store.stored(page, id, &entry)?;
                for (index, term) in self.terms(stored.json())?.into_iter().flatten() {
                    indexes.entry((index, term)).or_default().insert(id, false);
                }
                if entry.json.is_empty() {
                    batch.remove(&layout::apart_key(id));
                }
            }
            if let Change::Put(record, revision) = change {
                let apart = layout::lies_apart(json.as_bytes());
                if apart {
                    batch.insert(&layout::apart_key(id), layout::encode_apart(json.as_bytes()));
                }
                let json = if apart { b"" } else { json.as_bytes() };
                entries
                    .insert(slot, Entry { slot, revision: *revision, id_from_position: record.id_from_position, json });
                for (index, term) in record.terms.iter().flatten() {
                    indexes.entry((*index, term.clone())).or_default().insert(id, true);
                }
            }
        }
        if entries.is_empty() {
            batch.remove(&key);
        } else {
            batch.insert(&key, layout::encode_page(entries.into_values()));
        }
        Ok(())
    }

    /// What a stored record is found by.
    fn terms(&self, json: &[u8]) -> Result<Terms, StoreError> {
        let collection = self.store.collection();
        let misfit = |what: String| self.store.corrupt(&format!("a record of {} is none: {what}", collection.name()));
        let json = std::str::from_utf8(json).map_err(|error| misfit(error.to_string()))?;
        let mut records = Records::new(collection, json.len());
        records.push(json, None).map_err(|fault| misfit(fault.to_string()))?;
        let terms = records.iter().next().map(|record| record.terms.clone());
        Ok(terms.unwrap_or_default())
    }
}
