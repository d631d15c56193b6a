//! The target: the services' folders, and how a verified split, or what a newer file changes, gets into them.
//!
//! It is built beside what is there, in `building/`, and put into place only when all of it is verified and durable. What
//! puts it there cannot all happen at once, so it has one commit point:
//!
//! ```text
//! 1  DIR/manifest.next.json is written
//! 2  DIR/{users,threads,posts}/building/ become next/          from here on the services keep out
//! 3  DIR/manifest.next.json becomes DIR/manifest.json          the commit
//! 4  in each folder: db/ becomes old/, next/db/ becomes db/, next/db.json becomes db.json, next/ and old/ go
//! ```
//!
//! A newer file has neither `next/db/` nor `next/db.json` but `next/changes` and `next/slice.patch`: before 3 its records are
//! held, in 4 they are changed, by this process or by the service that runs ([`Database`]), and then the slice is.
//!
//! Whatever interrupts this, the next run of `seed` first takes it back (before 3) or finishes it (after 3):
//! [`Target::lock`] does that. Each step is on the disk before the next begins.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use record::model::Collection;
use store::desk::{Connection, DeskError, staged_at};
use store::{Folder, Hold, OnDamage, Purpose, StoreError, sync, sync_tree};

use crate::checkpoint;
use crate::database::Database;
use crate::error::Error;
use crate::manifest::{MANIFEST, Manifest};
use crate::part_file::PartFile;
use crate::patch::{self, patch_in};
use crate::plan::Plan;

const MANIFEST_NEXT: &str = "manifest.next.json";
const BUILDING: &str = "building";
const OLD: &str = "old";

/// How often a database is asked again to make its changes, where its service went away meanwhile.
const ATTEMPTS: u32 = 3;

/// How long to wait until such a folder can be had.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait for another run that asks the same service.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);

/// How often to try.
const POLL: Duration = Duration::from_millis(20);

/// The folders.
pub struct Target {
    data: PathBuf,
    places: Vec<Place>,
    /// How many they should be.
    wanted: usize,
    /// The folders that were not there before.
    made: Vec<PathBuf>,
    keep: bool,
    /// Keeps other runs out, where the file system can.
    _runs: Option<File>,
}

/// One service's folder.
pub struct Place {
    /// The service's collection.
    pub collection: Collection,
    path: PathBuf,
    /// Held by this process; nothing where the service runs.
    folder: Option<Folder>,
    database: Option<Database>,
}

/// Where a split is built, for one collection.
pub struct Building {
    /// The collection.
    pub collection: Collection,
    /// The slice.
    pub slice: PathBuf,
    /// The database, of a split.
    pub database: PathBuf,
    /// What becomes of the database that is there, of a newer file.
    pub changes: PathBuf,
    /// What becomes of the slice that is there.
    pub patch: PathBuf,
}

impl Place {
    /// The folder of `collection`'s service: this process takes it, or asks the service that runs there, if it may.
    fn take(path: &Path, collection: Collection, ask_service: bool) -> Result<Self, Error> {
        let (mut place, path) = (Self { collection, path: path.to_owned(), folder: None, database: None }, path);
        let give_up = Instant::now() + BUSY_PATIENCE;
        loop {
            let connection = if ask_service { Connection::open(path) } else { break };
            match connection {
                Ok(connection) => {
                    place.database = Some(Database::Served(connection));
                    return Ok(place);
                }
                // A run that has just ended, or one that goes on.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    if Instant::now() >= give_up {
                        return Err(in_use_by_a_run(path));
                    }
                    thread::sleep(POLL);
                }
                Err(_) => break,
            }
        }
        place.folder = Some(Folder::lock(path)?);
        Ok(place)
    }

    /// The folder, where this process has it.
    pub fn folder(&self) -> Option<&Folder> {
        self.folder.as_ref()
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the slice lies.
    pub fn slice(&self) -> PathBuf {
        self.path.join("db.json")
    }

    /// The database, which is opened if it has to be.
    pub fn database(&mut self) -> Result<&mut Database, Error> {
        if self.database.is_none() {
            let folder = self.folder.as_ref().expect("who has neither was not taken");
            let store = folder.open_unsettled(self.collection, Purpose::Passing, OnDamage::Refuse)?;
            self.database = Some(Database::here(&self.path, store));
        }
        Ok(self.database.as_mut().expect("it is open"))
    }

    /// Lets go of the database, if this process has opened it.
    pub fn close_database(&mut self) {
        if self.folder.is_some()
            && let Some(database) = self.database.take()
        {
            database.close();
        }
    }

    /// Has the staged changes made, if need be by another process than before.
    fn apply(&mut self) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            match self.database()?.apply() {
                Err(Error::Service(error @ DeskError::Gone { .. })) if attempt < ATTEMPTS => {
                    attempt += 1;
                    self.close_database();
                    (self.folder, self.database) = (None, None);
                    self.take_again(&error.to_string())?;
                }
                applied => return applied,
            }
        }
    }

    fn take_again(&mut self, why: &str) -> Result<(), Error> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match Self::take(&self.path, self.collection, true) {
                Ok(place) => *self = place,
                Err(Error::Store(StoreError::InUse { .. })) if Instant::now() < give_up => {
                    thread::sleep(POLL);
                    continue;
                }
                Err(error) => return Err(Error::Difference(format!("{why}; and then: {error}"))),
            }
            return Ok(());
        }
    }

    /// Step 4, from wherever it was interrupted.
    fn finish(&mut self) -> Result<(), Error> {
        let (next, old) = (self.path.join("next"), self.path.join(OLD));
        if next.join("db").exists() {
            if !old.exists() && self.path.join("db").exists() {
                rename(&self.path.join("db"), &old)?;
            }
            rename(&next.join("db"), &self.path.join("db"))?;
        }
        if staged_at(&self.path).exists() {
            self.apply()?;
        }
        patch::apply(&next, &self.slice())?;
        sync(&self.path)?;
        remove_folder(&next)?;
        remove_folder(&old)
    }

    /// Takes step 2 back.
    fn take_back(&mut self) -> Result<(), Error> {
        remove_folder(&self.path.join("next"))?;
        sync(&self.path)?;
        if let Some(database) = &mut self.database
            && database.is_served()
        {
            return match database.release() {
                // It is gone, and holds nothing any more; or it finds no `next/` when this process goes.
                Err(Error::Service(_)) => Ok(()),
                released => released,
            };
        }
        Ok(())
    }
}

