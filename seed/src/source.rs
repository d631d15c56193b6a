//! The monolith's file: one JSON object with an array for each collection, read as a stream.
//!
//! A file of any size passes through in bounded memory. This module finds where each record begins and ends, and
//! checks what is around the records; what is inside one is [`Collection::parse`]'s business.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use shared::id::Id;
use shared::json::{Fault, kind};
use shared::model::{Collection, Record};
use shared::store::layout::RECORD_BYTES;

use crate::error::Error;

/// How much is read at a time, in bytes.
const BLOCK: usize = 1 << 20;

/// The bytes that JSON allows between its tokens.
const SPACE: [u8; 4] = *b" \t\n\r";

/// A file that is being read.
pub struct Source {
    path: PathBuf,
    input: Box<dyn Read>,
    sha256: Sha256,
    /// What was read and is not yet handed out; `at` is the next byte to look at.
    bytes: Vec<u8>,
    at: usize,
    /// The offset of `bytes` in the file.
    base: u64,
    seen: Vec<Collection>,
    array: Option<Array>,
}

/// The array that is being read.
struct Array {
    collection: Collection,
    records: u64,
}

/// What a source was, once it has been read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Hexadecimal.
    pub sha256: String,
    /// The length of the file.
    pub bytes: u64,
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
}

