//! The whole job: split, load, verify, publish; or bring up to date or check what is there.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, io};

use record::model::Collection;
use serde::de::IgnoredAny;
use store::{Folder, OnDamage, Purpose, Store, StoreError};
use tempfile::{NamedTempFile, TempDir, TempPath};

use crate::align::{Alignment, align};
use crate::backup::{Chain, Unpacked, copy_slice, records, slice_path, unpack};
use crate::checkpoint;
use crate::conflict::{Merge, Resolutions, Side};
use crate::database::Database;
use crate::error::Error;
use crate::identity::{Hashed, Identity, folder_of, identify, is_device, part_of, put_in_place};
use crate::ids::{self, AllGiven, Given, Ids};
use crate::join::{WrittenIds, keep_out_of_data, write_array};
use crate::manifest::{Manifest, Moment};
use crate::numbers::{give_ids, number};
use crate::obstacles::Looking;
use crate::orphans::{Edited, Edits, Orphans};
use crate::plan::Plan;
use crate::progress::{self, Progress, Total};
use crate::rejects::{AsNode, Rejects};
use crate::report::{self, Report};
use crate::rows::Rows;
use crate::scoped::{self, Scoped};
use crate::slice::Sliced;
use crate::source::{Reading, Source};
use crate::split::{Destination, Part, Splitted, Splitting};
use crate::target::{Building, Place, Target};
use crate::update::{Before, Changes, Planned, Planning, Rules, are_all_given};
use crate::verify::{Comparison, Scanned, compare, scan};

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
    fn plan_for(&self, there: Option<&Manifest>) -> Result<Plan, Error> {
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

/// The stages of a split, and how long each is beside the others.
const FILLING: [(&str, u32); 5] = [
    ("splitting", 60),
    ("writing indexes", 8),
    ("reading back", 26),
    ("checking references", 3),
    ("putting into place", 3),
];

/// Those of an update.
const UPDATING: [(&str, u32); 5] = [
    ("comparing", 65),
    ("aligning", 10),
    ("looking at changes", 10),
    ("checking references", 5),
    ("putting into place", 5),
];

/// Splits the file `input`, or standard input where that is `-`, into the services' folders in `data`; or applies what
/// it changes to a split that is already there; or, where it is the same file, checks that.
///
/// # Errors
/// See [`Error`]; what `data` holds is then as it was.
pub fn split_and_verify(input: &Path, data: &Path, options: &Options) -> Result<Report, Error> {
    check_outputs(input, options)?;
    if input == Path::new("-") {
        // What is read twice has to stay where it is in between.
        let kept = keep_stdin()?;
        let kept = kept.path().join(STDIN);
        let named = |text: String| text.replace(&kept.display().to_string(), "standard input");
        return match split_file(&kept, data, options) {
            Ok(report) => Ok(Report { text: named(report.text), ..report }),
            Err(error) => Err(error.renamed(&kept, "standard input", named)),
        };
    }
    split_file(input, data, options)
}

/// What is written beside the split goes neither into a data folder, nor over the input or each other.
fn check_outputs(input: &Path, options: &Options) -> Result<(), Error> {
    let mut others: Vec<PathBuf> =
        [Some(input), options.resolutions.as_deref()].into_iter().flatten().map(resolve).collect();
    for path in [&options.rest, &options.rejects, &options.conflicts].into_iter().flatten() {
        keep_out_of_data(path)?;
        let resolved = resolve(path);
        if others.contains(&resolved) {
            let reason = "it is what is read, or written for another option; name another file".to_owned();
            return Err(Error::Output { path: path.clone(), reason });
        }
        others.push(resolved);
    }
    Ok(())
}

/// Where a path leads, as far as that is there.
fn resolve(path: &Path) -> PathBuf {
    let of_folder = || {
        let folder = fs::canonicalize(folder_of(path)).unwrap_or_else(|_| folder_of(path).to_owned());
        folder.join(path.file_name().unwrap_or_default())
    };
    fs::canonicalize(path).unwrap_or_else(|_| of_folder())
}

/// The same of a file.
fn split_file(input: &Path, data: &Path, options: &Options) -> Result<Report, Error> {
    // Before anything is made: is there an input at all?
    drop(Source::open(input, &Plan::workspace())?);
    let there = if options.replace { None } else { Manifest::read(data)? };
    let plan = &options.plan_for(there.as_ref())?;
    // A first split, or another in its place, is not for services that run.
    let target = if there.is_some() { Target::reach(data, plan) } else { Target::lock(data, plan) };
    let target = match target {
        Err(Error::Store(error @ StoreError::InUse { .. })) if !options.replace => {
            return leave_running(input, data, plan, error);
        }
        target => target?,
    };
    split_into(input, data, plan, target, options)
        .map_err(|error| explain(input, plan, there.is_some(), options, error))
}

/// Names all that is in the way of a split, where its error is about the file.
fn explain(input: &Path, plan: &Plan, is_update: bool, options: &Options, error: Error) -> Error {
    let given = if is_update { Ok(AllGiven::default()) } else { ids::read_beside(input, plan, || identify(input)) };
    let looking = Looking {
        plan,
        reading: Reading { given: given.unwrap_or_default(), as_node: options.as_node },
        own_ids_alone: is_update,
        requires_all: options.require,
        has_rest: options.rest.is_some(),
        has_rejects: options.rejects.is_some(),
        progress: options.progress,
    };
    looking.explain(input, error)
}

/// The same, into `target`.
fn split_into(input: &Path, data: &Path, plan: &Plan, mut target: Target, options: &Options) -> Result<Report, Error> {
    let manifest = Manifest::read(data);
    if options.replace || matches!(manifest, Ok(None)) && target.is_empty(plan) {
        return fill(input, data, plan, target, options);
    }
    // What an interrupted run has built is for a split of its file alone.
    target.clear()?;
    let Some(manifest) = manifest? else {
        return Err(Error::occupied(data, "it holds slices or databases without a manifest".to_owned()));
    };
    let (manifest, added) = extend(input, data, plan, manifest, &mut target, options)?;
    let report = if manifest.source == identify(input)? {
        match target.served().first() {
            Some(served) => report::served(input, data, &in_use(data, *served)),
            None => check(input, data, &manifest, &target, options.progress)?,
        }
    } else {
        bring_up_to_date(input, data, plan, &manifest, &mut target, options)?
    };
    Ok(report.with_added(&added, options.dry_run))
}

/// Applies what a newer file changes, again where services change the same meanwhile.
fn bring_up_to_date(
    input: &Path,
    data: &Path,
    plan: &Plan,
    manifest: &Manifest,
    target: &mut Target,
    options: &Options,
) -> Result<Report, Error> {
    for _ in 0..ATTEMPTS {
        if let Some(report) = update(input, data, plan, manifest, target, options)? {
            return Ok(report);
        }
    }
    Err(Error::Overtaken(data.to_owned()))
}

/// Adds the collections of `plan` that a split does not have, as the file has them. What is there is not touched, and goes
/// on being served. Returns the manifest, and how many records each has that was added.
fn extend(
    input: &Path,
    data: &Path,
    plan: &Plan,
    manifest: Manifest,
    target: &mut Target,
    options: &Options,
) -> Result<(Manifest, Vec<(Collection, u64)>), Error> {
    let fresh = plan.without(&manifest.plan());
    if fresh.count() == 0 {
        return Ok((manifest, Vec::new()));
    }
    if !target.is_empty(&fresh) {
        let names: Vec<&str> = fresh.iter().map(Collection::name).collect();
        let holds = format!("it holds slices or databases of {} without a manifest of them", names.join(", "));
        return Err(Error::occupied(data, holds));
    }
    let building = target.build(&fresh)?;
    let given = ids::read_beside(input, plan, || identify(input))?;
    let reading = Arc::new(Reading { given, as_node: options.as_node || manifest.as_node > 0 });
    let passes = options.rejects.is_some() || manifest.rejected > 0;
    let mut rejects = if passes { Rejects::pass_over(input) } else { Rejects::refuse(input) };
    let splitting = Splitting {
        path: input,
        plan,
        reading: &reading,
        requires_all: options.require,
        // What no service owns was put aside at the split, or will be at the update.
        rest: Some(Box::new(io::sink())),
        progress: options.progress,
    };
    let split = splitting.split(&destinations(&building), &mut rejects)?;
    let (rejected, as_node) = rejects.finish()?;
    let built = Built { split, rejected, as_node, reading: Arc::clone(&reading), taken_up: false };
    let scans = prove(input, plan, &building, &built, options)?;
    let added = built.split.parts.iter().map(|part| (part.collection, part.digests.exact.count)).collect();
    if options.dry_run {
        drop(scans);
        target.clear()?;
        return Ok((manifest, added));
    }
    let stores: Vec<Store> = scans.into_iter().map(|scanned| scanned.store).collect();
    let moments = stores.iter().map(Moment::of).collect::<Result<_, _>>()?;
    let orphans = {
        let mut new: Vec<Database> = stores.iter().map(Database::of).collect();
        let mut new = new.iter_mut();
        let mut edits = Vec::new();
        let edited = &Edited::default();
        for place in target.places() {
            let collection = place.collection;
            let database = if fresh.has(collection) {
                new.next().expect("each that is fresh was built")
            } else {
                place.database()?
            };
            edits.push(Edits { collection, database, edited });
        }
        refuse_orphans(Orphans::find_edited(&mut edits)?, options)?
    };
    drop(stores);
    target.places().iter_mut().for_each(Place::close_database);
    let manifest = manifest.with_added(built.split.parts, moments, orphans, plan);
    let _stage = options.progress.stage("putting into place", Total::Unknown);
    target.publish(&manifest, || Ok(()))?;
    target.go_on();
    Ok((manifest, added))
}

/// Where the parts of a split are built.
fn destinations(building: &[Building]) -> Vec<Destination<'_>> {
    let mut destinations = Vec::new();
    for Building { collection, slice, database, .. } in building {
        destinations.push(Destination { collection: *collection, slice, database: Some(database) });
    }
    destinations
}

