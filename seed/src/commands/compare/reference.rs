//! The reference for both sides: the ids of records that have none at the monolith, and the source's own digits.
//!
//! A record without an id is found by its content, as the monolith sends it. Its position is no help, since the monolith
//! still serves records that the split has rejected. Equal records are in the same lists, in the source's order: the nth of
//! them in a list has the nth of their ids.
//!
//! **Memory**: 16 bytes for each record without its own id, and 16 bytes for each record that JavaScript spells differently.
//! Sets of ids are bitmaps; each id that is a text takes some 100 bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use record::model::{Collection, Index, Record, Records, Term};
use roaring::RoaringTreemap;
use sha2::{Digest, Sha256};

use super::client::Endpoint;
use super::javascript::respell;
use super::route::{Route, Which, key_of};
use crate::error::Error;
use crate::identity::identify;
use crate::ids;
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::progress::{Progress, Total};
use crate::source::{Reading, Source};

/// The source of ids and digits.
#[derive(Clone, Copy)]
pub enum Origin<'p> {
    /// The slices of a split; they are read without a lock.
    Data(&'p Path, &'p Manifest),
    /// The file that was split.
    Input(&'p Path),
    /// The lists that the monolith itself sends.
    Monolith(&'p Endpoint),
}

/// The facts that are known of the source.
#[derive(Default)]
pub struct Reference {
    collections: BTreeMap<Collection, Known>,
    /// The number of rejected records in the source.
    pub rejected: u64,
    /// Whether the source's spelling is known.
    knows_spelling: bool,
}

/// The facts that are known of a collection.
#[derive(Default)]
struct Known {
    /// The number of records.
    records: u64,
    /// The records' ids. All ids here are keys; see [`key_of`].
    ids: RoaringTreemap,
    /// The ids that the records refer to, by index: an answer for such an id must not be empty.
    referred: BTreeMap<Index, RoaringTreemap>,
    /// The digest of each record without its own id, and the id that it was given; sorted after reading.
    given: Vec<(u64, u64)>,
    /// The digests of records that JavaScript spells differently, by id.
    spelled: HashMap<u64, u64>,
    /// The ids that are texts, by their keys, and their places in a service's list.
    texts: HashMap<u64, (Box<str>, u64)>,
    /// The text ids that the records refer to, by their keys.
    referred_texts: HashMap<u64, Box<str>>,
}

/// The origin of a service's spelling of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// The spelling is the source's.
    OfTheSource,
    /// The spelling is not the source's.
    Other,
    /// The source is not known.
    Unknown,
}

impl Reference {
    /// Reads these collections of `origin`.
    ///
    /// # Errors
    /// The source cannot be read, or is invalid.
    pub fn read(origin: Origin, collections: &Plan, progress: Progress) -> Result<Self, Error> {
        let knows_spelling = !matches!(origin, Origin::Monolith(_));
        let mut reference = Self { knows_spelling, ..Self::default() };
        match origin {
            Origin::Data(data, manifest) => {
                reference.rejected = manifest.rejected;
                for collection in collections.iter() {
                    reference.read_slice(data, manifest, collection, progress)?;
                }
            }
            // The reader refuses a file if it is to read no collections of it.
            Origin::Input(_) if collections.count() == 0 => {}
            Origin::Input(file) => {
                let given = ids::read_beside(file, collections, || identify(file))?;
                let reading = Arc::new(Reading { given, ..Reading::default() });
                let mut source = Source::open(file, collections)?.read_as(&reading).passing(Box::new(io::sink()));
                let length = source.length();
                reference.read_all(&mut source, &|_| false, progress, Total::Bytes(length))?;
                // A missing collection would be left out of the comparison silently.
                source.require_all()?;
            }
            Origin::Monolith(monolith) => {
                for collection in collections.iter() {
                    reference.read_list(monolith, collection, progress)?;
                }
            }
        }
        // Stable: equal records stay in the source's order.
        reference.collections.values_mut().for_each(|known| known.given.par_sort_by_key(|(digest, _)| *digest));
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
        let entry = manifest.entry(collection);
        let mut source = entry.open_slice(&path, entry.collection())?.hashed();
        let length = source.length();
        // An earlier `seed` did not record which ids it gave.
        let all_given = entry.database.is_none() && manifest.rejected > 0;
        let is_given = |id| all_given || entry.given.contains(id);
        self.read_all(&mut source, &is_given, progress, Total::Bytes(length))?;
        let (found, expected) = (source.identity(), &entry.slice);
        if !expected.sha256.is_empty() && found != *expected {
            let reason =
                "the slice differs from the one in manifest.json; another run of `seed` may have changed it: try again";
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
            return Err(unusable(format!("status {}{to} instead of a list of records", reply.status)));
        }
        let name = collection.name();
        let object = io::Cursor::new(format!("{{\"{name}\":")).chain(reply.body).chain(io::Cursor::new("}"));
        let mut source = Source::new(Path::new(name), &Plan::of(collection), Box::new(object));
        self.read_all(&mut source, &|_| false, progress, Total::Unknown).map_err(|error| match error {
            Error::Input { place, reason, .. } => unusable(format!("not a list of records: {place}: {reason}")),
            Error::Io { source, .. } => unusable(source.to_string()),
            error => error,
        })
    }

