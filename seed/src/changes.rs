//! Compares a newer file with the existing split and stages what it changes.
//!
//! Each record has three versions: the slice's, which was split, the newer file's, and the service's. A side that differs
//! from the slice has changed the record:
//!
//! | the file | the service | result |
//! |---|---|---|
//! | as split | any | the service's version stays |
//! | changed | as split | the file's version is applied |
//! | changed | the same change | nothing to do |
//! | changed | changed in other fields | both changes are applied |
//! | changed | changed otherwise | a [conflict](crate::conflict): nothing at all is applied until it is resolved |
//!
//! Adding and removing a record are changes, too. Ids match the file's records with the slice's; records without ids
//! are matched by the [alignment](crate::align). A rejected record changes nothing. The changes are staged in a file
//! beside the patch of each slice, and [`target`](crate::target) has the databases make them, with or without a running
//! service.

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

/// The number of the split's records that are compared with one rejected record.
const MANY: usize = 10_000;

/// The number of rejected records up to which each is also looked for away from its place.
const FEW: usize = 100;

/// The rules for records that both sides have changed.
pub struct Rules<'r> {
    /// The changes that are merged.
    pub merge: Merge,
    /// The resolutions of single conflicts.
    pub resolutions: &'r Resolutions,
    /// The side whose version is taken in the other conflicts; without one, they stay unresolved.
    pub prefer: &'r [Scoped<Side>],
}

/// The changes that a newer file makes in one collection.
#[derive(Debug)]
pub struct Changes {
    /// The collection.
    pub collection: Collection,
    /// New records.
    pub added: u64,
    /// Records whose text changes.
    pub changed: u64,
    /// Records that go.
    pub removed: u64,
    /// Records that only the service has added, changed or removed: they stay as the service has them.
    pub kept: u64,
    /// Records in which the two sides have changed different fields.
    pub merged: u64,
    /// Records that the two sides have changed in different ways.
    pub conflicts: u64,
    /// The conflicts that neither a resolution nor a preference settles.
    pub unresolved: u64,
    /// The first conflicts.
    pub named: Vec<Conflict>,
    /// Records of the split that the file has in a form that is rejected: they stay.
    pub spared: u64,
    /// The first of them.
    pub named_spared: Vec<String>,
    /// The matching of the file's records with the slice's, if they have no ids.
    pub alignment: Option<Alignment>,
    /// Records of the new slice that the database may have otherwise once the changes are applied.
    pub differs: RoaringTreemap,
    /// The number of records that are written or removed.
    pub applied: u64,
    /// Their ids and references.
    pub edited: Edited,
    /// Their new states, until they are staged, with the revisions that were seen: 0 for a record that did not exist.
    edits: BTreeMap<Id, (u64, Becomes)>,
    /// The digests of the records that leave the database, and of those that enter it.
    outgoing: RecordSet,
    incoming: RecordSet,
    /// The same for the split.
    split_outgoing: Digests,
    split_incoming: Digests,
}

/// A record's new state. It holds no text that can be read from the file again.
#[derive(Debug)]
enum Becomes {
    /// The file's version.
    File,
    /// This text, in which the record has no id of its own.
    Given(String),
    /// This text, in which it has one.
    Own(String),
    /// No record.
    Gone,
}

/// The version of a record that was decided on.
enum Outcome<'r> {
    /// The file's version.
    File(&'r Record<'r>),
    /// This text, with the record's own id.
    Own(String),
    /// This text, with an id that is not the record's own.
    Given(String),
    /// No record.
    Gone,
}

impl Changes {
    /// Returns an empty set of changes for `collection`.
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

    /// Returns what a database that holds `before` should hold once the changes are applied.
    pub fn applied_to(&self, before: RecordSet) -> RecordSet {
        let mut after = before;
        after.unmerge(&self.outgoing);
        after.merge(&self.incoming);
        after
    }

    /// Notes that the record `id`, now `stored`, becomes `outcome`.
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

