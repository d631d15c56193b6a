//! The monolith's file: one JSON object with an array for each collection, read as a stream. A collection that is one record
//! is an object there, or null where there is none.
//!
//! A file of any size passes through in bounded memory. This module finds where each record begins and ends, and
//! checks what is around the records; what is inside one is [`Records::push`]'s business.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::prelude::{BASE64_STANDARD, Engine};
use rayon::prelude::*;
use record::id::Id;
use record::json::{Fault, kind};
use record::model::{Collection, Record, Records};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use store::layout::RECORD_BYTES;

use crate::error::Error;
use crate::identity::{Hashed, Identity};
use crate::ids::AllGiven;
use crate::node;
use crate::obstacle::Kind;
use crate::obstacle::Obstacle;
use crate::plan::Plan;

/// How much is read at a time, in bytes.
const BLOCK: usize = 2 << 20;

/// How many records are parsed as one piece of work.
const PART: usize = 512;

/// The bytes that JSON allows between its tokens.
const SPACE: [u8; 4] = *b" \t\n\r";

/// A file that is being read.
pub struct Source {
    path: PathBuf,
    length: u64,
    input: Box<dyn Read + Send>,
    hash: Hashed<io::Sink>,
    /// What was read and is not yet handed out; `at` is the next byte to look at.
    bytes: Vec<u8>,
    at: usize,
    /// The memory of a batch that is done with.
    spare: Vec<u8>,
    /// The offset of `bytes` in the file.
    base: u64,
    /// The collections it may hold, and those it was seen to.
    wanted: Plan,
    seen: Vec<Collection>,
    /// Where the object ends.
    end: Option<u64>,
    array: Option<Array>,
    rest: Option<Rest>,
    /// Where it goes on past obstacles, those that it has met.
    obstacles: Option<Vec<Obstacle>>,
    begun: bool,
    reading: Arc<Reading>,
    /// The file and its state when it was opened.
    opened: Option<(File, State)>,
}

/// What changes when somebody writes to a file: its length, and when it was written. Another one in its place is no matter.
type State = (u64, i64, i64);

fn state(metadata: &Metadata) -> State {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// How a file is read.
#[derive(Debug, Default)]
pub struct Reading {
    /// The ids of records that have none.
    pub given: AllGiven,
    /// Whether what only Node takes is taken, as Node takes it.
    pub as_node: bool,
}

/// Where the collections go that no service owns.
struct Rest {
    out: Box<dyn Write + Send>,
    names: Vec<String>,
}

impl Rest {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::io(Path::new("the file for --rest")))
    }

    fn finish(mut self) -> Result<(), Error> {
        self.write(if self.names.is_empty() { b"{}\n" } else { b"}\n" })?;
        self.out.flush().map_err(Error::io(Path::new("the file for --rest")))
    }
}

/// The array that is being read.
struct Array {
    collection: Collection,
    records: u64,
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
    /// The places of records that were taken as Node takes them, from 0.
    as_node: Mutex<Vec<u64>>,
}

