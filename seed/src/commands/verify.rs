//! `seed verify`: checks the databases or a backup.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use store::Store;

use crate::chain::{Chain, Unpacked, records, slice_path, unpack};
use crate::error::Error;
use crate::identity::identify;
use crate::inspect::{Faults, align_all, is_as_split, open_split, scan_split};
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::progress::{Progress, Total};
use crate::report::{Report, table};
use crate::scan::{Comparison, Scanned, compare, describe_differences, other_than_backup, scan};
use crate::source::Reading;

/// Checks that each database in `data` is sound, and reports changes since the split. Compares the databases with the file
/// `input` and the backup `against`, if given. Changes nothing.
///
/// # Errors
/// [`Error::Damaged`] if a database is not what its writers made; [`Error::Difference`] names the differences from the
/// file or the backup.
pub fn verify(input: Option<&Path>, against: Option<&Chain>, data: &Path, progress: Progress) -> Result<Report, Error> {
    let (manifest, folders) = open_split(data)?;
    let slices: Vec<PathBuf> = folders.iter().map(|(_, folder)| folder.slice()).collect();
    let folders = folders.iter().map(|(collection, folder)| (*collection, folder));
    let (scans, faults) = scan_split(data, &manifest, folders, progress)?;
    judge(input, against, &data.display().to_string(), Some((&manifest, &slices)), scans, faults, progress)
}

/// Unpacks a backup and checks it in the same way.
pub fn verify_backup(input: Option<&Path>, chain: &Chain, progress: Progress) -> Result<Report, Error> {
    let Unpacked { stores, _dir } = unpack(chain, progress)?;
    let stage = progress.stage("reading back", Total::Records(records(chain)?));
    let scans: Vec<Scanned> = stores.into_iter().map(|store| scan(store, &stage)).collect::<Result<_, _>>()?;
    drop(stage);
    let mut faults = Faults::default();
    scans.iter().for_each(|scanned| faults.look_at(scanned));
    let split = chain.split()?;
    let slices: Vec<PathBuf> = match &split {
        Some((manifest, folder)) => manifest.collections().map(|collection| slice_path(folder, collection)).collect(),
        None => Vec::new(),
    };
    let split = split.as_ref().map(|(manifest, _)| (manifest, &slices[..]));
    judge(input, None, "the backup", split, scans, faults, progress)
}

/// Judges scanned databases: returns the report, or an error that names the faults.
fn judge(
    input: Option<&Path>,
    against: Option<&Chain>,
    what: &str,
    split: Option<(&Manifest, &[PathBuf])>,
    scans: Vec<Scanned>,
    faults: Faults,
    progress: Progress,
) -> Result<Report, Error> {
    let mut since_split = Vec::new();
    for (nth, scanned) in scans.iter().enumerate() {
        let collection = scanned.store.collection();
        since_split.push(match split {
            Some((manifest, slices)) if !is_as_split(scanned, manifest) => {
                // The slice holds the split records, so it tells which ones changed; a digest cannot.
                compare(&slices[nth], &Arc::default(), &Plan::of(collection), false, &[scanned])?.pop()
            }
            _ => None,
        });
    }
    if !faults.damaged.is_empty() {
        let named = since_split.iter().flatten().filter(|comparison| comparison.differences() > 0);
        let named: Vec<String> = named.map(describe_differences).collect();
        return Err(Error::Damaged([faults.damaged, faults.different, named].concat().join("\n")));
    }
    let mut different = faults.different;
    if let Some(input) = input {
        let (passed_over, as_node) = match split {
            Some((manifest, _)) if identify(input)? == manifest.source => (manifest.rejected > 0, manifest.as_node > 0),
            _ => (false, false),
        };
        // The file's records keep the ids of the split, even if their positions have changed.
        let stores: Vec<&Store> = scans.iter().map(|scanned| &scanned.store).collect();
        let plan: Plan = stores.iter().map(|store| store.collection()).collect();
        let given = align_all(input, as_node, &plan, split, &stores, passed_over, progress)?;
        let scanned: Vec<&Scanned> = scans.iter().collect();
        let comparisons = compare(input, &Arc::new(Reading { given, as_node }), &plan, passed_over, &scanned)?;
        different
            .extend(comparisons.iter().filter(|comparison| comparison.differences() > 0).map(describe_differences));
    }
    if let Some(chain) = against {
        for scanned in &scans {
            let (head, _) = chain.read(scanned.store.collection(), |_| Ok(()))?;
            if !head.is_of(&scanned.digests.exact) {
                different.push(other_than_backup(scanned, &head));
            }
        }
    }
    if !different.is_empty() {
        return Err(Error::Difference(different.join("\n")));
    }
    Ok(verified(input, against.is_some(), what, &scans, &since_split, split.map(|(manifest, _)| manifest)))
}

/// Reports sound databases and their changes since the split.
pub fn verified(
    input: Option<&Path>,
    as_backup: bool,
    what: &str,
    scans: &[Scanned],
    since_split: &[Option<Comparison>],
    manifest: Option<&Manifest>,
) -> Report {
    let mut rows = vec![["collection", "records", "digest", "state"].map(String::from)];
    let mut json = json!({ "outcome": "verified", "manifest": manifest });
    for (scanned, since_split) in scans.iter().zip(since_split) {
        let name = scanned.store.collection().name();
        let digest = scanned.digests.canonical;
        let state = match (since_split, manifest) {
            (Some(Comparison { changed, removed, added, .. }), _) => {
                format!("changed by its service: {changed} changed, {removed} removed, {added} added since the split")
            }
            (None, Some(manifest)) if manifest.restored => "as in the backup".to_owned(),
            (None, Some(_)) => "as split".to_owned(),
            (None, None) => "sound".to_owned(),
        };
        let is_changed = since_split.is_some();
        json[name] = json!({
            "records": digest.count, "digest": digest.to_string(), "exact": scanned.digests.exact.to_string(),
            "state": if is_changed { "changed" } else { "as split" },
        });
        rows.push([name.to_owned(), digest.count.to_string(), digest.to_string(), state]);
    }
    let mut equals = input.map(|input| format!(" It equals {}.", input.display())).unwrap_or_default();
    if as_backup {
        equals += " It equals the backup.";
    }
    let text = format!(
        "{what} is sound: the records match the services' counts, and every index equals a full scan.{equals}\n\n{}",
        table(&rows)
    );
    Report::new(text, json)
}
