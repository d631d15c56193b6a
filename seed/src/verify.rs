//! The proof: what the databases and slices hold, read back.

use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use shared::id::Id;
use shared::model::{Collection, Record, Records};
use shared::store::{Store, StoreError, Stored};

use crate::digest::{Digest, Digests};
use crate::error::Error;
use crate::source::Source;

/// How many records are looked at as one piece of work.
const PART: usize = 1024;

/// How many pieces of work are read before they are worked on.
const PARTS: usize = 16;

/// How many differences are named; the others are counted.
const NAMED: usize = 20;

/// What a database holds.
pub struct Scan {
    /// Its records.
    pub digests: Digests,
    /// Whether each index holds what the records say it should.
    pub indexes_equal: bool,
}

/// Reads all records and all indexes of a database.
pub fn scan(store: &Store) -> Result<Scan, Error> {
    let mut digests = Digests::default();
    let mut expected = Digest::default();
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
            break;
        }
        let scanned: Vec<_> = parts.par_iter().map(|part| scan_part(store.collection(), part)).collect();
        for part in scanned {
            let (part, entries) = part?;
            digests.merge(&part);
            expected.merge(&entries);
        }
    }
    let mut found = Digest::default();
    let mut entries = store.entries();
    while let Some(entry) = entries.next() {
        let (prefix, id) = entry?;
        found.add(entry_hash(prefix, id));
    }
    Ok(Scan { digests, indexes_equal: found == expected })
}

/// The digests of records, and of the index entries they should have.
fn scan_part(collection: Collection, part: &[(Id, Stored)]) -> Result<(Digests, Digest), Error> {
    let mut digests = Digests::default();
    let mut entries = Digest::default();
    let unreadable = |id: Id, why: &str| {
        Error::Difference(format!("{} {id}: the database holds no such record: {why}", collection.name()))
    };
    for (id, stored) in part {
        let json = std::str::from_utf8(stored.json()).map_err(|error| unreadable(*id, &error.to_string()))?;
        let mut read = Records::new(collection, json.len());
        read.push(json, None).map_err(|fault| unreadable(*id, &fault.to_string()))?;
        for record in read.iter() {
            if record.id != *id || record.source != json {
                return Err(unreadable(*id, "it is not in canonical form"));
            }
            for (index, term) in record.terms.iter().flatten() {
                entries.add(entry_hash(&Store::entry_prefix(*index, term), *id));
            }
        }
        digests.add(*id, stored.id_from_position, json);
    }
    Ok((digests, entries))
}

fn entry_hash(prefix: &[u8], id: Id) -> Sha256 {
    Sha256::new().chain_update(prefix).chain_update(id.get().to_be_bytes())
}

/// A database beside the source, record by record.
#[derive(Debug, Default)]
pub struct Comparison {
    /// In both, and equal byte for byte.
    pub equal: u64,
    /// In both, and not equal.
    pub changed: u64,
    /// In the source alone.
    pub removed: u64,
    /// The first differences, by the source's JSON pointer.
    pub named: Vec<String>,
}

/// Compares the file at `path` with its databases. The comparisons come in the stores' order.
pub fn compare(path: &Path, stores: &[Store]) -> Result<Vec<Comparison>, Error> {
    let mut comparisons: Vec<Comparison> = stores.iter().map(|_| Comparison::default()).collect();
    let mut source = Source::open(path)?;
    while let Some(batch) = source.next_batch()? {
        let store = stores.iter().position(|store| store.collection() == batch.collection);
        let store = store.expect("every collection has a store");
        let comparison = &mut comparisons[store];
        let records = batch.parse(path)?;
        for (nth, record) in records.iter().flat_map(Records::iter).enumerate() {
            let difference = match compare_record(&stores[store], &record)? {
                None => {
                    comparison.equal += 1;
                    continue;
                }
                Some(difference) => difference,
            };
            match difference {
                Difference::Changed(_) => comparison.changed += 1,
                Difference::Removed => comparison.removed += 1,
            }
            if comparison.named.len() < NAMED {
                let pointer = batch.pointer(nth);
                comparison.named.push(match difference {
                    Difference::Changed(database) => {
                        format!("{pointer}: {} in the file, {database} in the database", record.json())
                    }
                    Difference::Removed => format!("{pointer}: {} in the file, nothing in the database", record.json()),
                });
            }
        }
    }
    Ok(comparisons)
}

enum Difference {
    Changed(String),
    Removed,
}

fn compare_record(store: &Store, record: &Record) -> Result<Option<Difference>, StoreError> {
    Ok(match store.get(record.id)? {
        None => Some(Difference::Removed),
        Some(stored)
            if stored.json() == record.json().as_bytes() && stored.id_from_position == record.id_from_position =>
        {
            None
        }
        Some(stored) => Some(Difference::Changed(String::from_utf8_lossy(stored.json()).into_owned())),
    })
}