    /// Reads a source. `is_given` says which ids the split gave.
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
        let known = self.collections.entry(collection).or_default();
        let text_references: Vec<Index> = collection.references().map(|reference| reference.index.number).collect();
        for record in records.iter() {
            let number = record.id.get();
            let id = record.id_text().map_or(number, key_of);
            known.records += 1;
            known.ids.insert(id);
            if let Some(text) = record.id_text() {
                known.texts.insert(id, (text.into(), number));
            }
            if collection.may_lack_ids() && (record.id_from_position || is_given(number)) {
                known.given.push((digest_of_sent(&record), id));
            }
            for (index, term) in record.terms {
                match term {
                    Term::Id(other) => drop(known.referred.entry(*index).or_default().insert(other.get())),
                    Term::Text(other) if text_references.contains(index) => {
                        known.referred.entry(*index).or_default().insert(key_of(other));
                        known.referred_texts.entry(key_of(other)).or_insert_with(|| other.clone());
                    }
                    Term::Text(_) | Term::Ordered(_) | Term::Number(_) => {}
                }
            }
            if self.knows_spelling {
                known.remember_spelling(&record);
            }
        }
    }

    /// Returns the ids of a collection's records, and those that other records refer to.
    pub fn ids(&self, collection: Collection) -> RoaringTreemap {
        let mut ids = self.collections.get(&collection).map(|known| known.ids.clone()).unwrap_or_default();
        for (from, known) in &self.collections {
            let references = from.references().filter(|reference| reference.to == collection.name());
            let referred = references.filter_map(|reference| known.referred.get(&reference.index.number));
            referred.for_each(|others| ids |= others);
        }
        ids
    }

    /// Returns these ids if they are texts; ids that the split gave are only included `with_given`.
    pub fn texts(&self, collection: Collection, with_given: bool) -> BTreeSet<&str> {
        let known = self.collections.get(&collection);
        let given: HashSet<u64> = known.into_iter().flat_map(|known| &known.given).map(|(_, id)| *id).collect();
        let own = known.into_iter().flat_map(|known| &known.texts).map(|(key, (text, _))| (key, text));
        let is_to = |from: &Collection| from.references().any(|reference| reference.to == collection.name());
        let others = self.collections.iter().filter(|(from, _)| is_to(from));
        let referred = others.flat_map(|(_, known)| &known.referred_texts);
        let all = own.chain(referred).filter(|(key, _)| with_given || !given.contains(key));
        all.map(|(_, text)| &**text).collect()
    }

    /// Returns a number that orders a record in its service's list; `None` if its text id is unknown.
    pub fn place_of(&self, collection: Collection, id: u64) -> Option<u64> {
        if !collection.has_text_ids() {
            return Some(id);
        }
        self.collections.get(&collection)?.texts.get(&id).map(|(_, number)| *number)
    }

    /// Returns the text of a record's id.
    pub fn text_of(&self, collection: Collection, id: u64) -> Option<&str> {
        self.collections.get(&collection)?.texts.get(&id).map(|(text, _)| &**text)
    }

    /// Counts a collection's records.
    pub fn records(&self, collection: Collection) -> u64 {
        self.collections.get(&collection).map_or(0, |known| known.records)
    }

    /// Counts all records.
    pub fn all_records(&self) -> u64 {
        self.collections.values().map(|known| known.records).sum()
    }

    /// Judges a service's record that JavaScript spells differently: returns whether it is spelled as in the source.
    pub fn spelling_of(&self, collection: Collection, id: u64, json: &[u8]) -> Spelling {
        if !self.knows_spelling {
            return Spelling::Unknown;
        }
        let spelled = self.collections.get(&collection).and_then(|known| known.spelled.get(&id));
        if spelled == Some(&digest(json)) { Spelling::OfTheSource } else { Spelling::Other }
    }

    /// Returns whether the source has a record that this path should send.
    pub fn has_records(&self, route: Route, id: Option<u64>) -> bool {
        let Route::Records { collection, which, .. } = route else { return false };
        let Some(known) = self.collections.get(&collection) else { return false };
        let has = |ids: &RoaringTreemap| id.is_some_and(|id| ids.contains(id));
        match which {
            Which::All => known.records > 0,
            Which::One => has(&known.ids),
            Which::Found(nth) => known.referred.get(&collection.indexes()[nth].number).is_some_and(has),
        }
    }

    /// Returns the digests and given ids of the records equal to `sent`, a record without an id as the monolith sends it,
    /// in the source's order.
    pub fn given_ids(&self, collection: Collection, sent: &[u8]) -> &[(u64, u64)] {
        let given = self.collections.get(&collection).map_or(&[][..], |known| &known.given);
        if given.is_empty() {
            return given;
        }
        let digest = digest(sent);
        let begin = given.partition_point(|(other, _)| *other < digest);
        let count = given[begin..].iter().take_while(|(other, _)| *other == digest).count();
        &given[begin..begin + count]
    }
}

