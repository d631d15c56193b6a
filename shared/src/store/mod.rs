//! A collection of records in sled: the embedded database of one service.
//!
//! ```no_run
//! # use shared::model::{Collection, Post, Term}; use shared::store::{Purpose, Store};
//! # fn main() -> Result<(), shared::store::StoreError> {
//! let posts = Store::open("data/posts/db".as_ref(), Collection::Posts, Purpose::Serving)?;
//! for post in posts.find(Post::IN_THREAD, &Term::Id("7".parse().unwrap())) {
//!     println!("{}", String::from_utf8_lossy(post?.json()));
//! }
//! # Ok(()) }
//! ```
//!
//! [`layout`] draws the bytes of keys and values. Everything lies in sled's one default tree, told apart by the key's
//! first byte, because a batch on one tree is atomic without a transaction.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use self::layout::Step;
use crate::id::Id;
use crate::model::{Collection, Index, Term};

/// A point at which a test can end the process: see `shared/tests/faults.rs`.
macro_rules! fail_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    };
}

mod commit;
mod folder;
mod group;
mod index;
mod journal;
pub mod layout;
mod load;
mod pace;
mod write;

pub use commit::{Commit, CommitError, Durability, Found, Transaction};
pub(crate) use folder::at;
pub use folder::{Folder, sync, sync_tree};
pub use group::KeptRecord;
pub use index::{Entries, Ids};
pub use load::Load;
pub use write::{Change, Writer};

/// What a database is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Answering requests, of which many ask for the same.
    Serving,
    /// Going through all of it once.
    Passing,
}

impl Purpose {
    /// What sled may keep in memory. It counts bytes as they are on disk: real use is a few times that.
    fn cache_bytes(self) -> u64 {
        match self {
            Purpose::Serving => 64 << 20,
            Purpose::Passing => 16 << 20,
        }
    }
}

/// The segments of sled's file, in bytes.
///
/// A node of sled's tree that is longer than a quarter of it goes to a file of its own, which sled never syncs: after a
/// power loss it may be missing, and without it sled opens nothing. A leaf has 17 values at most, none much longer than
/// `PART_BYTES` of [`layout`], and 17 of them are well below 2 MiB.
pub const SEGMENT: usize = 8 << 20;

/// How much room on the disk is taken beforehand for what sled will write, in bytes. Once a write of sled's own has
/// failed, it neither writes nor reads all that it has.
const ROOM: u64 = 8 << 20;

/// How long to wait for a lock, ours or sled's, which can lag behind the end of what held it.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How often to try meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is nothing to open.
    #[error("{}: there is no database here; split a db.json into it first (`cargo run -p seed`), or name a slice (--slice)", .0.display())]
    Missing(PathBuf),
    /// Another process has the folder.
    #[error("{}: in use by {holder}; stop it first", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// What it wrote into its lock.
        holder: String,
    },
    /// A split was interrupted while it put its result into place.
    #[error("{}: a split into this folder was interrupted; run the same `seed` command again, it finishes the job", .0.display())]
    Unfinished(PathBuf),
    /// The database belongs to another service.
    #[error("{}: this database holds {found}, not {expected}", .path.display())]
    WrongCollection {
        /// The database.
        path: PathBuf,
        /// What the service owns.
        expected: &'static str,
        /// What the database says.
        found: String,
    },
    /// The bytes are not what this program writes.
    #[error("{}: the database is damaged or not one of ours: {what}; restore it, or split again with `seed --replace`", .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A write needs more room on the disk than there is. Nothing is amiss otherwise.
    #[error("{}: the disk has no room for {} MiB more, which a write may need", .0.display(), ROOM >> 20)]
    NoRoom(PathBuf),
    /// sled failed.
    #[error("{}: {source}", .path.display())]
    Sled {
        /// The database.
        path: PathBuf,
        /// sled's own error.
        source: sled::Error,
    },
    /// The file system failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
}

/// The records of one collection. Clones share the database.
#[derive(Clone)]
pub struct Store {
    db: sled::Db,
    /// sled's own file, to do with it what sled does not.
    file: Arc<File>,
    path: PathBuf,
    collection: Collection,
}

