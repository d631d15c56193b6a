//! Rejects: records that do not fit or have another's id. They end the run, or are put aside up to a limit.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use record::declaration::read_id_text;
use record::id::Id;
use record::model::{Collection, Records};
use record::reader::Scan;
use roaring::RoaringTreemap;

use crate::error::Error;
use crate::near::Content;
use crate::node;
use crate::obstacle::Kind;
use crate::source::{Batch, Reject, input_error};
use crate::text::{id_in, member_of, name_of};

/// The handling of rejected records.
///
/// Going on past rejects requires detecting repeated ids at once, so this keeps the ids of all accepted records: 2 bits
/// to some bytes each.
pub struct Rejects {
    /// The file that is read.
    input: PathBuf,
    /// The rejects passed over; `None` if the first ends the run.
    passed: Option<Passed>,
    /// The records that were read as Node reads them.
    as_node: AsNode,
    /// Whether ids from positions are provisional.
    own_ids_alone: bool,
    /// The rejects of the last batch.
    last: Vec<Reject>,
}

/// The recognizable parts of a rejected record.
#[derive(Debug)]
pub struct Rejected {
    /// Its place in its array, from 1.
    pub position: u64,
    /// Its id, if it is recognizable.
    pub id: Option<u64>,
    /// The [name](name_of) of its text id, if it is recognizable.
    pub name: Option<u128>,
    /// Its content, if it is recognizable.
    pub content: Option<Content>,
}

impl Rejected {
    /// Reads the recognizable parts of `reject`.
    pub fn of(reject: &Reject) -> Self {
        let text = node::read(&reject.raw).filter(|text| text.starts_with('{'));
        let value = text.as_deref().and_then(|text| member_of(text, "\"id\""));
        let id = match &text {
            Some(_) => value.and_then(|value| value.parse::<Id>().ok()).map(Id::get),
            None => id_of(&reject.raw),
        };
        let name = match &text {
            Some(_) => value.and_then(read_id_text),
            None => id_text_of(&reject.raw),
        };
        let (name, content) = (name.map(|name| name_of(&name)), text.as_deref().map(Content::of));
        Self { position: reject.position, id, name, content }
    }
}

/// The records that were read as Node reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsNode {
    /// The number of records.
    pub count: u64,
    /// The JSON pointers of the first.
    pub named: Vec<String>,
}

/// The number of such records that are named.
const NAMED: usize = 20;

struct Passed {
    out: Box<dyn Write + Send>,
    limit: u64,
    count: u64,
    taken: BTreeMap<Collection, Taken>,
}

/// The ids of accepted records.
#[derive(Default)]
struct Taken {
    numbers: RoaringTreemap,
    /// The names of text ids.
    names: HashSet<u128>,
}

impl Rejects {
    /// Ends the run at the first reject.
    pub fn refuse(input: &Path) -> Self {
        Self {
            input: input.to_owned(),
            passed: None,
            as_node: AsNode::default(),
            own_ids_alone: false,
            last: Vec::new(),
        }
    }

    /// Passes over all rejects.
    pub fn pass_over(input: &Path) -> Self {
        Self::write(input, Box::new(io::sink()), u64::MAX)
    }

    /// Writes each reject as a line of JSON to `out`; one more than `limit` ends the run.
    pub fn write(input: &Path, out: Box<dyn Write + Send>, limit: u64) -> Self {
        let passed = Passed { out, limit, count: 0, taken: BTreeMap::new() };
        Self {
            input: input.to_owned(),
            passed: Some(passed),
            as_node: AsNode::default(),
            own_ids_alone: false,
            last: Vec::new(),
        }
    }

    /// Ignores ids from positions in the search for repeated ids: these records will get other ids.
    pub fn of_own_ids_alone(mut self) -> Self {
        self.own_ids_alone = true;
        self
    }

    /// Takes the rejects of the last batch.
    pub fn last(&mut self) -> Vec<Reject> {
        std::mem::take(&mut self.last)
    }

    /// Counts the rejects passed over.
    pub fn count(&self) -> u64 {
        self.passed.as_ref().map_or(0, |passed| passed.count)
    }

