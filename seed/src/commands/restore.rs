//! `seed restore`: puts a backup into the services' folders.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::json;
use store::Store;
use store::backup::Head;

use crate::chain::{Chain, copy_slice, records};
use crate::commands::join::{WrittenIds, write_array};
use crate::error::Error;
use crate::filling::read_back;
use crate::identity::{Hashed, Identity, identify};
use crate::ids::Ids;
use crate::manifest::Manifest;
use crate::orphans::Orphans;
use crate::progress::{Progress, Total};
use crate::report::{Report, table};
use crate::scan::{Scanned, other_than_backup, scan};
use crate::slice::Sliced;
use crate::splitting::Part;
use crate::target::{Building, Target};

/// Puts a backup into the services' folders in `data`, after reading it back and checking it. `as_replica` makes replicas
/// that go on where the ones were that were backed up.
///
/// # Errors
/// See [`Error`]; `data` then stays unchanged.
pub fn restore(
    chain: &Chain,
    data: &Path,
    replace: bool,
    as_replica: bool,
    progress: Progress,
) -> Result<Report, Error> {
    let mut target = Target::lock(data, chain.plan()?)?;
    if !replace && !target.is_empty(chain.plan()?) {
        return Err(Error::occupied(data, "it holds slices or databases".to_owned()));
    }
    let building = target.build(chain.plan()?)?;
    let stage = progress.stage("restoring", Total::Records(records(chain)?));
    let mut heads = Vec::new();
    for part in &building {
        heads.push(chain.restore(part.collection, &part.database, as_replica, &stage)?);
    }
    drop(stage);
    let scans = read_back(
        &building,
        |_, store, stage| scan(store, stage),
        heads.iter().map(|head| head.records).sum(),
        progress,
    )?;
    for (scanned, head) in scans.iter().zip(&heads) {
        if !scanned.is_sound() || !head.is_of(&scanned.digests.exact) {
            return Err(Error::Damaged(other_than_backup(scanned, head)));
        }
    }
    let manifest = match chain.split()? {
        Some((manifest, folder)) => {
            for part in &building {
                copy_slice(&folder, part.collection, &part.slice)?;
                if identify(&part.slice)? != manifest.entry(part.collection).slice {
                    let reason = "it differs from the slice in its manifest";
                    return Err(Error::Damaged(format!("{}: {reason}", part.slice.display())));
                }
            }
            manifest
        }
        None => without_split(&building, &scans)?,
    };
    drop(scans);
    let stage = progress.stage("putting into place", Total::Unknown);
    target.publish(&manifest, || Ok(()))?;
    drop(stage);
    Ok(restored(data, &heads, manifest.restored))
}

/// Writes slices of the records of a backup without a split; returns a manifest for them.
fn without_split(building: &[Building], scans: &[Scanned]) -> Result<Manifest, Error> {
    let mut parts = Vec::new();
    for (part, scanned) in building.iter().zip(scans) {
        let file = File::create_new(&part.slice).map_err(Error::io(&part.slice))?;
        let mut out = Hashed::new(BufWriter::new(file), true);
        out.write_all(b"{").map_err(Error::io(&part.slice))?;
        let stage = Progress::Quiet.stage("", Total::Records(0));
        let written = write_array(&scanned.store, None, WrittenIds::Slice, &mut out, &part.slice, &stage)?;
        let has_numbers = part.collection.has_text_ids();
        let numbers = if has_numbers { written.left_out.shortened() } else { Ids::Positions };
        out.write_all(b"}\n").map_err(Error::io(&part.slice))?;
        let file = out.finish().map_err(Error::io(&part.slice))?;
        let slice = Sliced { file, given: written.given, numbers };
        parts.push(Part { collection: part.collection, digests: scanned.digests, slice, sums: None });
    }
    let unknown = Identity { sha256: String::new(), bytes: 0 };
    let stores: Vec<Store> = scans.iter().map(|scanned| scanned.store.clone()).collect();
    let orphans = Orphans::find(&stores)?;
    let mut manifest = Manifest::new(unknown, parts, 0, orphans);
    manifest.restored = true;
    Ok(manifest)
}

/// Reports a restored backup.
pub fn restored(data: &Path, heads: &[Head], without_split: bool) -> Report {
    let mut rows = vec![["collection", "records", "revision", "digest"].map(String::from)];
    for head in heads {
        let counts = [head.records, head.revision].map(|count| count.to_string());
        let [records, revision] = counts;
        rows.push([head.collection.clone(), records, revision, head.digest.clone()]);
    }
    let mut text = format!(
        "{} holds the backup. Every record was read back and matches the service's count:\n\n{}",
        data.display(),
        table(&rows)
    );
    if without_split {
        text += "\nThe backup has no split in it, so a newer db.json cannot be applied to it.\n";
    }
    Report::new(text, json!({ "outcome": "restored", "sections": heads, "without_split": without_split }))
}
