//! An update: a newer file's changes to a database, made beside other writes, all of them or none.
//!
//! `seed` writes the changes into a file, [`Staged`], and has the database's committer do two things:
//!
//! 1. *hold*, before the run's commit point: check that every record is still as `seed` saw it. From then on nobody
//!    else changes it.
//! 2. *apply*, after it, group by group. Each group is in the journal before the database gets it, and no reader finds
//!    half of one ([`Store::read_whole`]).
//!
//! Before the commit point nothing is changed, so nothing needs undoing. After it, applying the same file again resumes
//! at the first missing group, whatever interrupted the last attempt: the database counts the applied groups, and the
//! count changes with the group itself.
//!
//! ```text
//! file    MAGIC, run: 8 bytes each, little-endian; groups; the last of them is empty
//! group   length, CRC-32C: 4 bytes each, little-endian; bincode of its edits, which ascend by id
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::thread;
use std::time::Duration;

use bincode::{Decode, Encode};
use record::id::Id;
use record::model::{Index, Record, Records, Term};
use record::reader::RECORD_BYTES;

use super::commit::{Committer, Held};
use super::layout::{self, Step};
use super::{Change, RecordChange, Store, StoreError, at};

const MAGIC: u64 = u64::from_le_bytes(*b"changes1");

/// The most pages of a database that a group touches. Its entry in the journal holds them all.
const GROUP_PAGES: usize = 64;

/// The bytes of records after which a group is complete.
const GROUP_BYTES: usize = 128 << 10;

/// The most bytes of a group: the longest record, its envelope, and the records before it.
const LONGEST: u32 = 2 * RECORD_BYTES as u32;

/// The most overtaken records that are named.
const NAMED: usize = 20;

/// The time between two looks at whether a group is whole.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// A change to one record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Edit {
    /// The id.
    pub id: u64,
    /// The revision as `seed` saw it; 0 if there was no record.
    pub seen: u64,
    /// The new text, or `None` to delete the record.
    pub becomes: Option<Text>,
}

/// The canonical text of a record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Text {
    /// Whether the id was given, and so does not stand in the text.
    pub given: bool,
    /// The text.
    pub json: String,
}

/// A writer of changes into a new file.
pub struct Staging {
    path: PathBuf,
    out: BufWriter<File>,
    group: Vec<Edit>,
    pages: usize,
    bytes: usize,
}

impl Staging {
    /// Begins the file at `path`; no other run has the number `run`.
    pub fn create(path: &Path, run: u64) -> Result<Self, StoreError> {
        let mut out = BufWriter::new(File::create_new(path).map_err(at(path))?);
        out.write_all([MAGIC, run].map(u64::to_le_bytes).as_flattened()).map_err(at(path))?;
        Ok(Self { path: path.to_owned(), out, group: Vec::new(), pages: 0, bytes: 0 })
    }

    /// Adds a change. Ids must ascend.
    pub fn put(&mut self, edit: Edit) -> Result<(), StoreError> {
        let page = |edit: &Edit| edit.id >> layout::PAGE_BITS;
        let is_on_new_page = self.group.last().is_none_or(|last| page(last) != page(&edit));
        if self.bytes >= GROUP_BYTES || self.pages == GROUP_PAGES && is_on_new_page {
            self.write_group()?;
        }
        self.pages += usize::from(is_on_new_page || self.group.is_empty());
        self.bytes += edit.becomes.as_ref().map_or(0, |text| text.json.len());
        self.group.push(edit);
        Ok(())
    }

    /// Ends the file. The caller makes it durable.
    pub fn finish(mut self) -> Result<(), StoreError> {
        if !self.group.is_empty() {
            self.write_group()?;
        }
        self.write_group()?;
        self.out.flush().map_err(at(&self.path))
    }

    fn write_group(&mut self) -> Result<(), StoreError> {
        let body = layout::encode(std::mem::take(&mut self.group));
        (self.pages, self.bytes) = (0, 0);
        let length = u32::try_from(body.len()).expect("a group is cut where it gets long");
        let head = [length, crc32c::crc32c(&body)].map(u32::to_le_bytes);
        let written = self.out.write_all(head.as_flattened()).and_then(|()| self.out.write_all(&body));
        written.map_err(at(&self.path))
    }
}

/// A reader of the changes in a file.
pub struct Staged {
    path: PathBuf,
    input: BufReader<File>,
    /// The number of the run that they belong to.
    pub run: u64,
}

