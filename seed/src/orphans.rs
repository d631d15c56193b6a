//! References to records that are not there: a thread by no known user, a post in no known thread or by no known user.
//!
//! The monolith serves such records, so they are kept. Once each collection is on its own, nobody can look across.

use std::fmt;

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use shared::model::{Collection, Index, Post, Record, Term, Thread};
use shared::store::Store;

use crate::database::Database;
use crate::error::Error;

/// How many orphans are named; the others are counted.
const NAMED: usize = 20;

/// Who refers to whom.
const REFERENCES: [(Collection, Index, &str, Collection); 3] = [
    (Collection::Threads, Thread::BY_USER, "createdBy", Collection::Users),
    (Collection::Posts, Post::IN_THREAD, "thread", Collection::Threads),
    (Collection::Posts, Post::BY_USER, "user", Collection::Users),
];

/// The orphans of a split, by what they refer to in vain.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    /// Threads by no known user.
    pub threads_by_user: u64,
    /// Posts in no known thread.
    pub posts_in_thread: u64,
    /// Posts by no known user.
    pub posts_by_user: u64,
    /// The first of them.
    #[serde(skip)]
    named: Vec<String>,
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
        for (index, term) in record.terms.iter().flatten() {
            if let Term::Id(referred) = term {
                self.references.push((*index, referred.get(), record.id.get()));
            }
        }
    }
}

impl Orphans {
    /// How many references lead nowhere.
    pub fn count(&self) -> u64 {
        self.threads_by_user + self.posts_in_thread + self.posts_by_user
    }

    /// Looks for them in `stores`, which come in the order of [`Collection::ALL`].
    pub fn find(stores: &[Store]) -> Result<Self, Error> {
        let mut databases: Vec<Database> = stores.iter().map(Database::of).collect();
        Self::find_edited(&mut databases.iter_mut().collect::<Vec<_>>(), [&Edited::default(); 3])
    }

    /// Looks for those that there will be in `databases` once they are edited; both come in the order of
    /// [`Collection::ALL`].
    pub fn find_edited(databases: &mut [&mut Database], edited: [&Edited; 3]) -> Result<Self, Error> {
        let mut known: [Option<RoaringTreemap>; 3] = Default::default();
        for collection in REFERENCES.map(|(.., to)| to) {
            let nth = collection as usize;
            if known[nth].is_none() {
                let (there, _) = databases[nth].written(u64::MAX)?;
                known[nth] = Some((there | &edited[nth].ids) - &edited[nth].gone);
            }
        }
        let mut orphans = Self::default();
        let mut counts = [0; 3];
        for (count, (from, index, field, to)) in counts.iter_mut().zip(REFERENCES) {
            let (known, edited) = (known[to as usize].as_ref().expect("all were looked at"), edited[from as usize]);
            // Those that refer to the same record follow on each other.
            let mut last = (0, false);
            let mut look = |referred: u64, by: u64| {
                if last.0 != referred {
                    last = (referred, known.contains(referred));
                }
                if !last.1 {
                    *count += 1;
                    if orphans.named.len() < NAMED {
                        let (name, to) = (from.name(), to.name());
                        orphans.named.push(format!("{name}: id {by}: {field} is {referred}, which is not among {to}"));
                    }
                }
            };
            databases[from as usize].for_each_reference(index, |referred, by| {
                if !edited.ids.contains(by) {
                    look(referred, by);
                }
            })?;
            let new = edited.references.iter().filter(|(by_index, ..)| *by_index == index);
            new.for_each(|(_, referred, by)| look(*referred, *by));
        }
        [orphans.threads_by_user, orphans.posts_in_thread, orphans.posts_by_user] = counts;
        Ok(orphans)
    }
}

/// A sentence that counts them, and a line for each of the first.
impl fmt::Display for Orphans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads_by_user, posts_in_thread, posts_by_user, named } = self;
        for line in named {
            writeln!(f, "  {line}")?;
        }
        write!(
            f,
            "{} references lead nowhere: {threads_by_user} threads by no known user, {posts_in_thread} posts in no \
             known thread, {posts_by_user} posts by no known user.",
            self.count()
        )
    }
}
