//! What an interrupted comparison goes on from, and the differences with their whole values.
//!
//! Lines: first what the comparison is, then, as they come, `finding NTH LENGTH JSON`, a difference of the nth path, and
//! `checkpoint LENGTH JSON`, what was found so far and of which paths. A finding counts once a checkpoint has its path.
//! What follows on a line that was cut by a crash is not read. A finding may be long, and is never read as a whole here.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::finding::Finding;
use super::tally::Tally;
use crate::error::Error;
use crate::identity::{part_of, put_in_place};

/// How many differences a report has with their whole values.
const REPORTED: u64 = 1000;

/// What a comparison is: saved progress is another one's unless all of it is equal. It has no secret in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The layout of the lines.
    pub version: u32,
    /// Where the monolith is.
    pub monolith: String,
    /// Where the services are.
    pub services: String,
    /// Where ids and digits come from.
    pub source: String,
    /// How many paths make the sample, if it is one.
    pub sample: Option<u64>,
    /// What chose it.
    pub seed: u64,
    /// A digest of the paths.
    pub paths: String,
}

/// What was found, and of which paths.
#[derive(Default, Serialize, Deserialize)]
pub struct Progressed {
    /// The paths, by their place in the plan.
    #[serde(with = "bitmap")]
    pub done: RoaringTreemap,
    /// What was found.
    pub tally: Tally,
}

/// The file.
pub struct Journal {
    /// Where it is kept; without one it is gone with the process.
    path: Option<PathBuf>,
    /// Nothing is written where nobody will read it.
    file: Option<BufWriter<File>>,
    written: u64,
}

impl Journal {
    /// A journal in the file at `path`, which goes on if it is one; in a file without a name if nobody may go on from it
    /// but a report is wanted.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: Option<&Path>, binding: &Binding, is_reported: bool) -> Result<(Self, Progressed), Error> {
        let Some(path) = path else {
            let temporary = || tempfile::tempfile().map_err(Error::io(Path::new("a temporary file")));
            let mut file = if is_reported { Some(BufWriter::new(temporary()?)) } else { None };
            if let Some(file) = &mut file {
                writeln!(file, "{}", to_json(binding)).map_err(Error::io(Path::new("a temporary file")))?;
            }
            return Ok((Self { path: None, file, written: 0 }, Progressed::default()));
        };
        let progressed = if path.exists() { Self::last_checkpoint(path)? } else { Progressed::default() };
        let part = part_of(path);
        let mut file = BufWriter::new(File::create(&part).map_err(Error::io(&part))?);
        writeln!(file, "{}", to_json(binding)).map_err(Error::io(&part))?;
        let mut written = 0;
        if path.exists() {
            // Only what counts; the rest is asked for again.
            let old = File::open(path).map_err(Error::io(path))?;
            each_line(old, |line, json| {
                let Line::Finding(nth) = line else { return Ok(()) };
                if progressed.done.contains(nth) {
                    written += 1;
                    write_head(&mut file, line, json.limit())?;
                    io::copy(json, &mut file)?;
                    file.write_all(b"\n")?;
                }
                Ok(())
            })
            .map_err(Error::io(path))?;
        }
        let mut journal = Self { path: Some(path.to_owned()), file: Some(file), written };
        journal.checkpoint(&progressed)?;
        put_in_place(&part, path)?;
        Ok((journal, progressed))
    }

    /// What the file at `path` is a journal of; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no journal.
    pub fn binding_of(path: &Path) -> Result<Option<Binding>, Error> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io(path))?,
        };
        let mut line = Vec::new();
        io::Read::take(BufReader::new(file), 1 << 20).read_until(b'\n', &mut line).map_err(Error::io(path))?;
        let invalid = |_| Error::Backup {
            path: path.display().to_string(),
            reason: "it is not a file that --resume has written".to_owned(),
        };
        serde_json::from_slice(&line).map(Some).map_err(invalid)
    }

    fn last_checkpoint(path: &Path) -> Result<Progressed, Error> {
        let mut last = None;
        let file = File::open(path).map_err(Error::io(path))?;
        each_line(file, |line, json| {
            if line == Line::Checkpoint {
                let read = serde_json::from_reader(json).ok();
                last = read.or_else(|| last.take());
            }
            Ok(())
        })
        .map_err(Error::io(path))?;
        Ok(last.unwrap_or_default())
    }

    /// Writes a difference of the nth path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finding(&mut self, nth: u64, finding: &Finding) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.written >= REPORTED {
            return Ok(());
        }
        self.written += 1;
        // Twice: the length comes first, and a copy would be as long as the finding.
        let mut length = Counter(0);
        serde_json::to_writer(&mut length, finding)?;
        write_head(file, Line::Finding(nth), length.0)?;
        serde_json::to_writer(&mut *file, finding)?;
        file.write_all(b"\n")
    }

    /// Writes how far the comparison has come, if it is kept.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn checkpoint(&mut self, progressed: &Progressed) -> Result<(), Error> {
        let (Some(path), Some(file)) = (&self.path, &mut self.file) else { return Ok(()) };
        let json = to_json(progressed);
        let written = write_head(file, Line::Checkpoint, json.len() as u64);
        written.and_then(|()| writeln!(file, "{json}")).and_then(|()| file.flush()).map_err(Error::io(path))
    }

    /// Whether it is kept.
    pub fn is_kept(&self) -> bool {
        self.path.is_some()
    }

    /// Calls `found` with the JSON of each difference of the paths `done`.
    ///
    /// # Errors
    /// The file cannot be read, or `found` fails.
    pub fn each_finding(
        &mut self,
        done: &RoaringTreemap,
        mut found: impl FnMut(&mut Json) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush()?;
        let mut file = match &self.path {
            Some(path) => File::open(path)?,
            None => file.get_ref().try_clone()?,
        };
        file.rewind()?;
        each_line(file, |line, json| match line {
            Line::Finding(nth) if done.contains(nth) => found(json),
            _ => Ok(()),
        })
    }

    /// Removes the file: the comparison is done, and the next one is to ask again.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(self) -> Result<(), Error> {
        self.path.map_or(Ok(()), |path| fs::remove_file(&path).map_err(Error::io(&path)))
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it can be written as JSON")
}

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// A difference of the nth path.
    Finding(u64),
    Checkpoint,
}