/// An error where there may be none.
fn refuse_orphans(orphans: Orphans, options: &Options) -> Result<Orphans, Error> {
    if options.strict && orphans.count() > 0 { Err(Error::Orphans(orphans)) } else { Ok(orphans) }
}

/// How often a newer file is compared with what is there, where services change that meanwhile.
const ATTEMPTS: usize = 3;

/// The service of `collection` runs.
fn in_use(data: &Path, collection: Collection) -> StoreError {
    let path = data.join(collection.name());
    let holder = fs::read_to_string(path.join("lock")).unwrap_or_default();
    StoreError::InUse { path, holder: holder.trim_end().to_owned() }
}

/// The name of what standard input was kept in.
const STDIN: &str = "standard-input";

/// Writes standard input to a file in a temporary folder.
fn keep_stdin() -> Result<TempDir, Error> {
    let folder = tempfile::tempdir().map_err(Error::io(&env::temp_dir()))?;
    let path = folder.path().join(STDIN);
    let copied = File::create(&path).and_then(|mut file| io::copy(&mut io::stdin().lock(), &mut file));
    copied.map_err(Error::io(&path))?;
    Ok(folder)
}

/// What is written beside the split: whole, but not yet in its place.
struct Aside {
    rest: Option<(TempPath, PathBuf)>,
    rejects: Option<(TempPath, PathBuf)>,
    conflicts: Option<(TempPath, PathBuf)>,
}

