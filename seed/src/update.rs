//! A newer file: what it changes is applied to the split that is there.
//!
//! Of each record there are three versions: as it was split (the slice), as the file has it now, and as its service has
//! it now. Whoever differs from the slice has changed it:
//!
//! | the file | the service | then |
//! |---|---|---|
//! | as split | whatever | the service's stays |
//! | changed | as split | the file's is applied |
//! | changed | changed alike | nothing to do |
//! | changed | changed otherwise | a conflict: nothing at all is applied until somebody says whose to prefer |
//!
//! "Changed" is added and removed, too. The databases are not rebuilt: the changes go into copies of them, which then
//! take their places as every split does.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use roaring::RoaringTreemap;
use sha2::{Digest as _, Sha256};
use shared::id::Id;
use shared::model::{Collection, Record, Records};
use shared::store::{Change, Store, Stored, Writer};

use crate::digest::Digests;
use crate::error::Error;
use crate::identity::Identity;
use crate::progress::Stage;
use crate::rejects::Rejects;
use crate::slice::Slice;
use crate::source::Source;
use crate::split::{Part, repeated_id};
use crate::text::{Difference, differences};
use crate::verify::{NAMED, Scanned};

/// How many changes are applied in one step.
const STEP: usize = 1024;

/// Whose version of a record is taken where both changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// The file's.
    Monolith,
    /// The database's.
    Service,
}

/// What a newer file changes in one collection.
#[derive(Debug, Default)]
pub struct Changes {
    /// Records that are new.
    pub added: u64,
    /// Records that differ.
    pub changed: u64,
    /// Records that are gone.
    pub removed: u64,
    /// Records that the service alone has added, changed or removed: they stay.
    pub kept: u64,
    /// Records that both have changed.
    pub conflicts: u64,
    /// The first conflicts: left the file, right the database.
    pub named: Vec<Difference>,
    put: RoaringTreemap,
    remove: RoaringTreemap,
    /// The digests of what goes, and of what comes.
    outgoing: Digests,
    incoming: Digests,
}

impl Changes {
    /// Whether there is anything to apply.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }

    /// What the database should hold once they are applied to one that holds `before`.
    pub fn applied_to(&self, before: Digests) -> Digests {
        let mut after = before;
        after.unmerge(&self.outgoing);
        after.merge(&self.incoming);
        after
    }

    /// The file's version of the record `id` is to take the place of `stored`.
    fn apply(&mut self, id: Id, file: Option<&Record>, stored: Option<&Stored>) {
        match (file, stored) {
            (Some(_), Some(_)) => self.changed += 1,
            (Some(_), None) => self.added += 1,
            (None, _) => self.removed += 1,
        }
        if let Some(stored) = stored {
            self.outgoing.add(id, stored.id_from_position, &text_of(stored));
        }
        match file {
            Some(record) => {
                self.incoming.add(id, record.id_from_position, &record.json());
                self.put.insert(id.get());
            }
            None => {
                self.remove.insert(id.get());
            }
        }
    }

    /// Both have changed the record, each in another way.
    fn conflict(&mut self, pointer: &str, file: Option<&Record>, stored: Option<&Stored>) {
        self.conflicts += 1;
        let room = NAMED.saturating_sub(self.named.len());
        let differences = match (file, stored) {
            (Some(record), Some(stored)) => differences(pointer, &record.json(), &text_of(stored)),
            _ => {
                let left = file.map(|record| record.json().into_owned());
                vec![Difference { pointer: pointer.to_owned(), left, right: stored.map(text_of) }]
            }
        };
        self.named.extend(differences.into_iter().take(room));
    }
}

/// What is known of one collection before the newer file is read.
struct Known<'d> {
    database: &'d Scanned,
    /// All that was split.
    split: RoaringTreemap,
    /// Of that, what the service has changed or removed since: what it was.
    touched: HashMap<Id, [u8; 32]>,
}

impl<'d> Known<'d> {
    /// Compares a database with the slice it was filled from.
    fn read(database: &'d Scanned, slice: &Path, stage: &Stage) -> Result<Self, Error> {
        let mut known = Self { database, split: RoaringTreemap::new(), touched: HashMap::new() };
        let mut source = Source::with(slice, database.store.collection().alone())?;
        let mut rejects = Rejects::refuse(slice);
        while let Some(batch) = source.next_batch()? {
            for record in rejects.sift(&batch)?.iter().flat_map(Records::iter) {
                known.split.insert(record.id.get());
                let json = record.json();
                if database.store.get(record.id)?.is_none_or(|stored| stored.json() != json.as_bytes()) {
                    known.touched.insert(record.id, Sha256::digest(json.as_bytes()).into());
                }
            }
            stage.advance(batch.size().0, batch.size().1);
            source.recycle(batch);
        }
        Ok(known)
    }
}

/// What a newer file is, and what it changes.
pub struct Plan {
    /// The file.
    pub source: Identity,
    /// What the collections would be split into, in their order.
    pub parts: Vec<Part>,
    /// What it changes in them, in their order.
    pub changes: Vec<Changes>,
}

/// What is there of one collection, and where its new slice goes.
pub struct Before {
    /// The database.
    pub database: Scanned,
    /// What it was filled from.
    pub slice: PathBuf,
    /// The new slice, which is not there yet.
    pub next_slice: PathBuf,
}

