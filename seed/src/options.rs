//! What may differ between splits, as the command line has it.

use std::path::PathBuf;

use crate::conflict::{Merge, Side};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::scoped::{self, Scoped};

/// What may differ between splits, as the command line has it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// The folder whose file `plan` lists the collections, each in a folder with its collection.json [default: the
    /// workspace's own]
    #[arg(long, value_name = "FOLDER")]
    pub plan: Option<PathBuf>,

    /// Replaces what is in DIR, once the new split is verified
    #[arg(long)]
    pub replace: bool,

    /// Refuses a file that lacks a collection which the monolith has. Without it, such a collection is empty
    #[arg(long)]
    pub require: bool,

    /// Refuses threads and posts that refer to users or threads which are not there
    #[arg(long)]
    pub strict: bool,

    /// Writes the collections that no service owns to FILE, for the monolith to keep, instead of refusing them
    #[arg(long, value_name = "FILE")]
    pub rest: Option<PathBuf>,

    /// Writes records that can't be taken to FILE, each as a line of JSON, and goes on without them
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,

    /// How many of those there may be
    #[arg(long, value_name = "N", requires = "rejects")]
    pub max_rejects: Option<u64>,

    /// Takes what Node's JSON.parse takes and JSON does not allow, as Node does: of a repeated key the last, and U+FFFD
    /// for half a surrogate pair or for bytes that are not UTF-8
    #[arg(long)]
    pub as_node: bool,

    /// Whose version to take of a record that both the newer file and its service have changed: monolith or service, of
    /// all collections or, given again, of one
    #[arg(long, value_name = "[COLLECTION=]SIDE")]
    pub prefer: Vec<Scoped<Side>>,

    /// What both may change without a conflict
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub merge: Merge,

    /// Writes every conflict to FILE, each as a line of JSON with all three versions and room for what to `take`
    #[arg(long, value_name = "FILE")]
    pub conflicts: Option<PathBuf>,

    /// Takes what the `take` of each line says: "file", "service", "base", or a record
    #[arg(long, value_name = "FILE")]
    pub resolutions: Option<PathBuf>,

    /// How many records a newer file may remove from each collection [default: half of those that were split]
    #[arg(long, value_name = "[COLLECTION=]N")]
    pub max_removed: Vec<Scoped<u64>>,

    /// At an update, how much is read and checked: what it touches, or all
    #[arg(long, value_enum, value_name = "WHAT", default_value = "touched")]
    pub verify: Verified,

    /// Takes a list of records without ids for a newer one, however little of it is in the one that was split
    #[arg(long)]
    pub realign: bool,

    /// Finds out and prints what would be done, and changes nothing
    #[arg(long)]
    pub dry_run: bool,

    /// How progress is shown.
    #[arg(skip)]
    pub progress: Progress,
}

impl Options {
    /// The plan to split by, with all that is `there`. What was split by a plan that was given is not the workspace's.
    pub(crate) fn plan_for(&self, there: Option<&Manifest>) -> Result<Plan, Error> {
        let plan = match (&self.plan, there) {
            (Some(folder), _) => Plan::read(folder)?,
            (None, Some(there)) if there.plan_given => there.plan(),
            (None, _) => Plan::workspace(),
        };
        let plan = there.map_or_else(|| plan.clone(), |there| plan.and(&there.plan()));
        scoped::check(&self.prefer, &plan)?;
        scoped::check(&self.max_removed, &plan)?;
        Ok(plan)
    }
}

/// What an update reads and checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Verified {
    /// The records that it touches, and their places in the indexes.
    #[default]
    Touched,
    /// Everything, before and afterwards.
    All,
}
