//! The text ids of the newest records, which no bucket lists yet.
//!
//! A new text id belongs to a bucket of its own: to list each at once, a group of writes would rewrite as many buckets
//! as it has records. So the names of records above the id in [`NAMED_KEY`] are listed in memory, and read from the
//! records when the database is opened. Once there are [`MOST`], each group moves about as many names as it adds into
//! buckets, a bucket's all at once, in the order of hashes. One round through all hashes is a sweep. After it, buckets
//! list all records that were there at its beginning, and `NAMED_KEY` says so.
//!
//! Names that the last sweeps have moved are read back when the database is opened, too. To list a name again changes
//! nothing.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use record::id::Id;

use super::layout::{self, NAMED_KEY, Name, Step};
use super::names::read_text_id;
use super::{Store, StoreError};

/// The number of names above which they are moved into buckets. A start may read four times as many records.
const MOST: usize = if cfg!(test) { 40 } else { 8 << 10 };

/// The names in memory.
#[derive(Default)]
pub(crate) struct Unlisted(RwLock<Names>);

#[derive(Default)]
struct Names {
    names: BTreeSet<Name>,
    /// The records that could not be read when the database was opened.
    unread: Vec<Id>,
}

impl Unlisted {
    fn read(&self) -> RwLockReadGuard<'_, Names> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Names> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the numbers of the texts with this `hash`.
    pub(super) fn numbers_under(&self, hash: u64) -> Vec<Id> {
        self.read().names.range((hash, Id::FIRST)..=(hash, Id::MAX)).map(|(_, number)| *number).collect()
    }

    /// Returns whether the name is here.
    pub(super) fn has(&self, name: &Name) -> bool {
        self.read().names.contains(name)
    }

    /// Returns all names.
    pub(super) fn all(&self) -> Vec<Name> {
        self.read().names.iter().copied().collect()
    }

    /// Returns the records whose text ids are unknown.
    pub(super) fn unread(&self) -> Vec<Id> {
        self.read().unread.clone()
    }
}

/// What moves names into buckets: part of the [`Writer`](super::Writer).
pub(super) struct Sweep {
    /// Whether the database has a [`NAMED_KEY`].
    is_noted: bool,
    /// The last id when the sweep began. New records up to here may have missed it, so buckets list them at once.
    until: u64,
    /// The last name that was moved.
    last: Option<Name>,
    /// Whether a bucket is damaged: until a restart, names stay in memory.
    is_stopped: bool,
    /// The changes of the last step.
    changes: Changes,
}

/// The changes of a step, made when the database has it.
#[derive(Default)]
struct Changes {
    added: Vec<Name>,
    removed: Vec<Name>,
    /// The names that buckets list now.
    moved: Vec<Name>,
    /// The value of [`Sweep::until`] for the next sweep, if this one ends.
    next_until: Option<u64>,
}

impl Sweep {
    /// Begins a sweep of `store`, whose highest id is `last_id`.
    pub(super) fn new(store: &Store, last_id: u64) -> Result<Self, StoreError> {
        let is_noted = store.named()?.is_some();
        Ok(Self { is_noted, until: last_id, last: None, is_stopped: false, changes: Changes::default() })
    }

    /// Forgets the changes of a step that was not applied.
    pub(super) fn forget(&mut self) {
        self.changes = Changes::default();
    }

    /// Returns whether the last step moves names.
    pub(super) fn moves(&self) -> bool {
        !self.changes.moved.is_empty()
    }

    /// Moves no more names: a bucket is damaged. Writes must not fail for the sake of others' names.
    pub(super) fn stop(&mut self, store: &Store) {
        log::error!("{}: a part of the index of text ids is damaged; new ones stay in memory", store.path().display());
        self.is_stopped = true;
    }

