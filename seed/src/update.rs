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

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use roaring::RoaringTreemap;
use shared::id::Id;
use shared::model::{Collection, Index, Record, Records, Term};
use shared::record_set::RecordSet;
use shared::store::{Change, Store, Stored, Writer};

use crate::align::{Alignment, align};
use crate::conflict::{Conflict, Merge, Resolutions, Side, Take};
use crate::digest::Digests;
use crate::error::Error;
use crate::identity::{BUFFER, Identity, part_of};
use crate::ids;
use crate::manifest::{Entry, Moment};
use crate::near::{Content, alikeness};
use crate::progress::{Progress, Stage, Total};
use crate::rejects::Rejects;
use crate::report;
use crate::rows::{ById, Row, Rows, spans_from};
use crate::scoped::PerCollection;
use crate::slice::{Slice, Sliced};
use crate::source::{Reading, Source};
use crate::split::{Part, repeated_id};
use crate::verify::NAMED;

/// How many changes are applied in one step.
const STEP: usize = 1024;

/// How many records of the split are held against one that cannot be taken,
const MANY: usize = 10_000;

/// and of how many such they are looked for beyond their places.
const FEW: usize = 100;

/// How long their texts are, together, in bytes.
const STEP_BYTES: usize = 256 << 10;

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
    /// Records of the new slice that may be something else in the database, once this is applied.
    pub differs: RoaringTreemap,
    /// What is written, and what goes.
    puts: BTreeMap<Id, Put>,
    removes: BTreeSet<Id>,
    /// The digests of what goes out of the database, and of what comes.
    outgoing: RecordSet,
    incoming: RecordSet,
    /// The same of the split.
    split_outgoing: Digests,
    split_incoming: Digests,
}

/// A record that is written.
#[derive(Debug)]
enum Put {
    /// Without an id of its own.
    Given(String),
    /// With one.
    Own(String),
}

/// What a record is to be.
enum Outcome<'r> {
    /// As the file has it.
    File(&'r Record<'r>),
    /// As this says.
    Own(String),
    /// As this says, and the id is not the record's own.
    Given(String),
    /// Gone.
    Gone,
}

impl Changes {
    /// What the database should hold once they are applied to one that holds `before`.
    pub fn applied_to(&self, before: RecordSet) -> RecordSet {
        let mut after = before;
        after.unmerge(&self.outgoing);
        after.merge(&self.incoming);
        after
    }

    /// How many records are written or removed.
    pub fn count_applied(&self) -> u64 {
        (self.puts.len() + self.removes.len()) as u64
    }

