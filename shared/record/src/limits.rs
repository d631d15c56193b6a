//! What a record has to fit to be written. What a split brought may not fit, and is served all the same.

use serde::Serialize;

use crate::declaration::{Collection, Field};
use crate::json::{Object, members};
use crate::model::is_of_kind;

/// How long a request's body may be, in bytes.
pub const BODY_BYTES: usize = 64 << 10;
/// How deeply the values of a body may be nested, the body's object included.
pub const BODY_DEPTH: usize = 32;
/// How long a record may be, in bytes of its canonical text: patches could make it grow without end.
pub const RECORD_LIMIT: usize = 64 << 10;
/// One reason why a record can't be written. Each field has one at most, so that they are few.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// A JSON pointer (RFC 6901) into the record that would be written: `""` is the whole.
    pub pointer: String,
    /// A phrase for people: what has to be so.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(pointer: &str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), detail: detail.into() }
    }
}

/// Lists the fields that break the model or its limits. Skips `id`, and the limits of fields that are alike in `current`:
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