    /// Makes the record the version to `take`; without one, counts it as unresolved.
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
                // Without a record in the file, nothing else tells that the id was given.
                Some(base) if given && file.is_some() => Outcome::Given(base),
                Some(base) => Outcome::Own(base),
            },
            Some(Take::Own(json)) => Outcome::Own(json),
        };
        self.count(!matches!(outcome, Outcome::Gone), stored.is_some());
        self.apply(id, outcome, stored);
    }

    /// Stages the changes of the database's records in the new file `path`, as a part of `run`.
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

    /// Notes the references of a record whose new text is not the file's.
    fn note_own(&mut self, collection: Collection, id: Id, given: bool, json: String) -> Text {
        let mut records = Records::new(collection, json.len());
        let read = if given { records.push_given(&json, None, Some(id)) } else { records.push_stored(&json, id) };
        read.expect("it was read as such a record");
        records.iter().for_each(|record| self.edited.note(collection, &record));
        Text { given, json }
    }

    /// Counts a record as changed, added or removed, by whether it will exist and whether it is stored now.
    fn count(&mut self, file: bool, stored: bool) {
        match (file, stored) {
            (true, true) => self.changed += 1,
            (true, false) => self.added += 1,
            (false, _) => self.removed += 1,
        }
    }
}

/// The present state of one collection, and the files that its changes are written to.
pub struct Before<'b> {
    /// The collection.
    pub collection: Collection,
    /// Its database.
    pub database: &'b mut Database,
    /// The slice that the database was filled from.
    pub slice: PathBuf,
    /// The manifest's entry for both.
    pub entry: &'b Entry,
    /// The path of the patch that makes the new slice; the file does not exist yet.
    pub next_patch: PathBuf,
    /// The path of the staged changes of the database; the file does not exist yet.
    pub next_changes: PathBuf,
}

/// A newer file's identity and its changes. The lists are in the order of the collections.
pub struct Planned {
    /// The file.
    pub source: Identity,
    /// The new split of each collection.
    pub parts: Vec<Part>,
    /// The changes in each collection.
    pub changes: Vec<Changes>,
    /// The states in which the databases were looked at: nothing that was written later was seen.
    pub looks: Vec<Look>,
}

/// The comparison of a newer file with the existing split.
pub struct Planning<'p> {
    /// The file's path.
    pub input: &'p Path,
    /// Its collections.
    pub plan: &'p Plan,
    /// Whether the file is read as Node reads it.
    pub as_node: bool,
    /// Whether the split rejected records.
    pub rejected_before: bool,
    /// The rules for records that both sides have changed.
    pub rules: Rules<'p>,
    /// Receives each conflict as a line.
    pub conflicts: Option<Box<dyn Write + Send + 'p>>,
    /// Whether the file must have every collection of the monolith.
    pub requires_all: bool,
    /// Whether this only shows the changes: then it takes no ids.
    pub dry_run: bool,
    /// The display of progress.
    pub progress: Progress,
}

