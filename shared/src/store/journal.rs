//! The journal: what makes a group of writes durable before the database has it.
//!
//! sled's own way to the disk takes two waits for the disk, a sync of its file a third. A journal takes one: an entry is
//! one write into a file that is there in full already, and one `fdatasync`. The database gets the group afterwards,
//! and may take its time; what a crash takes from it, the next [`Store::open`] takes from here.
//!
//! ```text
//! db/journal    two areas of AREA bytes, for odd laps and for even ones; then entries too long for an area
//! area          mark, alone in a page of PAGE bytes; entries; then anything
//! mark          MAGIC, history, lap, answered, crc        of 8 bytes each, little-endian
//! entry         tag, number, length of body, crc, body    of 8 bytes each but for body; crc covers all the others
//! tag           of the lap: the beginning of SHA-256 of history and lap; so no other bytes look like an entry of it
//! number        from 1 in each lap
//! body          bincode of the step: keys, their values, the counters
//! ```
//!
//! When an area is full the database is synced, and the next lap begins in the other one. The database has the lap's
//! number, too: what is missing does not pass for what never was.
//!
//! Where a lap ends is proven. After a group's sync, and before its answers, the mark says how many of the lap's groups
//! were answered. It is a write without a sync: a killed process leaves it in the system's memory, and the next group's
//! sync, or [`Journal::settle`] when no other group comes, makes it durable. An answered entry that is not there, or one
//! that is followed by another, convicts the journal of a [`Hole`]. Only the last entry may be torn, and only if nobody
//! had an answer. Left is the loss of power within [`Journal::settle`]'s wait together with damage to the last entry.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem;
use sha2::{Digest, Sha256};

use super::layout::{Counters, Step};
use super::{Durability, Store, StoreError, layout};

/// The journal's name, beside sled's own files: whoever copies the database copies it.
pub(super) const NAME: &str = "journal";

/// How much is written in a lap, in bytes, and so how much is done again after a crash at most; but for one long entry.
///
/// sled gives a [segment](super::SEGMENT) of its file to new data once what it held stands in a segment before the last,
/// and does not wait for a sync in between. For one byte here it writes three to four there, so a lap is short enough for
/// the sync at its end to come first.
const LAP: u64 = 512 << 10;

/// What a disk may lose as a whole: a mark does not share it with entries.
const PAGE: u64 = 4 << 10;

/// How long an area is.
const AREA: u64 = PAGE + LAP;

/// What a mark begins with.
const MAGIC: u64 = u64::from_le_bytes(*b"journal2");

/// What an entry begins with, before its body.
const HEAD: usize = 32;

/// Where the next entry goes when that is behind the lap's end.
const FULL: u64 = u64::MAX;

/// The journal of a database that is written to.
pub(super) struct Journal {
    durability: Durability,
    /// Nothing before the first lap.
    file: Option<File>,
    lap: u64,
    /// The number of the lap's last entry.
    number: u64,
    /// Where in the file the next entry goes.
    at: u64,
    /// What the last entry, or the database, led to.
    counters: Counters,
    /// Whether the mark is ahead of the disk.
    unsettled: bool,
    entry: Vec<u8>,
}

impl Journal {
    /// A journal for `store`, which has done all that the one before had, and is at `counters`.
    pub(super) fn new(store: &Store, durability: Durability, counters: Counters) -> Result<Self, StoreError> {
        let lap = store.lap()?;
        Ok(Self { durability, file: None, lap, number: 0, at: FULL, counters, unsettled: false, entry: Vec::new() })
    }

