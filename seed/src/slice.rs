//! A slice: one collection of the monolith's file, in the same shape, for the service that owns it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use shared::model::{Collection, Records};

use crate::error::Error;
use crate::identity::{BUFFER, Hashed, Identity};

/// Writes a slice.
pub struct Slice {
    path: PathBuf,
    file: Hashed<BufWriter<File>>,
    begun: bool,
}

impl Slice {
    /// Begins the slice of `collection` in a new file at `path`; `hash` says whether its SHA-256 is wanted.
    pub fn create(path: &Path, collection: Collection, hash: bool) -> Result<Self, Error> {
        let file = File::create_new(path).map_err(Error::io(path))?;
        let file = Hashed::new(BufWriter::with_capacity(BUFFER, file), hash);
        let mut slice = Self { path: path.to_owned(), file, begun: false };
        slice.write(&format!("{{\"{}\":[", collection.name()))?;
        Ok(slice)
    }

    /// Adds records.
    pub fn put(&mut self, records: &Records) -> Result<(), Error> {
        if records.text().is_empty() {
            return Ok(());
        }
        if self.begun {
            self.write(",")?;
        }
        self.begun = true;
        self.write(records.text())
    }

    /// Ends the slice.
    pub fn finish(mut self) -> Result<Identity, Error> {
        self.write("]}\n")?;
        self.file.finish().map_err(Error::io(&self.path))
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }
}