impl Aside {
    fn begin(options: &Options) -> Result<Self, Error> {
        // Gone again unless it is put into its place.
        let begin = |path: &Option<PathBuf>| {
            let Some(path) = path else { return Ok(None) };
            let part = if is_device(path) {
                NamedTempFile::new().map_err(Error::io(&env::temp_dir()))?.into_temp_path()
            } else {
                let part = part_of(path);
                File::create(&part).map_err(Error::io(&part))?;
                TempPath::try_from_path(part).map_err(Error::io(path))?
            };
            Ok::<_, Error>(Some((part, path.to_owned())))
        };
        let [rest, rejects, conflicts] = [&options.rest, &options.rejects, &options.conflicts].map(begin);
        Ok(Self { rest: rest?, rejects: rejects?, conflicts: conflicts? })
    }

    /// Where the collections that no service owns go.
    fn rest(&self) -> Option<&Path> {
        self.rest.as_ref().map(|(part, _)| &**part)
    }

    /// What takes the rejects of `input`.
    fn rejects(&self, input: &Path, options: &Options) -> Result<Rejects, Error> {
        let Some((part, _)) = &self.rejects else { return Ok(Rejects::refuse(input)) };
        let out = BufWriter::new(File::create(part).map_err(Error::io(part))?);
        Ok(Rejects::write(input, Box::new(out), options.max_rejects.unwrap_or(u64::MAX)))
    }

    /// Who gets no split because there are too many rejects can at least look at them.
    fn unless_too_many<T>(&self, outcome: Result<T, Error>, rejects: &mut Rejects) -> Result<T, Error> {
        if let (Err(_), true, Some((part, path))) = (&outcome, rejects.are_too_many(), &self.rejects) {
            rejects.flush()?;
            put_in_place(part, path)?;
        }
        outcome
    }

    /// Puts it all into place.
    fn put_in_place(self) -> Result<(), Error> {
        for (part, path) in [self.rest, self.rejects, self.conflicts].into_iter().flatten() {
            put_in_place(&part, &path)?;
        }
        Ok(())
    }

    /// Whether there is nothing to be written.
    fn is_empty(&self) -> bool {
        self.rest.is_none() && self.rejects.is_none()
    }

    /// Puts that into place which says what is in the way: there is nothing else then.
    fn put_findings_in_place(self) -> Result<(), Error> {
        Self { rest: None, ..self }.put_in_place()
    }

    /// What takes the conflicts.
    fn conflicts(&self) -> Result<Option<Box<dyn Write>>, Error> {
        let Some((part, _)) = &self.conflicts else { return Ok(None) };
        Ok(Some(Box::new(BufWriter::new(File::create(part).map_err(Error::io(part))?))))
    }
}

/// Splits into a target that is empty or given up, or goes on with what an interrupted run has split.
fn fill(input: &Path, data: &Path, plan: &Plan, target: Target, options: &Options) -> Result<Report, Error> {
    progress::expect(&FILLING);
    let aside = Aside::begin(options)?;
    let finished = if aside.is_empty() { checkpoint::read(data, plan) } else { None };
    if let Some(split) = finished
        && identify(input)? == split.source
    {
        let (as_node, reading) = Default::default();
        let built = Built { split, rejected: 0, as_node, reading, taken_up: true };
        // What is not as it was noted is split anew.
        if let Ok(scans) = prove(input, plan, &target.building(), &built, options) {
            return finish_fill(input, data, target, aside, built, scans, options);
        }
    }
    let building = target.build(plan)?;
    let mut rejects = aside.rejects(input, options)?;
    let given = ids::read_beside(input, plan, || identify(input))?;
    let reading = Arc::new(Reading { given, as_node: options.as_node });
    let rest = aside.rest().map(|rest| File::create(rest).map_err(Error::io(rest))).transpose()?;
    let splitting = Splitting {
        path: input,
        plan,
        reading: &reading,
        requires_all: options.require,
        rest: rest.map(|rest| Box::new(BufWriter::new(rest)) as _),
        progress: options.progress,
    };
    let split = splitting.split(&destinations(&building), &mut rejects);
    let split = aside.unless_too_many(split, &mut rejects)?;
    let (rejected, as_node) = rejects.finish()?;
    check_rest(input, aside.rest())?;
    if aside.is_empty() && as_node.count == 0 && reading.given.are_positions() {
        checkpoint::write(data, &split)?;
    }
    let built = Built { split, rejected, as_node, reading, taken_up: false };
    let scans = prove(input, plan, &building, &built, options)?;
    finish_fill(input, data, target, aside, built, scans, options)
}

/// What was split, and is not in its place yet.
struct Built {
    split: Splitted,
    rejected: u64,
    as_node: AsNode,
    reading: Arc<Reading>,
    /// Whether an interrupted run did it.
    taken_up: bool,
}