    /// Appends `step`, the next after what `store` has, and waits until it is as durable as it is to be.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`], and then the step may be tried again; or the disk has failed, and the next start finds the
    /// step whole or not at all.
    pub(super) fn append(&mut self, store: &Store, step: &Step) -> Result<(), StoreError> {
        self.entry.clear();
        self.entry.resize(HEAD, 0);
        bincode::encode_into_std_write(step, &mut self.entry, bincode::config::standard())
            .expect("memory takes every value");
        let length = self.entry.len() as u64;
        if self.at.checked_add(length).is_none_or(|end| end > area(self.lap) + AREA) {
            self.begin_lap(store)?;
        }
        self.number += 1;
        // Too long for an area: alone behind both, and the lap's last.
        let long = length > LAP;
        let at = if long { 2 * AREA } else { self.at };
        self.at = if long { FULL } else { self.at + length };
        fail_point!("before the journal");
        if let Some(file) = &self.file {
            let head = [tag(store.history(), self.lap), self.number, length - HEAD as u64];
            self.entry[..24].copy_from_slice(head.map(u64::to_le_bytes).as_flattened());
            let crc = checksum(&self.entry);
            self.entry[24..HEAD].copy_from_slice(&crc.to_le_bytes());
            file.write_all_at(&self.entry, at).map_err(|source| write_error(store, source))?;
            fail_point!("before the sync");
            if self.is_durable() {
                file.sync_data().map_err(|source| io_error(store, source))?;
            }
            fail_point!("before the mark");
            write_mark(file, store.history(), self.lap, self.number).map_err(|source| io_error(store, source))?;
            self.unsettled = true;
        }
        self.counters = step.counters;
        Ok(())
    }

    /// Makes the mark durable, if no group has since it was written.
    pub(super) fn settle(&mut self, store: &Store) -> Result<(), StoreError> {
        if let (Some(file), true, true) = (&self.file, self.unsettled, self.is_durable()) {
            file.sync_data().map_err(|source| io_error(store, source))?;
        }
        self.unsettled = false;
        Ok(())
    }

    /// Whether the next start will find all that was appended, whatever happens: the database may then have a part of it.
    pub(super) fn is_durable(&self) -> bool {
        self.durability == Durability::Power
    }

    /// Makes what the database has durable, and room for what it will get in the next lap.
    pub(super) fn begin_lap(&mut self, store: &Store) -> Result<(), StoreError> {
        store.reserve()?;
        if self.durability != Durability::None {
            if self.file.is_none() {
                self.file = Some(open(store).map_err(|source| write_error(store, source))?);
            }
            begin_lap(store, self.lap + 1, self.counters)?;
            if let Some(file) = &self.file {
                write_mark(file, store.history(), self.lap + 1, 0).map_err(|source| io_error(store, source))?;
            }
        }
        self.lap += 1;
        self.number = 0;
        self.at = area(self.lap) + PAGE;
        Ok(())
    }
}

/// Has the database, with all that it holds, durably at the beginning of `lap`: what the journal has of other laps does
/// not count any more. The counters and the lap come last, so no crash leaves them without what came before.
fn begin_lap(store: &Store, lap: u64, counters: Counters) -> Result<(), StoreError> {
    store.put_counters(counters)?;
    store.put(layout::LAP_KEY, &layout::encode(lap))?;
    store.sync()
}

/// Where the area of `lap` begins.
fn area(lap: u64) -> u64 {
    lap % 2 * AREA
}

/// Opens the journal, or makes an empty one: zeros, and marks of no lap.
fn open(store: &Store) -> io::Result<File> {
    let path = store.path().join(NAME);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() < 2 * AREA || store.lap().is_ok_and(|lap| lap == 0) {
        file.set_len(2 * AREA)?;
        file.write_all_at(&[0; 2 * AREA as usize], 0)?;
        [0, 1].into_iter().try_for_each(|area| write_mark_at(&file, area * AREA, [MAGIC, store.history(), 0, 0]))?;
        file.sync_all()?;
        File::open(store.path())?.sync_all()?;
    }
    Ok(file)
}

fn write_mark(file: &File, history: u64, lap: u64, answered: u64) -> io::Result<()> {
    write_mark_at(file, area(lap), [MAGIC, history, lap, answered])
}

fn write_mark_at(file: &File, at: u64, mark: [u64; 4]) -> io::Result<()> {
    let mut bytes = mark.map(u64::to_le_bytes).as_flattened().to_vec();
    bytes.extend_from_slice(&u64::from(crc32c::crc32c(&bytes)).to_le_bytes());
    file.write_all_at(&bytes, at)
}

