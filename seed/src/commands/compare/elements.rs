//! Splits a body into its records as it arrives.
//!
//! A list is `[`, records separated by commas, and `]`, without spaces, since neither side sends any. Only the current
//! record is in memory.

use std::cell::Cell;

use record::reader::Scan;

use super::client::{Body, Failure, FailureKind};

/// The size of a read, in bytes.
const BLOCK: usize = 32 << 10;

/// The record limit up to which the buffer begins small and grows, in bytes.
const GROWN: usize = 1 << 20;

thread_local! {
    /// The buffer of the thread's last body: large memory that is freed and allocated again may exist twice.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The shape of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A JSON array.
    List,
    /// A JSON object.
    One,
    /// Anything else.
    Opaque,
}

/// The records of a body.
pub struct Elements {
    body: Body,
    buffer: Vec<u8>,
    /// The range of the buffer that is not yet returned.
    begin: usize,
    end: usize,
    shape: Shape,
    /// The number of records returned so far.
    count: u64,
    /// The greatest length of a record, in bytes.
    room: usize,
    done: bool,
}

impl Elements {
    /// Begins to read the records of `body`, each of `room` bytes at most.
    ///
    /// # Errors
    /// The body cannot be read.
    pub fn new(body: Body, room: usize) -> Result<Self, Failure> {
        // A buffer for long records has its full size at once: untouched memory costs nothing, but a growing buffer exists
        // twice for a moment.
        let size = if room > GROWN { room + BLOCK } else { BLOCK };
        let (mut buffer, shape) = (BUFFER.take(), Shape::Opaque);
        if buffer.capacity() < size {
            buffer = Vec::with_capacity(size);
        }
        let mut elements = Self { body, buffer, begin: 0, end: 0, shape, count: 0, room, done: false };
        elements.shape = match elements.peek()? {
            Some(b'[') => Shape::List,
            Some(b'{') => Shape::One,
            _ => Shape::Opaque,
        };
        elements.begin = usize::from(elements.shape == Shape::List);
        Ok(elements)
    }

    /// Returns the body's shape, by its first byte.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Makes [`read_next`](Self::read_next) return pieces of the body, whatever its shape. Call it before the first read.
    pub fn take_as_bytes(&mut self) {
        (self.shape, self.begin) = (Shape::Opaque, 0);
    }

    /// Returns the next record, or the next piece of an opaque body; `None` after the last, if the body ends correctly.
    ///
    /// # Errors
    /// The body is cut, malformed or cannot be read.
    pub fn read_next(&mut self) -> Result<Option<&[u8]>, Failure> {
        if self.done {
            return Ok(None);
        }
        match self.shape {
            Shape::Opaque => self.next_piece(),
            Shape::One if self.count > 0 => self.finish(),
            Shape::One => self.next_record(),
            Shape::List => match (self.peek()?, self.count) {
                (Some(b']'), _) => {
                    self.begin += 1;
                    self.finish()
                }
                (Some(b','), 1..) => {
                    self.begin += 1;
                    self.next_record()
                }
                (Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b'a'..=b'z'), 0) => self.next_record(),
                (Some(_), _) => Err(self.malformed("neither a record nor the list's end follows")),
                (None, _) => Err(self.truncated()),
            },
        }
    }

    fn next_piece(&mut self) -> Result<Option<&[u8]>, Failure> {
        if self.begin == self.end && !self.fill()? {
            self.done = true;
            return Ok(None);
        }
        let piece = self.begin..self.end;
        self.begin = self.end;
        Ok(Some(&self.buffer[piece]))
    }

    fn next_record(&mut self) -> Result<Option<&[u8]>, Failure> {
        let mut length = Scan::default();
        let mut seen = 0;
        let length = loop {
            let end = length.end_in(&self.buffer[self.begin + seen..self.end]);
            if let Some(end) = end {
                break seen + end;
            }
            seen = self.end - self.begin;
            if seen > self.room {
                let text = format!("a record from {} is longer than {} bytes", self.body.side(), self.room);
                return Err(Failure::new(FailureKind::NeedsRoom, text));
            }
            if !self.fill()? {
                return Err(self.truncated());
            }
        };
        if length == 0 {
            return Err(self.malformed("a record is missing"));
        }
        let record = self.begin..self.begin + length;
        self.begin = record.end;
        self.count += 1;
        Ok(Some(&self.buffer[record]))
    }

    fn finish(&mut self) -> Result<Option<&[u8]>, Failure> {
        self.done = true;
        match self.peek()? {
            None => Ok(None),
            Some(_) => Err(self.malformed("there is more after its end")),
        }
    }

    fn peek(&mut self) -> Result<Option<u8>, Failure> {
        if self.begin == self.end && !self.fill()? {
            return Ok(None);
        }
        Ok(Some(self.buffer[self.begin]))
    }

    /// Reads more; returns `false` at the body's end.
    fn fill(&mut self) -> Result<bool, Failure> {
        if self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        let end = self.end + BLOCK;
        if end > self.buffer.len() {
            self.buffer.resize(end, 0);
        }
        let read = self.body.read_some(&mut self.buffer[self.end..end])?;
        self.end += read;
        Ok(read > 0)
    }

    fn truncated(&self) -> Failure {
        let (side, bytes) = (self.body.side(), self.body.bytes());
        let text = format!("the body from {side} is truncated: its JSON is cut off after {bytes} bytes");
        Failure::new(FailureKind::Truncated, text)
    }

    fn malformed(&self, why: &str) -> Failure {
        let at = self.body.bytes() - (self.end - self.begin) as u64;
        let text = format!("the body from {} is malformed at byte {at}: {why}", self.body.side());
        Failure::new(FailureKind::Malformed, text)
    }
}

impl Drop for Elements {
    fn drop(&mut self) {
        BUFFER.set(std::mem::take(&mut self.buffer));
    }
}
