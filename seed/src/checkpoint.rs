//! The checkpoint of an interrupted run: a complete split that was not read back yet.
//!
//! `DIR/building.json` names the file that was split and the expected parts. The next run on the same file goes on from
//! there. It does not trust the parts: it reads them back, and splits the file again if they do not match.

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

/// The checkpoint's file.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    /// The program's version: another one may split differently.
    version: String,
    source: Identity,
    parts: Vec<Finished>,
    absent: Vec<String>,
}

/// A collection's part.
#[derive(Serialize, Deserialize)]
struct Finished {
    /// The collection's declaration: another one may reject other records.
    declaration: Declaration,
    records: u64,
    exact: String,
    canonical: String,
    slice: Identity,
    given: Vec<u64>,
}

/// Returns the path of the checkpoint in `data`.
pub fn path_in(data: &Path) -> PathBuf {
    data.join(CHECKPOINT)
}

/// Notes in `data` that `source` is split into `parts`.
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

/// Reads the checkpoint in `data`; returns `None` if it is missing, or does not fit this program and `plan`.
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
            // A checkpoint is written only if all ids are positions.
            slice: Sliced { file: slice, given: RoaringTreemap::from_iter(given), numbers: Ids::Positions },
            sums: None,
        });
    }
    let absent = read.absent.iter().map(|name| plan.named(name)).collect::<Option<_>>()?;
    (parts.len() == plan.count()).then_some(WholeSplit { source: read.source, parts, absent })
}
