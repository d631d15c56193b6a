//! References to records that are not there: a thread by no known user, a post in no known thread or by no known user.
//!
//! The monolith serves such records, so they are kept. Once each collection is on its own, nobody can look across.

use std::fmt;

use serde::{Deserialize, Serialize};
use shared::id::Id;
use shared::model::{Collection, Index, Post, Thread};
use shared::store::Store;

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

impl Orphans {
    /// How many references lead nowhere.
    pub fn count(&self) -> u64 {
        self.threads_by_user + self.posts_in_thread + self.posts_by_user
    }

    /// Looks for them in `stores`, which are those of [`Collection::ALL`].
    pub fn find(stores: [&Store; 3]) -> Result<Self, Error> {
        let store = |collection: Collection| stores.into_iter().find(|store| store.collection() == collection);
        let mut orphans = Self::default();
        let mut counts = [0; 3];
        for (count, (from, index, field, to)) in counts.iter_mut().zip(REFERENCES) {
            let (referring, referred) = (store(from).expect("all are there"), store(to).expect("all are there"));
            let mut known: Option<(Id, bool)> = None;
            for reference in referring.references(index) {
                let (id, by) = reference?;
                let found = match known {
                    Some((known, found)) if known == id => found,
                    _ => referred.get(id)?.is_some(),
                };
                known = Some((id, found));
                if !found {
                    *count += 1;
                    if orphans.named.len() < NAMED {
                        let name = from.name();
                        orphans
                            .named
                            .push(format!("{name}: id {by}: {field} is {id}, which is not among {}", to.name()));
                    }
                }
            }
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
