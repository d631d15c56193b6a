//! Filling a service's folder from its slice, or from the backup of another replica. `seed` writes a slice as
//! `{"posts":[record, …]}`; for a collection of one record, as `{"profile":record}` or null.
//!
//! So a replica gets a database of its own. The file is read as a stream, in bounded memory. The database grows in
//! `db.part` and becomes `db` when all of it is durable: it is whole or absent.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use record::id::Id;
use record::model::{Collection, Records};
use record::reader::{Flaw, Opened, RECORD_BYTES, Reader, ReaderError, pointer_to};
use record::record_set::RecordSet;

use crate::backup::{BackupError, Section};
use crate::{Folder, Load, Position, Restore, Store, StoreError, at, sync, sync_tree};

/// The bytes of records that are loaded at once.
const BLOCK: usize = 4 << 20;

/// A service's open slice. The service opens it before it enters its sandbox, where its path cannot be opened.
pub struct Slice {
    path: PathBuf,
    input: Counted<File>,
}

/// The reason why a folder was not filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// The slice is damaged, or belongs to another service.
    #[error("{}: {reason}. Nothing was kept; correct the slice, or let `seed` write it again", .path.display())]
    Slice {
        /// The slice.
        path: PathBuf,
        /// The JSON pointer of the record, the fault, and the byte where it is.
        reason: String,
    },
    /// The backup is damaged, or belongs to another service or to none that was a replica.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The database or a file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A reader that adds the bytes that it reads to a number that others see.
pub struct Counted<R> {
    input: R,
    read: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    /// Reads `input`.
    pub fn new(input: R, read: Arc<AtomicU64>) -> Self {
        Self { input, read }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(bytes)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Makes a database for `folder` from a replica's whole backup, which ends where `input` ends. When the folder is opened
/// next, it takes the place of the one that is there, whatever that holds, and which may be in use until then. Returns how
/// far it follows its stream.
///
/// # Errors
/// The database that was there stays.
pub fn fill_from_backup(folder: &Folder, collection: Collection, input: impl BufRead) -> Result<Position, FillError> {
    folder.remove_part()?;
    let filled = restore(&folder.part(), collection, input).and_then(|position| {
        folder.put_new_database()?;
        Ok(position)
    });
    if filled.is_err() {
        // If the folder cannot be removed now, the next start removes it.
        let _ = folder.remove_part();
    }
    filled
}

/// Restores a replica's backup into a new database at `path`.
fn restore(path: &Path, collection: Collection, input: impl BufRead) -> Result<Position, FillError> {
    let mut section = Section::open(input, &[])?.ok_or(BackupError::Short)?;
    let head = section.head().clone();
    let wrong = |reason: &str| BackupError::Line { line: 1, reason: reason.to_owned() };
    if section.collection() != collection {
        return Err(wrong(&format!("this is a backup of {}, not of {}", head.collection, collection.name())).into());
    }
    if head.since.is_some() {
        return Err(wrong("this is an increment, not a whole backup").into());
    }
    let position = head.position.clone();
    let position = position.ok_or_else(|| wrong("this is the backup of no replica, or was taken without a token"))?;
    // Declared as it was backed up: opening it brings it up to date.
    let declared = section.collection();
    let mut restore = Restore::create(path, declared)?;
    let mut set = RecordSet::default();
    for record in section.by_ref() {
        let record = record?;
        set.add_record(record.id, record.id_from_position, &record.json);
        restore.put(&record)?;
    }
    let (rest, mut input) = section.finish()?;
    let next = input.by_ref().take(1).read_to_end(&mut Vec::new()).map_err(BackupError::Io)?;
    if next > 0 {
        return Err(wrong("something follows the backup").into());
    }
    if !head.is_of(&set) {
        let (read, digest) = (set.count, set.to_string());
        return Err(BackupError::Different { read, digest, head: Box::new(head) }.into());
    }
    let store = restore.finish(&rest.kept, head.revision, head.last_id)?;
    head.note_position(&store, declared)?;
    store.sync()?;
    Ok(position)
}

impl Slice {
    /// Opens the slice at `path`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let input = Counted::new(File::open(path).map_err(at(path))?, Arc::default());
        Ok(Self { path: path.to_owned(), input })
    }

    /// Returns the length of the slice in bytes, and how many of them are read so far.
    pub fn progress(&self) -> Result<(u64, Arc<AtomicU64>), StoreError> {
        let Counted { input, read } = &self.input;
        Ok((input.metadata().map_err(at(&self.path))?.len(), Arc::clone(read)))
    }

    /// Makes the database of `folder`, which has none, from the slice. Returns the number of records.
    pub fn fill(self, folder: &Folder, collection: Collection) -> Result<u64, FillError> {
        let part = folder.part();
        let filled = self.load(Store::create(&part, collection)?).and_then(|records| {
            sync_tree(&part)?;
            fs::rename(&part, folder.database()).map_err(at(&part))?;
            sync(folder.path())?;
            Ok(records)
        });
        if filled.is_err() {
            // If the folder cannot be removed now, the next start removes it.
            let _ = folder.remove_part();
        }
        filled
    }

    /// Loads the slice into `store` and closes it. Returns the number of records.
    fn load(self, store: Store) -> Result<u64, FillError> {
        let block = Records::new(store.collection(), BLOCK);
        let mut filling = Filling { path: self.path, load: Load::new(store), block, records: 0 };
        filling.read(&mut Reader::new(self.input))?;
        filling.load.finish()?.sync()?;
        Ok(filling.records)
    }
}

/// A slice that is being loaded into a database.
struct Filling {
    path: PathBuf,
    load: Load,
    block: Records,
    /// The number of records read.
    records: u64,
}

impl Filling {
    fn read(&mut self, reader: &mut Reader<impl Read>) -> Result<(), FillError> {
        let collection = self.block.collection();
        let name = collection.name();
        let mut seen = false;
        while let Some((found, offset)) = reader.next_name().map_err(|error| self.refuse(error))? {
            if found != name {
                let found: String = found.chars().take(40).collect();
                let reason = format!("the collection {found:?} is here, expected {name:?} alone");
                return Err(self.wrong("", reason, offset));
            }
            if seen {
                return Err(self.wrong("", format!("the collection {name:?} is here twice"), offset));
            }
            seen = true;
            if let Opened::Other(found) = reader.open(collection, offset).map_err(|error| self.refuse(error))? {
                let expected =
                    if collection.is_single() { "an object or null" } else { &format!("an array of {name}") };
                return Err(self.wrong("", format!("expected {expected}, found {found}"), reader.offset()));
            }
            while let Some(stretch) = reader.read_records().map_err(|error| self.refuse(error))? {
                for range in &stretch.records {
                    self.put(&stretch.bytes[range.clone()], stretch.base + range.start as u64)?;
                }
                reader.recycle(stretch.bytes, stretch.records);
            }
            self.write_block()?;
        }
        if !seen {
            return Err(self.wrong("", format!("the collection {name:?} is missing"), reader.offset()));
        }
        reader.close().map_err(|error| self.refuse(error))
    }

