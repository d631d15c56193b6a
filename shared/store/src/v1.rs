//! The layout's first version, which is read only to be rebuilt by [`Folder::open`](super::Folder::open).
//!
//! ```text
//! 00 "collection"   01 name                        a value is 01, then bincode; there are no checksums
//! 00 "counters"     01 revision last-id            absent until something was written
//! 01 page           01 entry entry …               entry: slot: u8, revision: u64, id_from_position: bool, json: bytes;
//!                                                  json is empty where it lies under 03
//! 03 id revision part   01 json                    as today
//! 04 idempotency-key    01 kept                    as today
//! db/journal        entry entry … anything         entry: length and CRC-32 of body (4 bytes each, little-endian), body:
//!                                                  bincode of the revision before it, puts, removes, revision, last-id
//! ```
//!
//! The other keys (02, 05) follow from these.

use std::path::Path;
use std::{fs, io};

use record::id::Id;
use record::model::Collection;
use record::reader::RECORD_BYTES;

use super::layout::Counters;
use super::{KeptRecord, Purpose, Stamp, StoreError, Stored, idempotency, layout, sled_files};

const COLLECTION_KEY: &[u8] = b"\0collection";
const VERSION: u8 = 1;

/// A database of the layout's first version.
pub(super) struct Old {
    db: sled::Db,
    path: std::path::PathBuf,
    /// The database's counters.
    pub(super) counters: Counters,
}

/// Returns whether the open database at `path` has the layout's first version.
pub(super) fn is_one(path: &Path, db: &sled::Db) -> Result<bool, StoreError> {
    let has = |key| db.contains_key(key).map_err(|source| StoreError::Sled { path: path.to_owned(), source });
    Ok(has(COLLECTION_KEY)? && !has(layout::DATABASE_KEY)?)
}

impl Old {
    /// Opens the database at `path` and replays its journal.
    pub(super) fn open(path: &Path, collection: Collection) -> Result<Self, StoreError> {
        let db = sled_files::open(path, Purpose::Passing)?;
        let mut old = Self { db, path: path.to_owned(), counters: Counters::default() };
        let name =
            old.value(COLLECTION_KEY)?.ok_or_else(|| old.corrupt("it does not say which collection it holds"))?;
        let found: String = layout::decode(old.body(&name)?).map_err(|what| old.corrupt(&what))?;
        if found != collection.name() {
            return Err(StoreError::WrongCollection { path: old.path, expected: collection.name(), found });
        }
        if let Some(value) = old.value(b"\0counters")? {
            old.count(layout::decode(old.body(&value)?).map_err(|what| old.corrupt(&what))?);
        }
        old.replay()?;
        Ok(old)
    }

    fn count(&mut self, (revision, last_id): (u64, u64)) {
        self.counters = Counters { revision, last_id, ..Counters::default() };
    }

