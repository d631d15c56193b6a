//! The journal makes a group of writes durable before the database has it.
//!
//! sled waits for the disk twice to make a write durable, and a sync of its file waits a third time. The journal waits
//! once: an entry is one write into a preallocated file and one `fdatasync`. The database gets the group afterwards,
//! without haste; after a crash, the next [`Store::open`] replays from here what the database lacks.
//!
//! ```text
//! db/journal    two areas of AREA bytes, for odd laps and for even ones; then entries too long for an area
//! area          mark; entries, each at the beginning of a page of PAGE bytes; then anything
//! mark          MAGIC, history, lap, crc                  of 8 bytes each, little-endian; alone in the first page
//! entry         tag, number, length, head crc, body crc, body        8 bytes each but for the crcs of 4, and body
//! tag           of the lap: the beginning of SHA-256 of history and lap; so no other bytes look like an entry of it
//! number        from 1 in each lap
//! body          bincode of the step: keys, their values, the counters; then of the changes of records, for those who
//!               follow them. A journal of an older version has none
//! ```
//!
//! When an area is full, the database is synced and the next lap begins in the other area. The database stores the
//! lap's number, too, so a missing journal is told from one that never existed.
//!
//! The end of a lap is proven. After a group's sync, and before its answers, the head of the next entry is written to
//! its place, with [`NO_BODY`]; so it costs no page of its own. A head with a number proves that the entry before it
//! was synced, whatever became of its own body. This write is not synced. A killed process leaves it in the system's
//! memory; the next group's sync makes it durable, or [`Journal::settle`] if no group follows. If an entry is missing
//! that must be there, the journal has a [`Hole`]. Only the last entry may be torn, and only if its writes were not
//! answered. One case remains undetected: power fails before [`Journal::settle`] runs, and the last entry is damaged as
//! well.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem;
use sha2::{Digest, Sha256};

use crate::changes::Changed;
use crate::layout::{Counters, Step};
use crate::{Durability, RecordChange, Store, StoreError, layout};

/// The journal's name. It lies beside sled's own files, so every copy of the database includes it.
pub(crate) const NAME: &str = "journal";

/// The bytes that are written in a lap, and so the most that is replayed after a crash; one long entry may exceed it.
///
/// sled reuses a [segment](crate::SEGMENT) of its file once the data it held stands in a segment before the last, without
/// waiting for a sync. For one byte here sled writes three to four there, so a lap is short enough that the sync at its
/// end comes first.
const LAP: u64 = 512 << 10;

/// The unit that a disk may lose as a whole, in bytes. A head does not share one with the entry that it proves.
const PAGE: u64 = 4 << 10;

/// The length of an area: even entries of one page each have room for a lap.
const AREA: u64 = PAGE + 2 * LAP;

/// The beginning of a mark.
const MAGIC: u64 = u64::from_le_bytes(*b"journal2");

/// The length of an entry's head, in bytes.
const HEAD: usize = 32;

/// The length in a head whose body is not written yet.
const NO_BODY: u64 = u64::MAX;

/// The place of the next entry when it lies behind the lap's end.
const FULL: u64 = u64::MAX;

/// The journal of a database that is written to.
pub(crate) struct Journal {
    durability: Durability,
    /// `None` before the first lap.
    file: Option<File>,
    lap: u64,
    tag: u64,
    /// The number of the lap's last entry.
    number: u64,
    /// The place of the next entry in the file.
    at: u64,
    /// The bytes of the lap's entries.
    written: u64,
    /// The counters after the last entry, or as the database had them.
    counters: Counters,
    /// Whether the last head may not be on the disk yet.
    unsettled: bool,
    entry: Vec<u8>,
}

impl Journal {
    /// Creates a journal for `store`, which has replayed the one before and is at `counters`.
    pub(crate) fn new(store: &Store, durability: Durability, counters: Counters) -> Result<Self, StoreError> {
        let lap = store.lap()?;
        let entry = Vec::new();
        let tag = tag(store.history(), lap);
        Ok(Self {
            durability,
            file: None,
            lap,
            tag,
            number: 0,
            at: FULL,
            written: 0,
            counters,
            unsettled: false,
            entry,
        })
    }

