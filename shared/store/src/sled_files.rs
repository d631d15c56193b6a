//! sled's files, opened with the necessary guards.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;
use std::{fs, io, thread};

use super::{LOCK_PATIENCE, LOCK_POLL, Purpose, SEGMENT, StoreError};

/// Opens sled. The caller holds the [`Folder`]'s lock, so no other process of ours uses the files.
pub(super) fn open(path: &Path, purpose: Purpose) -> Result<sled::Db, StoreError> {
    remove_half_written_snapshots(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    let config = sled::Config::new().path(path).segment_size(SEGMENT).cache_capacity(purpose.cache_bytes());
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        // sled may panic on damaged files instead of returning an error.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        return match opened {
            Ok(Ok(db)) => Ok(db),
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
                if Instant::now() < give_up {
                    thread::sleep(LOCK_POLL);
                    continue;
                }
                Err(StoreError::InUse { path: path.to_owned(), holder: "another program".to_owned() })
            }
            Ok(Err(sled::Error::Corruption { .. })) => {
                Err(StoreError::Corrupt { path: path.to_owned(), what: "sled finds its files corrupt".to_owned() })
            }
            Ok(Err(sled::Error::Unsupported(what))) => Err(StoreError::Corrupt { path: path.to_owned(), what }),
            Ok(Err(source)) => Err(StoreError::Sled { path: path.to_owned(), source }),
            Err(_panic) => {
                Err(StoreError::Corrupt { path: path.to_owned(), what: "sled cannot read its files".to_owned() })
            }
        };
    }
}

/// Removes `snap.….generating`, which a crash or a full disk leaves while sled opens: every later open would fail (sled
/// #1527).
fn remove_half_written_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