/// A record as it lies in the database.
pub struct Stored {
    value: sled::IVec,
    json: Range<usize>,
    /// How often the record was written, from 1.
    pub revision: u64,
    /// Whether the split gave the record its id, from its position in the file.
    pub id_from_position: bool,
}

impl Stored {
    /// The record as it is sent.
    pub fn json(&self) -> &[u8] {
        &self.value[self.json.clone()]
    }

    /// The record as it is sent, in sled's own memory: nothing is copied.
    pub fn into_json(self) -> Bytes {
        Bytes::from_owner(self.value).slice(self.json)
    }
}

impl Store {
    /// Opens the database at `path`, which another run has made.
    pub fn open(path: &Path, collection: Collection, purpose: Purpose) -> Result<Self, StoreError> {
        if !path.is_dir() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        let store = Self::open_files(path, collection, purpose)?;
        store.check()?;
        journal::replay(&store)?;
        Ok(store)
    }

    fn open_files(path: &Path, collection: Collection, purpose: Purpose) -> Result<Self, StoreError> {
        let db = open_sled(path, purpose)?;
        let file = OpenOptions::new().write(true).open(path.join("db"));
        let file = file.map_err(|source| StoreError::Io { path: path.join("db"), source })?;
        Ok(Self { db, file: Arc::new(file), path: path.to_owned(), collection })
    }

    /// Whether the database answers, and holds what it should.
    pub fn check(&self) -> Result<(), StoreError> {
        let Some(value) = self.value(layout::COLLECTION_KEY)? else {
            return Err(self.corrupt("it does not say which collection it holds"));
        };
        let found = layout::decode_name(&value).map_err(|what| self.corrupt(&what))?;
        let expected = self.collection.name();
        if found == expected {
            Ok(())
        } else {
            Err(StoreError::WrongCollection { path: self.path.clone(), expected, found })
        }
    }

