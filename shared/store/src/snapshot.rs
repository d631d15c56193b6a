//! A snapshot: the records as they are at one moment, read while writes go on.
//!
//! The committer begins a snapshot between two groups. From then on, the first change to a record sets aside its old
//! version ([`Snapshots::keep`]), and the reader takes that version instead of the current one. Writes never wait for
//! the reader. If the versions set aside exceed [`ASIDE_BYTES`], the reader was too slow and the snapshot is given up.
//!
//! At its end a snapshot proves itself: the records it read are the set that the database counts.

use std::collections::{BTreeMap, HashSet};
use std::iter;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec;

use record::id::Id;
use record::record_set::RecordSet;
use record::words::agree;

use super::layout::{self, Counters, Page};
use super::{KeptRecord, Position, Scan, Store, StoreError, Stored};

/// The most that is set aside for a snapshot, in bytes of memory.
const ASIDE_BYTES: usize = 64 << 20;

/// The memory that a record set aside takes beside its JSON, in bytes.
const ASIDE_RECORD: usize = 96;

/// A record of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The id.
    pub id: Id,
    /// The database's revision when the record was written.
    pub revision: u64,
    /// Whether the split gave the record its id, from its position in the file.
    pub id_from_position: bool,
    /// The canonical text.
    pub json: Box<[u8]>,
}

/// A record before a change.
pub(super) struct Before {
    pub(super) id: Id,
    pub(super) stored: Stored,
}

impl Before {
    fn copy(&self) -> SnapshotRecord {
        let Self { id, stored } = self;
        let (revision, id_from_position) = (stored.revision, stored.id_from_position);
        SnapshotRecord { id: *id, revision, id_from_position, json: stored.json().into() }
    }
}

/// The snapshots of a store that are being read.
#[derive(Default)]
pub(super) struct Snapshots {
    wanted: AtomicUsize,
    all: Mutex<Vec<Arc<Aside>>>,
}

/// The versions set aside for one snapshot.
struct Aside {
    revision: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The highest id that was read.
    passed: u64,
    records: BTreeMap<Id, SnapshotRecord>,
    /// Kept answers that are gone by now, with their idempotency keys.
    answers: Vec<(String, KeptRecord)>,
    bytes: usize,
    given_up: bool,
}

impl State {
    fn give_up_if_large(&mut self) {
        if self.bytes > ASIDE_BYTES {
            *self = Self { given_up: true, ..Self::default() };
        }
    }
}

/// Locks, despite a panic of another holder: each change is one call, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    /// Returns whether a snapshot is being read.
    pub(super) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    /// Sets aside records that are about to change.
    pub(super) fn keep(&self, before: Vec<Before>) {
        if before.is_empty() {
            return;
        }
        for aside in lock(&self.all).iter() {
            let mut state = lock(&aside.state);
            for record in &before {
                if state.given_up || record.stored.revision > aside.revision || record.id.get() <= state.passed {
                    continue;
                }
                state.bytes += record.stored.json().len() + ASIDE_RECORD;
                state.records.entry(record.id).or_insert_with(|| record.copy());
            }
            state.give_up_if_large();
        }
    }

    /// Sets aside a kept answer that is about to go.
    pub(super) fn keep_answer(&self, key: &str, kept: &KeptRecord) {
        if !self.are_wanted() {
            return;
        }
        for aside in lock(&self.all).iter() {
            let mut state = lock(&aside.state);
            if !state.given_up && kept.revision <= aside.revision {
                state.bytes += key.len() + kept.json.len() + ASIDE_RECORD;
                state.answers.push((key.to_owned(), kept.clone()));
                state.give_up_if_large();
            }
        }
    }

    fn begin(&self, revision: u64) -> Arc<Aside> {
        let aside = Arc::new(Aside { revision, state: Mutex::default() });
        lock(&self.all).push(Arc::clone(&aside));
        self.wanted.fetch_add(1, Ordering::Release);
        aside
    }

    fn end(&self, aside: &Arc<Aside>) {
        lock(&self.all).retain(|other| !Arc::ptr_eq(other, aside));
        self.wanted.fetch_sub(1, Ordering::Release);
    }
}

/// An iterator over the records of one moment, in id order. It ends after an error.
pub struct Snapshot {
    store: Store,
    counters: Counters,
    position: Option<Position>,
    aside: Arc<Aside>,
    pages: Option<Scan>,
    records: vec::IntoIter<SnapshotRecord>,
    read: RecordSet,
}

impl Snapshot {
    /// Begins a snapshot of `store` as it is. Nobody may write meanwhile; later writers pass their changes to
    /// [`Snapshots::keep`].
    pub(super) fn begin(store: &Store, counters: Counters) -> Self {
        let aside = store.shared.snapshots.begin(counters.revision);
        let pages = Some(store.scan(&[layout::PAGE]));
        Self {
            store: store.clone(),
            counters,
            // Without one that can be read, the snapshot is no replica's.
            position: store.position().ok().flatten(),
            aside,
            pages,
            records: Vec::new().into_iter(),
            read: RecordSet::default(),
        }
    }

    /// Takes a snapshot of a store that has no committer.
    pub fn of(store: &Store) -> Result<Self, StoreError> {
        Ok(Self::begin(store, store.counters()?))
    }

    /// Returns the revision of the snapshot.
    pub fn revision(&self) -> u64 {
        self.counters.revision
    }

