//! A slice: one collection of the monolith's file, in the same shape and order, for the service that owns it.
//!
//! A post that has no id has none here either, while its id is its position. Where that is not so, since records before it
//! are gone or its place is another, the id that it was given is written, and the manifest notes that it was given.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use record::model::{Collection, Records};
use roaring::RoaringTreemap;

use crate::error::Error;
use crate::identity::{BUFFER, Hashed, Identity};

/// What a slice is.
pub struct Sliced {
    /// The file.
    pub file: Identity,
    /// Of the ids that stand in it, those that the split gave.
    pub given: RoaringTreemap,
}

/// Writes a slice.
pub struct Slice {
    path: PathBuf,
    file: Hashed<BufWriter<File>>,
    /// How many it holds.
    records: u64,
    given: RoaringTreemap,
}

impl Slice {
    /// Begins the slice of `collection` in a new file at `path`; `hash` says whether its SHA-256 is wanted.
    pub fn create(path: &Path, collection: Collection, hash: bool) -> Result<Self, Error> {
        let file = File::create_new(path).map_err(Error::io(path))?;
        let file = Hashed::new(BufWriter::with_capacity(BUFFER, file), hash);
        let mut slice = Self { path: path.to_owned(), file, records: 0, given: RoaringTreemap::new() };
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
        if (begin + 1..).zip(records.iter()).all(|(place, record)| !record.id_from_position || record.id.get() == place)
        {
            return self.write_next(begin, records.text());
        }
        for (before, record) in (begin..).zip(records.iter()) {
            let id = record.id.get();
            let json = if id == before + 1 { Cow::Borrowed(record.source) } else { record.json() };
            if record.id_from_position && id != before + 1 {
                self.given.insert(id);
            }
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
    pub fn finish(mut self) -> Result<Sliced, Error> {
        self.write("]}\n")?;
        Ok(Sliced { file: self.file.finish().map_err(Error::io(&self.path))?, given: self.given })
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }
}
