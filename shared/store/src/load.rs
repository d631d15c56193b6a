//! A bulk load: many records into an empty database.

use std::borrow::Cow;
use std::thread;

use record::id::Id;
use record::model::{Index, Records, Term, Terms};
use record::record_set::RecordSet;

use super::layout::{Counters, Page, TermKey};
use super::sorter::Sorter;
use super::{Store, StoreError, at, layout};

/// The revision of every loaded record.
pub(super) const FIRST_REVISION: u64 = 1;

/// The values that a leaf of sled keeps when it is halved: one of 17 is, and the later ones go into a new leaf.
const LEAF: usize = 9;

/// A record to load.
pub(super) struct Loaded<'r> {
    pub(super) id: Id,
    pub(super) revision: u64,
    pub(super) id_from_position: bool,
    pub(super) json: Cow<'r, str>,
    pub(super) terms: &'r Terms,
}

/// A page to write.
struct NewPage {
    key: [u8; 9],
    value: Vec<u8>,
    /// Whether the database has no value under the key.
    is_fresh: bool,
}

/// A bulk load. Records may come in any order; id order is fastest. Their index entries are collected and sorted, so
/// that each run is written once. Nothing is durable before [`Store::sync`].
pub struct Load {
    store: Store,
    pending: Vec<(Index, Sorter)>,
    counters: Counters,
}

impl Load {
    /// Begins to load `store`.
    pub fn new(store: Store) -> Self {
        let counters = Counters { revision: FIRST_REVISION, ..Counters::default() };
        let pending = store.made_by().index_numbers().map(|index| (index, Sorter::default())).collect();
        Self { store, pending, counters }
    }

    /// Adds records, whose set is `set`. Returns an id that is taken, if there is one: the database is then useless.
    pub fn put<'r>(
        &mut self,
        records: impl IntoIterator<Item = &'r Records> + Clone,
        set: &RecordSet,
    ) -> Result<Option<Id>, StoreError> {
        let mut loaded = Vec::with_capacity(records.clone().into_iter().map(Records::len).sum());
        loaded.extend(records.into_iter().flat_map(Records::iter).map(|record| Loaded {
            id: record.id,
            revision: FIRST_REVISION,
            id_from_position: record.id_from_position,
            json: record.json(),
            terms: record.terms,
        }));
        self.put_loaded(loaded, set)
    }

    /// Adds records with their revisions, as [`put`](Self::put) does.
    pub(super) fn put_loaded(&mut self, mut records: Vec<Loaded>, set: &RecordSet) -> Result<Option<Id>, StoreError> {
        // Most files are in id order; then this costs nothing.
        records.sort_by_key(|record| record.id);
        let mut pages = Vec::new();
        for page in records.chunk_by(|a, b| layout::place(a.id).0 == layout::place(b.id).0) {
            if let Some(taken) = self.encode_page(page, &mut pages)? {
                return Ok(Some(taken));
            }
        }
        write_pages(&self.store, pages)?;
        // The sorted files lie beside the database, on a disk that must have room for its index entries anyway.
        let folder = self.store.path().parent().expect("a database has a name").to_owned();
        for record in &records {
            self.count_up_to(Counters { revision: record.revision, last_id: record.id.get(), ..Counters::default() });
            for (index, term) in record.terms.iter() {
                let pending = self.pending.iter_mut().find(|(of, _)| of == index);
                let (_, pending) = pending.expect("a term is of a declared index");
                let pushed = match (*index, term) {
                    (Index::IDS, Term::Text(text)) => pending.push_head(self.store.hash_of(text), record.id, &folder),
                    _ => pending.push(term, record.id, &folder),
                };
                pushed.map_err(|error| at(&folder)(error))?;
            }
        }
        self.counters.records.merge(set);
        Ok(None)
    }

    /// Marks all ids up to `last_id` as used.
    pub fn give_no_id_up_to(&mut self, last_id: u64) {
        self.count_up_to(Counters { last_id, ..Counters::default() });
    }

    /// Raises the counters to at least these, which a record of the database may have had.
    pub(super) fn count_up_to(&mut self, counters: Counters) {
        self.counters.revision = self.counters.revision.max(counters.revision);
        self.counters.last_id = self.counters.last_id.max(counters.last_id);
    }

    /// Adds records of one page, in id order, to it, and the page to `pages`. Returns an id that is taken, if there is
    /// one.
    fn encode_page(&self, records: &[Loaded], pages: &mut Vec<NewPage>) -> Result<Option<Id>, StoreError> {
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
        pages.push(NewPage { key, value: layout::encode_page(&key, &entries), is_fresh: there.is_none() });
        Ok(None)
    }

    /// Writes the indexes and the counters.
    pub fn finish(self) -> Result<Store, StoreError> {
        let (store, records) = (&self.store, self.counters.records.count);
        thread::scope(|scope| {
            let write = |(index, entries)| {
                scope.spawn(move || match index {
                    Index::IDS => store.count_buckets(store.write_names(records, entries)?),
                    index => write_index(store, index, entries, |_| Ok(())),
                })
            };
            let writers: Vec<_> = self.pending.into_iter().map(write).collect();
            writers.into_iter().try_for_each(|writer| writer.join().expect("a writer returns its errors"))
        })?;
        self.store.put_counters(self.counters)?;
        if records > 0 {
            // A split is fast, and needs no words: the service lists them at its first start.
            store.note_without_words()?;
        }
        Ok(self.store)
    }
}

/// Writes pages in key order.
///
/// sled writes both halves of a leaf anew when it halves it, so that each value would be written three times. So the new
/// keys come first, with empty values: leaves are halved while they are small, and a page comes into a leaf that stays. sled
/// also writes a leaf anew, as one piece, at its tenth change since the last time; a leaf in one piece is read fastest. One
/// more change of each [`LEAF`]th key makes the last page of a leaf the tenth.
fn write_pages(store: &Store, pages: Vec<NewPage>) -> Result<(), StoreError> {
    let fresh = || pages.iter().filter(|page| page.is_fresh);
    fresh().try_for_each(|page| store.put_value(&page.key, Vec::new()))?;
    fresh().step_by(LEAF).try_for_each(|page| store.put_value(&page.key, vec![0]))?;
    pages.into_iter().try_for_each(|page| store.put_value(&page.key, page.value))
}

/// Writes an index in key order, so that sled handles each leaf once. Passes each run of a term to `check` first.
pub(super) fn write_index(
    store: &Store,
    index: Index,
    entries: Sorter,
    check: impl Fn(&[Id]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let put = |term: &TermKey, ids: &[Id]| {
        check(ids)?;
        store.put(&layout::run_key(&layout::term_prefix(index, term), ids[0].get()), &layout::encode_run(ids))
    };
    let mut run: Option<(TermKey, Vec<Id>)> = None;
    for entry in entries.sorted().map_err(at(store.path()))? {
        let (term, id) = entry.map_err(|error| at(store.path())(error))?;
        match &mut run {
            Some((of, ids)) if *of == term && ids.len() < layout::RUN_IDS => ids.push(id),
            _ => {
                if let Some((term, ids)) = run.replace((term, vec![id])) {
                    put(&term, &ids)?;
                }
            }
        }
    }
    run.map_or(Ok(()), |(term, ids)| put(&term, &ids))
}
