//! The monolith's file as batches of records, which all cores parse. Decides which collections are read and what
//! happens to the others; [`record::reader`] finds the records.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::prelude::{BASE64_STANDARD, Engine};
use rayon::prelude::*;
use record::id::Id;
use record::json::Fault;
use record::model::{Collection, Record, Records};
use record::reader::{Opened, Reader, ReaderError, Stretch, pointer_to, pointer_to_all};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::error::Error;
use crate::identity::{Hashed, Identity};
use crate::ids::AllGiven;
use crate::node;
use crate::obstacle::{Kind, Obstacle};
use crate::plan::Plan;
use crate::topology;

/// The number of records that are parsed as one piece of work.
const PART: usize = 512;

/// A file that is being read.
pub struct Source {
    path: PathBuf,
    length: u64,
    reader: Reader<Box<dyn Read + Send>, Hashed<io::Sink>>,
    /// The collections it may hold, and those that it held so far.
    wanted: Plan,
    seen: Vec<Collection>,
    /// The offset of the object's end.
    end: Option<u64>,
    rest: Option<Rest>,
    /// The collections met so far that no service owns.
    unowned: HashSet<String>,
    /// The obstacles met so far, if reading goes on past them.
    obstacles: Option<Vec<Obstacle>>,
    reading: Arc<Reading>,
    /// The file and its state when it was opened.
    opened: Option<(File, State)>,
}

/// A file's length and modification time, which change with every write. Another file put in its place does not matter.
type State = (u64, i64, i64);

fn state(metadata: &Metadata) -> State {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// The way in which a file is read.
#[derive(Debug, Default)]
pub struct Reading {
    /// The ids of records that have none.
    pub given: AllGiven,
    /// Whether records that only Node accepts are read as Node reads them.
    pub as_node: bool,
}

/// The output for collections that no service owns.
struct Rest {
    out: Box<dyn Write + Send>,
    is_empty: bool,
}

impl Rest {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::io(Path::new("the file for --rest")))
    }

    fn finish(mut self) -> Result<(), Error> {
        self.write(if self.is_empty { b"{}\n" } else { b"}\n" })?;
        self.out.flush().map_err(Error::io(Path::new("the file for --rest")))
    }
}

/// Consecutive records of one collection.
pub struct Batch {
    /// The collection.
    pub collection: Collection,
    /// The index of the first record in its array.
    first: u64,
    /// The offset of `bytes` in the file.
    base: u64,
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
    reading: Arc<Reading>,
    /// The indices in the array of records that were read as Node reads them.
    as_node: Mutex<Vec<u64>>,
}

