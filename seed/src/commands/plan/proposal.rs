//! A proposed plan, as files and as words.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use record::declaration::Declaration;
use serde_json::json;
use store::{sync, sync_tree};
use tempfile::TempDir;

use super::reading::name_input;
use crate::error::Error;
use crate::identity::folder_of;
use crate::report::Report;
use crate::topology::{PLAN, PlanLine};

/// The first port that is proposed.
const FIRST_PORT: u16 = 3001;

/// What a file's collections seem to be.
#[derive(Debug, Default)]
pub struct Proposal {
    /// In the file's order.
    pub collections: Vec<Proposed>,
    /// What is no collection that a service could have, and why.
    pub left_out: Vec<(String, String)>,
    /// Whether what only Node takes was taken.
    pub as_node: bool,
}

/// `1 record`, `2 records`.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// What one collection seems to be.
#[derive(Debug)]
pub struct Proposed {
    /// What its service is called.
    pub service: String,
    /// How many records were looked at.
    pub records: u64,
    /// What they seem to be.
    pub declaration: Declaration,
    /// Why it is taken for that.
    pub reasons: Vec<String>,
    /// What should be looked at.
    pub unsure: Vec<String>,
}

/// Writes `proposal` into the folder `output`, which appears whole or not at all.
///
/// # Errors
/// There is something in it already, or it cannot be written.
pub fn write(proposal: &Proposal, output: &Path) -> Result<(), Error> {
    let is_empty = fs::read_dir(output).map(|mut inside| inside.next().is_none());
    if !is_empty.unwrap_or_else(|_| !output.exists()) {
        let reason = "it is there already, and may have been edited; name another folder".to_owned();
        return Err(Error::Output { path: output.to_owned(), reason });
    }
    // Of a path that ends with a slash, too.
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
    /// The list of the plan, with the reasons.
    fn list(&self) -> String {
        let mut list = String::from(
            "# Proposed from a db.json. Each line is a service: its name, its port, and its collection's name where that is\n\
             # another.\n",
        );
        let ports = (FIRST_PORT..).filter(|port| *port != 8080);
        for (proposed, port) in self.collections.iter().zip(ports) {
            let _ = writeln!(list, "\n# {}.", count(proposed.records, "record"));
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

/// A plan that was proposed.
pub fn describe(input: &Path, output: &Path, proposal: &Proposal) -> Report {
    let mut text =
        format!("{} has the plan that {} seems to be of. Look at it:\n", output.display(), name_input(input).display());
    let mut json =
        json!({ "outcome": "proposed", "output": output.to_string_lossy(), "collections": {}, "left_out": {} });
    let renamed = proposal.collections.iter().filter(|proposed| *proposed.service != *proposed.declaration.name);
    let renamed: Vec<String> =
        renamed.map(|proposed| format!("{} of {}", proposed.service, proposed.declaration.name)).collect();
    if !renamed.is_empty() {
        let _ = writeln!(
            text,
            "Services that are not called as their collections are, since a topology takes no such name: {}",
            renamed.join(", ")
        );
    }
    for Proposed { service, records, declaration, reasons, unsure } in &proposal.collections {
        let name = &*declaration.name;
        let _ = writeln!(text, "\n{name}: {}", count(*records, "record"));
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
