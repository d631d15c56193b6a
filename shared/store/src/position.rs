//! How far a database has followed a stream of commands.
//!
//! A replica's database is what its stream says so far. The [`Position`] moves in the same step as what a message of the
//! stream did, so that a crash never leaves a message half applied, and none is applied twice.

use std::fmt;
use std::time::Duration;

use bincode::{Decode, Encode};
use record::record_set::RecordSet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::layout::{self, Step};
use crate::{Store, StoreError};

/// How far a database has followed a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Position {
    /// The stream's identity: a stream that is made anew has another.
    pub stream: String,
    /// The number of the last message that was applied.
    pub sequence: u64,
    /// The stream's time in milliseconds since 1970: the latest of its messages' times, so it never goes back.
    pub time: u64,
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

    /// Moves behind message `sequence`, which the stream took at `time`.
    pub fn advance(&mut self, sequence: u64, time: u64) {
        self.sequence = sequence;
        self.time = self.time.max(time);
        // What a publisher repeats after that is refused for its age.
        self.publishers.retain(|publisher| publisher.until >= self.time);
    }

    /// Takes the `message` of a publisher, which is valid `until` a time. A publisher numbers its messages in ascending
    /// order. Returns whether it counts: the stream may have it twice, or too late.
    pub fn take(&mut self, publisher: u64, message: u64, until: u64) -> bool {
        if until < self.time {
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

    /// Lets a database without other writers follow its stream no longer.
    pub fn remove_position(&self) -> Result<(), StoreError> {
        self.db.remove(layout::POSITION_KEY).map_err(|source| self.sled(source))?;
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
        let (agreed, digest) = (Agreed::from(self.counters()?), hex::encode(digest.finalize()));
        Ok(format!("{agreed}, {answers} kept answers with the digest {digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change to these bytes needs a new key.
    #[test]
    fn the_layout_does_not_change() {
        let mut position = Position::before("s".to_owned());
        position.advance(7, 1000);
        assert!(position.take(2, 9, 1200));
        assert_eq!(layout::encode(&position), b"\x01s\x07\xfb\xe8\x03\x01\x02\x09\xfb\xb0\x04");
    }

    #[test]
    fn a_message_counts_once_and_in_time() {
        let mut position = Position::before("s".to_owned());
        position.advance(1, 1000);
        assert!(position.take(7, 1, 1500));
        assert!(!position.take(7, 1, 1500), "it is there twice");
        assert!(position.take(7, 3, 1500));
        assert!(!position.take(7, 2, 1500), "a later one came first");
        assert!(position.take(8, 1, 1000), "another publisher, just in time");
        assert!(!position.take(9, 1, 999), "it is too late");
        // Time never goes back.
        position.advance(2, 10);
        assert_eq!((position.sequence, position.time), (2, 1000));
        position.advance(3, 1501);
        assert!(position.publishers.is_empty(), "{position:?}");
        assert!(!position.take(7, 3, 1500), "forgotten, but too late");
        assert!(position.take(7, 4, 2000));
    }
}