impl Target {
    /// Takes the folders of `plan` in `data`, makes what is not there, and settles what an interrupted run left.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where a service runs.
    pub fn lock(data: &Path, plan: &Plan) -> Result<Self, Error> {
        Self::take(data, plan, false)
    }

    /// The same, and services may run.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where one runs that cannot be asked.
    pub fn reach(data: &Path, plan: &Plan) -> Result<Self, Error> {
        Self::take(data, plan, true)
    }

    fn take(data: &Path, plan: &Plan, ask_services: bool) -> Result<Self, Error> {
        let mut target = Self {
            data: data.to_owned(),
            places: Vec::new(),
            wanted: plan.count(),
            made: Vec::new(),
            keep: false,
            _runs: None,
        };
        for collection in plan.iter().chain(left_unsettled(data, plan)) {
            let path = data.join(collection.name());
            let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
            let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
            fs::create_dir_all(&path).map_err(Error::io(&path))?;
            target.made.splice(..0, missing);
            target.places.push(Place::take(&path, collection, ask_services)?);
        }
        match keep_runs_out(data) {
            Ok(runs) => target._runs = runs,
            Err(error) => {
                // What lies about is the other run's business.
                target.places.clear();
                return Err(error);
            }
        }
        target.settle(true)?;
        target.places.truncate(plan.count());
        Ok(target)
    }

    /// Whether an interrupted run, or one that goes on, has left something in `data` to be settled.
    pub fn is_unsettled(data: &Path, plan: &Plan) -> bool {
        let next = |collection: Collection| data.join(collection.name()).join("next");
        data.join(MANIFEST_NEXT).exists() || plan.iter().any(|collection| next(collection).exists())
    }

    /// Where they lie.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The three services' folders.
    pub fn places(&mut self) -> &mut [Place] {
        &mut self.places
    }

    /// The collections whose services run.
    pub fn served(&self) -> Vec<Collection> {
        self.places.iter().filter(|place| place.folder.is_none()).map(|place| place.collection).collect()
    }

    /// The three services' folders, which this process has.
    pub fn folders(&self) -> impl Iterator<Item = (Collection, &Folder)> {
        self.places.iter().filter_map(|place| Some((place.collection, place.folder()?)))
    }

    /// Whether there is neither a slice nor a database in the folders of `plan`.
    pub fn is_empty(&self, plan: &Plan) -> bool {
        let is_empty = |place: &Place| !place.slice().exists() && !place.path.join("db").exists();
        self.places.iter().filter(|place| plan.has(place.collection)).all(is_empty)
    }

    /// Makes the folders to build in what becomes of the collections of `plan`; what an interrupted run has built goes.
    pub fn build(&self, plan: &Plan) -> Result<Vec<Building>, Error> {
        self.clear()?;
        let mut building = self.building();
        building.retain(|building| plan.has(building.collection));
        for Building { slice, .. } in &building {
            let path = slice.parent().expect("it is built in a folder");
            fs::create_dir(path).map_err(Error::io(path))?;
        }
        Ok(building)
    }

    /// What is in place now stays, and this goes on with something else.
    pub fn go_on(&mut self) {
        self.made.clear();
        self.keep = false;
    }

    /// The folders that a split is built in.
    pub fn building(&self) -> Vec<Building> {
        let building = |place: &Place| {
            let path = place.path.join(BUILDING);
            let [slice, database, changes] = ["db.json", "db", "changes"].map(|name| path.join(name));
            Building { collection: place.collection, slice, database, changes, patch: patch_in(&path) }
        };
        self.places.iter().map(building).collect()
    }

