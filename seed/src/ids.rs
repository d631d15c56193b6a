//! The ids of a list's positions, for records without ids of their own; or, in a collection with text ids, the records'
//! numbers in the database.
//!
//! At the first split, each position is the id, from 1. Later, a list has lost records in the middle and may have
//! another order, but every record has kept its id: then several runs describe the ids.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use record::id::Id;
use record::model::Collection;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::identity::Identity;
use crate::plan::Plan;

/// The ids of a list's positions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Run>", into = "Vec<Run>")]
pub enum Ids {
    /// Each position is the id.
    #[default]
    Positions,
    /// Runs by ascending position; a position outside all runs has no id.
    Runs(Vec<Run>),
}

/// Consecutive positions with consecutive ids; written as `[position, id, count]`, with the first of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub struct Run {
    position: u64,
    id: u64,
    count: u64,
}

impl From<(u64, u64, u64)> for Run {
    fn from((position, id, count): (u64, u64, u64)) -> Self {
        Self { position, id, count }
    }
}

impl From<Run> for (u64, u64, u64) {
    fn from(Run { position, id, count }: Run) -> Self {
        (position, id, count)
    }
}

impl TryFrom<Vec<Run>> for Ids {
    type Error = &'static str;

    fn try_from(runs: Vec<Run>) -> Result<Self, Self::Error> {
        let ascend = runs.iter().zip(runs.iter().skip(1)).all(|(a, b)| {
            a.position.checked_add(a.count).is_some_and(|end| end <= b.position) && a.id.checked_add(a.count).is_some()
        });
        if ascend { Ok(Ids::Runs(runs)) } else { Err("the positions do not ascend") }
    }
}

impl From<Ids> for Vec<Run> {
    fn from(ids: Ids) -> Self {
        if let Ids::Runs(runs) = ids { runs } else { Vec::new() }
    }
}

impl Ids {
    /// Returns the id of the record at `position`, from 1.
    pub fn at(&self, position: u64) -> Option<Id> {
        let id = match self {
            Ids::Positions => position,
            Ids::Runs(runs) => {
                let run = runs[..runs.partition_point(|run| run.position <= position)].last()?;
                let offset = position - run.position;
                if offset >= run.count {
                    return None;
                }
                run.id.checked_add(offset)?
            }
        };
        Id::try_from(id).ok()
    }

    /// Adds the id of a position after all earlier ones.
    pub fn push(&mut self, position: u64, id: Id) {
        if *self == Ids::Positions {
            *self = Ids::Runs(Vec::new());
        }
        let Ids::Runs(runs) = self else { unreachable!("it was made one") };
        match runs.last_mut() {
            Some(run) if run.position + run.count == position && run.id + run.count == id.get() => run.count += 1,
            _ => runs.push(Run { position, id: id.get(), count: 1 }),
        }
    }

    /// Returns an empty list: no position has an id yet.
    pub fn none() -> Self {
        Ids::Runs(Vec::new())
    }

    /// Returns the shortest form of the same ids.
    pub fn shortened(self) -> Self {
        if self.are_positions() { Ids::Positions } else { self }
    }

    /// Tells whether each id is the position itself.
    pub fn are_positions(&self) -> bool {
        match self {
            Ids::Positions => true,
            Ids::Runs(runs) => runs.iter().all(|run| run.position == run.id),
        }
    }
}

/// The present and past ids of one collection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The ids of records that have none of their own.
    pub ids: Ids,
    /// The highest id that any record ever had; 0 if it is not known.
    pub last_id: u64,
}

/// The ids of each collection of a file. A collection that was not set has its positions as ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllGiven(BTreeMap<Collection, Given>);

impl AllGiven {
    /// Returns the ids of `collection`.
    pub fn of(&self, collection: Collection) -> &Given {
        const POSITIONS: &Given = &Given { ids: Ids::Positions, last_id: 0 };
        self.0.get(&collection).unwrap_or(POSITIONS)
    }

    /// Sets the ids of `collection`.
    pub fn set(&mut self, collection: Collection, given: Given) {
        self.0.insert(collection, given);
    }

    /// Tells whether every id is its position, and no higher id was ever used.
    pub fn are_positions(&self) -> bool {
        self.0.values().all(|given| given.ids.are_positions() && given.last_id == 0)
    }
}

/// The file `db.json.ids` beside a joined `db.json`: the ids of records without ids. A split of that very `db.json`
/// gives them the same ids again.
#[derive(Debug, Serialize, Deserialize)]
struct Beside {
    version: u32,
    /// The file it belongs to.
    file: Identity,
    /// The ids by collection, unless they are the positions.
    ids: BTreeMap<String, Vec<Run>>,
    /// The highest id that any record ever had, by collection.
    last_ids: BTreeMap<String, u64>,
}

const VERSION: u32 = 1;

/// Returns the path of the ids beside the file at `path`.
pub fn path_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".ids");
    path.with_file_name(name)
}

/// Tells whether the file at `path` holds such ids.
pub fn is_one(path: &Path) -> bool {
    fs::read(path).is_ok_and(|text| serde_json::from_slice::<Beside>(&text).is_ok())
}