impl Source {
    /// Opens the file at `path`, which holds the `wanted` collections: the monolith's, or the one of a slice.
    pub fn open(path: &Path, wanted: &Plan) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let metadata = file.metadata().map_err(Error::io(path))?;
        let kind = metadata.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "a folder" } else { "no regular file (`--input -` reads standard input)" };
            return Err(Error::Input {
                file: path.to_owned(),
                kind: None,
                place: "the path".to_owned(),
                reason: format!("it is {what}, not a db.json"),
            });
        }
        let same = file.try_clone().map_err(Error::io(path))?;
        let opened = Some((same, state(&metadata)));
        Ok(Self { length: metadata.len(), opened, ..Self::new(path, wanted, Box::new(file)) })
    }

    /// Creates a source that reads from `input`; messages call it `path`.
    pub fn new(path: &Path, wanted: &Plan, input: Box<dyn Read + Send>) -> Self {
        Self {
            path: path.to_owned(),
            length: 0,
            reader: Reader::copying(input, Hashed::new(io::sink(), false)),
            wanted: wanted.clone(),
            seen: Vec::new(),
            end: None,
            rest: None,
            unowned: HashSet::new(),
            obstacles: None,
            reading: Arc::default(),
            opened: None,
        }
    }

    /// Reuses the memory of a batch: fresh memory costs more than reading into old memory.
    pub fn recycle(&mut self, batch: Batch) {
        self.reader.recycle(batch.bytes, batch.records);
    }

    /// Returns the file's length when it was opened, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads the next records; returns `None` after the last.
    ///
    /// # Errors
    /// The file cannot be read, or is not a monolith's file.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, Error> {
        loop {
            let stretch = self.reader.read_records().map_err(|error| self.refuse(error))?;
            if let Some(Stretch { collection, first, base, bytes, records }) = stretch {
                let reading = Arc::clone(&self.reading);
                return Ok(Some(Batch { collection, first, base, bytes, records, reading, as_node: Mutex::default() }));
            }
            if !self.open_next()? {
                return Ok(None);
            }
        }
    }

    /// Hashes the file while reading, so that [`identity`](Self::identity) has its SHA-256.
    pub fn hashed(mut self) -> Self {
        self.reader.copy = Hashed::new(io::sink(), true);
        self
    }

    /// Copies collections that no service owns to `rest`, as one object, instead of refusing them. Only their brackets
    /// and strings are read.
    pub fn passing(mut self, rest: Box<dyn Write + Send>) -> Self {
        self.rest = Some(Rest { out: rest, is_empty: true });
        self
    }

    /// Goes on past obstacles instead of ending at the first, and notes them.
    pub fn going_on(mut self) -> Self {
        self.obstacles = Some(Vec::new());
        self
    }

    /// Takes the obstacles that it went past.
    pub fn obstacles(&mut self) -> Vec<Obstacle> {
        self.obstacles.take().unwrap_or_default()
    }

    /// Notes an obstacle; returns it as an error unless the source goes on past obstacles.
    fn meet(&mut self, kind: Kind, offset: u64, pointer: &str, reason: &str) -> Result<(), Error> {
        let Some(obstacles) = &mut self.obstacles else { return Err(self.wrong(kind, offset, pointer, reason)) };
        obstacles.push(Obstacle { kind, place: place_of(pointer, offset), reason: reason.to_owned() });
        Ok(())
    }

    /// Sets the way of reading.
    pub fn read_as(mut self, reading: &Arc<Reading>) -> Self {
        self.reading = Arc::clone(reading);
        self
    }

    /// Lists the collections that are not in the file. Call it after the last batch.
    pub fn absent(&self) -> Vec<Collection> {
        self.wanted.iter().filter(|collection| !self.seen.contains(collection)).collect()
    }

    /// Checks that the file has every collection of the monolith. Call it after the last batch.
    ///
    /// # Errors
    /// A collection is missing.
    pub fn require_all(&self) -> Result<(), Error> {
        let missing = self.absent().into_iter().find(|collection| collection.declaration().in_monolith);
        missing.map_or(Ok(()), |missing| {
            let reason = format!("the collection {:?} is missing", missing.name());
            Err(self.wrong(Kind::Missing, self.end.unwrap_or_default(), "", &reason))
        })
    }

    /// Returns the place of the object's end.
    pub fn place_of_end(&self) -> String {
        place_of("", self.end.unwrap_or_default())
    }

    /// Returns the identity of what was read. Call it after the last batch.
    pub fn identity(self) -> Identity {
        self.reader.copy.finish().expect("a sink takes everything")
    }

    /// Goes to the next collection's records; returns `false` after the last.
    fn open_next(&mut self) -> Result<bool, Error> {
        let Some((name, offset)) = self.reader.next_name().map_err(|error| self.refuse(error))? else {
            return self.close().map(|()| false);
        };
        let Some(collection) = self.wanted.named(&name) else {
            return self.pass(name, offset).map(|()| true);
        };
        let pointer = pointer_to_all(&name);
        if self.seen.contains(&collection) {
            self.meet(Kind::RepeatedCollection, offset, &pointer, "the collection is repeated")?;
            return self.skip(&pointer).map(|()| true);
        }
        if let Opened::Other(found) = self.reader.open(collection, offset).map_err(|error| self.refuse(error))? {
            let expected = if collection.is_single() { "an object or null" } else { "an array of records" };
            let reason = format!("expected {expected}, found {found}");
            self.meet(Kind::Collection, self.reader.offset(), &pointer, &reason)?;
            self.skip(&pointer)?;
        }
        self.seen.push(collection);
        Ok(true)
    }

    /// Passes over the next value, of a collection that no service owns, whatever its length.
    fn pass(&mut self, name: String, offset: u64) -> Result<(), Error> {
        let pointer = pointer_to_all(&name);
        if !self.unowned.insert(name.clone()) {
            self.meet(Kind::RepeatedCollection, offset, &pointer, "the collection is repeated")?;
            return self.skip(&pointer);
        }
        let Some(mut rest) = self.rest.take() else {
            let reason = "no service owns this collection; --rest FILE puts such collections aside";
            self.meet(Kind::Unowned, offset, &pointer, reason)?;
            let mut begin = Begin::default();
            let skipped = self.skip_into(&pointer, &mut begin);
            if !(begin.may_be_records() && topology::check_collection(&name).is_ok())
                && let Some(obstacle) = self.obstacles.as_mut().and_then(|obstacles| obstacles.last_mut())
            {
                obstacle.kind = Kind::Unplannable;
                obstacle.reason = "no service owns this collection, and no plan can have it".to_owned();
            }
            return skipped;
        };
        let before = if rest.is_empty { "{" } else { "," };
        let key = serde_json::to_string(&name).expect("a string can be written as JSON");
        rest.write(format!("{before}{key}:").as_bytes())?;
        rest.is_empty = false;
        self.skip_into(&pointer, &mut rest.out)?;
        self.rest = Some(rest);
        Ok(())
    }

    fn skip(&mut self, pointer: &str) -> Result<(), Error> {
        self.skip_into(pointer, &mut io::sink())
    }

    fn skip_into(&mut self, pointer: &str, rest: &mut dyn Write) -> Result<(), Error> {
        let written = self.reader.skip(pointer, rest).map_err(|error| self.refuse(error))?;
        written.map_err(Error::io(Path::new("the file for --rest")))
    }

    fn close(&mut self) -> Result<(), Error> {
        let end = self.reader.offset();
        if self.seen.is_empty() {
            let names: Vec<&str> = self.wanted.iter().map(Collection::name).collect();
            let reason = format!("none of the collections {} is in it", names.join(", "));
            self.meet(Kind::Empty, end, "", &reason)?;
        }
        self.end = Some(end);
        self.reader.close().map_err(|error| self.refuse(error))?;
        self.check_unchanged()?;
        self.rest.take().map_or(Ok(()), Rest::finish)
    }

    /// Checks that the file was not written to meanwhile: a reader would get a mixture of old and new.
    fn check_unchanged(&self) -> Result<(), Error> {
        let Some((file, before)) = &self.opened else { return Ok(()) };
        if state(&file.metadata().map_err(Error::io(&self.path))?) == *before {
            return Ok(());
        }
        let file = self.path.display();
        Err(Error::Difference(format!(
            "{file}: the file was changed while it was read. Nothing was changed; run `seed` again."
        )))
    }

    fn refuse(&self, error: ReaderError) -> Error {
        reader_error(&self.path, error)
    }

    fn wrong(&self, kind: Kind, offset: u64, pointer: &str, reason: &str) -> Error {
        input_error(&self.path, kind, pointer, offset, reason)
    }
}

