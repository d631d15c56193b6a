//! The numbers of text ids: a hash table that grows one bucket at a time (linear hashing).
//!
//! A lookup knows from a text's hash and the number of buckets under which key it would be, so it reads one value. For
//! each [`BUCKET_NAMES`] further records one bucket is halved: its second half becomes a bucket of its own.
//!
//! Reads go on meanwhile. A reader that knows the former number of buckets finds a name where it was, since a halved
//! bucket keeps the names of both halves until its next change. If it comes even later, the number has changed, and it
//! looks again.
//!
//! The newest names are in memory, and only later in a bucket: see [`unlisted`](super::unlisted).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use record::declaration::read_id_text;
use record::id::Id;
use record::json::members;
use record::model::Index;
use sled::IVec;

use super::layout::{self, BUCKET_NAMES, BUCKETS_KEY, Name, Step};
use super::sorter::Sorter;
use super::{Store, StoreError, Stored, at};

impl Store {
    /// Returns the number of the record with the id `text`, where ids are texts.
    pub fn number_of(&self, text: &str) -> Result<Option<Id>, StoreError> {
        Ok(self.find_named(text)?.map(|(number, _)| number))
    }

    /// Reads the record with the id `text`, where ids are texts.
    pub fn get_named(&self, text: &str) -> Result<Option<Stored>, StoreError> {
        Ok(self.find_named(text)?.map(|(_, stored)| stored))
    }

    fn find_named(&self, text: &str) -> Result<Option<(Id, Stored)>, StoreError> {
        let hash = self.hash_of(text);
        // Looked up first: they may move into their bucket meanwhile.
        if let Some(found) = self.find_among(self.shared.unlisted.numbers_under(hash), text)? {
            return Ok(Some(found));
        }
        loop {
            let buckets = self.buckets();
            let bucket = self.value(&layout::bucket_key(layout::bucket_of(hash, buckets)))?;
            let body = bucket.as_ref().map_or(&[][..], |bucket| &bucket[layout::BODY..]);
            if let Some(found) = self.find_among(layout::numbers_under(body, hash), text)? {
                return Ok(Some(found));
            }
            if self.buckets() == buckets {
                break;
            }
        }
        self.shared.unlisted.unread().into_iter().try_for_each(|id| self.get(id).map(drop))?;
        Ok(None)
    }

    /// Finds the record with the id `text` among those with these `numbers`.
    fn find_among(
        &self,
        numbers: impl IntoIterator<Item = Id>,
        text: &str,
    ) -> Result<Option<(Id, Stored)>, StoreError> {
        for number in numbers {
            if let Some(stored) = self.get(number)?
                && read_text_id(&stored).as_deref() == Some(text)
            {
                return Ok(Some((number, stored)));
            }
        }
        Ok(None)
    }

    /// Returns the text id of a record.
    fn text_of(&self, number: Id) -> Result<Option<Box<str>>, StoreError> {
        Ok(self.get(number)?.as_ref().and_then(read_text_id).map(Box::from))
    }

    /// Computes the hash of a text id.
    pub(super) fn hash_of(&self, text: &str) -> u64 {
        layout::hash_of(self.history(), text)
    }

    /// Returns the number of buckets.
    pub(super) fn buckets(&self) -> u64 {
        self.shared.buckets.load(Ordering::Acquire)
    }

    /// Returns whether the name is listed.
    pub(super) fn lists_name(&self, name: Name) -> Result<bool, StoreError> {
        if self.shared.unlisted.has(&name) {
            return Ok(true);
        }
        let first_hash = layout::bucket_of(name.0, self.buckets());
        Ok(self.names_in(first_hash, self.value(&layout::bucket_key(first_hash))?)?.contains(&name))
    }

    /// Returns all names in a bucket with this value, also those that moved to a newer one.
    fn names_in(&self, first_hash: u64, value: Option<IVec>) -> Result<Vec<Name>, StoreError> {
        let Some(value) = value else { return Ok(Vec::new()) };
        let damaged = |what: String| self.damaged(&layout::bucket_key(first_hash), &what);
        layout::decode_names(&value[layout::BODY..]).map_err(damaged)
    }

    /// Returns the names of the bucket with this key and checked value.
    pub(super) fn names_under(&self, key: &[u8], value: &[u8]) -> Result<Vec<Name>, StoreError> {
        let damaged = |what: &str| self.damaged(key, what);
        let first_hash = layout::first_hash(key).ok_or_else(|| damaged("it is not a bucket's key"))?;
        let mut names = layout::decode_names(&value[layout::BODY..]).map_err(|what| damaged(&what))?;
        names.retain(|(hash, _)| layout::bucket_of(*hash, self.buckets()) == first_hash);
        Ok(names)
    }

