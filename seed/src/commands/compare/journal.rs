//! The saved progress of a comparison, and its differences with uncut values.
//!
//! The first line identifies the comparison. Then come `finding NTH JSON`, a difference of the nth path, and `checkpoint
//! JSON`, the results so far and their paths. A finding counts once a checkpoint has its path. A last line that a crash
//! has cut is ignored.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use record::declaration::Declaration;
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::tally::Tally;
use crate::error::Error;
use crate::part_file::PartFile;

/// The most differences that a report has with uncut values.
const REPORTED: u64 = 1000;

/// The identity of a comparison: progress is only continued if all fields are equal. It holds no secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The layout of the lines.
    pub version: u32,
    /// The monolith's URL.
    pub monolith: String,
    /// The services' URL.
    pub services: String,
    /// The collections.
    #[serde(default)]
    pub plan: Vec<Declaration>,
    /// The source of ids and digits.
    pub source: String,
    /// The size of the sample, if there is one.
    pub sample: Option<u64>,
    /// The seed of the sample.
    pub seed: u64,
    /// A digest of the paths.
    pub paths: String,
}

/// The results so far, and their paths.
#[derive(Default, Serialize, Deserialize)]
pub struct Progressed {
    /// The compared paths, by their number among all requested paths.
    pub done: RoaringTreemap,
    /// The results.
    pub tally: Tally,
}

/// The journal of a comparison.
pub struct Journal {
    /// The path of the file; a journal without one ends with the process.
    path: Option<PathBuf>,
    /// The file; `None` if no one will read it.
    file: Option<BufWriter<File>>,
    written: u64,
}

impl Journal {
    /// Opens the journal at `path`, and continues it if it exists. Without a path, uses an unnamed file for a report
    /// (`is_reported`), else none.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: Option<&Path>, binding: &Binding, is_reported: bool) -> Result<(Self, Progressed), Error> {
        let temporary = Path::new("a temporary file");
        let mut progressed = Progressed::default();
        let Some(path) = path else {
            let file = is_reported.then(tempfile::tempfile).transpose().map_err(Error::io(temporary))?;
            let mut journal = Self { path: None, file: file.map(BufWriter::new), written: 0 };
            journal.write("", binding).map_err(Error::io(temporary))?;
            return Ok((journal, progressed));
        };
        let part = PartFile::create(path)?;
        let mut journal = Self { path: Some(path.to_owned()), file: Some(part.writer()?), written: 0 };
        journal.write("", binding).map_err(Error::io(part.path()))?;
        if path.exists() {
            let open = || File::open(path).map_err(Error::io(path));
            each_line(open()?, |line| {
                let json = line.strip_prefix(b"checkpoint ");
                if let Some(checkpoint) = json.and_then(|json| serde_json::from_slice(json).ok()) {
                    progressed = checkpoint;
                }
                Ok(())
            })
            .map_err(Error::io(path))?;
            // Copies only the findings that count; other paths are asked for again.
            each_finding(open()?, &progressed.done, |nth, finding| journal.finding(nth, finding))
                .map_err(Error::io(path))?;
        }
        journal.checkpoint(&progressed)?;
        part.put_in_place()?;
        Ok((journal, progressed))
    }

    /// Returns the comparison that the journal at `path` is of; `None` if there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a journal.
    pub fn binding_of(path: &Path) -> Result<Option<Binding>, Error> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io(path))?,
        };
        let mut line = Vec::new();
        io::Read::take(BufReader::new(file), 1 << 20).read_until(b'\n', &mut line).map_err(Error::io(path))?;
        let invalid = |_| Error::Backup {
            path: path.display().to_string(),
            reason: "--resume did not write this file; name another".to_owned(),
        };
        serde_json::from_slice(&line).map(Some).map_err(invalid)
    }

    /// Writes a difference of the nth path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finding(&mut self, nth: u64, finding: &(impl Serialize + ?Sized)) -> io::Result<()> {
        if self.written >= REPORTED {
            return Ok(());
        }
        self.written += 1;
        self.write(&format!("finding {nth} "), finding)
    }

    /// Writes the progress, if the journal has a path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn checkpoint(&mut self, progressed: &Progressed) -> Result<(), Error> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        let flush = |journal: &mut Self| journal.file.as_mut().map_or(Ok(()), Write::flush);
        self.write("checkpoint ", progressed).and_then(|()| flush(self)).map_err(Error::io(&path))
    }

    fn write(&mut self, head: &str, json: &(impl Serialize + ?Sized)) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(head.as_bytes())?;
        serde_json::to_writer(&mut *file, json)?;
        file.write_all(b"\n")
    }

    /// Returns whether the journal has a path, so that it outlives the process.
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
        mut found: impl FnMut(&RawValue) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush()?;
        let mut file = match &self.path {
            Some(path) => File::open(path)?,
            None => file.get_ref().try_clone()?,
        };
        file.rewind()?;
        each_finding(file, done, |_, finding| found(finding))
    }

    /// Removes the file after a finished comparison, so that the next one begins again.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(self) -> Result<(), Error> {
        self.path.map_or(Ok(()), |path| fs::remove_file(&path).map_err(Error::io(&path)))
    }
}

/// Calls `found` with each difference of the paths `done`.
fn each_finding(
    file: File,
    done: &RoaringTreemap,
    mut found: impl FnMut(u64, &RawValue) -> io::Result<()>,
) -> io::Result<()> {
    each_line(file, |line| {
        let Some((nth, json)) = line.strip_prefix(b"finding ").and_then(split_number) else { return Ok(()) };
        if done.contains(nth) { found(nth, serde_json::from_slice(json)?) } else { Ok(()) }
    })
}

/// Splits a text into the number that begins it and the rest after a space.
fn split_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = text.split_at_checked(memchr::memchr(b' ', text)?)?;
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, &rest[1..]))
}

/// Calls `found` with each whole line.
fn each_line(file: File, mut found: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let (mut lines, mut line) = (BufReader::new(file), Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        found(&line)?;
        line.clear();
    }
    Ok(())
}
