//! The reader of untrusted files: one JSON object with an array of records for each collection, read as a stream. A
//! collection that is one record is an object there, or null where there is none.
//!
//! A file of any size passes through in bounded memory. This module finds where each record begins and ends, and checks
//! what is around the records; what is inside one is [`Records::push`](crate::model::Records::push)'s business. Which
//! collections may be there, and what becomes of their records, its caller says.

use std::io::{self, Read, Write};
use std::ops::Range;

use crate::json::{kind, push_pointer, reason_of};
use crate::model::Collection;

/// The largest record, in bytes of JSON. Bounds what a hostile file or a damaged length can make us allocate.
pub const RECORD_BYTES: usize = 16 << 20;

/// How much is read at a time, in bytes.
const BLOCK: usize = 2 << 20;

/// The bytes that JSON allows between its tokens.
const SPACE: [u8; 4] = *b" \t\n\r";

/// A file that is being read.
pub struct Reader<R, C = io::Sink> {
    input: R,
    /// Gets all that is read, too. A [`Read`] around `input` could do that, but the memory that such a one reads into is
    /// zeroed before.
    pub copy: C,
    /// What was read and is not yet handed out; `at` is the next byte to look at.
    bytes: Vec<u8>,
    at: usize,
    /// The memory of a stretch that is done with.
    spare: Vec<u8>,
    /// The offset of `bytes` in the file.
    base: u64,
    begun: bool,
    array: Option<Array>,
}

/// The array that is being read.
struct Array {
    collection: Collection,
    records: u64,
}

/// What [`Reader::open`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Records, for [`Reader::read_records`].
    Records,
    /// The null of a collection that is one record.
    Null,
    /// Something else, at which the reader still is.
    Other(&'static str),
}

/// Consecutive records of one collection, as they stand in the file.
pub struct Stretch {
    /// The collection.
    pub collection: Collection,
    /// The index of the first record in its array.
    pub first: u64,
    /// The offset of `bytes` in the file.
    pub base: u64,
    /// The records and what is between them.
    pub bytes: Vec<u8>,
    /// Where in `bytes` each record is. Nothing but its brackets and strings was looked at.
    pub records: Vec<Range<usize>>,
}

/// Why a file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// Nothing more comes from it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what it has to be.
    #[error("{pointer} (byte {offset}): {flaw}")]
    Flawed {
        /// A JSON pointer to what is wrong: `""` is the whole.
        pointer: String,
        /// The offset of that in the file.
        offset: u64,
        /// What is wrong there.
        flaw: Flaw,
    },
}

/// What is wrong with a file, but for what is inside its records.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It ends too early.
    #[error("the file ends {0}")]
    Ends(String),
    /// It is something else.
    #[error("expected an object of collections, found {0}")]
    NoObject(&'static str),
    /// Another token has to come.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A collection's name is no JSON string.
    #[error("{0}")]
    Name(String),
    /// A record is longer than [`RECORD_BYTES`].
    #[error("the record is longer than {} MiB", RECORD_BYTES >> 20)]
    TooLong,
    /// More space than [`RECORD_BYTES`] is between two tokens.
    #[error("more than {} MiB of white space", RECORD_BYTES >> 20)]
    Space,
    /// Something follows the object.
    #[error("there is more after the end of the object")]
    More,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self::copying(input, io::sink())
    }
}

impl<R: Read, C: Write> Reader<R, C> {
    /// Reads from `input`, and copies to `copy`.
    pub fn copying(input: R, copy: C) -> Self {
        Self { input, copy, bytes: Vec::new(), at: 0, spare: Vec::new(), base: 0, begun: false, array: None }
    }