impl Source {
    /// Opens the file at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let kind = file.metadata().map_err(Error::io(path))?.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "a folder" } else { "no regular file" };
            return Err(Error::Input {
                file: path.to_owned(),
                place: "the path".to_owned(),
                reason: format!("it is {what}, not a db.json"),
            });
        }
        Ok(Self::new(path, Box::new(file)))
    }

    fn new(path: &Path, input: Box<dyn Read>) -> Self {
        Self {
            path: path.to_owned(),
            input,
            sha256: Sha256::new(),
            bytes: Vec::new(),
            at: 0,
            base: 0,
            seen: Vec::new(),
            array: None,
        }
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

    /// Reads the file to its end, for what it is. Its records are passed over unseen.
    pub fn identify(path: &Path) -> Result<Identity, Error> {
        let mut source = Self::open(path)?;
        while source.next_batch()?.is_some() {}
        Ok(source.identity())
    }

    /// What the file was. To be asked after the last batch.
    pub fn identity(self) -> Identity {
        let sha256 = self.sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Identity { sha256, bytes: self.base + self.at as u64 }
    }

    /// Goes to the first record of the next collection.
    fn open_array(&mut self) -> Result<Option<Array>, Error> {
        self.discard();
        if self.seen.is_empty() {
            self.open_object()?;
        }
        match (self.token()?, self.seen.is_empty()) {
            (Some(b'}'), _) => return self.close_object().map(|()| None),
            (Some(b','), false) => {
                self.at += 1;
                self.token()?;
            }
            (Some(b'"'), true) => {}
            (_, true) => return Err(self.wrong("", "expected a collection's name or `}`")),
            (_, false) => return Err(self.wrong("", "expected `,` or `}` after a collection")),
        }
        let (name, name_offset) = self.name()?;
        let pointer = pointer_to(&name, None);
        if self.token()? != Some(b':') {
            return Err(self.wrong(&pointer, "expected `:` after the collection's name"));
        }
        self.at += 1;
        let begin = self.token()?;
        let Some(collection) = Collection::named(&name) else {
            let reason = "no service owns this collection; take it out of the file to split the rest";
            return Err(self.wrong_at(name_offset, &pointer, reason));
        };
        if self.seen.contains(&collection) {
            return Err(self.wrong_at(name_offset, &pointer, "the collection is repeated"));
        }
        if begin != Some(b'[') {
            let found = begin.map_or("the end of the file", |byte| kind_of(byte));
            return Err(self.wrong(&pointer, &format!("expected an array of records, found {found}")));
        }
        self.at += 1;
        self.seen.push(collection);
        Ok(Some(Array { collection, records: 0 }))
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
        if let Some(missing) = Collection::ALL.into_iter().find(|collection| !self.seen.contains(collection)) {
            return Err(self.wrong("", &format!("the collection {:?} is missing", missing.name())));
        }
        self.at += 1;
        match self.token()? {
            None => Ok(()),
            Some(_) => Err(self.wrong("", "there is more after the end of the object")),
        }
    }

    fn name(&mut self) -> Result<(String, u64), Error> {
        if self.peek()? != Some(b'"') {
            return Err(self.wrong("", "expected a collection's name in double quotes"));
        }
        let offset = self.base + self.at as u64;
        let begin = self.at;
        self.skip_string(begin, "")?;
        match serde_json::from_slice::<String>(&self.bytes[begin..self.at]) {
            Ok(name) => Ok((name, offset)),
            Err(error) => Err(self.wrong_at(offset, "", &shared::json::reason_of(&error))),
        }
    }

    /// Reads records until there is a block of them or the array ends.
    fn read_records(&mut self, array: Array) -> Result<Batch, Error> {
        self.discard();
        let Array { collection, records: first } = array;
        let mut records = Vec::new();
        let here = |records: &Vec<Range<usize>>| pointer_to(collection.name(), Some(first + records.len() as u64));
        loop {
            let number = first + records.len() as u64;
            match self.token()? {
                Some(b']') if number == 0 => break self.at += 1,
                Some(_) => records.push(self.skip_value(&here(&records))?),
                None => return Err(self.wrong(&here(&records), "the file ends inside the collection")),
            }
            match self.token()? {
                Some(b']') => break self.at += 1,
                Some(b',') => self.at += 1,
                None => return Err(self.wrong(&here(&records), "the file ends inside the collection")),
                Some(_) => return Err(self.wrong(&here(&records), "expected `,` or `]` after a record")),
            }
            if self.at >= BLOCK {
                self.array = Some(Array { collection, records: first + records.len() as u64 });
                break;
            }
        }
        let rest = self.bytes.split_off(self.at);
        let batch =
            Batch { collection, first, base: self.base, bytes: std::mem::replace(&mut self.bytes, rest), records };
        self.base += self.at as u64;
        self.at = 0;
        Ok(batch)
    }

    /// Goes past a value and says where it was. What is in it is looked at later, all but brackets and strings.
    fn skip_value(&mut self, pointer: &str) -> Result<Range<usize>, Error> {
        let begin = self.at;
        let mut depth = 0_usize;
        loop {
            match self.byte_of(begin, pointer)? {
                b'"' => self.skip_string(begin, pointer)?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b':' | b'}' | b']' if depth == 0 => return Err(self.wrong(pointer, "expected a record")),
                _ if depth == 0 => {
                    // A number or a word: no record, but it is for the record's parser to say so.
                    while self.peek()?.is_some_and(|byte| !SPACE.contains(&byte) && !b",]}".contains(&byte)) {
                        self.at += 1;
                        self.check_size(begin, pointer)?;
                    }
                }
                _ => self.at += 1,
            }
            if depth == 0 {
                return Ok(begin..self.at);
            }
        }
    }

    /// Goes past a string, of whose value the first byte is at `begin`.
    fn skip_string(&mut self, begin: usize, pointer: &str) -> Result<(), Error> {
        self.at += 1;
        loop {
            self.byte_of(begin, pointer)?;
            match memchr::memchr2(b'"', b'\\', &self.bytes[self.at..]) {
                None => self.at = self.bytes.len(),
                Some(skip) => {
                    self.at += skip + 1;
                    if self.bytes[self.at - 1] == b'"' {
                        return Ok(());
                    }
                    self.byte_of(begin, pointer)?;
                    self.at += 1;
                }
            }
        }
    }

    /// The byte at hand, which belongs to the value that begins at `begin`.
    fn byte_of(&mut self, begin: usize, pointer: &str) -> Result<u8, Error> {
        self.check_size(begin, pointer)?;
        match self.peek()? {
            Some(byte) => Ok(byte),
            None => {
                let begin = self.base + begin as u64;
                Err(self
                    .wrong(pointer, &format!("the file ends in the middle of the value that begins at byte {begin}")))
            }
        }
    }

    fn check_size(&self, begin: usize, pointer: &str) -> Result<(), Error> {
        if self.at - begin > RECORD_BYTES {
            return Err(self.wrong(pointer, &format!("the record is longer than {} MiB", RECORD_BYTES >> 20)));
        }
        Ok(())
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
        self.bytes.resize(known + BLOCK, 0);
        let read = loop {
            match self.input.read(&mut self.bytes[known..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.bytes.truncate(known + read.as_ref().copied().unwrap_or_default());
        let read = read.map_err(Error::io(&self.path))?;
        self.sha256.update(&self.bytes[known..]);
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

impl Batch {
    /// The records in order, parsed by all cores; the first fault where there is one.
    pub fn parse(&self, path: &Path) -> Result<Vec<Record>, Error> {
        let parsed: Vec<Result<Record, Fault>> =
            (0..self.records.len()).into_par_iter().with_min_len(64).map(|nth| self.parse_one(nth)).collect();
        let mut records = Vec::with_capacity(parsed.len());
        for (nth, parsed) in parsed.into_iter().enumerate() {
            records.push(parsed.map_err(|fault| {
                let offset = self.base + (self.records[nth].start + fault.offset) as u64;
                input_error(path, &(self.pointer(nth) + &fault.pointer), offset, &fault.reason)
            })?);
        }
        Ok(records)
    }

    /// The JSON pointer of the record at `nth` in this batch.
    pub fn pointer(&self, nth: usize) -> String {
        pointer_to(self.collection.name(), Some(self.first + nth as u64))
    }

    /// The offset in the file of the record at `nth` in this batch.
    pub fn offset(&self, nth: usize) -> u64 {
        self.base + self.records[nth].start as u64
    }

    fn parse_one(&self, nth: usize) -> Result<Record, Fault> {
        let text = std::str::from_utf8(&self.bytes[self.records[nth].clone()]).map_err(|error| Fault {
            pointer: String::new(),
            offset: error.valid_up_to(),
            reason: "this is not UTF-8".to_owned(),
        })?;
        let position = self.collection.takes_positions_as_ids().then(|| Id::try_from(self.first + nth as u64 + 1).ok());
        self.collection.parse(text, position.flatten())
    }
}

/// "This file is wrong here."
pub fn input_error(path: &Path, pointer: &str, offset: u64, reason: &str) -> Error {
    let place = match pointer {
        "" => format!("byte {offset}"),
        _ => format!("{pointer} (byte {offset})"),
    };
    Error::Input { file: path.to_owned(), place, reason: reason.to_owned() }
}

fn pointer_to(collection: &str, record: Option<u64>) -> String {
    let mut pointer = String::new();
    shared::json::push_pointer(&mut pointer, collection);
    if let Some(record) = record {
        shared::json::push_pointer(&mut pointer, &record.to_string());
    }
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
