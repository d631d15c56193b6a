//! What is in the way of a split.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// What kind of thing it is.
    pub kind: Kind,
    /// JSON pointer and byte offset.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
}

impl Display for Obstacle {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

/// Kinds of obstacles, each with its own way on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A collection that no service owns.
    Unowned,
    /// A collection that should be there.
    Missing,
    /// A collection that is no list, or is there twice.
    Collection,
    /// A record.
    Record,
    /// What is no JSON: nothing behind it can be read.
    Json,
}

impl Kind {
    /// All of them.
    const ALL: [Self; 5] = [Self::Unowned, Self::Missing, Self::Collection, Self::Record, Self::Json];

    /// What to do.
    fn way_on(self) -> &'static str {
        match self {
            Self::Unowned => {
                "A collection that no service owns: --rest FILE puts it aside, or `seed plan --from FILE --output FOLDER` \
                 proposes a plan that has it."
            }
            Self::Missing => "A collection that is missing: without --require it is empty.",
            Self::Collection => {
                "A collection that is no list, or is there twice: correct the file, or leave it out of the plan, and --rest FILE \
                 puts it aside."
            }
            Self::Record => {
                "A record that does not fit: correct the file, or edit its collection.json; or --rejects FILE goes on \
                 without such records."
            }
            Self::Json => "What is no JSON: correct the file; what stands behind it was not looked at.",
        }
    }
}

/// More than one of them.
#[derive(Debug)]
pub struct Obstacles {
    /// Those that are named, in the file's order as far as they have a place in it.
    pub named: Vec<Obstacle>,
    /// How many more records there are, by their collections.
    pub more: Vec<(String, u64)>,
}

impl Display for Obstacles {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        for obstacle in &self.named {
            writeln!(f, "  {obstacle}")?;
        }
        for (collection, more) in &self.more {
            writeln!(f, "  and {more} more records of {collection}")?;
        }
        for kind in Kind::ALL {
            if self.named.iter().any(|obstacle| obstacle.kind == kind) {
                writeln!(f, "{}", kind.way_on())?;
            }
        }
        Ok(())
    }
}