/// Reads the ids beside the file at `path`; returns `None` unless they belong to this very file.
pub fn known(path: &Path, plan: &Plan, identify: impl FnOnce() -> Result<Identity, Error>) -> Option<AllGiven> {
    if path_beside(path).exists() { read_beside(path, plan, identify).ok() } else { None }
}

/// Returns the ids of `file` as the text of the file beside it.
pub fn to_json(file: Identity, AllGiven(given): &AllGiven) -> String {
    let name = |collection: &Collection| collection.name().to_owned();
    let moved = given.iter().filter(|(_, given)| !given.ids.are_positions());
    let ids = moved.map(|(collection, given)| (name(collection), given.ids.clone().into())).collect();
    let last_ids = given.iter().map(|(collection, given)| (name(collection), given.last_id)).collect();
    serde_json::to_string(&Beside { version: VERSION, file, ids, last_ids }).expect("ids can be written as JSON") + "\n"
}

/// Reads the ids beside the file at `path`, whose identity `identify` returns. Without them, positions are the ids.
///
/// # Errors
/// The ids cannot be read, or belong to another file.
pub fn read_beside(
    path: &Path,
    plan: &Plan,
    identify: impl FnOnce() -> Result<Identity, Error>,
) -> Result<AllGiven, Error> {
    let beside = path_beside(path);
    let text = match fs::read(&beside) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(AllGiven::default()),
        Err(error) => return Err(Error::io(&beside)(error)),
    };
    let wrong =
        |reason: String| Error::Input { file: beside.clone(), kind: None, place: "the file".to_owned(), reason };
    let read: Beside = serde_json::from_slice(&text)
        .map_err(|error| wrong(format!("it is not what `seed join` writes beside a file: {error}")))?;
    if read.version != VERSION {
        return Err(wrong(format!("it has version {}, and this `seed` reads {VERSION}", read.version)));
    }
    if read.file != identify()? {
        return Err(wrong(format!(
            "it has the ids of another file than {}; an update of the joined split does not need it, and without it the \
             positions are the ids",
            path.display()
        )));
    }
    let mut given = AllGiven::default();
    for collection in plan.iter() {
        let last_id = read.last_ids.get(collection.name()).copied().unwrap_or_default().min(Id::MAX.get());
        let Some(runs) = read.ids.get(collection.name()) else {
            given.set(collection, Given { last_id, ..Given::default() });
            continue;
        };
        let ids = Ids::try_from(runs.clone()).map_err(|reason| wrong(format!("{}: {reason}", collection.name())))?;
        given.set(collection, Given { ids, last_id });
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_keep_the_ids_they_were_given() {
        assert_eq!(Ids::default().at(7).unwrap().get(), 7);
        assert_eq!(Ids::default().at(0), None);
        let mut ids = Ids::none();
        let given = [(1, 1), (2, 2), (3, 4), (5, 5), (6, 3)];
        for (position, id) in given {
            ids.push(position, Id::try_from(id).unwrap());
        }
        assert!(matches!(&ids, Ids::Runs(runs) if runs.len() == 4));
        for (position, id) in given {
            assert_eq!(ids.at(position).unwrap().get(), id);
        }
        assert_eq!([0, 4, 7].map(|position| ids.at(position)), [None; 3]);
        assert!(!ids.are_positions());
    }

    #[test]
    fn ids_beside_a_file_belong_to_that_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.json");
        let file = Identity { sha256: "a".to_owned(), bytes: 1 };
        let other = Identity { sha256: "b".to_owned(), bytes: 1 };
        let is = |file: &Identity| Ok(file.clone());
        let plan = &Plan::workspace();
        assert_eq!(read_beside(&path, plan, || is(&file)).unwrap(), AllGiven::default());
        let mut given = AllGiven::default();
        for (collection, last_id) in plan.iter().zip([3, 0, 9]) {
            given.set(collection, Given { last_id, ..Given::default() });
        }
        let mut ids = Ids::none();
        ids.push(1, Id::try_from(7).unwrap());
        given.set(plan.named("posts").unwrap(), Given { ids, last_id: 9 });
        fs::write(dir.path().join("db.json.ids"), to_json(file.clone(), &given)).unwrap();
        assert_eq!(read_beside(&path, plan, || is(&file)).unwrap(), given);
        assert!(read_beside(&path, plan, || is(&other)).unwrap_err().to_string().contains("of another file"));
        for wrong in [
            "",
            "{}",
            r#"{"version":2,"file":{"sha256":"a","bytes":1},"ids":{},"last_ids":{}}"#,
            r#"{"version":1,"file":{"sha256":"a","bytes":1},"ids":{"posts":[[2,1,1],[1,2,1]]},"last_ids":{}}"#,
        ] {
            fs::write(dir.path().join("db.json.ids"), wrong).unwrap();
            assert_eq!(read_beside(&path, plan, || is(&file)).unwrap_err().exit_code(), 3, "{wrong}");
        }
    }
}
