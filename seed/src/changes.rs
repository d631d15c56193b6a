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
//! none the [alignment](crate::align) does. A record of the file that cannot be taken changes nothing. The changes are
//! staged as a file beside the patch of each slice; [`target`](crate::target) has the databases make them, whether their services
//! run or not.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, thread};

use record::id::Id;
use record::model::{Collection, Record, Records, strip_id};
use record::record_set::RecordSet;
use roaring::RoaringTreemap;
use store::desk::{Look, Seen};
use store::{Edit, Staging, Text};

use crate::align::{Alignment, align};
use crate::conflict::{Conflict, Merge, Resolutions, Side, Take};
use crate::database::{AT_ONCE, Database};
use crate::digest::Digests;
use crate::error::Error;
use crate::identity::Identity;
use crate::ids::{self, Given, Ids};
use crate::manifest::{Entry, Moment};
use crate::near::{Content, alikeness};
use crate::numbers::{give_ids, number};
use crate::orphans::Edited;
use crate::patch::Patch;
use crate::plan::Plan;
use crate::progress::{Progress, Stage, Total};
use crate::rejects::{Rejected, Rejects};
use crate::rows::{ById, Row, Rows};
use crate::scan::{NAMED, fault};
use crate::scoped::{self, Scoped};
use crate::slice::Sliced;
use crate::source::{Reading, Source};
use crate::splitting::{Part, repeated_id};
use crate::text::name_of;
use crate::text::{id_in, place_of};

/// How many records of the split are held against one that cannot be taken,
const MANY: usize = 10_000;

/// and of how many such they are looked for beyond their places.
const FEW: usize = 100;

/// What is to become of records that both have changed.
pub struct Rules<'r> {
    /// What both may change.
    pub merge: Merge,
    /// What somebody has said of single records.
    pub resolutions: &'r Resolutions,
    /// Whose version is taken of the others; none is where it is not said.
    pub prefer: &'r [Scoped<Side>],
}

/// What a newer file changes in one collection.
#[derive(Debug)]
pub struct Changes {
    /// The collection.
    pub collection: Collection,
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
    pub named_spared: Vec<String>,
    /// Which record of the file is which, where they have no ids.
    pub alignment: Option<Alignment>,
    /// Records of the new slice that may be something else in the database, once this is applied.
    pub differs: RoaringTreemap,
    /// How many records are written or go.
    pub applied: u64,
    /// Which, and whom they refer to.
    pub edited: Edited,
    /// What becomes of them, until it is staged; with the revisions that were seen, 0 where there was no record.
    edits: BTreeMap<Id, (u64, Becomes)>,
    /// The digests of what goes out of the database, and of what comes.
    outgoing: RecordSet,
    incoming: RecordSet,
    /// The same of the split.
    split_outgoing: Digests,
    split_incoming: Digests,
}

/// What a record is to be, without a text that the file has.
#[derive(Debug)]
enum Becomes {
    /// As the file has it.
    File,
    /// Without an id of its own.
    Given(String),
    /// With one.
    Own(String),
    /// Gone.
    Gone,
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
    /// Nothing changes.
    fn of(collection: Collection) -> Self {
        Self {
            collection,
            added: 0,
            changed: 0,
            removed: 0,
            kept: 0,
            merged: 0,
            conflicts: 0,
            unresolved: 0,
            named: Vec::new(),
            spared: 0,
            named_spared: Vec::new(),
            alignment: None,
            differs: RoaringTreemap::new(),
            applied: 0,
            edited: Edited::default(),
            edits: BTreeMap::new(),
            outgoing: RecordSet::default(),
            incoming: RecordSet::default(),
            split_outgoing: Digests::default(),
            split_incoming: Digests::default(),
        }
    }

    /// What the database should hold once they are applied to one that holds `before`.
    pub fn applied_to(&self, before: RecordSet) -> RecordSet {
        let mut after = before;
        after.unmerge(&self.outgoing);
        after.merge(&self.incoming);
        after
    }

