//! A backup of one collection: lines of JSON that any program can read, and that can be verified.
//!
//! ```text
//! {"backup":1,"collection":"posts","declaration":{…},"history":"…","revision":812,"last_id":21,"records":21,"digest":"…"}
//! {"revision":1,"id_from_position":true,"record":{"id":1,…}}        each record, by ascending id
//! {"revision":1,"number":1,"record":{"id":"a",…}}                   a record whose id is a text, by ascending number
//! {"kept":"ci/key","request":"…","revision":812,"until":1790000000,"answer":{"id":21,…}}
//! {"kept":"ci/all","request":"…","revision":814,"number":23,"until":1790000000,"answer":"{\"id\":22,…}\n{\"id\":23,…}\n"}
//! {"end":true,"ids":[[1,20],[22,22]],"sha256":"…"}
//! ```
//!
//! The first line gives the state of the database at one revision, as its service counts it: the number of records, and
//! their [`RecordSet`]'s digest. A reader of all records must arrive at the same; if the last line is missing, the
//! backup is incomplete. `sha256` is that of all lines before the last. `history` differs between databases that began
//! apart.
//!
//! An increment has `"since"` in its first line, and only the records that were written after that revision. `ids`, the
//! ranges of all existing ids, shows which records of the previous backup are gone.

use std::io::BufRead;

use bytes::{BufMut, Bytes, BytesMut};
use record::declaration::Declaration;
use record::id::Id;
use record::model::{Collection, Records};
use record::reader::RECORD_BYTES;
use record::record_set::RecordSet;
use record::words::agree;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{KeptRecord, Position, Snapshot, SnapshotRecord, Store, StoreError};

/// The version of the format.
const VERSION: u32 = 1;

/// The bytes of a chunk after which it is sent.
const CHUNK: usize = 64 << 10;

/// The most bytes of a line.
const LINE_BYTES: u64 = 2 * RECORD_BYTES as u64;

/// The first line of a section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    backup: u32,
    /// The name of the collection.
    pub collection: String,
    /// The collection's declaration; absent in a backup of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declaration: Option<Declaration>,
    /// The database's history, in hexadecimal: it differs between databases that began apart.
    pub history: String,
    /// The revision of the database.
    pub revision: u64,
    /// If present, only records written after this revision follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The highest id that a record had by then.
    pub last_id: u64,
    /// The number of records in the database.
    pub records: u64,
    /// The digest of the records' [`RecordSet`].
    pub digest: String,
    /// How far the replica had followed its stream. Only a backup with all kept answers can become a replica, and not one of
    /// a replica that is apart from the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The declaration that its stream is decided by, if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ruled: Option<Declaration>,
}

impl Head {
    /// Notes in `store`, which was made from this backup by `declared`, how far it has followed its stream, and by which
    /// declaration. Returns whether the backup says it.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn note_position(&self, store: &Store, declared: Collection) -> Result<bool, StoreError> {
        let Some(position) = &self.position else { return Ok(false) };
        store.put_position(position)?;
        store.put_ruled(self.ruled.as_ref().unwrap_or(declared.declaration()))?;
        Ok(true)
    }

    /// Returns whether `set` is the database's set of records.
    pub fn is_of(&self, set: &RecordSet) -> bool {
        set.count == self.records && set.to_string() == self.digest
    }
}

/// The backup that an increment continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// The history of that backup.
    pub history: String,
    /// The revision of that backup.
    pub revision: u64,
}

/// Any other line.
#[derive(Default, Serialize, Deserialize)]
struct Line<'l> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// The record's number, if its id is a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    id_from_position: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    record: Option<&'l RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    answer: Option<&'l RawValue>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    end: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<(u64, u64)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// The part of a kept answer that is read.
#[derive(Deserialize)]
struct Named {
    id: Id,
}

/// An iterator over a backup's bytes, in chunks, from a snapshot. It ends after an error, damage included.
pub struct Chunks {
    snapshot: Snapshot,
    since: Option<u64>,
    /// The first line, until it is written.
    head: Option<Head>,
    /// Whether kept answers are included.
    with_kept: bool,
    ids: Vec<(u64, u64)>,
    hash: Sha256,
    done: bool,
}