    /// Makes an empty database at `path`, where nothing may be yet.
    pub fn create(path: &Path, collection: Collection) -> Result<Self, StoreError> {
        fs::create_dir(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        let store = Self::open_files(path, collection, Purpose::Passing)?;
        store.put(layout::COLLECTION_KEY, layout::encode_name(collection.name()))?;
        Ok(store)
    }

    /// The collection whose records these are.
    pub fn collection(&self) -> Collection {
        self.collection
    }

    /// The record with that id.
    pub fn get(&self, id: Id) -> Result<Option<Stored>, StoreError> {
        let (page, slot) = layout::place(id);
        let mut before = None;
        loop {
            let Some(value) = self.value(&layout::page_key(page))? else { return Ok(None) };
            let entry =
                layout::decode_page(&value).find(|entry| entry.as_ref().map_or(true, |entry| entry.slot == slot));
            let Some(entry) = entry.transpose().map_err(|what| self.corrupt(&what))? else { return Ok(None) };
            match self.stored(&value, id, &entry) {
                // It may have been written anew, into its page, since that was read.
                Err(StoreError::Corrupt { .. }) if before.as_ref() != Some(&value) => before = Some(value),
                stored => return stored.map(Some),
            }
        }
    }

    /// All records in id order.
    pub fn records(&self) -> impl Iterator<Item = Result<(Id, Stored), StoreError>> + Send + Sync + use<> {
        let store = self.clone();
        self.scan(&[layout::PAGE]).flat_map(move |page| match store.page(page) {
            Ok(records) => records.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    fn page(&self, page: sled::Result<(sled::IVec, sled::IVec)>) -> Result<Vec<(Id, Stored)>, StoreError> {
        let (key, value) = page.map_err(|source| self.sled(source))?;
        let page = layout::page_of(&key).ok_or_else(|| self.corrupt("a page's key is not one"))?;
        let mut records = Vec::new();
        for entry in layout::decode_page(&value) {
            let entry = entry.map_err(|what| self.corrupt(&what))?;
            let id = layout::id_at(page, entry.slot).ok_or_else(|| self.corrupt("a page holds what is no id"))?;
            let stored = match self.stored(&value, id, &entry) {
                Err(StoreError::Corrupt { .. }) => self.get(id)?,
                stored => Some(stored?),
            };
            records.extend(stored.map(|stored| (id, stored)));
        }
        Ok(records)
    }

    /// The highest id. Of a damaged page, the highest that it can hold: an id too many is skipped, but none is given twice.
    pub(crate) fn last_id(&self) -> Result<Option<Id>, StoreError> {
        let Some(page) = self.db.scan_prefix([layout::PAGE]).next_back() else { return Ok(None) };
        let (key, value) = page.map_err(|source| self.sled(source))?;
        let slots: Result<Vec<u8>, String> = layout::decode_page(&value).map(|entry| Ok(entry?.slot)).collect();
        let slot = slots.ok().and_then(|slots| slots.last().copied()).unwrap_or(layout::LAST_SLOT);
        Ok(layout::page_of(&key).and_then(|page| layout::id_at(page, slot)))
    }

    /// The records that `index` lists under `term`, in id order.
    pub fn find(
        &self,
        index: Index,
        term: &Term,
    ) -> impl Iterator<Item = Result<Stored, StoreError>> + Send + Sync + use<> {
        let store = self.clone();
        // An id without its record was deleted after the list was read.
        self.ids(index, term).filter_map(move |id| id.and_then(|id| store.get(id)).transpose())
    }

    /// Returns when all that was written is on the disk and stays there through a power loss.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|source| self.sled(source))?;
        fail_point!("between flush and sync");
        // sled's flush hands the data to the system (sync_file_range); only this makes the disk keep it.
        self.file.sync_data().map_err(|source| self.io(source))
    }

    /// Takes [`ROOM`] on the disk behind the end of sled's file, if it has not got that.
    fn reserve(&self) -> Result<(), StoreError> {
        let length = self.file.metadata().map_err(|source| self.io(source))?.len();
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, length, ROOM) {
            // Not every file system can; then it shows when sled writes.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) => Err(StoreError::NoRoom(self.path.clone())),
            Err(error) => Err(self.io(error.into())),
        }
    }

    /// Whether there would be [`ROOM`] for a new start.
    fn probe(&self) -> Result<(), StoreError> {
        let path = self.path.with_extension("room");
        let written = fs::write(&path, vec![0; ROOM as usize]).and_then(|()| File::open(&path)?.sync_all());
        let removed = fs::remove_file(&path);
        written.and(removed).map_err(|_| StoreError::NoRoom(self.path.clone()))
    }

    /// The answer that is kept under an idempotency key.
    fn kept(&self, key: &str) -> Result<Option<KeptRecord>, StoreError> {
        let Some(value) = self.value(&layout::kept_key(key))? else { return Ok(None) };
        let kept = layout::decode_kept(&value).and_then(|kept| KeptRecord::read(&kept));
        kept.map(Some).map_err(|what| self.corrupt(&what))
    }

    /// All keys that begin with `prefix`, with their values.
    ///
    /// sled gives memory back only when it has noted 64 accesses in the same of its 256 queues, and a scan notes one for
    /// each leaf: up to 16,384 leaves would pile up beyond the cache. So each key notes one more.
    fn scan(&self, prefix: &[u8]) -> Scan {
        let db = self.db.clone();
        Box::new(self.db.scan_prefix(prefix).inspect(move |pair| {
            // What it says does not matter, and an error shows again at the next key.
            let _ = pair.as_ref().map(|(key, _)| db.contains_key(key));
        }))
    }

    fn value(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.db.get(key).map_err(|source| self.sled(source))
    }

    fn put(&self, key: &[u8], value: Vec<u8>) -> Result<Option<sled::IVec>, StoreError> {
        self.db.insert(key, value).map_err(|source| self.sled(source))
    }

    /// Does the whole step, or nothing of it.
    fn apply(&self, step: &Step) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        step.puts.iter().for_each(|(key, value)| batch.insert(&key[..], &value[..]));
        step.removes.iter().for_each(|key| batch.remove(&key[..]));
        batch.insert(layout::COUNTERS_KEY, layout::encode_counters(step.counters));
        self.db.apply_batch(batch).map_err(|source| self.sled(source))
    }

    /// Does the step but for the counters, one change after the other. Cheaper than a batch, for which sled writes twice
    /// and lets nobody read meanwhile; but a crash can leave a part.
    fn apply_in_parts(&self, step: &Step) -> Result<(), StoreError> {
        for (key, value) in &step.puts {
            fail_point!("within the step");
            self.db.insert(key, &value[..]).map_err(|source| self.sled(source))?;
        }
        for key in &step.removes {
            self.db.remove(key).map_err(|source| self.sled(source))?;
        }
        Ok(())
    }

    /// The record of `entry`, which was read from `page`.
    fn stored(&self, page: &sled::IVec, id: Id, entry: &layout::Entry) -> Result<Stored, StoreError> {
        let &layout::Entry { revision, id_from_position, json, .. } = entry;
        if json.is_empty() {
            return self.parts(id, revision).map(|(value, json)| Stored { value, json, revision, id_from_position });
        }
        let begin = json.as_ptr() as usize - page.as_ptr() as usize;
        Ok(Stored { value: page.clone(), json: begin..begin + json.len(), revision, id_from_position })
    }

    /// What the parts of a record hold that lies apart, and where in it the JSON is.
    fn parts(&self, id: Id, revision: u64) -> Result<(sled::IVec, Range<usize>), StoreError> {
        let mut json = Vec::new();
        for number in 0..=u16::MAX {
            let missing = || self.corrupt("a record that should lie apart from its page is gone");
            let value = self.value(&layout::part_key(id, revision, number))?.ok_or_else(missing)?;
            let part = layout::decode_part(&value).map_err(|what| self.corrupt(&what))?;
            let is_last = part.len() < layout::PART_BYTES;
            if is_last && number == 0 {
                let json = value.len() - part.len()..value.len();
                return Ok((value, json));
            }
            json.extend_from_slice(part);
            if is_last {
                break;
            }
        }
        let length = json.len();
        Ok((json.into(), 0..length))
    }

    fn sled(&self, source: sled::Error) -> StoreError {
        StoreError::Sled { path: self.path.clone(), source }
    }

    fn io(&self, source: io::Error) -> StoreError {
        StoreError::Io { path: self.path.join("db"), source }
    }

    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), what: what.to_owned() }
    }
}