/// A mark's lap, and how many of its groups were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    lap: u64,
    answered: u64,
}

/// The mark of `lap`'s area; nothing where it is damaged or another database's.
fn read_mark(bytes: &[u8], history: u64, lap: u64) -> Option<Mark> {
    let bytes = bytes.get(area(lap) as usize..)?.get(..40)?;
    let (numbers, []) = bytes.as_chunks::<8>() else { return None };
    let [magic, of, lap, answered, crc]: [u64; 5] =
        std::array::from_fn(|nth| numbers.get(nth).map_or(0, |number| u64::from_le_bytes(*number)));
    let whole = crc == u64::from(crc32c::crc32c(&bytes[..32])) && magic == MAGIC && of == history;
    whole.then_some(Mark { lap, answered })
}

/// What every entry of a lap begins with.
fn tag(history: u64, lap: u64) -> u64 {
    let digest = Sha256::new().chain_update(history.to_le_bytes()).chain_update(lap.to_le_bytes()).finalize();
    digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// The checksum of an entry, of which its own place is left out.
fn checksum(entry: &[u8]) -> u64 {
    crc32c::crc32c_append(crc32c::crc32c(&entry[..24]), &entry[HEAD..]).into()
}

/// The whole entries of `lap`, by number.
fn entries(bytes: &[u8], history: u64, lap: u64) -> BTreeMap<u64, Step> {
    let tag = tag(history, lap).to_le_bytes();
    let entry = |at: usize| {
        let number = |nth: usize| Some(u64::from_le_bytes(*bytes.get(at + nth * 8..)?.first_chunk()?));
        let length = usize::try_from(number(2)?).ok()?;
        let entry = bytes.get(at..)?.get(..HEAD.checked_add(length)?)?;
        let (step, read) = bincode::decode_from_slice(&entry[HEAD..], bincode::config::standard())
            .ok()
            .filter(|_| number(3) == Some(checksum(entry)))?;
        (read == length).then_some((number(1)?, step))
    };
    memmem::find_iter(bytes, &tag).filter_map(entry).collect()
}

/// What is wrong with a journal, and how far its database can be vouched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    wrong: Wrong,
    /// Everything up to this revision is there.
    revision: u64,
    /// How many groups of writes behind that are whole.
    later: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wrong {
    /// The file is not there.
    Missing,
    /// What says where it ends is damaged, or another database's.
    Mark,
    /// Of the groups that were answered, this is the first that is not there.
    Entry { number: u64, answered: u64 },
    /// It belongs to a later state of the database.
    Later,
    /// It belongs to an earlier one.
    Earlier,
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wrong, revision, later } = self;
        match wrong {
            Wrong::Missing => write!(f, "its journal is missing, though there was one")?,
            Wrong::Mark => write!(f, "its journal is damaged where it says how many writes were answered")?,
            Wrong::Entry { number, answered } => write!(
                f,
                "its journal is damaged: group {number} of the {answered} groups of writes that it must have is not whole"
            )?,
            Wrong::Later => write!(f, "it lacks what was synced already: its journal belongs to a later state of it")?,
            Wrong::Earlier => write!(f, "its journal belongs to an earlier state of it")?,
        }
        write!(f, ". Everything up to revision {revision} is there")?;
        match later {
            0 => write!(f, "; later writes that were answered may be gone"),
            later => write!(f, "; of what came later, {later} groups are whole, and others may be gone"),
        }
    }
}

/// What a journal has that its database may lack.
struct Found {
    /// Whole, by number.
    entries: BTreeMap<u64, Step>,
    hole: Option<Hole>,
}