/// Reads back what was built, and compares it with what it should be.
fn prove(
    input: &Path,
    plan: &Plan,
    building: &[Building],
    built: &Built,
    options: &Options,
) -> Result<Vec<Scanned>, Error> {
    let records = built.split.parts.iter().map(|part| part.digests.exact.count).sum();
    let scans = read_back(building, records, options.progress)?;
    let mut faults = Vec::new();
    for ((scanned, building), part) in scans.iter().zip(building).zip(&built.split.parts) {
        let slice_equal = identify(&building.slice)? == part.slice.file;
        let records_equal = scanned.digests == part.digests;
        faults.extend(report::fault(building.collection, records_equal, slice_equal, scanned.indexes_equal));
    }
    if faults.is_empty() {
        return Ok(scans);
    }
    if !built.taken_up {
        let scanned: Vec<&Scanned> = scans.iter().collect();
        let comparisons = compare(input, &built.reading, plan, built.rejected > 0, &scanned)?;
        faults.extend(comparisons.iter().map(report::differences));
    }
    Err(Error::Difference(format!("{}\nNothing was published.", faults.join("\n"))))
}

/// Puts a split into place that was proven.
fn finish_fill(
    input: &Path,
    data: &Path,
    target: Target,
    aside: Aside,
    built: Built,
    scans: Vec<Scanned>,
    options: &Options,
) -> Result<Report, Error> {
    let stores: Vec<Store> = scans.into_iter().map(|scanned| scanned.store).collect();
    let moments = stores.iter().map(Moment::of).collect::<Result<_, _>>()?;
    let orphans = orphans(&stores, options)?;
    drop(stores);
    let Splitted { source, parts, absent } = built.split;
    let mut manifest = Manifest::new(source, parts, built.rejected, orphans).with_databases(moments);
    manifest.as_node = built.as_node.count;
    manifest.plan_given = options.plan.is_some();
    publish(target, &manifest, aside, options)?;
    let report = report::filled(input, data, &manifest, built.taken_up, options.dry_run);
    Ok(report.with_absent(&absent).with_as_node(&built.as_node))
}

/// Applies what a newer file changes to the split that is there. Returns nothing where its services have overtaken it: then
/// nothing is changed.
fn update(
    input: &Path,
    data: &Path,
    plan: &Plan,
    old: &Manifest,
    target: &mut Target,
    options: &Options,
) -> Result<Option<Report>, Error> {
    if old.restored {
        let holds = "it was restored from a backup that has no split in it: what a newer file changes cannot be told";
        return Err(Error::occupied(data, holds.to_owned()));
    }
    progress::expect(&UPDATING);
    if options.verify == Verified::All {
        verify_all(data, old, target, options.progress)?;
    }
    let resolutions = options.resolutions.as_deref().map(|path| Resolutions::read(path, plan));
    let resolutions = resolutions.transpose()?.unwrap_or_default();
    let there = &old.plan();
    let building = target.build(there)?;
    let aside = Aside::begin(options)?;
    let mut rejects = aside.rejects(input, options)?.of_own_ids_alone();
    let reading = Arc::new(Reading { as_node: options.as_node, ..Reading::default() });
    let mut source = Source::open(input, plan)?.read_as(&reading).hashed();
    if let Some(rest) = aside.rest() {
        source = source.passing(Box::new(BufWriter::new(File::create(rest).map_err(Error::io(rest))?)));
    }
    let mut before = Vec::new();
    for (place, part) in target.places().iter_mut().filter(|place| there.has(place.collection)).zip(&building) {
        look_for_parts(data, place.path())?;
        before.push(Before {
            collection: place.collection,
            slice: place.slice(),
            database: place.database()?,
            entry: old.entry(part.collection),
            next_patch: part.patch.clone(),
            next_changes: part.changes.clone(),
        });
    }
    let rules = Rules { merge: options.merge, resolutions: &resolutions, prefer: &options.prefer };
    let planning = Planning {
        input,
        plan,
        as_node: options.as_node,
        rejected_before: old.rejected > 0,
        rules,
        conflicts: aside.conflicts()?,
        requires_all: options.require,
        dry_run: options.dry_run,
        progress: options.progress,
    };
    let planned = planning.plan(source, &mut before, &mut rejects);
    let Planned { source, parts, changes, looks } = aside.unless_too_many(planned, &mut rejects)?;
    let (rejected, as_node) = rejects.finish()?;
    check_rest(input, aside.rest())?;
    if let Some(holds) = another_file(&changes, old, options) {
        return Err(Error::occupied(data, holds));
    }
    let report = |running: &[Collection], is_done: bool| {
        let report = report::updated(input, data, &changes, rejected, running, !is_done);
        report.with_as_node(&as_node)
    };
    if changes.iter().any(|changes| changes.unresolved > 0) {
        aside.put_findings_in_place()?;
        return Err(Error::Conflicts(report(&[], false)));
    }
    if options.dry_run {
        aside.put_findings_in_place()?;
        return Ok(Some(report(&[], false)));
    }
    let orphans = {
        let _stage = options.progress.stage("checking references", Total::Unknown);
        let mut edits = Vec::new();
        for (before, changes) in before.into_iter().zip(&changes) {
            edits.push(Edits { collection: before.collection, database: before.database, edited: &changes.edited });
        }
        refuse_orphans(Orphans::find_edited(&mut edits)?, options)?
    };
    let differs = |changes: &Changes| changes.differs.clone();
    let moments = looks.iter().zip(&changes).map(|(look, changes)| Moment::at(look, differs(changes))).collect();
    let mut manifest = Manifest::new(source, parts, rejected, orphans).with_databases(moments);
    manifest.as_node = as_node.count;
    manifest.plan_given = options.plan.is_some() || old.plan_given;
    let running = target.served();
    let stage = options.progress.stage("putting into place", Total::Unknown);
    if !target.publish(&manifest, || aside.put_in_place())? {
        return Ok(None);
    }
    // Of a database to which nobody else has written, the manifest can say what it is: that spares the next run a look.
    let mut moments = Vec::new();
    for ((place, look), changes) in target.places().iter_mut().zip(&looks).zip(&changes) {
        let now = match place.database()?.look() {
            // A service that has ended since: its changes are made.
            Err(Error::Service(_)) => *look,
            now => now?,
        };
        let is_alone = now.revision == look.revision + changes.applied;
        if is_alone && now.records != changes.applied_to(look.records) {
            let fault = report::fault(place.collection, false, true, true).unwrap_or_default();
            return Err(Error::Damaged(fault));
        }
        moments.push(Moment::at(if is_alone { &now } else { look }, differs(changes)));
    }
    let manifest = manifest.with_databases(moments);
    target.replace_manifest(&manifest)?;
    drop(stage);
    if options.verify == Verified::All {
        verify_all(data, &manifest, target, options.progress)?;
    }
    Ok(Some(report(&running, true)))
}

