//! What people are told.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use record::model::Collection;
use serde_json::{Value, json};
use store::StoreError;
use store::backup::Head;

use crate::align::{Alignment, Named, TakenFor};
use crate::backup::{Contents, Entry};
use crate::conflict::Field;
use crate::identity::Identity;
use crate::join::Joined;
use crate::manifest::Manifest;
use crate::propose::{Proposal, Proposed};
use crate::rejects::AsNode;
use crate::split::Part;
use crate::text::Difference;
use crate::token::Made;
use crate::update::Changes;
use crate::verify::{Comparison, Scanned};

/// What was done, for people and for programs.
#[derive(Debug)]
pub struct Report {
    /// For people.
    pub text: String,
    /// For programs: an object with `outcome`, and what belongs to that; null where there is nothing to say.
    pub json: Value,
    /// For people, beside a text that is for programs: on standard error.
    pub note: String,
    /// What the program ends with.
    pub exit_code: u8,
    /// Whether the text is a secret.
    pub is_secret: bool,
}

/// Done, but for the records that were rejected.
const REJECTED: u8 = 7;

impl Report {
    fn new(text: String, json: Value) -> Self {
        Self { text, json, note: String::new(), exit_code: 0, is_secret: false }
    }

    /// Adds how many records only Node takes.
    pub fn with_as_node(mut self, AsNode { count, named }: &AsNode) -> Self {
        if *count > 0 {
            let more = if *count > named.len() as u64 { ", …" } else { "" };
            let _ = writeln!(
                self.text,
                "\n{count} records are no JSON, and were taken as Node takes them: {}{more}",
                named.join(", ")
            );
            self.json["as_node"] = json!({ "count": count, "first": named });
        }
        self
    }

    /// A text that is for programs already.
    pub fn of_text(text: String) -> Self {
        Self::new(text, Value::Null)
    }

