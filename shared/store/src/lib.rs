//! A collection of records in sled: the embedded database of one service.
//!
//! ```no_run
//! # use record::model::{Collection, Term}; use store::{Purpose, Store};
//! # fn print_thread(posts: Collection) -> Result<(), store::StoreError> {
//! let store = Store::open("data/posts/db".as_ref(), posts, Purpose::Serving)?;
//! let in_thread = posts.index_at("in-thread").expect("posts have it").number;
//! for post in store.find(in_thread, &Term::Id("7".parse().unwrap())) {
//!     println!("{}", String::from_utf8_lossy(post?.json()));
//! }
//! # Ok(()) }
//! ```
//!
//! [`layout`] draws the bytes of keys and values. Everything lies in sled's one default tree, told apart by the key's
//! first byte, because a batch on one tree is atomic without a transaction.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use record::id::Id;
use record::model::{Collection, Index, Term};
use record::record_set::RecordSet;

use self::damage::Damage;
use self::layout::{Counters, Identity, Page, Step};
use self::snapshot::Snapshots;
use self::update::Gate;

/// A point at which a test can end the process: see `tests/faults.rs`.
macro_rules! fail_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    };
}

pub mod backup;
mod cache;
mod commit;
mod damage;
pub mod desk;
pub mod fill;
mod folder;
mod idempotency;
mod index;
pub mod layout;
mod load;
mod rebuild;
mod redeclare;
mod scrub;
mod sled_files;
mod snapshot;
mod sorter;
mod update;
mod v1;
mod write;

pub use cache::Closing;
pub use commit::{Commit, CommitError, Draft, Durability, Found, Hole, Transaction};
use folder::at;
pub use folder::{Folder, OnDamage, sync, sync_tree};
pub use idempotency::KeptRecord;
pub use index::{Entries, Ids};
pub use load::Load;
pub use rebuild::Restore;
pub use redeclare::Redeclaration;
pub use scrub::{Scrub, ScrubError};
pub use snapshot::{Snapshot, SnapshotRecord};
pub use update::{Edit, Hold, Staged, Staging, Text};
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
    /// The database has the layout's first version.
    #[error("{}: this database has an older layout; its service, or `seed verify`, brings it up to date at the next start", .0.display())]
    OldLayout(PathBuf),
    /// The bytes are not what this program writes.
    #[error("{}: the database is damaged or not one of ours: {what}; restore a backup (`seed restore`), or split again with `seed --replace`", .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Writes that were answered are not in the journal any more, or that cannot be ruled out.
    #[error("{}: {hole}. Restore a backup (`seed restore`), or start the service once with --accept-loss, which keeps all that is whole and logs what is gone", .path.display())]
    Lost {
        /// The database.
        path: PathBuf,
        /// What was found, and how far the database can be vouched for.
        hole: Hole,
    },
    /// More was written beside the reader of a snapshot than could be put aside for it.
    #[error("{}: more was written meanwhile than could be put aside for a reader this slow; try again, or when there are fewer writes", .0.display())]
    SnapshotGivenUp(PathBuf),
    /// A write needs more room on the disk than there is. Nothing is amiss otherwise.
    #[error("{}: the disk has no room for {} MiB more, which a write may need", .0.display(), ROOM >> 20)]
    NoRoom(PathBuf),
    /// What is there cannot be served as it is declared now.
    #[error("{}: the declaration does not go with what is there: {what}", .path.display())]
    Contradiction {
        /// The database.
        path: PathBuf,
        /// In what, and the way on.
        what: String,
    },
    /// It was told to end.
    #[error("{}: told to end before all indexes were built; the next start builds them", .0.display())]
    Interrupted(PathBuf),
    /// Two records have the same text for an id.
    #[error("{}: two records have the id {text:?}", .path.display())]
    IdTaken {
        /// The database, which is then of no use.
        path: PathBuf,
        /// The id.
        text: String,
        /// The number of the second of them.
        second: Id,
    },
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
    collection: Collection,
    made_by: Collection,
    shared: Arc<Shared>,
}