    /// Adds the record `raw`, found at `offset`.
    fn put(&mut self, raw: &[u8], offset: u64) -> Result<(), FillError> {
        let (collection, index) = (self.block.collection(), self.records);
        self.records += 1;
        let wrong = |this: &Self, pointer: &str, at: usize, reason: &str| {
            this.wrong(&(pointer_to(collection, index) + pointer), reason, offset + at as u64)
        };
        let text = str::from_utf8(raw).map_err(|error| wrong(self, "", error.valid_up_to(), "this is not UTF-8"))?;
        let pushed = self.block.push(text, Id::try_from(self.records).ok());
        pushed.map_err(|fault| wrong(self, &fault.pointer, fault.offset, &fault.reason))?;
        if self.block.text().len() >= BLOCK { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> Result<(), FillError> {
        let collection = self.block.collection();
        let block = std::mem::replace(&mut self.block, Records::new(collection, BLOCK));
        let Some(taken) = self.load.put([&block], &RecordSet::of(block.iter()))? else { return Ok(()) };
        let second = block.iter().filter(|record| record.id == taken).last();
        let position = second.and_then(|record| record.position).map_or(self.records, Id::get);
        let pointer = pointer_to(collection, position - 1);
        let reason = format!("{pointer}: an earlier record has the id {taken} too");
        Err(FillError::Slice { path: self.path.clone(), reason })
    }

    /// Converts the reader's error.
    fn refuse(&self, error: ReaderError) -> FillError {
        let (pointer, offset, flaw) = match error {
            ReaderError::Io(error) => {
                return FillError::Slice { path: self.path.clone(), reason: error.to_string() };
            }
            ReaderError::Flawed { pointer, offset, flaw } => (pointer, offset, flaw),
        };
        let reason = match flaw {
            Flaw::Empty | Flaw::Ends(_) => format!("EOF while parsing: {flaw}"),
            Flaw::NoObject(found) => {
                format!("expected an object that holds {:?} alone, found {found}", self.block.collection().name())
            }
            Flaw::TooLong => format!("it is longer than {} MiB", RECORD_BYTES >> 20),
            Flaw::More => "trailing characters".to_owned(),
            flaw => flaw.to_string(),
        };
        self.wrong(&pointer, reason, offset)
    }

    fn wrong(&self, pointer: &str, reason: impl Display, offset: u64) -> FillError {
        let colon = if pointer.is_empty() { "" } else { ": " };
        FillError::Slice { path: self.path.clone(), reason: format!("{pointer}{colon}{reason} (byte {offset})") }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use record::sample;

    use super::*;
    use crate::backup::Chunks;
    use crate::{KeptRecord, OnDamage, Purpose, Snapshot};

    /// Fills a new folder from `slice`. Returns the number of records, or the fault in the slice.
    fn fill(slice: &[u8]) -> Result<u64, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.json");
        fs::write(&path, slice).unwrap();
        fill_from(dir.path(), Slice::open(&path).unwrap())
    }

    fn fill_from(dir: &Path, slice: Slice) -> Result<u64, String> {
        let folder = Folder::lock(dir).unwrap();
        let filled = slice.fill(&folder, sample::posts());
        assert_eq!(folder.database().exists(), filled.is_ok());
        assert!(!folder.part().exists());
        filled.map_err(|error| match error {
            FillError::Slice { reason, .. } => reason,
            error => panic!("{error}"),
        })
    }

    /// Makes a database of two posts and a kept answer in `dir`, which follows a stream; returns its backup.
    fn back_up(dir: &Path, position: Option<&Position>) -> Vec<u8> {
        let mut records = Records::new(sample::posts(), 0);
        for id in [1, 2] {
            records.push(POST, Id::try_from(id).ok()).unwrap();
        }
        let mut load = Load::new(Store::create(dir, sample::posts()).unwrap());
        load.put([&records], &RecordSet::of(records.iter())).unwrap();
        let store = load.finish().unwrap();
        if let Some(position) = position {
            store.put_position(position).unwrap();
        }
        let answer = format!(r#"{{"id":2,{}"#, &POST[1..]);
        store.keep("ci/1", &KeptRecord { until: 9, ..KeptRecord::new(0, [7; 32], Id::FIRST, 1, answer) }).unwrap();
        Chunks::new(Snapshot::of(&store).unwrap(), None, true).flat_map(|chunk| chunk.unwrap()).collect()
    }

    #[test]
    fn a_backup_takes_a_databases_place_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let [position, later] = [7, 9].map(|sequence| {
            let mut position = Position::before("s".to_owned());
            position.advance(sequence, b"m", 1000);
            position
        });
        let backup = back_up(&dir.path().join("from"), Some(&position));
        let none = back_up(&dir.path().join("alone"), None);
        let service = dir.path().join("service");
        fs::create_dir(&service).unwrap();
        let folder = Folder::lock(&service).unwrap();
        let fill = |bytes: &[u8]| fill_from_backup(&folder, sample::posts(), bytes);
        let count = || {
            let store = folder.open(sample::posts(), Purpose::Passing, OnDamage::Refuse).unwrap();
            (store.counted().unwrap().count, store.position().unwrap(), store.kept_answers().count())
        };
        for length in 0..backup.len() {
            assert!(fill(&backup[..length]).is_err(), "{length}");
            assert!(!folder.database().exists() && !folder.part().exists(), "{length}");
        }
        let (other, more) = (String::from_utf8(backup.clone()).unwrap(), [&backup[..], &none].concat());
        for (bytes, expected) in [
            (none, "line 1: this is the backup of no replica"),
            (more, "line 1: something follows the backup"),
            (other.replacen("\"posts\"", "\"users\"", 1).into_bytes(), "line 1: no service has \"users\""),
            (other.replacen("\"records\":2", "\"records\":3", 1).into_bytes(), "does not match"),
        ] {
            let error = fill(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected:?} is not in {error}");
        }
        assert_eq!(fill(&backup).unwrap(), position);
        assert_eq!(count(), (2, Some(position.clone()), 1));
        // What is there stays until another is whole.
        assert!(fill(&backup[..backup.len() - 1]).is_err());
        assert_eq!(count(), (2, Some(position), 1));
        let newer = back_up(&dir.path().join("later"), Some(&later));
        assert_eq!(fill(&newer).unwrap(), later);
        assert_eq!(count(), (2, Some(later), 1));
    }

    const POST: &str = r#"{"thread":1,"text":"é","user":1}"#;

    #[test]
    fn a_slice_is_whole_or_refused_wherever_it_ends() {
        let slice = format!("{{ \"posts\" : [{POST} , {POST}] }}\n");
        assert_eq!(fill(slice.as_bytes()), Ok(2));
        let whole = slice.trim_end().len();
        for end in 0..whole {
            let reason = fill(&slice.as_bytes()[..end]).expect_err("it is cut");
            assert!(reason.ends_with(&format!(" (byte {end})")), "{end}: {reason}");
        }
        assert_eq!(fill(&slice.as_bytes()[..whole]), Ok(2));
    }

    #[test]
    fn a_byte_order_mark_is_skipped_where_the_split_skips_it() {
        let slice = |before: &str, within: &str| format!("{before}{{\"posts\":{within}[{POST}]}}").into_bytes();
        assert_eq!(fill(&slice("\u{feff}", "")), Ok(1));
        for refused in [slice("\u{feff}\u{feff}", ""), slice(" \u{feff}", ""), slice("", "\u{feff}")] {
            assert!(fill(&refused).unwrap_err().contains("expected an "), "{}", String::from_utf8_lossy(&refused));
        }
        let utf16: Vec<u8> =
            String::from_utf8(slice("", "")).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(fill(&utf16).unwrap_err().contains("expected a collection's name"));
    }

    #[test]
    fn a_hostile_slice_is_refused_with_its_place() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let deep_post = format!(r#"{{"posts":[{POST},{{"thread":1,"text":"","user":1,"x":{}}}]}}"#, deep(1_000_000));
        let long = "x".repeat(RECORD_BYTES);
        for (slice, expected) in [
            (
                format!(r#"{{"posts":[{POST}],"users":[]}}"#).as_bytes(),
                "the collection \"users\" is here, expected \"posts\" alone (byte 45)",
            ),
            (br#"{"users":[],"posts":[]}"#, "the collection \"users\" is here, expected \"posts\" alone (byte 1)"),
            (br#"{"posts":[],"p\u006fsts":[]}"#, "the collection \"posts\" is here twice (byte 12)"),
            (br#"{"posts":[],}"#, "expected a collection's name in double quotes (byte 12)"),
            (br#"{"posts":[]"#, "expected `,` or `}` after a collection (byte 11)"),
            (br#"{"posts":[]}{}"#, "trailing characters (byte 12)"),
            (b"{\"posts\":[]}\0", "trailing characters (byte 12)"),
            (br#"{"posts":null}"#, "expected an array of posts, found null (byte 9)"),
            (br#"{"posts":[null]}"#, "/posts/0: expected an object, found null (byte 10)"),
            (format!(r#"{{"posts":[{POST},]}}"#).as_bytes(), "/posts/1: expected a record (byte 44)"),
            (
                format!(r#"{{"posts":[{POST}{POST}]}}"#).as_bytes(),
                "/posts/1: expected `,` or `]` after a record (byte 43)",
            ),
            (format!(r#"{{"posts":[{POST}}}]}}"#).as_bytes(), "/posts/1: expected `,` or `]` after a record (byte 43)"),
            (br#"{"posts":[{"thread":[1}}]}"#, "/posts/0/thread: expected `,` or `]` (byte 22)"),
            (b"{\"posts\":[{\"thread\":1,\"text\":\"\xff\",\"user\":1}]}", "/posts/0: this is not UTF-8 (byte 30)"),
            (b"{\"posts\":[\xff]}", "/posts/0: this is not UTF-8 (byte 10)"),
            (b"{\"p\xffsts\":[]}", "invalid unicode code point (byte 1)"),
            (deep_post.as_bytes(), "nested deeper than 128 levels"),
            (deep(1_000_000).as_bytes(), "expected an object that holds \"posts\" alone, found an array (byte 0)"),
            (format!(r#"{{"posts":[{POST},{{"text":"{long}"}}]}}"#).as_bytes(), "/posts/1: it is longer than 16 MiB"),
            (format!(r#"{{"{long}":[]}}"#).as_bytes(), "it is longer than 16 MiB"),
            (
                format!(r#"{{"posts":[{POST}, {}{POST}]}}"#, " ".repeat(RECORD_BYTES)).as_bytes(),
                "more than 16 MiB of white space",
            ),
        ] {
            let reason = fill(slice).expect_err(expected);
            assert!(reason.contains(expected), "{expected:?} is not in {reason:?}");
        }
    }

    #[test]
    fn a_record_without_an_end_is_refused_before_it_fills_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.json");
        fs::write(&path, br#"{"posts":[{"text":""#).unwrap();
        // The file is one hole, which takes no room on the disk but would in memory.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let reason = fill_from(dir.path(), Slice::open(&path).unwrap()).unwrap_err();
        assert!(reason.starts_with("/posts/0: it is longer than 16 MiB"), "{reason}");
    }
}
