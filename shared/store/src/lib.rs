//! A collection of records in sled: the embedded database of one service.
//!
//! A [`Folder`] holds all data of a service and belongs to one process. [`Folder::open`] returns the [`Store`] in it. Reads
//! go to the store, from any thread. Writes go through a [`Commit`] to one thread, the committer, which decides them in
//! order and makes many of them durable with one sync. This crate knows no HTTP.
//!
//! # Examples
//!
//! Open a store. The collection says what its records and indexes are:
//!
//! ```no_run
//! # fn open_posts() -> Result<(), store::StoreError> {
//! use record::model::Collection;
//! use store::{Folder, OnDamage, Purpose};
//!
//! let posts = Collection::embedded(
//!     r#"{
//!         "name": "posts",
//!         "ids": "position",
//!         "fields": [
//!             { "name": "thread", "shape": { "reference": { "to": "threads" } } },
//!             { "name": "text", "shape": { "text": { "most": 16384 } } }
//!         ],
//!         "indexes": [{ "number": 1, "field": "thread", "route": "in-thread" }]
//!     }"#,
//! );
//! let folder = Folder::lock("data/posts".as_ref())?;
//! let store = folder.open(posts, Purpose::Serving, OnDamage::Refuse)?;
//! println!("{} posts", store.counted()?.count);
//! # Ok(()) }
//! ```
//!
//! Read a record:
//!
//! ```no_run
//! # use store::{Store, StoreError};
//! # fn print_post(store: &Store) -> Result<(), StoreError> {
//! let id = "7".parse().expect("7 is an id");
//! if let Some(post) = store.get(id)? {
//!     println!("revision {}: {}", post.revision, String::from_utf8_lossy(post.json()));
//! }
//! # Ok(()) }
//! ```
//!
//! List the records under a term of an index:
//!
//! ```no_run
//! # use store::{Store, StoreError};
//! # fn print_thread(store: &Store) -> Result<(), StoreError> {
//! use record::model::Term;
//!
//! let in_thread = store.collection().index_at("in-thread").expect("posts have this index").number;
//! let thread = Term::Id("7".parse().expect("7 is an id"));
//! for post in store.find(in_thread, &thread) {
//!     println!("{}", String::from_utf8_lossy(post?.json()));
//! }
//! # Ok(()) }
//! ```
//!
//! Write a record. The closure runs in the committer's thread and sees all earlier writes; `write` returns its result once
//! the record is durable:
//!
//! ```no_run
//! # use store::{Commit, Durability, Store};
//! # async fn create_post(store: &Store) -> Result<(), Box<dyn std::error::Error>> {
//! let commit = Commit::start(store, Durability::Power)?;
//! let written = commit
//!     .write(|transaction| {
//!         let id = transaction.next_id()?;
//!         let draft = transaction.read(id, &format!(r#"{{"id":{id},"thread":7,"text":"Hello"}}"#));
//!         let revision = transaction.put(draft);
//!         Some((id, revision))
//!     })
//!     .await?;
//! let (id, revision) = written.ok_or("all ids are used up")?;
//! println!("post {id} has revision {revision}");
//! # Ok(()) }
//! ```
//!
//! # Modules, in reading order
//!
//! | module | subject |
//! |---|---|
//! | [`layout`] | the bytes of keys and values |
//! | `lib` | [`Store`]: opens a database, reads records, applies steps; [`StoreError`] |
//! | `index` | the ids under each term: [`Store::ids`], [`Store::entries`] |
//! | `fresh` | the words of the newest records, for searches |
//! | `names` | the numbers of text ids: [`Store::number_of`] |
//! | `unlisted` | the newest text ids, kept in memory |
//! | `write` | [`Writer`]: the one place where records change |
//! | `commit` | [`Commit`], [`Transaction`]: the committer, which decides and groups writes |
//! | `commit/group`, `commit/held`, `commit/pace` | a group's changes; the records an update holds; the size of groups |
//! | `commit/journal` | the journal: makes a group durable before the database has it |
//! | `idempotency` | [`KeptRecord`]: the answers kept for repeated requests |
//! | `snapshot` | [`Snapshot`]: the records at one moment, read during writes |
//! | [`backup`] | the format of backups: writing and reading |
//! | `folder` | [`Folder`]: its lock, its files, replacing a database |
//! | `load`, `sorter` | [`Load`]: many records into an empty database |
//! | [`fill`] | a database made from a service's slice |
//! | `redeclare` | [`Redeclaration`]: a changed declaration for an existing database |
//! | `update`, [`desk`] | a newer file's changes: holding, staging, applying; how `seed` asks a running service |
//! | `position` | [`Position`]: how far a replica has followed its stream of commands |
//! | `changes` | [`Follower`]: the last changes, for those who follow them |
//! | `stamp` | [`Stamp`]: whether what was read is still current |
//! | `page_cache` | [`PageCache`]: pages that a service keeps in memory |
//! | `portion` | [`Portion`]: a part of the list of all records, to be kept |
//! | [`figures`] | counters for operators |
//! | `scrub`, `damage` | [`Scrub`]: reads and checks everything; the count of faults found |
//! | `rebuild`, `v1` | [`Restore`], compaction, salvage; the layout's first version |
//! | `cache`, `sled_files` | the system's cache after failed syncs; sled's files and their guards |
//!
//! Everything lies in sled's one default tree, because a batch on one tree is atomic without a transaction. The first byte
//! of a key tells what it holds.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use record::id::Id;
use record::model::{Collection, Index, Term};
use record::record_set::RecordSet;