    /// Appends `step`, the next after what `store` has, and its `changes` of records; waits until they are as durable as
    /// `durability` asks. Returns the changes with their place.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`]: the step may be tried again. Any other error: the disk has failed, and the next start
    /// finds the step whole or not at all.
    pub(crate) fn append(
        &mut self,
        store: &Store,
        step: &Step,
        changes: Vec<RecordChange>,
    ) -> Result<Changed, StoreError> {
        let changed = Changed { after: self.counters.revision, until: step.counters.revision, changes };
        self.entry.clear();
        self.entry.resize(HEAD, 0);
        layout::put(step, &mut self.entry);
        layout::put(&changed, &mut self.entry);
        let length = self.entry.len() as u64;
        let room = length.next_multiple_of(PAGE) + PAGE;
        let is_full = self.at.checked_add(room).is_none_or(|end| end > area(self.lap) + AREA);
        if is_full || self.written + length > LAP {
            self.begin_lap(store)?;
        }
        self.number += 1;
        self.written += length;
        // An entry too long for an area lies alone behind both and ends the lap. The head that proves it stays in the
        // area: otherwise a cut of the file would lose both.
        let is_long = length > LAP;
        let at = if is_long { 2 * AREA } else { self.at };
        let next = if is_long { self.at } else { at + length.next_multiple_of(PAGE) };
        self.at = if is_long { FULL } else { next };
        fail_point!("before the journal");
        if let Some(file) = &self.file {
            let body = length - HEAD as u64;
            let crc = crc32c::crc32c(&self.entry[HEAD..]);
            self.entry[..HEAD].copy_from_slice(&head(self.tag, self.number, body, crc));
            file.write_all_at(&self.entry, at).map_err(|source| write_error(store, source))?;
            fail_point!("before the sync");
            if self.is_durable() {
                file.sync_data().map_err(|source| io_error(store, source))?;
            }
            fail_point!("before the mark");
            let vouching = head(self.tag, self.number + 1, NO_BODY, 0);
            file.write_all_at(&vouching, next).map_err(|source| io_error(store, source))?;
            self.unsettled = true;
        }
        self.counters = step.counters;
        Ok(changed)
    }

    /// Returns the bytes of the last entry.
    pub(crate) fn last_length(&self) -> u64 {
        self.entry.len() as u64
    }

    /// Makes the last head durable, unless a group's sync has done so.
    pub(crate) fn settle(&mut self, store: &Store) -> Result<(), StoreError> {
        if let (Some(file), true, true) = (&self.file, self.unsettled, self.is_durable()) {
            file.sync_data().map_err(|source| io_error(store, source))?;
        }
        self.unsettled = false;
        Ok(())
    }

    /// Returns whether the next start finds all that was appended, even after a power loss. If so, the database may
    /// apply a step in parts.
    pub(crate) fn is_durable(&self) -> bool {
        self.durability == Durability::Power
    }

    /// Makes all of the database durable, and reserves room for the next lap.
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
        self.tag = tag(store.history(), self.lap);
        self.number = 0;
        self.written = 0;
        self.at = area(self.lap) + PAGE;
        Ok(())
    }
}

/// Makes the database durable as it is at the beginning of `lap`; the journal's entries of other laps no longer count.
/// The counters and the lap are written last, so that a crash never leaves them without what came before.
fn begin_lap(store: &Store, lap: u64, counters: Counters) -> Result<(), StoreError> {
    store.put_counters(counters)?;
    store.put(layout::LAP_KEY, &layout::encode(lap))?;
    store.sync()
}

/// Returns where the area of `lap` begins.
fn area(lap: u64) -> u64 {
    lap % 2 * AREA
}

/// Opens the journal, or creates an empty one: zeros, and marks of no lap.
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

/// Reads the lap in the mark of the area of `lap`. Returns `None` if the mark is damaged or belongs to another
/// database.
fn read_mark(bytes: &[u8], history: u64, lap: u64) -> Option<u64> {
    let bytes = bytes.get(area(lap) as usize..)?;
    let [magic, of, lap, crc] = numbers(bytes)?;
    let whole = crc == u64::from(crc32c::crc32c(&bytes[..24])) && magic == MAGIC && of == history;
    whole.then_some(lap)
}

/// Reads the four numbers that `bytes` begin with.
fn numbers(bytes: &[u8]) -> Option<[u64; 4]> {
    let (numbers, _) = bytes.get(..HEAD)?.as_chunks::<8>();
    Some(std::array::from_fn(|nth| numbers.get(nth).map_or(0, |number| u64::from_le_bytes(*number))))
}

/// Computes the tag that every entry of a lap begins with.
fn tag(history: u64, lap: u64) -> u64 {
    let digest = Sha256::new().chain_update(history.to_le_bytes()).chain_update(lap.to_le_bytes()).finalize();
    digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// Builds the head of an entry.
fn head(tag: u64, number: u64, length: u64, body_crc: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..24].copy_from_slice([tag, number, length].map(u64::to_le_bytes).as_flattened());
    head[28..].copy_from_slice(&body_crc.to_le_bytes());
    let crc = head_crc(&head);
    head[24..28].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Computes the checksum of a head, leaving out the checksum's own place.
fn head_crc(head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..24]), &head[28..HEAD])
}

/// The journal's entries of one lap.
#[derive(Default)]
struct Lap {
    /// The whole entries, by number.
    entries: BTreeMap<u64, Step>,
    /// Their changes of records, by number.
    changed: BTreeMap<u64, Changed>,
    /// The number of entries that the heads prove as synced.
    synced: u64,
    /// The highest number with a head but no body: that entry was not begun, or it would have overwritten the head.
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
            let config = bincode::config::standard();
            if let Ok((step, length)) = bincode::decode_from_slice(body, config) {
                found.entries.insert(number, step);
                if let Ok((changed, _)) = bincode::decode_from_slice(&body[length..], config) {
                    found.changed.insert(number, changed);
                }
            }
        }
        found
    }
}

