//! `DIR/manifest.json`: what was split, and into what.
//!
//! ```json
//! {
//!   "version": 2,
//!   "created": "2026-11-23T00:00:00Z",
//!   "source": { "sha256": "…", "bytes": 1585 },
//!   "collections": {
//!     "users": { "declaration": …, "records": 4, "digest": "…", "slice": { "sha256": "…", "bytes": 471 } },
//!     …
//!   },
//!   "rejected": 0,
//!   "orphans": { "threads_by_user": 0, "posts_in_thread": 0, "posts_by_user": 0 }
//! }
//! ```
//!
//! `digest` is the canonical one of [`Digests`](crate::digest::Digests). Where a slice has ids in it that the split gave,
//! `"given": [[4, 9], [12, 12]]` is beside it: from the first to the last of each row. Where ids are texts,
//! `"numbers": [[1, 1, 8], [9, 12, 3]]` says which numbers in the database the slice's places have, from 1, if not their own:
//! the first place, its number, and how many follow on both.
//!
//! Version 1 had the members of `collections` beside `source`, without declarations: those of the workspace.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io};

use record::declaration::Declaration;
use record::model::Collection;
use record::record_set::RecordSet;
use roaring::RoaringTreemap;
use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use store::Store;
use store::desk::Look;

use crate::error::Error;
use crate::identity::{Identity, folder_of};
use crate::ids::{AllGiven, Given, Ids};
use crate::orphans::Orphans;
use crate::plan::Plan;
use crate::source::{Reading, Source};
use crate::splitting::Part;

/// The manifest's name.
pub const MANIFEST: &str = "manifest.json";

const VERSION: u32 = 2;

/// What was split, and into what.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// RFC 3339, UTC.
    pub created: String,
    /// The file that was split.
    pub source: Identity,
    /// Whether the plan was given, and is not the workspace's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plan_given: bool,
    #[serde(with = "by_name")]
    collections: Vec<Entry>,
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
    /// What the collection was when it was split.
    pub declaration: Declaration,
    /// How many.
    pub records: u64,
    /// What they mean.
    pub digest: String,
    /// Their slice.
    pub slice: Identity,
    /// Of the ids that stand in the slice, those that the split gave.
    #[serde(default, skip_serializing_if = "RoaringTreemap::is_empty", with = "ranges")]
    pub given: RoaringTreemap,
    /// The numbers of the slice's records in the database, where ids are texts.
    #[serde(default, skip_serializing_if = "Ids::are_positions")]
    pub numbers: Ids,
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
    /// The collection.
    pub fn collection(&self) -> Collection {
        Collection::of(self.declaration.clone())
    }

    /// What the slice's records are for sure: ids as declared. A record that an update has spared, since it does not fit what
    /// is declared by now, stays in the slice as it was.
    pub fn in_slice(&self) -> Collection {
        let mut declaration = self.declaration.clone();
        (declaration.fields, declaration.indexes) = Default::default();
        Collection::of(declaration)
    }

    /// Opens the slice at `path`, as one of `collection`: this one, or [`in_slice`](Self::in_slice).
    pub fn open_slice(&self, path: &Path, collection: Collection) -> Result<Source, Error> {
        let mut given = AllGiven::default();
        given.set(collection, Given { ids: self.numbers.clone(), last_id: 0 });
        let reading = Reading { given, ..Reading::default() };
        Ok(Source::open(path, &Plan::of(collection))?.read_as(&Arc::new(reading)))
    }

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

/// Entries by their collections' names, in the plan's order.
mod by_name {
    use std::fmt;

    use serde::de::{Deserializer, Error, MapAccess, Visitor};
    use serde::ser::Serializer;

    use super::Entry;

