//! A chain: a backup and its increments, read as one.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::thread;

use record::model::Collection;
use record::record_set::RecordSet;
use record::words::agree;
use serde::{Deserialize, Serialize};
use store::backup::{BackupError, Head, Rest, Section};
use store::{Purpose, Restore, SnapshotRecord, Store};
use tempfile::TempDir;

use crate::error::Error;
use crate::identity::{BUFFER, Identity, identify};
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::progress::{Progress, Stage, Total};

/// The number of records that are handed on as one piece.
pub(crate) const PIECE: usize = 1024;

/// The number of pieces that may wait.
pub(crate) const PIECES: usize = 8;

/// A backup's own manifest.
#[derive(Debug, Serialize, Deserialize)]
pub struct Contents {
    pub(crate) version: u32,
    /// The time of the backup: RFC 3339, UTC.
    pub created: String,
    /// Its sections.
    pub sections: Vec<Entry>,
}

/// A section, and its file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The section's first line.
    #[serde(flatten)]
    pub head: Head,
    /// The file.
    pub file: Identity,
}

pub(crate) fn section_path(folder: &Path, collection: Collection) -> PathBuf {
    folder.join(format!("{}.{ONE_FILE}", collection.name()))
}

/// The name of a backup's own manifest.
pub(crate) const BACKUP: &str = "backup.json";

/// The name that the split's manifest has in a backup.
pub(crate) const SPLIT: &str = "split.json";

/// The extension of sections, and of a backup in one file.
pub(crate) const ONE_FILE: &str = "ndjson";

/// A backup and its increments, in their order.
pub struct Chain {
    paths: Vec<PathBuf>,
    plan: OnceLock<Plan>,
    /// Whether some of the workspace's collections are enough.
    may_be_part: bool,
}