    /// Iterates over all records, in id order.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<(Id, Stored), StoreError>> {
        self.db.scan_prefix([layout::PAGE]).flat_map(|page| match self.page(page) {
            Ok(records) => records.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    fn page(&self, page: sled::Result<(sled::IVec, sled::IVec)>) -> Result<Vec<(Id, Stored)>, StoreError> {
        let (key, value) = page.map_err(|source| self.sled(source))?;
        let page = layout::page_of(&key).ok_or_else(|| self.corrupt("a page's key is invalid"))?;
        let mut rest = self.body(&value)?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let config = bincode::config::standard().with_limit::<RECORD_BYTES>();
            let ((slot, revision, id_from_position, json), length): ((u8, u64, bool, &[u8]), usize) =
                bincode::borrow_decode_from_slice(rest, config)
                    .map_err(|error| self.corrupt(&format!("a page cannot be decoded: {error}")))?;
            let id = layout::id_at(page, slot).ok_or_else(|| self.corrupt("a page holds an invalid id"))?;
            let stored = if json.is_empty() {
                let json = self.parts(id, revision)?;
                Stored {
                    json: 0..json.len(),
                    value: sled::IVec::from(json).into(),
                    id,
                    revision,
                    id_from_position,
                    stamp: Stamp::NONE,
                }
            } else {
                let begin = json.as_ptr() as usize - value.as_ptr() as usize;
                Stored {
                    json: begin..begin + json.len(),
                    value: value.clone().into(),
                    id,
                    revision,
                    id_from_position,
                    stamp: Stamp::NONE,
                }
            };
            records.push((id, stored));
            rest = &rest[length..];
        }
        Ok(records)
    }

    fn parts(&self, id: Id, revision: u64) -> Result<Vec<u8>, StoreError> {
        let mut json = Vec::new();
        for number in 0..=u16::MAX {
            let gone = || self.corrupt("a record that should lie apart from its page is gone");
            let value = self.value(&layout::part_key(id, revision, number))?.ok_or_else(gone)?;
            let part = self.body(&value)?;
            json.extend_from_slice(part);
            if part.len() < layout::PART_BYTES {
                break;
            }
        }
        Ok(json)
    }

    /// Iterates over the kept answers, by key.
    pub(super) fn kept(&self) -> impl Iterator<Item = Result<(String, KeptRecord), StoreError>> {
        self.db.scan_prefix(idempotency::kept_key("")).map(|pair| {
            let (key, value) = pair.map_err(|source| self.sled(source))?;
            idempotency::read_pair(&key, self.body(&value)?).map_err(|what| self.corrupt(&what))
        })
    }

    /// Replays the journal. Its end cannot be proven: the first invalid entry ends it.
    fn replay(&mut self) -> Result<(), StoreError> {
        let bytes = match fs::read(self.path.join(super::commit::journal::NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(super::at(&self.path))?,
        };
        let (mut rest, mut last) = (&bytes[..], None);
        while let Some((entry, behind)) = entry(rest)
            && last.is_none_or(|last| last == entry.follows)
        {
            let mut batch = sled::Batch::default();
            entry.puts.into_iter().for_each(|(key, value)| batch.insert(key, value));
            entry.removes.into_iter().for_each(|key| batch.remove(key));
            if entry.counters.0 > self.counters.revision {
                self.db.apply_batch(batch).map_err(|source| self.sled(source))?;
                self.count(entry.counters);
            }
            last = Some(entry.counters.0);
            rest = behind;
        }
        Ok(())
    }

    fn value(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.db.get(key).map_err(|source| self.sled(source))
    }

    fn body<'v>(&self, value: &'v [u8]) -> Result<&'v [u8], StoreError> {
        match value {
            [VERSION, body @ ..] => Ok(body),
            _ => Err(self.corrupt(&format!("a value begins with {:?}, not with the layout's version", value.first()))),
        }
    }

    fn sled(&self, source: sled::Error) -> StoreError {
        StoreError::Sled { path: self.path.clone(), source }
    }

    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), what: what.to_owned() }
    }
}

#[derive(bincode::Decode)]
struct Entry {
    follows: u64,
    puts: Vec<(Vec<u8>, Vec<u8>)>,
    removes: Vec<Vec<u8>>,
    counters: (u64, u64),
}

/// Reads the entry at the beginning of `bytes`; returns it and the bytes behind it.
fn entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let (body, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let whole = !body.is_empty() && crc32fast::hash(body) == u32::from_le_bytes(*crc);
    let (entry, _) = bincode::decode_from_slice(body, bincode::config::standard()).ok().filter(|_| whole)?;
    Some((entry, rest))
}

#[cfg(test)]
mod tests {
    use record::model::Term;
    use record::sample;

    use super::super::commit::journal;
    use super::super::{Folder, OnDamage, Scrub, Snapshot, Writer};
    use super::*;

    fn id(number: u64) -> Id {
        number.try_into().unwrap()
    }

    fn encode(value: impl bincode::Encode) -> Vec<u8> {
        bincode::encode_to_vec(value, bincode::config::standard()).unwrap()
    }

    fn value(body: &[u8]) -> Vec<u8> {
        [&[VERSION], body].concat()
    }