use self::changes::History;
use self::damage::Damage;
use self::fresh::Fresh;
use self::layout::{Counters, Identity, Page, Step};
use self::snapshot::Snapshots;
use self::stamp::Stamps;
use self::unlisted::Unlisted;
use self::update::Gate;

/// A point at which `tests/faults.rs` can end the process.
macro_rules! fail_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    };
}

pub mod backup;
mod cache;
mod changes;
mod commit;
mod damage;
pub mod desk;
pub mod figures;
pub mod fill;
mod folder;
mod fresh;
mod idempotency;
mod index;
pub mod layout;
mod load;
mod names;
mod order;
mod page_cache;
mod portion;
mod position;
mod rebuild;
mod redeclare;
mod scrub;
mod sled_files;
mod snapshot;
mod sorter;
mod stamp;
mod unlisted;
mod update;
mod v1;
mod write;

pub use cache::Closing;
pub use changes::{Follower, NotInHistory, RecordChange};
pub use commit::{Commit, CommitError, Decide, Draft, Durability, Found, Hole, Transaction};
use folder::at;
pub use folder::{Folder, OnDamage, sync, sync_tree};
pub use idempotency::KeptRecord;
pub use index::{Entries, Ids};
pub use load::Load;
pub use order::{InOrder, Order, Place};
use page_cache::PageBytes;
pub use page_cache::{PageCache, PageGroup};
pub use portion::Portion;
pub use position::{Agreed, Position};
pub use rebuild::Restore;
pub use redeclare::Redeclaration;
pub use scrub::{Scrub, ScrubError};
pub use snapshot::{Snapshot, SnapshotRecord};
pub use stamp::Stamp;
pub use update::{Edit, Hold, Staged, Staging, Text};
pub use write::{Change, Writer};

/// The purpose for which a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Answering requests, many of them for the same records.
    Serving,
    /// Reading all of it once.
    Passing,
}

impl Purpose {
    /// Returns the size of sled's cache. sled counts bytes as they are on disk: it really uses a few times as much
    /// memory. By trial with a million records, half of it makes writes slower, and twice as much makes nothing faster.
    fn cache_bytes(self) -> u64 {
        match self {
            Purpose::Serving => 32 << 20,
            Purpose::Passing => 16 << 20,
        }
    }
}

/// The length of a segment of sled's file, in bytes.
///
/// sled puts a node longer than a quarter of a segment into a file of its own, which it never syncs: after a power loss
/// the file may be missing, and then sled opens nothing. A leaf has at most 17 values, none much longer than
/// [`KeptRecord::MOST_BYTES`], and 17 of these are below 2 MiB.
pub const SEGMENT: usize = 8 << 20;

