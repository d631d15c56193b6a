//! `DIR/manifest.json`: what was split, and into what.
//!
//! ```json
//! {
//!   "version": 1,
//!   "created": "2026-11-23T00:00:00Z",
//!   "source": { "sha256": "…", "bytes": 1585 },
//!   "users": { "records": 4, "digest": "…", "slice": { "sha256": "…", "bytes": 471 } },
//!   "threads": …,
//!   "posts": …,
//!   "rejected": 0,
//!   "orphans": { "threads_by_user": 0, "posts_in_thread": 0, "posts_by_user": 0 }
//! }
//! ```
//!
//! `digest` is the canonical one of [`Digests`](crate::digest::Digests). Where a slice has ids in it that the split gave,
//! `"given": [[4, 9], [12, 12]]` is beside it: from the first to the last of each row.

use std::path::Path;
use std::time::SystemTime;
use std::{fs, io};

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use shared::desk::Look;
use shared::model::Collection;
use shared::record_set::RecordSet;
use shared::store::Store;

use crate::error::Error;
use crate::identity::{Identity, folder_of};
use crate::orphans::Orphans;
use crate::split::Part;

/// The manifest's name.
pub const MANIFEST: &str = "manifest.json";

const VERSION: u32 = 1;

/// What was split, and into what.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// RFC 3339, UTC.
    pub created: String,
    /// The file that was split.
    pub source: Identity,
    users: Entry,
    threads: Entry,
    posts: Entry,
    /// How many of the file's records were rejected.
    #[serde(default)]
    pub rejected: u64,
    /// How many of the file's records only Node takes, and were taken as Node takes them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub as_node: u64,
    /// References that lead nowhere.
    pub orphans: Orphans,
    /// Whether this is no split but a backup of which the split is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
}

/// What a collection was split into.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// How many.
    pub records: u64,
    /// What they mean.
    pub digest: String,
    /// Their slice.
    pub slice: Identity,
    /// Of the ids that stand in the slice, those that the split gave.
    #[serde(default, skip_serializing_if = "RoaringTreemap::is_empty", with = "ranges")]
    pub given: RoaringTreemap,
    /// The database when it was as split; not known of one that an earlier `seed` has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Moment>,
}

/// A database at a moment of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// Which database it is, hexadecimal: another has another history.
    pub history: String,
    /// Its revision: whatever is written later has a higher one.
    pub revision: u64,
    /// The digest of its records, byte for byte, as the service keeps it.
    pub exact: String,
    /// Records of the slice that were something else in the database then, or not there: what their service has changed
    /// before. There may be others among them.
    #[serde(default, skip_serializing_if = "RoaringTreemap::is_empty", with = "ranges")]
    pub differs: RoaringTreemap,
}

impl Moment {
    /// The database now.
    pub fn of(store: &Store) -> Result<Self, Error> {
        let history = format!("{:016x}", store.history());
        let exact = store.counted()?.to_string();
        Ok(Self { history, revision: store.revision()?, exact, differs: RoaringTreemap::new() })
    }

    /// The same of a database that was looked at.
    pub fn at(look: &Look, differs: RoaringTreemap) -> Self {
        let history = format!("{:016x}", look.history);
        Self { history, revision: look.revision, exact: look.records.to_string(), differs }
    }
}

impl Entry {
    /// What the records mean, as a set.
    pub fn canonical(&self) -> Option<RecordSet> {
        let mut set: RecordSet = self.digest.parse().ok()?;
        set.count = self.records;
        Some(set)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it on so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Ids as rows of the first and the last of those that follow on each other.
mod ranges {
    use roaring::RoaringTreemap;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(ids: &RoaringTreemap, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows: Vec<(u64, u64)> = Vec::new();
        for id in ids {
            match rows.last_mut() {
                Some((_, last)) if *last + 1 == id => *last = id,
                _ => rows.push((id, id)),
            }
        }
        serializer.collect_seq(rows)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoaringTreemap, D::Error> {
        let mut ids = RoaringTreemap::new();
        for (first, last) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            ids.insert_range(first..=last);
        }
        Ok(ids)
    }
}

impl Manifest {
    /// The manifest of a split of `source` into `parts`, in the order of [`Collection::ALL`].
    pub fn new(source: Identity, parts: Vec<Part>, rejected: u64, orphans: Orphans) -> Self {
        let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut entries = parts.into_iter().map(|Part { digests, slice }| Entry {
            records: digests.canonical.count,
            digest: digests.canonical.to_string(),
            slice: slice.file,
            given: slice.given,
            database: None,
        });
        let mut next = || entries.next().expect("there are three collections");
        let (users, threads, posts) = (next(), next(), next());
        Self {
            version: VERSION,
            created,
            source,
            users,
            threads,
            posts,
            rejected,
            as_node: 0,
            orphans,
            restored: false,
        }
    }

    /// What became of a collection.
    pub fn entry(&self, collection: Collection) -> &Entry {
        match collection {
            Collection::Users => &self.users,
            Collection::Threads => &self.threads,
            Collection::Posts => &self.posts,
        }
    }

    /// Notes the databases as they are now, in the order of [`Collection::ALL`].
    pub fn with_databases(mut self, moments: Vec<Moment>) -> Self {
        for (entry, moment) in [&mut self.users, &mut self.threads, &mut self.posts].into_iter().zip(moments) {
            entry.database = Some(moment);
        }
        self
    }

    /// Reads the manifest of the split in `data`.
    pub fn read(data: &Path) -> Result<Option<Self>, Error> {
        Self::read_at(&data.join(MANIFEST))
    }

    /// Reads the manifest at `path`.
    pub fn read_at(path: &Path) -> Result<Option<Self>, Error> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path)(error)),
        };
        let data = folder_of(path);
        match serde_json::from_slice::<Self>(&text) {
            Ok(manifest) if manifest.version == VERSION => Ok(Some(manifest)),
            Ok(manifest) => Err(Error::occupied(data, format!("its manifest has version {}", manifest.version))),
            Err(error) => Err(Error::occupied(data, format!("its {MANIFEST} is not one of ours: {error}"))),
        }
    }

    /// The manifest as a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a manifest can be written as JSON") + "\n"
    }
}