    /// Adds the puts to `step` that list the names of `changes` marked `true` and unlist those marked `false`, in order.
    /// There are then so many `records`.
    pub(super) fn change_names(
        &self,
        changes: &[(Name, bool)],
        records: u64,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        let before = self.buckets();
        let after = before.max(records / BUCKET_NAMES);
        let mut changed: BTreeMap<u64, Vec<(Name, bool)>> =
            (before..after).map(|buckets| (layout::next_bucket(buckets), Vec::new())).collect();
        for change in changes {
            changed.entry(layout::bucket_of(change.0.0, after)).or_default().push(*change);
        }
        for (first_hash, changes) in changed {
            let source = layout::bucket_of(first_hash, before);
            let old = self.names_in(source, self.value(&layout::bucket_key(source))?)?;
            // Readers that know the number of buckets before may look for names where they were.
            let buckets = if source == first_hash { before } else { after };
            let mut names = old.clone();
            names.retain(|(hash, _)| layout::bucket_of(*hash, buckets) == first_hash);
            for (name, listed) in changes {
                match (names.binary_search(&name), listed) {
                    (Err(place), true) => names.insert(place, name),
                    (Ok(place), false) => drop(names.remove(place)),
                    _ => {}
                }
            }
            if source != first_hash || names != old {
                step.put(layout::bucket_key(first_hash), &layout::encode_names(&names));
            }
        }
        if after > before {
            step.put(BUCKETS_KEY, &layout::encode(after));
        }
        Ok(())
    }

    /// Reads the number of buckets again, after changes.
    pub(super) fn recount_buckets(&self) -> Result<(), StoreError> {
        if !self.made_by.has_text_ids() {
            return Ok(());
        }
        if let Some(buckets) = self.decoded::<u64>(BUCKETS_KEY)? {
            self.shared.buckets.store(buckets.max(1), Ordering::Release);
        }
        Ok(())
    }

    /// Writes the number of buckets.
    pub(super) fn count_buckets(&self, buckets: u64) -> Result<(), StoreError> {
        self.put(BUCKETS_KEY, &layout::encode(buckets))?;
        self.recount_buckets()
    }

    /// Writes the names of so many `records`, of which the database has none yet, in key order. Returns the number of
    /// buckets.
    pub(super) fn write_names(&self, records: u64, entries: Sorter) -> Result<u64, StoreError> {
        let buckets = (records / BUCKET_NAMES).max(1);
        let (mut first_hash, mut names, mut taken) = (0, Vec::<Name>::new(), None::<(Id, String)>);
        for entry in entries.sorted().map_err(at(self.path()))? {
            let (term, number) = entry.map_err(at(self.path()))?;
            let hash = term.head();
            let next = layout::bucket_of(hash, buckets);
            if next != first_hash {
                self.put(&layout::bucket_key(first_hash), &layout::encode_names(&names))?;
                (first_hash, names) = (next, Vec::new());
            }
            for (_, other) in names.iter().rev().take_while(|name| name.0 == hash) {
                let text = self.text_of(number)?;
                if text.is_some() && text == self.text_of(*other)? && taken.as_ref().is_none_or(|(id, _)| number < *id)
                {
                    taken = text.map(|text| (number, text.into()));
                }
            }
            names.push((hash, number));
        }
        self.put(&layout::bucket_key(first_hash), &layout::encode_names(&names))?;
        match taken {
            Some((second, text)) => Err(StoreError::IdTaken { path: self.path().to_owned(), text, second }),
            None => Ok(buckets),
        }
    }

    /// Counts the buckets of a database that was opened. If it is one of an earlier version, which lists text ids in
    /// order, builds them first. If this is interrupted, the next opening repeats it.
    pub(super) fn renew_names(&self) -> Result<(), StoreError> {
        if !self.made_by.has_text_ids() || self.value(BUCKETS_KEY)?.is_some() {
            return self.recount_buckets();
        }
        let path = self.path().display();
        log::info!("{path}: building the index of text ids in its new layout, once");
        self.remove_index(Index::IDS.0)?;
        let folder = self.path().parent().expect("a database has a name");
        let mut entries = Sorter::default();
        for record in self.records() {
            let (id, _) = record?;
            let text = self.text_of(id)?.ok_or_else(|| self.corrupt(&format!("record {id} has no text id")))?;
            entries.push_head(self.hash_of(&text), id, folder).map_err(at(folder))?;
        }
        let buckets = self.write_names(self.counted()?.count, entries)?;
        self.sync()?;
        self.count_buckets(buckets)?;
        self.sync()
    }
}

/// Returns the text id of a record.
pub(super) fn read_text_id(stored: &Stored) -> Option<Cow<'_, str>> {
    let json = str::from_utf8(stored.json()).unwrap_or_default();
    members(json).find(|(key, _)| *key == "id").and_then(|(_, id)| read_id_text(id))
}
