//! The target: the services' folders, which a verified split or the changes of a newer file are published to.
//!
//! A result is built in `building/`, beside the present state, and put into place once all of it is verified and
//! durable. This takes several steps with one commit point:
//!
//! ```text
//! 1  DIR/manifest.next.json is written
//! 2  DIR/{users,threads,posts}/building/ become next/          from here on the services keep out
//! 3  DIR/manifest.next.json becomes DIR/manifest.json          the commit
//! 4  in each folder: db/ becomes old/, next/db/ becomes db/, next/db.json becomes db.json, next/ and old/ go
//! ```
//!
//! A newer file has `next/changes` and `next/slice.patch` instead of `next/db/` and `next/db.json`. Its records are
//! held before step 3; in step 4 this process or the running service ([`Database`]) changes them, and then the slice
//! changes.
//!
//! After an interruption, the next run of `seed` first takes the steps back (before 3) or finishes them (after 3):
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

/// The number of attempts to have a database make its changes, if its service goes away meanwhile.
const ATTEMPTS: u32 = 3;

/// The longest wait for the folder of such a service.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest wait for another run that asks the same service.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);

/// The interval between attempts.
const POLL: Duration = Duration::from_millis(20);

/// The services' folders.
pub struct Target {
    data: PathBuf,
    places: Vec<Place>,
    /// The number of places once all are taken.
    wanted: usize,
    /// The folders that this run has made.
    made: Vec<PathBuf>,
    keep: bool,
    /// The lock that keeps other runs out, if the file system has locks for folders.
    _runs: Option<File>,
}

/// One service's folder.
pub struct Place {
    /// The service's collection.
    pub collection: Collection,
    path: PathBuf,
    /// The folder, held by this process; `None` while the service runs.
    folder: Option<Folder>,
    database: Option<Database>,
}

/// The paths at which one collection's part is built.
pub struct Building {
    /// The collection.
    pub collection: Collection,
    /// The slice.
    pub slice: PathBuf,
    /// The database of a split.
    pub database: PathBuf,
    /// A newer file's changes of the existing database.
    pub changes: PathBuf,
    /// The patch of the existing slice.
    pub patch: PathBuf,
}

impl Place {
    /// Takes the folder of `collection`'s service; connects to the service that runs there if `ask_service`.
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
                // Another run has the connection; it may just be ending.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    if Instant::now() >= give_up {
                        return Err(in_use_by_a_run(path));
                    }
                    thread::sleep(POLL);
                }
                Err(_) => break,
            }
        }
        let folder = Folder::lock(path)?;
        match folder.settled_database() {
            // An interrupted run is settled later.
            Ok(_) | Err(StoreError::Unfinished(_)) => {}
            Err(error) => return Err(error.into()),
        }
        place.folder = Some(folder);
        Ok(place)
    }

    /// Returns the folder, if this process holds it.
    pub fn folder(&self) -> Option<&Folder> {
        self.folder.as_ref()
    }

    /// Returns the folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the slice's path.
    pub fn slice(&self) -> PathBuf {
        self.path.join("db.json")
    }

    /// Returns the database; opens it if necessary.
    pub fn database(&mut self) -> Result<&mut Database, Error> {
        if self.database.is_none() {
            let folder = self.folder.as_ref().expect("a place has a folder or a database");
            let store = folder.open_unsettled(self.collection, Purpose::Passing, OnDamage::Refuse)?;
            self.database = Some(Database::here(&self.path, store));
        }
        Ok(self.database.as_mut().expect("it is open"))
    }

    /// Closes the database, if this process has opened it.
    pub fn close_database(&mut self) {
        if self.folder.is_some()
            && let Some(database) = self.database.take()
        {
            database.close();
        }
    }

    /// Has the staged changes made, by another process than before if that one goes away.
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

    /// Does step 4, from the point at which it was interrupted.
    fn finish(&mut self) -> Result<(), Error> {
        let (next, old) = (self.path.join("next"), self.path.join(OLD));
        if next.join("db").exists() {
            // What was to replace the database before is not for this one.
            remove_folder(&self.path.join("db.new"))?;
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
                // The service is gone and holds nothing; or it finds no `next/` once this process ends.
                Err(Error::Service(_)) => Ok(()),
                released => released,
            };
        }
        Ok(())
    }
}

impl Target {
    /// Takes the folders of `plan` in `data`, makes missing ones, and settles an interrupted run.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if a service runs.
    pub fn lock(data: &Path, plan: &Plan) -> Result<Self, Error> {
        Self::take(data, plan, false)
    }

