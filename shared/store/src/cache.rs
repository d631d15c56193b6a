//! The system's cache of a database's files, and whether to trust it.
//!
//! After a failed sync the system keeps the data that it could not write and treats it as written. A process that
//! starts then reads it, builds on it, and loses it at a power loss. So unless the last run ended in order, with all
//! syncs successful, a start syncs the files and has the system drop its cache: then it reads what the disk has.
//!
//! The mark says that a run ended well, not that it failed: a mark lost by a failing disk costs only a slower start.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{LOCK_PATIENCE, LOCK_POLL, Shared, Store, StoreError, at};

/// The mark's name. It lies beside sled's own files.
const CLEAN: &str = "clean";

/// The rest of a store that is being closed.
pub struct Closing(Arc<Shared>);

impl Store {
    /// Closes this clone. sled ends some time after the last clone is closed.
    pub fn close(self) -> Closing {
        Closing(self.shared)
    }
}

impl Closing {
    /// Marks the database as closed in order: waits until sled has released it, and syncs its files.
    ///
    /// # Errors
    /// The mark could not be written. The next start then reads the files from the disk.
    pub fn mark_clean(self) -> io::Result<()> {
        let Shared { file, path, failed, .. } = &*self.0;
        let db = File::open(path.join("db"))?;
        let give_up = Instant::now() + LOCK_PATIENCE;
        // sled holds this lock until its last write is done.
        while db.try_lock().is_err() {
            if Instant::now() > give_up {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            std::thread::sleep(LOCK_POLL);
        }
        // The system reports an error once to each handle that was open at the time. So any error was returned by an
        // earlier sync of ours, or is returned here, even one that sled met at its end.
        file.sync_all()?;
        if failed.load(Ordering::Relaxed) {
            return Err(io::Error::other("a write or a sync of them has failed"));
        }
        for entry in fs::read_dir(path)? {
            File::open(entry?.path())?.sync_all()?;
        }
        fs::write(path.join(CLEAN), describe_files(path)?)
    }
}

/// Describes the files at `path`, so that copies, replacements and later changes of them are told apart.
fn describe_files(path: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (name, file) = (entry.file_name(), entry.metadata()?);
        if name != CLEAN {
            files.push(format!("{} {} {}.{:09}\n", name.display(), file.ino(), file.ctime(), file.ctime_nsec()));
        }
    }
    files.sort();
    Ok(files.concat())
}

/// Makes sure that reads of the database at `path` see what the disk has, and removes the mark.
pub(super) fn distrust(path: &Path) -> Result<(), StoreError> {
    let mark = path.join(CLEAN);
    let clean = fs::read_to_string(&mark).ok();
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&mark)(error)),
        _ => {}
    }
    if clean.is_some() && clean == describe_files(path).ok() {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(at(path))? {
        let file = entry.map_err(at(path))?.path();
        if file.is_file() {
            forget(&file).map_err(at(&file))?;
        }
    }
    Ok(())
}

/// Writes the system's cache of `path` to the disk and drops it.
#[cfg(target_os = "linux")]
fn forget(path: &Path) -> io::Result<()> {
    use rustix::fs::{Advice, fadvise, fstatfs};

    /// A file system in memory: it has no disk to read from.
    const TMPFS: i64 = 0x0102_1994;

    let file = File::open(path)?;
    file.sync_all()?;
    if fstatfs(&file)?.f_type as i64 == TMPFS {
        return Ok(());
    }
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        fadvise(&file, 0, None, Advice::DontNeed)?;
        match remembered(&file)? {
            0 => return Ok(()),
            _ if Instant::now() < give_up => std::thread::sleep(LOCK_POLL),
            pages => {
                log::warn!(
                    "{}: the system keeps parts of it in memory ({pages} of those looked at), which may not be on the disk",
                    path.display()
                );
                return Ok(());
            }
        }
    }
}

/// Counts the cached pages of `file`, of up to 256 evenly spaced ones. Pages of zeros do not count: they cannot be told
/// from holes, which are read without the disk.
#[cfg(target_os = "linux")]
fn remembered(file: &File) -> io::Result<usize> {
    use rustix::fs::{Advice, fadvise};
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    const PAGE: usize = 4 << 10;
    // Each look may load the page that it misses, so they are few.
    const LOOKS: u64 = 256;

    // Read-ahead would load pages that then count as cached.
    fadvise(file, 0, None, Advice::Random)?;
    let pages = file.metadata()?.len().div_ceil(PAGE as u64);
    let mut remembered = 0;
    for look in 0..pages.min(LOOKS) {
        let page = look * pages / pages.min(LOOKS);
        let mut bytes = [0; PAGE];
        match preadv2(file, &mut [io::IoSliceMut::new(&mut bytes)], page * PAGE as u64, ReadWriteFlags::NOWAIT) {
            Ok(_) => remembered += usize::from(bytes != [0; PAGE]),
            Err(Errno::AGAIN) => {}
            // Not every file system supports this.
            Err(Errno::OPNOTSUPP | Errno::INVAL) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(remembered)
}

#[cfg(not(target_os = "linux"))]
fn forget(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
