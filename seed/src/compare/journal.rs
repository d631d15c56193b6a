//! What an interrupted comparison goes on from, and the differences with their whole values.
//!
//! Lines: first what the comparison is, then, as they come, `finding NTH JSON`, a difference of the nth path, and
//! `checkpoint JSON`, what was found so far and of which paths. A finding counts once a checkpoint has its path. A line
//! that was cut by a crash is passed over.

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
            let file = if is_reported { Some(BufWriter::new(temporary()?)) } else { None };
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
            each_finding(old, &progressed.done, |nth, json| {
                written += 1;
                write_finding(&mut file, nth, |out| out.write_all(json))
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
        let mut lines = BufReader::new(File::open(path).map_err(Error::io(path))?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).map_err(Error::io(path))? > 0 {
            if let Some(json) = line.strip_prefix(b"checkpoint ").filter(|line| line.ends_with(b"\n")) {
                last = serde_json::from_slice(json).ok().or(last);
            }
            line.clear();
        }
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
        write_finding(file, nth, |out| {
            serde_json::to_writer(&mut *out, finding)?;
            out.write_all(b"\n")
        })
    }

    /// Writes how far the comparison has come, if it is kept.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn checkpoint(&mut self, progressed: &Progressed) -> Result<(), Error> {
        let (Some(path), Some(file)) = (&self.path, &mut self.file) else { return Ok(()) };
        let written = writeln!(file, "checkpoint {}", to_json(progressed)).and_then(|()| file.flush());
        written.map_err(Error::io(path))
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
        mut found: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush()?;
        let mut file = match &self.path {
            Some(path) => File::open(path)?,
            None => file.get_ref().try_clone()?,
        };
        file.rewind()?;
        each_finding(file, done, |_, json| found(json))
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

fn write_finding<W: Write>(file: &mut W, nth: u64, json: impl FnOnce(&mut W) -> io::Result<()>) -> io::Result<()> {
    write!(file, "finding {nth} ")?;
    json(file)
}

/// Calls `found` with the path's number and the JSON, with the line's end, of each difference of the paths `done`.
fn each_finding(
    file: File,
    done: &RoaringTreemap,
    mut found: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let finding = line.strip_prefix(b"finding ").filter(|line| line.ends_with(b"\n"));
        let parts = finding.and_then(|rest| {
            let (nth, json) = rest.split_at_checked(memchr::memchr(b' ', rest)?)?;
            Some((std::str::from_utf8(nth).ok()?.parse().ok()?, &json[1..]))
        });
        if let Some((nth, json)) = parts.filter(|(nth, _)| done.contains(*nth)) {
            found(nth, json)?;
        }
        line.clear();
    }
    Ok(())
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