    /// Removes what was built and not put into place.
    pub fn clear(&self) -> Result<(), Error> {
        self.places.iter().try_for_each(|place| remove_folder(&place.path.join(BUILDING)))?;
        remove_file(&checkpoint::path_in(&self.data))
    }

    /// Puts what was built into place, with its manifest. The databases that were built are closed. `commits` is called
    /// right before the commit point.
    ///
    /// Returns whether it did: where a service has changed what a newer file changes since that was looked at, nothing is
    /// changed.
    pub fn publish(&mut self, manifest: &Manifest, commits: impl FnOnce() -> Result<(), Error>) -> Result<bool, Error> {
        // What nothing becomes of stays as it is.
        let is_built = |place: &&Place| place.path.join(BUILDING).exists();
        for place in self.places.iter().filter(is_built) {
            sync_tree(&place.path.join(BUILDING))?;
        }
        remove_file(&checkpoint::path_in(&self.data))?;
        let next = self.data.join(MANIFEST_NEXT);
        write_durably(&next, manifest)?;
        sync(&self.data)?;
        for place in self.places.iter().filter(is_built) {
            rename(&place.path.join(BUILDING), &place.path.join("next"))?;
            sync(&place.path)?;
        }
        for place in &mut self.places {
            if staged_at(&place.path).exists()
                && let Hold::Overtaken(_) = place.database()?.hold()?
            {
                self.settle(false)?;
                return Ok(false);
            }
        }
        commits()?;
        rename(&next, &self.data.join(MANIFEST))?;
        self.keep = true;
        sync(&self.data)?;
        // Each, whatever becomes of the others.
        let mut finished = Ok(());
        for place in &mut self.places {
            let one = place.finish();
            finished = finished.and(one);
        }
        finished.map_err(|error| Error::Unfinished(Box::new(error)))?;
        Ok(true)
    }

    /// Writes the manifest of what is in place anew.
    pub fn replace_manifest(&self, manifest: &Manifest) -> Result<(), Error> {
        let mut part = PartFile::create(&self.data.join(MANIFEST))?;
        part.write(&manifest.to_json())?;
        part.put_in_place()
    }

    /// Takes back an interrupted run, or finishes it. What was built by one, and has a checkpoint, may be kept.
    fn settle(&mut self, keep_built: bool) -> Result<(), Error> {
        let manifest = self.data.join(MANIFEST_NEXT);
        let uncommitted = manifest.exists();
        if uncommitted || !keep_built || !checkpoint::path_in(&self.data).exists() {
            self.clear()?;
        }
        // Each, whatever becomes of the others: a service whose folder is settled can be started.
        let mut settled = Ok(());
        for place in &mut self.places {
            let one = if uncommitted { place.take_back() } else { place.finish() };
            // Who opens it next may want it as a service would.
            place.close_database();
            settled = settled.and(one);
        }
        settled?;
        if uncommitted {
            fs::remove_file(&manifest).map_err(Error::io(&manifest))?;
            sync(&self.data)?;
        }
        Ok(())
    }
}

/// A run that did not publish leaves nothing behind, where it can.
impl Drop for Target {
    fn drop(&mut self) {
        self.places.iter_mut().for_each(Place::close_database);
        if self.keep {
            return;
        }
        // Where another process has a folder, what lies about is that one's business.
        if self.places.len() == self.wanted {
            // What cannot be taken back now, the next run takes back.
            let _ = self.settle(false);
        }
        for place in &self.places {
            if self.made.contains(&place.path) {
                let _ = fs::remove_file(place.path.join("lock"));
            }
        }
        // The deepest first; one that is not empty stays.
        self.made.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for path in &self.made {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Collections that are not in `plan`, and in whose folders an interrupted run of another plan has left something.
fn left_unsettled(data: &Path, plan: &Plan) -> Vec<Collection> {
    let manifests = [MANIFEST, MANIFEST_NEXT].map(|name| Manifest::read_at(&data.join(name)).ok().flatten());
    let mut left: Vec<Collection> = manifests.iter().flatten().flat_map(Manifest::collections).collect();
    left.sort();
    left.dedup();
    left.retain(|collection| {
        let folder = data.join(collection.name());
        plan.named(collection.name()).is_none() && ["next", OLD].iter().any(|name| folder.join(name).exists())
    });
    left
}

/// Keeps other runs out of `data` until this is dropped. The services' folders alone do not: where one that runs is ended
/// in the middle of a run, another run could take its folder.
fn keep_runs_out(data: &Path) -> Result<Option<File>, Error> {
    let folder = File::open(data).map_err(Error::io(data))?;
    let give_up = Instant::now() + BUSY_PATIENCE;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(Some(folder)),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => return Err(in_use_by_a_run(data)),
            // Not every file system locks folders.
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
}

fn in_use_by_a_run(path: &Path) -> Error {
    StoreError::InUse { path: path.to_owned(), holder: "another run of `seed`".to_owned() }.into()
}

fn write_durably(path: &Path, manifest: &Manifest) -> Result<(), Error> {
    let text = manifest.to_json();
    let written =
        File::create(path).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(Error::io(path))
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
