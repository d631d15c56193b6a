//! How far a database has followed a stream of commands.
//!
//! A replica's database is what its stream says so far. The [`Position`] moves in the same step as what a message of the
//! stream did, so that a crash never leaves a message half applied, and none is applied twice.

use std::fmt;
use std::time::Duration;

use bincode::{Decode, Encode};
use record::declaration::Declaration;
use record::id::Id;
use record::record_set::RecordSet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::layout::{self, Step};
use crate::{Store, StoreError};

/// The longest time for which a message is valid, in milliseconds.
const LONGEST: u64 = 10 * 60 * 1000;

/// What a replica's database knows of its stream.
const OF_STREAM: [&[u8]; 5] =
    [layout::POSITION_KEY, layout::RULED_KEY, layout::ANNOUNCED_KEY, layout::CONTRADICTED_KEY, layout::APART_KEY];

/// How far a database has followed a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Position {
    /// The stream's identity: a stream that is made anew has another.
    pub stream: String,
    /// The number of the last message that was applied.
    pub sequence: u64,
    /// The beginning of the SHA-256 of that message.
    pub message: u64,
    /// The stream's time in milliseconds since 1970: the latest of its messages' times, so it never goes back.
    pub time: u64,
    /// By what the stream's commands are decided: the version of the program's rules, and the digest of the declaration.
    /// `None` before the first message.
    pub rules: Option<(u32, u64)>,
    /// Who may still repeat a message, by number.
    publishers: Vec<Publisher>,
}

/// A publisher of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
struct Publisher {
    /// A random number.
    number: u64,
    /// The highest number of its messages so far.
    message: u64,
    /// The end of that message, in the stream's time.
    until: u64,
}

impl Position {
    /// Returns the position before the first message of `stream`.
    pub fn before(stream: String) -> Self {
        Self { stream, ..Self::default() }
    }

    /// Moves behind message `sequence` with these `bytes`, which the stream took at `time`.
    pub fn advance(&mut self, sequence: u64, bytes: &[u8], time: u64) {
        self.sequence = sequence;
        self.message = Self::digest(bytes);
        self.time = self.time.max(time);
        // What a publisher repeats after that is refused for its age.
        self.publishers.retain(|publisher| publisher.until >= self.time);
    }

    /// Computes what tells a message from another one with its number.
    pub fn digest(bytes: &[u8]) -> u64 {
        Sha256::digest(bytes).first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }

    /// Takes the `message` of a publisher, which is valid `until` a time. A publisher numbers its messages in ascending
    /// order. Returns whether it counts: the stream may have it twice, or too late.
    pub fn take(&mut self, publisher: u64, message: u64, until: u64) -> bool {
        // Who says that a message is valid for long would have it remembered for long.
        if until < self.time || until > self.time.saturating_add(LONGEST) {
            return false;
        }
        match self.publishers.binary_search_by_key(&publisher, |known| known.number) {
            Ok(at) if self.publishers[at].message >= message => false,
            Ok(at) => {
                let known = &mut self.publishers[at];
                (known.message, known.until) = (message, known.until.max(until));
                true
            }
            Err(at) => {
                self.publishers.insert(at, Publisher { number: publisher, message, until });
                true
            }
        }
    }

    /// Returns the stream's time as seconds.
    pub(crate) fn seconds(&self) -> u64 {
        Duration::from_millis(self.time).as_secs()
    }

    /// Adds the position to `step`.
    pub(crate) fn step(&self, step: &mut Step) {
        step.put(layout::POSITION_KEY, &layout::encode(self));
    }
}

/// What replicas of a stream must agree on at one position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The revision.
    pub revision: u64,
    /// The highest id that a record ever had.
    pub last_id: u64,
    /// The set of the records.
    pub records: RecordSet,
}

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revision, last_id, records } = self;
        write!(f, "revision {revision}, last id {last_id}, {} records with the digest {records}", records.count)
    }
}

impl Store {
    /// Returns how far the database has followed a stream, or `None` if it follows none.
    pub fn position(&self) -> Result<Option<Position>, StoreError> {
        self.decoded(layout::POSITION_KEY)
    }

