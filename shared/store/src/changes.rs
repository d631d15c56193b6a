//! The last changes of records, for those who follow them: [`Store::follow`].
//!
//! The committer adds each change once it is in the database and before its write is answered. They are kept in memory,
//! up to [`HISTORY_BYTES`], and the journal has them too, so that those of its last two laps survive the end of the
//! process. A revision names a place among them: each change has one of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bincode::{Decode, Encode};
use record::id::Id;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::Store;

/// The most memory for the history, in bytes.
const HISTORY_BYTES: usize = 8 << 20;

/// The memory of a change beside its text, in bytes.
const CHANGE_BYTES: usize = 64;

/// A change to one record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RecordChange {
    /// The revision of the database that this change made.
    pub revision: u64,
    /// The number of the record.
    id: u64,
    /// The canonical text of the record after the change; of a deleted one, the text it had.
    pub json: Arc<str>,
    /// Whether the change deleted the record.
    pub is_deletion: bool,
}

impl RecordChange {
    pub(crate) fn new(revision: u64, id: Id, json: Arc<str>, is_deletion: bool) -> Self {
        Self { revision, id: id.get(), json, is_deletion }
    }

    /// Returns the id of the record; where ids are texts, its number.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// The changes of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Changed {
    /// The revision before the first of them.
    pub(crate) after: u64,
    /// The revision after the last of them. Revisions in between without a change belong to refused writes.
    pub(crate) until: u64,
    pub(crate) changes: Vec<RecordChange>,
}

/// The place is not in the history, or the database has never been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the history has the changes after revision {oldest}")]
pub struct NotInHistory {
    /// The first revision after which all changes are known.
    pub oldest: u64,
}

/// The last changes of a database.
#[derive(Default)]
pub(crate) struct History {
    known: Mutex<Known>,
    followers: AtomicUsize,
    added: Notify,
}

#[derive(Default)]
struct Known {
    /// The revision after which all changes are known, and the one up to which they are.
    after: u64,
    until: u64,
    changes: VecDeque<RecordChange>,
    bytes: usize,
}

impl Known {
    fn add(&mut self, changed: Changed) {
        if changed.after != self.until {
            // What lies between is not known.
            *self = Self { after: changed.after, ..Self::default() };
        }
        self.until = changed.until;
        for change in changed.changes {
            self.bytes += change.json.len() + CHANGE_BYTES;
            self.changes.push_back(change);
        }
        while self.bytes > HISTORY_BYTES
            && let Some(oldest) = self.changes.pop_front()
        {
            self.bytes -= oldest.json.len() + CHANGE_BYTES;
            self.after = oldest.revision;
        }
    }
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic leaves at worst less history than there could be.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with what the journal has of the time before `revision`.
    pub(crate) fn begin(&self, revision: u64, journal: impl IntoIterator<Item = Changed>) {
        let mut known = self.lock();
        *known = Known::default();
        journal.into_iter().for_each(|changed| known.add(changed));
        if known.until != revision {
            *known = Known { after: revision, until: revision, ..Known::default() };
        }
    }

    /// Begins with nothing at `revision`, unless it has begun with what leads there.
    pub(crate) fn begin_at(&self, revision: u64) {
        if self.lock().until != revision {
            self.begin(revision, []);
        }
    }

    /// Adds the changes of a step that the database has.
    pub(crate) fn add(&self, changed: Changed) {
        self.lock().add(changed);
        // Waking a thread takes longer than adding a change.
        if self.followers.load(Ordering::SeqCst) > 0 {
            self.added.notify_one();
        }
    }
}

/// Someone who follows the changes.
pub struct Follower(Store);

impl Follower {
    /// Returns the changes after `revision`, in order: some of them, of about `bytes`, and at least one if there is any.
    ///
    /// # Errors
    /// They are not all in the history: too many came since, or the database never was at this revision. A replica will be
    /// at a revision that another has told of.
    pub fn changes_after(&self, revision: u64, bytes: usize) -> Result<Vec<RecordChange>, NotInHistory> {
        let known = self.0.shared.changes.lock();
        if revision > known.until && matches!(self.0.position(), Ok(Some(_))) {
            return Ok(Vec::new());
        }
        if !(known.after..=known.until).contains(&revision) {
            return Err(NotInHistory { oldest: known.after });
        }
        let from = known.changes.partition_point(|change| change.revision <= revision);
        let mut taken = 0;
        let fits = |change: &&RecordChange| {
            let fits = taken < bytes;
            taken += change.json.len();
            fits
        };
        Ok(known.changes.range(from..).take_while(fits).cloned().collect())
    }

    /// Returns the revision of the last change that can be followed.
    pub fn last_change(&self) -> u64 {
        self.0.shared.changes.lock().until
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.shared.changes.followers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Store {
    /// Returns a follower of the changes.
    pub fn follow(&self) -> Follower {
        self.shared.changes.followers.fetch_add(1, Ordering::SeqCst);
        Follower(self.clone())
    }

    /// Returns when changes were added since it returned last, while there are followers. For one caller, which tells
    /// them.
    pub async fn until_changed(&self) {
        self.shared.changes.added.notified().await;
    }

    /// Returns a number that differs between databases that began apart, and that anyone may know: replicas of one stream have
    /// the same. [`history`](Self::history) is not for everyone: the hashes of text ids depend on it.
    pub fn fingerprint(&self) -> u32 {
        let digest = match self.position() {
            Ok(Some(position)) => Sha256::new().chain_update("stream").chain_update(position.stream),
            _ => Sha256::new().chain_update("fingerprint").chain_update(self.history().to_le_bytes()),
        };
        let digest = digest.finalize();
        digest.first_chunk().map_or(0, |first| u32::from_le_bytes(*first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, length: usize) -> RecordChange {
        RecordChange { revision, id: revision, json: "x".repeat(length).into(), is_deletion: false }
    }

    fn changed(after: u64, revisions: impl IntoIterator<Item = u64>, until: u64) -> Changed {
        Changed { after, until, changes: revisions.into_iter().map(|revision| change(revision, 10)).collect() }
    }

    fn revisions(known: &Known) -> (u64, Vec<u64>, u64) {
        (known.after, known.changes.iter().map(|change| change.revision).collect(), known.until)
    }

    #[test]
    fn the_history_begins_where_the_journal_has_no_gap() {
        let history = History::default();
        // Revision 5 belongs to a refused write.
        history.begin(9, [changed(1, [2], 2), changed(3, [4], 4), changed(4, [6, 7], 7), changed(7, [8, 9], 9)]);
        assert_eq!(revisions(&history.lock()), (3, vec![4, 6, 7, 8, 9], 9));
        history.begin(10, [changed(7, [8, 9], 9)]);
        assert_eq!(revisions(&history.lock()), (10, vec![], 10), "the database changed without the journal");
    }

    #[test]
    fn the_history_is_bounded_and_forgets_the_oldest() {
        let history = History::default();
        for revision in 1..=100 {
            let changes = vec![change(revision, HISTORY_BYTES / 10)];
            history.add(Changed { after: revision - 1, until: revision, changes });
        }
        let known = history.lock();
        assert_eq!(revisions(&known), (91, (92..=100).collect(), 100));
        assert!(known.bytes <= HISTORY_BYTES);
    }
}
