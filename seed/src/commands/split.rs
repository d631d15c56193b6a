//! The main command: splits, loads, proves and publishes; or extends, updates or checks an existing split.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use record::model::Collection;
use serde_json::json;
use store::{Store, StoreError};
use tempfile::TempDir;

use crate::aside::{Aside, check_outputs};
use crate::commands::check::check;
use crate::commands::extend::extend;
use crate::commands::update::bring_up_to_date;
use crate::error::Error;
use crate::filling::{Built, destinations, orphans, prove, publish};
use crate::identity::identify;
use crate::ids::{self, AllGiven};
use crate::manifest::{Manifest, Moment};
use crate::options::Options;
use crate::plan::Plan;
use crate::report::{Report, table};
use crate::scan::Scanned;
use crate::source::{Reading, Source};
use crate::splitting::{Splitting, WholeSplit};
use crate::survey::Survey;
use crate::target::Target;
use crate::{checkpoint, progress};

/// The stages of a split, with their shares of the time.
const FILLING: [(&str, u32); 5] = [
    ("splitting", 60),
    ("writing indexes", 8),
    ("reading back", 26),
    ("checking references", 3),
    ("putting into place", 3),
];

/// The name of the file that keeps standard input.
const STDIN: &str = "standard-input";

/// Splits the file `input` (`-` is standard input) into the services' folders in `data`. If there is a split already,
/// applies the file's changes to it, or checks it if the file is the same.
///
/// # Errors
/// See [`Error`]; `data` then stays unchanged.
pub fn split_and_verify(input: &Path, data: &Path, options: &Options) -> Result<Report, Error> {
    check_outputs(input, options)?;
    if input == Path::new("-") {
        // The input is read twice.
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

/// Splits a file; see [`split_and_verify`].
fn split_file(input: &Path, data: &Path, options: &Options) -> Result<Report, Error> {
    // Fails on a missing input before anything is made.
    drop(Source::open(input, &Plan::workspace())?);
    let there = if options.replace { None } else { Manifest::read(data)? };
    let plan = &options.plan_for(there.as_ref())?;
    // A first or replacing split needs stopped services.
    let target = if there.is_some() { Target::reach(data, plan) } else { Target::lock(data, plan) };
    let target = match target {
        Err(Error::Store(error @ StoreError::InUse { .. })) if !options.replace => {
            return leave_running(input, data, plan, error);
        }
        target => target?,
    };
    split_into(input, data, plan, target, options).map_err(|error| explain(input, plan, there.as_ref(), options, error))
}

/// Names everything that prevents a split, if its error is about the file.
fn explain(input: &Path, plan: &Plan, there: Option<&Manifest>, options: &Options, error: Error) -> Error {
    let Error::Input { .. } = error else { return error };
    // The file that was split is only extended: records and collections put aside then do not prevent that.
    let extended = there.filter(|there| identify(input).is_ok_and(|file| file == there.source));
    let is_update = there.is_some() && extended.is_none();
    let given = if is_update { Ok(AllGiven::default()) } else { ids::read_beside(input, plan, || identify(input)) };
    let as_node = options.as_node || extended.is_some_and(|split| split.as_node > 0);
    let survey = Survey {
        plan,
        reading: Reading { given: given.unwrap_or_default(), as_node },
        own_ids_alone: is_update,
        requires_all: options.require,
        has_rest: options.rest.is_some() || extended.is_some(),
        has_rejects: options.rejects.is_some() || extended.is_some_and(|split| split.rejected > 0),
        plan_is_given: options.plan.is_some(),
        progress: options.progress,
    };
    survey.explain(input, error)
}

/// Splits into `target`, or extends, updates or checks the split there.
fn split_into(input: &Path, data: &Path, plan: &Plan, mut target: Target, options: &Options) -> Result<Report, Error> {
    let manifest = Manifest::read(data);
    if options.replace || matches!(manifest, Ok(None)) && target.is_empty(plan) {
        return fill(input, data, plan, target, options);
    }
    // An interrupted run's parts can only serve a first split.
    target.clear()?;
    let Some(manifest) = manifest? else {
        return Err(Error::occupied(data, "it holds slices or databases without a manifest".to_owned()));
    };
    let (manifest, added) = extend(input, data, plan, manifest, &mut target, options)?;
    let report = if manifest.source == identify(input)? {
        match target.served().first() {
            Some(used) => served(input, data, &in_use(data, *used)),
            None => check(input, data, &manifest, &target, options.progress)?,
        }
    } else {
        bring_up_to_date(input, data, plan, &manifest, &mut target, options)?
    };
    Ok(report.with_added(&added, options.dry_run))
}

/// Splits into a target that is empty or replaced, or continues an interrupted run on the same file.
fn fill(input: &Path, data: &Path, plan: &Plan, target: Target, options: &Options) -> Result<Report, Error> {
    progress::expect(&FILLING);
    let mut aside = Aside::begin(options)?;
    let finished = if aside.is_empty() { checkpoint::read(data, plan) } else { None };
    if let Some(split) = finished
        && identify(input)? == split.source
    {
        let (as_node, reading) = Default::default();
        let built = Built { split, rejected: 0, as_node, reading, taken_up: true };
        // If the parts do not match the checkpoint, the file is split again.
        if let Ok(scans) = prove(input, plan, &target.building(), &built, options) {
            return finish_fill(input, data, target, aside, built, scans, options);
        }
    }
    let building = target.build(plan)?;
    let mut rejects = aside.rejects(input, options)?;
    let given = ids::read_beside(input, plan, || identify(input))?;
    let reading = Arc::new(Reading { given, as_node: options.as_node });
    let splitting = Splitting {
        path: input,
        plan,
        reading: &reading,
        requires_all: options.require,
        rest: aside.rest()?,
        progress: options.progress,
    };
    let split = splitting.split(&destinations(&building), &mut rejects);
    let split = aside.unless_too_many(split, &mut rejects)?;
    let (rejected, as_node) = rejects.finish()?;
    aside.check_rest(input)?;
    if aside.is_empty() && as_node.count == 0 && reading.given.are_positions() {
        checkpoint::write(data, &split)?;
    }
    let built = Built { split, rejected, as_node, reading, taken_up: false };
    let scans = prove(input, plan, &building, &built, options)?;
    finish_fill(input, data, target, aside, built, scans, options)
}

/// Puts a proven split into place.
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
    let WholeSplit { source, parts, absent } = built.split;
    let mut manifest = Manifest::new(source, parts, built.rejected, orphans).with_databases(moments);
    manifest.as_node = built.as_node.count;
    manifest.plan_given = options.plan.is_some();
    publish(target, &manifest, aside, options)?;
    let report = filled(input, data, &manifest, built.taken_up, options.dry_run);
    Ok(report.with_absent(&absent).with_as_node(&built.as_node))
}

/// Writes standard input to a file in a temporary folder.
fn keep_stdin() -> Result<TempDir, Error> {
    let folder = tempfile::tempdir().map_err(Error::io(&env::temp_dir()))?;
    let path = folder.path().join(STDIN);
    let copied = File::create(&path).and_then(|mut file| io::copy(&mut io::stdin().lock(), &mut file));
    copied.map_err(Error::io(&path))?;
    Ok(folder)
}

/// Returns the error that names the running service of `collection`.
fn in_use(data: &Path, collection: Collection) -> StoreError {
    let path = data.join(collection.name());
    let holder = fs::read_to_string(path.join("lock")).unwrap_or_default();
    StoreError::InUse { path, holder: holder.trim_end().to_owned() }
}

/// Succeeds although a service uses its folder, if there is nothing to do: containers run the split at every start.
fn leave_running(input: &Path, data: &Path, plan: &Plan, in_use: StoreError) -> Result<Report, Error> {
    match Manifest::read(data)? {
        // A committed run may be unfinished, and the plan may have new collections.
        Some(manifest)
            if manifest.source == identify(input)?
                && !Target::is_unsettled(data, plan)
                && plan.without(&manifest.plan()).count() == 0 =>
        {
            Ok(served(input, data, &in_use))
        }
        _ => Err(in_use.into()),
    }
}

/// Reports a split, or with `dry_run` a possible one: where each collection goes.
pub fn filled(input: &Path, data: &Path, manifest: &Manifest, taken_up: bool, dry_run: bool) -> Report {
    let mut rows = vec![["collection", "records", "bytes", "slice", "database"].map(String::from)];
    for collection in manifest.collections() {
        let folder = data.join(collection.name());
        let entry = manifest.entry(collection);
        rows.push([
            collection.name().to_owned(),
            entry.records.to_string(),
            entry.slice.bytes.to_string(),
            folder.join("db.json").display().to_string(),
            folder.join("db").display().to_string(),
        ]);
    }
    let text = format!(
        "{} ({} bytes, SHA-256 {}) {}:\n\n{}\n\
         Every record was read back and equals the source. Every index equals a full scan.\n{}{}",
        input.display(),
        manifest.source.bytes,
        manifest.source.sha256,
        if dry_run { "can be split; nothing was changed" } else { "is split" },
        table(&rows),
        if taken_up { "An interrupted run had split the records already; this run continued it.\n" } else { "" },
        if manifest.orphans.count() > 0 { format!("\n{} They are kept.\n", manifest.orphans) } else { String::new() },
    );
    Report::new(text, json!({ "outcome": "split", "dry_run": dry_run, "taken_up": taken_up, "manifest": manifest }))
        .with_rejects(manifest.rejected)
}

/// Reports an existing split that running services use.
pub fn served(input: &Path, data: &Path, in_use: &StoreError) -> Report {
    let text = format!(
        "{} already holds the split of {}. Its databases were not checked: {in_use} to have them checked.\n",
        data.display(),
        input.display()
    );
    Report::new(text, json!({ "outcome": "served" }))
}
