//! The folder that holds all of one service's data.

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
/// data/posts/lock       locked by the process that works here; names it
/// data/posts/db.json    the slice of the monolith's file
/// data/posts/db/        the database
/// data/posts/db.part/   only while a database is made, from a slice or from db/
/// data/posts/db.new/    only until a database that is made anew takes its place: at the next start at the latest
/// data/posts/db.old/    only until the replaced database is removed
/// data/posts/seed.*     how `seed` reaches the running service: a socket and its key
/// data/posts/next/      only while a split puts its result into place: the service must not start
/// ```
pub struct Folder {
    path: PathBuf,
    _lock: File,
    read_only: bool,
}

/// The policy for a database of which a part is damaged or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Open nothing and report the damage.
    Refuse,
    /// Go on with all whole data, and log the losses.
    AcceptLoss,
}

impl Folder {
    /// Locks the folder, which exists, for this process, until dropped.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process holds the folder.
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
        // The lock's text serves only the message above, so a full disk is no reason to fail.
        let program = env::current_exe().ok();
        let program = program.as_deref().and_then(Path::file_name).unwrap_or_default();
        let _ =
            lock.set_len(0).and_then(|()| writeln!(lock, "{} (process {})", program.to_string_lossy(), process::id()));
        Ok(Self { path: path.to_owned(), _lock: lock, read_only })
    }

    /// Returns whether the folder lies on a read-only file system.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Copies the database into a folder below `to` and locks that, since sled opens only files that it can write to.
    pub fn copy_database(&self, to: &Path) -> Result<Folder, StoreError> {
        let (from, copy) = (self.database(), to.join("db"));
        fs::create_dir(&copy).map_err(at(&copy))?;
        for entry in fs::read_dir(&from).map_err(at(&from))? {
            let entry = entry.map_err(at(&from))?;
            if entry.file_type().map_err(at(&from))?.is_file() {
                // A write that was under way when the last run ended may be in memory alone and never reach the disk.
                if let Err(error) = File::open(entry.path()).and_then(|file| file.sync_all()) {
                    let path = entry.path();
                    log::warn!("{}: {error}: the last writes that are served may not be on the disk", path.display());
                }
                let copied = copy.join(entry.file_name());
                fs::copy(entry.path(), &copied).map_err(at(&copied))?;
            }
        }
        Folder::lock(to)
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the slice.
    pub fn slice(&self) -> PathBuf {
        self.path.join("db.json")
    }

    /// Returns the path of the database.
    pub fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    /// Returns the path at which a new database grows until it is whole.
    pub fn part(&self) -> PathBuf {
        self.path.join("db.part")
    }

    /// Removes a database that an interrupted run left unfinished.
    pub fn remove_part(&self) -> Result<(), StoreError> {
        remove(&self.part())
    }

    /// Returns the path at which a verified split waits to be put into place.
    pub fn next(&self) -> PathBuf {
        self.path.join("next")
    }

    /// Returns the database's path for a service. It is an error if a split is putting a new database into place.
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

    /// Opens the folder's database. If it was not closed in order, reads it as the disk has it. Rebuilds an older
    /// layout, and replays the journal.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if answered writes are gone or damaged, unless `on_damage` accepts the loss.
    pub fn open(&self, collection: Collection, purpose: Purpose, on_damage: OnDamage) -> Result<Store, StoreError> {
        self.settled_database()?;
        self.open_unsettled(collection, purpose, on_damage)
    }

    /// Opens the database as [`open`](Self::open) does, even while a split is putting its result into place.
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

    /// Rewrites the folder's database without the room of deleted and replaced records; with [`OnDamage::AcceptLoss`]
    /// also without damaged data. Returns its bytes on the disk before and after.
    ///
    /// # Errors
    /// The database is then unchanged.
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

    /// Replaces the database by the one in [`part`](Self::part), which is closed.
    pub(super) fn replace_database(&self) -> Result<(), StoreError> {
        self.put_new_database()?;
        self.finish_replacing()
    }

    /// Lets the database in [`part`](Self::part), which is closed, take the place of the one that is there, which may be in use
    /// until the folder is opened again.
    pub(super) fn put_new_database(&self) -> Result<(), StoreError> {
        sync_tree(&self.part())?;
        // The one commit point. If anything interrupts the following steps, the next start finishes them.
        rename(&self.part(), &self.new_database())?;
        sync(&self.path)
    }

    /// Finishes [`replace_database`](Self::replace_database), wherever it was interrupted.
    fn finish_replacing(&self) -> Result<(), StoreError> {
        let (new, old) = (self.new_database(), self.path.join("db.old"));
        if self.read_only {
            // What is left of the replaced database takes nothing but room.
            return if new.exists() { Err(StoreError::Waiting(new)) } else { Ok(()) };
        }
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

/// Returns the bytes that a database's files take on the disk.
fn size(path: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for entry in fs::read_dir(path).map_err(at(path))? {
        let metadata = entry.and_then(|entry| entry.metadata()).map_err(at(path))?;
        bytes += metadata.blocks() * 512;
    }
    Ok(bytes)
}

/// Makes a folder durable, with all that is in it.
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

/// Converts an I/O error on `path`, for `map_err`.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}
