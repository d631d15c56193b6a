//! `DIR/manifest.json`: the file that was split, and the resulting parts.
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
//! `digest` is the canonical one of [`Digests`](crate::digest::Digests). If a slice has ids in it that the split gave,
//! `"given": [[4, 9], [12, 12]]` lists them, as the first and the last of each range. In a collection with text ids,
//! `"numbers": [[1, 1, 8], [9, 12, 3]]` maps the slice's places, from 1, to their numbers in the database, unless both
//! are the same: the first place, its number, and the count of consecutive pairs.
//!
//! Version 1 had the members of `collections` beside `source`, without declarations: the workspace's declarations
//! apply.

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

/// The manifest of a split.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// The time of the split: RFC 3339, UTC.
    pub created: String,
    /// The file that was split.
    pub source: Identity,
    /// Whether the plan was given on the command line, instead of the workspace's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plan_given: bool,
    #[serde(with = "by_name")]
    collections: Vec<Entry>,
    /// The number of the file's records that were rejected.
    #[serde(default)]
    pub rejected: u64,
    /// The number of the file's records that only Node accepts, and that were read as Node reads them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub as_node: u64,
    /// References that lead nowhere.
    pub orphans: Orphans,
    /// Whether this is a restored backup whose split is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
}

/// One collection's part of a split.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The collection's declaration at the time of the split.
    pub declaration: Declaration,
    /// The number of records.
    pub records: u64,
    /// The canonical digest of the records.
    pub digest: String,
    /// The slice.
    pub slice: Identity,
    /// The ids in the slice that the split gave.
    #[serde(default, skip_serializing_if = "RoaringTreemap::is_empty", with = "ranges")]
    pub given: RoaringTreemap,
    /// The numbers of the slice's records in the database, if ids are texts.
    #[serde(default, skip_serializing_if = "Ids::are_positions")]
    pub numbers: Ids,
    /// The database right after the split; unknown if an older `seed` made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Moment>,
}

/// A database's state at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// The database's history, hexadecimal: each database has its own.
    pub history: String,
    /// Its revision: later writes have higher ones.
    pub revision: u64,
    /// The digest of its records, byte for byte, as the service keeps it.
    pub exact: String,
    /// The slice's records that the database had otherwise or not at all, because the service had changed them. The set
    /// may contain others.
    #[serde(default, skip_serializing_if = "RoaringTreemap::is_empty", with = "ranges")]
    pub differs: RoaringTreemap,
}

impl Moment {
    /// Reads the database's present state.
    pub fn of(store: &Store) -> Result<Self, Error> {
        let history = format!("{:016x}", store.history());
        let exact = store.counted()?.to_string();
        Ok(Self { history, revision: store.revision()?, exact, differs: RoaringTreemap::new() })
    }

    /// Returns the state of a database that was looked at.
    pub fn at(look: &Look, differs: RoaringTreemap) -> Self {
        let history = format!("{:016x}", look.history);
        Self { history, revision: look.revision, exact: look.records.to_string(), differs }
    }
}

impl Entry {
    /// Returns the collection.
    pub fn collection(&self) -> Collection {
        Collection::of(self.declaration.clone())
    }

    /// Returns the collection as which every record of the slice can be read: with its ids, without its fields. An
    /// update may have spared records that do not fit the present declaration; they stay in the slice as they were.
    pub fn in_slice(&self) -> Collection {
        let mut declaration = self.declaration.clone();
        (declaration.fields, declaration.indexes) = Default::default();
        Collection::of(declaration)
    }

    /// Opens the slice at `path` as one of `collection`, which is this one or [`in_slice`](Self::in_slice).
    pub fn open_slice(&self, path: &Path, collection: Collection) -> Result<Source, Error> {
        let mut given = AllGiven::default();
        given.set(collection, Given { ids: self.numbers.clone(), last_id: 0 });
        let reading = Reading { given, ..Reading::default() };
        Ok(Source::open(path, &Plan::of(collection))?.read_as(&Arc::new(reading)))
    }

    /// Returns the canonical digest as a set; `None` if it is malformed.
    pub fn canonical(&self) -> Option<RecordSet> {
        let mut set: RecordSet = self.digest.parse().ok()?;
        set.count = self.records;
        Some(set)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// (De)serializes entries by their collections' names, in the plan's order.
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

/// (De)serializes ids as ranges of consecutive ids: the first and the last of each.
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
    /// Creates the manifest of a split of `source` into `parts`.
    pub fn new(source: Identity, parts: Vec<Part>, rejected: u64, orphans: Orphans) -> Self {
        let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let collections = parts.into_iter().map(|Part { collection, digests, slice, .. }| Entry {
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

    /// Returns the entry of a collection.
    ///
    /// # Panics
    /// The collection is not in the split's plan.
    pub fn entry(&self, collection: Collection) -> &Entry {
        let found = self.collections.iter().find(|entry| *entry.declaration.name == *collection.name());
        found.expect("the collection is one of the split's")
    }

    /// Lists the collections that were split, in the plan's order.
    pub fn collections(&self) -> impl Iterator<Item = Collection> {
        self.collections.iter().map(Entry::collection)
    }

    /// Returns the plan of the split.
    pub fn plan(&self) -> Plan {
        self.collections().collect()
    }

    /// Notes the databases' states, in the plan's order.
    pub fn with_databases(mut self, moments: Vec<Moment>) -> Self {
        for (entry, moment) in self.collections.iter_mut().zip(moments) {
            entry.database = Some(moment);
        }
        self
    }

    /// Adds collections, in the order of `plan`.
    pub fn with_added(mut self, parts: Vec<Part>, moments: Vec<Moment>, orphans: Orphans, plan: &Plan) -> Self {
        let source = self.source.clone();
        let added = Self::new(source, parts, self.rejected, orphans).with_databases(moments);
        self.collections.extend(added.collections);
        self.collections.sort_by_key(|entry| plan.iter().position(|collection| collection == entry.collection()));
        self.orphans = added.orphans;
        self
    }

    /// Reads the manifest of the split in `data`; returns `None` if the file does not exist.
    pub fn read(data: &Path) -> Result<Option<Self>, Error> {
        Self::read_at(&data.join(MANIFEST))
    }

    /// Reads the manifest at `path`; returns `None` if the file does not exist.
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

    /// Returns the manifest as the text of its file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a manifest can be written as JSON") + "\n"
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Reads a manifest of version 1 as one of the present version, with the workspace's collections.
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