    fn json(number: u64, length: usize) -> String {
        format!(r#"{{"id":{number},"thread":7,"text":"{}","user":1}}"#, "x".repeat(length))
    }

    /// Builds a page of posts: id, revision, whether the split gave the id, and the length of the text.
    fn page(posts: &[(u64, u64, bool, usize)]) -> Vec<u8> {
        let entry = |&(number, revision, given, length): &(u64, u64, bool, usize)| {
            let json = json(number, length);
            let json = if length > 5000 { "" } else { &json };
            encode((layout::place(id(number)).1, revision, given, json.as_bytes()))
        };
        value(&posts.iter().flat_map(entry).collect::<Vec<_>>())
    }

    const LONG: usize = 150_000;

    /// Creates a database of the first version as a service left it: the last two groups are only in its journal.
    fn make(folder: &Path) {
        let path = folder.join("db");
        let db = sled::Config::new().path(&path).segment_size(super::super::SEGMENT).open().unwrap();
        db.insert(COLLECTION_KEY, value(&encode("posts"))).unwrap();
        // The bytes are those of the first version's own test.
        assert_eq!(value(&encode("posts")), b"\x01\x05posts");
        db.insert(b"\0counters", value(&encode((9_u64, 33_u64)))).unwrap();
        db.insert(layout::page_key(0), page(&[(1, 1, true, 3), (2, 5, false, 4)])).unwrap();
        db.insert(layout::page_key(2), page(&[(33, 9, false, LONG)])).unwrap();
        for (key, part) in layout::parts(id(33), 9, json(33, LONG).as_bytes()) {
            db.insert(key, value(part)).unwrap();
        }
        let kept = encode(([7_u8; 32], 2_u64, 5_u64, json(2, 4).as_bytes(), 9_u64));
        db.insert(idempotency::kept_key("ci/1"), value(&kept)).unwrap();
        db.insert(idempotency::forget_key(9, "ci/1"), value(b"")).unwrap();
        db.flush().unwrap();
        drop(db);
        let entry = |follows: u64, key: [u8; 9], posts: &[(u64, u64, bool, usize)], counters: (u64, u64)| {
            let puts = vec![(key.to_vec(), page(posts))];
            let body = encode((follows, puts, Vec::<Vec<u8>>::new(), counters));
            let length = u32::try_from(body.len()).unwrap().to_le_bytes();
            [&length[..], &crc32fast::hash(&body).to_le_bytes(), &body].concat()
        };
        let first = entry(9, layout::page_key(0), &[(1, 1, true, 3), (2, 10, false, 40)], (10, 33));
        let second = entry(10, layout::page_key(3), &[(50, 11, false, 5)], (11, 50));
        fs::write(path.join(journal::NAME), [&first[..], &second, &[0; 5000]].concat()).unwrap();
    }

    fn check(folder: &Folder) {
        let store = folder.open(sample::posts(), Purpose::Serving, OnDamage::Refuse).unwrap();
        for (number, revision, given, length) in
            [(1, 1, true, 3), (2, 10, false, 40), (33, 9, false, LONG), (50, 11, false, 5)]
        {
            let stored = store.get(id(number)).unwrap().unwrap();
            assert_eq!((stored.revision, stored.id_from_position), (revision, given), "{number}");
            assert!(stored.json() == json(number, length).as_bytes(), "{number}");
        }
        let listed: Result<Vec<Id>, _> = store.ids(sample::IN_THREAD, &Term::Id(id(7))).collect();
        assert_eq!(listed.unwrap(), [1, 2, 33, 50].map(id));
        assert_eq!(store.kept("ci/1").unwrap().unwrap().request, [7; 32]);
        let mut writer = Writer::new(&store).unwrap();
        assert_eq!((writer.next_id(), writer.next_revision()), (Some(id(51)), 12));
        let scrub = Scrub::run(&store, Snapshot::of(&store).unwrap(), false, &Default::default()).unwrap();
        assert_eq!((scrub.damage, scrub.records), (vec![], Some(4)));
    }

    #[test]
    fn a_database_of_the_first_layout_is_rebuilt_once() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let path = dir.path().join("db");
        let store = super::super::Store::open(&path, sample::posts(), Purpose::Serving);
        assert!(matches!(store.err(), Some(StoreError::OldLayout(_))));
        let folder = Folder::lock(dir.path()).unwrap();
        let wrong = folder.open(sample::users(), Purpose::Serving, OnDamage::Refuse);
        assert!(matches!(wrong.err(), Some(StoreError::WrongCollection { .. })));
        check(&folder);
        check(&folder);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "the lock and the database: {names:?}");
    }

    /// The next start has the old database or the new one, whole, wherever a replacement is interrupted.
    #[test]
    fn an_interrupted_replacement_is_undone_or_finished() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let folder = Folder::lock(dir.path()).unwrap();
        // Interrupted while the new database grew.
        fs::create_dir(folder.part()).unwrap();
        fs::write(folder.part().join("db"), "half").unwrap();
        check(&folder);
        let [db, new, old] = ["db", "db.new", "db.old"].map(|name| dir.path().join(name));
        // Interrupted at each step of the replacement, when the new one is whole.
        fs::create_dir(&old).unwrap();
        fs::rename(&db, &new).unwrap();
        check(&folder);
        fs::rename(&db, &new).unwrap();
        fs::create_dir(&db).unwrap();
        check(&folder);
        fs::create_dir(&old).unwrap();
        fs::rename(&db, &new).unwrap();
        fs::create_dir(&db).unwrap();
        check(&folder);
        assert!(!old.exists() && !new.exists() && !folder.part().exists());
    }
}