    /// The record `id`, now `stored`, is to be something else.
    fn apply(&mut self, id: Id, outcome: Outcome, stored: Option<&Seen>) {
        if let Some(stored) = stored {
            self.outgoing.add_record(id, stored.id_from_position, stored.json.as_bytes());
        }
        let becomes = match outcome {
            Outcome::File(record) => {
                self.incoming.add_record(id, record.id_from_position, record.json().as_bytes());
                Becomes::File
            }
            Outcome::Own(json) => {
                self.incoming.add_record(id, false, json.as_bytes());
                self.differs.insert(id.get());
                Becomes::Own(json)
            }
            Outcome::Given(json) => {
                self.incoming.add_record(id, true, json.as_bytes());
                self.differs.insert(id.get());
                Becomes::Given(strip_id(&json, id).expect("a given id is the first member"))
            }
            Outcome::Gone => Becomes::Gone,
        };
        self.edits.insert(id, (stored.map_or(0, |stored| stored.revision), becomes));
    }

    /// The record becomes the version to `take`, where that is said.
    fn take(&mut self, take: Option<Take>, versions: &Versions) {
        let &Versions { id, ref base, given, file, stored, .. } = versions;
        let outcome = match take {
            None => {
                self.unresolved += 1;
                return;
            }
            Some(Take::Service) => return,
            Some(Take::File) => file.map_or(Outcome::Gone, Outcome::File),
            Some(Take::Base) => match base.clone() {
                None => Outcome::Gone,
                // Where the file has none, nothing else says that the id was given.
                Some(base) if given && file.is_some() => Outcome::Given(base),
                Some(base) => Outcome::Own(base),
            },
            Some(Take::Own(json)) => Outcome::Own(json),
        };
        self.count(!matches!(outcome, Outcome::Gone), stored.is_some());
        self.apply(id, outcome, stored);
    }

    /// Writes into the new file `path` what becomes of the database's records, as a part of `run`.
    fn stage(&mut self, path: &Path, run: u64, newer: &Rows) -> Result<(), Error> {
        let mut staging = Staging::create(path, run)?;
        let by_id = newer.by_id();
        self.applied = self.edits.len() as u64;
        for (id, (seen, becomes)) in std::mem::take(&mut self.edits) {
            let text = match becomes {
                Becomes::File => {
                    let row = by_id.get(id.get()).expect("it was met in the file");
                    Some(newer.with_record(row, id, |record| {
                        self.edited.note(newer.collection, &record);
                        Text { given: record.id_from_position, json: record.source.to_owned() }
                    })?)
                }
                Becomes::Own(json) => Some(self.note_own(newer.collection, id, false, json)),
                Becomes::Given(json) => Some(self.note_own(newer.collection, id, true, json)),
                Becomes::Gone => None,
            };
            self.edited.ids.insert(id.get());
            if text.is_none() {
                self.edited.gone.insert(id.get());
            }
            staging.put(Edit { id: id.get(), seen, becomes: text })?;
        }
        Ok(staging.finish()?)
    }

    /// Notes whom a record refers to that the file has otherwise.
    fn note_own(&mut self, collection: Collection, id: Id, given: bool, json: String) -> Text {
        let mut records = Records::new(collection, json.len());
        let read = if given { records.push_given(&json, None, Some(id)) } else { records.push_stored(&json, id) };
        read.expect("it was read as such a record");
        records.iter().for_each(|record| self.edited.note(collection, &record));
        Text { given, json }
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
    /// Whose records.
    pub collection: Collection,
    /// The database.
    pub database: &'b mut Database,
    /// What it was filled from.
    pub slice: PathBuf,
    /// What the manifest says of both.
    pub entry: &'b Entry,
    /// The patch that makes the new slice, which is not there yet.
    pub next_patch: PathBuf,
    /// What becomes of the database, which is not there yet either.
    pub next_changes: PathBuf,
}

/// What a newer file is, and what it changes.
pub struct Planned {
    /// The file.
    pub source: Identity,
    /// What the collections would be split into, in their order.
    pub parts: Vec<Part>,
    /// What it changes in them, in their order.
    pub changes: Vec<Changes>,
    /// What their databases were, in their order: nothing that was written later was seen.
    pub looks: Vec<Look>,
}

/// How a newer file is compared with what is there.
pub struct Planning<'p> {
    /// Where it is.
    pub input: &'p Path,
    /// Its collections.
    pub plan: &'p Plan,
    /// Whether it is read as Node reads it.
    pub as_node: bool,
    /// Whether records of the file that was split were rejected.
    pub rejected_before: bool,
    /// What is to become of records that both have changed.
    pub rules: Rules<'p>,
    /// Where each of those goes, as a line.
    pub conflicts: Option<Box<dyn Write + Send + 'p>>,
    /// Whether all that the monolith has must be there.
    pub requires_all: bool,
    /// Whether nothing is to be changed: then no ids are taken.
    pub dry_run: bool,
    /// How progress is shown.
    pub progress: Progress,
}