impl Known {
    fn remember_spelling(&mut self, record: &Record) {
        // An id that the split gave does not change the spelling, unless an array index follows it.
        let is_plain = !record.source.as_bytes().get(2).is_some_and(u8::is_ascii_digit);
        if is_plain && respell(record.source.as_bytes()).is_none() {
            return;
        }
        let json = record.json();
        if respell(json.as_bytes()).is_some() {
            let id = record.id_text().map_or(record.id.get(), key_of);
            self.spelled.insert(id, digest(json.as_bytes()));
        }
    }
}

/// Returns the digest of a record as the monolith sends it, without the id that the split gave.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::compare::route::tests::{named, wide_plan};
    use crate::commands::compare::route::why_not;

    #[test]
    fn a_collection_has_its_own_ids_and_those_that_others_refer_to() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("db.json");
        let entries = r#"{"label":"a","thread":5},{"id":9,"label":"a","thread":5,"up":2},{"label":"a","thread":5}"#;
        let users = r#"{"id":1,"username":"a","1":1.0}"#;
        let json = format!(
            r#"{{"settings":{{"id":7}},"tags":[{{"id":"b","up":"a"}},{{"id":7}},{{"up":7}}],"users":[{users}],"threads":[{{"id":3,"title":"t","createdBy":2}}],"posts":[],"Entries":[{entries}]}}"#
        );
        std::fs::write(&file, json).unwrap();
        let plan = wide_plan();
        let compared: Plan = plan.iter().filter(|collection| why_not(*collection).is_none()).collect();
        let reference = Reference::read(Origin::Input(&file), &compared, Progress::default()).unwrap();
        let ids = |name: &str| reference.ids(plan.named(name).unwrap()).iter().collect::<Vec<u64>>();
        assert_eq!(
            [ids("users"), ids("threads"), ids("posts"), ids("Entries")],
            [vec![1, 2], vec![3, 5], vec![], vec![1, 2, 3, 9]]
        );
        assert_eq!(reference.all_records(), 9);
        let tags = plan.named("tags").unwrap();
        assert_eq!(
            [true, false].map(|given| reference.texts(tags, given).into_iter().collect::<Vec<_>>().join(" ")),
            ["3 7 a b", "7 a b"]
        );
        assert_eq!(["b", "3", "a"].map(|text| reference.place_of(tags, key_of(text))), [Some(1), Some(3), None]);
        for (name, id, has) in [
            ("/api/users", None, true),
            ("/api/posts", None, false),
            ("/api/users/:id", Some(1), true),
            ("/api/users/:id", Some(2), false),
            ("/api/Entries/about/:id", Some(5), true),
            ("/api/Entries/about/:id", Some(3), false),
            ("/api/Entries/below/:id", Some(2), true),
            ("/api/posts/by-user/:id", Some(1), false),
        ] {
            assert_eq!(reference.has_records(named(&plan, name), id), has, "{name} {id:?}");
        }
        let given = |name: &str| {
            let given = reference.given_ids(plan.named(name).unwrap(), br#"{"label":"a","thread":5}"#);
            given.iter().map(|(_, id)| *id).collect::<Vec<u64>>()
        };
        assert_eq!([given("Entries"), given("posts")], [vec![1, 3], vec![]]);
        let spelling = |name: &str| reference.spelling_of(plan.named(name).unwrap(), 1, users.as_bytes());
        assert_eq!([spelling("users"), spelling("Entries")], [Spelling::OfTheSource, Spelling::Other]);
    }
}
