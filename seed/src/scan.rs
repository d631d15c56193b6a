//! The proof: reads databases and slices back, and compares them with their source.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::{io, thread};

use rayon::prelude::*;
use record::id::Id;
use record::model::{Collection, Records};
use record::words::agree;
use roaring::RoaringTreemap;
use store::backup::Head;
use store::{Store, StoreError, Stored};

use crate::digest::Digests;
use crate::error::Error;
use crate::plan::Plan;
use crate::progress::Stage;
use crate::rejects::Rejects;
use crate::source::{Reading, Source};
use crate::sums::Sums;
use crate::text::{Difference, differences, place_of};

/// The number of records in one piece of work.
const PART: usize = 1024;

/// The number of pieces of work that are read before the cores take them.
const PARTS: usize = 16;

/// The number of differences that are named; the others are counted.
pub const NAMED: usize = 20;

/// A database that was read from end to end.
pub struct Scanned {
    /// The database.
    pub store: Store,
    /// The digests of its records.
    pub digests: Digests,
    /// Whether each index matches the records.
    pub indexes_equal: bool,
    /// Whether the records match the count that the database keeps of them.
    pub counted: bool,
}

impl Scanned {
    /// Tells whether the database is undamaged.
    pub fn is_sound(&self) -> bool {
        self.indexes_equal && self.counted
    }
}

/// Reads all records and all indexes of a database, as a part of `stage`.
pub fn scan(store: Store, stage: &Stage) -> Result<Scanned, Error> {
    let empty = Sums::default();
    // Progress is counted on this thread.
    let (found, records) = thread::scope(|scope| {
        let found = scope.spawn(|| sum_entries(&store, empty.empty()));
        let records = scan_records(&store, &empty, stage);
        (found.join().expect("a scan returns its errors"), records)
    });
    let (digests, expected) = records?;
    let counted = store.counted()? == digests.exact;
    Ok(Scanned { digests, indexes_equal: found?.entries == expected.entries, counted, store })
}

/// Reads a database that this run has loaded with records of these `digests`. If it holds what it should by the sums,
/// nothing has to be parsed or digested again; otherwise it is scanned.
pub fn scan_loaded(store: Store, expected: &Sums, digests: Digests, stage: &Stage) -> Result<Scanned, Error> {
    let (entries, records) = thread::scope(|scope| {
        let entries = scope.spawn(|| sum_entries(&store, expected.empty()));
        let records = sum_records(&store, expected.empty(), stage);
        (entries.join().expect("a sum returns its errors"), records)
    });
    let is_equal = records.is_ok_and(|sums| sums.records == expected.records)
        && entries.is_ok_and(|sums| sums.entries == expected.entries);
    if !is_equal {
        return scan(store, stage);
    }
    let counted = store.counted()? == digests.exact;
    Ok(Scanned { digests, indexes_equal: true, counted, store })
}

/// Adds the existing records to `sums`.
fn sum_records(store: &Store, mut sums: Sums, stage: &Stage) -> Result<Sums, Error> {
    let mut records = store.records();
    loop {
        let mut read = 0;
        for record in records.by_ref().take(PART) {
            let (id, stored) = record?;
            sums.add_record(id, stored.id_from_position, stored.json());
            read += 1;
        }
        if read == 0 {
            return Ok(sums);
        }
        stage.advance(0, read);
    }
}

/// Returns the digests of the records, and the sums of the index entries they should have.
fn scan_records(store: &Store, empty: &Sums, stage: &Stage) -> Result<(Digests, Sums), Error> {
    let mut digests = Digests::default();
    let mut entries = empty.empty();
    let mut records = store.records();
    loop {
        let mut parts: Vec<Vec<(Id, Stored)>> = Vec::new();
        while parts.len() < PARTS {
            match records.by_ref().take(PART).collect::<Result<Vec<_>, _>>()? {
                part if part.is_empty() => break,
                part => parts.push(part),
            }
        }
        if parts.is_empty() {
            return Ok((digests, entries));
        }
        let scanned: Vec<_> = parts.par_iter().map(|part| scan_part(store, empty.empty(), part)).collect();
        stage.advance(0, parts.iter().map(|part| part.len() as u64).sum());
        for part in scanned {
            let (part, of_part) = part?;
            digests.merge(&part);
            entries.merge(&of_part);
        }
    }
}