/// Reads and checks all databases: by their services, where they run.
fn verify_all(data: &Path, manifest: &Manifest, target: &mut Target, progress: Progress) -> Result<(), Error> {
    for place in target.places() {
        if place.folder().is_none() {
            let _stage = progress.stage("reading back", Total::Unknown);
            place.database()?.scrub()?;
        }
        place.close_database();
    }
    scan_split(data, manifest, target.folders(), progress)?.1.check()
}

/// An older file, or a wholly different one, must not pass for a newer one: what speaks against it.
fn another_file(changes: &[Changes], old: &Manifest, options: &Options) -> Option<String> {
    let (mut lacking, mut records, mut of_each, mut too_many) = (0, 0, Vec::new(), Vec::new());
    for changes in changes {
        let collection = changes.collection;
        let (removed, all, name) = (changes.removed, old.entry(collection).records, collection.name());
        (lacking, records) = (lacking + removed, records + all);
        of_each.push(format!("{removed} of {all} {name}"));
        if removed > scoped::of(&options.max_removed, collection).unwrap_or(all / 2) {
            too_many.push(format!("--max-removed {name}={removed}"));
        }
    }
    if !too_many.is_empty() {
        return Some(format!(
            "it holds the split of another file, which has {lacking} records of {records} that this one lacks ({}); {} \
             lets them be removed",
            of_each.join(", "),
            too_many.join(" ")
        ));
    }
    let mut aligned = changes.iter().filter_map(|changes| Some((changes.collection, changes.alignment.as_ref()?)));
    let (collection, alignment) = aligned.find(|(_, alignment)| !alignment.is_convincing() && !options.realign)?;
    Some(format!(
        "it holds the split of another file: of its {} {} without ids this one has {} ({} in all), in the same words or \
         near ones; --realign takes it for a newer one all the same",
        alignment.before,
        collection.name(),
        alignment.found,
        alignment.after,
    ))
}

/// Scans the databases that were built. They are opened anew: what counts is what a service will find.
fn read_back(building: &[Building], records: u64, progress: Progress) -> Result<Vec<Scanned>, Error> {
    let stage = progress.stage("reading back", Total::Records(records));
    let open = |part: &Building| Store::open(&part.database, part.collection, Purpose::Passing);
    building.iter().map(|part| scan(open(part)?, &stage)).collect()
}

/// The orphans in the databases of all collections; an error where there may be none.
fn orphans(stores: &[Store], options: &Options) -> Result<Orphans, Error> {
    let _stage = options.progress.stage("checking references", Total::Unknown);
    refuse_orphans(Orphans::find(stores)?, options)
}

/// Puts what was built, and what was put aside, into place.
fn publish(mut target: Target, manifest: &Manifest, aside: Aside, options: &Options) -> Result<(), Error> {
    if options.dry_run {
        return aside.put_findings_in_place();
    }
    let _stage = options.progress.stage("putting into place", Total::Unknown);
    target.publish(manifest, || aside.put_in_place()).map(drop)
}

/// Whether what was put aside, of which only brackets and strings were looked at, is JSON.
fn check_rest(input: &Path, part: Option<&Path>) -> Result<(), Error> {
    let Some(part) = part else { return Ok(()) };
    let file = File::open(part).map_err(Error::io(part))?;
    match serde_json::from_reader::<_, IgnoredAny>(BufReader::new(file)) {
        Ok(IgnoredAny) => Ok(()),
        Err(error) if error.is_io() => Err(Error::io(part)(error.into())),
        Err(error) => Err(Error::Input {
            file: input.to_owned(),
            place: "a collection that no service owns".to_owned(),
            reason: format!("it is not JSON: {}", record::json::reason_of(&error)),
        }),
    }
}