/// The first bytes of a value, spaces aside.
#[derive(Default)]
struct Begin(Vec<u8>);

impl Begin {
    /// Tells whether the value may be a collection: a record, a list of records, or an empty list.
    fn may_be_records(&self) -> bool {
        matches!(self.0[..], [b'{', ..] | [b'[', b'{' | b']', ..])
    }
}

impl Write for Begin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = 2 - self.0.len();
        self.0.extend(bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).take(room));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A rejected record.
#[derive(Debug, Serialize)]
pub struct Reject {
    /// A JSON pointer to the fault.
    pub pointer: String,
    /// The kind of fault: the record does not fit, or its id is taken.
    #[serde(skip)]
    pub kind: Kind,
    /// The fault's offset in the file.
    pub offset: u64,
    /// The fault.
    pub reason: String,
    /// Its place in its array, from 1.
    #[serde(skip)]
    pub position: u64,
    /// The record as it stands in the file.
    #[serde(flatten, serialize_with = "raw")]
    pub raw: Vec<u8>,
}

/// Serializes text as `raw`, other bytes as `raw_base64`.
fn raw<S: Serializer>(raw: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    match std::str::from_utf8(raw) {
        Ok(text) => map.serialize_entry("raw", text)?,
        Err(_) => map.serialize_entry("raw_base64", &BASE64_STANDARD.encode(raw))?,
    }
    map.end()
}

impl Reject {
    /// Turns the reject into an error that ends the run.
    pub fn into_error(self, path: &Path) -> Error {
        input_error(path, self.kind, &self.pointer, self.offset, &self.reason)
    }
}

impl Batch {
    /// Parses the records on all cores; returns the accepted and the rejected ones, each in order.
    pub fn parse(&self) -> (Vec<Records>, Vec<Reject>) {
        let parts = self.records.par_chunks(PART).enumerate().map(|(nth, part)| self.parse_part(nth * PART, part));
        let (records, rejects): (Vec<Records>, Vec<Vec<Reject>>) = parts.unzip();
        (records, rejects.into_iter().flatten().collect())
    }

