//! Applies a newer file's changes to an existing split.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use record::model::Collection;
use record::words::agree;
use serde_json::{Value, json};
use store::desk::Look;

use crate::align::{Alignment, Named, TakenFor};
use crate::aside::Aside;
use crate::changes::{Before, Changes, Planned, Planning, Rules};
use crate::conflict::{Field, Resolutions};
use crate::error::Error;
use crate::filling::refuse_orphans;
use crate::inspect::{look_for_parts, scan_split};
use crate::manifest::{Manifest, Moment};
use crate::options::{Options, Verified};
use crate::orphans::{Edits, Orphans};
use crate::plan::Plan;
use crate::progress::{self, Progress, Total};
use crate::report::{Report, table};
use crate::scan::fault;
use crate::scoped;
use crate::source::{Reading, Source};
use crate::target::{Building, Place, Target};

/// The attempts to apply a newer file while services change the same records.
const ATTEMPTS: usize = 3;

/// The stages of an update, with their shares of the time.
const UPDATING: [(&str, u32); 5] = [
    ("comparing", 65),
    ("aligning", 10),
    ("looking at changes", 10),
    ("checking references", 5),
    ("putting into place", 5),
];

/// Applies a newer file's changes; tries again if services change the same records meanwhile.
pub(crate) fn bring_up_to_date(
    input: &Path,
    data: &Path,
    plan: &Plan,
    manifest: &Manifest,
    target: &mut Target,
    options: &Options,
) -> Result<Report, Error> {
    if manifest.restored {
        let holds = "it was restored from a backup that has no split in it, so a newer file's changes are unknown";
        return Err(Error::occupied(data, holds.to_owned()));
    }
    for _ in 0..ATTEMPTS {
        if let Some(report) = update(input, data, plan, manifest, target, options)? {
            return Ok(report);
        }
    }
    Err(Error::Overtaken(data.to_owned()))
}

/// Applies a newer file's changes to the existing split. Returns `None`, and changes nothing, if its services have changed
/// the same records meanwhile.
fn update(
    input: &Path,
    data: &Path,
    plan: &Plan,
    old: &Manifest,
    target: &mut Target,
    options: &Options,
) -> Result<Option<Report>, Error> {
    progress::expect(&UPDATING);
    if options.verify == Verified::All {
        verify_all(data, old, target, options.progress)?;
    }
    let resolutions = options.resolutions.as_deref().map(|path| Resolutions::read(path, plan));
    let resolutions = resolutions.transpose()?.unwrap_or_default();
    let building = target.build(&old.plan())?;
    let mut aside = Aside::begin(options)?;
    let mut rejects = aside.rejects(input, options)?.of_own_ids_alone();
    let reading = Arc::new(Reading { as_node: options.as_node, ..Reading::default() });
    let mut source = Source::open(input, plan)?.read_as(&reading).hashed();
    if let Some(rest) = aside.rest()? {
        source = source.passing(rest);
    }
    let mut before = look_before(data, old, target, &building)?;
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
    aside.check_rest(input)?;
    if let Some(holds) = another_file(&changes, old, options) {
        return Err(Error::occupied(data, holds));
    }
    let report = |running: &[Collection], is_done: bool| {
        let report = updated(input, data, &changes, rejected, running, !is_done);
        report.with_as_node(&as_node)
    };
    if changes.iter().any(|changes| changes.unresolved > 0) {
        aside.put_findings_in_place()?;
        return Err(Error::Conflicts(report(&[], false).into()));
    }
    if options.dry_run {
        aside.put_findings_in_place()?;
        return Ok(Some(report(&[], false)));
    }
    let orphans = find_orphans(before, &changes, options)?;
    let moments = looks.iter().zip(&changes).map(|(look, changes)| Moment::at(look, changes.differs.clone())).collect();
    let mut manifest = Manifest::new(source, parts, rejected, orphans).with_databases(moments);
    manifest.as_node = as_node.count;
    manifest.plan_given = options.plan.is_some() || old.plan_given;
    let running = target.served();
    let is_done = put_into_place(data, manifest, target, aside, &looks, &changes, options)?;
    Ok(is_done.then(|| report(&running, true)))
}

/// Returns each collection of `old` as it is now, with the paths where its next state is built.
fn look_before<'b>(
    data: &Path,
    old: &'b Manifest,
    target: &'b mut Target,
    building: &[Building],
) -> Result<Vec<Before<'b>>, Error> {
    let there = old.plan();
    let places = target.places().iter_mut().filter(|place| there.has(place.collection));
    let look = |(place, part): (&'b mut Place, &Building)| {
        look_for_parts(data, place.path())?;
        Ok(Before {
            collection: place.collection,
            slice: place.slice(),
            database: place.database()?,
            entry: old.entry(part.collection),
            next_patch: part.patch.clone(),
            next_changes: part.changes.clone(),
        })
    };
    places.zip(building).map(look).collect()
}