/// The length of sled's file up to which all of its leaves may be in memory, in bytes.
const LONG: u64 = 64 << 20;

/// The room on the disk that is reserved for sled's next writes, in bytes. After one failed write, sled neither writes
/// nor reads all of its data.
const ROOM: u64 = 8 << 20;

/// The time to wait for a lock, ours or sled's: it may outlast its holder a little.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The time between two attempts to lock.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// The reason why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The path has no database.
    #[error("{}: there is no database here; split a db.json into it first (`cargo run -p seed`), or name a slice (--slice)", .0.display())]
    Missing(PathBuf),
    /// Another process holds the folder.
    #[error("{}: in use by {holder}; stop it first", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The name that the holder wrote into its lock.
        holder: String,
    },
    /// A split was interrupted while it put its result into place. The folder is given.
    #[error("{}: a split into this folder was interrupted; run the same `seed` command again, it finishes the job", .0.display())]
    Unfinished(PathBuf),
    /// The database at the path cannot take the place of the one before.
    #[error("{}: this newer database waits to take the place of the one before, but the file system is read-only; make it writable and start the service once", .0.display())]
    Waiting(PathBuf),
    /// The database belongs to another service.
    #[error("{}: this database holds {found}, not {expected}", .path.display())]
    WrongCollection {
        /// The database.
        path: PathBuf,
        /// The service's collection.
        expected: &'static str,
        /// The database's collection.
        found: String,
    },
    /// The database has the layout's first version.
    #[error("{}: this database has an older layout; start its service, or run `seed verify`, to rebuild it", .0.display())]
    OldLayout(PathBuf),
    /// The bytes are not those that this program writes.
    #[error("{}: the database is damaged or not one of ours: {what}; restore a backup (`seed restore`), or split again with `seed --replace`", .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// Answered writes are missing from the journal, or may be.
    #[error("{}: {hole}. Restore a backup (`seed restore`), or start the service once with --accept-loss, which keeps all that is whole and logs what is gone", .path.display())]
    Lost {
        /// The database.
        path: PathBuf,
        /// The gap, and the revision up to which the database is certainly complete.
        hole: Hole,
    },
    /// The reader of a snapshot was too slow: too many records changed meanwhile to keep their old versions.
    #[error("{}: too much was written while this was read; try again, or when there are fewer writes", .0.display())]
    SnapshotGivenUp(PathBuf),
    /// A write needs more room on the disk than there is. The database is sound.
    #[error("{}: the disk has no room for the {} MiB that a write may need; free some", .0.display(), ROOM >> 20)]
    NoRoom(PathBuf),
    /// The database cannot be served under its new declaration.
    #[error("{}: the declaration contradicts the database: {what}", .path.display())]
    Contradiction {
        /// The database.
        path: PathBuf,
        /// The contradiction, and how to resolve it.
        what: String,
    },
    /// The process was told to end.
    #[error("{}: stopped before all indexes were built; the next start builds them", .0.display())]
    Interrupted(PathBuf),
    /// Two records have the same text id.
    #[error("{}: two records have the id {text:?}", .path.display())]
    IdTaken {
        /// The database, which is then useless.
        path: PathBuf,
        /// The id.
        text: String,
        /// The number of the second record.
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

/// A handle to the records of one collection. Clones share the database.
#[derive(Clone)]
pub struct Store {
    db: sled::Db,
    collection: Collection,
    made_by: Collection,
    shared: Arc<Shared>,
}

/// The state that the clones of a store share, beside sled's own.
struct Shared {
    /// A handle to sled's own file, for the syncs and reservations that sled does not do.
    file: File,
    path: PathBuf,
    history: u64,
    damage: Damage,
    /// Whether a write or a sync of the database's files has failed since it was opened.
    failed: AtomicBool,
    /// Whether sled's file is longer than [`LONG`].
    is_long: AtomicBool,
    /// The number of buckets of text ids.
    buckets: AtomicU64,
    read_only: AtomicBool,
    snapshots: Snapshots,
    stamps: Stamps,
    pages: OnceLock<Arc<dyn PageCache>>,
    gate: Gate,
    changes: History,
    fresh: Fresh,
    unlisted: Unlisted,
    /// The counters after the committer's last step; `None` before the first.
    counters: RwLock<Option<Counters>>,
}

/// A record as it lies in the database.
pub struct Stored {
    value: PageBytes,
    json: Range<usize>,
    /// The record's number.
    pub id: Id,
    /// The database's revision when the record was written.
    pub revision: u64,
    /// Whether the split gave the record its id, from its position in the file.
    pub id_from_position: bool,
    /// Tells whether the record is still current. Only [`Store::get`] and [`Store::find`] take it.
    pub stamp: Stamp,
}

impl Stored {
    /// Returns the record's JSON, as it is sent.
    pub fn json(&self) -> &[u8] {
        &self.value[self.json.clone()]
    }

    /// Returns the record's JSON in the memory that it lies in, without a copy.
    pub fn into_json(self) -> Bytes {
        Bytes::from_owner(self.value).slice(self.json)
    }
}

impl Store {
    /// Opens the existing database at `path` and replays its journal. All that it then holds is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if the journal lacks entries that it must have; [`StoreError::OldLayout`] for the layout's
    /// first version. [`Folder::open`] handles both.
    pub fn open(path: &Path, collection: Collection, purpose: Purpose) -> Result<Self, StoreError> {
        let mut store = Self::open_unproven(path, collection, purpose)?;
        commit::journal::recover(&store)?;
        store.read_note()?;
        store.renew_names()?;
        store.read_fresh()?;
        store.read_unlisted()?;
        Ok(store)
    }

    /// Opens the database without reading its journal or its note.
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
        let (damage, failed, read_only, snapshots, stamps, gate, changes, fresh, unlisted, counters) =
            Default::default();
        let (pages, is_long) = (OnceLock::new(), AtomicBool::new(file.metadata().is_ok_and(|file| file.len() > LONG)));
        let (path, buckets) = (path.to_owned(), AtomicU64::new(1));
        let shared = Arc::new(Shared {
            file,
            path,
            history,
            damage,
            failed,
            is_long,
            buckets,
            read_only,
            snapshots,
            stamps,
            pages,
            gate,
            changes,
            fresh,
            unlisted,
            counters,
        });
        Ok(Self { db, collection, made_by: collection, shared })
    }

    /// Checks that the database answers and holds the right collection.
    pub fn check(&self) -> Result<(), StoreError> {
        self.identity().map(drop)
    }

    /// Returns how many faults were found since the database was opened, or `None` if none were.
    pub fn damage(&self) -> Option<u64> {
        self.shared.damage.found()
    }

    /// Marks the store as read-only: it is a copy of a database on a read-only file system.
    pub fn set_read_only(&self) {
        self.shared.read_only.store(true, Ordering::Relaxed);
    }

    /// Returns whether the store is marked as read-only.
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

    /// Creates an empty database at `path`, where nothing may exist yet.
    pub fn create(path: &Path, collection: Collection) -> Result<Self, StoreError> {
        fs::create_dir(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        let db = sled_files::open(path, Purpose::Passing)?;
        // The randomness is the standard library's: a service is in its sandbox by now, where crates that fall back on
        // /dev/urandom, as with musl, fail.
        let history = RandomState::new().hash_one(path);
        let store = Self::with(db, path, collection, history)?;
        let name = collection.name().to_owned();
        store.put(layout::DATABASE_KEY, &layout::encode(Identity { name, history }))?;
        store.put_counters(Counters { revision: load::FIRST_REVISION, ..Counters::default() })?;
        store.note_all()?;
        if collection.has_text_ids() {
            store.count_buckets(1)?;
        }
        Ok(store)
    }

    /// Returns the collection whose records these are.
    pub fn collection(&self) -> Collection {
        self.collection
    }

    /// Returns the path of the database.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Returns the set of all records, as the database counts it during writes.
    pub fn counted(&self) -> Result<RecordSet, StoreError> {
        Ok(self.counters()?.records)
    }

    /// Returns the revision of the database, and the set of all its records at that revision.
    pub fn state(&self) -> Result<(u64, RecordSet), StoreError> {
        self.counters().map(|counters| (counters.revision, counters.records))
    }

    /// Returns the revision of the database.
    pub fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.counters()?.revision)
    }

    /// Returns the bytes of the database's files, its journal among them.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        let files = self.db.size_on_disk().map_err(|source| self.sled(source))?;
        Ok(files + fs::metadata(self.shared.path.join(commit::journal::NAME)).map_or(0, |journal| journal.len()))
    }

    /// Returns the bytes of the file system that the database lies on, and those of them that are free for it.
    pub fn room(&self) -> Result<(u64, u64), StoreError> {
        let system = rustix::fs::fstatvfs(&self.shared.file).map_err(|error| self.io(error.into()))?;
        Ok((system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize))
    }

    /// Returns a number that differs between databases that began apart.
    pub fn history(&self) -> u64 {
        self.shared.history
    }

    /// Reads record `id`.
    pub fn get(&self, id: Id) -> Result<Option<Stored>, StoreError> {
        self.read(id, true)
    }

    /// Reads record `id`, alone or for a list.
    fn read(&self, id: Id, single: bool) -> Result<Option<Stored>, StoreError> {
        let (page, slot) = layout::place(id);
        let key = layout::page_key(page);
        let mut before = None;
        loop {
            let Some((stamp, value)) = self.page_value(page, single)? else { return Ok(None) };
            let entry = Page::read(&key, &value).and_then(|page| page.find(slot));
            let Some(entry) = entry.map_err(|what| self.damaged(&key, &what))? else { return Ok(None) };
            match self.stored(&value, id, &entry)? {
                Some(stored) => return Ok(Some(Stored { stamp, ..stored })),
                // The page was rewritten after it was read.
                None if before.as_deref() != Some(&*value) => before = Some(value),
                None => {
                    return Err(
                        self.corrupt(&format!("record {id} lies apart from its page, and a part of it is gone"))
                    );
                }
            }
        }
    }

    /// Iterates over all records in id order.
    pub fn records(&self) -> impl Iterator<Item = Result<(Id, Stored), StoreError>> + Send + Sync + use<> {
        let store = self.clone();
        self.scan(&[layout::PAGE]).flat_map(move |page| match page.and_then(|(key, value)| store.page(&key, &value)) {
            Ok(records) => records.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    /// Iterates over the ids from `from` on, with the revisions of their records.
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

    /// Returns the ids and revisions of the records of a page.
    fn revisions_in(&self, key: &[u8], value: &[u8]) -> Result<Vec<(Id, u64)>, StoreError> {
        let page = layout::page_of(key).ok_or_else(|| self.damaged(key, "it is not a page's key"))?;
        let entries = Page::read(key, value).map_err(|what| self.damaged(key, &what))?;
        let revision = |entry: Result<layout::Entry, String>| {
            let entry = entry.map_err(|what| self.damaged(key, &what))?;
            let id = layout::id_at(page, entry.slot).ok_or_else(|| self.damaged(key, "it holds an invalid id"))?;
            Ok((id, entry.revision))
        };
        entries.iter().map(revision).collect()
    }

    /// Returns the records of a page.
    fn page(&self, key: &[u8], value: &sled::IVec) -> Result<Vec<(Id, Stored)>, StoreError> {
        let page = layout::page_of(key).ok_or_else(|| self.damaged(key, "it is not a page's key"))?;
        let entries = Page::read(key, value).map_err(|what| self.damaged(key, &what))?;
        let mut records = Vec::new();
        for entry in entries.iter() {
            let entry = entry.map_err(|what| self.damaged(key, &what))?;
            let id = layout::id_at(page, entry.slot).ok_or_else(|| self.damaged(key, "it holds an invalid id"))?;
            let stored = match self.stored(value, id, &entry)? {
                Some(stored) => Some(stored),
                None => self.get(id)?,
            };
            records.extend(stored.map(|stored| (id, stored)));
        }
        Ok(records)
    }

    /// Returns the highest id. For a damaged last page, returns the highest id that it can hold: ids may be skipped,
    /// but none is given twice.
    pub(crate) fn last_id(&self) -> Result<Option<Id>, StoreError> {
        let Some(page) = self.db.scan_prefix([layout::PAGE]).next_back() else { return Ok(None) };
        let (key, value) = page.map_err(|source| self.sled(source))?;
        let slot = Page::read(&key, &value).ok().and_then(Page::last_slot);
        Ok(layout::page_of(&key).and_then(|page| layout::id_at(page, slot.unwrap_or(layout::LAST_SLOT))))
    }

    /// Iterates over the records that `index` lists under `term`, in id order.
    pub fn find(
        &self,
        index: Index,
        term: &Term,
    ) -> impl Iterator<Item = Result<Stored, StoreError>> + Send + Sync + use<> {
        let store = self.clone();
        // A missing record was deleted after the list was read.
        self.ids(index, term).filter_map(move |id| id.and_then(|id| store.read(id, false)).transpose())
    }

    /// Makes all writes durable: when it returns, they survive a power loss.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|source| self.sled(source))?;
        fail_point!("between flush and sync");
        // sled's flush hands the data to the system (sync_file_range); only this sync makes it durable.
        self.shared.file.sync_data().map_err(|source| self.io(source))
    }

    /// Reserves [`ROOM`] on the disk behind the end of sled's file.
    #[cfg(target_os = "linux")]
    fn reserve(&self) -> Result<(), StoreError> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        let length = self.shared.file.metadata().map_err(|source| self.io(source))?.len();
        self.shared.is_long.store(length > LONG, Ordering::Relaxed);
        match fallocate(&self.shared.file, FallocateFlags::KEEP_SIZE, length, ROOM) {
            // Not every file system supports this; there a lack of room shows when sled writes.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) => Err(StoreError::NoRoom(self.shared.path.clone())),
            Err(error) => Err(self.io(error.into())),
        }
    }

    /// Reserves nothing: only on Linux can a file's room grow without its length. A full disk shows when sled writes.
    #[cfg(not(target_os = "linux"))]
    fn reserve(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Checks that a restart would find [`ROOM`].
    fn probe(&self) -> Result<(), StoreError> {
        let path = self.shared.path.with_extension("room");
        let written = fs::write(&path, vec![0; ROOM as usize]).and_then(|()| File::open(&path)?.sync_all());
        let removed = fs::remove_file(&path);
        written.and(removed).map_err(|_| StoreError::NoRoom(self.shared.path.clone()))
    }

    /// Iterates over the keys that begin with `prefix` and their values. Values are checked, except pages.
    ///
    /// sled frees memory only when it has noted 64 accesses in one of its 256 queues, and a scan notes one access per
    /// leaf: up to 16,384 leaves would pile up beyond the cache. So each key notes one more access.
    fn scan(&self, prefix: &[u8]) -> Scan {
        self.checked(self.db.scan_prefix(prefix))
    }

    /// Checks the values of `pairs`, as [`scan`](Self::scan) does.
    fn checked(
        &self,
        pairs: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>> + Send + Sync + 'static,
    ) -> Scan {
        let store = self.clone();
        Box::new(pairs.map(move |pair| {
            let (key, value) = pair.map_err(|source| store.sled(source))?;
            // The result does not matter: an error shows again at the next key.
            let _ = store.db.contains_key(&key);
            if key.first() != Some(&layout::PAGE) {
                store.verify(&key, &value)?;
            }
            Ok((key, value))
        }))
    }

    /// Returns the checked value under `key`.
    fn value(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        let value = self.unchecked(key)?;
        if let Some(value) = &value {
            self.verify(key, value)?;
        }
        Ok(value)
    }

    /// Returns the value under `key`; the caller must check it.
    fn unchecked(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.db.get(key).map_err(|source| self.sled(source))
    }

    /// Checks that `value` was written under `key`.
    fn verify(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        layout::unseal(key, value).map(drop).map_err(|what| self.damaged(key, &what))
    }

    /// Decodes the value under `key`.
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

    /// Returns the counters after the last step. Those in the database may lag behind the journal.
    fn counters(&self) -> Result<Counters, StoreError> {
        match *self.shared.counters.read().unwrap_or_else(PoisonError::into_inner) {
            Some(counters) => Ok(counters),
            None => self.stored_counters(),
        }
    }

    /// Notes the counters of a step that the database has.
    fn note_counters(&self, counters: Counters) {
        *self.shared.counters.write().unwrap_or_else(PoisonError::into_inner) = Some(counters);
    }

    fn stored_counters(&self) -> Result<Counters, StoreError> {
        self.decoded(layout::COUNTERS_KEY)?.ok_or_else(|| self.corrupt("its counters are gone"))
    }

    fn put_counters(&self, counters: Counters) -> Result<(), StoreError> {
        self.put(layout::COUNTERS_KEY, &layout::encode(counters))
    }

    /// Returns the journal's lap, as the database has it: 0 before the first.
    fn lap(&self) -> Result<u64, StoreError> {
        Ok(self.decoded(layout::LAP_KEY)?.unwrap_or_default())
    }

    /// Applies the step atomically.
    fn apply(&self, step: &Step) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        step.puts.iter().for_each(|(key, value)| batch.insert(&key[..], &value[..]));
        step.removes.iter().for_each(|key| batch.remove(&key[..]));
        batch.insert(layout::COUNTERS_KEY, layout::seal(layout::COUNTERS_KEY, &layout::encode(step.counters)));
        self.shared.stamps.change(step, || self.db.apply_batch(batch).map_err(|source| self.sled(source)))?;
        self.recount_buckets()
    }

    /// Applies the step without its counters, change by change. A batch costs more, since sled writes it twice and
    /// blocks reads meanwhile; but a crash during this may leave a part.
    fn apply_in_parts(&self, step: &Step) -> Result<(), StoreError> {
        self.shared.stamps.change(step, || {
            for (key, value) in &step.puts {
                fail_point!("within the step");
                self.db.insert(key, &value[..]).map_err(|source| self.sled(source))?;
            }
            for key in &step.removes {
                self.db.remove(key).map_err(|source| self.sled(source))?;
            }
            Ok(())
        })?;
        self.recount_buckets()
    }

    /// Returns the record of `entry`, read from `page`, or `None` if it lies apart and a part is missing.
    fn stored<P>(&self, page: &P, id: Id, entry: &layout::Entry) -> Result<Option<Stored>, StoreError>
    where
        P: Clone + Deref<Target = [u8]> + Into<PageBytes>,
    {
        let &layout::Entry { revision, id_from_position, json, .. } = entry;
        let Some(json) = json else {
            let parts = self.parts(id, revision)?;
            return Ok(parts.map(|(value, json)| Stored {
                value: value.into(),
                json,
                id,
                revision,
                id_from_position,
                stamp: Stamp::NONE,
            }));
        };
        let begin = json.as_ptr() as usize - page.as_ptr() as usize;
        let (value, json) = (page.clone().into(), begin..begin + json.len());
        Ok(Some(Stored { value, json, id, revision, id_from_position, stamp: Stamp::NONE }))
    }

    /// Joins the parts of a record that lies apart; returns them and the range of the JSON. Returns `None` if a part is
    /// missing.
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

    /// Converts the system's error on one of the database's files, and notes that the file's state is unknown.
    fn io_of(&self, file: &str, source: io::Error) -> StoreError {
        self.shared.failed.store(true, Ordering::Relaxed);
        StoreError::Io { path: self.shared.path.join(file), source }
    }

    /// Converts a fault in the value under `key`.
    fn damaged(&self, key: &[u8], what: &str) -> StoreError {
        self.corrupt(&format!("{}: {what}", layout::describe_key(key)))
    }

    fn corrupt(&self, what: &str) -> StoreError {
        self.shared.damage.note();
        StoreError::Corrupt { path: self.shared.path.clone(), what: what.to_owned() }
    }
}

/// An iterator over keys and values; values are checked, except pages.
type Scan = Box<dyn Iterator<Item = Result<(sled::IVec, sled::IVec), StoreError>> + Send + Sync>;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