    /// Lists the JSON pointers of records that were read as Node reads them. Call it after [`parse`](Self::parse).
    pub fn taken_as_node(&self) -> Vec<String> {
        let mut numbers = self.as_node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| pointer_to(self.collection, number)).collect()
    }

    /// Returns the number of bytes in the file, and of records.
    pub fn size(&self) -> (u64, u64) {
        (self.bytes.len() as u64, self.records.len() as u64)
    }

    /// Returns the JSON pointer of one of its records.
    pub fn pointer(&self, record: &Record) -> String {
        pointer_to(self.collection, self.first + self.nth(record) as u64)
    }

    /// Returns the offset in the file of one of its records.
    pub fn offset(&self, record: &Record) -> u64 {
        self.base + self.records[self.nth(record)].start as u64
    }

    /// Returns the offset and length in the file of one of its records.
    pub fn span(&self, record: &Record) -> (u64, u32) {
        let range = &self.records[self.nth(record)];
        (self.base + range.start as u64, u32::try_from(range.len()).expect("no record is so long"))
    }

    /// Rejects a record that fits its model but has the id of another.
    pub fn reject(&self, record: &Record, reason: String) -> Reject {
        let raw = self.bytes[self.records[self.nth(record)].clone()].to_vec();
        let position = self.first + self.nth(record) as u64 + 1;
        let (pointer, kind, offset) = (self.pointer(record), Kind::RepeatedId, self.offset(record));
        Reject { pointer, kind, offset, reason, position, raw }
    }

    /// Returns the index of a record in the batch.
    fn nth(&self, record: &Record) -> usize {
        let position = record.position.expect("a record of a file has a position").get();
        (position - 1 - self.first) as usize
    }

    /// Parses the `part` of the batch that begins with its record `first`.
    fn parse_part(&self, first: usize, part: &[Range<usize>]) -> (Records, Vec<Reject>) {
        let bytes = part.first().zip(part.last()).map_or(0, |(first, last)| last.end - first.start);
        let mut records = Records::new(self.collection, bytes).with_room_for(part.len());
        let mut rejects = Vec::new();
        let ids = &self.reading.given.of(self.collection).ids;
        for (nth, range) in (first..).zip(part) {
            let number = self.first + nth as u64;
            let raw = &self.bytes[range.clone()];
            let (position, given) = (Id::try_from(number + 1).ok(), ids.at(number + 1));
            let mut read = simdutf8::compat::from_utf8(raw)
                .map_err(|error| Fault {
                    pointer: String::new(),
                    offset: error.valid_up_to(),
                    reason: "this is not UTF-8".to_owned(),
                })
                .and_then(|text| records.push_given(text, position, given));
            if read.is_err()
                && self.reading.as_node
                && let Some(text) = node::read(raw)
            {
                let as_node = records.push_given(&text, position, given);
                if as_node.is_ok() {
                    self.as_node.lock().unwrap_or_else(PoisonError::into_inner).push(number);
                }
                read = match (as_node, read) {
                    (Err(fault), Err(first)) if (&fault.pointer, &fault.reason) == (&first.pointer, &first.reason) => {
                        Err(first)
                    }
                    // The offset is in Node's text, not in the file; name the record's own offset.
                    (Err(fault), _) => Err(Fault { offset: 0, ..fault }),
                    (Ok(taken), _) => Ok(taken),
                };
            }
            if let Err(fault) = read {
                rejects.push(Reject {
                    pointer: pointer_to(self.collection, number) + &fault.pointer,
                    kind: Kind::Record,
                    offset: self.base + (range.start + fault.offset) as u64,
                    reason: fault.reason,
                    position: number + 1,
                    raw: raw.to_vec(),
                });
            }
        }
        (records, rejects)
    }
}

/// Turns the reader's error into one about the file at `path`.
pub fn reader_error(path: &Path, error: ReaderError) -> Error {
    match error {
        ReaderError::Io(source) => Error::Io { path: path.to_owned(), source },
        ReaderError::Flawed { pointer, offset, flaw } => {
            input_error(path, Kind::Json, &pointer, offset, &flaw.to_string())
        }
    }
}

/// Returns the error for a fault in the file at `path`.
pub fn input_error(path: &Path, kind: Kind, pointer: &str, offset: u64, reason: &str) -> Error {
    let (file, place, reason) = (path.to_owned(), place_of(pointer, offset), reason.to_owned());
    Error::Input { file, kind: Some(kind), place, reason }
}

/// Describes a place in the file for messages.
pub fn place_of(pointer: &str, offset: u64) -> String {
    match pointer {
        "" => format!("byte {offset}"),
        _ => format!("{pointer} (byte {offset})"),
    }
}

#[cfg(test)]
mod tests;