impl Staged {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the file does not hold changes; reading on may fail so, too.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let input = BufReader::new(File::open(path).map_err(at(path))?);
        let mut staged = Self { path: path.to_owned(), input, run: 0 };
        let [magic, run] = [staged.read_bytes()?, staged.read_bytes()?].map(u64::from_le_bytes);
        staged.run = run;
        if magic == MAGIC { Ok(staged) } else { Err(staged.damaged()) }
    }

    /// Reads the next group; returns `None` after the last.
    pub fn next_group(&mut self) -> Result<Option<Vec<Edit>>, StoreError> {
        let [length, crc] = [self.read_bytes()?, self.read_bytes()?].map(u32::from_le_bytes);
        if length > LONGEST {
            return Err(self.damaged());
        }
        let mut body = vec![0; length as usize];
        self.input.read_exact(&mut body).map_err(|error| self.unreadable(error))?;
        let edits = Some(crc32c::crc32c(&body)).filter(|found| *found == crc);
        let edits = edits.and_then(|_| decode_group(&body)).ok_or_else(|| self.damaged())?;
        Ok((!edits.is_empty()).then_some(edits))
    }

    fn read_bytes<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| self.unreadable(error))?;
        Ok(bytes)
    }

    fn unreadable(&self, error: std::io::Error) -> StoreError {
        if error.kind() == ErrorKind::UnexpectedEof { self.damaged() } else { at(&self.path)(error) }
    }

    fn damaged(&self) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            what: "the staged changes of a newer file are damaged".to_owned(),
        }
    }
}

/// Decodes the edits of a group; returns `None` if they do not ascend or are damaged.
fn decode_group(body: &[u8]) -> Option<Vec<Edit>> {
    let config = bincode::config::standard().with_limit::<{ LONGEST as usize }>();
    let (edits, length): (Vec<Edit>, usize) = bincode::decode_from_slice(body, config).ok()?;
    let ascend = edits.is_sorted_by(|a, b| a.id < b.id) && edits.iter().all(|edit| Id::try_from(edit.id).is_ok());
    (length == body.len() && ascend).then_some(edits)
}

/// The outcome of an attempt to hold records.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Hold {
    /// The records are held. The database is at this revision.
    Held(u64),
    /// Others have changed some of the records since `seed` saw them: these are the first.
    Overtaken(Vec<u64>),
}

impl Committer {
    /// Holds records by ascending id, if each still has the revision `seed` saw and no other record has one of the
    /// `texts` as its id.
    pub(super) fn hold(&mut self, seen: &[(u64, u64)], texts: HashMap<Box<str>, u64>) -> Result<Hold, StoreError> {
        let mut overtaken = Vec::new();
        for (number, revision) in seen {
            let id = Id::try_from(*number).expect("staged ids are valid");
            let stored = self.store.get(id)?;
            if stored.map_or(0, |stored| stored.revision) != *revision && overtaken.len() < NAMED {
                overtaken.push(*number);
            }
        }
        for (text, number) in &texts {
            let holder = self.store.number_of(text)?.map(Id::get);
            if holder.is_some_and(|holder| holder != *number) && overtaken.len() < NAMED {
                overtaken.push(*number);
            }
        }
        if !overtaken.is_empty() {
            return Ok(Hold::Overtaken(overtaken));
        }
        // New records must not get these ids meanwhile.
        self.writer.give_no_id_up_to(seen.last().map_or(0, |(id, _)| *id));
        self.held = Some(Held { ids: seen.iter().map(|(id, _)| *id).collect(), texts, done: 0 });
        Ok(Hold::Held(self.writer.counters().revision))
    }

    /// Releases all held records.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// Applies group `nth`, from 0, of a run, unless that is done already. Returns when the group is as durable as any
    /// write and was read back.
    pub(super) fn apply_group(&mut self, run: u64, nth: u64, edits: &[Edit]) -> Result<(), StoreError> {
        let applied = self.store.applied()?;
        if applied.run != run || applied.groups <= nth {
            self.make_group(&Applied { run, groups: nth + 1 }, edits)?;
        }
        if let (Some(held), Some(last)) = (&mut self.held, edits.last()) {
            held.done = last.id;
        }
        Ok(())
    }

    fn make_group(&mut self, applied: &Applied, edits: &[Edit]) -> Result<(), StoreError> {
        let records = self.store.read_edits(edits)?;
        let mut records = records.iter();
        let (mut changes, mut to_follow) = (Vec::new(), Vec::new());
        for edit in edits {
            let revision = self.writer.next_revision();
            if let Some(record) = edit.becomes.as_ref().and_then(|_| records.next()) {
                to_follow.push(RecordChange::new(revision, record.id, record.json().into(), false));
                changes.push(Change::Put(record, revision));
                continue;
            }
            let id = Id::try_from(edit.id).expect("staged ids are valid");
            if let Some(last) = self.store.get(id)? {
                let last = String::from_utf8_lossy(last.json()).into();
                to_follow.push(RecordChange::new(revision, id, last, true));
            }
            changes.push(Change::Remove(id));
        }
        let stood = self.store.places(edits)?;
        let mut step = Step::default();
        step.put(layout::APPLIED_KEY, &layout::encode(applied));
        self.writer.step(&changes, &mut step)?;
        let changed = self.append(&step, to_follow)?;
        fail_point!("before the step");
        {
            let _closed = self.store.close_gate();
            self.do_step(&step)?;
            self.writer.note_fresh();
        }
        self.store.shared.changes.add(changed);
        if self.store.holds(&changes, stood)? {
            return Ok(());
        }
        Err(self.store.corrupt("a newer file's changes were not read back as they were written"))
    }
}

