//! Filling an empty database with many records.

use std::thread;

use super::{Store, StoreError, layout};
use crate::id::Id;
use crate::model::{INDEXES, Index, Record, Term};

/// How many records' index entries are collected, and sorted, before they are written: 24 MiB for each index.
const PENDING_RECORDS: usize = 1 << 20;

/// The revision of every record that is loaded.
const FIRST_REVISION: u64 = 1;

/// A bulk load. Records go in as they come, in id order if they may choose; their index entries are collected, so that
/// each run is written once. Nothing is durable before [`Store::sync`].
pub struct Load {
    store: Store,
    pending: [Vec<(Term, Id)>; INDEXES],
    records: usize,
}

impl Load {
    /// Begins to load `store`.
    pub fn new(store: Store) -> Self {
        Self { store, pending: Default::default(), records: 0 }
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
        for record in &records {
            for (index, term) in record.terms.iter().flatten() {
                self.pending[usize::from(index.0) - 1].push((term.clone(), record.id));
            }
        }
        self.records += records.len();
        if self.records >= PENDING_RECORDS {
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
                for (key, part) in layout::parts(record.id, FIRST_REVISION, json) {
                    self.store.put(&key, layout::encode_part(part))?;
                }
            }
            entries.push(layout::Entry {
                slot: layout::place(record.id).1,
                revision: FIRST_REVISION,
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
        self.records = 0;
        let store = &self.store;
        thread::scope(|scope| {
            let write = |(number, entries)| scope.spawn(move || write_index(store, Index(number), entries));
            let writers: Vec<_> = (1..).zip(&mut self.pending).map(write).collect();
            writers.into_iter().try_for_each(|writer| writer.join().expect("a writer returns its errors"))
        })
    }
}

/// Lists `entries`, and forgets them.
fn write_index(store: &Store, index: Index, entries: &mut Vec<(Term, Id)>) -> Result<(), StoreError> {
    entries.sort_unstable();
    let fresh = store.is_unused(index)?;
    for group in entries.chunk_by(|a, b| a.0 == b.0) {
        let ids: Vec<Id> = group.iter().map(|entry| entry.1).collect();
        if fresh {
            store.list_first(index, &group[0].0, &ids)?;
        } else {
            store.list(index, &group[0].0, &ids)?;
        }
    }
    entries.clear();
    Ok(())
}
