//! The split: one pass over the source that writes a slice and loads a database for each collection.
//!
//! ```text
//!             ┌ parsed by all cores ┐   ┌─ slice: db.json, in the source's order
//! source ─► batch of records ─────► records
//!                                       └─► channel ─► loader thread of the collection ─► sled
//! ```
//!
//! A split can write slices only, for services that load them themselves.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use rayon::prelude::*;
use record::id::Id;
use record::model::{Collection, Record, Records};
use record::record_set::RecordSet;
use store::{Load, Store, StoreError};

use crate::digest::Digests;
use crate::error::Error;
use crate::identity::Identity;
use crate::plan::Plan;
use crate::progress::{Progress, Total};
use crate::rejects::Rejects;
use crate::slice::{Slice, Sliced};
use crate::source::{Reading, Source};
use crate::sums::Sums;
use crate::text::id_in;

/// The number of batches that may wait for a loader. With a batch's size, it bounds the memory of the split.
const WAITING_BATCHES: usize = 4;

/// The paths of one collection's part. Nothing may exist there yet.
pub struct Destination<'p> {
    /// The collection.
    pub collection: Collection,
    /// The file for the slice.
    pub slice: &'p Path,
    /// The folder for the database; without one, no database is made.
    pub database: Option<&'p Path>,
}

/// One collection's part of a split.
pub struct Part {
    /// The collection.
    pub collection: Collection,
    /// The digests of its records; empty without a database.
    pub digests: Digests,
    /// Its slice; without a database, it has no hash.
    pub slice: Sliced,
    /// What its database should hold, if this run has loaded it.
    pub sums: Option<Sums>,
}

/// A complete split.
pub struct WholeSplit {
    /// The file.
    pub source: Identity,
    /// The expected parts, in the destinations' order.
    pub parts: Vec<Part>,
    /// The collections that are not in the file.
    pub absent: Vec<Collection>,
}

/// The split of a file.
pub struct Splitting<'s> {
    /// The file's path.
    pub path: &'s Path,
    /// The collections it may hold; those without a destination are passed over.
    pub plan: &'s Plan,
    /// The way of reading the file.
    pub reading: &'s Arc<Reading>,
    /// Whether the file must have every collection of the monolith.
    pub requires_all: bool,
    /// The output for collections that no service owns; without it, they are refused.
    pub rest: Option<Box<dyn Write + Send>>,
    /// The display of progress.
    pub progress: Progress,
}

impl Splitting<'_> {
    /// Splits the file into `destinations`; `rejects` handles rejected records. The result is complete, but neither
    /// verified nor durable.
    pub fn split(self, destinations: &[Destination], rejects: &mut Rejects) -> Result<WholeSplit, Error> {
        let Self { path: source_path, plan, reading, requires_all, rest, progress } = self;
        let mut source = Source::open(source_path, plan)?.read_as(reading);
        if destinations.iter().any(|destination| destination.database.is_some()) {
            source = source.hashed();
        }
        if let Some(rest) = rest {
            source = source.passing(rest);
        }
        let stage = progress.stage("splitting", Total::Bytes(source.length()));
        let parts = thread::scope(|scope| {
            let mut sinks = Vec::new();
            for destination in destinations {
                let last_id = reading.given.of(destination.collection).last_id;
                sinks.push(Sink::start(destination, last_id, scope)?);
            }
            let mut is_whole = true;
            let mut next = source.next_batch()?;
            let mut parsed: Option<(Collection, Vec<Records>)> = None;
            let mut last = None;
            let mut put = |parsed: Option<(Collection, Vec<Records>)>| match parsed {
                None => Ok(true),
                Some((collection, records)) => {
                    // A file has each collection once: the one before is whole, and its memory is needed.
                    if let Some(before) = last.replace(collection).filter(|before| *before != collection) {
                        sinks.iter_mut().filter(|sink| sink.collection == before).for_each(Sink::end);
                    }
                    let sink = sinks.iter_mut().find(|sink| sink.collection == collection);
                    sink.map_or(Ok(true), |sink| sink.put(records))
                }
            };
            while let Some(batch) = next {
                if destinations.iter().all(|destination| destination.collection != batch.collection) {
                    source.recycle(batch);
                    next = source.next_batch()?;
                    continue;
                }
                // The cores parse one batch while they write the previous one and read the next.
                let previous = parsed.take();
                let (read, (following, going_on)) =
                    rayon::join(|| batch.parse(), || rayon::join(|| source.next_batch(), || put(previous)));
                if !going_on? {
                    is_whole = false;
                    break;
                }
                let (bytes, count) = batch.size();
                stage.advance(bytes, count);
                parsed = Some((batch.collection, rejects.sift_parsed(&batch, read)?));
                source.recycle(batch);
                next = following?;
            }
            put(parsed)?;
            // If a loader has given up, the rest was not read; the loader's error says why.
            if requires_all && is_whole {
                source.require_all()?;
            }
            drop(stage);
            let _stage = progress.stage("writing indexes", Total::Unknown);
            sinks.iter_mut().for_each(Sink::end);
            sinks.into_iter().map(|sink| sink.finish(source_path, plan, reading)).collect::<Result<Vec<Part>, Error>>()
        })?;
        let absent = source.absent();
        Ok(WholeSplit { source: source.identity(), parts, absent })
    }
}

