//! One service's whole world: a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs, io, process, thread};

use record::model::Collection;

use super::{LOCK_PATIENCE, LOCK_POLL, Purpose, Store, StoreError, cache, rebuild};

/// A service's folder, held by this process alone.
///
/// ```text
/// data/posts/lock       locked by whoever works here, and says who that is
/// data/posts/db.json    the slice of the monolith's file
/// data/posts/db/        the database
/// data/posts/db.part/   only while a database is made: from a slice, or from what is in db/
/// data/posts/db.new/    only while one that was made from db/ takes its place
/// data/posts/db.old/    only until the one that it replaced is removed
/// data/posts/seed.*     where `seed` reaches the service that runs: a socket and its key
/// data/posts/next/      only while a split puts its result into place: the service keeps out
/// ```
pub struct Folder {
    path: PathBuf,
    _lock: File,
    read_only: bool,
}

/// What to do with a database of which a part is damaged or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Open nothing, and say what was found.
    Refuse,
    /// Go on with what is whole, and log what is gone.
    AcceptLoss,
}

impl Folder {
    /// Takes the folder, which exists, for this process, until dropped.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it.
    pub fn lock(path: &Path) -> Result<Self, StoreError> {
        if !path.is_dir() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        let lock_path = path.join("lock");
        let io = |source| StoreError::Io { path: lock_path.clone(), source };
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path);
        let read_only = opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem);
        let mut lock = if read_only { File::open(&lock_path) } else { opened }.map_err(io)?;
        let give_up = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < give_up => thread::sleep(LOCK_POLL),
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let read = lock.take(200).read_to_string(&mut holder);
                    if read.is_err() || holder.is_empty() {
                        holder = "another process".to_owned();
                    }
                    return Err(StoreError::InUse { path: path.to_owned(), holder: holder.trim_end().to_owned() });
                }
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
        // For the message above alone; a full disk is no reason to stay away.
        let program = env::current_exe().ok();
        let program = program.as_deref().and_then(Path::file_name).unwrap_or_default();
        let _ =
            lock.set_len(0).and_then(|()| writeln!(lock, "{} (process {})", program.to_string_lossy(), process::id()));
        Ok(Self { path: path.to_owned(), _lock: lock, read_only })
    }

    /// Whether the folder lies on a file system that can only be read.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Copies the database into a folder below `to`, and takes that: sled opens nothing that it cannot write to.
    pub fn copy_database(&self, to: &Path) -> Result<Folder, StoreError> {
        let (from, copy) = (self.database(), to.join("db"));
        fs::create_dir(&copy).map_err(at(&copy))?;
        for entry in fs::read_dir(&from).map_err(at(&from))? {
            let entry = entry.map_err(at(&from))?;
            if entry.file_type().map_err(at(&from))?.is_file() {
                // A write that was under way when the last run ended may be in memory alone, with no way to the disk.
                if let Err(error) = File::open(entry.path()).and_then(|file| file.sync_all()) {
                    let path = entry.path();
                    log::warn!("{}: {error}: the last of what is served may not be on the disk", path.display());
                }
                let copied = copy.join(entry.file_name());
                fs::copy(entry.path(), &copied).map_err(at(&copied))?;
            }
        }
        Folder::lock(to)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the slice lies.
    pub fn slice(&self) -> PathBuf {
        self.path.join("db.json")
    }

    /// Where the database lies.
    pub fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    /// Where a database grows until it is whole.
    pub fn part(&self) -> PathBuf {
        self.path.join("db.part")
    }

    /// Removes what an interrupted run left of a database that it made, if one did.
    pub fn remove_part(&self) -> Result<(), StoreError> {
        remove(&self.part())
    }

    /// Where a verified split waits to be put into place.
    pub fn next(&self) -> PathBuf {
        self.path.join("next")
    }

    /// The database's path for a service: an error while a split is putting a new one into place.
    pub fn settled_database(&self) -> Result<PathBuf, StoreError> {
        match fs::exists(self.next()) {
            Ok(false) => {
                self.finish_replacing()?;
                Ok(self.database())
            }
            Ok(true) => Err(StoreError::Unfinished(self.path.clone())),
            Err(source) => Err(StoreError::Io { path: self.next(), source }),
        }
    }

    /// Opens the folder's database: as the disk has it, unless it was closed in order; in today's layout, into which an
    /// older one is brought; and with all that its journal has.
    ///
    /// # Errors
    /// [`StoreError::Lost`] when answered writes are gone or damaged, unless `on_damage` goes on without them.
    pub fn open(&self, collection: Collection, purpose: Purpose, on_damage: OnDamage) -> Result<Store, StoreError> {
        self.settled_database()?;
        self.open_unsettled(collection, purpose, on_damage)
    }

    /// The same for whoever finishes what a split has begun to put into place.
    pub fn open_unsettled(
        &self,
        collection: Collection,
        purpose: Purpose,
        on_damage: OnDamage,
    ) -> Result<Store, StoreError> {
        let path = self.database();
        if !path.is_dir() {
            return Err(StoreError::Missing(path));
        }
        self.remove_part()?;
        cache::distrust(&path)?;
        rebuild::open(self, collection, purpose, on_damage == OnDamage::AcceptLoss)
    }

    /// Writes the folder's database anew, without what deleted and replaced records left behind; with
    /// [`OnDamage::AcceptLoss`] also without what is damaged. Returns its bytes on the disk before and after.
    ///
    /// # Errors
    /// The database is then as it was.
    pub fn compact(&self, collection: Collection, on_damage: OnDamage) -> Result<(u64, u64), StoreError> {
        let store = self.open(collection, Purpose::Passing, on_damage)?;
        let before = size(&self.database())?;
        match rebuild::compact(self, store) {
            Err(StoreError::Corrupt { .. }) if on_damage == OnDamage::AcceptLoss => {
                rebuild::give_up_damage(self, collection)?;
            }
            compacted => compacted?,
        }
        Ok((before, size(&self.database())?))
    }

    /// Puts the database in [`part`](Self::part), which is closed, into the place of the one that there is.
    pub(super) fn replace_database(&self) -> Result<(), StoreError> {
        sync_tree(&self.part())?;
        // The one commit point. Whatever interrupts what follows, the next start finishes it.
        rename(&self.part(), &self.new_database())?;
        sync(&self.path)?;
        self.finish_replacing()
    }

    /// Finishes what [`replace_database`](Self::replace_database) began, from wherever it was interrupted.
    fn finish_replacing(&self) -> Result<(), StoreError> {
        let (new, old) = (self.new_database(), self.path.join("db.old"));
        if new.exists() {
            if self.database().exists() {
                remove(&old)?;
                rename(&self.database(), &old)?;
                sync(&self.path)?;
            }
            rename(&new, &self.database())?;
            sync(&self.path)?;
        }
        remove(&old)
    }

    fn new_database(&self) -> PathBuf {
        self.path.join("db.new")
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(at(from))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(StoreError::Io { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

/// How many bytes the files of a database take on the disk.
fn size(path: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for entry in fs::read_dir(path).map_err(at(path))? {
        let metadata = entry.and_then(|entry| entry.metadata()).map_err(at(path))?;
        bytes += metadata.blocks() * 512;
    }
    Ok(bytes)
}

/// Makes a folder durable with all that is in it.
pub fn sync_tree(path: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(at(path))? {
        let entry = entry.map_err(at(path))?;
        let is_folder = entry.file_type().map_err(at(path))?.is_dir();
        if is_folder { sync_tree(&entry.path())? } else { sync(&entry.path())? }
    }
    sync(path)
}

/// Makes a file durable, or the entries of a folder.
pub fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(at(path))
}

/// For `map_err`: what the system said about `path`.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}