/// Makes the changes and notes the databases' new state. Returns `false` if services have changed the same records
/// meanwhile.
fn put_into_place(
    data: &Path,
    manifest: Manifest,
    target: &mut Target,
    aside: Aside,
    looks: &[Look],
    changes: &[Changes],
    options: &Options,
) -> Result<bool, Error> {
    let stage = options.progress.stage("putting into place", Total::Unknown);
    if !target.publish(&manifest, || aside.put_in_place())? {
        return Ok(false);
    }
    let manifest = manifest.with_databases(look_after(target, looks, changes)?);
    target.replace_manifest(&manifest)?;
    drop(stage);
    if options.verify == Verified::All {
        verify_all(data, &manifest, target, options.progress)?;
    }
    Ok(true)
}

/// Counts the references that lead nowhere after the changes.
fn find_orphans(before: Vec<Before>, changes: &[Changes], options: &Options) -> Result<Orphans, Error> {
    let _stage = options.progress.stage("checking references", Total::Unknown);
    let mut edits = Vec::new();
    for (before, changes) in before.into_iter().zip(changes) {
        edits.push(Edits { collection: before.collection, database: before.database, edited: &changes.edited });
    }
    refuse_orphans(Orphans::find_edited(&mut edits)?, options)
}

/// Returns the databases' states after an update. A database that nobody else has written to gets its present state, so
/// that the next run need not examine it; another keeps its earlier one.
fn look_after(target: &mut Target, looks: &[Look], changes: &[Changes]) -> Result<Vec<Moment>, Error> {
    let mut moments = Vec::new();
    for ((place, look), changes) in target.places().iter_mut().zip(looks).zip(changes) {
        let now = match place.database()?.look() {
            // The service has stopped since; its changes are made.
            Err(Error::Service(_)) => *look,
            now => now?,
        };
        let is_alone = now.revision == look.revision + changes.applied;
        if is_alone && now.records != changes.applied_to(look.records) {
            let fault = fault(place.collection, false, true).unwrap_or_default();
            return Err(Error::Damaged(fault));
        }
        moments.push(Moment::at(if is_alone { &now } else { look }, changes.differs.clone()));
    }
    Ok(moments)
}

/// Reads and checks all databases; running services check their own.
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

/// Returns the reason why the file cannot be a newer one, if any: an older or different file must not pass for it.
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
            "it holds the split of another file: the given file lacks {lacking} of its {records} {} ({}); {} \
             allows their removal",
            agree(records, "record", "records"),
            of_each.join(", "),
            too_many.join(" ")
        ));
    }
    let mut aligned = changes.iter().filter_map(|changes| Some((changes.collection, changes.alignment.as_ref()?)));
    let (collection, alignment) = aligned.find(|(_, alignment)| !alignment.is_convincing() && !options.realign)?;
    Some(format!(
        "it holds the split of another file: the given file has {} of its {} {} of {} without ids, in the same or \
         similar words, among {}; --realign accepts it as a newer one",
        alignment.found,
        alignment.before,
        agree(alignment.before, "record", "records"),
        collection.name(),
        alignment.after,
    ))
}

