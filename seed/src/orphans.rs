//! References to records that are not there: a thread by no known user, a post in no known thread or by no known user.
//!
//! The monolith serves such records, so they are kept. Once each collection is on its own, nobody can look across.

use std::collections::BTreeMap;
use std::fmt;

use record::declaration::Reference;
use record::model::{Collection, Index, Record, Term};
use roaring::RoaringTreemap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use store::Store;

use crate::database::Database;
use crate::error::Error;

/// How many orphans are named; the others are counted.
const NAMED: usize = 20;

/// References that lead nowhere, by field.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    counts: Vec<Count>,
    /// The first of them.
    named: Vec<String>,
}

/// How many references of one field lead nowhere.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    /// Which, for programs: `posts_in_thread`.
    label: String,
    /// For people: "posts in no known thread".
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

/// By their labels.
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

/// What becomes of a collection's records and references, and is not in its database yet.
#[derive(Debug, Default)]
pub struct Edited {
    /// Records that are written or go.
    pub ids: RoaringTreemap,
    /// Those that go.
    pub gone: RoaringTreemap,
    /// The references of those that are written: by which index, to whom, by whom.
    pub references: Vec<(Index, u64, u64)>,
}

impl Edited {
    /// Notes whom a record that is written refers to.
    pub fn note(&mut self, record: &Record) {
        for (index, term) in record.terms.iter() {
            if let Term::Id(referred) = term {
                self.references.push((*index, referred.get(), record.id.get()));
            }
        }
    }
}

/// A database that is looked at, and what becomes of it.
pub struct Edits<'e> {
    /// Whose records.
    pub collection: Collection,
    /// The database.
    pub database: &'e mut Database,
    /// What is not in it yet.
    pub edited: &'e Edited,
}

impl Orphans {
    /// How many references lead nowhere.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.count).sum()
    }

    /// Looks for them in `stores`.
    pub fn find(stores: &[Store]) -> Result<Self, Error> {
        let mut databases: Vec<Database> = stores.iter().map(Database::of).collect();
        let edited = &Edited::default();
        let of = |(store, database)| Edits { collection: Store::collection(store), database, edited };
        Self::find_edited(&mut stores.iter().zip(&mut databases).map(of).collect::<Vec<_>>())
    }

    /// Looks for those that there will be in `databases` once they are edited.
    pub fn find_edited(databases: &mut [Edits]) -> Result<Self, Error> {
        let mut orphans = Self::default();
        let mut known: BTreeMap<&str, RoaringTreemap> = BTreeMap::new();
        let references: Vec<Reference> = databases.iter().flat_map(|edits| edits.collection.references()).collect();
        for reference in references {
            let to = reference.to;
            if !known.contains_key(to) {
                let edits = databases.iter_mut().find(|edits| edits.collection.name() == to);
                let ids = match edits {
                    Some(Edits { database, edited, .. }) => {
                        (database.written(u64::MAX)?.0 | &edited.ids) - &edited.gone
                    }
                    None => RoaringTreemap::new(),
                };
                known.insert(to, ids);
            }
            let from = databases.iter_mut().find(|edits| edits.collection == reference.from);
            let Edits { database, edited, .. } = from.expect("it is one of the databases'");
            let (index, field, known) = (reference.index.number, reference.field, &known[to]);
            let mut count = Count::of(&reference);
            let named = &mut orphans.named;
            // Those that refer to the same record follow on each other.
            let mut last = (0, false);
            let mut look = |referred: u64, by: u64| {
                if last.0 != referred {
                    last = (referred, known.contains(referred));
                }
                if !last.1 {
                    count.count += 1;
                    if named.len() < NAMED {
                        let name = reference.from.name();
                        named.push(format!("{name}: id {by}: {field} is {referred}, which is not among {to}"));
                    }
                }
            };
            database.for_each_reference(index, |referred, by| {
                if !edited.ids.contains(by) {
                    look(referred, by);
                }
            })?;
            let new = edited.references.iter().filter(|(by_index, ..)| *by_index == index);
            new.for_each(|(_, referred, by)| look(*referred, *by));
            orphans.counts.push(count);
        }
        Ok(orphans)
    }
}

/// A sentence that counts them, and a line for each of the first.
impl fmt::Display for Orphans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.named {
            writeln!(f, "  {line}")?;
        }
        let of: Vec<String> =
            self.counts.iter().map(|Count { phrase, count, .. }| format!("{count} {phrase}")).collect();
        write!(f, "{} references lead nowhere: {}.", self.count(), of.join(", "))
    }
}