/// Looks at a finished split and changes nothing. Since then its services may have changed their records.
fn check(input: &Path, data: &Path, manifest: &Manifest, target: &Target, progress: Progress) -> Result<Report, Error> {
    let plan = &manifest.plan();
    let folders = || target.folders().filter(|(collection, _)| plan.has(*collection));
    let (scans, faults) = scan_split(data, manifest, folders(), progress)?;
    faults.check()?;
    let comparisons = if scans.iter().all(|scanned| is_as_split(scanned, manifest)) {
        let equal = |scanned: &Scanned| Comparison { equal: scanned.digests.exact.count, ..Comparison::default() };
        scans.iter().map(equal).collect()
    } else {
        let slices: Vec<PathBuf> = folders().map(|(_, folder)| folder.slice()).collect();
        let stores: Vec<&Store> = scans.iter().map(|scanned| &scanned.store).collect();
        let passing = manifest.rejected > 0;
        let as_node = manifest.as_node > 0;
        let given = align_all(input, as_node, plan, Some((manifest, &slices)), &stores, passing, progress)?;
        let reading = Arc::new(Reading { given, as_node });
        compare(input, &reading, plan, passing, &scans.iter().collect::<Vec<_>>())?
    };
    let collections = scans.iter().map(|scanned| scanned.store.collection());
    let comparisons: Vec<_> = collections.zip(comparisons).collect();
    Ok(report::checked(input, data, &comparisons))
}

/// The ids that the records of the file at `input` have, where they have none of their own: their lists are aligned with
/// the slices of a `split`; and their numbers, where ids are texts. Slices and databases come in one order.
fn align_all(
    input: &Path,
    as_node: bool,
    plan: &Plan,
    split: Option<(&Manifest, &[PathBuf])>,
    stores: &[&Store],
    passing: bool,
    progress: Progress,
) -> Result<AllGiven, Error> {
    let mut given_ids = match split {
        Some(_) => AllGiven::default(),
        None => ids::read_beside(input, plan, || identify(input))?,
    };
    let known = ids::known(input, plan, || identify(input));
    for (nth, store) in stores.iter().enumerate() {
        let collection = store.collection();
        if !collection.has_text_ids() && (split.is_none() || !collection.may_lack_ids()) {
            continue;
        }
        let mut database = Database::of(store);
        let mut newer = Rows::new(input, collection, as_node)?;
        let reading = Arc::new(Reading { as_node, ..Reading::default() });
        let mut source = Source::open(input, plan)?.read_as(&reading).passing(Box::new(io::sink()));
        let stage = progress.stage("aligning", Total::Bytes(source.length()));
        newer.read(&mut source, &|_| false, passing, Some(&stage))?;
        let older = match split {
            Some((manifest, slices)) => {
                let entry = manifest.entry(collection);
                let all_given = are_all_given(entry, manifest.rejected > 0, collection, &mut database)?;
                let given = |id| all_given || entry.given.contains(id);
                // By the declaration that the file was split by.
                let mut older = Rows::new(&slices[nth], entry.collection(), false)?;
                older.read(&mut entry.open_slice(&slices[nth])?, &given, false, None)?;
                Some(older)
            }
            None => None,
        };
        let nothing = Rows::new(input, collection, as_node)?;
        let has_slice = older.is_some();
        let mut older = older.unwrap_or(nothing);
        if collection.has_text_ids() {
            number(&mut database, &mut older, &mut newer, false, false)?;
        }
        let known = known.as_ref().map(|known| &known.of(collection).ids).filter(|ids| !ids.are_positions());
        let ids = match known.and_then(|ids| Alignment::of_known_ids(ids, &older, &newer)) {
            _ if !has_slice => given_ids.of(collection).ids.clone(),
            Some(alignment) => alignment.ids,
            None => align(&older, &newer, |count, above| give_ids(&mut database, &newer, count, above, false))?.ids,
        };
        newer.take_ids(&ids);
        let last_id = given_ids.of(collection).last_id;
        given_ids.set(collection, Given { ids: newer.ids(), last_id });
    }
    Ok(given_ids)
}

/// Writes the slices of the file `input` to `output`, without databases.
///
/// # Errors
/// See [`Error`]; slices that were there are then as they were.
pub fn slices(input: &Path, plan: &Plan, output: &Path, progress: Progress) -> Result<Report, Error> {
    fs::create_dir_all(output).map_err(Error::io(output))?;
    let building = tempfile::tempdir_in(output).map_err(Error::io(output))?;
    let names: Vec<String> = plan.iter().map(|collection| format!("{}.json", collection.name())).collect();
    let paths: Vec<PathBuf> = names.iter().map(|name| building.path().join(name)).collect();
    let destinations: Vec<Destination> = (plan.iter().zip(&paths))
        .map(|(collection, slice)| Destination { collection, slice, database: None })
        .collect();
    let (reading, requires_all, rest) = (&Arc::default(), false, None);
    let splitting = Splitting { path: input, plan, reading, requires_all, rest, progress };
    let Splitted { source, parts, absent } = splitting.split(&destinations, &mut Rejects::refuse(input))?;
    for (name, path) in names.iter().zip(&paths) {
        let target = output.join(name);
        put_in_place(path, &target)?;
    }
    Ok(report::sliced(input, output, &source, &parts).with_absent(&absent))
}

/// Looks at what is in `data`: is each database sound, is it as it was split or changed by its service since, and does it
/// hold what the file `input` does, or the backup `against`, where there is one?
///
/// # Errors
/// [`Error::Damaged`] where a database is not what its writers made of it; [`Error::Difference`] names what differs from
/// the file or the backup. Nothing is changed.
pub fn verify(input: Option<&Path>, against: Option<&Chain>, data: &Path, progress: Progress) -> Result<Report, Error> {
    let (manifest, folders) = open_split(data)?;
    let slices: Vec<PathBuf> = folders.iter().map(|(_, folder)| folder.slice()).collect();
    let folders = folders.iter().map(|(collection, folder)| (*collection, folder));
    let (scans, faults) = scan_split(data, &manifest, folders, progress)?;
    judge(input, against, &data.display().to_string(), Some((&manifest, &slices)), scans, faults, progress)
}

