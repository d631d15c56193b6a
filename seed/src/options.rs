//! The options of a split.

use std::path::PathBuf;

use crate::conflict::{Merge, Side};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::scoped::{self, Scoped};

/// The options of a split.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Reads the list of collections from the file `plan` in FOLDER, and each declaration from NAME/collection.json there
    /// [default: the workspace's own]
    #[arg(long, value_name = "FOLDER")]
    pub plan: Option<PathBuf>,

    /// Replaces the data in DIR after verifying the new split. Without it, a newer file's changes are applied to that data
    #[arg(long)]
    pub replace: bool,

    /// Refuses a file that lacks a collection of the monolith. Without it, such a collection is empty
    #[arg(long)]
    pub require: bool,

    /// Refuses a file with references that lead nowhere, such as posts in missing threads. Without it, such records are
    /// kept and counted
    #[arg(long)]
    pub strict: bool,

    /// Writes the collections that no service owns to FILE, for the monolith to keep. Without it, such collections are
    /// refused
    #[arg(long, value_name = "FILE")]
    pub rest: Option<PathBuf>,

    /// Writes invalid records to FILE, each as a line of JSON, and goes on without them. Without it, an invalid record ends
    /// the run
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,

    /// Allows up to N rejected records [default: any number]
    #[arg(long, value_name = "N", requires = "rejects")]
    pub max_rejects: Option<u64>,

    /// Accepts invalid JSON as Node's JSON.parse does: takes the last value of a repeated key, and U+FFFD for half a
    /// surrogate pair or for bytes that are not UTF-8. Without it, such a record is invalid
    #[arg(long)]
    pub as_node: bool,

    /// Resolves conflicts between the newer file and a service in favour of one side: monolith or service. Repeat it for
    /// single collections. Without it, a conflict ends the run
    #[arg(long, value_name = "[COLLECTION=]SIDE")]
    pub prefer: Vec<Scoped<Side>>,

    /// Sets what the newer file and a service may both change without a conflict: different fields of one record, or only
    /// different records
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub merge: Merge,

    /// Writes every conflict to FILE, each as a line of JSON with all three versions and an empty `take` to fill in
    #[arg(long, value_name = "FILE")]
    pub conflicts: Option<PathBuf>,

    /// Resolves conflicts as FILE says: the `take` of each line is "file", "service", "base" or a record
    #[arg(long, value_name = "FILE")]
    pub resolutions: Option<PathBuf>,

    /// Lets a newer file remove up to N records from each collection [default: half of those that were split]
    #[arg(long, value_name = "[COLLECTION=]N")]
    pub max_removed: Vec<Scoped<u64>>,

    /// Sets how much an update reads and checks: the records that it touches, or all
    #[arg(long, value_enum, value_name = "WHAT", default_value = "touched")]
    pub verify: Verified,

    /// Accepts a newer list of records without ids even if too little of the split list is found in it. Without it, such
    /// a list is refused
    #[arg(long)]
    pub realign: bool,

    /// Prints what the run would do, and changes nothing
    #[arg(long)]
    pub dry_run: bool,

    /// The display of progress.
    #[arg(skip)]
    pub progress: Progress,
}

impl Options {
    /// Returns the plan to split by, with all collections of the split that is `there`. A split made with `--plan` keeps
    /// its own plan instead of the workspace's.
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

/// The extent to which an update reads and checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Verified {
    /// The records that it touches, and their index entries.
    #[default]
    Touched,
    /// All records and indexes, before and afterwards.
    All,
}
