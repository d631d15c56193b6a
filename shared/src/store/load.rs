//! Filling an empty database with many records.

use super::{Store, StoreError, layout};
use crate::id::Id;
use crate::model::{Index, Record, Term};

/// How many index entries are collected, and sorted, before they are written: 64 MiB of them.
const PENDING_ENTRIES: usize = 2 << 20;

/// A bulk load. Records go in as they come, in id order if they may choose; their index entries are collected, so that
/// each run is written once. Nothing is durable before [`Store::sync`].
pub struct Load {
    store: Store,
    pending: Vec<(Index, Term, Id)>,
}

impl Load {
    /// Begins to load `store`.
    pub fn new(store: Store) -> Self {
        Self { store, pending: Vec::new() }
    }

    /// Adds records. Returns an id that is taken, if there is one: the database is then of no use.
    pub fn put<'r>(&mut self, records: impl IntoIterator<Item = Record<'r>>) -> Result<Option<Id>, StoreError> {
        let mut records: Vec<Record> = records.into_iter().collect();
        // Most files are in id order, and then this costs nothing.
        records.sort_by_key(|record| record.id);
        for page in records.chunk_by(|a, b| layout::place(a.id).0 == layout::place(b.id).0) {
            if let Some(taken) = self.put_page(page)? {
                return Ok(Some(taken));
            }
        }
        for record in records {
            self.pending.extend(record.terms.iter().flatten().map(|(index, term)| (*index, term.clone(), record.id)));
        }
        if self.pending.len() >= PENDING_ENTRIES {
            self.write_pending()?;
        }
        Ok(None)
    }

    /// Adds records of one page, in id order.
    fn put_page(&mut self, records: &[Record]) -> Result<Option<Id>, StoreError> {
        let (page, _) = layout::place(records[0].id);
        let key = layout::page_key(page);
        let there = self.store.value(&key)?;
        let texts: Vec<_> = records.iter().map(Record::json).collect();
        let mut entries = Vec::with_capacity(records.len());
        for entry in there.iter().flat_map(|value| layout::decode_page(value)) {
            entries.push(entry.map_err(|what| self.store.corrupt(&what))?);
        }
        for (record, json) in records.iter().zip(&texts) {
            let json = json.as_bytes();
            let apart = layout::lies_apart(json);
            if apart {
                self.store.put(&layout::apart_key(record.id), layout::encode_apart(json))?;
            }
            entries.push(layout::Entry {
                slot: layout::place(record.id).1,
                revision: 1,
                id_from_position: record.id_from_position,
                json: if apart { b"" } else { json },
            });
        }
        entries.sort_by_key(|entry| entry.slot);
        if let Some(twice) = entries.windows(2).find(|pair| pair[0].slot == pair[1].slot) {
            return Ok(layout::id_at(page, twice[0].slot));
        }
        // A plain insert: sled's batches hold far more memory and are no faster.
        self.store.put(&key, layout::encode_page(entries))?;
        Ok(None)
    }

    /// Writes the rest of the indexes.
    pub fn finish(mut self) -> Result<Store, StoreError> {
        self.write_pending()?;
        Ok(self.store)
    }

    fn write_pending(&mut self) -> Result<(), StoreError> {
        self.pending.sort_unstable();
        for group in self.pending.chunk_by(|a, b| (a.0, &a.1) == (b.0, &b.1)) {
            let ids: Vec<Id> = group.iter().map(|entry| entry.2).collect();
            self.store.list(group[0].0, &group[0].1, &ids)?;
        }
        self.pending.clear();
        Ok(())
    }
}
