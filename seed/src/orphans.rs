//! Orphans: references to missing records, such as those of a thread by no known user, or of a post in no known thread.
//!
//! The monolith serves such records, so the split keeps them. Only `seed` can find them: no service sees two
//! collections.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use rayon::prelude::*;
use record::declaration::{Reference, TermKind};
use record::id::Id;
use record::model::{Collection, Index, Record, Term};
use record::words::agree;
use roaring::RoaringTreemap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use store::Store;

use crate::database::{AT_ONCE, Database};
use crate::error::Error;
use crate::text::id_in;

/// The number of orphans that are named; the others are counted.
const NAMED: usize = 20;

/// References that lead nowhere, by field.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    counts: Vec<Count>,
    /// The first of them.
    named: Vec<String>,
}

/// The number of references of one field that lead nowhere.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    /// The reference's name for programs: `posts_in_thread`.
    label: String,
    /// Its description for people: "posts in no known thread".
    phrase: String,
    count: u64,
}

impl Count {
    fn of(reference: &Reference) -> Self {
        let (from, route) = (reference.from.name(), &reference.index.route);
        let phrase = match route.split_once('-') {
            Some((preposition, noun)) => format!("{from} {preposition} no known {noun}"),
            None => format!("{from} whose {} is not among {}", reference.field, reference.to),
        };
        Self { label: format!("{from}_{}", route.replace('-', "_")), phrase, count: 0 }
    }
}

/// Serializes the counts by their labels.
impl Serialize for Orphans {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.counts.iter().map(|count| (&count.label, count.count)))
    }
}

impl<'de> Deserialize<'de> for Orphans {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let count = |(label, count): (String, u64)| Count { phrase: label.clone(), label, count };
        Ok(Self { counts: counts.into_iter().map(count).collect(), named: Vec::new() })
    }
}

/// The edits of a collection that are not in its database yet.
#[derive(Debug, Default)]
pub struct Edited {
    /// Records that are written or removed.
    pub ids: RoaringTreemap,
    /// Records that are removed.
    pub gone: RoaringTreemap,
    /// The numbers of written records by their text ids.
    pub texts: HashMap<Box<str>, u64>,
    /// The references of written records: the index, the id referred to, and the referring record's number.
    pub references: Vec<(Index, Term, u64)>,
}

impl Edited {
    /// Notes the references and the text id of a written record.
    pub fn note(&mut self, collection: Collection, record: &Record) {
        let refers = |index: Index| collection.references().any(|reference| reference.index.number == index);
        for (index, term) in record.terms.iter().filter(|(index, _)| refers(*index)) {
            self.references.push((*index, term.clone(), record.id.get()));
        }
        self.texts.extend(record.id_text().map(|text| (text.into(), record.id.get())));
    }
}

/// An id that is referred to, and the numbers of the records that refer to it.
type Referrers = (Term, Vec<u64>);

/// A database and its pending edits.
pub struct Edits<'e> {
    /// The collection.
    pub collection: Collection,
    /// The database.
    pub database: &'e mut Database,
    /// The edits that are not in it yet.
    pub edited: &'e Edited,
}

impl Orphans {
    /// Counts the references that lead nowhere.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.count).sum()
    }

    /// Finds the orphans in `stores`, on all cores.
    pub fn find(stores: &[Store]) -> Result<Self, Error> {
        let references: Vec<Reference> = stores.iter().flat_map(|store| store.collection().references()).collect();
        let find = |references: &[Reference]| {
            let mut databases: Vec<Database> = stores.iter().map(Database::of).collect();
            let edited = &Edited::default();
            let of = |(store, database)| Edits { collection: Store::collection(store), database, edited };
            Self::find_by(references, &mut stores.iter().zip(&mut databases).map(of).collect::<Vec<_>>())
        };
        let mut orphans = Self::default();
        for part in references.par_chunks(1).map(find).collect::<Result<Vec<_>, _>>()? {
            orphans.counts.extend(part.counts);
            orphans.named.extend(part.named);
        }
        orphans.named.truncate(NAMED);
        Ok(orphans)
    }

    /// Finds the orphans that `databases` will have once they are edited.
    pub fn find_edited(databases: &mut [Edits]) -> Result<Self, Error> {
        let references: Vec<Reference> = databases.iter().flat_map(|edits| edits.collection.references()).collect();
        Self::find_by(&references, databases)
    }

    /// Finds the orphans among these references.
    fn find_by(references: &[Reference], databases: &mut [Edits]) -> Result<Self, Error> {
        let mut orphans = Self::default();
        // Text ids are looked up in the database: all of them would take too much memory.
        let mut known: BTreeMap<&str, RoaringTreemap> = BTreeMap::new();
        for reference in references {
            let to = databases.iter().position(|edits| edits.collection.name() == reference.to);
            let has_texts = to.is_some_and(|to| databases[to].collection.has_text_ids());
            if !has_texts && !known.contains_key(reference.to) {
                let ids = to.map(|to| databases[to].numbers()).transpose()?;
                known.insert(reference.to, ids.unwrap_or_default());
            }
            let from = databases.iter().position(|edits| edits.collection == reference.from);
            let from = from.expect("it is one of the databases'");
            let mut count = Count::of(reference);
            let mut look = |part: &[Referrers], databases: &mut [Edits]| {
                let leads: Vec<bool> = match (known.get(reference.to), to) {
                    (None, Some(to)) => {
                        databases[to].have(&part.iter().map(|(referred, _)| text_of(referred)).collect::<Vec<_>>())?
                    }
                    (Some(known), _) => part.iter().map(|(referred, _)| known.contains(number_of(referred))).collect(),
                    (None, None) => vec![false; part.len()],
                };
                for ((referred, by), _) in part.iter().zip(leads).filter(|(_, leads)| !leads) {
                    count.count += by.len() as u64;
                    for by in by.iter().take(NAMED.saturating_sub(orphans.named.len())) {
                        let (name, field) = (reference.from.name(), reference.field);
                        let (by, referred) = (databases[from].name_of(*by)?, shown(referred));
                        let to = reference.to;
                        orphans.named.push(format!("{name}: id {by}: {field} is {referred}, which is not among {to}"));
                    }
                }
                Ok::<(), Error>(())
            };
            let Edits { edited, .. } = databases[from];
            let mut after = None;
            loop {
                let mut part = databases[from].referrers(reference, after)?;
                let Some((referred, by)) = part.last() else { break };
                after = by.last().map(|by| (referred.clone(), *by));
                part.iter_mut().for_each(|(_, by)| by.retain(|by| !edited.ids.contains(*by)));
                look(&part, databases)?;
            }
            let new = edited.references.iter().filter(|(by_index, ..)| *by_index == reference.index.number);
            let new: Vec<Referrers> = new.map(|(_, referred, by)| (referred.clone(), vec![*by])).collect();
            look(&new, databases)?;
            orphans.counts.push(count);
        }
        Ok(orphans)
    }
}

