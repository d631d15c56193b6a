//! A service's database as an update sees it: opened by this process, or reached through the running service.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use record::id::Id;
use record::model::Index;
use roaring::RoaringTreemap;
use store::desk::{Answer, Ask, Connection, Desk, DeskError, Look, Seen};
use store::{Hold, Store};

use crate::error::Error;

/// The number of records that are asked for at once.
pub const AT_ONCE: usize = 1024;

/// A database.
pub enum Database {
    /// A database that this process has opened.
    Here(Box<Desk>),
    /// A database whose service runs.
    Served(Connection),
}

impl Database {
    /// Returns the database `store`, in the service's folder.
    pub fn here(folder: &Path, store: Store) -> Self {
        Self::Here(Box::new(Desk::new(folder, store)))
    }

    /// Returns the database `store`, to be read only.
    pub fn of(store: &Store) -> Self {
        Self::here(store.path(), store.clone())
    }

    /// Tells whether its service runs.
    pub fn is_served(&self) -> bool {
        matches!(self, Self::Served(_))
    }

    fn ask(&mut self, ask: Ask) -> Result<Answer, Error> {
        let answered = match self {
            Self::Here(desk) => desk.answer(ask),
            Self::Served(connection) => connection.ask(&ask),
        };
        Ok(answered?)
    }

    /// Looks at the database's present state.
    pub fn look(&mut self) -> Result<Look, Error> {
        match self.ask(Ask::Look)? {
            Answer::Looked(look) => Ok(look),
            other => Err(other_answer(&other)),
        }
    }

    /// Returns all ids, and those written after revision `since`.
    pub fn written(&mut self, since: u64) -> Result<(RoaringTreemap, RoaringTreemap), Error> {
        let (mut there, mut written) = (RoaringTreemap::new(), RoaringTreemap::new());
        let mut next = Some(1);
        while let Some(from) = next {
            let part = match self.ask(Ask::Written { since, from })? {
                Answer::Written(part) => part,
                other => return Err(other_answer(&other)),
            };
            for (first, last) in part.there {
                there.insert_range(first..=last);
            }
            written.extend(part.written);
            next = part.next;
        }
        Ok((there, written))
    }

    /// Reads the existing records among `ids`, of which there should be at most [`AT_ONCE`].
    pub fn records(&mut self, ids: &[u64]) -> Result<BTreeMap<u64, Seen>, Error> {
        let mut records = BTreeMap::new();
        let mut left = ids;
        while !left.is_empty() {
            let part = match self.ask(Ask::Records(left.to_vec()))? {
                Answer::Records(part) => part,
                other => return Err(other_answer(&other)),
            };
            // A long answer ends early: ids after its last record were not looked at.
            let last = part.last().map_or(0, |last| last.id);
            let behind = left.iter().position(|id| *id == last).map_or(left.len(), |place| place + 1);
            left = &left[behind..];
            records.extend(part.into_iter().map(|record| (record.id, record)));
        }
        Ok(records)
    }

    /// Reads the next entries of an index of ids, after the entry `after`: each an id, and the id of a record that
    /// refers to it.
    pub fn references(&mut self, index: Index, after: (u64, u64)) -> Result<Vec<(u64, u64)>, Error> {
        match self.ask(Ask::References { index: index.number(), after })? {
            Answer::References(part) => Ok(part),
            other => Err(other_answer(&other)),
        }
    }

    /// Reads the next entries of an index of text ids, after the entry `after`: each a text, and the records under it.
    /// The same text may follow with further records.
    pub fn texts(&mut self, index: Index, after: Option<(String, u64)>) -> Result<Vec<(String, Vec<u64>)>, Error> {
        match self.ask(Ask::Texts { index: index.number(), after })? {
            Answer::Texts(part) => Ok(part),
            other => Err(other_answer(&other)),
        }
    }

    /// Returns the numbers of the records with these text ids: 0 for a missing record.
    pub fn numbers(&mut self, texts: Vec<String>) -> Result<Vec<u64>, Error> {
        if let Self::Here(desk) = self {
            let number = |text: &String| Ok(desk.store().number_of(text)?.map_or(0, Id::get));
            return texts.par_iter().map(number).collect();
        }
        let count = texts.len();
        match self.ask(Ask::Numbers(texts))? {
            Answer::Numbers(numbers) if numbers.len() == count => Ok(numbers),
            other => Err(other_answer(&other)),
        }
    }

    /// Takes `count` ids for new records, all higher than `above`. Returns the last one before them.
    pub fn reserve(&mut self, count: u64, above: u64) -> Result<u64, Error> {
        match self.ask(Ask::Reserve { count, above })? {
            Answer::Reserved(last) => Ok(last),
            other => Err(other_answer(&other)),
        }
    }

    /// Holds the records of the staged changes against other writes, unless one was written since it was seen.
    pub fn hold(&mut self) -> Result<Hold, Error> {
        match self.ask(Ask::Hold)? {
            Answer::Held(hold) => Ok(hold),
            other => Err(other_answer(&other)),
        }
    }

    /// Has the staged changes made, durably, and read back.
    pub fn apply(&mut self) -> Result<(), Error> {
        self.ask(Ask::Apply).map(drop)
    }

    /// Releases the held records.
    pub fn release(&mut self) -> Result<(), Error> {
        self.ask(Ask::Release).map(drop)
    }

    /// Has everything read and checked; returns an error if something is damaged.
    pub fn scrub(&mut self) -> Result<(), Error> {
        match self.ask(Ask::Scrub)? {
            Answer::Scrubbed(_, true) => Ok(()),
            Answer::Scrubbed(found, false) => Err(Error::Damaged(found.trim_end().to_owned())),
            other => Err(other_answer(&other)),
        }
    }

    /// Closes the database, if this process has opened it.
    pub fn close(self) {
        if let Self::Here(desk) = self {
            desk.close();
        }
    }
}

/// Returns the error for an unexpected answer, of a service of another version than this program.
fn other_answer(answer: &Answer) -> Error {
    let kind = format!("{answer:?}");
    let kind = kind.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    Error::Difference(format!(
        "a service gave an unexpected answer ({kind}): does it have the same version as this `seed`?"
    ))
}

impl From<DeskError> for Error {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Store(error) => Error::Store(error),
            error => Error::Service(error),
        }
    }
}
