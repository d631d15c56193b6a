//! The whole job: split, load, prove, publish; or extend, bring up to date or check what is there.

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

/// The stages of a split, and how long each is beside the others.
const FILLING: [(&str, u32); 5] = [
    ("splitting", 60),
    ("writing indexes", 8),
    ("reading back", 26),
    ("checking references", 3),
    ("putting into place", 3),
];

/// The name of what standard input was kept in.
const STDIN: &str = "standard-input";

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
    split_into(input, data, plan, target, options).map_err(|error| explain(input, plan, there.as_ref(), options, error))
}

/// Names all that is in the way of a split, where its error is about the file.
fn explain(input: &Path, plan: &Plan, there: Option<&Manifest>, options: &Options, error: Error) -> Error {
    let Error::Input { .. } = error else { return error };
    // The very file that was split is only extended: what was put aside then is in nobody's way.
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
            Some(used) => served(input, data, &in_use(data, *used)),
            None => check(input, data, &manifest, &target, options.progress)?,
        }
    } else {
        bring_up_to_date(input, data, plan, &manifest, &mut target, options)?
    };
    Ok(report.with_added(&added, options.dry_run))
}

/// Splits into a target that is empty or given up, or goes on with what an interrupted run has split.
fn fill(input: &Path, data: &Path, plan: &Plan, target: Target, options: &Options) -> Result<Report, Error> {
    progress::expect(&FILLING);
    let mut aside = Aside::begin(options)?;
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

/// The service of `collection` runs.
fn in_use(data: &Path, collection: Collection) -> StoreError {
    let path = data.join(collection.name());
    let holder = fs::read_to_string(path.join("lock")).unwrap_or_default();
    StoreError::InUse { path, holder: holder.trim_end().to_owned() }
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
            Ok(served(input, data, &in_use))
        }
        _ => Err(in_use.into()),
    }
}

/// A split that was made, or would be: what went where.
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
        if taken_up { "They were split by an earlier run that was interrupted, and taken up.\n" } else { "" },
        if manifest.orphans.count() > 0 { format!("\n{} They are kept.\n", manifest.orphans) } else { String::new() },
    );
    Report::new(text, json!({ "outcome": "split", "dry_run": dry_run, "taken_up": taken_up, "manifest": manifest }))
        .with_rejects(manifest.rejected)
}

/// A split that was there, and is being served.
pub fn served(input: &Path, data: &Path, in_use: &StoreError) -> Report {
    let text = format!(
        "{} already holds the split of {}. Its databases were not looked at: {in_use} to have them checked.\n",
        data.display(),
        input.display()
    );
    Report::new(text, json!({ "outcome": "served" }))
}
