//! A group of writes that are decided but not yet done.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use record::id::Id;
use record::json;
use record::model::{Collection, Record, Terms};
use smallvec::SmallVec;

use crate::layout::Step;
use crate::{Change, KeptRecord, Position, RecordChange, StoreError, Writer};

/// The changes of a group of writes.
#[derive(Default)]
pub(crate) struct Group {
    /// The time at which its writes are decided, in seconds since 1970.
    pub(crate) time: u64,
    /// The position behind it, if a replica's stream has it.
    pub(crate) position: Option<Position>,
    pub(crate) records: BTreeMap<Id, Now>,
    pub(crate) kept: HashMap<String, KeptRecord>,
    /// All changes in the order of their revisions; a record may have several.
    pub(crate) changes: Vec<RecordChange>,
    /// The number of bytes of the records decided so far.
    pub(crate) bytes: usize,
    /// The error that sled returned while a decision read.
    pub(crate) failed: OnceCell<StoreError>,
}

/// A record's state once its group is committed.
pub(crate) enum Now {
    There { revision: u64, draft: Draft },
    Gone,
}

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.kept.is_empty()
    }

    /// Adds the group's changes to `step`.
    pub(crate) fn step(&self, writer: &mut Writer, step: &mut Step) -> Result<(), StoreError> {
        let changes: Vec<Change> = self.records.iter().map(|(id, now)| now.as_change(*id)).collect();
        writer.step(&changes, step)
    }
}

/// A record that fits its model. Its index terms are known before it is put.
pub struct Draft {
    id: Id,
    json: Arc<str>,
    terms: Terms,
}

impl Draft {
    /// Reads `json`, the canonical text of the record `id`; returns `None` if it does not fit its model.
    pub(super) fn read(collection: Collection, id: Id, json: &str) -> Option<Self> {
        let members: SmallVec<[_; 8]> = json::members(json).collect();
        Some(Self { id, json: json.into(), terms: collection.terms(&members, id)? })
    }

    /// Returns the change that puts the record at `revision`.
    pub(super) fn as_record_change(&self, revision: u64) -> RecordChange {
        RecordChange::new(revision, self.id, Arc::clone(&self.json), false)
    }

    /// Returns the record.
    pub fn record(&self) -> Record<'_> {
        Record { id: self.id, id_from_position: false, position: None, source: &self.json, terms: &self.terms }
    }
}

impl Now {
    /// Returns the record with its revision, or `None` if it is deleted.
    pub(super) fn there(&self) -> Option<(u64, Record<'_>)> {
        match self {
            Now::There { revision, draft } => Some((*revision, draft.record())),
            Now::Gone => None,
        }
    }

    fn as_change(&self, id: Id) -> Change<'_> {
        self.there().map_or(Change::Remove(id), |(revision, record)| Change::Put(record, revision))
    }
}