impl Source {
    /// Opens the file at `path`, which holds these collections: the monolith's, or the one of a slice.
    pub fn open(path: &Path, wanted: &Plan) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let metadata = file.metadata().map_err(Error::io(path))?;
        let kind = metadata.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "a folder" } else { "no regular file (`--input -` reads standard input)" };
            return Err(Error::Input {
                file: path.to_owned(),
                place: "the path".to_owned(),
                reason: format!("it is {what}, not a db.json"),
            });
        }
        let same = file.try_clone().map_err(Error::io(path))?;
        let opened = Some((same, state(&metadata)));
        Ok(Self { length: metadata.len(), opened, ..Self::new(path, wanted, Box::new(file)) })
    }

    /// Reads from `input`, which messages call `path`.
    pub fn new(path: &Path, wanted: &Plan, input: Box<dyn Read + Send>) -> Self {
        Self {
            path: path.to_owned(),
            length: 0,
            input,
            hash: Hashed::new(io::sink(), false),
            bytes: Vec::new(),
            at: 0,
            spare: Vec::new(),
            base: 0,
            wanted: wanted.clone(),
            seen: Vec::new(),
            end: None,
            array: None,
            rest: None,
            obstacles: None,
            begun: false,
            reading: Arc::default(),
            opened: None,
        }
    }

    /// Takes back the memory of a batch: fresh memory costs more than reading into it.
    pub fn recycle(&mut self, batch: Batch) {
        self.spare = batch.bytes;
    }

    /// How long the file was when it was opened, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next records; `None` after the last.
    ///
    /// # Errors
    /// The file cannot be read, or is not what a monolith's file is.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, Error> {
        let array = match self.array.take() {
            Some(array) => array,
            None => match self.open_array()? {
                Some(array) => array,
                None => return Ok(None),
            },
        };
        self.read_records(array).map(Some)
    }

    /// The same, and [`identity`](Self::identity) will know its SHA-256.
    pub fn hashed(mut self) -> Self {
        self.hash = Hashed::new(io::sink(), true);
        self
    }

    /// Passes over collections that no service owns, instead of refusing them: they go to `rest`, as one object, unread
    /// but for brackets and strings.
    pub fn passing(mut self, rest: Box<dyn Write + Send>) -> Self {
        self.rest = Some(Rest { out: rest, names: Vec::new() });
        self
    }

    /// Goes on past collections that cannot be taken, and notes them.
    pub fn going_on(mut self) -> Self {
        self.obstacles = Some(Vec::new());
        self
    }

    /// What it has gone past.
    pub fn obstacles(&mut self) -> Vec<Obstacle> {
        self.obstacles.take().unwrap_or_default()
    }

    /// "This is in the way": the end of it all, unless it goes on past that.
    fn meet(&mut self, kind: Kind, offset: u64, pointer: &str, reason: &str) -> Result<(), Error> {
        let Some(obstacles) = &mut self.obstacles else { return Err(self.wrong_at(offset, pointer, reason)) };
        obstacles.push(Obstacle { kind, place: place_of(pointer, offset), reason: reason.to_owned() });
        Ok(())
    }

    /// It is read so.
    pub fn read_as(mut self, reading: &Arc<Reading>) -> Self {
        self.reading = Arc::clone(reading);
        self
    }

    /// The collections that are not in the file. To be asked after the last batch.
    pub fn absent(&self) -> Vec<Collection> {
        self.wanted.iter().filter(|collection| !self.seen.contains(collection)).collect()
    }

    /// Refuses a file that lacks a collection which the monolith has. To be asked after the last batch.
    ///
    /// # Errors
    /// It lacks one.
    pub fn require_all(&self) -> Result<(), Error> {
        let missing = self.absent().into_iter().find(|collection| collection.declaration().in_monolith);
        missing.map_or(Ok(()), |missing| {
            let reason = format!("the collection {:?} is missing", missing.name());
            Err(self.wrong_at(self.end.unwrap_or_default(), "", &reason))
        })
    }

    /// Where the object ends.
    pub fn place_of_end(&self) -> String {
        place_of("", self.end.unwrap_or_default())
    }

    /// What the file was. To be asked after the last batch.
    pub fn identity(self) -> Identity {
        self.hash.finish().expect("a sink takes everything")
    }

    /// Goes to the first record of the next collection.
    fn open_array(&mut self) -> Result<Option<Array>, Error> {
        loop {
            self.discard();
            let first = !self.begun;
            if first {
                self.open_object()?;
                self.begun = true;
            }
            match (self.token()?, first) {
                (Some(b'}'), _) => return self.close_object().map(|()| None),
                (Some(b','), false) => {
                    self.at += 1;
                    self.token()?;
                }
                (Some(b'"'), true) => {}
                (_, true) => return Err(self.wrong("", "expected a collection's name or `}`")),
                (_, false) => return Err(self.wrong("", "expected `,` or `}` after a collection")),
            }
            let (name, offset) = self.name()?;
            let pointer = pointer_to_all(&name);
            if self.token()? != Some(b':') {
                return Err(self.wrong(&pointer, "expected `:` after the collection's name"));
            }
            self.at += 1;
            let begin = self.token()?;
            let Some(collection) = self.wanted.named(&name) else {
                self.pass(name, offset)?;
                continue;
            };
            if self.seen.contains(&collection) {
                self.meet(Kind::Collection, offset, &pointer, "the collection is repeated")?;
                self.skip(&pointer, None)?;
                continue;
            }
            let (opening, expected) =
                if collection.is_single() { (b'{', "an object or null") } else { (b'[', "an array of records") };
            if collection.is_single() && begin == Some(b'n') {
                let value = self.skip_value(Place::Record(collection, 0))?;
                if self.bytes[value] != *b"null" {
                    return Err(self.wrong_at(offset, &pointer, &format!("expected {expected}")));
                }
                self.seen.push(collection);
                continue;
            }
            if begin != Some(opening) {
                let found = begin.map_or("the end of the file", kind_of);
                let reason = format!("expected {expected}, found {found}");
                self.meet(Kind::Collection, self.base + self.at as u64, &pointer, &reason)?;
                self.skip(&pointer, None)?;
                self.seen.push(collection);
                continue;
            }
            self.at += usize::from(!collection.is_single());
            self.seen.push(collection);
            return Ok(Some(Array { collection, records: 0 }));
        }
    }

    /// Passes over the value at hand, of a collection that no service owns, whatever its length.
    fn pass(&mut self, name: String, offset: u64) -> Result<(), Error> {
        let pointer = pointer_to_all(&name);
        let Some(mut rest) = self.rest.take() else {
            let reason = "no service owns this collection; --rest FILE puts such collections aside";
            self.meet(Kind::Unowned, offset, &pointer, reason)?;
            return self.skip(&pointer, None);
        };
        if rest.names.contains(&name) {
            self.meet(Kind::Collection, offset, &pointer, "the collection is repeated")?;
            self.skip(&pointer, None)?;
            self.rest = Some(rest);
            return Ok(());
        }
        let before = if rest.names.is_empty() { "{" } else { "," };
        let key = serde_json::to_string(&name).expect("a string can be written as JSON");
        rest.write(format!("{before}{key}:").as_bytes())?;
        rest.names.push(name);
        self.skip(&pointer, Some(&mut rest))?;
        self.rest = Some(rest);
        Ok(())
    }

    /// Skips the value at hand, whatever its length; it goes to `rest`, where there is one.
    fn skip(&mut self, pointer: &str, mut rest: Option<&mut Rest>) -> Result<(), Error> {
        let mut scan = Scan::default();
        loop {
            let end = scan.end_in(&self.bytes[self.at..]);
            let next = end.map_or(self.bytes.len(), |end| self.at + end);
            if let Some(rest) = &mut rest {
                rest.write(&self.bytes[self.at..next])?;
            }
            self.at = next;
            self.discard();
            if end.is_some() {
                return Ok(());
            }
            if !self.fill()? {
                return Err(self.wrong(pointer, "the file ends in the middle of this collection"));
            }
        }
    }

    fn open_object(&mut self) -> Result<(), Error> {
        // `require('./db.json')` in the monolith passes over a byte order mark too.
        while self.bytes.len() < 3 && self.fill()? {}
        if self.bytes.starts_with(b"\xEF\xBB\xBF") {
            self.at = 3;
        }
        match self.token()? {
            Some(b'{') => {
                self.at += 1;
                Ok(())
            }
            None => Err(self.wrong("", "the file is empty")),
            Some(byte) => {
                let reason = format!("expected an object of collections, found {}", kind_of(byte));
                Err(self.wrong("", &reason))
            }
        }
    }

    fn close_object(&mut self) -> Result<(), Error> {
        if self.seen.is_empty() {
            let names: Vec<&str> = self.wanted.iter().map(Collection::name).collect();
            let reason = format!("none of the collections {} is in it", names.join(", "));
            self.meet(Kind::Missing, self.base + self.at as u64, "", &reason)?;
        }
        self.end = Some(self.base + self.at as u64);
        self.at += 1;
        match self.token()? {
            None => {
                self.check_unchanged()?;
                self.rest.take().map_or(Ok(()), Rest::finish)
            }
            Some(_) => Err(self.wrong("", "there is more after the end of the object")),
        }
    }

    /// Who writes a file anew in its place makes a mixture of what is read meanwhile.
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

    fn name(&mut self) -> Result<(String, u64), Error> {
        if self.peek()? != Some(b'"') {
            return Err(self.wrong("", "expected a collection's name in double quotes"));
        }
        let offset = self.base + self.at as u64;
        let name = self.skip_value(Place::Name)?;
        match serde_json::from_slice::<String>(&self.bytes[name]) {
            Ok(name) => Ok((name, offset)),
            Err(error) => Err(self.wrong_at(offset, "", &record::json::reason_of(&error))),
        }
    }

    /// Reads records until there is a block of them or the array ends.
    fn read_records(&mut self, array: Array) -> Result<Batch, Error> {
        self.discard();
        let Array { collection, records: first } = array;
        let mut records = Vec::new();
        let here = |records: &Vec<Range<usize>>| Place::Record(collection, first + records.len() as u64);
        loop {
            if collection.is_single() {
                break records.push(self.skip_value(here(&records))?);
            }
            let number = first + records.len() as u64;
            match self.token()? {
                Some(b']') if number == 0 => break self.at += 1,
                Some(b',' | b':' | b'}' | b']') => {
                    return Err(self.wrong(&here(&records).pointer(), "expected a record"));
                }
                Some(_) => records.push(self.skip_value(here(&records))?),
                None => return Err(self.wrong(&here(&records).pointer(), "the file ends inside the collection")),
            }
            match self.token()? {
                Some(b']') => break self.at += 1,
                Some(b',') => self.at += 1,
                None => return Err(self.wrong(&here(&records).pointer(), "the file ends inside the collection")),
                Some(_) => return Err(self.wrong(&here(&records).pointer(), "expected `,` or `]` after a record")),
            }
            if self.at >= BLOCK {
                self.array = Some(Array { collection, records: first + records.len() as u64 });
                break;
            }
        }
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.clear();
        bytes.extend_from_slice(&self.bytes[self.at..]);
        self.bytes.truncate(self.at);
        let bytes = std::mem::replace(&mut self.bytes, bytes);
        let reading = Arc::clone(&self.reading);
        let batch = Batch { collection, first, base: self.base, bytes, records, reading, as_node: Mutex::default() };
        self.base += self.at as u64;
        self.at = 0;
        Ok(batch)
    }

    /// Goes past a value and says where it was. What is in it is looked at later, all but brackets and strings.
    fn skip_value(&mut self, place: Place) -> Result<Range<usize>, Error> {
        let begin = self.at;
        let mut scan = Scan::default();
        loop {
            let end = scan.end_in(&self.bytes[self.at..]);
            self.at = end.map_or(self.bytes.len(), |end| self.at + end);
            if self.at - begin > RECORD_BYTES {
                let reason = format!("the record is longer than {} MiB", RECORD_BYTES >> 20);
                return Err(self.wrong(&place.pointer(), &reason));
            }
            if end.is_some() {
                return Ok(begin..self.at);
            }
            if !self.fill()? {
                let begin = self.base + begin as u64;
                let reason = format!("the file ends in the middle of the value that begins at byte {begin}");
                return Err(self.wrong(&place.pointer(), &reason));
            }
        }
    }

    /// The next byte that is no space, which stays at hand.
    fn token(&mut self) -> Result<Option<u8>, Error> {
        loop {
            match self.peek()? {
                Some(byte) if SPACE.contains(&byte) => self.at += 1,
                other => return Ok(other),
            }
        }
    }

    #[inline]
    fn peek(&mut self) -> Result<Option<u8>, Error> {
        if self.at == self.bytes.len() && !self.fill()? {
            return Ok(None);
        }
        Ok(Some(self.bytes[self.at]))
    }

    /// Reads on; `false` at the end of the file.
    fn fill(&mut self) -> Result<bool, Error> {
        let known = self.bytes.len();
        let block = self.input.by_ref().take(BLOCK as u64).read_to_end(&mut self.bytes);
        let read = block.map_err(Error::io(&self.path))?;
        self.hash.write_all(&self.bytes[known..]).expect("a sink takes everything");
        Ok(read > 0)
    }

    fn discard(&mut self) {
        self.bytes.drain(..self.at);
        self.base += self.at as u64;
        self.at = 0;
    }

    fn wrong(&self, pointer: &str, reason: &str) -> Error {
        self.wrong_at(self.base + self.at as u64, pointer, reason)
    }

    fn wrong_at(&self, offset: u64, pointer: &str, reason: &str) -> Error {
        input_error(&self.path, pointer, offset, reason)
    }
}