impl Chunks {
    /// Begins a backup of `snapshot`; an increment if `since` belongs to the same history. Includes the answers kept
    /// under idempotency keys if `with_kept`.
    pub fn new(snapshot: Snapshot, since: Option<&Since>, with_kept: bool) -> Self {
        let history = format!("{:016x}", snapshot.store().history());
        let since = since.filter(|since| since.history == history && since.revision <= snapshot.revision());
        let since = since.map(|since| since.revision);
        // No replica begins with the records of one that is apart.
        let is_apart = !matches!(snapshot.store().apart(), Ok(None));
        let position = snapshot.position().filter(|_| with_kept && !is_apart).cloned();
        let declaration = snapshot.store().made_by().declaration();
        let ruled = snapshot.store().ruled().ok().flatten();
        let head = Head {
            backup: VERSION,
            collection: snapshot.store().collection().name().to_owned(),
            declaration: Some(declaration.clone()),
            history,
            revision: snapshot.revision(),
            since,
            last_id: snapshot.last_id(),
            records: snapshot.set().count,
            digest: snapshot.set().to_string(),
            ruled: ruled.filter(|ruled| position.is_some() && ruled != declaration),
            position,
        };
        Self { snapshot, since, head: Some(head), with_kept, ids: Vec::new(), hash: Sha256::new(), done: false }
    }

    fn put_record(&mut self, out: &mut BytesMut, record: &SnapshotRecord) -> Result<(), StoreError> {
        let id = record.id.get();
        match self.ids.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => self.ids.push((id, id)),
        }
        if self.since.is_some_and(|since| record.revision <= since) {
            return Ok(());
        }
        out.put_slice(b"{\"revision\":");
        out.put_slice(record.revision.to_string().as_bytes());
        if self.snapshot.store().collection().has_text_ids() {
            out.put_slice(format!(",\"number\":{id}").as_bytes());
        }
        out.put_slice(if record.id_from_position {
            b",\"id_from_position\":true,\"record\":"
        } else {
            b",\"record\":"
        });
        out.put_slice(&record.json);
        out.put_slice(b"}\n");
        Ok(())
    }

    fn put_rest(&mut self, out: &mut BytesMut) -> Result<(), StoreError> {
        if self.with_kept {
            for kept in self.snapshot.kept() {
                let (key, kept) = kept?;
                let is_lines = kept.json.ends_with('\n');
                let json = if is_lines { serde_json::to_string(&kept.json) } else { Ok(kept.json) };
                let answer = json.and_then(RawValue::from_string).expect("an answer is a record, or lines");
                let line = Line {
                    kept: Some(key),
                    request: Some(hex::encode(kept.request)),
                    revision: Some(kept.revision),
                    number: (is_lines || self.snapshot.store().collection().has_text_ids()).then_some(kept.id),
                    until: Some(kept.until),
                    answer: Some(&answer),
                    ..Line::default()
                };
                put_line(out, &line);
            }
        }
        self.hash.update(&out[..]);
        let sha256 = hex::encode(std::mem::take(&mut self.hash).finalize());
        let ids = std::mem::take(&mut self.ids);
        put_line(out, &Line { end: true, ids: Some(ids), sha256: Some(sha256), ..Line::default() });
        Ok(())
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK + (CHUNK >> 3));
        if let Some(head) = self.head.take() {
            put_line(&mut out, &head);
        }
        while out.len() < CHUNK {
            let put = match self.snapshot.next() {
                Some(Ok(record)) => self.put_record(&mut out, &record),
                Some(Err(error)) => Err(error),
                None => {
                    self.done = true;
                    self.put_rest(&mut out)
                }
            };
            if let Err(error) = put {
                self.done = true;
                return Some(Err(error));
            }
            if self.done {
                return Some(Ok(out.freeze()));
            }
        }
        self.hash.update(&out[..]);
        Some(Ok(out.freeze()))
    }
}

fn put_line(out: &mut BytesMut, line: &impl Serialize) {
    serde_json::to_writer(out.writer(), line).expect("memory takes every line");
    out.put_u8(b'\n');
}

