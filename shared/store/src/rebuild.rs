//! A database written anew, beside the one that there is: with today's layout, without what was deleted, or without what
//! is damaged. It takes its place at one point, see [`Folder`].

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use record::id::Id;
use record::model::{Collection, Records};
use record::record_set::RecordSet;

use super::commit::journal;
use super::layout::Counters;
use super::load::{Load, Loaded};
use super::{Folder, KeptRecord, Purpose, SnapshotRecord, Store, StoreError, Stored, v1};

/// How many bytes of records are loaded as one piece.
const BLOCK: usize = 1 << 20;

/// How many such pieces may wait.
const WAITING: usize = 4;

/// How many ids and revisions are skipped where it is not known which were given.
const SKIPPED: u64 = 1 << 20;

/// How much of what is gone is named; more is counted.
const NAMED: usize = 100;

/// What a rebuild could not keep.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    /// In words: the first hundred.
    lost: Vec<String>,
    /// How much.
    count: u64,
}

impl Salvage {
    fn note(&mut self, what: String) {
        self.count += 1;
        if self.lost.len() < NAMED {
            self.lost.push(what);
        }
    }
}

/// Where a rebuild reads.
trait Origin: Sync {
    fn records(&self) -> Box<dyn Iterator<Item = Result<(Id, Stored), StoreError>> + '_>;
    fn kept(&self) -> Box<dyn Iterator<Item = Result<(String, KeptRecord), StoreError>> + '_>;
}

impl Origin for Store {
    fn records(&self) -> Box<dyn Iterator<Item = Result<(Id, Stored), StoreError>> + '_> {
        Box::new(Store::records(self))
    }

    fn kept(&self) -> Box<dyn Iterator<Item = Result<(String, KeptRecord), StoreError>> + '_> {
        Box::new(self.kept_answers())
    }
}

impl Origin for v1::Old {
    fn records(&self) -> Box<dyn Iterator<Item = Result<(Id, Stored), StoreError>> + '_> {
        Box::new(v1::Old::records(self))
    }

    fn kept(&self) -> Box<dyn Iterator<Item = Result<(String, KeptRecord), StoreError>> + '_> {
        Box::new(v1::Old::kept(self))
    }
}

/// Brings the database of `folder` from the layout's first version to today's.
pub(super) fn convert(folder: &Folder, collection: Collection) -> Result<(), StoreError> {
    let old = v1::Old::open(&folder.database(), collection)?;
    log::info!("{}: the layout is brought up to date, once", folder.database().display());
    let new = rebuild(&old, folder, collection, old.counters, None)?;
    let records = new.counters()?.records.count;
    finish(folder, new, old)?;
    log::info!("{}: brought up to date, {records} records", folder.database().display());
    Ok(())
}

/// Writes the sound database of `folder` anew, without the room that deleted and replaced records left behind.
pub(super) fn compact(folder: &Folder, store: Store) -> Result<(), StoreError> {
    let counters = store.counters()?;
    let new = rebuild(&store, folder, store.made_by(), counters, None)?;
    if new.counters()?.records != counters.records {
        return Err(store.corrupt("its records are not those that it counts"));
    }
    finish(folder, new, store)
}

/// Writes all that is whole of the database of `folder` anew; `store` was opened without a look at its journal.
pub(super) fn salvage(folder: &Folder, store: Store) -> Result<Salvage, StoreError> {
    let mut salvage = Salvage::default();
    let (hole, mut counters) = journal::salvage(&store)?;
    if let Some(hole) = hole {
        salvage.note(hole.to_string());
    }
    // Those that are gone were answered: neither their ids nor their revisions may come again.
    counters.last_id = counters.last_id.max(store.last_id()?.map_or(0, Id::get)).saturating_add(SKIPPED);
    counters.revision = counters.revision.saturating_add(SKIPPED);
    let new = rebuild(&store, folder, store.made_by(), counters, Some(&mut salvage))?;
    finish(folder, new, store)?;
    Ok(salvage)
}

/// Makes a database in [`Folder::part`] of what `origin` has. What is damaged there is an error, or goes into `salvage`.
fn rebuild(
    origin: &impl Origin,
    folder: &Folder,
    collection: Collection,
    counters: Counters,
    mut salvage: Option<&mut Salvage>,
) -> Result<Store, StoreError> {
    folder.remove_part()?;
    let store = Store::create(&folder.part(), collection)?;
    let mut load = Load::new(store.clone());
    load.count_up_to(counters);
    let (send, blocks) = sync_channel::<Block>(WAITING);
    thread::scope(|scope| {
        let loader = scope.spawn(move || {
            for block in blocks {
                block.load(&mut load)?;
            }
            load.finish()
        });
        let read = read_blocks(origin, collection, &mut salvage, |block| send.send(block).is_ok());
        drop(send);
        let loaded = loader.join().expect("a loader returns its errors");
        read.and_then(|()| loaded.map(drop))
    })?;
    for kept in origin.kept() {
        match (kept, &mut salvage) {
            (Ok((key, kept)), _) => store.keep(&key, &kept)?,
            (Err(error), Some(salvage)) => salvage.note(error.to_string()),
            (Err(error), None) => return Err(error),
        }
    }
    Ok(store)
}

/// Records in id order, with what does not lie in their texts.
struct Block {
    records: Records,
    rows: Vec<(u64, bool)>,
    set: RecordSet,
}

impl Block {
    fn new(collection: Collection) -> Self {
        Self { records: Records::new(collection, BLOCK), rows: Vec::new(), set: RecordSet::default() }
    }

