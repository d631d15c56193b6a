//! The journal: what makes a group of writes durable before the database has it.
//!
//! sled's own way to the disk takes two waits for the disk, a sync of its file a third. A journal takes one: an entry is
//! one write into a file that is there in full already, and one `fdatasync`. The database gets the group afterwards,
//! and may take its time; what a crash takes from it, the next [`Store::open`] takes from here.
//!
//! ```text
//! db/journal    two areas of AREA bytes, for odd laps and for even ones; then entries too long for an area
//! area          mark; entries, each at the beginning of a page of PAGE bytes; then anything
//! mark          MAGIC, history, lap, crc                  of 8 bytes each, little-endian; alone in the first page
//! entry         tag, number, length, head crc, body crc, body        8 bytes each but for the crcs of 4, and body
//! tag           of the lap: the beginning of SHA-256 of history and lap; so no other bytes look like an entry of it
//! number        from 1 in each lap
//! body          bincode of the step: keys, their values, the counters
//! ```
//!
//! When an area is full the database is synced, and the next lap begins in the other one. The database has the lap's
//! number, too: what is missing does not pass for what never was.
//!
//! Where a lap ends is proven. After a group's sync, and before its answers, the head of an entry is written that there
//! is not yet, with [`NO_BODY`]: where the next one will be, so that it costs no page of its own. A head with a number
//! says that the entry before it was synced, whatever became of its own body. It is a write without a sync: a killed
//! process leaves it in the system's memory, and the next group's sync, or [`Journal::settle`] when no other group comes,
//! makes it durable. An entry that should be there and is not convicts the journal of a [`Hole`]. Only the last entry may
//! be torn, and only if nobody had an answer. Left is the loss of power within [`Journal::settle`]'s wait together with
//! damage to the last entry.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem;
use sha2::{Digest, Sha256};

use crate::layout::{Counters, Step};
use crate::{Durability, Store, StoreError, layout};

/// The journal's name, beside sled's own files: whoever copies the database copies it.
pub(crate) const NAME: &str = "journal";

/// How much is written in a lap, in bytes, and so how much is done again after a crash at most; but for one long entry.
///
/// sled gives a [segment](crate::SEGMENT) of its file to new data once what it held stands in a segment before the last,
/// and does not wait for a sync in between. For one byte here it writes three to four there, so a lap is short enough for
/// the sync at its end to come first.
const LAP: u64 = 512 << 10;

/// What a disk may lose as a whole, in bytes: a head does not share it with the entry that it vouches for.
const PAGE: u64 = 4 << 10;

/// How long an area is: entries of a page have room for a lap, too.
const AREA: u64 = PAGE + 2 * LAP;

/// What a mark begins with.
const MAGIC: u64 = u64::from_le_bytes(*b"journal2");

/// What an entry begins with, before its body.
const HEAD: usize = 32;

/// The length in a head that has no body yet.
const NO_BODY: u64 = u64::MAX;

/// Where the next entry goes when that is behind the lap's end.
const FULL: u64 = u64::MAX;

/// The journal of a database that is written to.
pub(crate) struct Journal {
    durability: Durability,
    /// Nothing before the first lap.
    file: Option<File>,
    lap: u64,
    /// The number of the lap's last entry.
    number: u64,
    /// Where in the file the next entry goes.
    at: u64,
    /// How many bytes the lap's entries have.
    written: u64,
    /// What the last entry, or the database, led to.
    counters: Counters,
    /// Whether the last head is ahead of the disk.
    unsettled: bool,
    entry: Vec<u8>,
}

impl Journal {
    /// A journal for `store`, which has done all that the one before had, and is at `counters`.
    pub(crate) fn new(store: &Store, durability: Durability, counters: Counters) -> Result<Self, StoreError> {
        let lap = store.lap()?;
        let entry = Vec::new();
        Ok(Self { durability, file: None, lap, number: 0, at: FULL, written: 0, counters, unsettled: false, entry })
    }

    /// Appends `step`, the next after what `store` has, and waits until it is as durable as it is to be.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`], and then the step may be tried again; or the disk has failed, and the next start finds the
    /// step whole or not at all.
    pub(crate) fn append(&mut self, store: &Store, step: &Step) -> Result<(), StoreError> {
        self.entry.clear();
        self.entry.resize(HEAD, 0);
        bincode::encode_into_std_write(step, &mut self.entry, bincode::config::standard())
            .expect("memory takes every value");
        let length = self.entry.len() as u64;
        let room = length.next_multiple_of(PAGE) + PAGE;
        let is_full = self.at.checked_add(room).is_none_or(|end| end > area(self.lap) + AREA);
        if is_full || self.written + length > LAP {
            self.begin_lap(store)?;
        }
        self.number += 1;
        self.written += length;
        // Too long for an area: alone behind both, and the lap's last. What vouches for it stays in the area: a file that
        // was cut would else have neither.
        let is_long = length > LAP;
        let at = if is_long { 2 * AREA } else { self.at };
        let next = if is_long { self.at } else { at + length.next_multiple_of(PAGE) };
        self.at = if is_long { FULL } else { next };
        fail_point!("before the journal");
        if let Some(file) = &self.file {
            let tag = tag(store.history(), self.lap);
            let body = length - HEAD as u64;
            let crc = crc32c::crc32c(&self.entry[HEAD..]);
            self.entry[..HEAD].copy_from_slice(&head(tag, self.number, body, crc));
            file.write_all_at(&self.entry, at).map_err(|source| write_error(store, source))?;
            fail_point!("before the sync");
            if self.is_durable() {
                file.sync_data().map_err(|source| io_error(store, source))?;
            }
            fail_point!("before the mark");
            let vouching = head(tag, self.number + 1, NO_BODY, 0);
            file.write_all_at(&vouching, next).map_err(|source| io_error(store, source))?;
            self.unsettled = true;
        }
        self.counters = step.counters;
        Ok(())
    }