/// The same of a backup, which is unpacked for it.
pub fn verify_backup(input: Option<&Path>, chain: &Chain, progress: Progress) -> Result<Report, Error> {
    let Unpacked { stores, _dir } = unpack(chain, progress)?;
    let stage = progress.stage("reading back", Total::Records(records(chain)?));
    let scans: Vec<Scanned> = stores.into_iter().map(|store| scan(store, &stage)).collect::<Result<_, _>>()?;
    drop(stage);
    let mut faults = Faults::default();
    scans.iter().for_each(|scanned| faults.look_at(scanned));
    let split = chain.split()?;
    let slices: Vec<PathBuf> = match &split {
        Some((manifest, folder)) => manifest.collections().map(|collection| slice_path(folder, collection)).collect(),
        None => Vec::new(),
    };
    let split = split.as_ref().map(|(manifest, _)| (manifest, &slices[..]));
    judge(input, None, "the backup", split, scans, faults, progress)
}

/// What is to be said of databases that were scanned.
fn judge(
    input: Option<&Path>,
    against: Option<&Chain>,
    what: &str,
    split: Option<(&Manifest, &[PathBuf])>,
    scans: Vec<Scanned>,
    faults: Faults,
    progress: Progress,
) -> Result<Report, Error> {
    let mut since_split = Vec::new();
    for (nth, scanned) in scans.iter().enumerate() {
        let collection = scanned.store.collection();
        since_split.push(match split {
            Some((manifest, slices)) if !is_as_split(scanned, manifest) => {
                // The slice holds what was split: it shows what a digest only counts.
                compare(&slices[nth], &Arc::default(), &Plan::of(collection), false, &[scanned])?.pop()
            }
            _ => None,
        });
    }
    if !faults.damaged.is_empty() {
        let named = since_split.iter().flatten().filter(|comparison| comparison.differences() > 0);
        let named: Vec<String> = named.map(report::differences).collect();
        return Err(Error::Damaged([faults.damaged, faults.different, named].concat().join("\n")));
    }
    let mut different = faults.different;
    if let Some(input) = input {
        let (passed_over, as_node) = match split {
            Some((manifest, _)) if identify(input)? == manifest.source => (manifest.rejected > 0, manifest.as_node > 0),
            _ => (false, false),
        };
        // Its ids are those of the split, whatever its positions have become since.
        let stores: Vec<&Store> = scans.iter().map(|scanned| &scanned.store).collect();
        let plan: Plan = stores.iter().map(|store| store.collection()).collect();
        let given = align_all(input, as_node, &plan, split, &stores, passed_over, progress)?;
        let scanned: Vec<&Scanned> = scans.iter().collect();
        let comparisons = compare(input, &Arc::new(Reading { given, as_node }), &plan, passed_over, &scanned)?;
        different.extend(comparisons.iter().filter(|comparison| comparison.differences() > 0).map(report::differences));
    }
    if let Some(chain) = against {
        for scanned in &scans {
            let (head, _) = chain.read(scanned.store.collection(), |_| Ok(()))?;
            if !head.is_of(&scanned.digests.exact) {
                different.push(report::other_than_backup(scanned, &head));
            }
        }
    }
    if !different.is_empty() {
        return Err(Error::Difference(different.join("\n")));
    }
    Ok(report::verified(input, against.is_some(), what, &scans, &since_split, split.map(|(manifest, _)| manifest)))
}

/// Puts a backup into the services' folders in `data`, once it has been read back and proven.
///
/// # Errors
/// See [`Error`]; what `data` holds is then as it was.
pub fn restore(chain: &Chain, data: &Path, replace: bool, progress: Progress) -> Result<Report, Error> {
    let mut target = Target::lock(data, chain.plan()?)?;
    if !replace && !target.is_empty(chain.plan()?) {
        return Err(Error::occupied(data, "it holds slices or databases".to_owned()));
    }
    let building = target.build(chain.plan()?)?;
    let stage = progress.stage("restoring", Total::Records(records(chain)?));
    let mut heads = Vec::new();
    for part in &building {
        heads.push(chain.restore(part.collection, &part.database, &stage)?);
    }
    drop(stage);
    let scans = read_back(&building, heads.iter().map(|head| head.records).sum(), progress)?;
    for (scanned, head) in scans.iter().zip(&heads) {
        if !scanned.is_sound() || !head.is_of(&scanned.digests.exact) {
            return Err(Error::Damaged(report::other_than_backup(scanned, head)));
        }
    }
    let manifest = match chain.split()? {
        Some((manifest, folder)) => {
            for part in &building {
                copy_slice(&folder, part.collection, &part.slice)?;
                if identify(&part.slice)? != manifest.entry(part.collection).slice {
                    return Err(Error::Damaged(format!("{}: it is not what its manifest says", part.slice.display())));
                }
            }
            manifest
        }
        None => without_split(&building, &scans)?,
    };
    drop(scans);
    let stage = progress.stage("putting into place", Total::Unknown);
    target.publish(&manifest, || Ok(()))?;
    drop(stage);
    Ok(report::restored(data, &heads, manifest.restored))
}