    fn load(&self, load: &mut Load) -> Result<(), StoreError> {
        let loaded = self.records.iter().zip(&self.rows).map(|(record, (revision, id_from_position))| Loaded {
            id: record.id,
            revision: *revision,
            id_from_position: *id_from_position,
            json: record.source.into(),
            terms: record.terms,
        });
        // Each id has one place to come from.
        load.put_loaded(loaded.collect(), &self.set).map(drop)
    }
}

/// Fills a new database with records as a backup has them.
pub struct Restore {
    load: Load,
    store: Store,
    block: Block,
}

impl Restore {
    /// Makes an empty database at `path`, where nothing may be yet.
    pub fn create(path: &Path, collection: Collection) -> Result<Self, StoreError> {
        let store = Store::create(path, collection)?;
        Ok(Self { load: Load::new(store.clone()), store, block: Block::new(collection) })
    }

    /// Adds a record; by ascending id.
    pub fn put(&mut self, record: &SnapshotRecord) -> Result<(), StoreError> {
        let misfit = |what: String| self.store.corrupt(&format!("record {}: {what}", record.id));
        let json = std::str::from_utf8(&record.json).map_err(|error| misfit(error.to_string()))?;
        self.block.records.push_lying(json, record.id, false).map_err(|fault| misfit(fault.to_string()))?;
        self.block.rows.push((record.revision, record.id_from_position));
        self.block.set.add_record(record.id, record.id_from_position, &record.json);
        if self.block.records.text().len() < BLOCK {
            return Ok(());
        }
        let next = Block::new(self.store.collection());
        std::mem::replace(&mut self.block, next).load(&mut self.load)
    }

    /// Adds the kept answers, and sees to it that neither ids up to `last_id` nor revisions up to `revision` come again.
    pub fn finish(mut self, kept: &[(String, KeptRecord)], revision: u64, last_id: u64) -> Result<Store, StoreError> {
        self.block.load(&mut self.load)?;
        self.load.count_up_to(Counters { revision, last_id, ..Counters::default() });
        let store = self.load.finish()?;
        kept.iter().try_for_each(|(key, kept)| store.keep(key, kept))?;
        Ok(store)
    }
}

/// Reads what `origin` has, and hands it on until `put` says that nobody takes it.
fn read_blocks(
    origin: &impl Origin,
    collection: Collection,
    salvage: &mut Option<&mut Salvage>,
    put: impl Fn(Block) -> bool,
) -> Result<(), StoreError> {
    let mut block = Block::new(collection);
    for record in origin.records() {
        let read = record.and_then(|(id, stored)| {
            let misfit = |what: String| StoreError::Corrupt {
                path: collection.name().into(),
                what: format!("record {id} is none of {}: {what}", collection.name()),
            };
            let json = std::str::from_utf8(stored.json()).map_err(|error| misfit(error.to_string()))?;
            block.records.push_lying(json, id, false).map_err(|fault| misfit(fault.to_string()))?;
            block.rows.push((stored.revision, stored.id_from_position));
            block.set.add_record(id, stored.id_from_position, stored.json());
            Ok(())
        });
        match (read, &mut *salvage) {
            (Ok(()), _) => {}
            (Err(error), Some(salvage)) => salvage.note(error.to_string()),
            (Err(error), None) => return Err(error),
        }
        if block.records.text().len() >= BLOCK && !put(std::mem::replace(&mut block, Block::new(collection))) {
            return Ok(());
        }
    }
    put(block);
    Ok(())
}

/// Puts `new` into the place of `old`, and has it there durably. Both are closed before.
fn finish<T>(folder: &Folder, new: Store, old: T) -> Result<(), StoreError> {
    new.sync()?;
    drop((new, old));
    folder.replace_database()
}

/// Opens the database of a folder that is in place, whatever its layout and its state; `accept_loss` gives up what is
/// damaged.
pub(super) fn open(
    folder: &Folder,
    collection: Collection,
    purpose: Purpose,
    accept_loss: bool,
) -> Result<Store, StoreError> {
    let path = folder.database();
    let open = || Store::open(&path, collection, purpose);
    match open() {
        Err(StoreError::OldLayout(_)) => {
            convert(folder, collection)?;
            open()
        }
        Err(StoreError::Lost { .. } | StoreError::Corrupt { .. }) if accept_loss => {
            give_up_damage(folder, collection)?;
            open()
        }
        opened => opened,
    }
}

/// Rebuilds the database of `folder` without what is damaged in it, and logs what that is.
pub(super) fn give_up_damage(folder: &Folder, collection: Collection) -> Result<(), StoreError> {
    let mut store = Store::open_unproven(&folder.database(), collection, Purpose::Passing)?;
    if let Err(error) = store.read_note() {
        // All indexes are made anew.
        log::warn!("{error}");
    }
    let counted = store.counters().ok().map(|counters| counters.records.count);
    let Salvage { lost, count } = salvage(folder, store)?;
    let path = folder.database();
    for what in &lost {
        log::warn!("{}: gone, as --accept-loss accepts: {what}", path.display());
    }
    let kept = Store::open(&path, collection, Purpose::Passing)?.counters()?.records.count;
    let counted =
        counted.map_or(String::new(), |counted| format!("; when the journal last began anew it was {counted}"));
    log::warn!(
        "{}: {kept} records are kept{counted}; {count} faults. Ids and revisions skip {SKIPPED}, so that none comes twice",
        path.display()
    );
    Ok(())
}
