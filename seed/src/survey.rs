//! Names all obstacles to a split at once: a refused file is read once more, past each obstacle.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::obstacle::{Kind, Obstacle, Obstacles};
use crate::plan::Plan;
use crate::progress::{Progress, Total};
use crate::rejects::Rejects;
use crate::source::{Reading, Reject, Source, place_of};

/// The number of records of each collection that are named.
const NAMED: usize = 5;

/// The settings of a split that decide what is an obstacle.
pub struct Survey<'l> {
    /// The collections.
    pub plan: &'l Plan,
    /// The way of reading the file.
    pub reading: Reading,
    /// Whether ids from positions are provisional.
    pub own_ids_alone: bool,
    /// Whether the file must have every collection of the monolith.
    pub requires_all: bool,
    /// Whether collections that no service owns are put aside.
    pub has_rest: bool,
    /// Whether rejected records are put aside.
    pub has_rejects: bool,
    /// Whether the command names a plan.
    pub plan_is_given: bool,
    /// The display of progress.
    pub progress: Progress,
}

impl Survey<'_> {
    /// Searches the file at `input`, which was refused for `error`, for all other obstacles, and returns the error that
    /// names them; returns `error` itself if it is not about the file.
    pub fn explain(self, input: &Path, error: Error) -> Error {
        let Error::Input { file, kind: Some(kind), place, reason } = &error else { return error };
        if file != input {
            return error;
        }
        let Ok(mut found) = self.look(input) else { return error };
        match found.named.iter_mut().find(|obstacle| obstacle.place == *place) {
            // The split's reason names the record that has the id.
            Some(same) if same.kind == Kind::RepeatedId => same.reason.clone_from(reason),
            Some(_) => {}
            // Only the split checks the file this closely.
            None => found.named.insert(0, Obstacle { kind: *kind, place: place.clone(), reason: reason.clone() }),
        }
        Error::Obstacles { file: input.to_owned(), found }
    }

    fn look(self, input: &Path) -> Result<Obstacles, Error> {
        let plan_is_given = self.plan_is_given;
        let mut source = Source::open(input, self.plan)?.read_as(&Arc::new(self.reading)).going_on();
        if self.has_rest {
            source = source.passing(Box::new(io::sink()));
        }
        let stage = self.progress.stage("looking for all that is in the way", Total::Bytes(source.length()));
        let mut rejects = Rejects::pass_over(input);
        if self.own_ids_alone {
            rejects = rejects.of_own_ids_alone();
        }
        let (mut records, mut more): (Vec<Obstacle>, Vec<(String, u64)>) = Default::default();
        let mut of_collection = (None, 0);
        let end = loop {
            let batch = match source.next_batch() {
                Ok(Some(batch)) => batch,
                Ok(None) => break None,
                Err(Error::Input { kind: Some(kind), place, reason, .. }) => {
                    break Some(Obstacle { kind, place, reason });
                }
                Err(error) => return Err(error),
            };
            let (bytes, count) = batch.size();
            stage.advance(bytes, count);
            if self.has_rejects {
                source.recycle(batch);
                continue;
            }
            rejects.sift(&batch)?;
            if of_collection.0 != Some(batch.collection) {
                of_collection = (Some(batch.collection), 0);
            }
            for Reject { pointer, kind, offset, reason, .. } in rejects.last() {
                of_collection.1 += 1;
                if of_collection.1 <= NAMED {
                    records.push(Obstacle { kind, place: place_of(&pointer, offset), reason });
                } else if let Some((_, more)) = more.last_mut().filter(|_| of_collection.1 > NAMED + 1) {
                    *more += 1;
                } else {
                    more.push((batch.collection.name().to_owned(), 1));
                }
            }
            source.recycle(batch);
        };
        let mut named = source.obstacles();
        if self.requires_all && end.is_none() {
            let missing = source.absent().into_iter().filter(|collection| collection.declaration().in_monolith);
            named.extend(missing.map(|collection| {
                let reason = format!("the collection {:?} is missing", collection.name());
                Obstacle { kind: Kind::Missing, place: source.place_of_end(), reason }
            }));
        }
        named.extend(records);
        named.extend(end);
        Ok(Obstacles { named, more, plan_is_given })
    }
}
