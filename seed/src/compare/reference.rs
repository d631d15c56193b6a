//! What both sides should have: the ids of posts that have none at the monolith, and the source's own digits.
//!
//! The ids are those of the sequence of records that was split: the nth record of the posts' slice (or of the file, or
//! of the monolith's own list) stands for the monolith's nth post, and its id is its `id`, or else n. The posts of a
//! thread or of a user stand in that order too.
//!
//! **Memory**: a sequence holds the differences between its ids, 1 to 3 bytes each mostly. Three million posts in 300,000
//! threads by 60,000 users: the process had 108 MiB at most, reading the file included. Sets of ids are bitmaps. Of the records, only those that JavaScript spells
//! otherwise are remembered, with 16 bytes each.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

use roaring::RoaringTreemap;
use sha2::{Digest, Sha256};
use shared::model::{Collection, Post, Record, Records, Term, Thread};

use super::client::Endpoint;
use super::javascript::respell;
use super::route::Route;
use crate::error::Error;
use crate::manifest::Manifest;
use crate::progress::{Progress, Total};
use crate::source::Source;

/// Where the ids and digits come from.
#[derive(Clone, Copy)]
pub enum Origin<'p> {
    /// The slices of a split, which nobody locks.
    Data(&'p Path),
    /// The file that was split.
    Input(&'p Path),
    /// The lists that the monolith itself sends.
    Monolith(&'p Endpoint),
}

/// What is known of the source.
#[derive(Default)]
pub struct Reference {
    /// The ids that there are, and those that others refer to, in the order of [`Collection::ALL`].
    pub ids: [RoaringTreemap; 3],
    /// How many records each collection has.
    pub records: [u64; 3],
    /// How many records of the source nobody takes.
    pub rejected: u64,
    posts: Sequence,
    in_thread: HashMap<u64, Sequence>,
    by_user: HashMap<u64, Sequence>,
    /// The digests of records that JavaScript spells otherwise; `None` where the source's spelling is not known.
    spelled: Option<HashMap<(u8, u64), u64>>,
}

/// Whether a service's spelling of a record is the source's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// It is.
    OfTheSource,
    /// It is not.
    Other,
    /// There is no source at hand.
    Unknown,
}

impl Reference {
    /// Reads these collections of `origin`.
    ///
    /// # Errors
    /// The source cannot be read, or is not what it should be.
    pub fn read(origin: Origin, collections: &[Collection], progress: Progress) -> Result<Self, Error> {
        let mut reference = Self::default();
        match origin {
            Origin::Data(data) => {
                reference.spelled = Some(HashMap::new());
                let manifest = Manifest::read(data)?.ok_or_else(|| {
                    let reason = "there is no manifest.json, so this is not the folder of a split";
                    Error::Backup { path: data.display().to_string(), reason: reason.to_owned() }
                })?;
                reference.rejected = manifest.rejected;
                for &collection in collections {
                    reference.read_slice(data, &manifest, collection, progress)?;
                }
            }
            Origin::Input(file) => {
                reference.spelled = Some(HashMap::new());
                let mut source = Source::open(file)?.passing(Box::new(io::sink()));
                let length = source.length();
                reference.read_all(&mut source, progress, Total::Bytes(length))?;
            }
            Origin::Monolith(monolith) => {
                for &collection in collections {
                    reference.read_list(monolith, collection, progress)?;
                }
            }
        }
        Ok(reference)
    }

    fn read_slice(
        &mut self,
        data: &Path,
        manifest: &Manifest,
        collection: Collection,
        progress: Progress,
    ) -> Result<(), Error> {
        let path = data.join(collection.name()).join("db.json");
        let mut source = Source::with(&path, collection.alone())?.hashed();
        let length = source.length();
        self.read_all(&mut source, progress, Total::Bytes(length))?;
        let (found, expected) = (source.identity(), &manifest.entry(collection).slice);
        if !expected.sha256.is_empty() && found != *expected {
            let reason =
                "it is not the slice that manifest.json names; has another run of `seed` changed it meanwhile?";
            return Err(Error::Backup { path: path.display().to_string(), reason: reason.to_owned() });
        }
        Ok(())
    }

    fn read_list(&mut self, monolith: &Endpoint, collection: Collection, progress: Progress) -> Result<(), Error> {
        let path = format!("/api/{}", collection.name());
        let unusable = |why: String| Error::Monolith(format!("{}{path}: {why}", monolith.address));
        let reply = monolith.get(&path).map_err(|failure| unusable(failure.text))?;
        if reply.status != 200 {
            let to = reply.location.map(|to| format!(", to {to}")).unwrap_or_default();
            return Err(unusable(format!("status {}{to}, and no list of records", reply.status)));
        }
        let name = collection.name();
        let object = io::Cursor::new(format!("{{\"{name}\":")).chain(reply.body).chain(io::Cursor::new("}"));
        let mut source = Source::new(Path::new(name), collection.alone(), Box::new(object));
        self.read_all(&mut source, progress, Total::Unknown).map_err(|error| match error {
            Error::Input { place, reason, .. } => unusable(format!("no list of records: {place}: {reason}")),
            Error::Io { source, .. } => unusable(source.to_string()),
            error => error,
        })
    }

    fn read_all(&mut self, source: &mut Source, progress: Progress, total: Total) -> Result<(), Error> {
        let stage = progress.stage("reading ids", total);
        while let Some(batch) = source.next_batch()? {
            let (records, rejects) = batch.parse();
            records.iter().for_each(|records| self.add_all(records));
            self.rejected += rejects.len() as u64;
            let (bytes, count) = batch.size();
            stage.advance(bytes, count);
            source.recycle(batch);
        }
        Ok(())
    }

    fn add_all(&mut self, records: &Records) {
        let collection = records.collection();
        for record in records.iter() {
            let id = record.id.get();
            self.ids[number_of(collection)].insert(id);
            self.records[number_of(collection)] += 1;
            if collection == Collection::Posts {
                let position = record.position.map_or(u64::MAX, |position| position.get());
                // A record that was rejected has its place too.
                while self.posts.length + 1 < position {
                    self.posts.push(self.posts.length + 1);
                }
                self.posts.push(id);
            }
            for (index, term) in record.terms.iter().flatten() {
                let Term::Id(other) = term else { continue };
                let other = other.get();
                if collection == Collection::Threads && *index == Thread::BY_USER {
                    self.ids[number_of(Collection::Users)].insert(other);
                } else if *index == Post::IN_THREAD {
                    self.ids[number_of(Collection::Threads)].insert(other);
                    self.in_thread.entry(other).or_default().push(id);
                } else if *index == Post::BY_USER {
                    self.ids[number_of(Collection::Users)].insert(other);
                    self.by_user.entry(other).or_default().push(id);
                }
            }
            self.remember_spelling(collection, &record);
        }
    }

    fn remember_spelling(&mut self, collection: Collection, record: &Record) {
        let Some(spelled) = &mut self.spelled else { return };
        // An id that the split gave changes nothing about that, unless an array index follows on it.
        let is_plain = !record.source.as_bytes().get(2).is_some_and(u8::is_ascii_digit);
        if is_plain && respell(record.source.as_bytes()).is_none() {
            return;
        }
        let json = record.json();
        if respell(json.as_bytes()).is_some() {
            spelled.insert((number_of(collection) as u8, record.id.get()), digest(json.as_bytes()));
        }
    }

    /// Whether a service's record that JavaScript spells otherwise is as the source has it.
    pub fn spelling_of(&self, collection: Collection, id: u64, json: &[u8]) -> Spelling {
        match &self.spelled {
            None => Spelling::Unknown,
            Some(spelled) if spelled.get(&(number_of(collection) as u8, id)) == Some(&digest(json)) => {
                Spelling::OfTheSource
            }
            Some(_) => Spelling::Other,
        }
    }

    /// The ids of the posts that `route` lists, in the monolith's order.
    pub fn ids_of(&self, route: Route, id: Option<u64>) -> Ids<'_> {
        let sequence = match route {
            Route::Posts => Some(&self.posts),
            Route::PostsInThread => id.and_then(|id| self.in_thread.get(&id)),
            Route::PostsByUser => id.and_then(|id| self.by_user.get(&id)),
            _ => None,
        };
        Ids { bytes: sequence.map_or(&[], |sequence| &sequence.bytes), last: 0 }
    }
}