/// One collection's slice and loader.
struct Sink<'scope> {
    collection: Collection,
    slice: Slice,
    digests: Digests,
    sums: Sums,
    loader: Option<Loader<'scope>>,
}

/// A thread that fills a database.
struct Loader<'scope> {
    /// `None` once all have been sent.
    feed: Option<Feed>,
    thread: ScopedJoinHandle<'scope, Result<(), LoadError>>,
}

/// What is needed to send records to a loader.
struct Feed {
    batches: SyncSender<(Vec<Records>, RecordSet)>,
    /// The database, only for the prefixes of its index entries.
    store: Store,
}

enum LoadError {
    RepeatedId(Id),
    Store(StoreError),
}

impl From<StoreError> for LoadError {
    fn from(error: StoreError) -> Self {
        LoadError::Store(error)
    }
}

impl<'scope> Sink<'scope> {
    fn start(destination: &Destination, last_id: u64, scope: &'scope thread::Scope<'scope, '_>) -> Result<Self, Error> {
        let collection = destination.collection;
        let slice = Slice::create(destination.slice, collection, destination.database.is_some())?;
        let loader = match destination.database {
            None => None,
            Some(path) => {
                let store = Store::create(path, collection)?;
                let (batches, incoming) = sync_channel(WAITING_BATCHES);
                let feed = Some(Feed { batches, store: store.clone() });
                Some(Loader { feed, thread: scope.spawn(move || load(store, last_id, incoming)) })
            }
        };
        Ok(Self { collection, slice, digests: Digests::default(), sums: Sums::default(), loader })
    }

    /// Adds records; returns `false` if the loader has given up, and `finish` then returns its error.
    fn put(&mut self, records: Vec<Records>) -> Result<bool, Error> {
        records.iter().try_for_each(|records| self.slice.put(records))?;
        let Some(loader) = &self.loader else { return Ok(true) };
        let Feed { batches, store } = loader.feed.as_ref().expect("records come before the end");
        let none = || (Digests::default(), self.sums.empty());
        let part = |records: &Records| {
            let (mut digests, mut sums) = none();
            for record in records.iter() {
                let json = record.json();
                digests.add(record.id, record.id_from_position, &json);
                sums.add_record(record.id, record.id_from_position, json.as_bytes());
                sums.add_entries_of(store, &record);
            }
            (digests, sums)
        };
        let (digests, sums) = records.par_iter().map(part).reduce(none, |mut sum, part| {
            sum.0.merge(&part.0);
            sum.1.merge(&part.1);
            sum
        });
        self.digests.merge(&digests);
        self.sums.merge(&sums);
        Ok(batches.send((records, digests.exact)).is_ok())
    }

    /// Lets the loader write its indexes: all records were put.
    fn end(&mut self) {
        if let Some(loader) = &mut self.loader {
            loader.feed = None;
        }
    }

    fn finish(self, source: &Path, plan: &Plan, reading: &Arc<Reading>) -> Result<Part, Error> {
        let slice = self.slice.finish()?;
        let sums = self.loader.is_some().then_some(self.sums);
        if let Some(Loader { feed, thread }) = self.loader {
            drop(feed);
            thread.join().expect("a loader returns its errors").map_err(|error| match error {
                LoadError::Store(StoreError::IdTaken { text, .. }) => {
                    let is_it = |record: &Record| record.id_text() == Some(&text);
                    repeated_id(source, plan, reading, self.collection, is_it)
                }
                LoadError::Store(error) => error.into(),
                LoadError::RepeatedId(id) => {
                    let is_it = |record: &Record| record.id == id;
                    repeated_id(source, plan, reading, self.collection, is_it)
                }
            })?;
        }
        Ok(Part { collection: self.collection, digests: self.digests, slice, sums })
    }
}

fn load(store: Store, last_id: u64, batches: Receiver<(Vec<Records>, RecordSet)>) -> Result<(), LoadError> {
    let mut load = Load::new(store);
    load.give_no_id_up_to(last_id);
    for (records, set) in batches {
        if let Some(taken) = load.put(&records, &set)? {
            return Err(LoadError::RepeatedId(taken));
        }
    }
    load.finish()?;
    Ok(())
}

/// Reads the source once more to name both places of a repeated id, whose records `is_it` recognizes: the database
/// reports the second only.
pub fn repeated_id(
    path: &Path,
    plan: &Plan,
    reading: &Arc<Reading>,
    collection: Collection,
    is_it: impl Fn(&Record) -> bool,
) -> Error {
    let find = || {
        let mut source = Source::open(path, plan)?.read_as(reading).passing(Box::new(io::sink()));
        let mut first = None;
        while let Some(batch) = source.next_batch()? {
            if batch.collection != collection {
                continue;
            }
            for record in Rejects::refuse(path).sift(&batch)?.iter().flat_map(Records::iter) {
                if is_it(&record) {
                    if let Some(first) = &first {
                        let from_position =
                            if record.id_from_position { ", which it has from its position," } else { "" };
                        let id = id_in(collection, record.id, &record.json());
                        let reason = format!("the id {id}{from_position} is taken by {first}");
                        return Err(batch.reject(&record, reason).into_error(path));
                    }
                    let from_position = if record.id_from_position { ", which has it from its position" } else { "" };
                    first = Some(format!("{}{from_position}", batch.pointer(&record)));
                }
            }
        }
        Ok(())
    };
    let changed = || Error::Difference(format!("{}: the file was changed while it was read", path.display()));
    find().err().unwrap_or_else(changed)
}