/// The manifest of a backup of which the split is not known: slices of what it holds are written.
fn without_split(building: &[Building], scans: &[Scanned]) -> Result<Manifest, Error> {
    let mut parts = Vec::new();
    for (part, scanned) in building.iter().zip(scans) {
        let file = File::create_new(&part.slice).map_err(Error::io(&part.slice))?;
        let mut out = Hashed::new(BufWriter::new(file), true);
        out.write_all(b"{").map_err(Error::io(&part.slice))?;
        let stage = Progress::Quiet.stage("", Total::Records(0));
        let written = write_array(&scanned.store, None, WrittenIds::Slice, &mut out, &part.slice, &stage)?;
        let has_numbers = part.collection.has_text_ids();
        let numbers = if has_numbers { written.left_out.shortened() } else { Ids::Positions };
        out.write_all(b"}\n").map_err(Error::io(&part.slice))?;
        let file = out.finish().map_err(Error::io(&part.slice))?;
        let slice = Sliced { file, given: written.given, numbers };
        parts.push(Part { collection: part.collection, digests: scanned.digests, slice });
    }
    let unknown = Identity { sha256: String::new(), bytes: 0 };
    let stores: Vec<Store> = scans.iter().map(|scanned| scanned.store.clone()).collect();
    let orphans = Orphans::find(&stores)?;
    let mut manifest = Manifest::new(unknown, parts, 0, orphans);
    manifest.restored = true;
    Ok(manifest)
}

/// The manifest and the folders of a finished split that no service has open.
pub fn open_split(data: &Path) -> Result<(Manifest, Vec<(Collection, Folder)>), Error> {
    let manifest = Manifest::read(data);
    let plan = manifest.as_ref().ok().and_then(Option::as_ref).map_or_else(Plan::workspace, Manifest::plan);
    let mut folders = Vec::new();
    for collection in plan.iter() {
        let folder = Folder::lock(&data.join(collection.name()))?;
        folder.settled_database()?;
        folders.push((collection, folder));
    }
    // Now that nobody else has the folders.
    match Manifest::read(data)? {
        Some(manifest) if manifest.plan() == plan => Ok((manifest, folders)),
        Some(_) => Err(Error::Difference(format!("{}: another run has changed its plan meanwhile", data.display()))),
        None => Err(StoreError::Missing(data.to_owned()).into()),
    }
}

/// What is wrong with databases and slices, and cannot have been done by a service's writes.
#[derive(Default)]
struct Faults {
    /// Databases that are not what their writers made of them.
    damaged: Vec<String>,
    /// Slices that are not what was split.
    different: Vec<String>,
}

impl Faults {
    fn look_at(&mut self, scanned: &Scanned) {
        self.damaged.extend(report::damage(scanned));
    }

    /// An error where there is anything.
    fn check(self) -> Result<(), Error> {
        if !self.damaged.is_empty() {
            return Err(Error::Damaged([self.damaged, self.different].concat().join("\n")));
        }
        if self.different.is_empty() {
            return Ok(());
        }
        Err(Error::Difference(format!("{}\n`seed --replace` splits the file anew.", self.different.join("\n"))))
    }
}

/// Scans the databases of a split, and looks at its slices.
fn scan_split<'f>(
    data: &Path,
    manifest: &Manifest,
    folders: impl Iterator<Item = (Collection, &'f Folder)>,
    progress: Progress,
) -> Result<(Vec<Scanned>, Faults), Error> {
    let (mut scans, mut faults) = (Vec::new(), Faults::default());
    let records = manifest.collections().map(|collection| manifest.entry(collection).records);
    let stage = progress.stage("reading back", Total::Records(records.sum()));
    for (collection, folder) in folders {
        look_for_parts(data, folder.path())?;
        let declared = manifest.entry(collection).collection();
        let scanned = scan(folder.open(declared, Purpose::Passing, OnDamage::Refuse)?, &stage)?;
        faults.look_at(&scanned);
        let slice_equal = identify(&folder.slice())? == manifest.entry(collection).slice;
        faults.different.extend(report::fault(collection, true, slice_equal, true));
        scans.push(scanned);
    }
    Ok((scans, faults))
}

/// An error where a slice or a database is gone.
fn look_for_parts(data: &Path, folder: &Path) -> Result<(), Error> {
    match [folder.join("db.json"), folder.join("db")].into_iter().find(|path| !path.exists()) {
        Some(gone) => Err(Error::occupied(data, format!("its manifest is there, but {} is gone", gone.display()))),
        None => Ok(()),
    }
}

/// Whether a database holds what was split into it.
fn is_as_split(scanned: &Scanned, manifest: &Manifest) -> bool {
    let entry = manifest.entry(scanned.store.collection());
    scanned.digests.canonical.to_string() == entry.digest && scanned.digests.canonical.count == entry.records
}

/// A service has its folder. That is no obstacle where there is nothing to do: containers run the split at every start.
fn leave_running(input: &Path, data: &Path, plan: &Plan, in_use: StoreError) -> Result<Report, Error> {
    match Manifest::read(data)? {
        // A run that has committed may not have finished, and a plan may have more collections by now.
        Some(manifest)
            if manifest.source == identify(input)?
                && !Target::is_unsettled(data, plan)
                && plan.without(&manifest.plan()).count() == 0 =>
        {
            Ok(report::served(input, data, &in_use))
        }
        _ => Err(in_use.into()),
    }
}