    pub(super) fn serialize<S: Serializer>(entries: &[Entry], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(entries.iter().map(|entry| (&entry.declaration.name, entry)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<Entry>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("collections by their names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Entry>, A::Error> {
                let mut entries: Vec<Entry> = Vec::new();
                while let Some((name, entry)) = map.next_entry::<String, Entry>()? {
                    entry.declaration.check().map_err(A::Error::custom)?;
                    if *entry.declaration.name != *name {
                        return Err(A::Error::custom(format!("{name:?} is declared as {:?}", entry.declaration.name)));
                    }
                    entries.push(entry);
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Entries)
    }
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
    /// The manifest of a split of `source` into `parts`.
    pub fn new(source: Identity, parts: Vec<Part>, rejected: u64, orphans: Orphans) -> Self {
        let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let collections = parts.into_iter().map(|Part { collection, digests, slice }| Entry {
            declaration: collection.declaration().clone(),
            records: digests.canonical.count,
            digest: digests.canonical.to_string(),
            slice: slice.file,
            given: slice.given,
            numbers: slice.numbers,
            database: None,
        });
        Self {
            version: VERSION,
            created,
            source,
            plan_given: false,
            collections: collections.collect(),
            rejected,
            as_node: 0,
            orphans,
            restored: false,
        }
    }

    /// What became of a collection.
    ///
    /// # Panics
    /// It is not in the split's plan.
    pub fn entry(&self, collection: Collection) -> &Entry {
        let found = self.collections.iter().find(|entry| *entry.declaration.name == *collection.name());
        found.expect("the collection is one of the split's")
    }

    /// What was split, in the plan's order.
    pub fn collections(&self) -> impl Iterator<Item = Collection> {
        self.collections.iter().map(Entry::collection)
    }

    /// The plan that was split by.
    pub fn plan(&self) -> Plan {
        self.collections().collect()
    }

    /// Notes the databases as they are now, in the plan's order.
    pub fn with_databases(mut self, moments: Vec<Moment>) -> Self {
        for (entry, moment) in self.collections.iter_mut().zip(moments) {
            entry.database = Some(moment);
        }
        self
    }

    /// The same with collections that were added, in the order of `plan`.
    pub fn with_added(mut self, parts: Vec<Part>, moments: Vec<Moment>, orphans: Orphans, plan: &Plan) -> Self {
        let source = self.source.clone();
        let added = Self::new(source, parts, self.rejected, orphans).with_databases(moments);
        self.collections.extend(added.collections);
        self.collections.sort_by_key(|entry| plan.iter().position(|collection| collection == entry.collection()));
        self.orphans = added.orphans;
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
        let wrong =
            |error: serde_json::Error| Error::occupied(data, format!("its {MANIFEST} is not one of ours: {error}"));
        let Version { version } = serde_json::from_slice(&text).map_err(wrong)?;
        match version {
            VERSION => serde_json::from_slice(&text).map(Some).map_err(wrong),
            1 => read_first_version(&text).map(Some).map_err(wrong),
            _ => Err(Error::occupied(data, format!("its manifest has version {version}"))),
        }
    }

    /// The manifest as a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a manifest can be written as JSON") + "\n"
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Reads a manifest of version 1, as one of today's: its collections are the workspace's.
fn read_first_version(text: &[u8]) -> Result<Manifest, serde_json::Error> {
    let mut manifest: Map<String, Value> = serde_json::from_slice(text)?;
    let plan = Plan::workspace();
    let mut collections = Map::new();
    for collection in plan.iter() {
        if let Some(Value::Object(mut entry)) = manifest.remove(collection.name()) {
            entry.insert("declaration".to_owned(), serde_json::to_value(collection.declaration())?);
            collections.insert(collection.name().to_owned(), entry.into());
        }
    }
    manifest.insert("version".to_owned(), VERSION.into());
    manifest.insert("collections".to_owned(), collections.into());
    let mut manifest: Manifest = serde_json::from_value(manifest.into())?;
    manifest.collections.sort_by_key(|entry| plan.iter().position(|collection| collection == entry.collection()));
    for name in ["users", "threads", "posts"] {
        if manifest.collections.iter().all(|entry| *entry.declaration.name != *name) {
            return Err(serde_json::Error::custom(format!("missing field `{name}`")));
        }
    }
    Ok(manifest)
}