    /// Returns the changes of buckets that a step with these changes of names makes; notes the rest for
    /// [`apply`](Self::apply). `last_id` is the highest id before the step.
    pub(super) fn step(
        &mut self,
        store: &Store,
        changes: &[(Name, bool)],
        last_id: u64,
        step: &mut Step,
    ) -> Vec<(Name, bool)> {
        let (mut of_buckets, mut here) = (Vec::new(), Changes::default());
        for &(name, listed) in changes {
            let is_new = name.1.get() > self.until;
            match listed {
                true if is_new => here.added.push(name),
                true => of_buckets.push((name, true)),
                // A bucket may list it as well.
                false => {
                    here.removed.push(name);
                    of_buckets.push((name, false));
                }
            }
        }
        let unlisted = store.shared.unlisted.read();
        let over = (unlisted.names.len() + here.added.len()).saturating_sub(MOST);
        let count = over.min(2 * here.added.len());
        if count > 0 && !self.is_stopped && self.find(&unlisted.names, count, store.buckets(), &mut here.moved) {
            here.next_until = Some(last_id);
        }
        // One that is removed in this step is so in its bucket, too: its removal comes later.
        of_buckets.splice(0..0, here.moved.iter().map(|name| (*name, true)));
        let is_named = here.next_until.is_some() && unlisted.unread.is_empty();
        // Without a note, buckets list all records.
        if is_named || !self.is_noted && !here.added.is_empty() {
            step.put(NAMED_KEY, &layout::encode(self.until));
        }
        drop(unlisted);
        self.changes = here;
        of_buckets
    }

    /// Finds the next `count` names to move, and those that share the last one's bucket. Returns whether the sweep ends
    /// with them.
    fn find(&self, names: &BTreeSet<Name>, count: usize, buckets: u64, found: &mut Vec<Name>) -> bool {
        let mut bucket = None;
        for name in names.range((self.last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)) {
            let of_name = layout::bucket_of(name.0, buckets);
            if found.len() >= count && bucket != Some(of_name) {
                return false;
            }
            bucket = Some(of_name);
            found.push(*name);
        }
        true
    }

    /// Notes the changes of a step that the database has now.
    pub(super) fn apply(&mut self, store: &Store) {
        let Changes { added, removed, moved, next_until } = std::mem::take(&mut self.changes);
        if added.is_empty() && removed.is_empty() && moved.is_empty() && next_until.is_none() {
            return;
        }
        let mut unlisted = store.shared.unlisted.write();
        self.is_noted |= !added.is_empty() || next_until.is_some();
        for name in moved.iter().chain(&removed) {
            unlisted.names.remove(name);
        }
        self.last = moved.last().copied().or(self.last);
        unlisted.names.extend(added);
        if let Some(until) = next_until {
            (self.until, self.last) = (until, None);
        }
    }
}

impl Store {
    /// Returns the id up to which buckets list all records. A database without one lists all of them.
    fn named(&self) -> Result<Option<u64>, StoreError> {
        if self.made_by.has_text_ids() { self.decoded(NAMED_KEY) } else { Ok(None) }
    }

    /// Reads the names that buckets may not list. A record that is damaged fails all requests that find no record: it
    /// may be the one.
    pub(super) fn read_unlisted(&self) -> Result<(), StoreError> {
        let Some(named) = self.named()? else { return Ok(()) };
        let Some(first) = named.checked_add(1).and_then(|id| Id::try_from(id).ok()) else { return Ok(()) };
        let mut found = Names::default();
        for page in self.db.range(&layout::page_key(layout::place(first).0)[..]..&[layout::PAGE + 1]).keys() {
            let key = page.map_err(|source| self.sled(source))?;
            let page = layout::page_of(&key).ok_or_else(|| self.damaged(&key, "it is not a page's key"))?;
            for id in (0..=layout::LAST_SLOT).filter_map(|slot| layout::id_at(page, slot)).filter(|id| *id >= first) {
                match self.get(id) {
                    Ok(None) => {}
                    Ok(Some(stored)) => match read_text_id(&stored) {
                        Some(text) => drop(found.names.insert((self.hash_of(&text), id))),
                        None => found.unread.push(id),
                    },
                    Err(StoreError::Corrupt { what, .. }) => {
                        log::error!("{}: the text id of record {id} is unknown: {what}", self.path().display());
                        found.unread.push(id);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        *self.shared.unlisted.write() = found;
        Ok(())
    }
}
