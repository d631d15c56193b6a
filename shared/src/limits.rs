//! What a record has to fit to be written. What a split brought may not fit, and is served all the same.

use serde::Serialize;

use crate::id::Id;
use crate::json::{Object, kind, members};
use crate::model::Collection;

/// How long a request's body may be, in bytes.
pub const BODY_BYTES: usize = 64 << 10;
/// How deeply the values of a body may be nested, the body's object included.
pub const BODY_DEPTH: usize = 32;
/// How long a record may be, in bytes of its canonical text: patches could make it grow without end.
pub const RECORD_LIMIT: usize = 64 << 10;
/// How long a username may be, in characters, each of which is a byte.
pub const USERNAME_CHARACTERS: usize = 64;
/// How long a user's name may be, in characters (Unicode scalar values).
pub const NAME_CHARACTERS: usize = 256;
/// How long a user's bio may be, in bytes of UTF-8, without JSON's escapes.
pub const BIO_BYTES: usize = 4 << 10;
/// How long a thread's title may be, in characters (Unicode scalar values).
pub const TITLE_CHARACTERS: usize = 256;
/// How long a post's text may be, in bytes of UTF-8, without JSON's escapes.
pub const TEXT_BYTES: usize = 16 << 10;

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

/// A field of a model, other than `id`.
struct Field {
    name: &'static str,
    /// If not, it may be absent, and null.
    required: bool,
    shape: Shape,
}

/// What a field's value has to be.
#[derive(Clone, Copy)]
enum Shape {
    /// An id. Whether there is such a record is another service's to know.
    Id,
    /// ASCII letters and digits, `.`, `_` and `-`. `.` and `..` would be lost in a URL, and `-x` taken for an option.
    Username,
    /// So many characters, none of which begins another line or controls a terminal.
    Line { least: usize, most: usize },
    /// So many bytes at most.
    Text { most: usize },
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, required: true, shape }
}

const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, required: false, shape }
}

fn fields(collection: Collection) -> &'static [Field] {
    const USER: [Field; 3] = [
        required("username", Shape::Username),
        optional("name", Shape::Line { least: 0, most: NAME_CHARACTERS }),
        optional("bio", Shape::Text { most: BIO_BYTES }),
    ];
    const THREAD: [Field; 2] =
        [required("title", Shape::Line { least: 1, most: TITLE_CHARACTERS }), required("createdBy", Shape::Id)];
    const POST: [Field; 3] = [
        required("thread", Shape::Id),
        required("text", Shape::Text { most: TEXT_BYTES }),
        required("user", Shape::Id),
    ];
    match collection {
        Collection::Users => &USER,
        Collection::Threads => &THREAD,
        Collection::Posts => &POST,
    }
}

/// In what the members of `record` do not fit the model and its limits; of the `id`, and of what is in `current` alike, which
/// a split may have brought, nothing is said.
pub(crate) fn violations(collection: Collection, record: &Object, current: Option<&str>) -> Vec<Violation> {
    let violation = |field: &Field| {
        let value = record.get(field.name);
        let stays = |current| members(current).any(|(name, stands)| name == field.name && Some(stands) == value);
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
    fields(collection).iter().filter_map(violation).collect()
}

impl Shape {
    /// Whether `value`, in canonical form, is such a value; if not, what it has to be.
    fn check(self, value: &str) -> Result<(), String> {
        if let Shape::Id = self {
            return value.parse::<Id>().map(drop).map_err(|_| format!("must be {}", Id::EXPECTED));
        }
        let text: String =
            serde_json::from_str(value).map_err(|_| format!("must be a string, but is {}", kind(value)))?;
        let length = text.chars().count();
        let fits = match self {
            Shape::Id => true,
            Shape::Username => {
                let known = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
                (1..=USERNAME_CHARACTERS).contains(&length) && text.chars().all(known) && !text.starts_with(['.', '-'])
            }
            Shape::Line { least, most } => {
                let breaks = |character: char| character.is_control() || "\u{2028}\u{2029}".contains(character);
                (least..=most).contains(&length) && !text.contains(breaks)
            }
            Shape::Text { most } => text.len() <= most,
        };
        if fits { Ok(()) } else { Err(self.expected()) }
    }

    fn expected(self) -> String {
        match self {
            Shape::Id => format!("must be {}", Id::EXPECTED),
            Shape::Username => format!(
                "must be 1 to {USERNAME_CHARACTERS} of A-Z, a-z, 0-9, `.`, `_` and `-`, and not begin with `.` or `-`"
            ),
            Shape::Line { least, most } => {
                format!("must have {least} to {most} characters, no line break or other control character among them")
            }
            Shape::Text { most } => format!("must have at most {most} bytes in UTF-8"),
        }
    }
}
