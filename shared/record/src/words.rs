//! The words of reports.

/// Returns the words that agree with `number`: `agree(1, "record is", "records are")` is `record is`.
pub fn agree<'w>(number: u64, one: &'w str, many: &'w str) -> &'w str {
    if number == 1 { one } else { many }
}