/// The reason why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A line is invalid.
    #[error("line {line}: {reason}")]
    Line {
        /// The number of the line in its section, from 1.
        line: u64,
        /// The fault.
        reason: String,
    },
    /// The backup ends before its last line.
    #[error("its last line is missing: it was cut short")]
    Short,
    /// All lines are there, but the records differ from the set in the first line.
    #[error("its records are not those that its first line counts: {read} {} with digest {digest} {} read, of {}", agree(*.read, "record", "records"), agree(*.read, "was", "were"), .head.records)]
    Different {
        /// The number of records read.
        read: u64,
        /// Their digest.
        digest: String,
        /// The first line.
        head: Box<Head>,
    },
    /// The backup could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A reader of a backup's section: an iterator over its records, in id order. [`finish`](Self::finish) returns the
/// rest.
pub struct Section<R> {
    input: R,
    collection: Collection,
    head: Head,
    line: u64,
    text: Vec<u8>,
    hash: Sha256,
    last: Option<Id>,
    rest: Option<Rest>,
}

/// The part of a section behind its records.
#[derive(Debug, Default)]
pub struct Rest {
    /// The kept answers, with their idempotency keys.
    pub kept: Vec<(String, KeptRecord)>,
    /// The ranges of all existing ids.
    pub ids: Vec<(u64, u64)>,
}

impl Rest {
    /// Returns whether record `id` exists.
    pub fn has(&self, id: Id) -> bool {
        let nth = self.ids.partition_point(|(_, last)| *last < id.get());
        self.ids.get(nth).is_some_and(|(first, _)| *first <= id.get())
    }
}

impl<R: BufRead> Section<R> {
    /// Begins to read a section; returns `None` at the end of the input. `known` has the collections for sections
    /// without a declaration.
    pub fn open(mut input: R, known: &[Collection]) -> Result<Option<Self>, BackupError> {
        let mut text = Vec::new();
        read_line(&mut input, &mut text, 1)?;
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = |reason| BackupError::Line { line: 1, reason };
        let head: Head = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("this is not the first line of a backup: {error}")))?;
        if head.backup != VERSION {
            return Err(wrong(format!("this program cannot read version {} of backups", head.backup)));
        }
        let collection = match &head.declaration {
            Some(declaration) => {
                declaration.check().map_err(|error| wrong(format!("its declaration is wrong: {error}")))?;
                Some(Collection::of(declaration.clone()))
            }
            None => known.iter().copied().find(|collection| collection.name() == head.collection),
        };
        let collection = collection.filter(|collection| collection.name() == head.collection);
        let collection = collection.ok_or_else(|| wrong(format!("no service has {:?}", head.collection)))?;
        let hash = Sha256::new_with_prefix(&text);
        Ok(Some(Self { input, collection, head, line: 1, text, hash, last: None, rest: None }))
    }

    /// Returns the first line.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns the collection.
    pub fn collection(&self) -> Collection {
        self.collection
    }

    /// Reads the remaining records; returns what follows them, and the input behind the section.
    pub fn finish(mut self) -> Result<(Rest, R), BackupError> {
        self.by_ref().try_for_each(|record| record.map(drop))?;
        Ok((self.rest.ok_or(BackupError::Short)?, self.input))
    }

    /// Reads the next record; returns `None` behind the last.
    fn read(&mut self) -> Result<Option<SnapshotRecord>, BackupError> {
        let mut rest = Rest::default();
        loop {
            self.line += 1;
            self.text.clear();
            read_line(&mut self.input, &mut self.text, self.line)?;
            if self.text.is_empty() {
                return Err(BackupError::Short);
            }
            let hash = self.hash.clone();
            self.hash.update(&self.text);
            let number = self.line;
            let wrong = |reason: &str| BackupError::Line { line: number, reason: reason.to_owned() };
            let line: Line = serde_json::from_slice(&self.text).map_err(|error| wrong(&error.to_string()))?;
            if let (Some(record), Some(revision)) = (line.record, line.revision) {
                let mut read = Records::new(self.collection, record.get().len());
                let number = line.number.unwrap_or(Id::FIRST);
                read.push_lying(record.get(), number, false)
                    .map_err(|fault| wrong(&format!("{}: {}", fault.pointer, fault.reason)))?;
                let record = read.iter().next().ok_or_else(|| wrong("it holds no record"))?;
                if self.last.is_some_and(|last| last >= record.id) {
                    return Err(wrong("its id is not higher than the one before it"));
                }
                self.last = Some(record.id);
                let (id, id_from_position) = (record.id, line.id_from_position);
                let json = record.source.as_bytes().into();
                return Ok(Some(SnapshotRecord { id, revision, id_from_position, json }));
            }
            if let (Some(key), Some(answer), Some(revision), Some(until)) =
                (line.kept, line.answer, line.revision, line.until)
            {
                let request = line
                    .request
                    .as_deref()
                    .and_then(read_digest)
                    .ok_or_else(|| wrong("its request is not a digest"))?;
                let id = match line.number {
                    Some(number) => number,
                    None => {
                        let named: Result<Named, _> = serde_json::from_str(answer.get());
                        named.map_err(|error| wrong(&error.to_string()))?.id
                    }
                };
                let lines = serde_json::from_str(answer.get());
                let json = lines.unwrap_or_else(|_| answer.get().to_owned());
                rest.kept.push((key, KeptRecord { request, id, revision, json, until }));
            } else if line.end {
                rest.ids = line.ids.ok_or_else(|| wrong("its ids are missing"))?;
                if line.sha256 != Some(hex::encode(hash.finalize())) {
                    return Err(wrong("its sha256 does not match the lines before it"));
                }
                self.rest = Some(rest);
                return Ok(None);
            } else {
                return Err(wrong("it is not a line of a backup"));
            }
        }
    }
}

