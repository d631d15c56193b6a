//! A scrub reads everything in a database, so that damage is found before a request needs the damaged data.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use record::words::agree;

use super::{Snapshot, Store, StoreError, idempotency, layout};

/// The number of keys in a turn.
const TURN: usize = 64;

/// The pause after a turn, as a multiple of the turn's time.
const OTHERS: u32 = 3;

/// The longest pause, so that a scrub ends soon after it is told to.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The most damaged keys that are named; further ones are counted.
const NAMED: usize = 100;

/// The result of a scrub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrub {
    /// The number of keys that were read.
    pub keys: u64,
    /// The bytes of their values.
    pub bytes: u64,
    /// The number of records that were compared with what the database counts, or `None` if the comparison was given
    /// up.
    pub records: Option<u64>,
    /// The damage, in words: the first hundred.
    pub damage: Vec<String>,
    /// The number of faults.
    pub damaged: u64,
}

/// An error: the scrub was told to end.
#[derive(Debug, thiserror::Error)]
#[error("the scrub was told to end")]
pub struct ScrubError;

impl fmt::Display for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.damage.iter().try_for_each(|what| writeln!(f, "damaged: {what}"))?;
        let Self { keys, bytes, damaged, .. } = self;
        let verdict = match (damaged, self.records) {
            (0, Some(records)) => {
                format!(
                    "sound; its {records} {} that it counts",
                    agree(records, "record is the one", "records are those")
                )
            }
            (0, None) => "sound, but too much was written meanwhile to count its records".to_owned(),
            (damaged, _) => format!("{damaged} {}", agree(*damaged, "fault", "faults")),
        };
        writeln!(f, "scrubbed {keys} keys, {} KiB: {verdict}", bytes >> 10)
    }
}

impl Scrub {
    /// Reads all of `store`, with pauses if `gently`, until `end` is set. Compares the records of `snapshot` with what
    /// the database counts.
    pub fn run(store: &Store, snapshot: Snapshot, gently: bool, end: &AtomicBool) -> Result<Self, ScrubError> {
        let mut scrub = Self::default();
        let mut turn = Turn { gently, end, begin: Instant::now(), read: 0 };
        // The snapshot comes first: old versions are set aside until it is read.
        scrub.compare(snapshot, &mut turn)?;
        scrub.read_keys(store, &mut turn)?;
        Ok(scrub)
    }

    fn compare(&mut self, mut snapshot: Snapshot, turn: &mut Turn) -> Result<(), ScrubError> {
        let mut records = 0;
        loop {
            match catch_unwind(AssertUnwindSafe(|| snapshot.next())) {
                Ok(None) => break,
                Ok(Some(Ok(_))) => records += 1,
                // This is not damage: too much was written meanwhile.
                Ok(Some(Err(StoreError::SnapshotGivenUp(_)))) => return Ok(()),
                Ok(Some(Err(error))) => {
                    self.note(error.to_string());
                    return Ok(());
                }
                Err(_panic) => {
                    self.note("sled panicked while records were read".to_owned());
                    return Ok(());
                }
            }
            turn.over()?;
        }
        self.records = Some(records);
        Ok(())
    }

    fn read_keys(&mut self, store: &Store, turn: &mut Turn) -> Result<(), ScrubError> {
        let mut keys = store.db.iter();
        loop {
            match catch_unwind(AssertUnwindSafe(|| keys.next())) {
                Ok(None) => return Ok(()),
                Ok(Some(Ok((key, value)))) => {
                    self.keys += 1;
                    self.bytes += value.len() as u64;
                    // Notes an access, for the cache: see `Store::scan`.
                    let _ = store.db.contains_key(&key);
                    let sound =
                        layout::check(&key, &value).and_then(|()| idempotency::check(&key, &value[layout::BODY..]));
                    if let Err(what) = sound {
                        // It may have been rewritten since.
                        match store.unchecked(&key) {
                            Ok(again) if again.as_ref() != Some(&value) => {}
                            _ => self.note(store.damaged(&key, &what).to_string()),
                        }
                    }
                }
                Ok(Some(Err(source))) => {
                    self.note(store.sled(source).to_string());
                    return Ok(());
                }
                Err(_panic) => {
                    self.note("sled panicked while keys were read".to_owned());
                    return Ok(());
                }
            }
            turn.over()?;
        }
    }

    fn note(&mut self, what: String) {
        self.damaged += 1;
        if self.damage.len() < NAMED && !self.damage.contains(&what) {
            self.damage.push(what);
        }
    }
}

/// The pauses in which others get the disk and a processor.
struct Turn<'e> {
    gently: bool,
    end: &'e AtomicBool,
    begin: Instant,
    read: usize,
}

impl Turn<'_> {
    fn over(&mut self) -> Result<(), ScrubError> {
        self.read += 1;
        if self.read < TURN {
            return Ok(());
        }
        if self.end.load(Ordering::Relaxed) {
            return Err(ScrubError);
        }
        if self.gently {
            std::thread::sleep((self.begin.elapsed() * OTHERS).min(LONGEST_PAUSE));
        }
        (self.begin, self.read) = (Instant::now(), 0);
        Ok(())
    }
}