/// Looks for the end of a value, in as many pieces as it comes in.
#[derive(Default)]
pub struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Where in `bytes`, the next piece, the value ends; `None` where it goes on.
    pub fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.in_string {
                at += usize::from(std::mem::take(&mut self.escaped));
                match memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
                    None => return None,
                    Some(skip) => {
                        at += skip + 1;
                        self.escaped = bytes[at - 1] == b'\\';
                        self.in_string = self.escaped;
                        if !self.in_string && self.depth == 0 {
                            return Some(at);
                        }
                        continue;
                    }
                }
            }
            match bytes[at] {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => return Some(at + 1),
                // A number or a word: no record, but it is for the record's parser to say so.
                b' ' | b'\t' | b'\n' | b'\r' | b',' | b']' | b'}' if self.depth == 0 => return Some(at),
                _ => {}
            }
            at += 1;
        }
        None
    }
}

/// A record that cannot be taken.
#[derive(Debug, Serialize)]
pub struct Reject {
    /// A JSON pointer to what is wrong.
    pub pointer: String,
    /// The offset of that in the file.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
    /// Its place in its array, from 1.
    #[serde(skip)]
    pub position: u64,
    /// The record as it stands in the file.
    #[serde(flatten, serialize_with = "raw")]
    pub raw: Vec<u8>,
}

