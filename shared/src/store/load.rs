//! Filling an empty database with many records.

use std::borrow::Cow;
use std::thread;

use super::layout::{Counters, Page};
use super::{Store, StoreError, layout};
use crate::id::Id;
use crate::model::{INDEXES, Index, Record, Term, Terms};
use crate::record_set::RecordSet;

/// How many records' index entries are collected, and sorted, before they are written: 24 MiB for each index.
const PENDING_RECORDS: usize = 1 << 20;

/// The revision of every record that is loaded.
pub(super) const FIRST_REVISION: u64 = 1;

/// A record on its way into a database.
pub(super) struct Loaded<'r> {
    pub(super) id: Id,
    pub(super) revision: u64,
    pub(super) id_from_position: bool,
    pub(super) json: Cow<'r, str>,
    pub(super) terms: &'r Terms,
}

/// A bulk load. Records go in as they come, in id order if they may choose; their index entries are collected, so that
/// each run is written once. Nothing is durable before [`Store::sync`].
pub struct Load {
    store: Store,
    pending: [Vec<(Term, Id)>; INDEXES],
    records: usize,
    counters: Counters,
}

impl Load {
    /// Begins to load `store`.
    pub fn new(store: Store) -> Self {
        let counters = Counters { revision: FIRST_REVISION, ..Counters::default() };
        Self { store, pending: Default::default(), records: 0, counters }
    }

    /// Adds records, which are `set`. Returns an id that is taken, if there is one: the database is then of no use.
    pub fn put<'r>(
        &mut self,
        records: impl IntoIterator<Item = Record<'r>>,
        set: &RecordSet,
    ) -> Result<Option<Id>, StoreError> {
        let loaded = |record: Record<'r>| Loaded {
            id: record.id,
            revision: FIRST_REVISION,
            id_from_position: record.id_from_position,
            json: record.json(),
            terms: record.terms,
        };
        self.put_loaded(records.into_iter().map(loaded).collect(), set)
    }

    /// Adds records with their revisions.
    pub(super) fn put_loaded(&mut self, mut records: Vec<Loaded>, set: &RecordSet) -> Result<Option<Id>, StoreError> {
        // Most files are in id order, and then this costs nothing.
        records.sort_by_key(|record| record.id);
        for page in records.chunk_by(|a, b| layout::place(a.id).0 == layout::place(b.id).0) {
            if let Some(taken) = self.put_page(page)? {
                return Ok(Some(taken));
            }
        }
        for record in &records {
            self.count_up_to(Counters { revision: record.revision, last_id: record.id.get(), ..Counters::default() });
            for (index, term) in record.terms.iter().flatten() {
                self.pending[usize::from(index.0) - 1].push((term.clone(), record.id));
            }
        }
        self.counters.records.merge(set);
        self.records += records.len();
        if self.records >= PENDING_RECORDS {
            self.write_pending()?;
        }
        Ok(None)
    }

    /// No id up to `last_id` is given to a new record.
    pub fn give_no_id_up_to(&mut self, last_id: u64) {
        self.count_up_to(Counters { last_id, ..Counters::default() });
    }

    /// Sees to it that the counters are no lower than these, which a record of the database may have had.
    pub(super) fn count_up_to(&mut self, counters: Counters) {
        self.counters.revision = self.counters.revision.max(counters.revision);
        self.counters.last_id = self.counters.last_id.max(counters.last_id);
    }

    /// Adds records of one page, in id order.
    fn put_page(&mut self, records: &[Loaded]) -> Result<Option<Id>, StoreError> {
        let (page, _) = layout::place(records[0].id);
        let key = layout::page_key(page);
        let there = self.store.unchecked(&key)?;
        let mut entries = Vec::with_capacity(records.len());
        if let Some(value) = &there {
            let damaged = |what: String| self.store.damaged(&key, &what);
            for entry in Page::read(&key, value).map_err(damaged)?.iter() {
                entries.push(entry.map_err(damaged)?);
            }
        }
        for record in records {
            let json = record.json.as_bytes();
            let apart = layout::lies_apart(json);
            if apart {
                for (key, part) in layout::parts(record.id, record.revision, json) {
                    self.store.put(&key, part)?;
                }
            }
            entries.push(layout::Entry {
                slot: layout::place(record.id).1,
                revision: record.revision,
                id_from_position: record.id_from_position,
                json: (!apart).then_some(json),
            });
        }
        entries.sort_by_key(|entry| entry.slot);
        if let Some(twice) = entries.windows(2).find(|pair| pair[0].slot == pair[1].slot) {
            return Ok(layout::id_at(page, twice[0].slot));
        }
        // A plain insert: sled's batches hold far more memory and are no faster.
        self.store.put_value(&key, layout::encode_page(&key, entries))?;
        Ok(None)
    }

    /// Writes the rest of the indexes, and the counters.
    pub fn finish(mut self) -> Result<Store, StoreError> {
        self.write_pending()?;
        self.store.put_counters(self.counters)?;
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
