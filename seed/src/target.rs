//! The target: three services' folders, and how a verified split gets into them.
//!
//! A split is built beside what is there, in `building/`, and put into place only when all of it is verified and
//! durable. The renames that put it there cannot all happen at once, so they have one commit point:
//!
//! ```text
//! 1  DIR/manifest.next.json is written
//! 2  DIR/{users,threads,posts}/building/ become next/          from here on the services keep out
//! 3  DIR/manifest.next.json becomes DIR/manifest.json          the commit
//! 4  in each folder: db/ becomes old/, next/db/ becomes db/, next/db.json becomes db.json, next/ and old/ go
//! ```
//!
//! Whatever interrupts this, the next run of `seed` first takes it back (before 3) or finishes it (after 3):
//! [`Target::lock`] does that. Each step is on the disk before the next begins.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shared::model::Collection;
use shared::store::{Folder, sync, sync_tree};

use crate::checkpoint;
use crate::error::Error;
use crate::manifest::{MANIFEST, Manifest};

const MANIFEST_NEXT: &str = "manifest.next.json";
const BUILDING: &str = "building";
const OLD: &str = "old";

/// The three folders, held by this process.
pub struct Target {
    data: PathBuf,
    folders: Vec<Folder>,
    /// The folders that were not there before.
    made: Vec<PathBuf>,
    keep: bool,
}

/// Where a split is built, for one collection.
pub struct Building {
    /// The collection.
    pub collection: Collection,
    /// The slice.
    pub slice: PathBuf,
    /// The database.
    pub database: PathBuf,
}

impl Target {
    /// Takes the three folders in `data`, makes what is not there, and settles what an interrupted run left.
    pub fn lock(data: &Path) -> Result<Self, Error> {
        let mut target = Self { data: data.to_owned(), folders: Vec::new(), made: Vec::new(), keep: false };
        for collection in Collection::ALL {
            let folder = data.join(collection.name());
            let missing = folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
            let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
            fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            target.made.splice(..0, missing);
            target.folders.push(Folder::lock(&folder)?);
        }
        target.settle(true)?;
        Ok(target)
    }

    /// Where they lie.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The three services' folders.
    pub fn folders(&self) -> impl Iterator<Item = (Collection, &Folder)> {
        Collection::ALL.into_iter().zip(&self.folders)
    }

    /// Whether there is neither a slice nor a database in any folder.
    pub fn is_empty(&self) -> bool {
        self.folders.iter().all(|folder| !folder.slice().exists() && !folder.database().exists())
    }

    /// Makes the folders to build a split in; what an interrupted run has built goes.
    pub fn build(&self) -> Result<Vec<Building>, Error> {
        self.clear()?;
        for folder in &self.folders {
            let path = folder.path().join(BUILDING);
            fs::create_dir(&path).map_err(Error::io(&path))?;
        }
        Ok(self.building())
    }

    /// The folders that a split is built in.
    pub fn building(&self) -> Vec<Building> {
        let building = |(collection, folder): (Collection, &Folder)| {
            let path = folder.path().join(BUILDING);
            Building { collection, slice: path.join("db.json"), database: path.join("db") }
        };
        self.folders().map(building).collect()
    }

    /// Removes what was built and not put into place.
    pub fn clear(&self) -> Result<(), Error> {
        self.folders.iter().try_for_each(|folder| remove_folder(&folder.path().join(BUILDING)))?;
        remove_file(&checkpoint::path_in(&self.data))
    }

    /// Puts what was built into place, with its manifest. The databases are closed.
    pub fn publish(mut self, manifest: &Manifest) -> Result<(), Error> {
        for folder in &self.folders {
            sync_tree(&folder.path().join(BUILDING))?;
        }
        remove_file(&checkpoint::path_in(&self.data))?;
        let next = self.data.join(MANIFEST_NEXT);
        let text = manifest.to_json();
        let written =
            File::create(&next).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(Error::io(&next))?;
        sync(&self.data)?;
        for folder in &self.folders {
            rename(&folder.path().join(BUILDING), &folder.next())?;
            sync(folder.path())?;
        }
        rename(&next, &self.data.join(MANIFEST))?;
        self.keep = true;
        sync(&self.data)?;
        self.folders.iter().try_for_each(finish)
    }

    /// Takes back an interrupted run, or finishes it. What was built by one, and has a checkpoint, may be kept.
    fn settle(&self, keep_built: bool) -> Result<(), Error> {
        let manifest = self.data.join(MANIFEST_NEXT);
        let uncommitted = manifest.exists();
        if uncommitted || !keep_built || !checkpoint::path_in(&self.data).exists() {
            self.clear()?;
        }
        for folder in &self.folders {
            if uncommitted {
                remove_folder(&folder.next())?;
                sync(folder.path())?;
            } else {
                finish(folder)?;
            }
        }
        if uncommitted {
            fs::remove_file(&manifest).map_err(Error::io(&manifest))?;
            sync(&self.data)?;
        }
        Ok(())
    }
}

/// Step 4 in one folder, from wherever it was interrupted.
fn finish(folder: &Folder) -> Result<(), Error> {
    let (next, old) = (folder.next(), folder.path().join(OLD));
    if next.join("db").exists() {
        if !old.exists() && folder.database().exists() {
            rename(&folder.database(), &old)?;
        }
        rename(&next.join("db"), &folder.database())?;
    }
    if next.join("db.json").exists() {
        rename(&next.join("db.json"), &folder.slice())?;
    }
    sync(folder.path())?;
    remove_folder(&next)?;
    remove_folder(&old)
}

/// A run that did not publish leaves nothing behind, where it can.
impl Drop for Target {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // Where another process has a folder, what lies about is that one's business.
        if self.folders.len() == Collection::ALL.len() {
            // What cannot be taken back now, the next run takes back.
            let _ = self.settle(false);
        }
        for folder in &self.folders {
            if self.made.iter().any(|made| made == folder.path()) {
                let _ = fs::remove_file(folder.path().join("lock"));
            }
        }
        // The deepest first; one that is not empty stays.
        self.made.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for path in &self.made {
            let _ = fs::remove_dir(path);
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io(to))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}
