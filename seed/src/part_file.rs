//! A part file: a file that is written beside its place, under another name, so that no reader finds it half-written.
//!
//! The name is always the same, so that the next run removes the rest of a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use store::sync;
use tempfile::{NamedTempFile, TempPath};

use crate::error::Error;
use crate::identity::folder_of;

/// Permissions as the process's umask has them.
const BY_UMASK: u32 = 0o666;

/// Permissions for the owner only.
const PRIVATE: u32 = 0o600;

/// A file that is being written. It is removed unless it is put in place.
pub struct PartFile {
    part: NamedTempFile,
    path: PathBuf,
}

impl PartFile {
    /// Begins the file for `path`, with the permissions of any new file.
    pub fn create(path: &Path) -> Result<Self, Error> {
        Self::create_with(path, BY_UMASK)
    }

    /// Begins the file for `path`, readable by its owner only.
    pub fn create_private(path: &Path) -> Result<Self, Error> {
        Self::create_with(path, PRIVATE)
    }

    fn create_with(path: &Path, mode: u32) -> Result<Self, Error> {
        let part = if is_device(path) {
            NamedTempFile::new().map_err(Error::io(&std::env::temp_dir()))?
        } else {
            let part = part_of(path);
            let create = || {
                // Removes a link, too, instead of writing to its target.
                match fs::remove_file(&part) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&part)?;
                Ok(NamedTempFile::from_parts(file, TempPath::try_from_path(&part)?))
            };
            create().map_err(Error::io(&part))?
        };
        Ok(Self { part, path: path.to_owned() })
    }

    /// Takes over the file `part`, written elsewhere in the same file system, for `path`.
    pub fn adopt(part: &Path, path: &Path) -> Result<Self, Error> {
        let adopt = || Ok(NamedTempFile::from_parts(File::open(part)?, TempPath::try_from_path(part)?));
        Ok(Self { part: adopt().map_err(Error::io(part))?, path: path.to_owned() })
    }

    /// Returns the path that it is written at.
    pub fn path(&self) -> &Path {
        self.part.path()
    }

    /// Returns the file.
    pub fn as_file(&self) -> &File {
        self.part.as_file()
    }

    /// Returns a buffered writer to it.
    pub fn writer(&self) -> Result<BufWriter<File>, Error> {
        Ok(BufWriter::new(self.as_file().try_clone().map_err(Error::io(self.path()))?))
    }

    /// Writes `text` to it.
    pub fn write(&mut self, text: &str) -> Result<(), Error> {
        self.part.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }

    /// Puts it into its place, durably.
    pub fn put_in_place(self) -> Result<(), Error> {
        let path = &self.path;
        if is_device(path) {
            let mut device = OpenOptions::new().write(true).open(path).map_err(Error::io(path))?;
            let copied = File::open(self.path()).and_then(|mut part| io::copy(&mut part, &mut device));
            return copied.map(drop).map_err(Error::io(path));
        }
        self.as_file().sync_all().map_err(Error::io(self.path()))?;
        self.part.persist(path).map_err(|error| Error::io(path)(error.error))?;
        Ok(sync(folder_of(path))?)
    }
}

/// Returns the path at which the file for `path` is written.
fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Tells whether `path` is a device or a pipe, which is written to instead of replaced.
fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_has_the_permissions_of_any_new_one_and_only_its_owner_reads_a_private_one() {
        let dir = tempfile::tempdir().unwrap();
        let [any, public, private] = ["any", "public", "private"].map(|name| dir.path().join(name));
        fs::write(&any, "").unwrap();
        let mut part = PartFile::create(&public).unwrap();
        assert_eq!(mode(part.path()), mode(&any));
        part.write("text").unwrap();
        part.put_in_place().unwrap();
        assert_eq!((mode(&public), fs::read_to_string(&public).unwrap()), (mode(&any), "text".to_owned()));
        // The permissions of the replaced file do not matter.
        fs::set_permissions(&public, fs::Permissions::from_mode(0o666)).unwrap();
        let part = PartFile::create_private(&public).unwrap();
        assert_eq!(mode(part.path()), 0o600);
        part.put_in_place().unwrap();
        assert_eq!(mode(&public), 0o600);
        PartFile::create_private(&private).unwrap().put_in_place().unwrap();
        assert_eq!(mode(&private), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_dropped_file_is_removed_and_so_is_the_rest_of_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let [path, part, other] = ["file", "file.part", "other"].map(|name| dir.path().join(name));
        fs::write(&path, "before").unwrap();
        let mut dropped = PartFile::create(&path).unwrap();
        dropped.write("half").unwrap();
        assert_eq!(dropped.path(), part);
        drop(dropped);
        assert!(!part.exists());
        // Longer than the next text, and readable by everybody.
        fs::write(&part, "left by a crash").unwrap();
        fs::set_permissions(&part, fs::Permissions::from_mode(0o666)).unwrap();
        let mut next = PartFile::create_private(&path).unwrap();
        assert_eq!((mode(&part), fs::metadata(&part).unwrap().len()), (0o600, 0));
        next.write("after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        next.put_in_place().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        // A link is not followed.
        fs::write(&other, "other").unwrap();
        symlink(&other, &part).unwrap();
        PartFile::create(&path).unwrap().put_in_place().unwrap();
        assert_eq!([&path, &other].map(|path| fs::read_to_string(path).unwrap()), ["", "other"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