    /// Parses `batch`, and returns the accepted records.
    ///
    /// # Errors
    /// A reject ends the run, or rejects exceed their limit.
    pub fn sift(&mut self, batch: &Batch) -> Result<Vec<Records>, Error> {
        self.sift_parsed(batch, batch.parse())
    }

    /// Returns the accepted records of a batch that is parsed already.
    pub fn sift_parsed(
        &mut self,
        batch: &Batch,
        (mut records, mut rejects): (Vec<Records>, Vec<Reject>),
    ) -> Result<Vec<Records>, Error> {
        let as_node = batch.taken_as_node();
        self.as_node.count += as_node.len() as u64;
        let room = NAMED.saturating_sub(self.as_node.named.len());
        self.as_node.named.extend(as_node.into_iter().take(room));
        let Some(passed) = &mut self.passed else {
            return match rejects.into_iter().next() {
                Some(reject) => Err(reject.into_error(&self.input)),
                None => Ok(records),
            };
        };
        let (taken, own_ids_alone) = (passed.taken.entry(batch.collection).or_default(), self.own_ids_alone);
        for records in &mut records {
            records.retain(|record| {
                let fresh = own_ids_alone && record.id_from_position
                    || match record.id_text() {
                        Some(text) => taken.names.insert(name_of(text)),
                        None => taken.numbers.insert(record.id.get()),
                    };
                if !fresh {
                    let id = id_in(batch.collection, record.id, &record.json());
                    let reason = format!("the id {id} is taken by an earlier record");
                    rejects.push(batch.reject(&record, reason));
                }
                fresh
            });
        }
        rejects.sort_by_key(|reject| reject.offset);
        for reject in &rejects {
            passed.count += 1;
            let line = serde_json::to_string(reject).expect("a reject can be written as JSON");
            writeln!(passed.out, "{line}").map_err(Error::io(Path::new("the file for --rejects")))?;
            if passed.count > passed.limit {
                let Reject { pointer, offset, reason, .. } = reject;
                let reason =
                    format!("{reason}; this is reject {}, and --max-rejects is {}", passed.count, passed.limit);
                return Err(input_error(&self.input, Kind::Reject, pointer, *offset, &reason));
            }
        }
        self.last = rejects;
        Ok(records)
    }

    /// Tells whether the rejects exceed their limit.
    pub fn are_too_many(&self) -> bool {
        self.passed.as_ref().is_some_and(|passed| passed.count > passed.limit)
    }

    /// Flushes the file for rejects.
    pub fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.passed.as_mut().map_or(Ok(()), |passed| passed.out.flush());
        flushed.map_err(Error::io(Path::new("the file for --rejects")))
    }

    /// Flushes the file for rejects; returns their number, and the records that were read as Node reads them.
    pub fn finish(mut self) -> Result<(u64, AsNode), Error> {
        self.flush()?;
        Ok((self.count(), self.as_node))
    }
}

/// Returns the text after the first `"id":` of a rejected record.
fn behind_id(raw: &[u8]) -> Option<&[u8]> {
    let at = memchr::memmem::find(raw, b"\"id\"")? + 4;
    Some(raw[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

/// Returns a rejected record's text id, if it is recognizable.
fn id_text_of(raw: &[u8]) -> Option<Cow<'_, str>> {
    let rest = behind_id(raw)?;
    read_id_text(std::str::from_utf8(&rest[..Scan::default().end_in(rest)?]).ok()?)
}

/// Returns a rejected record's integer id, if it is recognizable.
fn id_of(raw: &[u8]) -> Option<u64> {
    let rest = behind_id(raw)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let id: Id = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    Some(id.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_reject_is_recognized() {
        for (raw, id) in [
            (&br#"{"id":7,"username":5}"#[..], Some(7)),
            (b"{\"username\":\"\xff\", \"id\" : 12 }", Some(12)),
            (br#"{"id":"7"}"#, None),
            (br#"{"id":0}"#, None),
            (br#"{"name":"id"}"#, None),
            (b"7", None),
            (b"{\"id\"", None),
        ] {
            assert_eq!(id_of(raw), id, "{}", String::from_utf8_lossy(raw));
        }
    }
}
