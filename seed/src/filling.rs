//! Proves databases and slices that were filled, and puts them into place.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use serde_json::json;
use store::{Purpose, Store};

use crate::aside::Aside;
use crate::error::Error;
use crate::identity::identify;
use crate::manifest::Manifest;
use crate::options::Options;
use crate::orphans::Orphans;
use crate::plan::Plan;
use crate::progress::{Progress, Stage, Total};
use crate::rejects::AsNode;
use crate::scan::{Scanned, compare, damage, describe_differences, fault, scan, scan_loaded};
use crate::source::Reading;
use crate::splitting::{Destination, Part, WholeSplit};
use crate::target::{Building, Target};

/// Lists the destinations of a split that is built at these paths.
pub(crate) fn destinations(building: &[Building]) -> Vec<Destination<'_>> {
    let mut destinations = Vec::new();
    for Building { collection, slice, database, .. } in building {
        destinations.push(Destination { collection: *collection, slice, database: Some(database) });
    }
    destinations
}

/// A split that is built but not in place yet.
pub(crate) struct Built {
    pub(crate) split: WholeSplit,
    pub(crate) rejected: u64,
    pub(crate) as_node: AsNode,
    pub(crate) reading: Arc<Reading>,
    /// Whether an interrupted run built it.
    pub(crate) taken_up: bool,
}

/// Reads the built split back, and compares it with the expected parts.
pub(crate) fn prove(
    input: &Path,
    plan: &Plan,
    building: &[Building],
    built: &Built,
    options: &Options,
) -> Result<Vec<Scanned>, Error> {
    let records = built.split.parts.iter().map(|part| part.digests.exact.count).sum();
    let (scans, slices) = thread::scope(|scope| {
        // Opening a database takes one core alone.
        let identify = || building.iter().map(|part| identify(&part.slice)).collect::<Result<Vec<_>, _>>();
        let slices = scope.spawn(identify);
        let scan = |nth: usize, store, stage: &Stage| match &built.split.parts[nth] {
            Part { sums: Some(sums), digests, .. } => scan_loaded(store, sums, *digests, stage),
            _ => scan(store, stage),
        };
        let scans = read_back(building, scan, records, options.progress);
        (scans, slices.join().expect("it returns its errors"))
    });
    let (scans, slices) = (scans?, slices?);
    let mut faults = Vec::new();
    for (((scanned, building), part), slice) in scans.iter().zip(building).zip(&built.split.parts).zip(&slices) {
        let slice_equal = *slice == part.slice.file;
        faults.extend(fault(building.collection, scanned.digests == part.digests, slice_equal));
        faults.extend(damage(scanned));
    }
    if faults.is_empty() {
        return Ok(scans);
    }
    if !built.taken_up {
        let scanned: Vec<&Scanned> = scans.iter().collect();
        let comparisons = compare(input, &built.reading, plan, built.rejected > 0, &scanned)?;
        faults.extend(comparisons.iter().map(describe_differences));
    }
    Err(Error::Difference(format!("{}\nNothing was published.", faults.join("\n"))))
}

/// Has the databases that were built read by `scan`. Opens them again, to read what a service will read.
pub(crate) fn read_back(
    building: &[Building],
    scan: impl Fn(usize, Store, &Stage) -> Result<Scanned, Error>,
    records: u64,
    progress: Progress,
) -> Result<Vec<Scanned>, Error> {
    let stage = progress.stage("reading back", Total::Records(records));
    let open = |part: &Building| Store::open(&part.database, part.collection, Purpose::Passing);
    building.iter().enumerate().map(|(nth, part)| scan(nth, open(part)?, &stage)).collect()
}

/// Finds the orphans in the databases of all collections; with `--strict`, returns an error if there are any.
pub(crate) fn orphans(stores: &[Store], options: &Options) -> Result<Orphans, Error> {
    let _stage = options.progress.stage("checking references", Total::Unknown);
    refuse_orphans(Orphans::find(stores)?, options)
}

/// Returns the orphans; with `--strict`, returns an error if there are any.
pub(crate) fn refuse_orphans(orphans: Orphans, options: &Options) -> Result<Orphans, Error> {
    if options.strict && orphans.count() > 0 {
        Err(Error::Orphans { text: orphans.to_string(), json: json!(orphans) })
    } else {
        Ok(orphans)
    }
}

/// Puts the built split, and the files beside it, into place.
pub(crate) fn publish(mut target: Target, manifest: &Manifest, aside: Aside, options: &Options) -> Result<(), Error> {
    if options.dry_run {
        return aside.put_findings_in_place();
    }
    let _stage = options.progress.stage("putting into place", Total::Unknown);
    target.publish(manifest, || aside.put_in_place()).map(drop)
}
