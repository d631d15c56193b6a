//! The split: one pass over the source that writes three slices and loads three databases.
//!
//! ```text
//!             ┌ parsed by all cores ┐   ┌─ slice: db.json, in the source's order
//! source ─► batch of records ─────► records
//!                                       └─► channel ─► loader thread of the collection ─► sled
//! ```

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use shared::id::Id;
use shared::model::{Collection, Records};
use shared::store::{Load, Store, StoreError};

use crate::digest::Digests;
use crate::error::Error;
use crate::identity::Identity;
use crate::slice::Slice;
use crate::source::{Source, input_error};

/// How many batches may wait for a loader. Bounds the memory of the split together with a batch's size.
const WAITING_BATCHES: usize = 4;

/// Where the parts of one collection go. Nothing may be there yet.
pub struct Destination<'p> {
    /// The collection.
    pub collection: Collection,
    /// The file for the slice.
    pub slice: &'p Path,
    /// The folder for the database.
    pub database: &'p Path,
}

/// What one collection was split into.
pub struct Part {
    /// Its records.
    pub digests: Digests,
    /// Its slice.
    pub slice: Identity,
}

/// Splits the file at `source`: what it was, and what the parts should be, in the destinations' order. What this leaves
/// is complete, but neither verified nor made durable.
pub fn split(source_path: &Path, destinations: &[Destination]) -> Result<(Identity, Vec<Part>), Error> {
    let mut source = Source::open(source_path)?;
    let parts = thread::scope(|scope| {
        let mut sinks = Vec::new();
        for destination in destinations {
            sinks.push(Sink::start(destination, scope)?);
        }
        let mut next = source.next_batch()?;
        while let Some(batch) = next {
            // One core reads on while the other parses.
            let (following, records) = rayon::join(|| source.next_batch(), || batch.parse(source_path));
            let sink = sinks.iter_mut().find(|sink| sink.collection == batch.collection);
            if !sink.expect("every collection has a destination").put(records?)? {
                break;
            }
            next = following?;
        }
        sinks.into_iter().map(|sink| sink.finish(source_path)).collect::<Result<Vec<Part>, Error>>()
    })?;
    Ok((source.identity(), parts))
}

/// One collection's slice and loader.
struct Sink<'scope> {
    collection: Collection,
    slice: Slice,
    digests: Digests,
    batches: SyncSender<Vec<Records>>,
    loader: ScopedJoinHandle<'scope, Result<(), LoadError>>,
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
    fn start(destination: &Destination, scope: &'scope thread::Scope<'scope, '_>) -> Result<Self, Error> {
        let collection = destination.collection;
        let slice = Slice::create(destination.slice, collection)?;
        let store = Store::create(destination.database, collection)?;
        let (batches, incoming) = sync_channel(WAITING_BATCHES);
        let loader = scope.spawn(move || load(store, incoming));
        Ok(Self { collection, slice, digests: Digests::default(), batches, loader })
    }

    /// `false` when the loader has given up; `finish` says why.
    fn put(&mut self, records: Vec<Records>) -> Result<bool, Error> {
        self.digests.merge(&Digests::of(&records));
        records.iter().try_for_each(|records| self.slice.put(records))?;
        Ok(self.batches.send(records).is_ok())
    }

    fn finish(self, source: &Path) -> Result<Part, Error> {
        let slice = self.slice.finish()?;
        drop(self.batches);
        match self.loader.join().expect("a loader returns its errors") {
            Ok(()) => Ok(Part { digests: self.digests, slice }),
            Err(LoadError::Store(error)) => Err(error.into()),
            Err(LoadError::RepeatedId(id)) => Err(repeated_id(source, self.collection, id)),
        }
    }
}

fn load(store: Store, batches: Receiver<Vec<Records>>) -> Result<(), LoadError> {
    let mut load = Load::new(store);
    for records in batches {
        if let Some(taken) = load.put(records.iter().flat_map(Records::iter))? {
            return Err(LoadError::RepeatedId(taken));
        }
    }
    load.finish()?;
    Ok(())
}

/// Reads the source once more to say where `id` stands twice: the database told of the second time alone.
fn repeated_id(path: &Path, collection: Collection, id: Id) -> Error {
    let find = || {
        let mut source = Source::open(path)?;
        let mut first = None;
        while let Some(batch) = source.next_batch()? {
            if batch.collection != collection {
                continue;
            }
            for (nth, record) in batch.parse(path)?.iter().flat_map(Records::iter).enumerate() {
                if record.id == id {
                    let pointer = batch.pointer(nth);
                    if let Some(first) = &first {
                        let given = if record.id_from_position { ", which it has from its position," } else { "" };
                        let reason = format!("the id {id}{given} is taken by {first}");
                        return Err(input_error(path, &pointer, batch.offset(nth), &reason));
                    }
                    first = Some(pointer);
                }
            }
        }
        Ok(())
    };
    let changed = || Error::Difference(format!("{}: the file was changed while it was read", path.display()));
    find().err().unwrap_or_else(changed)
}
