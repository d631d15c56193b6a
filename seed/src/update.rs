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
//! | changed | changed in other fields | both changes are applied |
//! | changed | changed otherwise | a [conflict](crate::conflict): nothing at all is applied until somebody says whose to take |
//!
//! "Changed" is added and removed, too. Which record of the file is which of the slice, their ids say, or where they have
//! none the [alignment](crate::align) does. A record of the file that cannot be taken changes nothing. The databases are
//! not rebuilt: the changes go into copies of them, which then take their places as every split does.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use roaring::RoaringTreemap;
use shared::id::Id;
use shared::model::{Collection, Record, Records};
use shared::store::{Change, Store, Stored, Writer};

use crate::align::Alignment;
use crate::conflict::{Conflict, Merge, Resolutions, Side, Take};
use crate::digest::Digests;
use crate::error::Error;
use crate::identity::Identity;
use crate::progress::Stage;
use crate::rejects::Rejects;
use crate::scoped::PerCollection;
use crate::slice::Slice;
use crate::source::{Reading, Source};
use crate::split::{Part, repeated_id};
use crate::verify::{NAMED, Scanned};

/// How many changes are applied in one step.
const STEP: usize = 1024;

/// What is to become of records that both have changed.
pub struct Rules<'r> {
    /// What both may change.
    pub merge: Merge,
    /// What somebody has said of single records.
    pub resolutions: &'r Resolutions,
    /// Whose version is taken of the others; none is where it is not said.
    pub prefer: &'r PerCollection<Side>,
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
    /// Records of which each has changed other fields.
    pub merged: u64,
    /// Records that both have changed, each in another way.
    pub conflicts: u64,
    /// Of those, the ones of which nobody has said whose to take.
    pub unresolved: u64,
    /// The first conflicts.
    pub named: Vec<Conflict>,
    /// Records that are there, and in the file cannot be taken: they stay.
    pub spared: u64,
    /// The first of them.
    pub named_spared: Vec<Id>,
    /// Which record of the file is which, where they have no ids.
    pub alignment: Option<Alignment>,
    put: RoaringTreemap,
    /// Records that are neither the file's nor the service's.
    own: BTreeMap<Id, String>,
    remove: RoaringTreemap,
    /// The digests of what goes, and of what comes.
    outgoing: Digests,
    incoming: Digests,
}

/// What a record is to be.
enum Outcome<'r> {
    /// As the file has it.
    File(&'r Record<'r>),
    /// As this says.
    Own(String),
    /// Gone.
    Gone,
}

impl Changes {
    /// What the database should hold once they are applied to one that holds `before`.
    pub fn applied_to(&self, before: Digests) -> Digests {
        let mut after = before;
        after.unmerge(&self.outgoing);
        after.merge(&self.incoming);
        after
    }

    /// The record `id`, now `stored`, is to be something else.
    fn apply(&mut self, id: Id, outcome: Outcome, stored: Option<&Stored>) {
        if let Some(stored) = stored {
            self.outgoing.add(id, stored.id_from_position, &text_of(stored));
        }
        match outcome {
            Outcome::File(record) => {
                self.incoming.add(id, record.id_from_position, &record.json());
                self.put.insert(id.get());
            }
            Outcome::Own(json) => {
                self.incoming.add(id, false, &json);
                self.own.insert(id, json);
            }
            Outcome::Gone => {
                self.remove.insert(id.get());
            }
        }
    }

    /// The same, and it is the file that has changed it.
    fn count(&mut self, file: bool, stored: bool) {
        match (file, stored) {
            (true, true) => self.changed += 1,
            (true, false) => self.added += 1,
            (false, _) => self.removed += 1,
        }
    }
}

/// What is known of one collection before the newer file is read.
struct Known<'d> {
    database: &'d Scanned,
    /// All that was split.
    split: RoaringTreemap,
    /// Of that, what the service has changed or removed since: where it stands in the slice.
    touched: HashMap<Id, (u64, u32)>,
    slice: File,
    path: &'d Path,
}

