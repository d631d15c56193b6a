//! A rebuild: a database rewritten beside the existing one, in today's layout, without deleted data or without
//! damaged data. It replaces the old one at one commit point, see [`Folder`].

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use record::id::Id;
use record::model::{Collection, Records};
use record::record_set::RecordSet;
use record::words::agree;

use super::commit::journal;
use super::layout::Counters;
use super::load::{Load, Loaded};
use super::{Folder, KeptRecord, Purpose, SnapshotRecord, Store, StoreError, Stored, v1};

/// The bytes of records that are loaded at once.
const BLOCK: usize = 1 << 20;

/// The number of such blocks that may wait.
const WAITING: usize = 4;

/// The number of ids and revisions to skip, since it is unknown which were given.
const SKIPPED: u64 = 1 << 20;

/// The most losses that are named; further ones are counted.
const NAMED: usize = 100;

/// The losses of a rebuild.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    /// The losses in words: the first hundred.
    lost: Vec<String>,
    /// The number of losses.
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

/// The database that a rebuild reads.
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

/// Rebuilds the database of `folder` from the layout's first version to today's.
pub(super) fn convert(folder: &Folder, collection: Collection) -> Result<(), StoreError> {
    let old = v1::Old::open(&folder.database(), collection)?;
    log::info!("{}: rebuilding the database in the new layout, once", folder.database().display());
    let new = rebuild(&old, folder, collection, old.counters, None)?;
    let records = new.counters()?.records.count;
    finish(folder, new, old)?;
    log::info!(
        "{}: rebuilt in the new layout: {records} {}",
        folder.database().display(),
        agree(records, "record", "records")
    );
    Ok(())
}

/// Rewrites the sound database of `folder` without the room that deleted and replaced records left behind.
pub(super) fn compact(folder: &Folder, store: Store) -> Result<(), StoreError> {
    let counters = store.counters()?;
    let new = rebuild(&store, folder, store.made_by(), counters, None)?;
    if new.counters()?.records != counters.records {
        return Err(store.corrupt("its records are not those that it counts"));
    }
    store.copy_position(&new)?;
    finish(folder, new, store)
}

/// Rewrites all that is whole in the database of `folder`. `store` was opened without its journal.
pub(super) fn salvage(folder: &Folder, store: Store) -> Result<Salvage, StoreError> {
    let mut salvage = Salvage::default();
    let (hole, mut counters) = journal::salvage(&store)?;
    if let Some(hole) = hole {
        salvage.note(hole.to_string());
    }
    // The lost writes were answered, so their ids and revisions must not be used again.
    counters.last_id = counters.last_id.max(store.last_id()?.map_or(0, Id::get)).saturating_add(SKIPPED);
    counters.revision = counters.revision.saturating_add(SKIPPED);
    let new = rebuild(&store, folder, store.made_by(), counters, Some(&mut salvage))?;
    finish(folder, new, store)?;
    Ok(salvage)
}

/// Builds a database in [`Folder::part`] from `origin`. Damage is an error, or is noted in `salvage`.
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

/// Records in id order, with what the store keeps beside their texts.
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
        // An origin has no id twice.
        load.put_loaded(loaded.collect(), &self.set).map(drop)
    }
}

/// A writer of a backup's records into a new database.
pub struct Restore {
    load: Load,
    store: Store,
    block: Block,
}

impl Restore {
    /// Creates an empty database at `path`, where nothing may exist yet.
    pub fn create(path: &Path, collection: Collection) -> Result<Self, StoreError> {
        let store = Store::create(path, collection)?;
        Ok(Self { load: Load::new(store.clone()), store, block: Block::new(collection) })
    }

    /// Adds a record. Ids must ascend.
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

    /// Adds the kept answers and ends the load. Ids up to `last_id` and revisions up to `revision` are not used again.
    pub fn finish(mut self, kept: &[(String, KeptRecord)], revision: u64, last_id: u64) -> Result<Store, StoreError> {
        self.block.load(&mut self.load)?;
        self.load.count_up_to(Counters { revision, last_id, ..Counters::default() });
        let store = self.load.finish()?;
        kept.iter().try_for_each(|(key, kept)| store.keep(key, kept))?;
        Ok(store)
    }
}

/// Reads `origin` block by block, until `put` returns `false`.
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

/// Puts `new` durably into the place of `old`; closes both first.
fn finish<T>(folder: &Folder, new: Store, old: T) -> Result<(), StoreError> {
    new.sync()?;
    drop((new, old));
    folder.replace_database()
}

/// Opens the database of a folder: converts an old layout, and with `accept_loss` gives up damaged data.
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

/// Rebuilds the database of `folder` without its damaged data, and logs the losses.
pub(super) fn give_up_damage(folder: &Folder, collection: Collection) -> Result<(), StoreError> {
    let mut store = Store::open_unproven(&folder.database(), collection, Purpose::Passing)?;
    if let Err(error) = store.read_note() {
        // All indexes are rebuilt, so the note is not needed.
        log::warn!("{error}");
    }
    let counted = store.counters().ok().map(|counters| counters.records.count);
    let Salvage { lost, count } = salvage(folder, store)?;
    let path = folder.database();
    for what in &lost {
        log::warn!("{}: gone, as --accept-loss accepts: {what}", path.display());
    }
    let kept = Store::open(&path, collection, Purpose::Passing)?.counters()?.records.count;
    let counted = counted.map_or(String::new(), |counted| {
        format!("; {counted} {} there when the journal's last lap began", agree(counted, "was", "were"))
    });
    log::warn!(
        "{}: {kept} {} kept{counted}; {count} {}. {SKIPPED} ids and revisions are skipped, so that none is used twice",
        path.display(),
        agree(kept, "record is", "records are"),
        agree(count, "fault", "faults")
    );
    Ok(())
}