impl Planning<'_> {
    /// Compares the file, opened as `source`, with what is there, and writes patches.
    pub fn plan(mut self, mut source: Source, before: &mut [Before], rejects: &mut Rejects) -> Result<Planned, Error> {
        let (mut looks, mut all_are_given) = (Vec::new(), Vec::new());
        for before in &mut *before {
            looks.push(before.database.look()?);
            let all_given = are_all_given(before.entry, self.rejected_before, before.collection, before.database)?;
            all_are_given.push(all_given);
        }
        let (older, newer) = self.read_both(&mut source, before, &all_are_given, rejects)?;
        let identity = source.identity();
        let known = ids::known(self.input, self.plan, || Ok(identity.clone()));
        let (mut parts, mut changes) = (Vec::new(), Vec::new());
        // Told apart from every run that was interrupted.
        let run = getrandom::u64().map_err(Error::Random)?;
        for ((((before, look), mut older), mut newer), all_given) in
            before.iter_mut().zip(&looks).zip(older).zip(newer).zip(all_are_given)
        {
            let collection = before.collection;
            let stage = self.progress.stage("aligning", Total::Unknown);
            if collection.has_text_ids() {
                self.number_rows(before, look, &mut older, &mut newer)?;
            }
            let known = known.as_ref().map(|known| &known.of(collection).ids);
            let mut alignment = self.align_rows(before.database, known, &older, &mut newer)?;
            let split = older.by_id();
            let spared = Spared::find(&older, &split, &newer)?;
            alignment.iter_mut().for_each(|alignment| alignment.spare(&spared.ids, &older));
            let files = Files { older: &older, split: &split, newer: &newer, spared: &spared };
            let slice = write_patch(before, &files, all_given)?;
            drop(stage);
            let _stage = self.progress.stage("looking at changes", Total::Unknown);
            let mut of_collection = self.compare(before, look, &files, alignment)?;
            of_collection.stage(&before.next_changes, run, &newer)?;
            let mut digests = Digests { canonical: before.entry.canonical().unwrap_or_default(), ..Digests::default() };
            digests.canonical.unmerge(&of_collection.split_outgoing.canonical);
            digests.canonical.merge(&of_collection.split_incoming.canonical);
            parts.push(Part { collection, digests, slice });
            changes.push(of_collection);
        }
        self.rules.resolutions.check_all_used()?;
        if let Some(conflicts) = &mut self.conflicts {
            conflicts.flush().map_err(Error::io(Path::new("the file for --conflicts")))?;
        }
        Ok(Planned { source: identity, parts, changes, looks })
    }

    /// Reads the slices and the newer file beside each other: what the one does alone, the other fills.
    fn read_both(
        &self,
        source: &mut Source,
        before: &[Before],
        all_are_given: &[bool],
        rejects: &mut Rejects,
    ) -> Result<(Vec<Rows>, Vec<Rows>), Error> {
        let stage = self.progress.stage("comparing", Total::Bytes(source.length()));
        let rows = |before: &Before| Rows::new(self.input, before.collection, self.as_node);
        let mut newer = before.iter().map(rows).collect::<Result<Vec<Rows>, Error>>()?;
        let slices: Vec<_> = before.iter().map(|before| (&*before.slice, before.entry)).collect();
        thread::scope(|scope| {
            let older = scope.spawn(move || {
                let read = |((slice, entry), all_given): ((&Path, &Entry), &bool)| read_older(slice, entry, *all_given);
                slices.into_iter().zip(all_are_given).map(read).collect()
            });
            let read = read_newer(source, &mut newer, rejects, &stage);
            if self.requires_all {
                source.require_all()?;
            }
            let older: Result<Vec<Rows>, Error> = older.join().expect("a reader returns its errors");
            read.and(older)
        })
        .map(|older| (older, newer))
    }

    /// Gives the rows of a collection whose ids are texts their numbers.
    fn number_rows(&self, before: &mut Before, look: &Look, older: &mut Rows, newer: &mut Rows) -> Result<(), Error> {
        let is_untouched = is_untouched(before.entry, look);
        let Some(name) = number(before.database, older, newer, is_untouched, !self.dry_run)? else { return Ok(()) };
        let is_it = |record: &Record| !record.id_from_position && record.id_text().map(name_of) == Some(name);
        Err(self.repeated(before.collection, None, is_it))
    }

    /// Gives the newer rows that lack ids those of the older ones that they are, `known` or found; new ones for the others.
    fn align_rows(
        &self,
        database: &mut Database,
        known: Option<&Ids>,
        older: &Rows,
        newer: &mut Rows,
    ) -> Result<Option<Alignment>, Error> {
        if !newer.collection.may_lack_ids() {
            return Ok(None);
        }
        let known = known.filter(|ids| !ids.are_positions());
        let alignment = match known.and_then(|ids| Alignment::of_known_ids(ids, older, newer)) {
            Some(alignment) => alignment,
            None => align(older, newer, |count, above| give_ids(database, newer, count, above, !self.dry_run))?,
        };
        newer.take_ids(&alignment.ids);
        Ok(Some(alignment))
    }

    /// An id stands twice in the file, that of the records that `is_it` tells.
    fn repeated(&self, collection: Collection, alignment: Option<Alignment>, is_it: impl Fn(&Record) -> bool) -> Error {
        let mut reading = Reading { as_node: self.as_node, ..Reading::default() };
        if let Some(alignment) = alignment {
            reading.given.set(collection, Given { ids: alignment.ids, last_id: 0 });
        }
        repeated_id(self.input, self.plan, &Arc::new(reading), collection, is_it)
    }

    /// What the file changes in one collection. The newer rows have their ids.
    fn compare(
        &mut self,
        before: &mut Before,
        look: &Look,
        files: &Files,
        alignment: Option<Alignment>,
    ) -> Result<Changes, Error> {
        let &Files { older, split, .. } = files;
        let collection = before.collection;
        let mut changes = Changes::of(collection);
        let touched = Touched::find(before, look, older, split)?;
        let different = self.find_different(&mut changes, files, &touched, alignment)?;
        // Records of the service's own that the file has, too.
        let mut met = 0;
        for part in different.chunks(AT_ONCE) {
            let ids: Vec<u64> = part.iter().map(|(id, _)| *id).collect();
            let stored = before.database.records(&ids)?;
            for (number, row) in part {
                // No id was taken for what is new: where it has got to somebody else's record meanwhile, that is not met.
                let is_new = |row: &Row| row.given || collection.has_text_ids();
                let is_not_taken = self.dry_run && *number > look.last_id && row.is_some_and(is_new);
                let (was, stored) = (split.get(*number), stored.get(number).filter(|_| !is_not_taken));
                met += u64::from(stored.is_some() && was.is_none());
                // Whatever a service does while this goes on shows as well.
                let is_touched =
                    touched.has(*number) || stored.map_or(was.is_some(), |stored| stored.revision > look.revision);
                let id = Id::try_from(*number).expect("it came from an id");
                self.compare_record(&mut changes, files, id, *row, stored, is_touched)?;
            }
        }
        changes.differs |= &touched.ids;
        let of_the_split = older.rows.len() as u64 - touched.removed;
        changes.kept += look.records.count.saturating_sub(of_the_split + met);
        Ok(changes)
    }

    /// The ids of the records that the file has otherwise than the split, with their rows where it has them at all.
    /// Counts those that stay as they are.
    fn find_different<'f>(
        &self,
        changes: &mut Changes,
        &Files { older, split, newer, spared }: &Files<'f>,
        touched: &Touched,
        alignment: Option<Alignment>,
    ) -> Result<Vec<(u64, Option<&'f Row>)>, Error> {
        let collection = changes.collection;
        let mut seen = RoaringTreemap::new();
        let mut different = Vec::new();
        for row in newer.rows.iter().filter(|row| !row.rejected) {
            if !seen.insert(row.id) {
                return Err(self.repeated(collection, alignment, |record| record.id.get() == row.id));
            }
            let was = split.get(row.id);
            if was.is_some_and(|was| was.hash == row.hash && was.given == row.given) {
                changes.kept += u64::from(touched.has(row.id));
            } else {
                different.push((row.id, Some(row)));
            }
        }
        changes.alignment = alignment;
        for row in older.rows.iter().filter(|row| !seen.contains(row.id)) {
            if !spared.ids.contains(row.id) {
                different.push((row.id, None));
                continue;
            }
            changes.spared += 1;
            changes.kept += u64::from(touched.has(row.id));
            if changes.named_spared.len() < NAMED {
                let id = Id::try_from(row.id).expect("it came from an id");
                changes.named_spared.push(older.with_record(row, id, |record| id_in(collection, id, &record.json()))?);
            }
        }
        Ok(different)
    }

    /// What becomes of the record `id`: the file has it in `row`, if at all, and the database as `stored`.
    fn compare_record(
        &mut self,
        changes: &mut Changes,
        &Files { older, split, newer, .. }: &Files,
        id: Id,
        row: Option<&Row>,
        stored: Option<&Seen>,
        is_touched: bool,
    ) -> Result<(), Error> {
        let collection = changes.collection;
        let was = split.get(id.get());
        let base = was.map(|was| older.with_record(was, id, |record| record.json().into_owned())).transpose()?;
        if let Some(base) = &base {
            changes.split_outgoing.add(id, false, base);
        }
        let given = was.is_some_and(|was| was.given);
        let versions = Versions { collection, id, base, given, file: None, stored };
        let Some(row) = row else {
            let Some(stored) = stored else { return Ok(()) };
            return self.settle(changes, &versions, is_touched, || place_of(collection, id, &stored.json));
        };
        newer.with_record(row, id, |record| {
            changes.split_incoming.add(id, false, &record.json());
            let equal = stored.is_some_and(|stored| {
                stored.json == record.json() && stored.id_from_position == record.id_from_position
            });
            if equal {
                return Ok(());
            }
            let versions = Versions { file: Some(&record), ..versions };
            self.settle(changes, &versions, is_touched, || newer.pointer(row))
        })?
    }

    /// The file and the database have different versions of a record, or one of them has none.
    fn settle(
        &mut self,
        changes: &mut Changes,
        versions: &Versions,
        is_touched: bool,
        pointer: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        let &Versions { collection, id, ref base, file, stored, .. } = versions;
        if !is_touched && (base.is_some() || stored.is_none()) {
            changes.take(Some(Take::File), versions);
            return Ok(());
        }
        let text = file.map(|record| record.json().into_owned());
        if text == *base {
            changes.kept += 1;
            return Ok(());
        }
        let service = stored.map(|stored| stored.json.clone());
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
        let preferred = scoped::of(self.rules.prefer, collection).map(|side| match side {
            Side::Monolith => Take::File,
            Side::Service => Take::Service,
        });
        let take = resolved.or(preferred);
        if let Some(out) = &mut self.conflicts {
            conflict.write(take.as_ref(), out).map_err(Error::io(Path::new("the file for --conflicts")))?;
        }
        changes.take(take, versions);
        if changes.named.len() < NAMED {
            changes.named.push(conflict);
        }
        Ok(())
    }
}