    /// Returns how far a replica had followed its stream by then.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Returns the highest id that a record had by then.
    pub fn last_id(&self) -> u64 {
        self.counters.last_id
    }

    /// Returns the set of the records, as the database counts it.
    pub fn set(&self) -> &RecordSet {
        &self.counters.records
    }

    /// Returns the database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Iterates over the answers kept by then under idempotency keys: those that are still there, then those set aside. A
    /// replica's decisions depend on how many it keeps.
    pub fn kept(&self) -> impl Iterator<Item = Result<(String, KeptRecord), StoreError>> + Send + Sync + use<> {
        let (revision, path, aside) = (self.counters.revision, self.store.path().to_owned(), Arc::clone(&self.aside));
        let (mut there, mut seen) = (self.store.kept_answers(), HashSet::new());
        let mut gone: Option<vec::IntoIter<(String, KeptRecord)>> = None;
        iter::from_fn(move || {
            loop {
                let next = match &mut gone {
                    None => there.next(),
                    Some(gone) => Some(Ok(gone.next()?)),
                };
                match next {
                    // It may be in both: removed when it was read, or about to be.
                    Some(Ok((key, kept))) if kept.revision <= revision && seen.insert(key.clone()) => {
                        return Some(Ok((key, kept)));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Some(Err(error)),
                    None => {
                        let state = lock(&aside.state);
                        gone = Some(state.answers.clone().into_iter());
                        if state.given_up {
                            return Some(Err(StoreError::SnapshotGivenUp(path.clone())));
                        }
                    }
                }
            }
        })
    }

    /// Reads on, to the end of the next page.
    fn read_page(&mut self) -> Option<Result<Vec<SnapshotRecord>, StoreError>> {
        let page = self.pages.as_mut()?.next();
        let read = match page {
            Some(page) => page.and_then(|(key, value)| self.merge(&key, &value)),
            None => {
                self.pages = None;
                self.take_aside(u64::MAX).map(|aside| aside.into_values().collect())
            }
        };
        Some(read)
    }

    /// Merges a page's records with the versions set aside, including those of earlier pages that are gone.
    fn merge(&self, key: &[u8], value: &sled::IVec) -> Result<Vec<SnapshotRecord>, StoreError> {
        let store = &self.store;
        let damaged = |what: &str| store.damaged(key, what);
        let page = layout::page_of(key).ok_or_else(|| damaged("it is not a page's key"))?;
        let last = layout::id_at(page, layout::LAST_SLOT).ok_or_else(|| damaged("it holds an invalid id"))?;
        let mut there = BTreeMap::new();
        let mut apart = None;
        for entry in Page::read(key, value).map_err(|what| damaged(&what))?.iter() {
            let entry = entry.map_err(|what| damaged(&what))?;
            let id = layout::id_at(page, entry.slot).ok_or_else(|| damaged("it holds an invalid id"))?;
            if entry.revision > self.counters.revision {
                continue;
            }
            match store.stored(value, id, &entry)? {
                Some(stored) => drop(there.insert(id, Before { id, stored }.copy())),
                // It has changed since the page was read, so its old version is set aside.
                None => apart = Some(id),
            }
        }
        let mut records = self.take_aside(last.get())?;
        if let Some(id) = apart.filter(|id| !records.contains_key(id)) {
            return Err(damaged(&format!("a part of record {id} is gone")));
        }
        records.append(&mut there);
        Ok(records.into_values().collect())
    }

    /// Takes the versions set aside up to id `last`, and notes that the reader has passed it.
    fn take_aside(&self, last: u64) -> Result<BTreeMap<Id, SnapshotRecord>, StoreError> {
        let mut state = lock(&self.aside.state);
        if state.given_up {
            return Err(StoreError::SnapshotGivenUp(self.store.path().to_owned()));
        }
        state.passed = last;
        let later = match Id::try_from(last + u64::from(last < u64::MAX)) {
            Ok(next) => state.records.split_off(&next),
            Err(_) => BTreeMap::new(),
        };
        let taken = std::mem::replace(&mut state.records, later);
        state.bytes -= taken.values().map(|record| record.json.len() + ASIDE_RECORD).sum::<usize>().min(state.bytes);
        Ok(taken)
    }

    /// Checks that the records read are those that the database counts.
    fn prove(&self) -> Result<(), StoreError> {
        if self.read == self.counters.records {
            return Ok(());
        }
        let (read, counted) = (self.read, self.counters.records);
        Err(self.store.corrupt(&format!(
            "its records are not those that it counts: {} {} with digest {read} {} read, of {} with digest {counted}",
            read.count,
            agree(read.count, "record", "records"),
            agree(read.count, "was", "were"),
            counted.count
        )))
    }
}

impl Iterator for Snapshot {
    type Item = Result<SnapshotRecord, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.records.next() {
                self.read.add_record(record.id, record.id_from_position, &record.json);
                return Some(Ok(record));
            }
            match self.read_page() {
                Some(Ok(records)) => self.records = records.into_iter(),
                Some(Err(error)) => {
                    self.pages = None;
                    // The error is reported already; the end reports nothing more.
                    self.read = self.counters.records;
                    return Some(Err(error));
                }
                None => {
                    let proven = self.prove();
                    self.read = self.counters.records;
                    return proven.err().map(Err);
                }
            }
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.store.shared.snapshots.end(&self.aside);
    }
}