impl Edits<'_> {
    /// Returns the numbers of its records.
    fn numbers(&mut self) -> Result<RoaringTreemap, Error> {
        Ok((self.database.written(u64::MAX)?.0 | &self.edited.ids) - &self.edited.gone)
    }

    /// Tells for each of these texts whether a record has it as its id.
    fn have(&mut self, texts: &[String]) -> Result<Vec<bool>, Error> {
        let mut have = Vec::with_capacity(texts.len());
        for texts in texts.chunks(AT_ONCE) {
            for (text, number) in texts.iter().zip(self.database.numbers(texts.to_vec())?) {
                let stays = number > 0 && !self.edited.gone.contains(number);
                have.push(stays || self.edited.texts.contains_key(&**text));
            }
        }
        Ok(have)
    }

    /// Reads the next references in its database, after the entry `after`.
    fn referrers(&mut self, reference: &Reference, after: Option<(Term, u64)>) -> Result<Vec<Referrers>, Error> {
        let index = reference.index.number;
        if self.collection.terms_of(reference.index) == TermKind::Id {
            let after = after.map(|(referred, by)| (number_of(&referred), by)).unwrap_or_default();
            let part = self.database.references(index, after)?;
            let of = |run: &[(u64, u64)]| {
                let by = run.iter().map(|(_, by)| *by).collect();
                Some((Term::Id(Id::try_from(run[0].0).ok()?), by))
            };
            return Ok(part.chunk_by(|a, b| a.0 == b.0).filter_map(of).collect());
        }
        let part = self.database.texts(index, after.map(|(referred, by)| (text_of(&referred), by)))?;
        Ok(part.into_iter().map(|(referred, by)| (Term::Text(referred.into()), by)).collect())
    }

    /// Returns the name that people know the record `number` by.
    fn name_of(&mut self, number: u64) -> Result<String, Error> {
        if !self.collection.has_text_ids() {
            return Ok(number.to_string());
        }
        if let Some((text, _)) = self.edited.texts.iter().find(|(_, of)| **of == number) {
            return Ok(format!("{text:?}"));
        }
        let records = self.database.records(&[number])?;
        Ok(records.get(&number).map_or_else(|| number.to_string(), |seen| id_in(self.collection, number, &seen.json)))
    }
}

/// Returns the id in a reference as a text. No reference is a number of another kind.
fn text_of(term: &Term) -> String {
    match term {
        Term::Id(id) => id.to_string(),
        Term::Text(text) | Term::Ordered(text) => text.to_string(),
        Term::Number(_) => String::new(),
    }
}

/// Returns the id in a reference as a number; 0 if it is not a number.
fn number_of(term: &Term) -> u64 {
    match term {
        Term::Id(id) => id.get(),
        Term::Text(text) | Term::Ordered(text) => text.parse::<Id>().map_or(0, Id::get),
        Term::Number(_) => 0,
    }
}

/// Returns the id in a reference for people.
fn shown(term: &Term) -> String {
    match term {
        Term::Text(text) | Term::Ordered(text) => format!("{text:?}"),
        Term::Id(_) | Term::Number(_) => text_of(term),
    }
}

/// Writes a line for each of the first orphans, and a sentence with the counts.
impl fmt::Display for Orphans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.named {
            writeln!(f, "  {line}")?;
        }
        let of: Vec<String> =
            self.counts.iter().map(|Count { phrase, count, .. }| format!("{phrase} ({count})")).collect();
        let references = agree(self.count(), "reference leads", "references lead");
        write!(f, "{} {references} nowhere: {}.", self.count(), of.join(", "))
    }
}