/// The place of a collection in [`Collection::ALL`].
pub fn number_of(collection: Collection) -> usize {
    match collection {
        Collection::Users => 0,
        Collection::Threads => 1,
        Collection::Posts => 2,
    }
}

fn digest(json: &[u8]) -> u64 {
    let hash = Sha256::digest(json);
    u64::from_le_bytes(*hash.first_chunk().expect("a SHA-256 has 32 bytes"))
}

/// Ids in an order: the differences between them, each as many bytes as it needs, seven bits a byte.
#[derive(Default)]
struct Sequence {
    length: u64,
    last: u64,
    bytes: Vec<u8>,
}

impl Sequence {
    fn push(&mut self, id: u64) {
        let difference = id.wrapping_sub(self.last).cast_signed();
        // The sign is the lowest bit, so that small differences of either sign are short.
        let mut rest = ((difference << 1) ^ (difference >> 63)).cast_unsigned();
        while rest >= 0x80 {
            self.bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest as u8);
        (self.last, self.length) = (id, self.length + 1);
    }
}

/// The ids of a list of posts.
pub struct Ids<'r> {
    bytes: &'r [u8],
    last: u64,
}

impl Iterator for Ids<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7F) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        let difference = (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
        self.last = self.last.wrapping_add(difference.cast_unsigned());
        Some(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_gives_its_ids_back_in_their_order() {
        let ids = [1, 2, 3, 300, 299, 1, i64::MAX as u64, 1, u64::MAX, 0, 7, 7];
        let mut sequence = Sequence::default();
        ids.iter().for_each(|&id| sequence.push(id));
        let found: Vec<u64> = Ids { bytes: &sequence.bytes, last: 0 }.collect();
        assert_eq!(found, ids);
        let mut positions = Sequence::default();
        (1..=1000).for_each(|id| positions.push(id));
        assert_eq!(positions.bytes.len(), 1000);
    }
}
