//! The proof: reads the source once more and compares it with the slices and the databases, record by record.

use std::path::Path;
use std::{fmt, thread};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use shared::id::Id;
use shared::json::Fault;
use shared::model::{Collection, Record};
use shared::store::{Store, StoreError};

use crate::error::Error;
use crate::slice::SliceReader;
use crate::source::{Identity, Source};

/// How many differences are named; the others are counted.
const NAMED: usize = 20;

/// What one collection's slice and database are, beside the source.
#[derive(Debug, Default)]
pub struct Finding {
    /// Records in the source.
    pub in_source: u64,
    /// Records in the database.
    pub in_database: u64,
    /// Records in both, and equal.
    pub equal: u64,
    /// Records in both, and not equal.
    pub changed: u64,
    /// The first differences, by the source's JSON pointer.
    pub named: Vec<String>,
    /// Whether the slice holds what the source does, byte for byte.
    pub slice_equal: bool,
    /// Whether each index holds what a scan of all records says it should.
    pub indexes_equal: bool,
}

impl Finding {
    /// In the source, not in the database.
    pub fn removed(&self) -> u64 {
        self.in_source - self.equal - self.changed
    }

    /// In the database, not in the source.
    pub fn added(&self) -> u64 {
        self.in_database - self.equal - self.changed
    }

    /// Whether the database holds the source's records, and nothing else.
    pub fn records_equal(&self) -> bool {
        self.in_source == self.equal && self.in_database == self.equal
    }
}

/// What to compare for one collection.
pub struct Subject<'p> {
    /// The slice.
    pub slice: &'p Path,
    /// The database, open.
    pub store: Store,
}

/// Compares the file at `source` with `subjects`. The findings come in the subjects' order.
pub fn verify(source: &Path, subjects: &[Subject]) -> Result<(Identity, Vec<Finding>), Error> {
    thread::scope(|scope| {
        let scans: Vec<_> = subjects.iter().map(|subject| scope.spawn(|| scan(&subject.store))).collect();
        let compared = compare(source, subjects);
        let scans: Vec<_> = scans.into_iter().map(|scan| scan.join().expect("a scan returns its errors")).collect();
        let (identity, mut findings) = compared?;
        for (finding, scan) in findings.iter_mut().zip(scans) {
            (finding.in_database, finding.indexes_equal) = scan?;
        }
        Ok((identity, findings))
    })
}

/// Every record of the source against the slice and the database.
fn compare(path: &Path, subjects: &[Subject]) -> Result<(Identity, Vec<Finding>), Error> {
    let mut parts = Vec::new();
    for subject in subjects {
        parts.push((Finding::default(), SliceReader::open(subject.slice, subject.store.collection())?));
    }
    let mut source = Source::open(path)?;
    while let Some(batch) = source.next_batch()? {
        let of_batch = |subject: &Subject| subject.store.collection() == batch.collection;
        let nth = subjects.iter().position(of_batch).expect("every collection is a subject");
        let (finding, slice) = &mut parts[nth];
        let records = batch.parse(path)?;
        let compared: Vec<_> = records.par_iter().map(|record| compare_record(&subjects[nth].store, record)).collect();
        for (nth, (record, compared)) in records.iter().zip(compared).enumerate() {
            slice.expect_record(record)?;
            finding.in_source += 1;
            let compared = compared?;
            match compared {
                Compared::Equal => finding.equal += 1,
                Compared::Changed => finding.changed += 1,
                Compared::Removed => {}
            }
            if compared != Compared::Equal && finding.named.len() < NAMED {
                finding.named.push(format!("{} (id {}): {compared}", batch.pointer(nth), record.id));
            }
        }
    }
    let mut findings = Vec::new();
    for (mut finding, slice) in parts {
        finding.slice_equal = slice.finish()?;
        findings.push(finding);
    }
    Ok((source.identity(), findings))
}

/// A record of the source, as the database has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    Equal,
    Changed,
    Removed,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compared::Equal => "equal",
            Compared::Changed => "the database holds another value",
            Compared::Removed => "not in the database",
        })
    }
}

fn compare_record(store: &Store, record: &Record) -> Result<Compared, StoreError> {
    Ok(match store.get(record.id)? {
        None => Compared::Removed,
        Some(stored) if stored.json() == record.json && stored.id_from_position == record.id_from_position => {
            Compared::Equal
        }
        Some(_) => Compared::Changed,
    })
}

/// Reads all records and all indexes of a database: how many records there are, and whether the indexes are theirs.
fn scan(store: &Store) -> Result<(u64, bool), Error> {
    let mut records = 0;
    let mut expected = EntrySum::default();
    for entry in store.records() {
        let (id, stored) = entry?;
        let record = std::str::from_utf8(stored.json())
            .map_err(|error| error.to_string())
            .and_then(|json| store.collection().parse(json, None).map_err(|fault: Fault| fault.to_string()));
        let record = match record {
            Ok(record) if record.id == id => record,
            Ok(record) => return Err(unreadable(store.collection(), id, &format!("its id is {}", record.id))),
            Err(reason) => return Err(unreadable(store.collection(), id, &reason)),
        };
        for (index, term) in &record.terms {
            expected.add(&Store::entry_prefix(*index, term), id);
        }
        records += 1;
    }
    let mut found = EntrySum::default();
    let mut entries = store.entries();
    while let Some(entry) = entries.next() {
        let (prefix, id) = entry?;
        found.add(prefix, id);
    }
    Ok((records, found == expected))
}

fn unreadable(collection: Collection, id: Id, reason: &str) -> Error {
    Error::Difference(format!("{} {id}: the database holds no such record: {reason}", collection.name()))
}

/// A sum over index entries that does not depend on their order: two indexes with the same sum hold the same entries,
/// but for a chance of 2⁻¹²⁸.
#[derive(Debug, Default, PartialEq, Eq)]
struct EntrySum {
    count: u64,
    sum: u128,
}

impl EntrySum {
    fn add(&mut self, prefix: &[u8], id: Id) {
        let hash = Sha256::new().chain_update(prefix).chain_update(id.get().to_be_bytes()).finalize();
        let half = hash.first_chunk().expect("SHA-256 has 32 bytes");
        self.count += 1;
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(*half));
    }
}
