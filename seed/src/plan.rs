//! Which collections there are: a folder that lists them, and has a folder for each with its declaration.
//!
//! ```text
//! plan                     a line for each: its service's name and port under ./up, and its own name where that is another
//! users/collection.json    what users are
//! …
//! ```

use std::fs;
use std::path::Path;
use std::sync::Arc;

use record::declaration::Declaration;
use record::model::Collection;

use crate::error::Error;
use crate::topology::{self, PlanFault, PlanLine};

include!(concat!(env!("OUT_DIR"), "/workspace.rs"));

/// Collections, in the monolith's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan(Arc<[Collection]>);

impl Plan {
    /// The workspace's own, as they were when this program was built.
    pub fn workspace() -> Self {
        WORKSPACE.iter().map(|json| Collection::embedded(json)).collect()
    }

    /// Reads the plan in `folder`.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let list = folder.join("plan");
        let mut collections: Vec<Collection> = Vec::new();
        for PlanLine { name, collection, .. } in read_list(&list)? {
            let path = folder.join(&name).join("collection.json");
            let json = fs::read_to_string(&path).map_err(Error::io(&path))?;
            let wrong = |reason: String| Error::Plan { path: path.clone(), reason };
            let declaration = Declaration::read(&json).map_err(|error| wrong(error.to_string()))?;
            if *declaration.name != *collection {
                let declared = &declaration.name;
                return Err(wrong(format!(
                    "it declares {declared:?}, and {} lists {collection:?}; `{name} PORT {declared}` lists that",
                    list.display()
                )));
            }
            collections.push(Collection::of(declaration));
        }
        let plan: Self = collections.into_iter().collect();
        plan.check().map_err(|reason| Error::Plan { path: list, reason })?;
        Ok(plan)
    }

    /// This collection alone.
    pub fn of(collection: Collection) -> Self {
        [collection].into_iter().collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err("there is no collection in it".to_owned());
        }
        for (nth, collection) in self.0.iter().enumerate() {
            if self.0[..nth].contains(collection) {
                return Err(format!("{} is in it twice", collection.name()));
            }
            let mut references = collection.references();
            if let Some(reference) = references.find(|reference| self.named(reference.to).is_none()) {
                let (name, to) = (collection.name(), reference.to);
                return Err(format!("{name} refers to {to} in {:?}, which is not in it", reference.field));
            }
        }
        Ok(())
    }

    /// The collections, in the monolith's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Collection> + DoubleEndedIterator + Clone + '_ {
        self.0.iter().copied()
    }

    /// The collection with that name.
    pub fn named(&self, name: &str) -> Option<Collection> {
        self.iter().find(|collection| collection.name() == name)
    }

    /// Whether a collection is one of these.
    pub fn has(&self, collection: Collection) -> bool {
        self.0.contains(&collection)
    }

    /// These, and those of `other` that are not among them.
    pub fn and(&self, other: &Self) -> Self {
        self.iter().chain(other.without(self).iter()).collect()
    }

    /// Those that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        self.iter().filter(|collection| !other.has(*collection)).collect()
    }

    /// The same, for a name on the command line.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<Collection, Error> {
        self.named(name).ok_or_else(|| {
            let known: Vec<&str> = self.iter().map(Collection::name).collect();
            Error::NoCollection { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// The same, for a name that may be the service's in the plan's `folder`, too. Returns both; the collection's name
    /// goes first. Without a folder, it is the workspace's own plan, in which both names are the same.
    ///
    /// # Errors
    /// There is none, or the list cannot be read.
    pub fn find_service(&self, folder: Option<&Path>, name: &str) -> Result<(Collection, String), Error> {
        let lines = folder.map_or(Ok(Vec::new()), |folder| read_list(&folder.join("plan")))?;
        let line = lines.iter().find(|line| line.collection == name).or(lines.iter().find(|line| line.name == name));
        let (collection, service) = line.map_or((name, name), |line| (&*line.collection, &*line.name));
        Ok((self.find(collection)?, service.to_owned()))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Reads a plan's list.
fn read_list(list: &Path) -> Result<Vec<PlanLine>, Error> {
    let text = fs::read_to_string(list).map_err(Error::io(list))?;
    topology::parse(list, &text).map_err(|PlanFault { file, line, reason }| Error::Plan {
        path: file,
        reason: format!("line {line}: {reason}"),
    })
}

impl FromIterator<Collection> for Plan {
    fn from_iter<I: IntoIterator<Item = Collection>>(collections: I) -> Self {
        Self(collections.into_iter().collect())
    }
}
