//! A body, cut into its records as it comes in.
//!
//! A list is `[`, records with a comma between them, `]`, and nothing else: no space, since neither side sends any. Only
//! the record at hand is in memory.

use std::cell::Cell;

use record::reader::Scan;

use super::client::{Body, Failure, FailureKind};

/// How much is read at a time, in bytes.
const BLOCK: usize = 32 << 10;

/// Up to how long a record may be for the buffer to begin small and to grow, in bytes.
const GROWN: usize = 1 << 20;

thread_local! {
    /// What the thread's last body was read into: long memory that is freed and asked for again may be there twice.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What a body is.
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
    /// Where in the buffer begins what is not yet handed out, and where it ends.
    begin: usize,
    end: usize,
    shape: Shape,
    /// How many were handed out.
    count: u64,
    /// How long a record may be, in bytes.
    room: usize,
    done: bool,
}

impl Elements {
    /// The records of `body`, each of `room` bytes at most.
    ///
    /// # Errors
    /// The body cannot be read.
    pub fn new(body: Body, room: usize) -> Result<Self, Failure> {
        // Where records may be long, there is room for the longest at once: memory that is not touched costs nothing, and a
        // buffer that grows is there twice each time.
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

    /// What the body is, by its first byte.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Hands the body out in pieces, whatever it is. To be called before the first [`read_next`](Self::read_next).
    pub fn take_as_bytes(&mut self) {
        (self.shape, self.begin) = (Shape::Opaque, 0);
    }

    /// The next record; `None` after the last, once the body has ended as it should. An opaque body comes in pieces.
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

    /// Reads on; `false` at the body's end.
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
