//! What both sides should have: the ids of posts that have none at the monolith, and the source's own digits.
//!
//! A post without an id is found by what it says, as the monolith sends it: places do not tell, since the monolith still
//! serves records that the split has rejected. Posts that say the same stand in the same lists, in the source's order: the
//! nth of them in a list has the nth of their ids.
//!
//! **Memory**: 16 bytes for each post without an id of its own. Sets of ids are bitmaps. Of the records, only those that
//! JavaScript spells otherwise are remembered, with 16 bytes each.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use roaring::RoaringTreemap;
use sha2::{Digest, Sha256};
use shared::model::{Collection, Post, Record, Records, Term, Thread};

use super::client::Endpoint;
use super::javascript::respell;
use super::route::Route;
use crate::error::Error;
use crate::identity::identify;
use crate::ids;
use crate::manifest::Manifest;
use crate::progress::{Progress, Total};
use crate::source::{Reading, Source};

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
    /// The records' own ids, and those of threads and users that have posts: of what an answer must not be empty.
    own: [RoaringTreemap; 3],
    threads_with_posts: RoaringTreemap,
    users_with_posts: RoaringTreemap,
    /// How many records each collection has.
    pub records: [u64; 3],
    /// How many records of the source nobody takes.
    pub rejected: u64,
    /// What each post without an id of its own says, as a digest, with the id that it was given; sorted once all are read.
    given: Vec<(u64, u64)>,
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
                let ids = ids::read_beside(file, || identify(file))?.ids;
                let reading = Arc::new(Reading { ids, ..Reading::default() });
                let mut source = Source::open(file)?.read_as(&reading).passing(Box::new(io::sink()));
                let length = source.length();
                reference.read_all(&mut source, &|_| false, progress, Total::Bytes(length))?;
            }
            Origin::Monolith(monolith) => {
                for &collection in collections {
                    reference.read_list(monolith, collection, progress)?;
                }
            }
        }
        // Stable: posts that say the same stay in the source's order.
        reference.given.par_sort_by_key(|(digest, _)| *digest);
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
        let entry = manifest.entry(collection);
        // A `seed` before this one did not note which ids it gave.
        let all_given = entry.database.is_none() && manifest.rejected > 0;
        let is_given = |id| all_given || entry.given.contains(id);
        self.read_all(&mut source, &is_given, progress, Total::Bytes(length))?;
        let (found, expected) = (source.identity(), &entry.slice);
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
        self.read_all(&mut source, &|_| false, progress, Total::Unknown).map_err(|error| match error {
            Error::Input { place, reason, .. } => unusable(format!("no list of records: {place}: {reason}")),
            Error::Io { source, .. } => unusable(source.to_string()),
            error => error,
        })
    }

    /// Reads a source of which the ids that `is_given` names are not the records' own.
    fn read_all(
        &mut self,
        source: &mut Source,
        is_given: &dyn Fn(u64) -> bool,
        progress: Progress,
        total: Total,
    ) -> Result<(), Error> {
        let stage = progress.stage("reading ids", total);
        while let Some(batch) = source.next_batch()? {
            let (records, rejects) = batch.parse();
            records.iter().for_each(|records| self.add_all(records, is_given));
            self.rejected += rejects.len() as u64;
            let (bytes, count) = batch.size();
            stage.advance(bytes, count);
            source.recycle(batch);
        }
        Ok(())
    }

    fn add_all(&mut self, records: &Records, is_given: &dyn Fn(u64) -> bool) {
        let collection = records.collection();
        for record in records.iter() {
            let id = record.id.get();
            self.ids[number_of(collection)].insert(id);
            self.own[number_of(collection)].insert(id);
            self.records[number_of(collection)] += 1;
            if collection.may_lack_ids() && (record.id_from_position || is_given(id)) {
                self.given.push((digest_of_sent(&record), id));
            }
            for (index, term) in record.terms.iter().flatten() {
                let Term::Id(other) = term else { continue };
                let other = other.get();
                let referred = match (collection, *index) {
                    (Collection::Threads, Thread::BY_USER) => Collection::Users,
                    (Collection::Posts, Post::BY_USER) => {
                        self.users_with_posts.insert(other);
                        Collection::Users
                    }
                    (Collection::Posts, Post::IN_THREAD) => {
                        self.threads_with_posts.insert(other);
                        Collection::Threads
                    }
                    _ => continue,
                };
                self.ids[number_of(referred)].insert(other);
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

    /// Whether the source has a record that this path should send.
    pub fn has_records(&self, route: Route, id: Option<u64>) -> bool {
        let has = |ids: &RoaringTreemap| id.is_some_and(|id| ids.contains(id));
        match (route, route.collection()) {
            (Route::PostsInThread, _) => has(&self.threads_with_posts),
            (Route::PostsByUser, _) => has(&self.users_with_posts),
            (Route::User | Route::Thread, Some(collection)) => has(&self.own[number_of(collection)]),
            (_, Some(collection)) => self.records[number_of(collection)] > 0,
            (_, None) => false,
        }
    }

    /// The ids of the posts that say what `sent` does, a post without an id as the monolith sends it, in their order.
    pub fn given_ids(&self, sent: &[u8]) -> &[(u64, u64)] {
        let digest = digest(sent);
        let begin = self.given.partition_point(|(other, _)| *other < digest);
        let count = self.given[begin..].iter().take_while(|(other, _)| *other == digest).count();
        &self.given[begin..begin + count]
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

/// What a post says as the monolith sends it, without the id that it was given.
fn digest_of_sent(record: &Record) -> u64 {
    let given = (!record.id_from_position).then(|| format!("{{\"id\":{},", record.id.get()));
    let own = given.and_then(|given| record.source.strip_prefix(&given)).map(|rest| format!("{{{rest}"));
    let source = own.as_deref().unwrap_or(record.source).as_bytes();
    respell(source).map_or_else(|| digest(source), |sent| digest(&sent.text))
}

fn digest(json: &[u8]) -> u64 {
    let hash = Sha256::digest(json);
    u64::from_le_bytes(*hash.first_chunk().expect("a SHA-256 has 32 bytes"))
}