impl<R: BufRead> Iterator for Section<R> {
    type Item = Result<SnapshotRecord, BackupError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_some() { None } else { self.read().transpose() }
    }
}

fn read_line(input: &mut impl BufRead, text: &mut Vec<u8>, line: u64) -> Result<(), BackupError> {
    std::io::Read::take(input, LINE_BYTES).read_until(b'\n', text)?;
    match text.last() {
        None | Some(b'\n') => Ok(()),
        Some(_) if text.len() as u64 == LINE_BYTES => {
            Err(BackupError::Line { line, reason: format!("it is longer than {} MiB", LINE_BYTES >> 20) })
        }
        Some(_) => Err(BackupError::Short),
    }
}

/// Reads 32 bytes in hexadecimal.
fn read_digest(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use record::sample;

    use super::*;
    use crate::{Change, Load, Store, Writer};

    fn id(number: u64) -> Id {
        number.try_into().unwrap()
    }

    fn json(number: u64, text: &str) -> String {
        format!(r#"{{"id":{number},"thread":1,"text":"{text}","user":1}}"#)
    }

    /// Creates a store of three posts and lets a service change one, remove one, add one, and keep an answer.
    fn store(dir: &std::path::Path) -> Store {
        let mut records = Records::new(sample::posts(), 0);
        for number in 1..=3 {
            records.push(r#"{"thread":1,"text":"a","user":1}"#, Some(id(number))).unwrap();
        }
        let mut load = Load::new(Store::create(&dir.join("db"), sample::posts()).unwrap());
        load.put([&records], &RecordSet::of(records.iter())).unwrap();
        let store = load.finish().unwrap();
        let mut writer = Writer::new(&store).unwrap();
        let mut changed = Records::new(sample::posts(), 0);
        changed.push(&json(2, "changed"), None).unwrap();
        changed.push(&json(4, "new"), None).unwrap();
        let mut changes = vec![Change::Remove(id(3))];
        changes.extend(changed.iter().map(|record| Change::Put(record, writer.next_revision())));
        writer.apply(&changes).unwrap();
        store.keep("ci/1", &KeptRecord { until: 9, ..KeptRecord::new(0, [7; 32], id(4), 3, json(4, "new")) }).unwrap();
        store
    }

    fn text(store: &Store, since: Option<&Since>) -> String {
        let chunks = Chunks::new(Snapshot::of(store).unwrap(), since, true);
        let bytes: Vec<u8> = chunks.flat_map(|chunk| chunk.unwrap()).collect();
        String::from_utf8(bytes).unwrap()
    }

    fn read(text: &str) -> Result<(Vec<SnapshotRecord>, Rest), BackupError> {
        let mut section = Section::open(text.as_bytes(), &[])?.unwrap();
        let records = section.by_ref().collect::<Result<Vec<_>, _>>()?;
        Ok((records, section.finish()?.0))
    }

    #[test]
    fn a_backup_is_lines_of_json_that_can_be_verified() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let text = text(&store, None);
        let lines: Vec<&str> = text.lines().collect();
        let head: Head = serde_json::from_str(lines[0]).unwrap();
        assert_eq!((head.records, head.revision, head.last_id, head.since), (3, 3, 4, None));
        let sha256 = hex::encode(Sha256::digest(&text[..text.rfind("{\"end\"").unwrap()]));
        assert_eq!(
            lines[1..],
            [
                r#"{"revision":1,"id_from_position":true,"record":{"id":1,"thread":1,"text":"a","user":1}}"#,
                &format!(r#"{{"revision":2,"record":{}}}"#, json(2, "changed")),
                &format!(r#"{{"revision":3,"record":{}}}"#, json(4, "new")),
                &format!(
                    r#"{{"kept":"ci/1","request":"{}","revision":3,"until":9,"answer":{}}}"#,
                    "07".repeat(32),
                    json(4, "new")
                ),
                &format!(r#"{{"end":true,"ids":[[1,2],[4,4]],"sha256":"{sha256}"}}"#),
            ]
        );
        let (records, rest) = read(&text).unwrap();
        let mut set = RecordSet::default();
        records.iter().for_each(|record| set.add_record(record.id, record.id_from_position, &record.json));
        assert!(head.is_of(&set));
        assert_eq!((rest.kept.len(), rest.kept[0].1.id, rest.ids), (1, id(4), vec![(1, 2), (4, 4)]));
    }

    #[test]
    fn an_answer_of_lines_is_kept_as_a_text() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        // A single line is JSON too.
        for (key, answer) in [("ci/2", "{\"id\":4}\n"), ("ci/3", "{\"id\":2}\n{\"id\":4}\n")] {
            let kept = KeptRecord { until: 9, ..KeptRecord::new(0, [8; 32], id(4), 3, answer.to_owned()) };
            store.keep(key, &kept).unwrap();
            let (_, rest) = read(&text(&store, None)).unwrap();
            assert!(rest.kept.contains(&(key.to_owned(), kept)), "{:?}", rest.kept);
        }
    }

    #[test]
    fn an_increment_has_later_records_and_all_ids() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let history = format!("{:016x}", store.history());
        let since = Since { history: history.clone(), revision: 2 };
        let (records, rest) = read(&text(&store, Some(&since))).unwrap();
        assert_eq!(records.iter().map(|record| record.id.get()).collect::<Vec<_>>(), [4]);
        assert!([1, 2, 4].into_iter().all(|number| rest.has(id(number))) && !rest.has(id(3)) && !rest.has(id(5)));
        // For another database, or a later revision than this one's, the backup is whole.
        for since in [Since { history: "0".to_owned(), revision: 2 }, Since { history, revision: 4 }] {
            assert!(text(&store, Some(&since)) == text(&store, None), "{since:?}");
        }
    }

    #[test]
    fn a_cut_or_invalid_backup_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let whole = text(&store(dir.path()), None);
        for length in 1..whole.len() {
            if let Ok((records, _)) = Section::open(&whole.as_bytes()[..length], &[])
                .and_then(|section| section.ok_or(BackupError::Short))
                .and_then(|mut section| Ok((section.by_ref().collect::<Result<Vec<_>, _>>()?, section.finish()?)))
            {
                panic!("{length} bytes passed for a whole of {} records", records.len());
            }
        }
        assert!(Section::open(&b""[..], &[]).unwrap().is_none());
        let lines: Vec<&str> = whole.lines().collect();
        for (nth, other) in [
            (0, "{}"),
            (0, &*lines[0].replace("\"backup\":1", "\"backup\":2")),
            (0, &*lines[0].replace("posts", "comments")),
            (1, "{}"),
            (1, "[]"),
            (1, lines[2]),
            (2, &*lines[2].replace("\"user\":1", "\"user\":\"1\"")),
            (4, &*lines[4].replace("0707", "07")),
            (5, "{\"end\":true}"),
        ] {
            let mut lines = lines.clone();
            lines[nth] = other;
            assert!(read(&(lines.join("\n") + "\n")).is_err(), "line {nth}: {other}");
        }
    }
}