/// Keys and values, as sled has them.
type Scan = Box<dyn Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>> + Send + Sync>;

/// Opens sled with the guards it needs. The caller holds the [`Folder`]'s lock, so no other program of ours is here.
fn open_sled(path: &Path, purpose: Purpose) -> Result<sled::Db, StoreError> {
    remove_half_written_snapshots(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    let config = sled::Config::new().path(path).segment_size(SEGMENT).cache_capacity(purpose.cache_bytes());
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        // On damaged files sled may panic instead of returning an error.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        return match opened {
            Ok(Ok(db)) => Ok(db),
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
                if Instant::now() < give_up {
                    thread::sleep(LOCK_POLL);
                    continue;
                }
                Err(StoreError::InUse { path: path.to_owned(), holder: "another program".to_owned() })
            }
            Ok(Err(sled::Error::Corruption { .. })) => {
                Err(StoreError::Corrupt { path: path.to_owned(), what: "sled finds its files corrupt".to_owned() })
            }
            Ok(Err(sled::Error::Unsupported(what))) => Err(StoreError::Corrupt { path: path.to_owned(), what }),
            Ok(Err(source)) => Err(StoreError::Sled { path: path.to_owned(), source }),
            Err(_panic) => {
                Err(StoreError::Corrupt { path: path.to_owned(), what: "sled cannot read its files".to_owned() })
            }
        };
    }
}

/// A crash or a full disk while sled opens leaves `snap.….generating`, and every later open would fail (sled #1527).
fn remove_half_written_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