/// What the clones of a store share beside sled's own.
struct Shared {
    /// sled's own file, to do with it what sled does not.
    file: File,
    path: PathBuf,
    history: u64,
    damage: Damage,
    /// Whether a write or a sync of its files has failed since it was opened.
    failed: AtomicBool,
    read_only: AtomicBool,
    snapshots: Snapshots,
    gate: Gate,
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
    /// Opens the database at `path`, which another run has made, and does what its journal has and it has not: all that
    /// it then holds is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Lost`] when the journal does not have all that it must, [`StoreError::OldLayout`] for a database of
    /// the layout's first version: [`Folder::open`] knows the way on.
    pub fn open(path: &Path, collection: Collection, purpose: Purpose) -> Result<Self, StoreError> {
        let mut store = Self::open_unproven(path, collection, purpose)?;
        commit::journal::recover(&store)?;
        store.read_note()?;
        Ok(store)
    }

    /// The same, without a look at the journal, and at what it was declared by.
    fn open_unproven(path: &Path, collection: Collection, purpose: Purpose) -> Result<Self, StoreError> {
        if !path.is_dir() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        let db = sled_files::open(path, purpose)?;
        if v1::is_one(path, &db)? {
            return Err(StoreError::OldLayout(path.to_owned()));
        }
        let mut store = Self::with(db, path, collection, 0)?;
        let identity = store.identity()?;
        Arc::get_mut(&mut store.shared).expect("there are no clones yet").history = identity.history;
        Ok(store)
    }

    fn with(db: sled::Db, path: &Path, collection: Collection, history: u64) -> Result<Self, StoreError> {
        let file = OpenOptions::new().write(true).open(path.join("db"));
        let file = file.map_err(|source| StoreError::Io { path: path.join("db"), source })?;
        let (damage, failed, read_only, snapshots, gate) = Default::default();
        let shared = Shared { file, path: path.to_owned(), history, damage, failed, read_only, snapshots, gate };
        let shared = Arc::new(shared);
        Ok(Self { db, collection, made_by: collection, shared })
    }

    /// Whether the database answers, and holds what it should.
    pub fn check(&self) -> Result<(), StoreError> {
        self.identity().map(drop)
    }

    /// How often damage was met since the database was opened, if it was.
    pub fn damage(&self) -> Option<u64> {
        self.shared.damage.found()
    }

    /// Says that this is a copy of what lies on a file system that can only be read: nobody is to write to it.
    pub fn set_read_only(&self) {
        self.shared.read_only.store(true, Ordering::Relaxed);
    }

    /// Whether nobody is to write to it.
    pub fn is_read_only(&self) -> bool {
        self.shared.read_only.load(Ordering::Relaxed)
    }

    fn identity(&self) -> Result<Identity, StoreError> {
        let Some(identity) = self.decoded::<Identity>(layout::DATABASE_KEY)? else {
            return Err(self.corrupt("it does not say which collection it holds"));
        };
        let expected = self.collection.name();
        if identity.name == expected {
            Ok(identity)
        } else {
            Err(StoreError::WrongCollection { path: self.shared.path.clone(), expected, found: identity.name })
        }
    }

