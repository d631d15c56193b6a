//! A slice: one collection of the monolith's file, in the same shape, for the service that owns it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use shared::model::{Collection, Record};

use crate::error::Error;

/// How much is read or written at a time, in bytes.
const BUFFER: usize = 1 << 20;

/// The bytes of a slice, handed out piece by piece. Writing them makes the slice, comparing them proves it.
struct Pieces {
    collection: Collection,
    begun: bool,
}

impl Pieces {
    fn begin(&self) -> String {
        format!("{{\"{}\":[", self.collection.name())
    }

    fn record<'r>(&mut self, record: &'r Record) -> [&'r [u8]; 3] {
        let comma: &[u8] = if self.begun { b"," } else { b"" };
        self.begun = true;
        let [open, rest] = record.json_of_the_source();
        [comma, open, rest]
    }

    const END: &'static [u8] = b"]}\n";
}

/// Writes a slice.
pub struct SliceWriter {
    path: PathBuf,
    file: BufWriter<File>,
    pieces: Pieces,
}

impl SliceWriter {
    /// Begins the slice of `collection` in a new file at `path`.
    pub fn create(path: &Path, collection: Collection) -> Result<Self, Error> {
        let file = File::create_new(path).map_err(Error::io(path))?;
        let pieces = Pieces { collection, begun: false };
        let mut slice = Self { path: path.to_owned(), file: BufWriter::with_capacity(BUFFER, file), pieces };
        let begin = slice.pieces.begin();
        slice.write(begin.as_bytes())?;
        Ok(slice)
    }

    /// Adds a record.
    pub fn put(&mut self, record: &Record) -> Result<(), Error> {
        self.pieces.record(record).iter().try_for_each(|piece| self.write(piece))
    }

    /// Ends the slice.
    pub fn finish(mut self) -> Result<(), Error> {
        self.write(Pieces::END)?;
        self.file.flush().map_err(Error::io(&self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }
}

/// Compares a slice with the records it should hold.
pub struct SliceReader {
    path: PathBuf,
    file: BufReader<File>,
    pieces: Pieces,
    read: Vec<u8>,
    equal: bool,
}

impl SliceReader {
    /// Opens the slice of `collection` at `path`.
    pub fn open(path: &Path, collection: Collection) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let pieces = Pieces { collection, begun: false };
        let file = BufReader::with_capacity(BUFFER, file);
        let mut slice = Self { path: path.to_owned(), file, pieces, read: Vec::new(), equal: true };
        let begin = slice.pieces.begin();
        slice.expect(begin.as_bytes())?;
        Ok(slice)
    }

    /// The slice should go on with `record`.
    pub fn expect_record(&mut self, record: &Record) -> Result<(), Error> {
        self.pieces.record(record).iter().try_for_each(|piece| self.expect(piece))
    }

    /// The slice should end. Says whether it held all it should, and nothing else.
    pub fn finish(mut self) -> Result<bool, Error> {
        self.expect(Pieces::END)?;
        let more = self.file.read(&mut [0]).map_err(Error::io(&self.path))?;
        Ok(self.equal && more == 0)
    }

    fn expect(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.equal {
            self.read.clear();
            let piece = self.file.by_ref().take(bytes.len() as u64).read_to_end(&mut self.read);
            piece.map_err(Error::io(&self.path))?;
            self.equal = self.read == bytes;
        }
        Ok(())
    }
}