    /// Makes the last head durable, if no group has since it was written.
    pub(crate) fn settle(&mut self, store: &Store) -> Result<(), StoreError> {
        if let (Some(file), true, true) = (&self.file, self.unsettled, self.is_durable()) {
            file.sync_data().map_err(|source| io_error(store, source))?;
        }
        self.unsettled = false;
        Ok(())
    }

    /// Whether the next start will find all that was appended, whatever happens: the database may then have a part of it.
    pub(crate) fn is_durable(&self) -> bool {
        self.durability == Durability::Power
    }

    /// Makes what the database has durable, and room for what it will get in the next lap.
    pub(crate) fn begin_lap(&mut self, store: &Store) -> Result<(), StoreError> {
        store.reserve()?;
        if self.durability != Durability::None {
            if self.file.is_none() {
                self.file = Some(open(store).map_err(|source| write_error(store, source))?);
            }
            begin_lap(store, self.lap + 1, self.counters)?;
            fail_point!("before the lap's mark");
            if let Some(file) = &self.file {
                write_mark(file, area(self.lap + 1), store.history(), self.lap + 1)
                    .map_err(|source| io_error(store, source))?;
            }
        }
        self.lap += 1;
        self.number = 0;
        self.written = 0;
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
        [0, AREA].into_iter().try_for_each(|area| write_mark(&file, area, store.history(), 0))?;
        file.sync_all()?;
        File::open(store.path())?.sync_all()?;
    }
    Ok(file)
}

/// Writes the mark of the area that begins at `at`.
fn write_mark(file: &File, at: u64, history: u64, lap: u64) -> io::Result<()> {
    let mut bytes = [MAGIC, history, lap].map(u64::to_le_bytes).as_flattened().to_vec();
    bytes.extend_from_slice(&u64::from(crc32c::crc32c(&bytes)).to_le_bytes());
    file.write_all_at(&bytes, at)
}

/// The lap in the mark of the area of `lap`; nothing where the mark is damaged or another database's.
fn read_mark(bytes: &[u8], history: u64, lap: u64) -> Option<u64> {
    let bytes = bytes.get(area(lap) as usize..)?;
    let [magic, of, lap, crc] = numbers(bytes)?;
    let whole = crc == u64::from(crc32c::crc32c(&bytes[..24])) && magic == MAGIC && of == history;
    whole.then_some(lap)
}

/// The four numbers that `bytes` begin with.
fn numbers(bytes: &[u8]) -> Option<[u64; 4]> {
    let (numbers, _) = bytes.get(..HEAD)?.as_chunks::<8>();
    Some(std::array::from_fn(|nth| numbers.get(nth).map_or(0, |number| u64::from_le_bytes(*number))))
}

/// What every entry of a lap begins with.
fn tag(history: u64, lap: u64) -> u64 {
    let digest = Sha256::new().chain_update(history.to_le_bytes()).chain_update(lap.to_le_bytes()).finalize();
    digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// The head of an entry with such a body.
fn head(tag: u64, number: u64, length: u64, body_crc: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..24].copy_from_slice([tag, number, length].map(u64::to_le_bytes).as_flattened());
    head[28..].copy_from_slice(&body_crc.to_le_bytes());
    let crc = head_crc(&head);
    head[24..28].copy_from_slice(&crc.to_le_bytes());
    head
}

/// The checksum of a head, of which its own place is left out.
fn head_crc(head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..24]), &head[28..HEAD])
}

/// What the journal has of a lap.
#[derive(Default)]
struct Lap {
    /// The whole entries, by number.
    entries: BTreeMap<u64, Step>,
    /// How many entries were synced, as the heads say.
    synced: u64,
    /// The highest number of which there is a head alone: its entry was not begun, or it would be in its place.
    not_begun: u64,
}

