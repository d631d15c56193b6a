//! What people are told.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use shared::model::Collection;

use crate::error::Error;
use crate::target::Manifest;
use crate::verify::Finding;

/// A split that was made: what went where.
pub fn filled(input: &Path, data: &Path, manifest: &Manifest) -> Result<String, Error> {
    let records = [manifest.records.users, manifest.records.threads, manifest.records.posts];
    let mut rows = vec![["collection", "records", "bytes", "slice", "database"].map(String::from)];
    for (collection, records) in Collection::ALL.into_iter().zip(records) {
        let folder = data.join(collection.name());
        let slice = folder.join("db.json");
        let bytes = fs::metadata(&slice).map_err(Error::io(&slice))?.len();
        rows.push([
            collection.name().to_owned(),
            records.to_string(),
            bytes.to_string(),
            slice.display().to_string(),
            folder.join("db").display().to_string(),
        ]);
    }
    Ok(format!(
        "{} ({} bytes, SHA-256 {}) is split:\n\n{}\n\
         Every record was read back and equals the source. Every index equals a full scan.\n",
        input.display(),
        manifest.source.bytes,
        manifest.source.sha256,
        table(&rows),
    ))
}

/// A split that was there: what has become of it.
pub fn checked(input: &Path, data: &Path, findings: &[Finding]) -> String {
    let mut rows = vec![
        ["collection", "in the file", "as split", "changed since", "removed since", "added since"].map(String::from),
    ];
    for (collection, finding) in Collection::ALL.into_iter().zip(findings) {
        rows.push([
            collection.name().to_owned(),
            finding.in_source.to_string(),
            finding.equal.to_string(),
            finding.changed.to_string(),
            finding.removed().to_string(),
            finding.added().to_string(),
        ]);
    }
    format!(
        "{} already holds the split of {}. Checked; nothing was changed:\n\n{}\n\
         Every slice equals the file. Every index equals a full scan.\n",
        data.display(),
        input.display(),
        table(&rows),
    )
}

/// What is wrong with a collection's slice and database, if anything is.
pub fn fault(collection: Collection, finding: &Finding) -> Option<String> {
    let mut faults = Vec::new();
    if !finding.records_equal() {
        faults.push(format!(
            "of {} records in the source {} differ and {} are missing; the database holds {} that the source has not",
            finding.in_source,
            finding.changed,
            finding.removed(),
            finding.added(),
        ));
        faults.extend(finding.named.iter().map(|name| format!("  {name}")));
    }
    if !finding.slice_equal {
        faults.push("the slice is not what the source holds".to_owned());
    }
    if !finding.indexes_equal {
        faults.push("an index is not what a scan of the records says".to_owned());
    }
    (!faults.is_empty()).then(|| format!("{}: {}", collection.name(), faults.join("\n")))
}

/// Columns as wide as they need to be: numbers to the right, words to the left.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
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