/// Compares the newer file at `input`, opened as `source`, with what is there, and writes its slices. `before` comes in
/// the order of [`Collection::ALL`].
pub fn plan(
    input: &Path,
    mut source: Source,
    before: &[Before],
    prefer: Option<Side>,
    rejects: &mut Rejects,
    stage: &Stage,
) -> Result<Plan, Error> {
    let (mut known, mut writers) = (Vec::new(), Vec::new());
    for Before { database, slice, next_slice } in before {
        known.push(Known::read(database, slice, stage)?);
        writers.push(Slice::create(next_slice, database.store.collection(), true)?);
    }
    let mut changes = Collection::ALL.map(|_| Changes::default());
    let mut digests = Collection::ALL.map(|_| Digests::default());
    let mut seen = Collection::ALL.map(|_| RoaringTreemap::new());
    // Records of the service's own that the file has, too.
    let mut met = Collection::ALL.map(|_| 0);
    while let Some(batch) = source.next_batch()? {
        let nth = batch.collection as usize;
        let (changes, known) = (&mut changes[nth], &known[nth]);
        let records = rejects.sift(&batch)?;
        for record in records.iter().flat_map(Records::iter) {
            let id = record.id;
            if !seen[nth].insert(id.get()) {
                return Err(repeated_id(input, batch.collection, id));
            }
            let stored = known.database.store.get(id)?;
            let equal = stored.as_ref().is_some_and(|stored| {
                stored.json() == record.json().as_bytes() && stored.id_from_position == record.id_from_position
            });
            let touched = known.touched.get(&id);
            let foreign = stored.is_some() && !known.split.contains(id.get());
            met[nth] += u64::from(foreign);
            if equal {
                continue;
            }
            match touched {
                Some(was) if Sha256::digest(record.json().as_bytes())[..] == was[..] => changes.kept += 1,
                None if !foreign => changes.apply(id, Some(&record), stored.as_ref()),
                _ => {
                    changes.conflict(&batch.pointer(&record), Some(&record), stored.as_ref());
                    if prefer == Some(Side::Monolith) {
                        changes.apply(id, Some(&record), stored.as_ref());
                    }
                }
            }
        }
        digests[nth].merge(&Digests::of(&records));
        records.iter().try_for_each(|records| writers[nth].put(records))?;
        stage.advance(batch.size().0, batch.size().1);
        source.recycle(batch);
    }
    for (((changes, known), seen), met) in changes.iter_mut().zip(&known).zip(&seen).zip(met) {
        let store = &known.database.store;
        let mut of_the_split = 0;
        for id in &known.split {
            let id = Id::try_from(id).expect("it came from an id");
            let in_file = seen.contains(id.get());
            let touched = known.touched.contains_key(&id);
            if in_file && !touched {
                of_the_split += 1;
                continue;
            }
            let Some(stored) = store.get(id)? else { continue };
            of_the_split += 1;
            if in_file {
                continue;
            }
            if touched {
                let pointer = format!("/{}/- (id {id})", store.collection().name());
                changes.conflict(&pointer, None, Some(&stored));
            }
            if !touched || prefer == Some(Side::Monolith) {
                changes.apply(id, None, Some(&stored));
            }
        }
        changes.kept += known.database.digests.exact.count - of_the_split - met;
    }
    let slices = writers.into_iter().map(Slice::finish).collect::<Result<Vec<_>, _>>()?;
    let parts = digests.into_iter().zip(slices).map(|(digests, slice)| Part { digests, slice }).collect();
    Ok(Plan { source: source.identity(), parts, changes: changes.into() })
}

/// Applies to `stores` what the file at `input` changes in them; both in the order of [`Collection::ALL`].
pub fn apply(
    input: &Path,
    mut rejects: Rejects,
    changes: &[Changes],
    stores: &[Store],
    stage: &Stage,
) -> Result<(), Error> {
    let mut writers = stores.iter().map(Writer::new).collect::<Result<Vec<_>, _>>()?;
    let mut source = Source::open(input)?.passing(Box::new(std::io::sink()));
    while let Some(batch) = source.next_batch()? {
        let nth = batch.collection as usize;
        let records = rejects.sift(&batch)?;
        let put = |record: &Record| changes[nth].put.contains(record.id.get());
        let puts = records.iter().flat_map(Records::iter).filter(put);
        let puts: Vec<Change> = puts.map(|record| Change::Put(record, writers[nth].next_revision())).collect();
        puts.chunks(STEP).try_for_each(|step| writers[nth].apply(step))?;
        stage.advance(batch.size().0, puts.len() as u64);
        source.recycle(batch);
    }
    for (writer, changes) in writers.iter_mut().zip(changes) {
        let id = |id| Id::try_from(id).expect("it came from an id");
        let removals: Vec<Change> = changes.remove.iter().map(id).map(Change::Remove).collect();
        removals.chunks(STEP).try_for_each(|step| writer.apply(step))?;
    }
    stores.iter().try_for_each(|store| Ok(store.sync()?))
}

/// Copies the folder `from`, of a closed database, to `to`, where nothing is yet.
pub fn copy_database(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir(to).map_err(Error::io(to))?;
    for entry in fs::read_dir(from).map_err(Error::io(from))? {
        let entry = entry.map_err(Error::io(from))?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(Error::io(&path))?.is_dir() {
            copy_database(&path, &copy)?;
        } else {
            fs::copy(&path, &copy).map_err(Error::io(&copy))?;
        }
    }
    Ok(())
}

fn text_of(stored: &Stored) -> String {
    String::from_utf8_lossy(stored.json()).into_owned()
}