    /// Sets how far a database without other writers has followed a stream.
    pub fn put_position(&self, position: &Position) -> Result<(), StoreError> {
        self.put(layout::POSITION_KEY, &layout::encode(position))
    }

    /// Returns the declaration by which this database has followed its stream last.
    pub fn ruled(&self) -> Result<Option<Declaration>, StoreError> {
        self.declaration(layout::RULED_KEY)
    }

    /// Notes the declaration by which this database follows its stream, so that a program with another one can go on by it.
    pub fn put_ruled(&self, declaration: &Declaration) -> Result<(), StoreError> {
        self.put_declaration(layout::RULED_KEY, declaration)
    }

    /// Returns the declaration that the stream changed over to last, which counts if it is the one of the position's rules.
    pub fn announced(&self) -> Result<Option<Declaration>, StoreError> {
        self.declaration(layout::ANNOUNCED_KEY)
    }

    /// Notes the declaration that the stream is about to change over to, which the records may contradict no more.
    ///
    /// # Errors
    /// After [`StoreError::NoRoom`] nothing is noted, and it can be tried again.
    pub fn put_announced(&self, declaration: &Declaration) -> Result<(), StoreError> {
        self.reserve()?;
        self.put_declaration(layout::ANNOUNCED_KEY, declaration)?;
        self.db.remove(layout::CONTRADICTED_KEY).map_err(|source| self.sled(source))?;
        self.sync()
    }

    /// Returns the rules whose declaration the records contradict.
    pub fn contradicted(&self) -> Result<Option<(u32, u64)>, StoreError> {
        self.decoded(layout::CONTRADICTED_KEY)
    }

    /// Notes that the records contradict the declaration of `rules`.
    pub fn put_contradicted(&self, rules: (u32, u64)) -> Result<(), StoreError> {
        self.put(layout::CONTRADICTED_KEY, &layout::encode(rules))?;
        self.sync()
    }