    /// Takes back the memory of a stretch: fresh memory costs more than reading into it.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        self.spare = bytes;
    }

    /// The offset in the file of the next byte to look at.
    pub fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Goes to the value of the next collection. Returns the collection's name and that name's offset; `None` at the end
    /// of the object, which [`close`](Self::close) passes.
    pub fn next_name(&mut self) -> Result<Option<(String, u64)>, ReaderError> {
        self.discard();
        let first = !self.begun;
        if first {
            self.open_object()?;
            self.begun = true;
        }
        match (self.token()?, first) {
            (Some(b'}'), _) => return Ok(None),
            (Some(b','), false) => {
                self.at += 1;
                self.token()?;
            }
            (Some(b'"'), true) => {}
            (_, true) => return Err(self.flawed("", Flaw::Expected("a collection's name or `}`"))),
            (_, false) => return Err(self.flawed("", Flaw::Expected("`,` or `}` after a collection"))),
        }
        let (name, offset) = self.name()?;
        if self.token()? != Some(b':') {
            let flaw = Flaw::Expected("`:` after the collection's name");
            return Err(self.flawed(&pointer_to_all(&name), flaw));
        }
        self.at += 1;
        self.token()?;
        Ok(Some((name, offset)))
    }

    /// Goes to the first record of `collection`, whose value is at hand, and whose name is at `offset`.
    pub fn open(&mut self, collection: Collection, offset: u64) -> Result<Opened, ReaderError> {
        let is_single = collection.is_single();
        match self.peek()? {
            Some(b'n') if is_single => {
                let value = self.skip_value(Place::Record(collection, 0))?;
                if self.bytes[value] != *b"null" {
                    let flaw = Flaw::Expected("an object or null");
                    return Err(flawed_at(offset, &pointer_to_all(collection.name()), flaw));
                }
                return Ok(Opened::Null);
            }
            Some(b'{') if is_single => {}
            Some(b'[') if !is_single => self.at += 1,
            found => return Ok(Opened::Other(found.map_or("the end of the file", kind_of))),
        }
        self.array = Some(Array { collection, records: 0 });
        Ok(Opened::Records)
    }

    /// Skips the value at hand, whatever its length; it goes to `out`, whose error is the inner one.
    pub fn skip(&mut self, pointer: &str, out: &mut dyn Write) -> Result<io::Result<()>, ReaderError> {
        let mut scan = Scan::default();
        loop {
            let end = scan.end_in(&self.bytes[self.at..]);
            let next = end.map_or(self.bytes.len(), |end| self.at + end);
            if let Err(error) = out.write_all(&self.bytes[self.at..next]) {
                return Ok(Err(error));
            }
            self.at = next;
            self.discard();
            if end.is_some() {
                return Ok(Ok(()));
            }
            if !self.fill()? {
                return Err(self.flawed(pointer, Flaw::Ends("in the middle of this collection".to_owned())));
            }
        }
    }

    /// Passes the end of the object, which has to be the end of the file.
    pub fn close(&mut self) -> Result<(), ReaderError> {
        self.at += 1;
        match self.token()? {
            None => Ok(()),
            Some(_) => Err(self.flawed("", Flaw::More)),
        }
    }

    fn open_object(&mut self) -> Result<(), ReaderError> {
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
            None => Err(self.flawed("", Flaw::Empty)),
            Some(byte) => Err(self.flawed("", Flaw::NoObject(kind_of(byte)))),
        }
    }

    fn name(&mut self) -> Result<(String, u64), ReaderError> {
        if self.peek()? != Some(b'"') {
            return Err(self.flawed("", Flaw::Expected("a collection's name in double quotes")));
        }
        let offset = self.offset();
        let name = self.skip_value(Place::Name)?;
        match serde_json::from_slice::<String>(&self.bytes[name]) {
            Ok(name) => Ok((name, offset)),
            Err(error) => Err(flawed_at(offset, "", Flaw::Name(reason_of(&error)))),
        }
    }

    /// Reads records until there is a block of them or the array ends; `None` where no array is open.
    pub fn read_records(&mut self) -> Result<Option<Stretch>, ReaderError> {
        let Some(Array { collection, records: first }) = self.array.take() else { return Ok(None) };
        self.discard();
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
                    return Err(self.flawed(&here(&records).pointer(), Flaw::Expected("a record")));
                }
                Some(_) => records.push(self.skip_value(here(&records))?),
                None => return Err(self.ends_inside(here(&records))),
            }
            match self.token()? {
                Some(b']') => break self.at += 1,
                Some(b',') => self.at += 1,
                None => return Err(self.ends_inside(here(&records))),
                Some(_) => {
                    return Err(self.flawed(&here(&records).pointer(), Flaw::Expected("`,` or `]` after a record")));
                }
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
        let stretch = Stretch { collection, first, base: self.base, bytes, records };
        self.base += self.at as u64;
        self.at = 0;
        Ok(Some(stretch))
    }

    /// Goes past a value and says where it was. What is in it is looked at later, all but brackets and strings.
    fn skip_value(&mut self, place: Place) -> Result<Range<usize>, ReaderError> {
        let begin = self.at;
        let mut scan = Scan::default();
        loop {
            let end = scan.end_in(&self.bytes[self.at..]);
            self.at = end.map_or(self.bytes.len(), |end| self.at + end);
            if self.at - begin > RECORD_BYTES {
                return Err(self.flawed(&place.pointer(), Flaw::TooLong));
            }
            if end.is_some() {
                return Ok(begin..self.at);
            }
            if !self.fill()? {
                let begin = self.base + begin as u64;
                let flaw = Flaw::Ends(format!("in the middle of the value that begins at byte {begin}"));
                return Err(self.flawed(&place.pointer(), flaw));
            }
        }
    }

    /// The next byte that is no space, which stays at hand.
    fn token(&mut self) -> Result<Option<u8>, ReaderError> {
        let begin = self.at;
        loop {
            match self.peek()? {
                Some(byte) if SPACE.contains(&byte) => self.at += 1,
                other => return Ok(other),
            }
            if self.at - begin > RECORD_BYTES {
                return Err(self.flawed("", Flaw::Space));
            }
        }
    }

    #[inline]
    fn peek(&mut self) -> Result<Option<u8>, ReaderError> {
        if self.at == self.bytes.len() && !self.fill()? {
            return Ok(None);
        }
        Ok(Some(self.bytes[self.at]))
    }

    /// Reads on; `false` at the end of the file.
    fn fill(&mut self) -> Result<bool, ReaderError> {
        let known = self.bytes.len();
        let read = self.input.by_ref().take(BLOCK as u64).read_to_end(&mut self.bytes)?;
        self.copy.write_all(&self.bytes[known..])?;
        Ok(read > 0)
    }

    fn discard(&mut self) {
        self.bytes.drain(..self.at);
        self.base += self.at as u64;
        self.at = 0;
    }

    fn ends_inside(&self, place: Place) -> ReaderError {
        self.flawed(&place.pointer(), Flaw::Ends("inside the collection".to_owned()))
    }

    fn flawed(&self, pointer: &str, flaw: Flaw) -> ReaderError {
        flawed_at(self.offset(), pointer, flaw)
    }
}