/// Reports an update, or with `dry_run` a possible one: the changes of a newer file.
pub fn updated(
    input: &Path,
    data: &Path,
    changes: &[Changes],
    rejected: u64,
    running: &[Collection],
    dry_run: bool,
) -> Report {
    let titles = ["collection", "added", "changed", "removed", "kept", "merged", "conflicts"];
    let mut rows = vec![titles.map(String::from)];
    let mut json = json!({ "outcome": "updated", "dry_run": dry_run, "rejected": rejected });
    for changes in changes {
        let Changes { collection, added, changed, removed, kept, merged, conflicts, .. } = changes;
        let [added, changed, removed, kept, merged, conflicts] =
            [added, changed, removed, kept, merged, conflicts].map(u64::to_string);
        rows.push([collection.name().to_owned(), added, changed, removed, kept, merged, conflicts]);
        json[collection.name()] = updated_json(changes);
    }
    let done = if dry_run { "would be brought up to date with" } else { "is brought up to date with" };
    let mut text = format!("{} {done} {}:\n\n{}", data.display(), input.display(), table(&rows));
    text +=
        "\nKept: only the service has changed the record since the last run. Merged: both have, in different fields.\n";
    for changes in changes {
        let collection = changes.collection;
        describe_alignment(collection, changes, &mut text);
        if changes.spared > 0 {
            let (name, ids) = (collection.name(), listed(&changes.named_spared, changes.spared));
            let records = agree(
                changes.spared,
                "record is invalid in the file now, and stays",
                "records are invalid in the file now, and stay",
            );
            let _ = writeln!(text, "{name}: {} {records} unchanged: {ids}", changes.spared);
        }
        for conflict in &changes.named {
            for Field { pointer, base, file, service } in conflict.fields() {
                let [base, file, service] =
                    [base, file, service].map(|version| version.as_deref().map_or("nothing".to_owned(), cut));
                let place = &conflict.pointer;
                let _ = writeln!(
                    text,
                    "  {place}{pointer}: {file} in the file, {service} in the service, {base} in the split"
                );
            }
        }
        let unnamed = changes.conflicts - changes.named.len() as u64;
        if unnamed > 0 {
            let conflicts = agree(unnamed, "conflict", "conflicts");
            let _ =
                writeln!(text, "  and {unnamed} more {conflicts} in {}; --conflicts FILE lists all", collection.name());
        }
    }
    if !running.is_empty() {
        let names: Vec<&str> = running.iter().map(|collection| collection.name()).collect();
        let _ = writeln!(text, "These ran meanwhile, and were changed by their own services: {}.", names.join(", "));
        json["running"] = names.into();
    }
    // With unresolved conflicts, the error says this.
    if dry_run && changes.iter().all(|changes| changes.unresolved == 0) {
        text += "Nothing was changed.\n";
    }
    Report::new(text, json).with_rejects(rejected)
}

fn updated_json(changes: &Changes) -> Value {
    let version = |json: &Option<String>| json.clone();
    let first: Vec<Value> = changes
        .named
        .iter()
        .flat_map(|conflict| conflict.fields().into_iter().map(move |field| (conflict, field)))
        .map(|(conflict, field)| {
            json!({
                "id": serde_json::from_str::<Value>(&conflict.id_json()).unwrap_or_default(), "pointer": format!("{}{}", conflict.pointer, field.pointer),
                "base": version(&field.base), "file": version(&field.file), "service": version(&field.service),
            })
        })
        .collect();
    let mut json = json!({
        "added": changes.added, "changed": changes.changed, "removed": changes.removed, "kept": changes.kept,
        "merged": changes.merged, "conflicts": changes.conflicts, "unresolved": changes.unresolved,
        "spared": changes.spared, "first": first,
    });
    if let Some(Alignment { moved, changed, new, gone, named, .. }) = &changes.alignment {
        json["without_ids"] = json!({ "moved": moved, "changed": changed, "new": new, "gone": gone, "first": named });
    }
    json
}

/// Lists the records without ids and the split records that they were taken for.
fn describe_alignment(collection: Collection, changes: &Changes, text: &mut String) {
    let Some(Alignment { moved, changed, new, gone, named, .. }) = &changes.alignment else { return };
    if moved + changed + new + gone == 0 {
        return;
    }
    let name = collection.name();
    let _ = writeln!(
        text,
        "{name} have no ids in the file; by their content, {moved} {} moved, {changed} {} changed, {new} {} new, {gone} {} gone:",
        agree(*moved, "has", "have"),
        agree(*changed, "is", "are"),
        agree(*new, "is", "are"),
        agree(*gone, "is", "are"),
    );
    for Named { index, id, taken_for } in named {
        let place = index.map_or_else(|| format!("/{name}/-"), |index| format!("/{name}/{index}"));
        let what = match taken_for {
            TakenFor::Moved => "moved",
            TakenFor::Changed => "changed",
            TakenFor::New => "new",
            TakenFor::Gone => "gone",
        };
        let _ = writeln!(text, "  {place}: id {id}, {what}");
    }
}

/// Lists the first ids of `count`.
pub(crate) fn listed(ids: &[String], count: u64) -> String {
    let more = if count > ids.len() as u64 { ", …" } else { "" };
    format!("id {}{more}", ids.join(", "))
}

/// Returns a value as it is printed: a long one is cut.
pub(crate) fn cut(value: &str) -> String {
    const LENGTH: usize = 200;
    match value.char_indices().nth(LENGTH) {
        Some((at, _)) => format!("{}… ({} bytes)", &value[..at], value.len()),
        None => value.to_owned(),
    }
}