/// A gap in a journal, and the revision up to which its database is certainly complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    wrong: Wrong,
    /// The last revision that is certain.
    revision: u64,
    /// The number of whole groups behind that revision.
    later: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wrong {
    /// The file is missing.
    Missing,
    /// The file was cut.
    Cut,
    /// The mark is damaged, or belongs to another database.
    Mark,
    /// Entry `number` is missing, though `synced` entries were synced.
    Entry { number: u64, synced: u64 },
    /// The journal belongs to a later state of the database.
    Later,
    /// The journal belongs to an earlier state of the database.
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

/// The entries of a journal that its database may lack.
struct Found {
    /// The whole entries, by number.
    entries: BTreeMap<u64, Step>,
    /// The changes of records in these and in the lap before, in order.
    changed: Vec<Changed>,
    hole: Option<Hole>,
}

impl Found {
    fn without_entries(hole: Option<Hole>) -> Self {
        Self { entries: BTreeMap::new(), changed: Vec::new(), hole }
    }
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
        return Ok(Found::without_entries(hole));
    };
    let (mark, other) = (read_mark(&bytes, history, lap), read_mark(&bytes, history, lap + 1));
    if [mark, other].into_iter().flatten().any(|mark| mark > lap) {
        return Ok(Found::without_entries(hole(Wrong::Later)));
    }
    if lap == 0 {
        return Ok(Found::without_entries(None));
    }
    let Lap { entries, changed, synced, not_begun } = Lap::read(&bytes, history, lap);
    let changed = Lap::read(&bytes, history, lap - 1).changed.into_values().chain(changed.into_values()).collect();
    // The first number that is missing.
    let number = (1..).zip(entries.keys()).find(|(expected, number)| expected != *number);
    let number = number.map_or(entries.len() as u64 + 1, |(expected, _)| expected);
    let is_cut = (bytes.len() as u64) < 2 * AREA;
    let wrong = match mark {
        _ if number <= synced => Some(Wrong::Entry { number, synced }),
        Some(mark) if mark != lap && mark != 0 && mark + 2 != lap => Some(Wrong::Earlier),
        // The end is proven here, whatever else is damaged.
        _ if not_begun == number => None,
        _ if is_cut => Some(Wrong::Cut),
        None => Some(Wrong::Mark),
        // The mark is this lap's, or an older one: then the lap's first sync did not end, and nothing was answered.
        Some(_) => None,
    };
    if wrong.is_none() && (is_cut || mark.is_none() || other.is_none()) {
        log::warn!("{}: the journal is damaged, but it has all the entries that it must have", store.path().display());
    }
    let hole = wrong.map(|wrong| {
        let sure = entries.range(..number).next_back().map(|(_, step)| step.counters.revision);
        let later = entries.range(number..).count() as u64;
        Hole { wrong, revision: sure.unwrap_or(counters.revision), later }
    });
    Ok(Found { entries, changed, hole })
}

/// Replays the journal of `store`, if the database may lack some of it; returns when that is durable.
pub(crate) fn recover(store: &Store) -> Result<(), StoreError> {
    let Found { entries, changed, hole } = read(store)?;
    if let Some(hole) = hole {
        return Err(StoreError::Lost { path: store.path().to_owned(), hole });
    }
    let last = entries.last_key_value().map(|(_, step)| step.counters);
    store.shared.changes.begin(last.map_or_else(|| store.revision(), |last| Ok(last.revision))?, changed);
    let Some(last) = last else { return Ok(()) };
    // Replays all entries from the first: the database may have a part of any of them.
    entries.values().try_for_each(|step| store.apply(step))?;
    let lap = store.lap()? + 1;
    begin_lap(store, lap, last)?;
    // The lap after the next finds this mark in its area; an older mark would look like a journal of an earlier state.
    let file = OpenOptions::new().write(true).open(store.path().join(NAME)).map_err(|error| io_error(store, error))?;
    let marked = write_mark(&file, area(lap), store.history(), lap).and_then(|()| file.sync_data());
    marked.map_err(|error| io_error(store, error))?;
    log::info!("{}: brought to revision {} by its journal", store.path().display(), last.revision);
    Ok(())
}

/// Replays all whole entries of the journal of `store`, despite any holes. Nothing is durable, and indexes may not
/// match: the database is fit only for a rebuild. Returns the hole, and the highest counters found.
pub(crate) fn salvage(store: &Store) -> Result<(Option<Hole>, Counters), StoreError> {
    let hole = match read(store) {
        Ok(found) => found.hole,
        // The lap or the counters are damaged.
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

/// Converts a failed write's error. Lack of room is [`StoreError::NoRoom`]: the step can be tried again.
fn write_error(store: &Store, source: io::Error) -> StoreError {
    if let io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded = source.kind() {
        return StoreError::NoRoom(store.path().to_owned());
    }
    io_error(store, source)
}

/// Converts any other error. After a failed sync the disk's state is unknown, so this is never a lack of room to wait
/// for.
fn io_error(store: &Store, source: io::Error) -> StoreError {
    store.io_of(NAME, source)
}
