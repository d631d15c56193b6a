//! What a group of writes does: decided, and not yet done.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use record::id::Id;
use record::json::Fault;
use record::model::{Collection, Record, Records};

use crate::layout::{self, KeptAnswer, Step};
use crate::{Change, StoreError, Writer};

/// What a group of writes changes.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) records: BTreeMap<Id, Now>,
    pub(crate) kept: HashMap<String, KeptRecord>,
    /// How many bytes of records were decided.
    pub(crate) bytes: usize,
    /// What sled failed with while a decision read.
    pub(crate) failed: OnceCell<StoreError>,
}

/// What a record is, once its group is committed.
pub(crate) enum Now {
    There { revision: u64, record: Records },
    Gone,
}

/// The answer to a request with an idempotency key.
#[derive(Clone, Debug)]
pub struct KeptRecord {
    /// What the request was: a digest of it.
    pub request: [u8; 32],
    /// Whose record was answered.
    pub id: Id,
    /// The revision that was answered.
    pub revision: u64,
    /// The record that was answered.
    pub json: String,
    /// When it may be forgotten, in seconds since 1970.
    pub until: u64,
}

impl KeptRecord {
    /// How long it is kept, in seconds.
    pub const SECONDS: u64 = 24 * 60 * 60;

    /// An answer that is kept from now on.
    pub fn new(request: [u8; 32], id: Id, revision: u64, json: String) -> Self {
        Self { request, id, revision, json, until: now() + Self::SECONDS }
    }

    /// Whether its time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.until <= now()
    }

    pub(crate) fn read(stored: &KeptAnswer) -> Result<Self, String> {
        let &KeptAnswer { request, id, revision, json, until } = stored;
        let id = Id::try_from(id).map_err(|_| "a kept answer is of no record")?;
        Ok(Self { request, id, revision, json: String::from_utf8_lossy(json).into_owned(), until })
    }

    pub(crate) fn as_stored(&self) -> KeptAnswer<'_> {
        let Self { request, id, revision, json, until } = self;
        KeptAnswer { request: *request, id: id.get(), revision: *revision, json: json.as_bytes(), until: *until }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.kept.is_empty()
    }

    /// What it means for the database.
    pub(crate) fn step(&self, writer: &mut Writer, step: &mut Step) -> Result<(), StoreError> {
        for (key, kept) in &self.kept {
            step.put(layout::kept_key(key), &layout::encode(kept.as_stored()));
            step.put(layout::forget_key(kept.until, key), b"");
        }
        let changes: Vec<Change> = self.records.iter().map(|(id, now)| now.as_change(*id)).collect();
        writer.step(&changes, step)
    }
}

impl Now {
    /// The record is there, as `revision`, and `json` is its text.
    pub(crate) fn put(collection: Collection, id: Id, revision: u64, json: &str) -> Result<Self, Fault> {
        let mut record = Records::new(collection, json.len());
        record.push_stored(json, id)?;
        Ok(Now::There { revision, record })
    }

    /// The record with its revision, if it is.
    pub(crate) fn there(&self) -> Option<(u64, Record<'_>)> {
        match self {
            Now::There { revision, record } => record.iter().next().map(|record| (*revision, record)),
            Now::Gone => None,
        }
    }

    fn as_change(&self, id: Id) -> Change<'_> {
        self.there().map_or(Change::Remove(id), |(revision, record)| Change::Put(record, revision))
    }
}
