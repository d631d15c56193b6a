//! A slice: one collection of the monolith's file, in the same shape, for the service that owns it.
//!
//! A post whose id is its position in the monolith's file has none here either, while it stands at that position. Where
//! a record before it was rejected it does not, and then its id is written.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use shared::id::Id;
use shared::model::{Collection, Record, Records};

use crate::error::Error;
use crate::identity::{BUFFER, Hashed, Identity};

/// Writes a slice.
pub struct Slice {
    path: PathBuf,
    file: Hashed<BufWriter<File>>,
    /// How many it holds.
    records: u64,
}

impl Slice {
    /// Begins the slice of `collection` in a new file at `path`; `hash` says whether its SHA-256 is wanted.
    pub fn create(path: &Path, collection: Collection, hash: bool) -> Result<Self, Error> {
        let file = File::create_new(path).map_err(Error::io(path))?;
        let file = Hashed::new(BufWriter::with_capacity(BUFFER, file), hash);
        let mut slice = Self { path: path.to_owned(), file, records: 0 };
        slice.write(&format!("{{\"{}\":[", collection.name()))?;
        Ok(slice)
    }

    /// Adds records.
    pub fn put(&mut self, records: &Records) -> Result<(), Error> {
        if records.text().is_empty() {
            return Ok(());
        }
        let begin = self.records;
        self.records += records.iter().count() as u64;
        let place = |record: Option<Record>| record.and_then(|record| record.position).map(Id::get);
        if place(records.iter().next()) == Some(begin + 1) && place(records.iter().last()) == Some(self.records) {
            return self.write_next(begin, records.text());
        }
        for (before, record) in (begin..).zip(records.iter()) {
            let in_place = record.id.get() == before + 1;
            let json = if in_place { Cow::Borrowed(record.source) } else { record.json() };
            self.write_next(before, &json)?;
        }
        Ok(())
    }

    /// Writes what follows on `before` records.
    fn write_next(&mut self, before: u64, text: &str) -> Result<(), Error> {
        if before > 0 {
            self.write(",")?;
        }
        self.write(text)
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
