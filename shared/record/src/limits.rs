//! The limits on writes. Records that a split loaded may exceed them, and are served nevertheless.

use serde::Serialize;

use crate::declaration::{Collection, Field};
use crate::json::{Object, members};
use crate::model::is_of_kind;

/// The longest body of a request, in bytes.
pub const BODY_BYTES: usize = 64 << 10;

/// The longest body with several records, in bytes.
pub const BATCH_BYTES: usize = 1 << 20;

/// The most records in a body.
pub const BATCH_RECORDS: usize = 1000;
/// The deepest nesting of a body's values, the body's object included.
pub const BODY_DEPTH: usize = 32;
/// The longest record, in bytes of its canonical text. Without a limit, patches could make it grow without end.
pub const RECORD_LIMIT: usize = 64 << 10;

/// A reason why a record cannot be written. Each field has at most one, which keeps the list short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// A JSON pointer (RFC 6901) into the record that would be written: `""` is the whole.
    pub pointer: String,
    /// The requirement, as a phrase for people.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(pointer: &str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), detail: detail.into() }
    }
}

/// Lists the fields that break the model or its limits. Skips `id`, and the limits of fields unchanged from `current`:
/// a split, or a wider declaration, may have let them through.
pub(crate) fn violations(collection: Collection, record: &Object, current: Option<&str>) -> Vec<Violation> {
    let violation = |field: &Field| {
        let value = record.get(&field.name);
        let stays = |current| {
            let is_same = |(name, stands)| name == &*field.name && Some(stands) == value;
            members(current).any(is_same) && value.is_some_and(|value| is_of_kind(&field.shape, value))
        };
        if current.is_some_and(stays) {
            return None;
        }
        let detail = match value {
            None if field.required => "must be given".to_owned(),
            None => return None,
            Some("null") if !field.required => return None,
            Some(value) => field.shape.check(value).err()?,
        };
        Some(Violation::new(&format!("/{}", field.name), detail))
    };
    collection.declaration().fields.iter().filter_map(violation).collect()
}