/// The JSON of a line.
pub type Json = io::Take<BufReader<File>>;

/// Counts what is written.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what a line begins with, before so many bytes of JSON.
fn write_head(file: &mut impl Write, line: Line, length: u64) -> io::Result<()> {
    match line {
        Line::Finding(nth) => write!(file, "finding {nth} {length} "),
        Line::Checkpoint => write!(file, "checkpoint {length} "),
    }
}

/// Calls `found` with each whole line but the first, and its JSON, which it may leave unread.
fn each_line(file: File, mut found: impl FnMut(Line, &mut Json) -> io::Result<()>) -> io::Result<()> {
    let end = file.metadata()?.len();
    let mut lines = BufReader::new(file);
    let mut head = Vec::new();
    lines.read_until(b'\n', &mut head)?;
    loop {
        head.clear();
        // "finding", the number and the length, or "checkpoint" and the length.
        lines.read_until(b' ', &mut head)?;
        let is_finding = head == b"finding ";
        if !is_finding && head != b"checkpoint " {
            return Ok(());
        }
        let mut number = || {
            let mut digits = Vec::new();
            lines.read_until(b' ', &mut digits)?;
            let number = std::str::from_utf8(&digits).ok().and_then(|digits| digits.trim_end().parse::<u64>().ok());
            Ok::<_, io::Error>(number)
        };
        let nth = if is_finding { number()? } else { Some(0) };
        let (Some(nth), Some(length)) = (nth, number()?) else { return Ok(()) };
        if lines.stream_position()?.saturating_add(length) >= end {
            return Ok(());
        }
        let line = if is_finding { Line::Finding(nth) } else { Line::Checkpoint };
        let mut json = io::Read::take(lines, length);
        found(line, &mut json)?;
        io::copy(&mut json, &mut io::sink())?;
        lines = json.into_inner();
        head.clear();
        if lines.read_until(b'\n', &mut head)? != 1 {
            return Ok(());
        }
    }
}

/// A set of numbers in JSON.
mod bitmap {
    use base64::prelude::{BASE64_STANDARD, Engine};
    use roaring::RoaringTreemap;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn to_text(bitmap: &RoaringTreemap) -> String {
        let mut bytes = Vec::with_capacity(bitmap.serialized_size());
        bitmap.serialize_into(&mut bytes).expect("memory takes all of it");
        BASE64_STANDARD.encode(bytes)
    }

    pub(super) fn from_text<E: Error>(text: &str) -> Result<RoaringTreemap, E> {
        let bytes = BASE64_STANDARD.decode(text).map_err(E::custom)?;
        RoaringTreemap::deserialize_from(&*bytes).map_err(E::custom)
    }

    pub(super) fn serialize<S: Serializer>(bitmap: &RoaringTreemap, serializer: S) -> Result<S::Ok, S::Error> {
        to_text(bitmap).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoaringTreemap, D::Error> {
        from_text(&String::deserialize(deserializer)?)
    }
}

/// Three of them.
pub mod bitmaps {
    use roaring::RoaringTreemap;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::bitmap::{from_text, to_text};

    /// Writes them.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(bitmaps: &[RoaringTreemap; 3], serializer: S) -> Result<S::Ok, S::Error> {
        bitmaps.each_ref().map(to_text).serialize(serializer)
    }

    /// Reads them.
    ///
    /// # Errors
    /// They are not what [`serialize`] has written.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[RoaringTreemap; 3], D::Error> {
        let [first, second, third] = <[String; 3]>::deserialize(deserializer)?;
        Ok([from_text(&first)?, from_text(&second)?, from_text(&third)?])
    }
}
