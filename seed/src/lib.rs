//! `seed`: splits a monolith's db.json into a slice and a database for each service, and proves that nothing was lost.
//!
//! - [`source`]: the combined file, as a stream of records
//! - [`mod@split`]: into [slices](mod@slice) and databases, beside what is there
//! - [`digest`]: what a set of records is, whatever its order
//! - [`mod@verify`]: everything read back and compared with the source
//! - [`manifest`]: what was split, and into what
//! - [`target`]: the services' folders, and the one commit point at which the result takes its place
//! - [`report`]: what people are told

pub mod digest;
pub mod error;
pub mod identity;
pub mod manifest;
pub mod report;
pub mod slice;
pub mod source;
pub mod split;
pub mod target;
pub mod verify;

use std::path::Path;

use shared::model::Collection;
use shared::store::{Store, StoreError};

use digest::Digest;
use error::Error;
use identity::identify;
use manifest::Manifest;
use source::Source;
use split::{Destination, split};
use target::Target;
use verify::{Comparison, compare, scan};

/// Splits the file `input` into the services' folders in `data`, or checks a split that is already there. `replace`
/// gives up what `data` holds. Returns the report.
///
/// # Errors
/// See [`Error`]; what `data` holds is then as it was.
pub fn run(input: &Path, data: &Path, replace: bool) -> Result<String, Error> {
    // Before anything is made: is there an input at all?
    drop(Source::open(input)?);
    let target = match Target::lock(data) {
        Err(Error::Store(error @ StoreError::InUse { .. })) if !replace => return leave_running(input, data, error),
        target => target?,
    };
    match Manifest::read(data) {
        _ if replace => fill(input, data, target),
        Ok(None) if target.is_empty() => fill(input, data, target),
        Ok(None) => Err(Error::occupied(data, "it holds slices or databases without a manifest".to_owned())),
        Ok(Some(manifest)) => check(input, data, &manifest, &target),
        Err(error) => Err(error),
    }
}

/// Splits into a target that is empty or given up.
fn fill(input: &Path, data: &Path, target: Target) -> Result<String, Error> {
    let building = target.build()?;
    let destinations: Vec<Destination> = building
        .iter()
        .map(|part| Destination { collection: part.collection, slice: &part.slice, database: &part.database })
        .collect();
    let (source, parts) = split(input, &destinations)?;

    // The databases are opened anew: what counts is what a service will find.
    let mut stores = Vec::new();
    for part in &building {
        stores.push(Store::open(&part.database, part.collection)?);
    }
    let mut faults = Vec::new();
    for ((store, building), part) in stores.iter().zip(&building).zip(&parts) {
        let found = scan(store)?;
        let slice_equal = identify(&building.slice)? == part.slice;
        faults.extend(report::fault(
            store.collection(),
            found.digests == part.digests,
            slice_equal,
            found.indexes_equal,
        ));
    }
    if !faults.is_empty() {
        let comparisons = compare(input, &stores)?;
        faults.extend(comparisons.into_iter().flat_map(|comparison| comparison.named));
        return Err(Error::Difference(format!("{}\nNothing was published.", faults.join("\n"))));
    }
    drop(stores);
    let manifest =
        Manifest::new(source, parts.try_into().unwrap_or_else(|_| unreachable!("there are three collections")));
    target.publish(&manifest)?;
    Ok(report::filled(input, data, &manifest))
}

/// Looks at a finished split and changes nothing. Since then its services may have changed their records.
fn check(input: &Path, data: &Path, manifest: &Manifest, target: &Target) -> Result<String, Error> {
    if identify(input)? != manifest.source {
        return Err(another_file(data, manifest));
    }
    let mut stores = Vec::new();
    for (collection, folder) in target.folders() {
        if let Some(gone) = [folder.slice(), folder.database()].into_iter().find(|path| !path.exists()) {
            return Err(Error::occupied(
                data,
                format!("it holds the split of this file, but {} is gone", gone.display()),
            ));
        }
        stores.push(Store::open(&folder.database(), collection)?);
    }
    let (mut faults, mut scans) = (Vec::new(), Vec::new());
    for ((collection, folder), store) in target.folders().zip(&stores) {
        let found = scan(store)?;
        let slice_equal = identify(&folder.slice())? == manifest.entry(collection).slice;
        faults.extend(report::fault(collection, true, slice_equal, found.indexes_equal));
        scans.push(found.digests.canonical);
    }
    if !faults.is_empty() {
        return Err(Error::Difference(format!("{}\n`seed --replace` splits the file anew.", faults.join("\n"))));
    }
    let as_split = |(collection, found): (Collection, &Digest)| found.to_string() == manifest.entry(collection).digest;
    let comparisons = if Collection::ALL.into_iter().zip(&scans).all(as_split) {
        scans.iter().map(|found| Comparison { equal: found.count, ..Comparison::default() }).collect()
    } else {
        compare(input, &stores)?
    };
    Ok(report::checked(input, data, &comparisons, &scans))
}

/// A service has its folder. That is no obstacle where there is nothing to do: containers run the split at every start.
fn leave_running(input: &Path, data: &Path, in_use: StoreError) -> Result<String, Error> {
    match Manifest::read(data)? {
        Some(manifest) if manifest.source == identify(input)? => Ok(format!(
            "{} already holds the split of {}. Its databases were not looked at: {in_use} to have them checked.\n",
            data.display(),
            input.display()
        )),
        _ => Err(in_use.into()),
    }
}

fn another_file(data: &Path, manifest: &Manifest) -> Error {
    Error::occupied(data, format!("it holds the split of another file (SHA-256 {})", manifest.source.sha256))
}
