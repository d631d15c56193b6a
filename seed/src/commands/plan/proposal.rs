//! A proposed plan, as files and as a report.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use record::declaration::Declaration;
use record::words::agree;
use serde_json::json;
use store::{sync, sync_tree};
use tempfile::TempDir;

use super::reading::name_input;
use crate::error::Error;
use crate::identity::folder_of;
use crate::report::Report;
use crate::topology::{PLAN, PlanLine};

/// The first proposed port.
const FIRST_PORT: u16 = 3001;

/// A proposed plan for a file.
#[derive(Debug, Default)]
pub struct Proposal {
    /// The collections, in the file's order.
    pub collections: Vec<Proposed>,
    /// The members that cannot be a service's collection, with the reason.
    pub left_out: Vec<(String, String)>,
    /// Whether JSON that only Node accepts was accepted.
    pub as_node: bool,
}

/// Returns `1 record` or `2 records`.
pub(super) fn count_records(number: u64) -> String {
    format!("{number} {}", agree(number, "record", "records"))
}

/// A proposed collection.
#[derive(Debug)]
pub struct Proposed {
    /// The name of its service.
    pub service: String,
    /// The number of records in the file.
    pub records: u64,
    /// Its proposed declaration.
    pub declaration: Declaration,
    /// The reasons for the proposal.
    pub reasons: Vec<String>,
    /// The points that a person should check.
    pub unsure: Vec<String>,
}

/// Writes `proposal` into the folder `output`, which appears whole or not at all.
///
/// # Errors
/// The folder is not empty, or cannot be written.
pub fn write(proposal: &Proposal, output: &Path) -> Result<(), Error> {
    let is_empty = fs::read_dir(output).map(|mut inside| inside.next().is_none());
    if !is_empty.unwrap_or_else(|_| !output.exists()) {
        let reason = "it is there already, and may have been edited; name another folder".to_owned();
        return Err(Error::Output { path: output.to_owned(), reason });
    }
    // Drops a slash at the end.
    let output = &output.components().collect::<PathBuf>();
    let beside = folder_of(output);
    fs::create_dir_all(beside).map_err(Error::io(beside))?;
    let part = TempDir::new_in(beside).map_err(Error::io(beside))?;
    let whole = part.path().join(PLAN);
    for Proposed { service, declaration, .. } in &proposal.collections {
        let folder = whole.join(service);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let json = serde_json::to_string_pretty(declaration).expect("a declaration can be written as JSON");
        let path = folder.join("collection.json");
        fs::write(&path, json + "\n").map_err(Error::io(&path))?;
    }
    fs::create_dir_all(&whole).map_err(Error::io(&whole))?;
    fs::write(whole.join(PLAN), proposal.list()).map_err(Error::io(&whole))?;
    sync_tree(&whole)?;
    fs::rename(&whole, output).map_err(Error::io(output))?;
    sync(beside)?;
    Ok(())
}

impl Proposal {
    /// Returns the text of the file `plan`, with the reasons as comments.
    fn list(&self) -> String {
        let mut list = String::from(
            "# Proposed from a db.json. Each line is a service: its name, its port, and its collection's name if that\n\
             # differs.\n",
        );
        let ports = (FIRST_PORT..).filter(|port| *port != 8080);
        for (proposed, port) in self.collections.iter().zip(ports) {
            let _ = writeln!(list, "\n# {}.", count_records(proposed.records));
            for reason in &proposed.reasons {
                let _ = writeln!(list, "# {reason}");
            }
            for unsure in &proposed.unsure {
                let _ = writeln!(list, "# Unsure: {unsure}");
            }
            let (name, collection) = (proposed.service.clone(), proposed.declaration.name.to_string());
            let _ = writeln!(list, "{}", PlanLine { name, port, collection });
        }
        for (name, reason) in &self.left_out {
            let _ = writeln!(list, "\n# Left out: {name:?}: {}. --rest FILE puts it aside.", reason.replace('\n', " "));
        }
        list
    }
}

/// Reports a proposed plan.
pub fn describe(input: &Path, output: &Path, proposal: &Proposal) -> Report {
    let mut text =
        format!("{} has a proposed plan for {}. Please check it:\n", output.display(), name_input(input).display());
    let mut json =
        json!({ "outcome": "proposed", "output": output.to_string_lossy(), "collections": {}, "left_out": {} });
    let renamed = proposal.collections.iter().filter(|proposed| *proposed.service != *proposed.declaration.name);
    let renamed: Vec<String> =
        renamed.map(|proposed| format!("{} of {}", proposed.service, proposed.declaration.name)).collect();
    if !renamed.is_empty() {
        let _ = writeln!(
            text,
            "These services have other names than their collections, whose names a topology does not allow: {}",
            renamed.join(", ")
        );
    }
    for Proposed { service, records, declaration, reasons, unsure } in &proposal.collections {
        let name = &*declaration.name;
        let _ = writeln!(text, "\n{name}: {}", count_records(*records));
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
    let as_node = if proposal.as_node { " --as-node" } else { "" };
    let _ = writeln!(text, "\nThen: seed --plan {} --input {} --data DIR{as_node}", output.display(), input.display());
    Report::new(text, json)
}
