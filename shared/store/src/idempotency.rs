//! Idempotency: the answers kept for repeated requests. Each is kept for a day under the request's key, written in the
//! same step as the record that it answers with; [`layout`] draws the bytes.

use std::collections::HashMap;

use record::id::Id;

use super::layout::{self, Step};
use super::{Store, StoreError};

/// The first byte of the key of a kept answer.
const KEPT: u8 = 4;
/// The first byte of the key that says when an answer may be forgotten.
const FORGET: u8 = 5;

/// The most answers that are kept.
const KEPT_ANSWERS: u64 = 100_000;

/// The most bytes of kept answers, in memory and on disk.
const KEPT_BYTES: u64 = 256 << 20;

/// The most answers that are forgotten with one group of writes.
const FORGET_AT_ONCE: usize = 64;

/// The answer to a request with an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecord {
    /// The digest of the request.
    pub request: [u8; 32],
    /// The id of the record in the answer.
    pub id: Id,
    /// The record's revision in the answer.
    pub revision: u64,
    /// The record's text in the answer.
    pub json: String,
    /// The time after which it may be forgotten, in seconds since 1970.
    pub until: u64,
}

/// The stored form of an answer: request, id, revision, json, until.
type StoredAnswer<'a> = ([u8; 32], u64, u64, &'a [u8], u64);

impl KeptRecord {
    /// The longest answer that can be kept, in bytes: 17 of them fit into a leaf of sled's that it syncs with all others
    /// (see [`SEGMENT`](crate::SEGMENT)).
    pub const MOST_BYTES: usize = 112 << 10;

    /// The time for which an answer is kept, in seconds.
    pub const SECONDS: u64 = 24 * 60 * 60;

    /// Creates an answer that is kept from `time` on, in seconds since 1970.
    pub fn new(time: u64, request: [u8; 32], id: Id, revision: u64, json: String) -> Self {
        Self { request, id, revision, json, until: time + Self::SECONDS }
    }

    /// Returns whether the answer's time is over at `time`.
    pub(super) fn is_over(&self, time: u64) -> bool {
        self.until <= time
    }

    /// Encodes the body of the answer's value.
    fn encode(&self) -> Vec<u8> {
        let answer: StoredAnswer = (self.request, self.id.get(), self.revision, self.json.as_bytes(), self.until);
        layout::encode(answer)
    }

    /// Decodes the body of a value.
    fn decode(body: &[u8]) -> Result<Self, String> {
        let (request, id, revision, json, until) = layout::decode::<StoredAnswer>(body)?;
        let id = Id::try_from(id).map_err(|_| "a kept answer has an invalid id")?;
        Ok(Self { request, id, revision, json: String::from_utf8_lossy(json).into_owned(), until })
    }
}

/// Builds the key of the answer kept under an idempotency key.
pub(super) fn kept_key(key: &str) -> Vec<u8> {
    [&[KEPT], key.as_bytes()].concat()
}

/// Builds the key that says when that answer may be forgotten: at `time`, in seconds since 1970.
pub(super) fn forget_key(time: u64, key: &str) -> Vec<u8> {
    [&layout::tagged(FORGET, time), key.as_bytes()].concat()
}

/// Splits a [`forget_key`] into its time and its idempotency key.
fn forget_key_parts(key: &[u8]) -> Option<(u64, &str)> {
    let (time, key) = key.get(1..)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*time), std::str::from_utf8(key).ok()?))
}

/// Reads the idempotency key and the answer from a [`kept_key`] and its value's body.
pub(super) fn read_pair(key: &[u8], body: &[u8]) -> Result<(String, KeptRecord), String> {
    let text = String::from_utf8(key[1..].to_vec()).map_err(|error| error.to_string())?;
    Ok((text, KeptRecord::decode(body)?))
}