    /// The record `id`, now `stored`, is to be something else.
    fn apply(&mut self, id: Id, outcome: Outcome, stored: Option<&Stored>) {
        if let Some(stored) = stored {
            self.outgoing.add_record(id, stored.id_from_position, stored.json());
        }
        match outcome {
            Outcome::File(record) => {
                self.incoming.add_record(id, record.id_from_position, record.json().as_bytes());
                let text = record.source.to_owned();
                self.puts.insert(id, if record.id_from_position { Put::Given(text) } else { Put::Own(text) });
            }
            Outcome::Own(json) => {
                self.incoming.add_record(id, false, json.as_bytes());
                self.puts.insert(id, Put::Own(json));
                self.differs.insert(id.get());
            }
            Outcome::Given(json) => {
                self.incoming.add_record(id, true, json.as_bytes());
                let text = json.strip_prefix(&format!("{{\"id\":{id},")).map(|rest| format!("{{{rest}"));
                self.puts.insert(id, Put::Given(text.expect("a given id is the first member")));
                self.differs.insert(id.get());
            }
            Outcome::Gone => {
                self.removes.insert(id);
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

/// What is there of one collection, and where its new slice goes.
pub struct Before<'b> {
    /// The database.
    pub store: Store,
    /// What it was filled from.
    pub slice: PathBuf,
    /// What the manifest says of both.
    pub entry: &'b Entry,
    /// The new slice, which is not there yet.
    pub next_slice: PathBuf,
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

/// How a newer file is compared with what is there.
pub struct Planning<'p> {
    /// Where it is.
    pub input: &'p Path,
    /// Whether it is read as Node reads it.
    pub as_node: bool,
    /// Whether records of the file that was split were rejected.
    pub rejected_before: bool,
    /// What is to become of records that both have changed.
    pub rules: Rules<'p>,
    /// Where each of those goes, as a line.
    pub conflicts: Option<Box<dyn Write + 'p>>,
    /// How progress is shown.
    pub progress: Progress,
}

impl Planning<'_> {
    /// Compares the file, opened as `source`, with what is there, and writes its slices. `before` comes in the order of
    /// [`Collection::ALL`].
    pub fn plan(mut self, mut source: Source, before: &[Before], rejects: &mut Rejects) -> Result<Plan, Error> {
        let stage = self.progress.stage("comparing", Total::Bytes(source.length()));
        // The texts as the file has them, which are the slices unless ids have to be written into them.
        let (mut newer, mut slices) = (Vec::new(), Vec::new());
        for Before { store, next_slice, .. } in before {
            slices.push(Slice::create(next_slice, store.collection(), true)?);
            newer.push(Rows::new(next_slice, store.collection(), false)?);
        }
        // Beside each other: what the one does alone, the other fills.
        let rejected_before = self.rejected_before;
        let older = thread::scope(|scope| {
            let older = scope.spawn(move || before.iter().map(|before| read_older(before, rejected_before)).collect());
            let read = (|| {
                while let Some(batch) = source.next_batch()? {
                    let nth = batch.collection as usize;
                    let records = rejects.sift(&batch)?;
                    let mut spans = spans_from(slices[nth].next_offset());
                    newer[nth].add(&records, rejects.last(), &|_| false, &mut spans);
                    records.iter().try_for_each(|records| slices[nth].put_sources(records))?;
                    stage.advance(batch.size().0, batch.size().1);
                    source.recycle(batch);
                }
                Ok::<(), Error>(())
            })();
            let older: Result<Vec<Rows>, Error> = older.join().expect("a reader returns its errors");
            read.and(older)
        })?;
        drop(stage);
        let identity = source.identity();
        let known = ids::known(self.input, || Ok(identity.clone()));
        let (mut parts, mut changes) = (Vec::new(), Vec::new());
        for (((before, older), mut newer), slice) in before.iter().zip(&older).zip(newer).zip(slices) {
            let collection = before.store.collection();
            let written = slice.finish()?;
            let stage = self.progress.stage("aligning", Total::Unknown);
            let mut alignment = if collection.may_lack_ids() {
                let known = known.as_ref().map(|known| &known[collection as usize]).filter(|ids| !ids.are_positions());
                Some(match known.and_then(|ids| Alignment::of_known_ids(ids, older, &newer)) {
                    Some(alignment) => alignment,
                    None => align(older, &newer, Writer::new(&before.store)?.last_id())?,
                })
            } else {
                None
            };
            for row in newer.rows.iter_mut().filter(|row| row.given && !row.rejected) {
                row.id = alignment.as_ref().and_then(|alignment| alignment.ids.at(row.position)).map_or(0, Id::get);
            }
            let split = older.by_id();
            let spared = Spared::find(older, &split, &newer)?;
            alignment.iter_mut().for_each(|alignment| alignment.spare(&spared.ids, older));
            let slice = rewrite(&before.next_slice, &newer, older, &spared, written)?;
            drop(stage);
            let _stage = self.progress.stage("looking at changes", Total::Unknown);
            let of_collection = self.compare(before, older, &split, &newer, alignment, &spared)?;
            let mut digests = Digests { canonical: before.entry.canonical().unwrap_or_default(), ..Digests::default() };
            digests.canonical.unmerge(&of_collection.split_outgoing.canonical);
            digests.canonical.merge(&of_collection.split_incoming.canonical);
            parts.push(Part { digests, slice });
            changes.push(of_collection);
        }
        self.rules.resolutions.check_all_used()?;
        if let Some(conflicts) = &mut self.conflicts {
            conflicts.flush().map_err(Error::io(Path::new("the file for --conflicts")))?;
        }
        Ok(Plan { source: identity, parts, changes })
    }

    /// What the file changes in one collection. The newer rows have their ids.
    fn compare(
        &mut self,
        before: &Before,
        older: &Rows,
        split: &ById,
        newer: &Rows,
        alignment: Option<Alignment>,
        spared: &Spared,
    ) -> Result<Changes, Error> {
        let store = &before.store;
        let mut changes = Changes::default();
        let touched = Touched::find(before, older, split)?;
        let mut seen = RoaringTreemap::new();
        // Records of the service's own that the file has, too.
        let mut met = 0;
        for row in newer.rows.iter().filter(|row| !row.rejected) {
            if !seen.insert(row.id) {
                let id = Id::try_from(row.id).expect("it came from an id");
                let mut reading = Reading { as_node: self.as_node, ..Reading::default() };
                if let Some(alignment) = alignment {
                    reading.ids[store.collection() as usize] = alignment.ids;
                }
                return Err(repeated_id(self.input, &Arc::new(reading), store.collection(), id));
            }
            let was = split.get(row.id);
            if was.is_some_and(|was| was.hash == row.hash && was.given == row.given) {
                changes.kept += u64::from(touched.has(row.id));
                continue;
            }
            let id = Id::try_from(row.id).expect("it came from an id");
            let stored = store.get(id)?;
            met += u64::from(stored.is_some() && was.is_none());
            let base = was.map(|was| older.with_record(was, id, |record| record.json().into_owned())).transpose()?;
            newer.with_record(row, id, |record| {
                if let Some(base) = &base {
                    changes.split_outgoing.add(id, false, base);
                }
                changes.split_incoming.add(id, false, &record.json());
                let equal = stored.as_ref().is_some_and(|stored| {
                    stored.json() == record.json().as_bytes() && stored.id_from_position == record.id_from_position
                });
                if equal {
                    return Ok(());
                }
                let file = Some(&record);
                let given = was.is_some_and(|was| was.given);
                let stored = stored.as_ref();
                let versions = Versions { collection: store.collection(), id, base, given, file, stored };
                self.settle(&mut changes, &versions, touched.has(row.id), || newer.pointer(row))
            })??;
        }
        changes.alignment = alignment;
        for row in older.rows.iter().filter(|row| !seen.contains(row.id)) {
            let id = Id::try_from(row.id).expect("it came from an id");
            if spared.ids.contains(row.id) {
                changes.spared += 1;
                changes.kept += u64::from(touched.has(row.id));
                if changes.named_spared.len() < NAMED {
                    changes.named_spared.push(id);
                }
                continue;
            }
            let base = older.with_record(row, id, |record| record.json().into_owned())?;
            changes.split_outgoing.add(id, false, &base);
            let Some(stored) = store.get(id)? else { continue };
            let pointer = || format!("/{}/- (id {id})", store.collection().name());
            let (base, stored) = (Some(base), Some(&stored));
            let versions = Versions { collection: store.collection(), id, base, given: row.given, file: None, stored };
            self.settle(&mut changes, &versions, touched.has(row.id), pointer)?;
        }
        changes.differs |= &touched.ids;
        let of_the_split = older.rows.len() as u64 - touched.removed;
        changes.kept += store.counted()?.count - of_the_split - met;
        Ok(changes)
    }

    /// The file and the database have different versions of a record, or one of them has none.
    fn settle(
        &mut self,
        changes: &mut Changes,
        versions: &Versions,
        is_touched: bool,
        pointer: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        let &Versions { collection, id, ref base, given, file, stored } = versions;
        let of_file = || file.map_or(Outcome::Gone, Outcome::File);
        if !is_touched && (base.is_some() || stored.is_none()) {
            changes.count(file.is_some(), stored.is_some());
            changes.apply(id, of_file(), stored);
            return Ok(());
        }
        let text = file.map(|record| record.json().into_owned());
        if text == *base {
            changes.kept += 1;
            return Ok(());
        }
        let service = stored.map(text_of);
        let conflict = Conflict { collection, id, pointer: pointer(), base: base.clone(), file: text, service };
        let resolved = self.rules.resolutions.take(&conflict)?.cloned();
        if self.rules.merge == Merge::Fields
            && resolved.is_none()
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
        changes.differs.insert(id.get());
        let preferred = self.rules.prefer.of(collection).map(|side| match side {
            Side::Monolith => Take::File,
            Side::Service => Take::Service,
        });
        let take = resolved.or(preferred);
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
                let outcome = match base.clone() {
                    None => Outcome::Gone,
                    // Where the file has none, nothing else says that the id was given.
                    Some(base) if given && file.is_some() => Outcome::Given(base),
                    Some(base) => Outcome::Own(base),
                };
                changes.count(base.is_some(), stored.is_some());
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

/// The versions of a record.
struct Versions<'v> {
    collection: Collection,
    id: Id,
    /// As it was split.
    base: Option<String>,
    /// Whether the id is not its own there.
    given: bool,
    /// As the file has it.
    file: Option<&'v Record<'v>>,
    /// As the database has it.
    stored: Option<&'v Stored>,
}

/// Records of the split that their service has changed or removed since.
struct Touched {
    /// Changed or removed.
    ids: RoaringTreemap,
    /// How many are removed.
    removed: u64,
}

impl Touched {
    fn has(&self, id: u64) -> bool {
        self.ids.contains(id)
    }

    /// Finds them by their revisions, where the manifest knows the database's when it was as split; else by their texts.
    fn find(before: &Before, older: &Rows, split: &ById) -> Result<Self, Error> {
        let store = &before.store;
        let mut touched = Self { ids: RoaringTreemap::new(), removed: 0 };
        let now = Moment::of(store)?;
        let since = before.entry.database.as_ref();
        let since = since.filter(|then| then.history == now.history && then.revision <= now.revision);
        let is_as_split = |row: &Row, stored: &Stored| {
            let id = Id::try_from(row.id).expect("it came from an id");
            older.with_record(row, id, |record| record.json().as_bytes() == stored.json())
        };
        if let Some(then) = since.filter(|then| then.revision == now.revision && then.exact == now.exact) {
            for row in then.differs.iter().filter_map(|id| split.get(id)) {
                let stored = store.get(Id::try_from(row.id).expect("it came from an id"))?;
                touched.note(row, stored.as_ref().map(|stored| is_as_split(row, stored)).transpose()?);
            }
            return Ok(touched);
        }
        let mut there = RoaringTreemap::new();
        for entry in store.records() {
            let (id, stored) = entry?;
            let Some(row) = split.get(id.get()) else { continue };
            there.insert(id.get());
            if since.is_none_or(|then| stored.revision > then.revision || then.differs.contains(id.get())) {
                touched.note(row, Some(is_as_split(row, &stored)?));
            }
        }
        older.rows.iter().filter(|row| !there.contains(row.id)).for_each(|row| touched.note(row, None));
        Ok(touched)
    }

    /// A record of the split is as it was, or not, or not there.
    fn note(&mut self, row: &Row, is_as_split: Option<bool>) {
        if is_as_split != Some(true) {
            self.ids.insert(row.id);
        }
        self.removed += u64::from(is_as_split.is_none());
    }
}

/// Reads the slice of what is there.
fn read_older(before: &Before, rejected_before: bool) -> Result<Rows, Error> {
    let Before { store, slice, entry, .. } = before;
    let collection = store.collection();
    let mut rows = Rows::new(slice, collection, false)?;
    let mut source = Source::with(slice, collection.alone())?.hashed();
    let all_given = are_all_given(entry, rejected_before, store)?;
    rows.read(&mut source, &|id| all_given || entry.given.contains(id), false, None)?;
    if source.identity() == entry.slice {
        return Ok(rows);
    }
    let fault = report::fault(collection, true, false, true).unwrap_or_default();
    Err(Error::Difference(format!("{fault}\n`seed --replace` splits the file anew.")))
}

/// Whether all ids that stand in a slice are given. A `seed` before this one did not note them, and wrote them where
/// records had been rejected, which the monolith's list had without ids.
pub fn are_all_given(entry: &Entry, rejected: bool, store: &Store) -> Result<bool, Error> {
    if entry.database.is_some() || !rejected || !store.collection().may_lack_ids() {
        return Ok(false);
    }
    for record in store.records() {
        if record?.1.id_from_position {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Records of the split that the newer file has, but in a state in which they cannot be taken: they stay as they were.
#[derive(Default)]
struct Spared {
    ids: RoaringTreemap,
    /// By the position of what cannot be taken: the places of those that stay for it, among the older rows.
    at: BTreeMap<u64, Vec<usize>>,
}

impl Spared {
    /// Finds them: by the ids of what cannot be taken, else by what it says, else all that may be meant.
    fn find(older: &Rows, split: &ById, newer: &Rows) -> Result<Self, Error> {
        let mut spared = Self::default();
        if newer.rejected.is_empty() {
            return Ok(spared);
        }
        let there: RoaringTreemap = newer.rows.iter().filter(|row| !row.rejected).map(|row| row.id).collect();
        // A slice has no rejects: the position is the place.
        let place = |row: &Row| (row.position - 1) as usize;
        let is_left = |spared: &Self, nth: usize| {
            let id = older.rows[nth].id;
            !there.contains(id) && !spared.ids.contains(id)
        };
        let mut untold = Vec::new();
        for (nth, row) in newer.rows.iter().enumerate().filter(|(_, row)| row.rejected) {
            let rejected = &newer.rejected[&row.position];
            match rejected.id {
                Some(id) => {
                    if let Some(row) = split.get(id).filter(|row| is_left(&spared, place(row))) {
                        spared.add(older, rejected.position, place(row));
                    }
                }
                None => untold.push((nth, rejected)),
            }
        }
        let left: Vec<usize> = (0..older.rows.len()).filter(|nth| is_left(&spared, *nth)).collect();
        let content = |nth: usize| {
            let id = Id::try_from(older.rows[nth].id).unwrap_or(Id::MAX);
            older.with_record(&older.rows[nth], id, |record| Content::of(record.source))
        };
        let are_few = untold.len() <= FEW;
        for (nth, rejected) in untold {
            let matched = |row: &Row| if row.rejected { None } else { split.get(row.id).map(place) };
            let before = newer.rows[..nth].iter().rev().find_map(matched);
            let behind = newer.rows[nth + 1..].iter().find_map(matched);
            let is_free = |nth: &usize| is_left(&spared, *nth);
            let mut here: Vec<usize> =
                (before.map_or(0, |place| place + 1)..older.rows.len()).take_while(is_free).collect();
            here.extend((0..behind.unwrap_or(older.rows.len())).rev().take_while(is_free));
            here.sort_unstable();
            here.dedup();
            let mut best: Option<(usize, f64)> = None;
            if let Some(said) = &rejected.content {
                for places in [Some(&here), Some(&left).filter(|_| are_few)].into_iter().flatten() {
                    for place in places.iter().filter(|place| is_left(&spared, **place)).take(MANY) {
                        let alike = alikeness(said, &content(*place)?);
                        if let Some(alike) = alike.filter(|alike| best.is_none_or(|(_, so_far)| *alike > so_far)) {
                            best = Some((*place, alike));
                        }
                    }
                    if best.is_some() {
                        break;
                    }
                }
            }
            match best {
                Some((place, _)) => spared.add(older, rejected.position, place),
                None => {
                    let may_be = if here.is_empty() { left.clone() } else { here };
                    let may_be: Vec<usize> = may_be.into_iter().filter(|place| is_left(&spared, *place)).collect();
                    may_be.into_iter().for_each(|place| spared.add(older, rejected.position, place));
                }
            }
        }
        Ok(spared)
    }

    fn add(&mut self, older: &Rows, position: u64, place: usize) {
        self.ids.insert(older.rows[place].id);
        self.at.entry(position).or_default().push(place);
    }
}

/// Writes the slice of the newer rows anew where more has to stand in it than their texts: ids that are not their own and
/// not their places, and the records that stay.
fn rewrite(path: &Path, newer: &Rows, older: &Rows, spared: &Spared, written: Sliced) -> Result<Sliced, Error> {
    let rows = newer.rows.iter().filter(|row| !row.rejected);
    if spared.at.is_empty() && (1..).zip(rows).all(|(place, row)| !row.given || row.id == place) {
        return Ok(written);
    }
    let part = part_of(path);
    let mut slice = Slice::create(&part, newer.collection, true)?;
    let mut texts = BufReader::with_capacity(BUFFER, File::open(path).map_err(Error::io(path))?);
    let (mut at, mut text) = (0, Vec::new());
    for row in &newer.rows {
        if row.rejected {
            for place in spared.at.get(&row.position).into_iter().flatten() {
                let stays = &older.rows[*place];
                slice.put_text(stays.id, stays.given, &older.text_without_given_id(stays)?)?;
            }
            continue;
        }
        let skipped = i64::try_from(row.offset - at).expect("a file is not so long");
        texts.seek_relative(skipped).map_err(Error::io(path))?;
        text.resize(row.length as usize, 0);
        texts.read_exact(&mut text).map_err(Error::io(path))?;
        at = row.offset + u64::from(row.length);
        let json = std::str::from_utf8(&text).expect("a slice is text");
        slice.put_text(row.id, row.given, json)?;
    }
    let sliced = slice.finish()?;
    // Whoever has the file open goes on reading the texts without ids.
    fs::rename(&part, path).map_err(Error::io(path))?;
    Ok(sliced)
}

/// Applies to `stores` what the newer file, whose slices were written, changes in them; both in the order of
/// [`Collection::ALL`].
pub fn apply(changes: &[Changes], stores: &[Store], stage: &Stage) -> Result<(), Error> {
    for (changes, store) in changes.iter().zip(stores) {
        let mut writer = Writer::new(store)?;
        let mut step = Records::new(store.collection(), 0);
        let mut write = |step: &mut Records| {
            let puts: Vec<Change> = step.iter().map(|record| Change::Put(record, writer.next_revision())).collect();
            stage.advance(0, puts.len() as u64);
            writer.apply(&puts)?;
            *step = Records::new(store.collection(), 0);
            Ok::<(), Error>(())
        };
        let misfit = "it was read as such a record";
        for (id, put) in &changes.puts {
            match put {
                Put::Given(source) => step.push_given(source, None, Some(*id)).expect(misfit),
                Put::Own(json) => step.push(json, None).expect(misfit),
            }
            if step.text().len() >= STEP_BYTES {
                write(&mut step)?;
            }
        }
        write(&mut step)?;
        let removals: Vec<Change> = changes.removes.iter().map(|id| Change::Remove(*id)).collect();
        for step in removals.chunks(STEP) {
            writer.apply(step)?;
            stage.advance(0, step.len() as u64);
        }
        store.sync()?;
    }
    Ok(())
}

/// Where in the indexes records are to stand, or to stand no more.
pub type Places = BTreeMap<(Index, Term), BTreeMap<Id, bool>>;

/// Where the records stand in the indexes of `store` that `changes` will change or remove there.
pub fn places(changes: &Changes, store: &Store) -> Result<Places, Error> {
    let mut places = Places::new();
    for id in changes.puts.keys().chain(&changes.removes) {
        let Some(stored) = store.get(*id)? else { continue };
        let mut records = Records::new(store.collection(), 0);
        if records.push(&text_of(&stored), None).is_ok() {
            note_places(&records, false, &mut places);
        }
    }
    Ok(places)
}

fn note_places(records: &Records, are_listed: bool, places: &mut Places) {
    for record in records.iter() {
        for (index, term) in record.terms.iter().flatten() {
            places.entry((*index, term.clone())).or_default().insert(record.id, are_listed);
        }
    }
}

/// Whether `store`, opened anew, holds what was applied to it, in its records and its indexes; each that was touched is
/// read. In `places` it stood before, and stands no more unless it is to.
pub fn holds(changes: &Changes, mut places: Places, store: &Store) -> Result<bool, Error> {
    for (id, put) in &changes.puts {
        let mut records = Records::new(store.collection(), 0);
        let read = match put {
            Put::Given(source) => records.push_given(source, None, Some(*id)),
            Put::Own(json) => records.push(json, None),
        };
        read.expect("it was read as such a record");
        let stored = store.get(*id)?;
        let is_there = |record: Record| {
            stored.as_ref().is_some_and(|stored| {
                stored.json() == record.json().as_bytes() && stored.id_from_position == record.id_from_position
            })
        };
        if !records.iter().all(is_there) {
            return Ok(false);
        }
        note_places(&records, true, &mut places);
    }
    for id in &changes.removes {
        if store.get(*id)?.is_some() {
            return Ok(false);
        }
    }
    // Each list once, however many of its records were touched.
    for ((index, term), mut ids) in places {
        for listed in store.ids(index, &term) {
            if ids.remove(&listed?) == Some(false) {
                return Ok(false);
            }
        }
        if ids.values().any(|is_listed| *is_listed) {
            return Ok(false);
        }
    }
    Ok(true)
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