impl<'d> Known<'d> {
    /// Compares a database with the slice it was filled from.
    fn read(database: &'d Scanned, path: &'d Path, stage: &Stage) -> Result<Self, Error> {
        let slice = File::open(path).map_err(Error::io(path))?;
        let mut known = Self { database, split: RoaringTreemap::new(), touched: HashMap::new(), slice, path };
        let mut source = Source::with(path, database.store.collection().alone())?;
        let mut rejects = Rejects::refuse(path);
        while let Some(batch) = source.next_batch()? {
            for record in rejects.sift(&batch)?.iter().flat_map(Records::iter) {
                known.split.insert(record.id.get());
                let json = record.json();
                if database.store.get(record.id)?.is_none_or(|stored| stored.json() != json.as_bytes()) {
                    known.touched.insert(record.id, batch.span(&record));
                }
            }
            stage.advance(batch.size().0, batch.size().1);
            source.recycle(batch);
        }
        Ok(known)
    }

    /// What the record was that the service has changed or removed since, if it was split.
    fn base(&self, id: Id) -> Result<Option<String>, Error> {
        let Some((offset, length)) = self.touched.get(&id) else { return Ok(None) };
        let mut raw = vec![0; *length as usize];
        self.slice.read_exact_at(&mut raw, *offset).map_err(Error::io(self.path))?;
        let mut records = Records::new(self.database.store.collection(), raw.len());
        let read = records.push(&String::from_utf8_lossy(&raw), Some(id));
        let record = records.iter().next().filter(|_| read.is_ok());
        let changed = || Error::Difference(format!("{}: it was changed while it was read", self.path.display()));
        Ok(Some(record.ok_or_else(changed)?.json().into_owned()))
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

/// A newer file that is being compared with what is there.
pub struct Planning<'p> {
    /// Where it is.
    pub input: &'p Path,
    /// How it is read.
    pub reading: &'p Arc<Reading>,
    /// What came of that, in the order of [`Collection::ALL`].
    pub alignments: Vec<Option<Alignment>>,
    /// What is to become of records that both have changed.
    pub rules: Rules<'p>,
    /// Where each of those goes, as a line.
    pub conflicts: Option<Box<dyn Write + 'p>>,
}

impl Planning<'_> {
    /// Compares the file, opened as `source`, with what is there, and writes its slices. `before` comes in the order of
    /// [`Collection::ALL`].
    pub fn plan(
        mut self,
        mut source: Source,
        before: &[Before],
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
                    return Err(repeated_id(self.input, self.reading, batch.collection, id));
                }
                let stored = known.database.store.get(id)?;
                let is_split = known.split.contains(id.get());
                met[nth] += u64::from(stored.is_some() && !is_split);
                let equal = stored.as_ref().is_some_and(|stored| {
                    stored.json() == record.json().as_bytes() && stored.id_from_position == record.id_from_position
                });
                if !equal {
                    self.settle(changes, known, id, || batch.pointer(&record), Some(&record), stored.as_ref())?;
                }
            }
            digests[nth].merge(&Digests::of(&records));
            records.iter().try_for_each(|records| writers[nth].put(records))?;
            stage.advance(batch.size().0, batch.size().1);
            source.recycle(batch);
        }
        for ((nth, known), changes) in known.iter().enumerate().zip(&mut changes) {
            changes.alignment = self.alignments[nth].take();
            let spared = changes.alignment.as_ref().map(|alignment| alignment.rejected.clone()).unwrap_or_default();
            let spared = spared | rejects.ids(known.database.store.collection());
            let store = &known.database.store;
            let mut of_the_split = 0;
            for id in &known.split {
                let in_file = seen[nth].contains(id);
                let id = Id::try_from(id).expect("it came from an id");
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
                if spared.contains(id.get()) {
                    changes.spared += 1;
                    if changes.named_spared.len() < NAMED {
                        changes.named_spared.push(id);
                    }
                    continue;
                }
                let pointer = || format!("/{}/- (id {id})", store.collection().name());
                self.settle(changes, known, id, pointer, None, Some(&stored))?;
            }
            changes.kept += known.database.digests.exact.count - of_the_split - met[nth];
        }
        if let Some(conflicts) = &mut self.conflicts {
            conflicts.flush().map_err(Error::io(Path::new("the file for --conflicts")))?;
        }
        let slices = writers.into_iter().map(Slice::finish).collect::<Result<Vec<_>, _>>()?;
        let parts = digests.into_iter().zip(slices).map(|(digests, slice)| Part { digests, slice }).collect();
        Ok(Plan { source: source.identity(), parts, changes: changes.into() })
    }

    /// The file and the database have different versions of a record, or one of them has none.
    fn settle(
        &mut self,
        changes: &mut Changes,
        known: &Known,
        id: Id,
        pointer: impl FnOnce() -> String,
        file: Option<&Record>,
        stored: Option<&Stored>,
    ) -> Result<(), Error> {
        let of_file = || file.map_or(Outcome::Gone, Outcome::File);
        let is_split = known.split.contains(id.get());
        let is_touched = known.touched.contains_key(&id);
        if !is_touched && (is_split || stored.is_none()) {
            changes.count(file.is_some(), stored.is_some());
            changes.apply(id, of_file(), stored);
            return Ok(());
        }
        let base = known.base(id)?;
        let text = file.map(|record| record.json().into_owned());
        if text == base {
            changes.kept += 1;
            return Ok(());
        }
        let collection = known.database.store.collection();
        let conflict = Conflict { collection, id, pointer: pointer(), base, file: text, service: stored.map(text_of) };
        if self.rules.merge == Merge::Fields
            && let Some(merged) = conflict.merge()
        {
            if conflict.service.as_deref() == Some(&merged) {
                changes.kept += 1;
            } else {
                changes.merged += 1;
                changes.apply(id, Outcome::Own(merged), stored);
            }
            return Ok(());
        }
        changes.conflicts += 1;
        let preferred = self.rules.prefer.of(collection).map(|side| match side {
            Side::Monolith => Take::File,
            Side::Service => Take::Service,
        });
        let take = self.rules.resolutions.take(&conflict)?.cloned().or(preferred);
        if let Some(out) = &mut self.conflicts {
            conflict.write(take.as_ref(), out).map_err(Error::io(Path::new("the file for --conflicts")))?;
        }
        match take {
            None => changes.unresolved += 1,
            Some(Take::Service) => {}
            Some(Take::File) => {
                changes.count(file.is_some(), stored.is_some());
                changes.apply(id, of_file(), stored);
            }
            Some(Take::Base) => {
                let outcome = conflict.base.clone().map_or(Outcome::Gone, Outcome::Own);
                changes.count(conflict.base.is_some(), stored.is_some());
                changes.apply(id, outcome, stored);
            }
            Some(Take::Own(json)) => {
                changes.count(true, stored.is_some());
                changes.apply(id, Outcome::Own(json), stored);
            }
        }
        if changes.named.len() < NAMED {
            changes.named.push(conflict);
        }
        Ok(())
    }
}

/// Applies to `stores` what the file at `input`, read as `reading` says, changes in
/// them; both in the order of [`Collection::ALL`].
pub fn apply(
    input: &Path,
    reading: &Arc<Reading>,
    mut rejects: Rejects,
    changes: &[Changes],
    stores: &[Store],
    stage: &Stage,
) -> Result<(), Error> {
    let mut writers = stores.iter().map(Writer::new).collect::<Result<Vec<_>, _>>()?;
    let mut source = Source::open(input)?.read_as(reading).passing(Box::new(std::io::sink()));
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
    for ((writer, changes), store) in writers.iter_mut().zip(changes).zip(stores) {
        let mut own = Records::new(store.collection(), 0);
        for json in changes.own.values() {
            own.push(json, None).expect("it was read as such a record");
        }
        let puts: Vec<Change> = own.iter().map(|record| Change::Put(record, writer.next_revision())).collect();
        puts.chunks(STEP).try_for_each(|step| writer.apply(step))?;
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