/// Adds the existing index entries to `sums`.
fn sum_entries(store: &Store, mut sums: Sums) -> Result<Sums, StoreError> {
    let mut entries = store.entries();
    while let Some(entry) = entries.next() {
        let (prefix, id) = entry?;
        sums.add_entry(prefix, id);
    }
    Ok(sums)
}

/// Returns the digests of some records, and `entries` with the index entries they should have.
fn scan_part(store: &Store, mut entries: Sums, part: &[(Id, Stored)]) -> Result<(Digests, Sums), Error> {
    let collection = store.made_by();
    let mut digests = Digests::default();
    let unreadable = |id: Id, why: &str| {
        Error::Damaged(format!("{} {id}: the database holds no such record: {why}", collection.name()))
    };
    let bytes = part.iter().map(|(_, stored)| stored.json().len() + 1).sum();
    let mut read = Records::new(collection, bytes).with_room_for(part.len());
    for (id, stored) in part {
        let json = std::str::from_utf8(stored.json()).map_err(|error| unreadable(*id, &error.to_string()))?;
        read.push_lying(json, *id, false).map_err(|fault| unreadable(*id, &fault.to_string()))?;
    }
    for ((id, stored), record) in part.iter().zip(read.iter()) {
        if record.id != *id || record.source.as_bytes() != stored.json() {
            return Err(unreadable(*id, "it is not in canonical form"));
        }
        entries.add_entries_of(store, &record);
        digests.add(*id, stored.id_from_position, record.source);
    }
    Ok((digests, entries))
}

/// A comparison of a file with a database, record by record, by meaning.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Records that are equal in both.
    pub equal: u64,
    /// Records that differ between the two.
    pub changed: u64,
    /// Records that only the file has.
    pub removed: u64,
    /// Records that only the database has.
    pub added: u64,
    /// The first differences, the file's side left, the database's right.
    pub named: Vec<Difference>,
}

impl Comparison {
    /// Counts the records that differ.
    pub fn differences(&self) -> u64 {
        self.changed + self.removed + self.added
    }

    fn name(&mut self, differences: impl IntoIterator<Item = Difference>) {
        let room = NAMED - self.named.len();
        self.named.extend(differences.into_iter().take(room));
    }
}

/// Compares the file at `path`, which holds the collections `wanted`, with their databases. A rejected record is an
/// error unless rejects are `passed_over`. The comparisons are in the databases' order.
pub fn compare(
    path: &Path,
    reading: &Arc<Reading>,
    wanted: &Plan,
    passed_over: bool,
    databases: &[&Scanned],
) -> Result<Vec<Comparison>, Error> {
    let again = || if passed_over { Rejects::pass_over(path) } else { Rejects::refuse(path) };
    let mut rejects = again();
    let mut comparisons: Vec<Comparison> = databases.iter().map(|_| Comparison::default()).collect();
    let mut seen: Vec<RoaringTreemap> = databases.iter().map(|_| RoaringTreemap::new()).collect();
    let mut source = Source::open(path, wanted)?.read_as(reading).passing(Box::new(io::sink()));
    while let Some(batch) = source.next_batch()? {
        let Some(nth) = databases.iter().position(|scanned| scanned.store.collection() == batch.collection) else {
            continue;
        };
        let comparison = &mut comparisons[nth];
        for record in rejects.sift(&batch)?.iter().flat_map(Records::iter) {
            if !seen[nth].insert(record.id.get()) {
                let reason = format!("the id {} is taken by an earlier record", record.id);
                return Err(batch.reject(&record, reason).into_error(path));
            }
            let json = record.json();
            let stored = databases[nth].store.get(record.id)?;
            let pointer = || batch.pointer(&record);
            match stored.as_ref().map(|stored| String::from_utf8_lossy(stored.json())) {
                Some(stored) if stored == json => comparison.equal += 1,
                Some(stored) => {
                    let differences = differences(&pointer(), &json, &stored);
                    if differences.is_empty() {
                        comparison.equal += 1;
                    } else {
                        comparison.changed += 1;
                        comparison.name(differences);
                    }
                }
                None => {
                    comparison.removed += 1;
                    comparison.name([Difference { pointer: pointer(), left: Some(json.into_owned()), right: None }]);
                }
            }
        }
    }
    for (comparison, scanned) in comparisons.iter_mut().zip(databases) {
        comparison.added = scanned.digests.exact.count - comparison.equal - comparison.changed;
        if comparison.added > 0 && comparison.named.len() < NAMED {
            name_added(path, reading, wanted, again(), &scanned.store, comparison)?;
        }
    }
    Ok(comparisons)
}