/// As `raw` where it is text, as `raw_base64` where it is not.
fn raw<S: Serializer>(raw: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    match std::str::from_utf8(raw) {
        Ok(text) => map.serialize_entry("raw", text)?,
        Err(_) => map.serialize_entry("raw_base64", &BASE64_STANDARD.encode(raw))?,
    }
    map.end()
}

impl Reject {
    /// The reject as an error that ends the run.
    pub fn into_error(self, path: &Path) -> Error {
        input_error(path, &self.pointer, self.offset, &self.reason)
    }
}

impl Batch {
    /// The records in order, and those that cannot be taken; parsed by all cores.
    pub fn parse(&self) -> (Vec<Records>, Vec<Reject>) {
        let parts = self.records.par_chunks(PART).enumerate().map(|(nth, part)| self.parse_part(nth * PART, part));
        let (records, rejects): (Vec<Records>, Vec<Vec<Reject>>) = parts.unzip();
        (records, rejects.into_iter().flatten().collect())
    }

    /// The JSON pointers of records that were taken as Node takes them, once they are parsed.
    pub fn taken_as_node(&self) -> Vec<String> {
        let mut numbers = self.as_node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| pointer_to(self.collection, number)).collect()
    }

    /// How many bytes of the file, and how many records, the batch is.
    pub fn size(&self) -> (u64, u64) {
        (self.bytes.len() as u64, self.records.len() as u64)
    }

    /// The JSON pointer of one of its records.
    pub fn pointer(&self, record: &Record) -> String {
        pointer_to(self.collection, self.first + self.nth(record) as u64)
    }

    /// The offset in the file of one of its records.
    pub fn offset(&self, record: &Record) -> u64 {
        self.base + self.records[self.nth(record)].start as u64
    }

    /// Where in the file one of its records stands: the offset and the length.
    pub fn span(&self, record: &Record) -> (u64, u32) {
        let range = &self.records[self.nth(record)];
        (self.base + range.start as u64, u32::try_from(range.len()).expect("no record is so long"))
    }

    /// One of its records cannot be taken, though it fits its model.
    pub fn reject(&self, record: &Record, reason: String) -> Reject {
        let raw = self.bytes[self.records[self.nth(record)].clone()].to_vec();
        let position = self.first + self.nth(record) as u64 + 1;
        Reject { pointer: self.pointer(record), offset: self.offset(record), reason, position, raw }
    }

    /// Where in the batch a record stands.
    fn nth(&self, record: &Record) -> usize {
        let position = record.position.expect("a record of a file has a position").get();
        (position - 1 - self.first) as usize
    }

    /// `part` begins with the record at `first` in this batch.
    fn parse_part(&self, first: usize, part: &[Range<usize>]) -> (Records, Vec<Reject>) {
        let bytes = part.first().zip(part.last()).map_or(0, |(first, last)| last.end - first.start);
        let mut records = Records::new(self.collection, bytes);
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
                // What Node takes need not be such a record either: then the first fault is the better one.
                if records.push_given(&text, position, given).is_ok() {
                    self.as_node.lock().unwrap_or_else(PoisonError::into_inner).push(number);
                    read = Ok(());
                }
            }
            if let Err(fault) = read {
                rejects.push(Reject {
                    pointer: pointer_to(self.collection, number) + &fault.pointer,
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

/// "This file is wrong here."
pub fn input_error(path: &Path, pointer: &str, offset: u64, reason: &str) -> Error {
    Error::Input { file: path.to_owned(), place: place_of(pointer, offset), reason: reason.to_owned() }
}

/// A place in the file, for messages.
pub fn place_of(pointer: &str, offset: u64) -> String {
    match pointer {
        "" => format!("byte {offset}"),
        _ => format!("{pointer} (byte {offset})"),
    }
}

/// Where the reader is, for messages.
#[derive(Clone, Copy)]
enum Place {
    Name,
    Record(Collection, u64),
}

impl Place {
    fn pointer(self) -> String {
        match self {
            Place::Name => String::new(),
            Place::Record(collection, number) => pointer_to(collection, number),
        }
    }
}

/// The JSON pointer of a record by its place, from 0.
pub fn pointer_to(collection: Collection, place: u64) -> String {
    let pointer = pointer_to_all(collection.name());
    if collection.is_single() { pointer } else { format!("{pointer}/{place}") }
}

/// The JSON pointer of a collection.
fn pointer_to_all(name: &str) -> String {
    let mut pointer = String::new();
    record::json::push_pointer(&mut pointer, name);
    pointer
}

/// What a value is that begins with `byte`; anything else stands for itself.
fn kind_of(byte: u8) -> &'static str {
    match byte {
        b'-' | b'0'..=b'9' => "a number",
        b'{' | b'[' | b'"' | b't' | b'f' | b'n' => kind(char::from(byte).encode_utf8(&mut [0])),
        _ => "something that is not JSON",
    }
}

#[cfg(test)]
mod tests;
