//! What the system remembers of a database's files, and whether it may be believed.
//!
//! After a failed sync the system keeps what it could not write, and takes it for written: a process that starts then
//! reads it, builds on it, and loses it with the power. So unless the last run ended in order, with all syncs well, a
//! start syncs the files, and has the system forget them: what is then read is what the disk has.
//!
//! The mark says that a run ended well, not that one went wrong: a mark that a failing disk loses costs a slower start.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{LOCK_PATIENCE, LOCK_POLL, Shared, Store, StoreError, at};

/// The mark's name, beside sled's own files.
const CLEAN: &str = "clean";

/// What is left of a store that is being closed.
pub struct Closing(Arc<Shared>);

impl Store {
    /// Closes this clone. With the last one sled ends, in its own time.
    pub fn close(self) -> Closing {
        Closing(self.shared)
    }
}

impl Closing {
    /// Says that the database was closed in order: waits until sled has let go of it, and syncs its files.
    ///
    /// # Errors
    /// It could not be said; the next start then reads the files from the disk.
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
        // An error is told once, and to whom had the file open: it was a sync of ours, or it is told here, or it happened
        // in what sled does at its end.
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

/// Tells the files at `path` from copies of them, from what is copied over them, and from what they are after a change.
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

/// Makes sure that what is read of the database at `path` from now on is what the disk has, and takes the mark away.
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

/// Writes what the system has of `path` to the disk, and has the system forget it.
#[cfg(target_os = "linux")]
fn forget(path: &Path) -> io::Result<()> {
    use rustix::fs::{Advice, fadvise, fstatfs};

    /// What lies in memory alone: there is no disk that could know better.
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

/// How many pages of `file` the system has in memory, of up to 256 that lie evenly in it. A hole costs no look at the
/// disk and cannot be told from a page of zeros that is there: such pages do not count.
#[cfg(target_os = "linux")]
fn remembered(file: &File) -> io::Result<usize> {
    use rustix::fs::{Advice, fadvise};
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    const PAGE: usize = 4 << 10;
    // Each brings the page that it finds missing.
    const LOOKS: u64 = 256;

    // Looking must not make the system read ahead: what it then has would count.
    fadvise(file, 0, None, Advice::Random)?;
    let pages = file.metadata()?.len().div_ceil(PAGE as u64);
    let mut remembered = 0;
    for look in 0..pages.min(LOOKS) {
        let page = look * pages / pages.min(LOOKS);
        let mut bytes = [0; PAGE];
        match preadv2(file, &mut [io::IoSliceMut::new(&mut bytes)], page * PAGE as u64, ReadWriteFlags::NOWAIT) {
            Ok(_) => remembered += usize::from(bytes != [0; PAGE]),
            Err(Errno::AGAIN) => {}
            // Not every file system can say.
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