/// The records of one collection, as they were split and as the newer file has them.
struct Files<'f> {
    older: &'f Rows,
    /// The same by their ids.
    split: &'f ById<'f>,
    newer: &'f Rows,
    spared: &'f Spared,
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
    stored: Option<&'v Seen>,
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
    fn find(before: &mut Before, look: &Look, older: &Rows, split: &ById) -> Result<Self, Error> {
        let Before { database, entry, .. } = before;
        let now = Moment::at(look, RoaringTreemap::new());
        let since = entry.database.as_ref();
        let since = since.filter(|then| then.history == now.history && then.revision <= now.revision);
        let mut suspects = since.map(|then| then.differs.clone()).unwrap_or_default();
        let mut absent = RoaringTreemap::new();
        if !is_untouched(entry, look) {
            let (there, written) = database.written(since.map_or(0, |then| then.revision))?;
            suspects |= written;
            absent.extend(older.rows.iter().map(|row| row.id).filter(|id| !there.contains(*id)));
        }
        let mut touched = Self { ids: RoaringTreemap::new(), removed: 0 };
        let suspects: Vec<&Row> = suspects.iter().filter_map(|id| split.get(id)).collect();
        for part in suspects.chunks(AT_ONCE) {
            let records = database.records(&part.iter().map(|row| row.id).collect::<Vec<_>>())?;
            for row in part {
                let Some(stored) = records.get(&row.id) else {
                    absent.insert(row.id);
                    continue;
                };
                let id = Id::try_from(row.id).expect("it came from an id");
                if !older.with_record(row, id, |record| record.json() == stored.json)? {
                    touched.ids.insert(row.id);
                }
            }
        }
        touched.removed = absent.len();
        touched.ids |= absent;
        Ok(touched)
    }
}

