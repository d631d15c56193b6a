//! Reports of commands, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use record::model::Collection;
use record::words::agree;
use serde_json::{Value, json};

use crate::error::Outcome;
use crate::rejects::AsNode;

/// A command's report.
#[derive(Debug)]
pub struct Report {
    /// For people.
    pub text: String,
    /// For programs: an object with `outcome` and its data; null without a report.
    pub json: Value,
    /// For people, on standard error, if the text is for programs.
    pub note: String,
    /// The exit code.
    pub exit_code: u8,
    /// Whether the text is a secret.
    pub is_secret: bool,
}

impl From<Report> for Outcome {
    fn from(Report { text, json, exit_code, .. }: Report) -> Self {
        Self { text, json, exit_code }
    }
}

impl Report {
    pub(crate) fn new(text: String, json: Value) -> Self {
        Self { text, json, note: String::new(), exit_code: 0, is_secret: false }
    }

    /// Adds the records that were read as Node reads them.
    pub fn with_as_node(mut self, AsNode { count, named }: &AsNode) -> Self {
        if *count > 0 {
            let more = if *count > named.len() as u64 { ", …" } else { "" };
            let _ = writeln!(
                self.text,
                "\n{count} {} as Node reads them: {}{more}",
                agree(*count, "record is not valid JSON, and was read", "records are not valid JSON, and were read"),
                named.join(", ")
            );
            self.json["as_node"] = json!({ "count": count, "first": named });
        }
        self
    }

    /// Returns a report whose text is for programs already.
    pub fn of_text(text: String) -> Self {
        Self::new(text, Value::Null)
    }

    /// Adds the durations of the phases, if there is a report for people to read.
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

    /// Adds the collections that the file lacks.
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

    /// Adds the collections that were added to a split, or would be, with their numbers of records.
    pub fn with_added(mut self, added: &[(Collection, u64)], dry_run: bool) -> Self {
        if !added.is_empty() {
            let each = added.iter().map(|(collection, records)| {
                format!("{} with {records} {}", collection.name(), agree(*records, "record", "records"))
            });
            let each: Vec<String> = each.collect();
            let what = if dry_run { "Would be added" } else { "Added" };
            let _ = writeln!(self.text, "\n{what} to the split: {}. What was there stays as it is.", each.join(", "));
            let of = added.iter().map(|(collection, records)| (collection.name().to_owned(), json!(records)));
            self.json["added"] = of.collect::<serde_json::Map<String, Value>>().into();
        }
        self
    }

    /// Adds the number of rejected records.
    pub(crate) fn with_rejects(mut self, rejected: u64) -> Self {
        if rejected > 0 {
            let _ = writeln!(
                self.text,
                "\n{rejected} {}.",
                agree(
                    rejected,
                    "record was rejected and not taken; the file for --rejects has it",
                    "records were rejected and not taken; the file for --rejects has them"
                )
            );
            self.exit_code = REJECTED;
        }
        self
    }
}

/// The exit code of a success with rejected records.
pub(crate) const REJECTED: u8 = 7;

/// Formats a table with columns as wide as necessary, numbers to the right, words to the left.
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
