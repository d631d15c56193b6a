//! A slice: one collection of the monolith's file, in the same shape and order, for the service that owns it.
//!
//! A record without an id has none here either, as long as its id is its position. If earlier records are gone or it
//! has moved, its given id is written, and the manifest notes that the id was given.
//!
//! In a collection with text ids, the manifest notes the number of each place in the database; the slice has no
//! numbers. A collection of a single record is that record, or null without one.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use record::model::{Collection, Records};
use roaring::RoaringTreemap;

use crate::error::Error;
use crate::identity::{BUFFER, Hashed, Identity};
use crate::ids::Ids;

/// The description of a finished slice.
pub struct Sliced {
    /// The file.
    pub file: Identity,
    /// The ids in it that the split gave.
    pub given: RoaringTreemap,
    /// The numbers of its records, if ids are texts.
    pub numbers: Ids,
}

/// Returns the text before a collection's records in a file.
pub fn opening(collection: Collection) -> &'static str {
    if collection.is_single() { "" } else { "[" }
}

/// Returns the text after a collection's records.
pub fn closing(collection: Collection, records: u64) -> &'static str {
    match (collection.is_single(), records) {
        (false, _) => "]",
        (true, 0) => "null",
        (true, _) => "",
    }
}

/// A slice that is being written.
pub struct Slice {
    path: PathBuf,
    collection: Collection,
    file: Hashed<BufWriter<Arc<File>>>,
    early: EarlySync,
    /// The number of records so far.
    records: u64,
    given: RoaringTreemap,
    numbers: Ids,
}

impl Slice {
    /// Begins the slice of `collection` in a new file at `path`; computes its SHA-256 if `hash`.
    pub fn create(path: &Path, collection: Collection, hash: bool) -> Result<Self, Error> {
        let file = Arc::new(File::create_new(path).map_err(Error::io(path))?);
        let early = EarlySync { file: file.clone(), begun_at: 0, running: None };
        let file = Hashed::new(BufWriter::with_capacity(BUFFER, file), hash);
        let (given, numbers) = (RoaringTreemap::new(), Ids::none());
        let mut slice = Self { path: path.to_owned(), collection, file, early, records: 0, given, numbers };
        slice.write(&format!("{{\"{}\":{}", collection.name(), opening(collection)))?;
        Ok(slice)
    }

    /// Adds records.
    pub fn put(&mut self, records: &Records) -> Result<(), Error> {
        if records.text().is_empty() {
            return Ok(());
        }
        self.early.go_on(self.file.bytes()).map_err(Error::io(&self.path))?;
        let begin = self.records;
        self.records += records.len() as u64;
        if self.collection.has_text_ids() {
            (begin + 1..).zip(records.iter()).for_each(|(place, record)| self.numbers.push(place, record.id));
        }
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

    /// Writes the text of records that follow `before` others.
    fn write_next(&mut self, before: u64, text: &str) -> Result<(), Error> {
        if before > 0 {
            self.write(",")?;
        }
        self.write(text)
    }

    /// Ends the slice, and describes it.
    pub fn finish(mut self) -> Result<Sliced, Error> {
        self.write(closing(self.collection, self.records))?;
        self.write("}\n")?;
        let file = self.file.finish().map_err(Error::io(&self.path))?;
        self.early.end().map_err(Error::io(&self.path))?;
        Ok(Sliced { file, given: self.given, numbers: self.numbers.shortened() })
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }
}

/// Has the disk take what was written while more is written, so that little is left to wait for at the end.
struct EarlySync {
    file: Arc<File>,
    /// The length at which the last one began.
    begun_at: u64,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl EarlySync {
    /// The bytes between two of them.
    const STEP: u64 = 8 << 20;

    /// Begins another one if the file of `bytes` has grown enough, and the last one is done.
    fn go_on(&mut self, bytes: u64) -> io::Result<()> {
        if bytes < self.begun_at + Self::STEP || self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return Ok(());
        }
        self.end()?;
        self.begun_at = bytes;
        let file = self.file.clone();
        self.running = Some(thread::spawn(move || file.sync_data()));
        Ok(())
    }

    /// Waits for the last one. Its error must not be lost: the system reports it only once.
    fn end(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), |running| running.join().expect("it returns its errors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_sync_that_fails_is_not_lost() {
        // A device cannot be synced.
        let file = Arc::new(File::open("/dev/null").unwrap());
        let mut early = EarlySync { file, begun_at: 0, running: None };
        early.go_on(EarlySync::STEP - 1).unwrap();
        assert!(early.running.is_none() && early.end().is_ok());
        early.go_on(EarlySync::STEP).unwrap();
        assert!(early.end().is_err());
        early.go_on(2 * EarlySync::STEP).unwrap();
        while !early.running.as_ref().unwrap().is_finished() {
            thread::yield_now();
        }
        assert!(early.go_on(3 * EarlySync::STEP).is_err());
    }
}