/// Whether nobody has written to a database since it was as the manifest says.
fn is_untouched(entry: &Entry, look: &Look) -> bool {
    let now = Moment::at(look, RoaringTreemap::new());
    let is_same =
        |then: &Moment| (&then.history, then.revision, &then.exact) == (&now.history, now.revision, &now.exact);
    entry.database.as_ref().is_some_and(is_same)
}

/// Reads the newer file, as far as it has records of collections that are there.
fn read_newer(source: &mut Source, newer: &mut [Rows], rejects: &mut Rejects, stage: &Stage) -> Result<(), Error> {
    while let Some(batch) = source.next_batch()? {
        if let Some(newer) = newer.iter_mut().find(|rows| rows.collection == batch.collection) {
            let records = rejects.sift(&batch)?;
            let rejected = rejects.last().iter().map(Rejected::of).collect();
            newer.add(&records, rejected, &|_| false, |record| batch.span(record));
            stage.advance(batch.size().0, batch.size().1);
        }
        source.recycle(batch);
    }
    Ok(())
}

/// Reads the slice of what is there.
fn read_older(slice: &Path, entry: &Entry, all_given: bool) -> Result<Rows, Error> {
    let collection = entry.in_slice();
    let mut rows = Rows::new(slice, collection, false)?;
    let mut source = entry.open_slice(slice, collection)?.hashed();
    rows.read(&mut source, &|id| all_given || entry.given.contains(id), false, None)?;
    if source.identity() == entry.slice {
        return Ok(rows);
    }
    let fault = fault(collection, true, false, true).unwrap_or_default();
    Err(Error::Difference(format!("{fault}\n`seed --replace` splits the file anew.")))
}