/// Names records that only the database has, by their ids: they have no place in the file.
fn name_added(
    path: &Path,
    reading: &Arc<Reading>,
    wanted: &Plan,
    mut rejects: Rejects,
    store: &Store,
    comparison: &mut Comparison,
) -> Result<(), Error> {
    let mut in_file = RoaringTreemap::new();
    let mut source = Source::open(path, wanted)?.read_as(reading).passing(Box::new(io::sink()));
    while let Some(batch) = source.next_batch()? {
        if batch.collection == store.collection() {
            in_file.extend(rejects.sift(&batch)?.iter().flat_map(Records::iter).map(|record| record.id.get()));
        }
    }
    for entry in store.records() {
        let (id, stored) = entry?;
        if !in_file.contains(id.get()) {
            let json = String::from_utf8_lossy(stored.json()).into_owned();
            let pointer = place_of(store.collection(), id, &json);
            let right = Some(json);
            comparison.name([Difference { pointer, left: None, right }]);
            if comparison.named.len() == NAMED {
                break;
            }
        }
    }
    Ok(())
}

/// Describes the number of different records, and the first differences.
pub fn describe_differences(comparison: &Comparison) -> String {
    let mut lines = format!(
        "{} {} ({} changed, {} only in the file, {} only in the database):",
        comparison.differences(),
        agree(comparison.differences(), "record differs", "records differ"),
        comparison.changed,
        comparison.removed,
        comparison.added,
    );
    for Difference { pointer, left, right } in &comparison.named {
        let [left, right] = [left, right].map(|side| side.as_deref().unwrap_or("nothing"));
        let _ = write!(lines, "\n  {pointer}: {left} in the file, {right} in the database");
    }
    lines
}

/// Describes the damage of a database; returns `None` if it is sound.
pub fn damage(scanned: &Scanned) -> Option<String> {
    let name = scanned.store.collection().name();
    let found = [
        (scanned.counted, "its records do not match its service's count of them"),
        (scanned.indexes_equal, "an index does not match the records"),
    ];
    let found: Vec<&str> = found.into_iter().filter(|(good, _)| !good).map(|(_, what)| what).collect();
    (!found.is_empty()).then(|| format!("{name}: the database is damaged: {}", found.join("; ")))
}

/// Describes the difference between a database and a backup.
pub fn other_than_backup(scanned: &Scanned, head: &Head) -> String {
    let (name, held) = (scanned.store.collection().name(), scanned.digests.exact);
    format!(
        "{name}: {} {} with digest {held} {} here, {} with digest {} in the backup",
        held.count,
        agree(held.count, "record", "records"),
        agree(held.count, "is", "are"),
        head.records,
        head.digest
    )
}

/// Describes the faults of a collection's database and slice; returns `None` without faults.
pub fn fault(collection: Collection, records_equal: bool, slice_equal: bool) -> Option<String> {
    let faults = [
        (records_equal, "the database does not hold the source's records"),
        (slice_equal, "the slice is not what the source holds"),
    ];
    let faults: Vec<&str> = faults.into_iter().filter(|(equal, _)| !equal).map(|(_, fault)| fault).collect();
    (!faults.is_empty()).then(|| format!("{}: {}", collection.name(), faults.join("; ")))
}
