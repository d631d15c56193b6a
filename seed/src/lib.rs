//! `seed`: splits a monolith's db.json into a slice and a database for each service, and proves that nothing was lost.
//!
//! - [`source`]: the combined file, as a stream of records
//! - [`mod@split`]: into [slices](mod@slice) and databases, beside what is there
//! - [`mod@verify`]: everything read back and compared with the source
//! - [`target`]: the services' folders, and the one commit point at which the result takes its place
//! - [`report`]: what people are told

pub mod error;
pub mod report;
pub mod slice;
pub mod source;
pub mod split;
pub mod target;
pub mod verify;

use std::path::{Path, PathBuf};

use shared::model::Collection;
use shared::store::{Store, StoreError};

use error::Error;
use source::Source;
use split::{Destination, split};
use target::{Manifest, Target, occupied};
use verify::{Subject, verify};

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
        Ok(None) => Err(occupied(data, "it holds slices or databases without a manifest".to_owned())),
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
    let split_from = split(input, &destinations)?;

    // The databases are opened anew: what counts is what a service will find.
    let mut subjects = Vec::new();
    for part in &building {
        subjects.push(Subject { slice: &part.slice, store: Store::open(&part.database, part.collection)? });
    }
    let (identity, findings) = verify(input, &subjects)?;
    drop(subjects);
    if identity != split_from {
        return Err(Error::Difference(format!(
            "{}: the file was changed while it was read. Nothing was published; run `seed` again.",
            input.display()
        )));
    }
    let faults: Vec<String> =
        Collection::ALL.into_iter().zip(&findings).filter_map(|(c, f)| report::fault(c, f)).collect();
    if !faults.is_empty() {
        return Err(Error::Difference(format!("{}\nNothing was published.", faults.join("\n"))));
    }
    let records = findings.iter().map(|finding| finding.in_source).collect::<Vec<_>>();
    let manifest = Manifest::new(&identity, records.try_into().expect("there are three collections"));
    target.publish(&manifest)?;
    report::filled(input, data, &manifest)
}

/// Looks at a finished split and changes nothing. Since then its services may have changed their records.
fn check(input: &Path, data: &Path, manifest: &Manifest, target: &Target) -> Result<String, Error> {
    refuse_another_file(input, data, manifest)?;
    for (_, folder) in target.folders() {
        if let Some(gone) = [folder.slice(), folder.database()].into_iter().find(|path| !path.exists()) {
            return Err(occupied(data, format!("it holds the split of this file, but {} is gone", gone.display())));
        }
    }
    let slices: Vec<PathBuf> = target.folders().map(|(_, folder)| folder.slice()).collect();
    let mut subjects = Vec::new();
    for ((collection, folder), slice) in target.folders().zip(&slices) {
        subjects.push(Subject { slice, store: Store::open(&folder.database(), collection)? });
    }
    let (_, findings) = verify(input, &subjects)?;
    let broken: Vec<String> = Collection::ALL
        .into_iter()
        .zip(&findings)
        .filter(|(_, finding)| !finding.slice_equal || !finding.indexes_equal)
        .filter_map(|(collection, finding)| report::fault(collection, finding))
        .collect();
    if !broken.is_empty() {
        return Err(Error::Difference(format!("{}\n`seed --replace` splits the file anew.", broken.join("\n"))));
    }
    Ok(report::checked(input, data, &findings))
}

/// A service has its folder. That is no obstacle where there is nothing to do: containers run the split at every start.
fn leave_running(input: &Path, data: &Path, in_use: StoreError) -> Result<String, Error> {
    let Some(manifest) = Manifest::read(data)? else { return Err(in_use.into()) };
    if !manifest.is_of(&Source::identify(input)?) {
        return Err(in_use.into());
    }
    Ok(format!(
        "{} already holds the split of {}. Its databases were not looked at: {in_use} to have them checked.\n",
        data.display(),
        input.display()
    ))
}

fn refuse_another_file(input: &Path, data: &Path, manifest: &Manifest) -> Result<(), Error> {
    if manifest.is_of(&Source::identify(input)?) {
        return Ok(());
    }
    Err(occupied(data, format!("it holds the split of another file (SHA-256 {})", manifest.source.sha256)))
}