    /// Adds what the phases have taken, where there is a report for people to read.
    pub fn with_phases(mut self, phases: &[(&str, Duration)]) -> Self {
        if phases.is_empty() || self.json.is_null() {
            return self;
        }
        let seconds = |took: &Duration| (took.as_secs_f64() * 1000.0).round() / 1000.0;
        let of: Vec<Value> =
            phases.iter().map(|(name, took)| json!({ "name": name, "seconds": seconds(took) })).collect();
        self.json["phases"] = of.into();
        let of: Vec<String> = phases.iter().map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f64())).collect();
        if self.text.contains("\n\n") {
            let _ = writeln!(self.text, "\nTime taken: {}.", of.join(", "));
        }
        self
    }

    /// Adds which collections the file does not have.
    pub fn with_absent(mut self, absent: &[Collection]) -> Self {
        if !absent.is_empty() {
            let names: Vec<&str> = absent.iter().map(|collection| collection.name()).collect();
            let _ = writeln!(
                self.text,
                "\nNot in the file, and therefore empty: {}. --require refuses such a file.",
                names.join(", ")
            );
            self.json["absent"] = names.into();
        }
        self
    }

    /// Adds which collections were added to a split, or would be, with how many records.
    pub fn with_added(mut self, added: &[(Collection, u64)], dry_run: bool) -> Self {
        if !added.is_empty() {
            let each =
                added.iter().map(|(collection, records)| format!("{} with {records} records", collection.name()));
            let each: Vec<String> = each.collect();
            let what = if dry_run { "Would be added" } else { "Added" };
            let _ = writeln!(self.text, "\n{what} to the split: {}. What was there stays as it is.", each.join(", "));
            let of = added.iter().map(|(collection, records)| (collection.name().to_owned(), json!(records)));
            self.json["added"] = of.collect::<serde_json::Map<String, Value>>().into();
        }
        self
    }

    /// Adds how many records were rejected.
    fn with_rejects(mut self, rejected: u64) -> Self {
        if rejected > 0 {
            let _ = writeln!(
                self.text,
                "\n{rejected} records were rejected and not taken; the file for --rejects has them."
            );
            self.exit_code = REJECTED;
        }
        self
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

/// A split that a newer file was applied to, or would be: what that changes.
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
    text += "\nKept is what a service alone has changed since the last run; merged, where both have changed other fields.\n";
    for changes in changes {
        let collection = changes.collection;
        describe_alignment(collection, changes, &mut text);
        if changes.spared > 0 {
            let (name, ids) = (collection.name(), listed(&changes.named_spared, changes.spared));
            let _ = writeln!(
                text,
                "{} {name} cannot be taken as they are in the file now, and stay as they were: {ids}",
                changes.spared
            );
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
            let _ = writeln!(text, "  and {unnamed} more conflicts of {}; --conflicts FILE has all", collection.name());
        }
    }
    if !running.is_empty() {
        let names: Vec<&str> = running.iter().map(|collection| collection.name()).collect();
        let _ = writeln!(text, "Running meanwhile, and changed by their own services: {}.", names.join(", "));
        json["running"] = names.into();
    }
    // An error says so itself.
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

/// Which records without ids were taken for which.
fn describe_alignment(collection: Collection, changes: &Changes, text: &mut String) {
    let Some(Alignment { moved, changed, new, gone, named, .. }) = &changes.alignment else { return };
    if moved + changed + new + gone == 0 {
        return;
    }
    let name = collection.name();
    let _ = writeln!(
        text,
        "{name} have no ids in the file; by what they say, {moved} have moved, {changed} are changed, {new} are new, {gone} are gone:"
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

/// The first of so many ids.
fn listed(ids: &[String], count: u64) -> String {
    let more = if count > ids.len() as u64 { ", …" } else { "" };
    format!("id {}{more}", ids.join(", "))
}

/// A value as it is printed: whole where it is short.
fn cut(value: &str) -> String {
    const LENGTH: usize = 200;
    match value.char_indices().nth(LENGTH) {
        Some((at, _)) => format!("{}… ({} bytes)", &value[..at], value.len()),
        None => value.to_owned(),
    }
}

/// A plan that was proposed.
pub fn proposed(input: &Path, output: &Path, proposal: &Proposal) -> Report {
    let mut text = format!("{} has the plan that {} seems to be of. Look at it:\n", output.display(), input.display());
    let mut json =
        json!({ "outcome": "proposed", "output": output.to_string_lossy(), "collections": {}, "left_out": {} });
    for Proposed { service, records, declaration, reasons, unsure } in &proposal.collections {
        let name = &*declaration.name;
        let _ = writeln!(text, "\n{name}: {records} records");
        if service != name {
            let _ = writeln!(text, "  its service is called {service}, since a topology does not take its own name");
        }
        for reason in reasons {
            let _ = writeln!(text, "  {reason}");
        }
        for unsure in unsure {
            let _ = writeln!(text, "  unsure: {unsure}");
        }
        json["collections"][name] = json!({
            "service": service, "records": records, "declaration": declaration, "reasons": reasons, "unsure": unsure,
        });
    }
    for (name, reason) in &proposal.left_out {
        let _ = writeln!(text, "\nleft out: {name:?}: {reason}. --rest FILE puts it aside");
        json["left_out"][name] = reason.as_str().into();
    }
    let _ = writeln!(text, "\nThen: seed --plan {} --input {} --data DIR", output.display(), input.display());
    Report::new(text, json)
}

/// Slices alone.
pub fn sliced(input: &Path, output: &Path, source: &Identity, parts: &[Part]) -> Report {
    let mut rows = vec![["collection", "bytes", "slice"].map(String::from)];
    let mut json = json!({ "outcome": "sliced" });
    for Part { collection, slice: sliced, .. } in parts {
        let slice = output.join(format!("{}.json", collection.name()));
        rows.push([collection.name().to_owned(), sliced.file.bytes.to_string(), slice.display().to_string()]);
        json[collection.name()] = sliced.file.bytes.into();
    }
    let text = format!("{} ({} bytes) is sliced:\n\n{}", input.display(), source.bytes, table(&rows));
    Report::new(text, json)
}

/// A split that was there: what has become of it.
pub fn checked(input: &Path, data: &Path, comparisons: &[(Collection, Comparison)]) -> Report {
    let titles = ["collection", "as split", "changed since", "removed since", "added since"];
    let mut rows = vec![titles.map(String::from)];
    for (collection, comparison) in comparisons {
        rows.push([
            collection.name().to_owned(),
            comparison.equal.to_string(),
            comparison.changed.to_string(),
            comparison.removed.to_string(),
            comparison.added.to_string(),
        ]);
    }
    let text = format!(
        "{} already holds the split of {}. Checked; nothing was changed:\n\n{}\n\
         Every slice equals the file. Every index equals a full scan.\n",
        data.display(),
        input.display(),
        table(&rows),
    );
    let mut json = json!({ "outcome": "checked" });
    for (collection, comparison) in comparisons {
        let Comparison { equal, changed, removed, added, .. } = comparison;
        json[collection.name()] = json!({ "as_split": equal, "changed": changed, "removed": removed, "added": added });
    }
    Report::new(text, json)
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

/// A file that was joined. Where it went to standard output, nothing else does.
pub fn joined(output: Option<&Path>, joined: &Joined) -> Report {
    let mut note = String::new();
    for collection in &joined.without_order {
        let _ = writeln!(
            note,
            "{}: the slice is gone or changed, so they stand in the order of their ids.",
            collection.name()
        );
    }
    if joined.ids_left_out {
        note += "Positions do not say all ids any more: a split of this in another folder gives others. \
                 --output FILE writes them beside FILE, --ids writes them into the records.\n";
    }
    let Some(path) = output else { return Report { note, ..Report::new(String::new(), Value::Null) } };
    let mut text = format!("{} is joined.\n", path.display());
    if let Some(beside) = &joined.ids_beside {
        let _ = writeln!(text, "{} has the ids that its positions do not say, for a split of it.", beside.display());
    }
    let records: serde_json::Map<String, Value> =
        joined.records.iter().map(|(collection, records)| (collection.name().to_owned(), json!(records))).collect();
    let beside = joined.ids_beside.as_ref().map(|path| path.to_string_lossy());
    let json = json!({
        "outcome": "joined", "output": path.to_string_lossy(), "ids": beside, "records": records,
    });
    Report { note, ..Report::new(text, json) }
}

/// Databases that are sound: what has become of the split.
pub fn verified(
    input: Option<&Path>,
    as_backup: bool,
    what: &str,
    scans: &[Scanned],
    since_split: &[Option<Comparison>],
    manifest: Option<&Manifest>,
) -> Report {
    let mut rows = vec![["collection", "records", "digest", "state"].map(String::from)];
    let mut json = json!({ "outcome": "verified", "manifest": manifest });
    for (scanned, since_split) in scans.iter().zip(since_split) {
        let name = scanned.store.collection().name();
        let digest = scanned.digests.canonical;
        let state = match (since_split, manifest) {
            (Some(Comparison { changed, removed, added, .. }), _) => {
                format!("changed by its service: {changed} changed, {removed} removed, {added} added since the split")
            }
            (None, Some(manifest)) if manifest.restored => "as in the backup".to_owned(),
            (None, Some(_)) => "as split".to_owned(),
            (None, None) => "sound".to_owned(),
        };
        let is_changed = since_split.is_some();
        json[name] = json!({
            "records": digest.count, "digest": digest.to_string(), "exact": scanned.digests.exact.to_string(),
            "state": if is_changed { "changed" } else { "as split" },
        });
        rows.push([name.to_owned(), digest.count.to_string(), digest.to_string(), state]);
    }
    let mut equals = input.map(|input| format!(" It equals {}.", input.display())).unwrap_or_default();
    if as_backup {
        equals += " It equals the backup.";
    }
    let text = format!(
        "{what} is sound: its records are those that its services count, and every index equals a full scan.{equals}\n\n{}",
        table(&rows)
    );
    Report::new(text, json)
}

/// A backup that was taken.
pub fn backed_up(output: &Path, contents: &Contents) -> Report {
    let mut rows = vec![["collection", "records", "revision", "since", "bytes", "digest"].map(String::from)];
    for Entry { head, file } in &contents.sections {
        rows.push([
            head.collection.clone(),
            head.records.to_string(),
            head.revision.to_string(),
            head.since.map_or("-".to_owned(), |since| since.to_string()),
            file.bytes.to_string(),
            head.digest.clone(),
        ]);
    }
    let text = format!(
        "{} is a backup, read back and proven; each collection as it was at its revision:\n\n{}",
        output.display(),
        table(&rows)
    );
    Report::new(text, json!({ "outcome": "backed up", "output": output.to_string_lossy(), "contents": contents }))
}

/// A backup that is in its place again.
pub fn restored(data: &Path, heads: &[Head], without_split: bool) -> Report {
    let mut rows = vec![["collection", "records", "revision", "digest"].map(String::from)];
    for head in heads {
        let counts = [head.records, head.revision].map(|count| count.to_string());
        let [records, revision] = counts;
        rows.push([head.collection.clone(), records, revision, head.digest.clone()]);
    }
    let mut text = format!(
        "{} holds the backup. Every record was read back, and is what the service counted:\n\n{}",
        data.display(),
        table(&rows)
    );
    if without_split {
        text += "\nThe backup has no split in it, so a newer db.json cannot be applied to this.\n";
    }
    Report::new(text, json!({ "outcome": "restored", "sections": heads, "without_split": without_split }))
}

/// A token that was made: the only time that its secret is shown.
pub fn token(collection: Collection, made: &Made) -> Report {
    let Made { name, secret, file } = made;
    let (collection, file) = (collection.name(), file.display());
    let json = json!({
        "outcome": "made", "collection": collection, "name": name.to_string(), "file": file.to_string(), "secret": secret,
    });
    let note = format!(
        "That is the secret of {name}; it is not shown again, and {file} has its digest alone.\n\
         `{collection} --write-token-file {file}` takes it when it starts, and when it runs already at SIGHUP:\n\
         `kill -HUP PID`, in containers `docker compose kill -s HUP {collection}`. Its log says so.\n\
         Clients then send the header `Authorization: Bearer SECRET`.\n"
    );
    Report { note, is_secret: true, ..Report::new(format!("{secret}\n"), json) }
}

/// How many records differ, and the first places where they do.
pub fn differences(comparison: &Comparison) -> String {
    let mut lines = format!(
        "{} records differ ({} changed, {} only in the file, {} only in the database):",
        comparison.differences(),
        comparison.changed,
        comparison.removed,
        comparison.added,
    );
    for Difference { pointer, left, right } in &comparison.named {
        let [left, right] = [left, right].map(|side| side.as_deref().unwrap_or("nothing"));
        let _ = write!(lines, "\n  {pointer}: {left} in the file, {right} in the database");
    }
    lines
}

/// What is wrong with a database that no writer of its own did, if anything is.
pub fn damage(scanned: &Scanned) -> Option<String> {
    let name = scanned.store.collection().name();
    let found = [
        (scanned.counted, "its records are not those that its service counts"),
        (scanned.indexes_equal, "an index is not what a scan of the records says"),
    ];
    let found: Vec<&str> = found.into_iter().filter(|(good, _)| !good).map(|(_, what)| what).collect();
    (!found.is_empty()).then(|| format!("{name}: the database is damaged: {}", found.join("; ")))
}

/// A database that holds other records than a backup.
pub fn other_than_backup(scanned: &Scanned, head: &Head) -> String {
    let (name, held) = (scanned.store.collection().name(), scanned.digests.exact);
    format!(
        "{name}: {} records with digest {held} are here, {} with digest {} in the backup",
        held.count, head.records, head.digest
    )
}

/// What is wrong with a collection's database and slice, if anything is.
pub fn fault(collection: Collection, records_equal: bool, slice_equal: bool, indexes_equal: bool) -> Option<String> {
    let faults = [
        (records_equal, "the database does not hold the source's records"),
        (slice_equal, "the slice is not what the source holds"),
        (indexes_equal, "an index is not what a scan of the records says"),
    ];
    let faults: Vec<&str> = faults.into_iter().filter(|(equal, _)| !equal).map(|(_, fault)| fault).collect();
    (!faults.is_empty()).then(|| format!("{}: {}", collection.name(), faults.join("; ")))
}

/// Columns as wide as they need to be: numbers to the right, words to the left.
pub(crate) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let is_number = |column: usize| rows.iter().skip(1).all(|row| row[column].parse::<u64>().is_ok());
    let mut table = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            if is_number(column) {
                let _ = write!(line, "{cell:>width$}  ");
            } else {
                let _ = write!(line, "{cell:<width$}  ");
            }
        }
        let _ = writeln!(table, "  {}", line.trim_end());
    }
    table
}