/// Checks `body`, found under `key`, if `key` is one of these keys.
pub(super) fn check(key: &[u8], body: &[u8]) -> Result<(), String> {
    match key.first() {
        Some(&KEPT) => layout::decode::<StoredAnswer>(body).map(drop),
        Some(&FORGET) => forget_key_parts(key).map(drop).ok_or_else(|| "its key is invalid".to_owned()),
        _ => Ok(()),
    }
}

/// The number and the size of the kept answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    answers: u64,
    bytes: u64,
}

impl Kept {
    /// Counts the kept answers.
    pub(super) fn count(store: &Store) -> Result<Self, StoreError> {
        let mut kept = Self::default();
        for answer in store.kept_answers() {
            let (key, answer) = answer?;
            kept.add(&key, &answer);
        }
        Ok(kept)
    }

    /// Returns whether there is room for another answer, with `more` that are not counted yet.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.answers + (more as u64) < KEPT_ANSWERS && self.bytes < KEPT_BYTES
    }

    /// Adds to `step` the `new` answers, and removes answers whose time is over at `time`; updates the counts.
    pub(super) fn step(
        &mut self,
        store: &Store,
        time: u64,
        new: &HashMap<String, KeptRecord>,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        self.forget(store, time, new, step)?;
        for (key, kept) in new {
            // The old answer's time is over; otherwise it would have been the response.
            if let Some(over) = store.kept(key)? {
                store.shared.snapshots.keep_answer(key, &over);
                self.subtract(key, &over);
                step.removes.push(forget_key(over.until, key));
            }
            self.add(key, kept);
            step.put(kept_key(key), &kept.encode());
            step.put(forget_key(kept.until, key), b"");
        }
        Ok(())
    }

    /// Removes answers whose time is over, except those that `new` replaces.
    fn forget(
        &mut self,
        store: &Store,
        time: u64,
        new: &HashMap<String, KeptRecord>,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        // Most databases keep none, and a look costs as much as a change.
        if self.answers == 0 {
            return Ok(());
        }
        for pair in store.db.scan_prefix([FORGET]).take(FORGET_AT_ONCE) {
            let (forget, _) = pair.map_err(|source| store.sled(source))?;
            let (until, key) = forget_key_parts(&forget).ok_or_else(|| store.damaged(&forget, "its key is invalid"))?;
            if until > time {
                break;
            }
            if new.contains_key(key) {
                continue;
            }
            if let Some(kept) = store.kept(key)? {
                store.shared.snapshots.keep_answer(key, &kept);
                self.subtract(key, &kept);
                step.removes.push(kept_key(key));
            }
            step.removes.push(forget.to_vec());
        }
        Ok(())
    }

    fn add(&mut self, key: &str, kept: &KeptRecord) {
        self.answers += 1;
        self.bytes += (key.len() + kept.json.len()) as u64;
    }

    fn subtract(&mut self, key: &str, kept: &KeptRecord) {
        self.answers = self.answers.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub((key.len() + kept.json.len()) as u64);
    }
}

impl Store {
    /// Returns the answer kept under an idempotency key.
    pub(super) fn kept(&self, key: &str) -> Result<Option<KeptRecord>, StoreError> {
        let key = kept_key(key);
        let Some(value) = self.value(&key)? else { return Ok(None) };
        KeptRecord::decode(&value[layout::BODY..]).map(Some).map_err(|what| self.damaged(&key, &what))
    }

    /// Iterates over all kept answers and their idempotency keys.
    pub(super) fn kept_answers(
        &self,
    ) -> impl Iterator<Item = Result<(String, KeptRecord), StoreError>> + Send + Sync + use<> {
        let store = self.clone();
        self.scan(&[KEPT]).map(move |pair| {
            let (key, value) = pair?;
            read_pair(&key, &value[layout::BODY..]).map_err(|what| store.damaged(&key, &what))
        })
    }

    /// Keeps an answer under its idempotency key, in a database without other writers.
    pub fn keep(&self, key: &str, kept: &KeptRecord) -> Result<(), StoreError> {
        self.put(&kept_key(key), &kept.encode())?;
        self.put(&forget_key(kept.until, key), b"")
    }
}

