//! The journal: what makes a group of writes durable before the database has it.
//!
//! sled's own way to the disk takes two waits for the disk, a sync of its file a third. A journal takes one: an entry is
//! one write into a file that is there in full already, and one `fdatasync`. The database gets the group afterwards,
//! and may take its time; what a crash takes from it, the next [`Store::open`] takes from here.
//!
//! ```text
//! db/journal    entry entry … then anything that is no entry
//! entry         length crc body            length of body and its CRC-32: 4 bytes each, little-endian
//! body          bincode of follows, step   the revision that was the highest before it; keys, their values, the counters
//! ```
//!
//! When the file is full the database is synced, and entries begin at the file's start again: a lap. What is left of
//! the lap before is no entry there: each follows the one before it, by its counters, and these only rise.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::{fs, io};

use super::layout::{self, Counters, Step};
use super::{Durability, Store, StoreError, Writer};

/// The journal's name, beside sled's own files: whoever copies the database copies it.
const NAME: &str = "journal";

/// How long a lap is, in bytes, and so how much is done again after a crash at most. It may be longer by one entry.
///
/// sled gives a [segment](super::SEGMENT) of its file to new data once what it held stands in a segment before the last,
/// and does not wait for a sync in between. For one byte here it writes three to four there, so a lap is short enough for
/// the sync at its end to come first.
const LAP: u64 = 512 << 10;

/// The length and the checksum that an entry begins with.
const HEAD: usize = 8;

/// The journal of a database that is written to.
pub(super) struct Journal {
    durability: Durability,
    /// Nothing before the first lap.
    file: Option<File>,
    /// Where the next entry goes.
    at: u64,
    /// What the last entry, or the database, led to.
    counters: Counters,
    entry: Vec<u8>,
}

impl Journal {
    /// A journal for a database that has done all that the one before had, and is at `counters`.
    pub(super) fn new(durability: Durability, counters: Counters) -> Self {
        Self { durability, file: None, at: LAP, counters, entry: Vec::new() }
    }

    /// Appends `step`, the next after what `store` has, and waits until it is as durable as it is to be.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`], and then the step may be tried again; or the disk has failed, and the next start finds the
    /// step whole or not at all.
    pub(super) fn append(&mut self, store: &Store, step: &Step) -> Result<(), StoreError> {
        self.entry.clear();
        self.entry.resize(HEAD, 0);
        layout::put((self.counters.revision, step), &mut self.entry);
        let body = &self.entry[HEAD..];
        let length = u32::try_from(body.len()).expect("a group is no larger than the committer lets it grow");
        let crc = crc32fast::hash(body);
        self.entry[..4].copy_from_slice(&length.to_le_bytes());
        self.entry[4..HEAD].copy_from_slice(&crc.to_le_bytes());
        let length = self.entry.len() as u64;
        if self.at + length > LAP {
            self.begin_lap(store)?;
        }
        fail_point!("before the journal");
        if let Some(file) = &self.file {
            let written = file.write_all_at(&self.entry, self.at).and_then(|()| {
                fail_point!("before the sync");
                if self.is_durable() { file.sync_data() } else { Ok(()) }
            });
            written.map_err(|source| io_error(store, source))?;
        }
        self.at += length;
        self.counters = step.counters;
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
            store.put(layout::COUNTERS_KEY, layout::encode_counters(self.counters))?;
            store.sync()?;
            if self.file.is_none() {
                self.file = Some(create(store).map_err(|source| io_error(store, source))?);
            }
        }
        self.at = 0;
        Ok(())
    }
}

/// Makes an empty journal: a whole lap of zeros.
fn create(store: &Store) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(store.path.join(NAME))?;
    file.set_len(LAP)?;
    file.write_all_at(&[0; LAP as usize], 0)?;
    file.sync_all()?;
    File::open(&store.path)?.sync_all()?;
    Ok(file)
}

/// Does what the journal of `store` has, if the database has not all of it.
pub(super) fn replay(store: &Store) -> Result<(), StoreError> {
    let bytes = match fs::read(store.path.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|source| io_error(store, source))?,
    };
    let entries = entries(&bytes);
    let there = Writer::new(store)?.counters().revision;
    let (Some((follows, _)), Some((_, last))) = (entries.first(), entries.last()) else { return Ok(()) };
    if last.counters.revision <= there {
        return Ok(());
    }
    if *follows > there {
        let what = format!("its journal goes on from revision {follows}, but it is at {there}");
        return Err(store.corrupt(&what));
    }
    // All of them, from the first: of one that was not the last, too, the database may have a part.
    entries.iter().try_for_each(|(_, step)| store.apply(step))?;
    log::info!("{}: brought from revision {there} to {} by its journal", store.path.display(), last.counters.revision);
    Ok(())
}

/// The entries at the beginning of `bytes`, up to what is none.
fn entries(mut bytes: &[u8]) -> Vec<(u64, Step)> {
    let mut entries: Vec<(u64, Step)> = Vec::new();
    while let Some((entry, rest)) = entry(bytes)
        && entries.last().is_none_or(|(_, last)| last.counters.revision == entry.0)
    {
        entries.push(entry);
        bytes = rest;
    }
    entries
}

/// The entry at the beginning of `bytes`, and what follows it.
fn entry(bytes: &[u8]) -> Option<((u64, Step), &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let (body, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let whole = !body.is_empty() && crc32fast::hash(body) == u32::from_le_bytes(*crc);
    Some((layout::decode_all(body).ok().filter(|_| whole)?, rest))
}

fn io_error(store: &Store, source: io::Error) -> StoreError {
    if let io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded = source.kind() {
        return StoreError::NoRoom(store.path.clone());
    }
    StoreError::Io { path: store.path.join(NAME), source }
}