/// Whether all ids that stand in a slice are given. A `seed` before this one did not note them, and wrote them where
/// records had been rejected, which the monolith's list had without ids.
pub fn are_all_given(
    entry: &Entry,
    rejected: bool,
    collection: Collection,
    database: &mut Database,
) -> Result<bool, Error> {
    if entry.database.is_some() || !rejected || !collection.may_lack_ids() {
        return Ok(false);
    }
    let ids: Vec<u64> = database.written(u64::MAX)?.0.iter().collect();
    for ids in ids.chunks(AT_ONCE) {
        if database.records(ids)?.values().any(|record| record.id_from_position) {
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
        let is_left = |spared: &Self, nth: usize| {
            let id = older.rows[nth].id;
            !there.contains(id) && !spared.ids.contains(id)
        };
        let mut untold = Vec::new();
        for (nth, row) in newer.rows.iter().enumerate().filter(|(_, row)| row.rejected) {
            let rejected = &newer.rejected[&row.position];
            let (is_told, was) = if older.collection.has_text_ids() {
                let was = rejected.name.and_then(|name| older.named(name)).map(|nth| &older.rows[nth]);
                (rejected.name.is_some(), was)
            } else {
                (rejected.id.is_some(), rejected.id.and_then(|id| split.get(id)))
            };
            match was.filter(|row| is_left(&spared, place_in_slice(row))) {
                Some(row) => spared.add(older, rejected.position, place_in_slice(row)),
                None if is_told => {}
                None => untold.push((nth, rejected)),
            }
        }
        let left: Vec<usize> = (0..older.rows.len()).filter(|nth| is_left(&spared, *nth)).collect();
        let are_few = untold.len() <= FEW;
        for (nth, rejected) in untold {
            let is_free = |place: &usize| is_left(&spared, *place);
            let here = places_around(nth, older, split, newer, is_free);
            let best = match &rejected.content {
                Some(said) => {
                    let mut best = find_alike(said, older, here.iter().copied().filter(is_free))?;
                    if best.is_none() && are_few {
                        best = find_alike(said, older, left.iter().copied().filter(is_free))?;
                    }
                    best
                }
                None => None,
            };
            let may_be = match best {
                Some(place) => vec![place],
                None => (if here.is_empty() { &left } else { &here }).iter().copied().filter(is_free).collect(),
            };
            may_be.into_iter().for_each(|place| spared.add(older, rejected.position, place));
        }
        Ok(spared)
    }

    fn add(&mut self, older: &Rows, position: u64, place: usize) {
        self.ids.insert(older.rows[place].id);
        self.at.entry(position).or_default().push(place);
    }
}

/// The place of an older row. A slice has no rejects: the position is the place.
fn place_in_slice(row: &Row) -> usize {
    (row.position - 1) as usize
}

/// The places of older rows that are free, and next to those of what the newer rows around the `nth` are.
fn places_around(nth: usize, older: &Rows, split: &ById, newer: &Rows, is_free: impl Fn(&usize) -> bool) -> Vec<usize> {
    let matched = |row: &Row| if row.rejected { None } else { split.get(row.id).map(place_in_slice) };
    let before = newer.rows[..nth].iter().rev().find_map(matched);
    let behind = newer.rows[nth + 1..].iter().find_map(matched);
    let mut here: Vec<usize> = (before.map_or(0, |place| place + 1)..older.rows.len()).take_while(&is_free).collect();
    here.extend((0..behind.unwrap_or(older.rows.len())).rev().take_while(&is_free));
    here.sort_unstable();
    here.dedup();
    here
}

/// The first of the `places` whose record is most like what was `said`, if one is like it.
fn find_alike(said: &Content, older: &Rows, places: impl Iterator<Item = usize>) -> Result<Option<usize>, Error> {
    let mut best: Option<(usize, f64)> = None;
    for place in places.take(MANY) {
        let row = &older.rows[place];
        let id = Id::try_from(row.id).unwrap_or(Id::MAX);
        let content = older.with_record(row, id, |record| Content::of(record.source))?;
        let alike = alikeness(said, &content);
        if let Some(alike) = alike.filter(|alike| best.is_none_or(|(_, so_far)| *alike > so_far)) {
            best = Some((place, alike));
        }
    }
    Ok(best.map(|(place, _)| place))
}

/// Writes the patch that makes the new slice of the one that is there, and says what that will be. Whatever stands there is
/// taken from there, unless an earlier `seed` wrote it, as `all_given` says.
fn write_patch(
    before: &Before,
    &Files { older, split, newer, spared }: &Files,
    all_given: bool,
) -> Result<Sliced, Error> {
    let mut patch = Patch::create(&before.next_patch, &before.slice, before.collection)?;
    let put_old = |patch: &mut Patch, row: &Row| {
        let has_id = row.given && row.id != row.position;
        if all_given {
            return patch.put_text(row.id, row.given, &older.text_without_given_id(row)?);
        }
        patch.put_old(row.id, row.given, has_id, row.offset, row.length)
    };
    for row in &newer.rows {
        if row.rejected {
            for place in spared.at.get(&row.position).into_iter().flatten() {
                put_old(&mut patch, &older.rows[*place])?;
            }
            continue;
        }
        match split.get(row.id).filter(|was| was.hash == row.hash && was.given == row.given) {
            Some(was) => put_old(&mut patch, was)?,
            None => {
                let id = Id::try_from(row.id).unwrap_or(Id::MAX);
                newer.with_record(row, id, |record| patch.put_text(row.id, row.given, record.source))??;
            }
        }
    }
    let sliced = patch.finish()?;
    if sliced.file == before.entry.slice {
        fs::remove_file(&before.next_patch).map_err(Error::io(&before.next_patch))?;
    }
    Ok(sliced)
}