#[cfg(test)]
mod tests {
    use record::sample;

    use super::*;
    use crate::tests::{id, json};
    use crate::{Commit, Durability, Transaction};

    /// A change to these bytes needs a new version and a way to read the old one.
    #[test]
    fn the_layout_does_not_change() {
        let kept = KeptRecord { request: [9; 32], id: id(7), revision: 2, json: "{}".to_owned(), until: 3 };
        assert_eq!(kept.encode(), [&[9; 32][..], &[7, 2, 2], b"{}", &[3]].concat());
        assert_eq!(KeptRecord::decode(&kept.encode()), Ok(kept));
        assert_eq!(kept_key("t/k"), b"\x04t/k");
        assert_eq!(forget_key(258, "k"), b"\x05\0\0\0\0\0\0\x01\x02k");
    }

    /// Creates a record and keeps its answer under `key`; returns the id of the one that is kept there, if its time is not over.
    async fn keep(commit: &Commit, key: &'static str, until: Option<u64>) -> Option<Id> {
        let kept = commit.write(move |now: &mut Transaction| {
            let kept = now.kept(key).unwrap().map(|kept| kept.id);
            let id = now.next_id().unwrap();
            let json = json(id.get(), 1);
            let revision = now.put(now.read(id, &json));
            let new = KeptRecord::new(now.time(), [0; 32], id, revision, json);
            now.keep_answer(key.to_owned(), KeptRecord { until: until.unwrap_or(new.until), ..new });
            kept
        });
        kept.await.unwrap()
    }

    #[test]
    fn an_answer_is_kept_for_its_time_and_its_key_is_then_free() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
        let commit = Commit::start(&store, Durability::Process).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let keep = |key, until| runtime.block_on(keep(&commit, key, until));
        let lasting = || store.db.scan_prefix([KEPT]).count();
        let to_forget = || store.db.scan_prefix([FORGET]).count();
        assert_eq!(keep("over", Some(1)), None);
        assert_eq!((lasting(), to_forget()), (1, 1));
        assert_eq!(keep("over", None), None, "its time was over");
        assert_eq!((lasting(), to_forget()), (1, 1), "nothing is left of the one before");
        assert_eq!(keep("forgotten", Some(2)), None);
        assert_eq!(keep("other", None), None);
        assert_eq!((lasting(), to_forget()), (2, 2), "the next group forgets what is over");
        let again =
            runtime.block_on(commit.write(|now: &mut Transaction| now.kept("over").unwrap().map(|kept| kept.id)));
        assert_eq!(again.unwrap(), Some(id(2)));
    }

    #[test]
    fn a_snapshot_has_the_answers_that_go_while_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
        let commit = Commit::start(&store, Durability::Process).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let keep = |key, until| runtime.block_on(keep(&commit, key, until));
        keep("lasts", None);
        keep("goes", Some(1));
        let snapshot = runtime.block_on(commit.snapshot()).unwrap();
        let kept = |snapshot: &crate::Snapshot| {
            let mut kept: Vec<_> =
                snapshot.kept().map(|kept| kept.unwrap()).map(|(key, kept)| (key, kept.id)).collect();
            kept.sort();
            kept
        };
        let expected = [("goes".to_owned(), id(2)), ("lasts".to_owned(), id(1))];
        assert_eq!(kept(&snapshot), expected);
        // Replaced, forgotten, and kept anew.
        keep("goes", Some(2));
        assert_eq!(kept(&snapshot), expected);
        keep("later", None);
        assert!(store.kept("goes").unwrap().is_none(), "it was not forgotten");
        assert_eq!(kept(&snapshot), expected);
        keep("goes", None);
        assert_eq!(kept(&snapshot), expected);
        drop(snapshot);
        assert_eq!(kept(&runtime.block_on(commit.snapshot()).unwrap()).len(), 3);
    }
}
