//! Records that cannot be taken: what becomes of them, and how many there may be.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use roaring::RoaringTreemap;
use shared::model::{Collection, Records};

use crate::error::Error;
use crate::source::{Batch, Reject, input_error};

/// What becomes of records that cannot be taken.
///
/// Who goes on past them has to know of repeated ids at once, and so keeps the ids of all that were taken: 2 bits to
/// some bytes for each.
pub struct Rejects {
    /// The file that is read.
    input: PathBuf,
    /// `None` where the first ends the run.
    passed: Option<Passed>,
}

struct Passed {
    out: Box<dyn Write + Send>,
    limit: u64,
    count: u64,
    taken: [RoaringTreemap; Collection::ALL.len()],
}

impl Rejects {
    /// The first ends the run.
    pub fn refuse(input: &Path) -> Self {
        Self { input: input.to_owned(), passed: None }
    }

    /// They are passed over.
    pub fn pass_over(input: &Path) -> Self {
        Self::write(input, Box::new(io::sink()), u64::MAX)
    }

    /// Each is a line of JSON in `out`; one more than `limit` ends the run.
    pub fn write(input: &Path, out: Box<dyn Write + Send>, limit: u64) -> Self {
        Self { input: input.to_owned(), passed: Some(Passed { out, limit, count: 0, taken: Default::default() }) }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.passed.as_ref().map_or(0, |passed| passed.count)
    }

    /// The records of `batch` that can be taken.
    ///
    /// # Errors
    /// There are rejects where none, or not so many, may be.
    pub fn sift(&mut self, batch: &Batch) -> Result<Vec<Records>, Error> {
        self.sift_parsed(batch, batch.parse())
    }

    /// The same of a batch that is parsed already.
    pub fn sift_parsed(
        &mut self,
        batch: &Batch,
        (mut records, mut rejects): (Vec<Records>, Vec<Reject>),
    ) -> Result<Vec<Records>, Error> {
        let Some(passed) = &mut self.passed else {
            return match rejects.into_iter().next() {
                Some(reject) => Err(reject.into_error(&self.input)),
                None => Ok(records),
            };
        };
        let taken = &mut passed.taken[batch.collection as usize];
        for records in &mut records {
            records.retain(|record| {
                let fresh = taken.insert(record.id.get());
                if !fresh {
                    let reason = format!("the id {} is taken by an earlier record", record.id);
                    rejects.push(batch.reject(&record, reason));
                }
                fresh
            });
        }
        rejects.sort_by_key(|reject| reject.offset);
        for reject in rejects {
            passed.count += 1;
            let line = serde_json::to_string(&reject).expect("a reject can be written as JSON");
            writeln!(passed.out, "{line}").map_err(Error::io(Path::new("the file for --rejects")))?;
            if passed.count > passed.limit {
                let Reject { pointer, offset, reason, .. } = reject;
                let reason =
                    format!("{reason}; this is reject {}, and --max-rejects is {}", passed.count, passed.limit);
                return Err(input_error(&self.input, &pointer, offset, &reason));
            }
        }
        Ok(records)
    }

    /// Whether there are more than there may be.
    pub fn are_too_many(&self) -> bool {
        self.passed.as_ref().is_some_and(|passed| passed.count > passed.limit)
    }

    /// Writes all of them.
    pub fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.passed.as_mut().map_or(Ok(()), |passed| passed.out.flush());
        flushed.map_err(Error::io(Path::new("the file for --rejects")))
    }

    /// Writes all of them, and says how many there were.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.flush()?;
        Ok(self.count())
    }
}