    /// Takes the folders like [`lock`](Self::lock), but connects to services that run.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if a running service cannot be reached.
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
                // The other run settles what it leaves.
                target.places.clear();
                return Err(error);
            }
        }
        target.settle(true)?;
        target.places.truncate(plan.count());
        Ok(target)
    }

    /// Tells whether `data` has an unsettled run: an interrupted one, or one in progress.
    pub fn is_unsettled(data: &Path, plan: &Plan) -> bool {
        let next = |collection: Collection| data.join(collection.name()).join("next");
        data.join(MANIFEST_NEXT).exists() || plan.iter().any(|collection| next(collection).exists())
    }

    /// Returns the data folder's path.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the services' folders.
    pub fn places(&mut self) -> &mut [Place] {
        &mut self.places
    }

    /// Lists the collections whose services run.
    pub fn served(&self) -> Vec<Collection> {
        self.places.iter().filter(|place| place.folder.is_none()).map(|place| place.collection).collect()
    }

    /// Lists the services' folders that this process holds.
    pub fn folders(&self) -> impl Iterator<Item = (Collection, &Folder)> {
        self.places.iter().filter_map(|place| Some((place.collection, place.folder()?)))
    }

    /// Tells whether the folders of `plan` have neither slices nor databases.
    pub fn is_empty(&self, plan: &Plan) -> bool {
        let is_empty = |place: &Place| !place.slice().exists() && !place.path.join("db").exists();
        self.places.iter().filter(|place| plan.has(place.collection)).all(is_empty)
    }

    /// Makes the folders in which the collections of `plan` are built; removes what an interrupted run has built.
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

    /// Keeps what is in place now, so that another result can be built and published.
    pub fn go_on(&mut self) {
        self.made.clear();
        self.keep = false;
    }

    /// Lists the paths at which each collection is built.
    pub fn building(&self) -> Vec<Building> {
        let building = |place: &Place| {
            let path = place.path.join(BUILDING);
            let [slice, database, changes] = ["db.json", "db", "changes"].map(|name| path.join(name));
            Building { collection: place.collection, slice, database, changes, patch: patch_in(&path) }
        };
        self.places.iter().map(building).collect()
    }

    /// Removes what was built but not put into place.
    pub fn clear(&self) -> Result<(), Error> {
        self.places.iter().try_for_each(|place| remove_folder(&place.path.join(BUILDING)))?;
        remove_file(&checkpoint::path_in(&self.data))
    }

    /// Puts what was built, and its manifest, into place. The databases that were built must be closed. Calls `commits`
    /// right before the commit point.
    ///
    /// Returns `false`, and changes nothing, if a service has meanwhile changed a record that the newer file changes.
    pub fn publish(&mut self, manifest: &Manifest, commits: impl FnOnce() -> Result<(), Error>) -> Result<bool, Error> {
        // A collection without a `building/` does not change.
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
        // Finishes each place, even if another one fails.
        let mut finished = Ok(());
        for place in &mut self.places {
            let one = place.finish();
            finished = finished.and(one);
        }
        finished.map_err(|error| Error::Unfinished(Box::new(error)))?;
        Ok(true)
    }

    /// Replaces the manifest of what is in place.
    pub fn replace_manifest(&self, manifest: &Manifest) -> Result<(), Error> {
        let mut part = PartFile::create(&self.data.join(MANIFEST))?;
        part.write(&manifest.to_json())?;
        part.put_in_place()
    }

    /// Takes back an interrupted run, or finishes it. With `keep_built`, keeps what it has built up to a checkpoint.
    fn settle(&mut self, keep_built: bool) -> Result<(), Error> {
        let manifest = self.data.join(MANIFEST_NEXT);
        let uncommitted = manifest.exists();
        if uncommitted || !keep_built || !checkpoint::path_in(&self.data).exists() {
            self.clear()?;
        }
        // Settles each place, even if another one fails: a service can start once its folder is settled.
        let mut settled = Ok(());
        for place in &mut self.places {
            let one = if uncommitted { place.take_back() } else { place.finish() };
            // The next user may open it in another way, as a service does.
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

/// Removes the traces of a run that did not publish, as far as possible.
impl Drop for Target {
    fn drop(&mut self) {
        self.places.iter_mut().for_each(Place::close_database);
        if self.keep {
            return;
        }
        // If a folder is missing, another process holds it, and settles the rest.
        if self.places.len() == self.wanted {
            // The next run settles what this one cannot.
            let _ = self.settle(false);
        }
        for place in &self.places {
            if self.made.contains(&place.path) {
                let _ = fs::remove_file(place.path.join("lock"));
            }
        }
        // The deepest first; a folder that is not empty stays.
        self.made.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for path in &self.made {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Lists the collections outside `plan` in whose folders an interrupted run of another plan has left something.
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

/// Keeps other runs out of `data` until the result is dropped. Locks of the services' folders are not enough: if a
/// running service ends in the middle of a run, another run could take its folder.
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
