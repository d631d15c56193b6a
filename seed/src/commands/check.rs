//! Checks an existing split against the file that was split.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use record::model::Collection;
use serde_json::json;
use store::Store;

use crate::error::Error;
use crate::inspect::{align_all, is_as_split, scan_split};
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::report::{Report, table};
use crate::scan::{Comparison, Scanned, compare};
use crate::source::Reading;
use crate::target::Target;

/// Checks a finished split, whose services may have changed records since. Changes nothing.
pub(crate) fn check(
    input: &Path,
    data: &Path,
    manifest: &Manifest,
    target: &Target,
    progress: Progress,
) -> Result<Report, Error> {
    let plan = &manifest.plan();
    let folders = || target.folders().filter(|(collection, _)| plan.has(*collection));
    let (scans, faults) = scan_split(data, manifest, folders(), progress)?;
    faults.check()?;
    let comparisons = if scans.iter().all(|scanned| is_as_split(scanned, manifest)) {
        let equal = |scanned: &Scanned| Comparison { equal: scanned.digests.exact.count, ..Comparison::default() };
        scans.iter().map(equal).collect()
    } else {
        let slices: Vec<PathBuf> = folders().map(|(_, folder)| folder.slice()).collect();
        let stores: Vec<&Store> = scans.iter().map(|scanned| &scanned.store).collect();
        let passing = manifest.rejected > 0;
        let as_node = manifest.as_node > 0;
        let given = align_all(input, as_node, plan, Some((manifest, &slices)), &stores, passing, progress)?;
        let reading = Arc::new(Reading { given, as_node });
        compare(input, &reading, plan, passing, &scans.iter().collect::<Vec<_>>())?
    };
    let collections = scans.iter().map(|scanned| scanned.store.collection());
    let comparisons: Vec<_> = collections.zip(comparisons).collect();
    Ok(checked(input, data, &comparisons))
}

/// Reports an existing split: how many records are as split, and how many the services changed.
pub fn checked(input: &Path, data: &Path, comparisons: &[(Collection, Comparison)]) -> Report {
    let titles = ["collection", "as split", "changed since", "removed since", "added since"];
    let mut rows = vec![titles.map(String::from)];
    for (collection, comparison) in comparisons {
        rows.push([
            collection.name().to_owned(),
            comparison.equal.to_string(),
            comparison.changed.to_string(),
            comparison.removed.to_string(),
            comparison.added.to_string(),
        ]);
    }
    let text = format!(
        "{} already holds the split of {}. Checked; nothing was changed:\n\n{}\n\
         Every slice equals the file. Every index equals a full scan.\n",
        data.display(),
        input.display(),
        table(&rows),
    );
    let mut json = json!({ "outcome": "checked" });
    for (collection, comparison) in comparisons {
        let Comparison { equal, changed, removed, added, .. } = comparison;
        json[collection.name()] = json!({ "as_split": equal, "changed": changed, "removed": removed, "added": added });
    }
    Report::new(text, json)
}
