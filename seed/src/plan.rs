//! The plan: the list of collections, in a folder that also has a folder with the declaration of each.
//!
//! ```text
//! plan                     a line for each: its service's name and port under ./up, and its own name if that differs
//! users/collection.json    the declaration of users
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
    /// Returns the workspace's own plan, as it was when this program was built.
    pub fn workspace() -> Self {
        WORKSPACE.iter().map(|json| Collection::embedded(json)).collect()
    }

    /// Reads the plan in `folder`.
    ///
    /// # Errors
    /// A file cannot be read, or is invalid.
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
                    "it declares {declared:?}, and {} lists {collection:?}; `{name} PORT {declared}` lists the declared one",
                    list.display()
                )));
            }
            collections.push(Collection::of(declaration));
        }
        let plan: Self = collections.into_iter().collect();
        plan.check().map_err(|reason| Error::Plan { path: list, reason })?;
        Ok(plan)
    }

    /// Returns the plan of this collection alone.
    pub fn of(collection: Collection) -> Self {
        [collection].into_iter().collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err("it lists no collection".to_owned());
        }
        for (nth, collection) in self.0.iter().enumerate() {
            if self.0[..nth].contains(collection) {
                return Err(format!("{} is in it twice", collection.name()));
            }
            let mut references = collection.references();
            if let Some(reference) = references.find(|reference| self.named(reference.to).is_none()) {
                let (name, to) = (collection.name(), reference.to);
                return Err(format!(
                    "{name} refers to {to} in {:?}, and {to} is not listed; list it, too, or declare the field as \"any\"",
                    reference.field
                ));
            }
        }
        Ok(())
    }

    /// Iterates over the collections, in the monolith's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Collection> + DoubleEndedIterator + Clone + '_ {
        self.0.iter().copied()
    }

    /// Returns the collection with that name.
    pub fn named(&self, name: &str) -> Option<Collection> {
        self.iter().find(|collection| collection.name() == name)
    }

    /// Tells whether the plan has a collection.
    pub fn has(&self, collection: Collection) -> bool {
        self.0.contains(&collection)
    }

    /// Adds the collections that only `other` has.
    pub fn and(&self, other: &Self) -> Self {
        self.iter().chain(other.without(self).iter()).collect()
    }

    /// Leaves out the collections of `other`.
    pub fn without(&self, other: &Self) -> Self {
        self.iter().filter(|collection| !other.has(*collection)).collect()
    }

    /// Returns the collection with that name, given on the command line.
    ///
    /// # Errors
    /// The plan has no such collection.
    pub fn find(&self, name: &str) -> Result<Collection, Error> {
        self.named(name).ok_or_else(|| {
            let known: Vec<&str> = self.iter().map(Collection::name).collect();
            Error::NoCollection { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Returns the collection with that name, or with that service's name in the plan's `folder`, and its service's
    /// name. A collection's name has precedence. Without a folder, this is the workspace's own plan, in which both
    /// names are the same.
    ///
    /// # Errors
    /// The plan has no such collection, or the list cannot be read.
    pub fn find_service(&self, folder: Option<&Path>, name: &str) -> Result<(Collection, String), Error> {
        let lines = folder.map_or(Ok(Vec::new()), |folder| read_list(&folder.join("plan")))?;
        let line = lines.iter().find(|line| line.collection == name).or(lines.iter().find(|line| line.name == name));
        let (collection, service) = line.map_or((name, name), |line| (&*line.collection, &*line.name));
        Ok((self.find(collection)?, service.to_owned()))
    }

    /// Counts the collections.
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
