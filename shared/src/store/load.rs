//! Filling an empty database with many records.

use super::{Store, StoreError};
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

    /// Adds a record. `false` says that its id is taken: the database is then of no use.
    pub fn put(&mut self, record: Record) -> Result<bool, StoreError> {
        // A plain insert: sled's batches hold far more memory and are no faster.
        if !self.store.insert(&record)? {
            return Ok(false);
        }
        self.pending.extend(record.terms.into_iter().map(|(index, term)| (index, term, record.id)));
        if self.pending.len() >= PENDING_ENTRIES {
            self.write_pending()?;
        }
        Ok(true)
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
