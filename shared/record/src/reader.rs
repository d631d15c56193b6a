//! A streaming reader of untrusted files: one JSON object with an array of records for each collection. A collection
//! that is a single record is an object, or null if the record is absent.
//!
//! It reads a file of any size in bounded memory. It finds the beginning and end of each record and checks the text
//! around the records. [`Records::push`](crate::model::Records::push) checks the inside of a record. The caller decides
//! which collections are allowed, and uses their records.

use std::io::{self, Read, Write};
use std::ops::Range;

use crate::json::{kind, push_pointer, reason_of};
use crate::model::Collection;

/// The largest record, in bytes of JSON. Bounds the memory that a hostile file or a damaged length can make us
/// allocate.
pub const RECORD_BYTES: usize = 16 << 20;

/// The bytes that are read at a time.
const BLOCK: usize = 2 << 20;

/// The bytes that JSON allows between its tokens.
const SPACE: [u8; 4] = *b" \t\n\r";

/// A reader of one file.
pub struct Reader<R, C = io::Sink> {
    input: R,
    /// Gets a copy of all bytes read. A [`Read`] around `input` could copy too, but would have its buffer zeroed first.
    pub copy: C,
    /// The bytes that are read but not yet handed out; `at` is the next byte to examine.
    bytes: Vec<u8>,
    at: usize,
    /// The memory of a finished stretch, for reuse.
    spare: (Vec<u8>, Vec<Range<usize>>),
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

/// The kind of value that [`Reader::open`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Records, for [`Reader::read_records`].
    Records,
    /// The null of a collection that is a single record.
    Null,
    /// Something else, which the reader has not passed.
    Other(&'static str),
}

/// Consecutive records of one collection, with the file's bytes.
pub struct Stretch {
    /// The collection.
    pub collection: Collection,
    /// The index of the first record in its array.
    pub first: u64,
    /// The offset of `bytes` in the file.
    pub base: u64,
    /// The records and the text between them.
    pub bytes: Vec<u8>,
    /// The place of each record in `bytes`. Only its brackets and strings have been examined.
    pub records: Vec<Range<usize>>,
}

/// The reason why a file cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// Reading the input, or writing the copy, failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file's text is wrong.
    #[error("{pointer} (byte {offset}): {flaw}")]
    Flawed {
        /// A JSON pointer to the flaw; `""` is the whole file.
        pointer: String,
        /// The flaw's offset in the file.
        offset: u64,
        /// The flaw.
        flaw: Flaw,
    },
}

/// A flaw of a file outside its records.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The file ends too early.
    #[error("the file ends {0}")]
    Ends(String),
    /// The file is another JSON value.
    #[error("expected an object of collections, found {0}")]
    NoObject(&'static str),
    /// Another token must come here.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A collection's name is not a JSON string.
    #[error("{0}")]
    Name(String),
    /// A record is longer than [`RECORD_BYTES`].
    #[error("the record is longer than {} MiB", RECORD_BYTES >> 20)]
    TooLong,
    /// The white space between two tokens is longer than [`RECORD_BYTES`].
    #[error("more than {} MiB of white space", RECORD_BYTES >> 20)]
    Space,
    /// Something follows the object.
    #[error("there is more after the end of the object")]
    More,
}

impl<R: Read> Reader<R> {
    /// Returns a reader of `input`.
    pub fn new(input: R) -> Self {
        Self::copying(input, io::sink())
    }
}

impl<R: Read, C: Write> Reader<R, C> {
    /// Returns a reader of `input` that copies all bytes to `copy`.
    pub fn copying(input: R, copy: C) -> Self {
        Self { input, copy, bytes: Vec::new(), at: 0, spare: Default::default(), base: 0, begun: false, array: None }
    }

    /// Takes back the memory of a stretch for reuse: fresh memory costs more than reading into it.
    pub fn recycle(&mut self, bytes: Vec<u8>, records: Vec<Range<usize>>) {
        self.spare = (bytes, records);
    }

    /// Returns the offset in the file of the next byte.
    pub fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Moves to the value of the next collection. Returns the collection's name and the name's offset; `None` at the
    /// end of the object, which [`close`](Self::close) passes.
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

    /// Moves to the first record of `collection`, whose value comes next and whose name is at `offset`.
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

    /// Skips the next value, of any length, and copies it to `out`. The inner error is that of `out`.
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

    /// Passes the end of the object, which must be the end of the file.
    pub fn close(&mut self) -> Result<(), ReaderError> {
        self.at += 1;
        match self.token()? {
            None => Ok(()),
            Some(_) => Err(self.flawed("", Flaw::More)),
        }
    }

    fn open_object(&mut self) -> Result<(), ReaderError> {
        // `require('./db.json')` in the monolith skips a byte order mark too.
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

    /// Reads records until they fill a block or the array ends. Returns `None` if no array is open.
    pub fn read_records(&mut self) -> Result<Option<Stretch>, ReaderError> {
        let Some(Array { collection, records: first }) = self.array.take() else { return Ok(None) };
        self.discard();
        let mut records = std::mem::take(&mut self.spare.1);
        records.clear();
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
        let mut bytes = std::mem::take(&mut self.spare.0);
        bytes.clear();
        bytes.extend_from_slice(&self.bytes[self.at..]);
        self.bytes.truncate(self.at);
        let bytes = std::mem::replace(&mut self.bytes, bytes);
        let stretch = Stretch { collection, first, base: self.base, bytes, records };
        self.base += self.at as u64;
        self.at = 0;
        Ok(Some(stretch))
    }

    /// Skips a value and returns its place. Examines only its brackets and strings.
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

    /// Skips white space and returns the next byte without passing over it.
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

    /// Reads more bytes. Returns `false` at the end of the file.
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

/// The reader's place, for messages.
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

/// Returns the JSON pointer of a record by its place, from 0.
pub fn pointer_to(collection: Collection, place: u64) -> String {
    let pointer = pointer_to_all(collection.name());
    if collection.is_single() { pointer } else { format!("{pointer}/{place}") }
}

/// Returns the JSON pointer of a collection.
pub fn pointer_to_all(name: &str) -> String {
    let mut pointer = String::new();
    push_pointer(&mut pointer, name);
    pointer
}

/// Names the kind of a value by its first byte.
fn kind_of(byte: u8) -> &'static str {
    match byte {
        b'-' | b'0'..=b'9' => "a number",
        b'{' | b'[' | b'"' | b't' | b'f' | b'n' => kind(char::from(byte).encode_utf8(&mut [0])),
        _ => "something that is not JSON",
    }
}

/// A search for the end of a value that comes in pieces.
#[derive(Default)]
pub struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Returns the value's end in `bytes`, the next piece; `None` if the value goes on.
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
                // A number or a word is not a record, but the record's parser reports that.
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

    /// A reader that counts its bytes.
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
    fn records_come_in_stretches_with_their_places_in_the_file() {
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
    fn endless_input_is_refused_before_it_fills_the_memory() {
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
