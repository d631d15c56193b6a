//! One service's whole world: a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs, io, process, thread};

use super::{LOCK_PATIENCE, LOCK_POLL, StoreError};

/// A service's folder, held by this process alone.
///
/// ```text
/// data/posts/lock       locked by whoever works here, and says who that is
/// data/posts/db.json    the slice of the monolith's file
/// data/posts/db/        the database
/// data/posts/db.part/   only while a service fills its database from a slice
/// data/posts/next/      only while a split puts its result into place: the service keeps out
/// ```
pub struct Folder {
    path: PathBuf,
    _lock: File,
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
        let mut lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path).map_err(io)?;
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
        Ok(Self { path: path.to_owned(), _lock: lock })
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

    /// Removes what an interrupted fill left, if one did.
    pub fn remove_part(&self) -> Result<(), StoreError> {
        match fs::remove_dir_all(self.part()) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(StoreError::Io { path: self.part(), source }),
            _ => Ok(()),
        }
    }

    /// Where a verified split waits to be put into place.
    pub fn next(&self) -> PathBuf {
        self.path.join("next")
    }

    /// The database's path for a service: an error while a split is putting a new one into place.
    pub fn settled_database(&self) -> Result<PathBuf, StoreError> {
        match fs::exists(self.next()) {
            Ok(false) => Ok(self.database()),
            Ok(true) => Err(StoreError::Unfinished(self.path.clone())),
            Err(source) => Err(StoreError::Io { path: self.next(), source }),
        }
    }
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
