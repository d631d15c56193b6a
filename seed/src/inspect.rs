//! Reads an existing split from end to end, and compares it with its manifest.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use record::model::Collection;
use store::{Folder, OnDamage, Purpose, Store, StoreError};

use crate::align::{Alignment, align};
use crate::changes::are_all_given;
use crate::database::Database;
use crate::error::Error;
use crate::identity::identify;
use crate::ids::{self, AllGiven, Given};
use crate::manifest::Manifest;
use crate::numbers::{give_ids, number};
use crate::plan::Plan;
use crate::progress::{Progress, Total};
use crate::rows::Rows;
use crate::scan::{Scanned, damage, fault, scan};
use crate::source::{Reading, Source};

/// Opens a finished split, on which no service runs: its manifest and folders.
pub fn open_split(data: &Path) -> Result<(Manifest, Vec<(Collection, Folder)>), Error> {
    let manifest = Manifest::read(data);
    let plan = manifest.as_ref().ok().and_then(Option::as_ref).map_or_else(Plan::workspace, Manifest::plan);
    let mut folders = Vec::new();
    for collection in plan.iter() {
        let folder = Folder::lock(&data.join(collection.name()))?;
        folder.settled_database()?;
        folders.push((collection, folder));
    }
    // Read again: nobody can change it now that the folders are locked.
    match Manifest::read(data)? {
        Some(manifest) if manifest.plan() == plan => Ok((manifest, folders)),
        Some(_) => Err(Error::Difference(format!("{}: another run has changed its plan meanwhile", data.display()))),
        None => Err(StoreError::Missing(data.to_owned()).into()),
    }
}

/// Faults of databases and slices that no service's writes can explain.
#[derive(Default)]
pub(crate) struct Faults {
    /// Damaged databases.
    pub(crate) damaged: Vec<String>,
    /// Slices that differ from the split.
    pub(crate) different: Vec<String>,
}

impl Faults {
    pub(crate) fn look_at(&mut self, scanned: &Scanned) {
        self.damaged.extend(damage(scanned));
    }

    /// Returns the faults as an error, if any were found.
    pub(crate) fn check(self) -> Result<(), Error> {
        if !self.damaged.is_empty() {
            return Err(Error::Damaged([self.damaged, self.different].concat().join("\n")));
        }
        if self.different.is_empty() {
            return Ok(());
        }
        Err(Error::Difference(format!("{}\n`seed --replace` splits the file anew.", self.different.join("\n"))))
    }
}

/// Scans the databases of a split, and checks its slices.
pub(crate) fn scan_split<'f>(
    data: &Path,
    manifest: &Manifest,
    folders: impl Iterator<Item = (Collection, &'f Folder)>,
    progress: Progress,
) -> Result<(Vec<Scanned>, Faults), Error> {
    let (mut scans, mut faults) = (Vec::new(), Faults::default());
    let records = manifest.collections().map(|collection| manifest.entry(collection).records);
    let stage = progress.stage("reading back", Total::Records(records.sum()));
    for (collection, folder) in folders {
        look_for_parts(data, folder.path())?;
        let declared = manifest.entry(collection).collection();
        let scanned = scan(folder.open(declared, Purpose::Passing, OnDamage::Refuse)?, &stage)?;
        faults.look_at(&scanned);
        let slice_equal = identify(&folder.slice())? == manifest.entry(collection).slice;
        faults.different.extend(fault(collection, true, slice_equal));
        scans.push(scanned);
    }
    Ok((scans, faults))
}

/// Returns an error if a slice or a database is gone.
pub(crate) fn look_for_parts(data: &Path, folder: &Path) -> Result<(), Error> {
    match [folder.join("db.json"), folder.join("db")].into_iter().find(|path| !path.exists()) {
        Some(gone) => Err(Error::occupied(data, format!("its manifest is there, but {} is gone", gone.display()))),
        None => Ok(()),
    }
}

/// Tells whether a database holds the same records as right after the split.
pub(crate) fn is_as_split(scanned: &Scanned, manifest: &Manifest) -> bool {
    let entry = manifest.entry(scanned.store.collection());
    scanned.digests.canonical.to_string() == entry.digest && scanned.digests.canonical.count == entry.records
}

/// Finds the ids of records without ids in the file at `input`, by aligning its lists with the slices of a `split`; and
/// the numbers of records with text ids. Slices and databases are in the same order.
pub(crate) fn align_all(
    input: &Path,
    as_node: bool,
    plan: &Plan,
    split: Option<(&Manifest, &[PathBuf])>,
    stores: &[&Store],
    passing: bool,
    progress: Progress,
) -> Result<AllGiven, Error> {
    let mut given_ids = match split {
        Some(_) => AllGiven::default(),
        None => ids::read_beside(input, plan, || identify(input))?,
    };
    let known = ids::known(input, plan, || identify(input));
    for (nth, store) in stores.iter().enumerate() {
        let collection = store.collection();
        if !collection.has_text_ids() && (split.is_none() || !collection.may_lack_ids()) {
            continue;
        }
        let mut database = Database::of(store);
        let mut newer = Rows::new(input, collection, as_node)?;
        let reading = Arc::new(Reading { as_node, ..Reading::default() });
        let mut source = Source::open(input, plan)?.read_as(&reading).passing(Box::new(io::sink()));
        let stage = progress.stage("aligning", Total::Bytes(source.length()));
        newer.read(&mut source, &|_| false, passing, Some(&stage))?;
        let older = match split {
            Some((manifest, slices)) => {
                let entry = manifest.entry(collection);
                let all_given = are_all_given(entry, manifest.rejected > 0, collection, &mut database)?;
                let given = |id| all_given || entry.given.contains(id);
                let mut older = Rows::new(&slices[nth], entry.in_slice(), false)?;
                older.read(&mut entry.open_slice(&slices[nth], entry.in_slice())?, &given, false, None)?;
                Some(older)
            }
            None => None,
        };
        let nothing = Rows::new(input, collection, as_node)?;
        let has_slice = older.is_some();
        let mut older = older.unwrap_or(nothing);
        if collection.has_text_ids() {
            number(&mut database, &mut older, &mut newer, false, false)?;
        }
        let known = known.as_ref().map(|known| &known.of(collection).ids).filter(|ids| !ids.are_positions());
        let ids = match known.and_then(|ids| Alignment::of_known_ids(ids, &older, &newer)) {
            _ if !has_slice => given_ids.of(collection).ids.clone(),
            Some(alignment) => alignment.ids,
            None => align(&older, &newer, |count, above| give_ids(&mut database, &newer, count, above, false))?.ids,
        };
        newer.take_ids(&ids);
        let last_id = given_ids.of(collection).last_id;
        given_ids.set(collection, Given { ids: newer.ids(), last_id });
    }
    Ok(given_ids)
}