impl Chain {
    /// Opens the backup at the first path and its increments at the others. Checks the files that a manifest lists.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        for path in paths {
            let list = path.join(BACKUP);
            if !path.is_dir() {
                continue;
            }
            let text = fs::read(&list).map_err(Error::io(&list))?;
            let contents: Contents = serde_json::from_slice(&text).map_err(|error| broken(&list, error.to_string()))?;
            for Entry { head, file } in &contents.sections {
                let section = path.join(format!("{}.{ONE_FILE}", head.collection));
                if identify(&section)? != *file {
                    return Err(broken(&section, format!("it does not match {BACKUP}: it was damaged or changed")));
                }
            }
        }
        Ok(Self { paths: paths.to_vec(), plan: OnceLock::new(), may_be_part: false })
    }

    /// Takes a backup of one service as whole, such as a replica's.
    #[must_use]
    pub fn allow_part(self) -> Self {
        Self { may_be_part: true, ..self }
    }

    /// Returns the backup's collections.
    pub fn plan(&self) -> Result<&Plan, Error> {
        match self.plan.get() {
            Some(plan) => Ok(plan),
            None => {
                let plan = self.find_plan()?;
                Ok(self.plan.get_or_init(|| plan))
            }
        }
    }

    /// Finds the collections by the split in the backup, else by its sections, if they have declarations. A file of
    /// several sections is read whole for that.
    fn find_plan(&self) -> Result<Plan, Error> {
        if let Some((manifest, _)) = self.split()? {
            return Ok(manifest.plan());
        }
        let last = self.paths.last().expect("a chain has a backup");
        let mut found = Vec::new();
        let mut files = vec![last.to_owned()];
        if last.is_dir() {
            let inside = fs::read_dir(last).map_err(Error::io(last))?;
            files = inside
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<_, _>>()
                .map_err(Error::io(last))?;
            files.retain(|path| path.extension().is_some_and(|extension| extension == ONE_FILE));
            files.sort();
        }
        for file in files {
            let failed = |error: BackupError| broken(&file, error.to_string());
            let mut input = open_sections(&file)?;
            while let Some(section) = Section::open(input, &known()).map_err(failed)? {
                found.push(section.collection());
                if last.is_dir() {
                    // Each section has a file of its own.
                    break;
                }
                input = section.finish().map_err(failed)?.1;
            }
        }
        let workspace = Plan::workspace();
        // A part of the workspace's collections is an incomplete backup: reading it then names what is missing.
        let is_of_workspace = found.iter().all(|collection| workspace.named(collection.name()).is_some());
        Ok(if is_of_workspace && !self.may_be_part { workspace } else { found.into_iter().collect() })
    }

    /// Returns the first line of a collection's last section.
    pub fn head(&self, collection: Collection) -> Result<Head, Error> {
        let last = self.paths.last().expect("a chain has a backup");
        Ok(section(last, collection)?.head().clone())
    }

    /// Returns the split's manifest and the folder with its slices, of the last backup that has them.
    pub fn split(&self) -> Result<Option<(Manifest, PathBuf)>, Error> {
        for path in self.paths.iter().rev() {
            if path.join(SPLIT).exists() {
                let manifest = Manifest::read_at(&path.join(SPLIT))?;
                return Ok(manifest.map(|manifest| (manifest, path.clone())));
            }
        }
        Ok(None)
    }

    /// Calls `put` with each record of a collection in its latest state, by ascending id.
    ///
    /// # Errors
    /// Something is missing or damaged: discard the records so far.
    pub fn read(
        &self,
        collection: Collection,
        mut put: impl FnMut(&SnapshotRecord) -> Result<(), Error>,
    ) -> Result<(Head, Rest), Error> {
        let mut sections = Vec::new();
        for path in &self.paths {
            let section = section(path, collection)?;
            let head = section.head();
            let goes_on =
                |before: &Input| head.history == before.head().history && head.since <= Some(before.head().revision);
            match head.since {
                // A full backup replaces all before it.
                None => sections.clear(),
                Some(_) if sections.last().is_some_and(|(_, before)| goes_on(before)) => {}
                Some(_) => {
                    let reason = "it is an increment; name the backup that it continues before it".to_owned();
                    return Err(broken(path, reason));
                }
            }
            sections.push((path, section));
        }
        let (last, section) = sections.last().expect("a chain has a backup");
        let (last, head) = (last.as_path(), section.head().clone());
        let rest = self::section(last, collection)?.finish().map_err(|error| broken(last, error.to_string()))?.0;
        let mut next = Vec::new();
        for (path, section) in &mut sections {
            next.push(advance(section, path)?);
        }
        let mut set = RecordSet::default();
        while let Some(id) = next.iter().flatten().map(|record| record.id).min() {
            let mut newest = None;
            for (nth, (path, section)) in sections.iter_mut().enumerate() {
                if next[nth].as_ref().is_some_and(|record| record.id == id) {
                    newest = std::mem::replace(&mut next[nth], advance(section, path)?);
                }
            }
            if let Some(record) = newest.filter(|record| rest.has(record.id)) {
                set.add_record(record.id, record.id_from_position, &record.json);
                put(&record)?;
            }
        }
        if !head.is_of(&set) {
            let reason = format!(
                "the {} read are not those that the service counted: {} of {} {}, with digest {set} instead of {}",
                collection.name(),
                set.count,
                head.records,
                agree(head.records, "record", "records"),
                head.digest
            );
            return Err(broken(last, reason));
        }
        Ok((head, rest))
    }

    /// Restores a collection, declared as it was backed up, into a new database at `path`. `as_replica` goes on where the
    /// stream of the replica was that was backed up; otherwise the database follows none.
    pub fn restore(&self, collection: Collection, path: &Path, as_replica: bool, stage: &Stage) -> Result<Head, Error> {
        let declared = self.head(collection)?.declaration.map_or(collection, Collection::of);
        let (send, pieces) = sync_channel::<Vec<SnapshotRecord>>(PIECES);
        thread::scope(|scope| {
            let loader = scope.spawn(move || {
                let mut restore = Restore::create(path, declared)?;
                for piece in pieces {
                    piece.iter().try_for_each(|record| restore.put(record))?;
                }
                Ok::<_, Error>(restore)
            });
            let mut piece = Vec::new();
            let read = self.read(collection, |record| {
                piece.push(record.clone());
                if piece.len() == PIECE {
                    stage.advance(0, PIECE as u64);
                    // If the loader has ended, its error says why.
                    let _ = send.send(std::mem::take(&mut piece));
                }
                Ok(())
            });
            let _ = send.send(piece);
            drop(send);
            let restore = loader.join().expect("a loader returns its errors")?;
            let (head, rest) = read?;
            let store = restore.finish(&rest.kept, head.revision, head.last_id)?;
            if as_replica && !head.note_position(&store, declared)? {
                let none = "it is none of a replica, or was taken without a token: it has no position in a stream";
                return Err(broken(self.paths.last().expect("a chain has a backup"), none.to_owned()));
            }
            store.sync()?;
            Ok(head)
        })
    }
}