fn flawed_at(offset: u64, pointer: &str, flaw: Flaw) -> ReaderError {
    ReaderError::Flawed { pointer: pointer.to_owned(), offset, flaw }
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
pub fn pointer_to_all(name: &str) -> String {
    let mut pointer = String::new();
    push_pointer(&mut pointer, name);
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::iter;

    use super::*;
    use crate::sample;

    /// Counts what is read of it.
    struct Counted<'c, R>(R, &'c Cell<usize>);

    impl<R: Read> Read for Counted<'_, R> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let read = self.0.read(bytes)?;
            self.1.set(self.1.get() + read);
            Ok(read)
        }
    }

    /// Reads all posts of `input`, and skips other collections.
    fn read(input: impl Read) -> Result<Vec<Stretch>, ReaderError> {
        let mut reader = Reader::new(input);
        let mut stretches = Vec::new();
        while let Some((name, offset)) = reader.next_name()? {
            if name != "posts" {
                reader.skip(&name, &mut io::sink())??;
            } else if reader.open(sample::posts(), offset)? != Opened::Records {
                return Err(reader.flawed("", Flaw::Expected("posts")));
            }
            stretches.extend(iter::from_fn(|| reader.read_records().transpose()).collect::<Result<Vec<_>, _>>()?);
        }
        reader.close()?;
        Ok(stretches)
    }

    #[test]
    fn records_come_in_stretches_that_say_where_in_the_file_they_are() {
        let records: Vec<String> =
            (0..5000).map(|n| format!(r#"{{"n":{n},"x":"{}"}}"#, "]}\\\"".repeat(250))).collect();
        let file = format!("{{\"other\":[[\"]\"]] ,\n\"posts\" : [ {} ]}}", records.join(" ,\n"));
        let stretches = read(file.as_bytes()).unwrap();
        assert!(stretches.len() > 1);
        let mut expected = records.iter();
        for stretch in stretches {
            assert_eq!(stretch.first as usize, records.len() - expected.len());
            assert!(stretch.bytes.len() < BLOCK + 2000);
            for range in stretch.records {
                let begin = stretch.base as usize + range.start;
                let record = expected.next().unwrap().as_bytes();
                assert!(
                    stretch.bytes[range.clone()] == *record && file.as_bytes()[begin..begin + range.len()] == *record
                );
            }
        }
        assert_eq!(expected.next(), None);
    }

    #[test]
    fn what_never_ends_is_refused_before_it_fills_the_memory() {
        let endless = |begin: &str, byte: u8| {
            let taken = Cell::new(0);
            let input = begin.as_bytes().chain(Counted(io::repeat(byte), &taken));
            let Err(ReaderError::Flawed { pointer, flaw, .. }) = read(input) else { panic!("{begin}") };
            assert!(taken.get() <= RECORD_BYTES + 2 * BLOCK, "{begin}: {}", taken.get());
            (pointer, flaw)
        };
        for (begin, byte, expected) in [
            (r#"{"posts":[{},{"x":""#, b'x', "/posts/1"),
            (r#"{"posts":[{},"#, b'[', "/posts/1"),
            (r#"{"posts":["#, b'1', "/posts/0"),
            (r#"{""#, b'x', ""),
            ("", b' ', ""),
            (r#"{"posts":[{},{}"#, b'\n', ""),
            (r#"{"posts":[{}]}"#, b' ', ""),
        ] {
            let (pointer, flaw) = endless(begin, byte);
            assert!(matches!(flaw, Flaw::TooLong | Flaw::Space) && pointer == expected, "{begin}: {pointer}: {flaw}");
        }
    }
}