    /// Makes an empty database at `path`, where nothing may be yet.
    pub fn create(path: &Path, collection: Collection) -> Result<Self, StoreError> {
        fs::create_dir(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        let db = sled_files::open(path, Purpose::Passing)?;
        // The standard library's own randomness: a service is in its sandbox by now, where a crate that falls back on
        // /dev/urandom, as with musl, finds none.
        let history = RandomState::new().hash_one(path);
        let store = Self::with(db, path, collection, history)?;
        let name = collection.name().to_owned();
        store.put(layout::DATABASE_KEY, &layout::encode(Identity { name, history }))?;
        store.put_counters(Counters { revision: load::FIRST_REVISION, ..Counters::default() })?;
        store.note_all()?;
        Ok(store)
    }

    /// The collection whose records these are.
    pub fn collection(&self) -> Collection {
        self.collection
    }

    /// Where the database lies.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What the database holds, as it counts it while it is written to.
    pub fn counted(&self) -> Result<RecordSet, StoreError> {
        Ok(self.counters()?.records)
    }

    /// The revision that the database is at.
    pub fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.counters()?.revision)
    }

    /// A number that no database has which began apart from this one.
    pub fn history(&self) -> u64 {
        self.shared.history
    }

    /// The record with that id.
    pub fn get(&self, id: Id) -> Result<Option<Stored>, StoreError> {
        let (page, slot) = layout::place(id);
        let key = layout::page_key(page);
        let mut before = None;
        loop {
            let Some(value) = self.unchecked(&key)? else { return Ok(None) };
            let entry = Page::read(&key, &value).and_then(|page| page.find(slot));
            let Some(entry) = entry.map_err(|what| self.damaged(&key, &what))? else { return Ok(None) };
            match self.stored(&value, id, &entry)? {
                Some(stored) => return Ok(Some(stored)),
                // It was written anew, into its page, since that was read.
                None if before.as_ref() != Some(&value) => before = Some(value),
                None => {
                    return Err(
                        self.corrupt(&format!("record {id} lies apart from its page, and a part of it is gone"))
                    );
                }
            }
        }
    }

    /// All records in id order.
    pub fn records(&self) -> impl Iterator<Item = Result<(Id, Stored), StoreError>> + Send + Sync + use<> {
        let store = self.clone();
        self.scan(&[layout::PAGE]).flat_map(move |page| match page.and_then(|(key, value)| store.page(&key, &value)) {
            Ok(records) => records.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    /// The ids of all records from `from` on, with their revisions.
    pub fn revisions(&self, from: Id) -> impl Iterator<Item = Result<(Id, u64), StoreError>> + use<> {
        let store = self.clone();
        let pages = self.checked(self.db.range(&layout::page_key(layout::place(from).0)[..]..&[layout::PAGE + 1]));
        let revisions =
            pages.flat_map(move |page| match page.and_then(|(key, value)| store.revisions_in(&key, &value)) {
                Ok(revisions) => revisions.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            });
        revisions.filter(move |revision| revision.as_ref().map_or(true, |(id, _)| *id >= from))
    }

    /// The ids and revisions of the records of a page.
    fn revisions_in(&self, key: &[u8], value: &[u8]) -> Result<Vec<(Id, u64)>, StoreError> {
        let page = layout::page_of(key).ok_or_else(|| self.damaged(key, "it is no page's key"))?;
        let entries = Page::read(key, value).map_err(|what| self.damaged(key, &what))?;
        let revision = |entry: Result<layout::Entry, String>| {
            let entry = entry.map_err(|what| self.damaged(key, &what))?;
            let id = layout::id_at(page, entry.slot).ok_or_else(|| self.damaged(key, "it holds what is no id"))?;
            Ok((id, entry.revision))
        };
        entries.iter().map(revision).collect()
    }

    /// The records of a page.
    fn page(&self, key: &[u8], value: &sled::IVec) -> Result<Vec<(Id, Stored)>, StoreError> {
        let page = layout::page_of(key).ok_or_else(|| self.damaged(key, "it is no page's key"))?;
        let entries = Page::read(key, value).map_err(|what| self.damaged(key, &what))?;
        let mut records = Vec::new();
        for entry in entries.iter() {
            let entry = entry.map_err(|what| self.damaged(key, &what))?;
            let id = layout::id_at(page, entry.slot).ok_or_else(|| self.damaged(key, "it holds what is no id"))?;
            let stored = match self.stored(value, id, &entry)? {
                Some(stored) => Some(stored),
                None => self.get(id)?,
            };
            records.extend(stored.map(|stored| (id, stored)));
        }
        Ok(records)
    }

    /// The highest id. Of a damaged page, the highest that it can hold: an id too many is skipped, but none is given twice.
    pub(crate) fn last_id(&self) -> Result<Option<Id>, StoreError> {
        let Some(page) = self.db.scan_prefix([layout::PAGE]).next_back() else { return Ok(None) };
        let (key, value) = page.map_err(|source| self.sled(source))?;
        let slot = Page::read(&key, &value).ok().and_then(Page::last_slot);
        Ok(layout::page_of(&key).and_then(|page| layout::id_at(page, slot.unwrap_or(layout::LAST_SLOT))))
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
        self.shared.file.sync_data().map_err(|source| self.io(source))
    }

    /// Takes [`ROOM`] on the disk behind the end of sled's file, if it has not got that.
    #[cfg(target_os = "linux")]
    fn reserve(&self) -> Result<(), StoreError> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        let length = self.shared.file.metadata().map_err(|source| self.io(source))?.len();
        match fallocate(&self.shared.file, FallocateFlags::KEEP_SIZE, length, ROOM) {
            // Not every file system can; then it shows when sled writes.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) => Err(StoreError::NoRoom(self.shared.path.clone())),
            Err(error) => Err(self.io(error.into())),
        }
    }

    /// Takes nothing: only Linux has a file's room grow without its length. A full disk shows when sled writes.
    #[cfg(not(target_os = "linux"))]
    fn reserve(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether there would be [`ROOM`] for a new start.
    fn probe(&self) -> Result<(), StoreError> {
        let path = self.shared.path.with_extension("room");
        let written = fs::write(&path, vec![0; ROOM as usize]).and_then(|()| File::open(&path)?.sync_all());
        let removed = fs::remove_file(&path);
        written.and(removed).map_err(|_| StoreError::NoRoom(self.shared.path.clone()))
    }

    /// All keys that begin with `prefix`, with their values, which have been checked but for pages.
    ///
    /// sled gives memory back only when it has noted 64 accesses in the same of its 256 queues, and a scan notes one for
    /// each leaf: up to 16,384 leaves would pile up beyond the cache. So each key notes one more.
    fn scan(&self, prefix: &[u8]) -> Scan {
        self.checked(self.db.scan_prefix(prefix))
    }

    /// The same of any keys.
    fn checked(&self, pairs: sled::Iter) -> Scan {
        let store = self.clone();
        Box::new(pairs.map(move |pair| {
            let (key, value) = pair.map_err(|source| store.sled(source))?;
            // What it says does not matter, and an error shows again at the next key.
            let _ = store.db.contains_key(&key);
            if key.first() != Some(&layout::PAGE) {
                store.verify(&key, &value)?;
            }
            Ok((key, value))
        }))
    }

    /// The value under `key`, which has been checked.
    fn value(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        let value = self.unchecked(key)?;
        if let Some(value) = &value {
            self.verify(key, value)?;
        }
        Ok(value)
    }

    /// The value under `key`, which is for the caller to check.
    fn unchecked(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.db.get(key).map_err(|source| self.sled(source))
    }

    /// Whether `value`, which was found under `key`, is what was written there.
    fn verify(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        layout::unseal(key, value).map(drop).map_err(|what| self.damaged(key, &what))
    }

    /// The value under `key`, decoded.
    fn decoded<T: for<'a> bincode::BorrowDecode<'a, ()>>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        layout::decode(&value[layout::BODY..]).map(Some).map_err(|what| self.damaged(key, &what))
    }

    fn put(&self, key: &[u8], body: &[u8]) -> Result<(), StoreError> {
        self.put_value(key, layout::seal(key, body))
    }

    fn put_value(&self, key: &[u8], value: Vec<u8>) -> Result<(), StoreError> {
        self.db.insert(key, value).map(drop).map_err(|source| self.sled(source))
    }

    /// What is counted, as the database has it: behind what the journal has.
    fn counters(&self) -> Result<Counters, StoreError> {
        self.decoded(layout::COUNTERS_KEY)?.ok_or_else(|| self.corrupt("its counters are gone"))
    }

    fn put_counters(&self, counters: Counters) -> Result<(), StoreError> {
        self.put(layout::COUNTERS_KEY, &layout::encode(counters))
    }

    /// The journal's lap, as the database has it: 0 before the first.
    fn lap(&self) -> Result<u64, StoreError> {
        Ok(self.decoded(layout::LAP_KEY)?.unwrap_or_default())
    }

    /// Does the whole step, or nothing of it.
    fn apply(&self, step: &Step) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        step.puts.iter().for_each(|(key, value)| batch.insert(&key[..], &value[..]));
        step.removes.iter().for_each(|key| batch.remove(&key[..]));
        batch.insert(layout::COUNTERS_KEY, layout::seal(layout::COUNTERS_KEY, &layout::encode(step.counters)));
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

    /// The record of `entry`, which was read from `page`; nothing where it lies apart and a part is not there.
    fn stored(&self, page: &sled::IVec, id: Id, entry: &layout::Entry) -> Result<Option<Stored>, StoreError> {
        let &layout::Entry { revision, id_from_position, json, .. } = entry;
        let Some(json) = json else {
            let parts = self.parts(id, revision)?;
            return Ok(parts.map(|(value, json)| Stored { value, json, revision, id_from_position }));
        };
        let begin = json.as_ptr() as usize - page.as_ptr() as usize;
        Ok(Some(Stored { value: page.clone(), json: begin..begin + json.len(), revision, id_from_position }))
    }

    /// What the parts of a record hold that lies apart, and where in it the JSON is.
    fn parts(&self, id: Id, revision: u64) -> Result<Option<(sled::IVec, Range<usize>)>, StoreError> {
        let mut json = Vec::new();
        for number in 0..=u16::MAX {
            let Some(value) = self.value(&layout::part_key(id, revision, number))? else { return Ok(None) };
            let part = &value[layout::BODY..];
            let is_last = part.len() < layout::PART_BYTES;
            if is_last && number == 0 {
                let json = layout::BODY..value.len();
                return Ok(Some((value, json)));
            }
            json.extend_from_slice(part);
            if is_last {
                break;
            }
        }
        let length = json.len();
        Ok(Some((json.into(), 0..length)))
    }

    fn sled(&self, source: sled::Error) -> StoreError {
        if let sled::Error::Io(_) = source {
            self.shared.failed.store(true, Ordering::Relaxed);
        }
        let error = StoreError::Sled { path: self.shared.path.clone(), source };
        if let StoreError::Sled { source: sled::Error::Corruption { .. } | sled::Error::ReportableBug(_), .. } = &error
        {
            self.shared.damage.note();
        }
        error
    }

    fn io(&self, source: io::Error) -> StoreError {
        self.io_of("db", source)
    }

    /// What the system said about one of the database's files, which is then no more what it was thought to be.
    fn io_of(&self, file: &str, source: io::Error) -> StoreError {
        self.shared.failed.store(true, Ordering::Relaxed);
        StoreError::Io { path: self.shared.path.join(file), source }
    }

    /// What is under `key` is not what was written there.
    fn damaged(&self, key: &[u8], what: &str) -> StoreError {
        self.corrupt(&format!("{}: {what}", layout::describe_key(key)))
    }

    fn corrupt(&self, what: &str) -> StoreError {
        self.shared.damage.note();
        StoreError::Corrupt { path: self.shared.path.clone(), what: what.to_owned() }
    }
}

/// Keys and values, checked but for pages.
type Scan = Box<dyn Iterator<Item = Result<(sled::IVec, sled::IVec), StoreError>> + Send + Sync>;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