impl Planning<'_> {
    /// Compares the file, opened as `source`, with the existing split; writes patches and staged changes.
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
        // Tells this run from every interrupted one.
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
            parts.push(Part { collection, digests, slice, sums: None });
            changes.push(of_collection);
        }
        self.rules.resolutions.check_all_used()?;
        if let Some(conflicts) = &mut self.conflicts {
            conflicts.flush().map_err(Error::io(Path::new("the file for --conflicts")))?;
        }
        Ok(Planned { source: identity, parts, changes, looks })
    }

    /// Reads the slices and the newer file at the same time: one keeps the cores busy while the other waits.
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

    /// Gives the rows their numbers, in a collection with text ids.
    fn number_rows(&self, before: &mut Before, look: &Look, older: &mut Rows, newer: &mut Rows) -> Result<(), Error> {
        let is_untouched = is_untouched(before.entry, look);
        let Some(name) = number(before.database, older, newer, is_untouched, !self.dry_run)? else { return Ok(()) };
        let is_it = |record: &Record| !record.id_from_position && record.id_text().map(name_of) == Some(name);
        Err(self.repeated(before.collection, None, is_it))
    }

    /// Gives newer rows without ids the ids of the older rows that they match, `known` or found; gives the others new
    /// ids.
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

    /// Returns the error for an id that stands twice in the file; `is_it` recognizes its records.
    fn repeated(&self, collection: Collection, alignment: Option<Alignment>, is_it: impl Fn(&Record) -> bool) -> Error {
        let mut reading = Reading { as_node: self.as_node, ..Reading::default() };
        if let Some(alignment) = alignment {
            reading.given.set(collection, Given { ids: alignment.ids, last_id: 0 });
        }
        repeated_id(self.input, self.plan, &Arc::new(reading), collection, is_it)
    }

    /// Finds the changes that the file makes in one collection. The newer rows have their ids.
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
        // Counts the records that the service has added and the file has, too.
        let mut met = 0;
        for part in different.chunks(AT_ONCE) {
            let ids: Vec<u64> = part.iter().map(|(id, _)| *id).collect();
            let stored = before.database.records(&ids)?;
            for (number, row) in part {
                // A dry run takes no ids: a record with the same id, created meanwhile by the service, is another one.
                let is_new = |row: &Row| row.given || collection.has_text_ids();
                let is_not_taken = self.dry_run && *number > look.last_id && row.is_some_and(is_new);
                let (was, stored) = (split.get(*number), stored.get(number).filter(|_| !is_not_taken));
                met += u64::from(stored.is_some() && was.is_none());
                // Writes of the service during the comparison show in the revision.
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

    /// Lists the ids of the records in which the file differs from the split, each with its row if the file has one.
    /// Counts the records that stay.
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

    /// Decides on the record `id`, which is `row` in the file and `stored` in the database, if they have it.
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

    /// Decides on a record that differs between the file and the database, or that only one of them has.
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

/// The records of one collection in the slice and in the newer file.
struct Files<'f> {
    older: &'f Rows,
    /// The older rows by their ids.
    split: &'f ById<'f>,
    newer: &'f Rows,
    spared: &'f Spared,
}

/// The versions of a record.
struct Versions<'v> {
    collection: Collection,
    id: Id,
    /// The version that was split.
    base: Option<String>,
    /// Whether the split gave that version its id.
    given: bool,
    /// The file's version.
    file: Option<&'v Record<'v>>,
    /// The database's version.
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

    /// Finds them by their revisions, if the manifest knows the database's revision right after the split; else by
    /// their texts.
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

/// Tells whether a database has not been written to since the manifest noted its state.
fn is_untouched(entry: &Entry, look: &Look) -> bool {
    let now = Moment::at(look, RoaringTreemap::new());
    let is_same =
        |then: &Moment| (&then.history, then.revision, &then.exact) == (&now.history, now.revision, &now.exact);
    entry.database.as_ref().is_some_and(is_same)
}

/// Reads the newer file's records into the rows of their collections; skips other collections.
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

/// Reads the existing slice, and checks that it is the one that the manifest names.
fn read_older(slice: &Path, entry: &Entry, all_given: bool) -> Result<Rows, Error> {
    let collection = entry.in_slice();
    let mut rows = Rows::new(slice, collection, false)?;
    let mut source = entry.open_slice(slice, collection)?.hashed();
    rows.read(&mut source, &|id| all_given || entry.given.contains(id), false, None)?;
    if source.identity() == entry.slice {
        return Ok(rows);
    }
    let fault = fault(collection, true, false).unwrap_or_default();
    Err(Error::Difference(format!("{fault}\n`seed --replace` splits the file anew.")))
}

/// Tells whether every id in a slice was given by the split. An older `seed` did not note given ids, but wrote them
/// into the slice if it had rejected records of a list without ids.
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

/// Records of the split that the newer file has in a form that is rejected: they stay as they were.
#[derive(Default)]
struct Spared {
    ids: RoaringTreemap,
    /// The places, among the older rows, of the records that each rejected record spares, by its position.
    at: BTreeMap<u64, Vec<usize>>,
}

impl Spared {
    /// Finds them by the ids of the rejected records, else by their content; failing both, spares every candidate.
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

/// Returns the place of an older row. A slice has no rejects, so the position is the place.
fn place_in_slice(row: &Row) -> usize {
    (row.position - 1) as usize
}

/// Lists the places of free older rows next to those that match the neighbours of the `nth` newer row.
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

/// Returns the place whose record is most like `said`, the first of several; `None` if no record is like it.
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

/// Writes the patch that turns the existing slice into the new one, and describes the new one. Unchanged records are
/// taken from the existing slice, unless an older `seed` wrote it (`all_given`).
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