/// Reads the journal of `store`.
fn read(store: &Store) -> Result<Found, StoreError> {
    let (lap, history, counters) = (store.lap()?, store.history(), store.counters()?);
    let bytes = match fs::read(store.path().join(NAME)) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error(store, error)),
    };
    let hole = |wrong| Some(Hole { wrong, revision: counters.revision, later: 0 });
    let Some(bytes) = bytes else {
        let hole = if lap == 0 { None } else { hole(Wrong::Missing) };
        return Ok(Found { entries: BTreeMap::new(), hole });
    };
    let (mark, other) = (read_mark(&bytes, history, lap), read_mark(&bytes, history, lap + 1));
    if [mark, other].into_iter().flatten().any(|mark| mark.lap > lap) {
        return Ok(Found { entries: BTreeMap::new(), hole: hole(Wrong::Later) });
    }
    if lap == 0 {
        return Ok(Found { entries: BTreeMap::new(), hole: None });
    }
    if other.is_none() {
        log::warn!("{}: the journal is damaged where nothing of value was", store.path().display());
    }
    let entries = entries(&bytes, history, lap);
    let (answered, wrong) = match mark {
        Some(mark) if mark.lap == lap => (mark.answered, None),
        // The lap's first sync did not come to its end: no group of it was answered.
        Some(mark) if mark.lap + 2 == lap || mark.lap == 0 => (0, None),
        Some(_) => (0, Some(Wrong::Earlier)),
        None => (0, Some(Wrong::Mark)),
    };
    // The first that is missing.
    let number = (1..).zip(entries.keys()).find(|(expected, number)| expected != *number);
    let number = number.map_or(entries.len() as u64 + 1, |(expected, _)| expected);
    let answered = answered.max(entries.keys().next_back().copied().unwrap_or_default());
    let wrong = wrong.or_else(|| (number <= answered).then_some(Wrong::Entry { number, answered }));
    let hole = wrong.map(|wrong| {
        let sure = entries.range(..number).next_back().map(|(_, step)| step.counters.revision);
        let later = entries.range(number..).count() as u64;
        Hole { wrong, revision: sure.unwrap_or(counters.revision), later }
    });
    Ok(Found { entries, hole })
}

/// Does what the journal of `store` has, if the database may lack it, and returns when that is durable.
pub(super) fn recover(store: &Store) -> Result<(), StoreError> {
    let Found { entries, hole } = read(store)?;
    if let Some(hole) = hole {
        return Err(StoreError::Lost { path: store.path().to_owned(), hole });
    }
    let Some((_, last)) = entries.last_key_value() else { return Ok(()) };
    // All of them, from the first: of one that was not the last, too, the database may have a part.
    entries.values().try_for_each(|step| store.apply(step))?;
    begin_lap(store, store.lap()? + 1, last.counters)?;
    log::info!("{}: brought to revision {} by its journal", store.path().display(), last.counters.revision);
    Ok(())
}

/// Does all that the journal of `store` still has, whatever it lacks. Nothing is durable, and indexes need not fit: the
/// database is fit for a rebuild alone. Returns what is wrong, and the highest counters met.
pub(super) fn salvage(store: &Store) -> Result<(Option<Hole>, Counters), StoreError> {
    let hole = match read(store) {
        Ok(found) => found.hole,
        // What is gone is the lap or the counters.
        Err(StoreError::Corrupt { .. }) => None,
        Err(error) => return Err(error),
    };
    let mut counters = store.counters().unwrap_or_default();
    let bytes = fs::read(store.path().join(NAME)).unwrap_or_default();
    let marks = [0, 1].into_iter().filter_map(|area| read_mark(&bytes, store.history(), area));
    let lap = marks.map(|mark| mark.lap).chain(store.lap()).max().unwrap_or_default();
    for step in entries(&bytes, store.history(), lap).values() {
        store.apply(step)?;
        counters.revision = counters.revision.max(step.counters.revision);
        counters.last_id = counters.last_id.max(step.counters.last_id);
    }
    Ok((hole, counters))
}

/// What `source` means when a write failed: the step can be tried again if there was no room.
fn write_error(store: &Store, source: io::Error) -> StoreError {
    if let io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded = source.kind() {
        return StoreError::NoRoom(store.path().to_owned());
    }
    io_error(store, source)
}

/// After a failed sync nobody knows what the disk has: whatever its reason, it is no lack of room to wait for.
fn io_error(store: &Store, source: io::Error) -> StoreError {
    store.io_of(NAME, source)
}