impl Lap {
    fn read(bytes: &[u8], history: u64, lap: u64) -> Self {
        let tag = tag(history, lap).to_le_bytes();
        let mut found = Self::default();
        for at in memmem::find_iter(bytes, &tag) {
            let entry = &bytes[at..];
            let Some([_, number, length, crcs]) = numbers(entry) else { continue };
            if number == 0 || crcs as u32 != head_crc(entry) {
                continue;
            }
            found.synced = found.synced.max(number - 1);
            if length == NO_BODY {
                found.not_begun = found.not_begun.max(number);
                continue;
            }
            let body = usize::try_from(length).ok().and_then(|length| entry[HEAD..].get(..length));
            let Some(body) = body.filter(|body| (crcs >> 32) as u32 == crc32c::crc32c(body)) else { continue };
            if let Ok((step, _)) = bincode::decode_from_slice(body, bincode::config::standard()) {
                found.entries.insert(number, step);
            }
        }
        found
    }
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
    /// It was cut.
    Cut,
    /// What says where it ends is damaged, or another database's.
    Mark,
    /// Of the groups that were synced, this is the first that is not there.
    Entry { number: u64, synced: u64 },
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
            Wrong::Cut => write!(f, "its journal is cut short")?,
            Wrong::Mark => write!(f, "its journal is damaged where it says which writes it has")?,
            Wrong::Entry { number, synced } => write!(
                f,
                "its journal is damaged: group {number} of the {synced} groups of writes that it must have is not whole"
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
    if [mark, other].into_iter().flatten().any(|mark| mark > lap) {
        return Ok(Found { entries: BTreeMap::new(), hole: hole(Wrong::Later) });
    }
    if lap == 0 {
        return Ok(Found { entries: BTreeMap::new(), hole: None });
    }
    let Lap { entries, synced, not_begun } = Lap::read(&bytes, history, lap);
    // The first that is missing.
    let number = (1..).zip(entries.keys()).find(|(expected, number)| expected != *number);
    let number = number.map_or(entries.len() as u64 + 1, |(expected, _)| expected);
    let is_cut = (bytes.len() as u64) < 2 * AREA;
    let wrong = match mark {
        _ if number <= synced => Some(Wrong::Entry { number, synced }),
        Some(mark) if mark != lap && mark != 0 && mark + 2 != lap => Some(Wrong::Earlier),
        // Whatever else is damaged: this is the end.
        _ if not_begun == number => None,
        _ if is_cut => Some(Wrong::Cut),
        None => Some(Wrong::Mark),
        // The lap's; or one before it, since its first sync did not come to its end, and then nothing was answered.
        Some(_) => None,
    };
    if wrong.is_none() && (is_cut || mark.is_none() || other.is_none()) {
        log::warn!("{}: the journal is damaged, but nothing that it has to have", store.path().display());
    }
    let hole = wrong.map(|wrong| {
        let sure = entries.range(..number).next_back().map(|(_, step)| step.counters.revision);
        let later = entries.range(number..).count() as u64;
        Hole { wrong, revision: sure.unwrap_or(counters.revision), later }
    });
    Ok(Found { entries, hole })
}

/// Does what the journal of `store` has, if the database may lack it, and returns when that is durable.
pub(crate) fn recover(store: &Store) -> Result<(), StoreError> {
    let Found { entries, hole } = read(store)?;
    if let Some(hole) = hole {
        return Err(StoreError::Lost { path: store.path().to_owned(), hole });
    }
    let Some((_, last)) = entries.last_key_value() else { return Ok(()) };
    // All of them, from the first: of one that was not the last, too, the database may have a part.
    entries.values().try_for_each(|step| store.apply(step))?;
    let lap = store.lap()? + 1;
    begin_lap(store, lap, last.counters)?;
    // The lap after the next finds it in its area: an older one would convict the journal.
    let file = OpenOptions::new().write(true).open(store.path().join(NAME)).map_err(|error| io_error(store, error))?;
    let marked = write_mark(&file, area(lap), store.history(), lap).and_then(|()| file.sync_data());
    marked.map_err(|error| io_error(store, error))?;
    log::info!("{}: brought to revision {} by its journal", store.path().display(), last.counters.revision);
    Ok(())
}

/// Does all that the journal of `store` still has, whatever it lacks. Nothing is durable, and indexes need not fit: the
/// database is fit for a rebuild alone. Returns what is wrong, and the highest counters met.
pub(crate) fn salvage(store: &Store) -> Result<(Option<Hole>, Counters), StoreError> {
    let hole = match read(store) {
        Ok(found) => found.hole,
        // What is gone is the lap or the counters.
        Err(StoreError::Corrupt { .. }) => None,
        Err(error) => return Err(error),
    };
    let mut counters = store.counters().unwrap_or_default();
    let bytes = fs::read(store.path().join(NAME)).unwrap_or_default();
    let marks = [0, 1].into_iter().filter_map(|area| read_mark(&bytes, store.history(), area));
    let lap = marks.chain(store.lap()).max().unwrap_or_default();
    for step in Lap::read(&bytes, store.history(), lap).entries.values() {
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