    fn declaration(&self, key: &[u8]) -> Result<Option<Declaration>, StoreError> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        let read = Declaration::read(&String::from_utf8_lossy(&value[layout::BODY..]));
        read.map(Some).map_err(|error| self.damaged(key, &error.to_string()))
    }

    fn put_declaration(&self, key: &[u8], declaration: &Declaration) -> Result<(), StoreError> {
        let json = serde_json::to_vec(declaration).expect("a declaration can be written as JSON");
        self.put(key, &json)
    }

    /// Copies all that a database of a replica knows of its stream to `other`.
    pub(crate) fn copy_position(&self, other: &Store) -> Result<(), StoreError> {
        for key in OF_STREAM {
            if let Some(value) = self.value(key)? {
                other.put(key, &value[layout::BODY..])?;
            }
        }
        Ok(())
    }

    /// Lets a database without other writers follow its stream no longer.
    pub fn remove_position(&self) -> Result<(), StoreError> {
        for key in OF_STREAM {
            self.db.remove(key).map_err(|source| self.sled(source))?;
        }
        self.sync()
    }

    /// Describes all that replicas must have in common when they begin to follow a stream.
    pub fn describe_beginning(&self) -> Result<String, StoreError> {
        let (mut answers, mut digest) = (0, Sha256::new());
        for kept in self.kept_answers() {
            let (key, kept) = kept?;
            answers += 1;
            digest.update(layout::encode((key, kept.request, kept.id.get(), kept.revision, kept.json, kept.until)));
        }
        let mut revisions = Sha256::new();
        for revision in self.revisions(Id::FIRST) {
            let (id, revision) = revision?;
            revisions.update([id.get(), revision].map(u64::to_le_bytes).as_flattened());
        }
        let [answers_digest, revisions] = [digest, revisions].map(|digest| hex::encode(digest.finalize()));
        let agreed = Agreed::from(self.counters()?);
        Ok(format!(
            "{agreed} and revisions with the digest {revisions}, {answers} kept answers with the digest {answers_digest}"
        ))
    }

    /// Notes in the database, for good, why a replica must not follow its stream any more.
    pub fn set_apart(&self, why: &str) -> Result<(), StoreError> {
        self.put(layout::APART_KEY, why.as_bytes())?;
        self.sync()
    }

    /// Returns why a replica must not follow its stream any more.
    pub fn apart(&self) -> Result<Option<String>, StoreError> {
        let value = self.value(layout::APART_KEY)?;
        Ok(value.map(|value| String::from_utf8_lossy(&value[layout::BODY..]).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use record::model::Records;
    use record::sample;

    use super::*;
    use crate::tests::json;
    use crate::{Change, Folder, OnDamage, Purpose, Writer};

    /// A change to these bytes needs a new key.
    #[test]
    fn the_layout_does_not_change() {
        let mut position = Position::before("s".to_owned());
        position.advance(7, b"m", 1000);
        position.rules = Some((1, 300));
        assert!(position.take(2, 9, 1200));
        // The digest of "m", computed by another program.
        let digest = [b"\xfd" as &[u8], &0x62c6_6a7a_5dd7_0c31_u64.to_le_bytes()].concat();
        let expected =
            [b"\x01s\x07", &digest[..], b"\xfb\xe8\x03\x01\x01\xfb\x2c\x01\x01\x02\x09\xfb\xb0\x04"].concat();
        assert_eq!(layout::encode(&position), expected);
    }

    #[test]
    fn a_compacted_database_knows_of_its_stream_what_it_knew() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::lock(dir.path()).unwrap();
        let store = Store::create(&folder.database(), sample::posts()).unwrap();
        store.put_position(&Position { rules: Some((1, 2)), ..Position::before("s".to_owned()) }).unwrap();
        store.put_announced(sample::users().declaration()).unwrap();
        store.put_ruled(sample::posts().declaration()).unwrap();
        store.put_contradicted((1, 2)).unwrap();
        store.set_apart("why").unwrap();
        let read = |store: &Store| OF_STREAM.map(|key| store.value(key).unwrap().unwrap());
        let before = read(&store);
        drop(store);
        folder.compact(sample::posts(), OnDamage::Refuse).unwrap();
        let store = folder.open(sample::posts(), Purpose::Passing, OnDamage::Refuse).unwrap();
        assert_eq!(read(&store), before);
        store.remove_position().unwrap();
        assert!(OF_STREAM.iter().all(|key| store.value(key).unwrap().is_none()));
    }

    #[test]
    fn databases_with_other_revisions_begin_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let describe = |name: &str, ids: [u64; 2]| {
            let store = Store::create(&dir.path().join(name), sample::posts()).unwrap();
            let mut writer = Writer::new(&store).unwrap();
            for id in ids {
                let json = json(id, 1);
                let mut records = Records::new(sample::posts(), 0);
                records.push(&json, None).unwrap();
                let record = records.iter().next().unwrap();
                let revision = writer.next_revision();
                writer.apply(&[Change::Put(record, revision)]).unwrap();
            }
            store.describe_beginning().unwrap()
        };
        let [one, same, other] = [("a", [1, 2]), ("b", [1, 2]), ("c", [2, 1])].map(|(name, ids)| describe(name, ids));
        assert_eq!(one, same);
        assert_ne!(one, other);
    }

    #[test]
    fn a_message_counts_once_and_in_time() {
        let mut position = Position::before("s".to_owned());
        position.advance(1, b"", 1000);
        assert!(position.take(7, 1, 1500));
        assert!(!position.take(7, 1, 1500), "it is there twice");
        assert!(position.take(7, 3, 1500));
        assert!(!position.take(7, 2, 1500), "a later one came first");
        assert!(position.take(8, 1, 1000), "another publisher, just in time");
        assert!(!position.take(9, 1, 999), "it is too late");
        // Time never goes back.
        position.advance(2, b"", 10);
        assert_eq!((position.sequence, position.time), (2, 1000));
        position.advance(3, b"", 1501);
        assert!(position.publishers.is_empty(), "{position:?}");
        assert!(!position.take(7, 3, 1500), "forgotten, but too late");
        assert!(position.take(7, 4, 2000));
        assert!(!position.take(10, 1, u64::MAX), "nobody's messages are valid for ever");
    }
}
