//! What an interrupted run had finished: a split that is whole, and was not read back yet.
//!
//! `DIR/building.json` says what was split, and what the parts should be. The next run on the same file goes on from
//! there. It believes nothing of it: reading back is the proof, and where that fails the split begins anew.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use record::declaration::Declaration;
use record::record_set::RecordSet;
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use store::sync;

use crate::digest::Digests;
use crate::error::Error;
use crate::identity::Identity;
use crate::ids::Ids;
use crate::plan::Plan;
use crate::slice::Sliced;
use crate::splitting::Part;
use crate::splitting::WholeSplit;

const CHECKPOINT: &str = "building.json";

/// What was finished.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    /// The program's version: another one may split in another way.
    version: String,
    source: Identity,
    parts: Vec<Finished>,
    absent: Vec<String>,
}

/// A collection's part.
#[derive(Serialize, Deserialize)]
struct Finished {
    /// Another declaration may find other records' faults.
    declaration: Declaration,
    records: u64,
    exact: String,
    canonical: String,
    slice: Identity,
    given: Vec<u64>,
}

/// Where the checkpoint of the split in `data` is.
pub fn path_in(data: &Path) -> PathBuf {
    data.join(CHECKPOINT)
}

/// Notes that `source` is split into `parts`, in `data`.
pub fn write(data: &Path, WholeSplit { source, parts, absent }: &WholeSplit) -> Result<(), Error> {
    let finished = |part: &Part| Finished {
        declaration: part.collection.declaration().clone(),
        records: part.digests.exact.count,
        exact: part.digests.exact.to_string(),
        canonical: part.digests.canonical.to_string(),
        slice: part.slice.file.clone(),
        given: part.slice.given.iter().collect(),
    };
    let parts = parts.iter().map(finished).collect();
    let absent = absent.iter().map(|collection| collection.name().to_owned()).collect();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let checkpoint = Checkpoint { version, source: source.clone(), parts, absent };
    let text = serde_json::to_string(&checkpoint).expect("a checkpoint can be written as JSON");
    let path = path_in(data);
    File::create(&path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::io(&path))?;
    Ok(sync(data)?)
}

/// What is finished in `data`: of which file, and what the parts should be. Nothing where it cannot be told.
pub fn read(data: &Path, plan: &Plan) -> Option<WholeSplit> {
    let read: Checkpoint = serde_json::from_slice(&fs::read(path_in(data)).ok()?).ok()?;
    if read.version != env!("CARGO_PKG_VERSION") {
        return None;
    }
    let set = |text: &str, records| {
        let mut set: RecordSet = text.parse().ok()?;
        set.count = records;
        Some(set)
    };
    let mut parts = Vec::new();
    for Finished { declaration, records, exact, canonical, slice, given } in read.parts {
        let collection = plan.named(&declaration.name)?;
        if *collection.declaration() != declaration {
            return None;
        }
        let digests = Digests { exact: set(&exact, records)?, canonical: set(&canonical, records)? };
        parts.push(Part {
            collection,
            digests,
            // It is written only where the positions say everything.
            slice: Sliced { file: slice, given: RoaringTreemap::from_iter(given), numbers: Ids::Positions },
        });
    }
    let absent = read.absent.iter().map(|name| plan.named(name)).collect::<Option<_>>()?;
    (parts.len() == plan.count()).then_some(WholeSplit { source: read.source, parts, absent })
}