/// The part of a run that a database has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Applied {
    run: u64,
    groups: u64,
}

/// The index entries of records.
type Places = Vec<(Index, Term, Id)>;

impl Store {
    fn applied(&self) -> Result<Applied, StoreError> {
        Ok(self.decoded(layout::APPLIED_KEY)?.unwrap_or_default())
    }

    /// Returns the text ids of the records that `edits` put, with their numbers; nothing if ids are not texts.
    pub fn id_texts(&self, edits: &[Edit]) -> Result<Vec<(Box<str>, u64)>, StoreError> {
        if !self.collection().has_text_ids() {
            return Ok(Vec::new());
        }
        let records = self.read_edits(edits)?;
        let text = |record: Record| Some((record.id_text()?.into(), record.id.get()));
        Ok(records.iter().filter_map(text).collect())
    }

    /// Parses the records that `edits` put.
    fn read_edits(&self, edits: &[Edit]) -> Result<Records, StoreError> {
        let mut records = Records::new(self.made_by(), 0);
        for Edit { id, becomes, .. } in edits {
            let Some(Text { given, json }) = becomes else { continue };
            let id = Id::try_from(*id).expect("staged ids are valid");
            let read = records.push_lying(json, id, *given);
            let is_so =
                records.iter().last().is_some_and(|record| record.id == id && record.id_from_position == *given);
            if read.is_err() || !is_so {
                return Err(self.corrupt(&format!("a newer file's record {id} does not fit its model")));
            }
        }
        Ok(records)
    }

    /// Returns the index entries of the records that `edits` will change.
    fn places(&self, edits: &[Edit]) -> Result<Places, StoreError> {
        let mut places = Places::new();
        for id in edits.iter().filter_map(|edit| Id::try_from(edit.id).ok()) {
            if let Some(stored) = self.get(id)? {
                let terms = self.terms_of(id, stored.json())?;
                places.extend(terms.into_iter().map(|(index, term)| (index, term, id)));
            }
        }
        Ok(places)
    }

    /// Checks that the database holds `changes`, in its records and its indexes; `stood` has their index entries from
    /// before.
    fn holds(&self, changes: &[Change], stood: Places) -> Result<bool, StoreError> {
        let stands = |record: &Record, index, term: &Term| record.terms.iter().any(|t| *t == (index, term.clone()));
        let mut records = Vec::new();
        for change in changes {
            let stored = self.get(change.id())?;
            let Change::Put(record, revision) = change else {
                if stored.is_some() {
                    return Ok(false);
                }
                continue;
            };
            let is_so = stored.is_some_and(|stored| {
                stored.revision == *revision
                    && stored.id_from_position == record.id_from_position
                    && stored.json() == record.json().as_bytes()
            });
            if !is_so {
                return Ok(false);
            }
            for (index, term) in record.terms.iter() {
                if !self.lists(*index, term, record.id)? {
                    return Ok(false);
                }
            }
            records.push(record);
        }
        for (index, term, id) in stood {
            let record = records.binary_search_by_key(&id, |record| record.id).ok().map(|nth| records[nth]);
            if record.is_none_or(|record| !stands(record, index, &term)) && self.lists(index, &term, id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads data that an update may change. Calls `read` again if a group was applied meanwhile, so the result is from
    /// before the group or from after it.
    pub fn read_whole<T>(&self, read: impl Fn() -> T) -> T {
        let gate = &self.shared.gate.0;
        loop {
            let before = gate.load(Ordering::Acquire);
            if before % 2 == 1 {
                thread::sleep(LOOK_AGAIN);
                continue;
            }
            let found = read();
            fence(Ordering::Acquire);
            if gate.load(Ordering::Relaxed) == before {
                return found;
            }
        }
    }

    /// Closes the gate until the result is dropped: [`read_whole`](Self::read_whole) finds all that is written
    /// meanwhile, or nothing of it.
    pub(super) fn close_gate(&self) -> impl Drop + use<> {
        struct Closed(Store);
        impl Drop for Closed {
            fn drop(&mut self) {
                self.0.shared.gate.0.fetch_add(1, Ordering::AcqRel);
            }
        }
        self.shared.gate.0.fetch_add(1, Ordering::AcqRel);
        Closed(self.clone())
    }
}

/// A counter that is even unless a group of an update is being applied.
#[derive(Default)]
pub(super) struct Gate(AtomicU64);