type Input = Section<Box<dyn BufRead + Send>>;

fn advance(section: &mut Input, path: &Path) -> Result<Option<SnapshotRecord>, Error> {
    section.next().transpose().map_err(|error| broken(path, error.to_string()))
}

/// Opens a collection's section of the backup at `path`: a folder, a file of all sections, or a section's file.
pub(crate) fn section(path: &Path, collection: Collection) -> Result<Input, Error> {
    let path = if path.is_dir() { section_path(path, collection) } else { path.to_owned() };
    let mut input = open_sections(&path)?;
    let failed = |error: BackupError| broken(&path, error.to_string());
    loop {
        let section = Section::open(input, &known()).map_err(failed)?;
        let section = section.ok_or_else(|| broken(&path, format!("there are no {} in it", collection.name())))?;
        if section.collection() == collection {
            return Ok(section);
        }
        input = section.finish().map_err(failed)?.1;
    }
}

/// Opens a file of sections.
fn open_sections(path: &Path) -> Result<Box<dyn BufRead + Send>, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, file)))
}

/// Lists the collections of backups without declarations.
fn known() -> Vec<Collection> {
    Plan::workspace().iter().collect()
}

fn broken(path: &Path, reason: String) -> Error {
    Error::Backup { path: path.display().to_string(), reason }
}

/// Databases that were restored temporarily from a backup.
pub struct Unpacked {
    /// Their folder.
    pub _dir: TempDir,
    /// The databases, in the plan's order.
    pub stores: Vec<Store>,
}

/// Restores a backup into a temporary folder.
pub fn unpack(chain: &Chain, progress: Progress) -> Result<Unpacked, Error> {
    let dir = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
    let stage = progress.stage("unpacking", Total::Records(records(chain)?));
    let mut stores = Vec::new();
    for collection in chain.plan()?.iter() {
        let path = dir.path().join(collection.name());
        chain.restore(collection, &path, false, &stage)?;
        stores.push(Store::open(&path, collection, Purpose::Passing)?);
    }
    Ok(Unpacked { _dir: dir, stores })
}

/// Counts the records of a backup.
pub fn records(chain: &Chain) -> Result<u64, Error> {
    chain.plan()?.iter().map(|collection| Ok(chain.head(collection)?.records)).sum()
}

/// Copies a collection's slice out of the backup in `folder`.
pub fn copy_slice(folder: &Path, collection: Collection, to: &Path) -> Result<(), Error> {
    let from = slice_path(folder, collection);
    fs::copy(&from, to).map(drop).map_err(Error::io(&from))
}

/// Returns the path of a collection's slice in the backup in `folder`.
pub fn slice_path(folder: &Path, collection: Collection) -> PathBuf {
    folder.join(format!("{}.json", collection.name()))
}
