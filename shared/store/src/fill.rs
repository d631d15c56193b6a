//! Filling a service's folder from its slice. `seed` writes a slice as `{"posts":[record, …]}`; for a collection of one
//! record, as `{"profile":record}` or null.
//!
//! So a replica gets a database of its own. The slice is read as a stream, in bounded memory. The database grows in
//! `db.part` and becomes `db` when all of it is durable: it is whole or absent.

use std::fmt::Display;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use record::id::Id;
use record::model::{Collection, Records};
use record::reader::{Flaw, Opened, RECORD_BYTES, Reader, ReaderError, pointer_to};
use record::record_set::RecordSet;

use crate::{Folder, Load, Store, StoreError, at, sync, sync_tree};

/// The bytes of records that are loaded at once.
const BLOCK: usize = 4 << 20;

/// A service's open slice. The service opens it before it enters its sandbox, where its path cannot be opened.
pub struct Slice {
    path: PathBuf,
    file: File,
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
    /// The database or a file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Slice {
    /// Opens the slice at `path`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), file: File::open(path).map_err(at(path))? })
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
        filling.read(&mut Reader::new(self.file))?;
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
    fn read(&mut self, reader: &mut Reader<File>) -> Result<(), FillError> {
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
            FillError::Store(error) => panic!("{error}"),
        })
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
