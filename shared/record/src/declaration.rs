//! The declaration of a collection: its name, the source of its records' ids, their fields, and their indexes.
//!
//! It stands once, as data, in the folder of the collection's service. Everything else derives from it.
//!
//! ```json
//! {
//!   "name": "posts",
//!   "ids": "position",
//!   "fields": [
//!     { "name": "thread", "shape": { "reference": { "to": "threads" } } },
//!     { "name": "text", "shape": { "text": { "most": 16384 } } },
//!     { "name": "subtitle", "shape": { "line": { "most": 80 } }, "required": false }
//!   ],
//!   "indexes": [{ "number": 1, "field": "thread", "route": "in-thread" }]
//! }
//! ```

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::Id;
use crate::json::kind;

/// The longest name of a collection or a route, in characters: it is part of paths and URLs.
const NAME_CHARACTERS: usize = 64;

/// The longest username, in characters, each of which is one byte.
pub const USERNAME_CHARACTERS: usize = 64;

/// A collection's declaration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// The name in files, URLs and messages.
    pub name: Box<str>,
    /// The source of the records' ids.
    pub ids: IdRule,
    /// Whether the monolith has the collection.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub in_monolith: bool,
    /// The field that names a record's owner, or `id` if each record is its own owner. A user may write no other's records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Box<str>>,
    /// Whether the collection will be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecation>,
    /// The fields that have a shape, without `id`. A record may have others.
    pub fields: Box<[Field]>,
    /// The indexes by which its records are found.
    #[serde(default)]
    pub indexes: Box<[IndexDeclaration]>,
}

/// The source of the ids of a collection's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdRule {
    /// Each record has an integer `id`.
    Record,
    /// A record may have an integer `id`. A record without one gets its position in the monolith's list.
    Position,
    /// A record's `id` is a text, or an integer that stands for its digits. A record without one gets its position.
    /// Within the database each record also has a number, its position at first, by which it is stored and listed.
    Text,
    /// The collection is a single record. Its `id`, if any, does not address it.
    Single,
}

/// A field of the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Its name.
    pub name: Box<str>,
    /// The shape of its value.
    pub shape: Shape,
    /// Whether it must be present. If not, it may be absent or null.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub required: bool,
    /// Whether its words are found by `?q=`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub search: bool,
}

/// The shape of a field's value. Its limits hold only for writes: a split accepts the values that the monolith let
/// through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Shape {
    /// An id of another collection. Only that collection's service knows whether the record exists.
    Reference {
        /// The collection.
        to: Box<str>,
        /// Whether that collection's ids are texts.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        text: bool,
    },
    /// ASCII letters and digits, `.`, `_` and `-`, but no `.` or `-` at the start: a URL loses `.` and `..`, and
    /// programs take `-x` for an option.
    Username,
    /// A text of one line, in characters (Unicode scalar values), without line separators and control characters.
    Line {
        /// The fewest characters.
        #[serde(default, skip_serializing_if = "is_zero")]
        least: usize,
        /// The most characters.
        most: usize,
    },
    /// A text, limited in bytes of UTF-8 without JSON's escapes.
    Text {
        /// The most bytes.
        most: usize,
    },
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// Any JSON value.
    Any,
}

/// A way to find records other than by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexDeclaration {
    /// The index's number in the database. A number that was used must never get another meaning.
    pub number: Index,
    /// The field that is indexed.
    pub field: Box<str>,
    /// Its segment of the URL: `in-thread` for `/api/posts/in-thread/7`.
    pub route: Box<str>,
    /// The records that answer.
    #[serde(default, skip_serializing_if = "Answers::is_default")]
    pub answers: Answers,
    /// Whether a write is refused if another record has the same value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unique: bool,
    /// Whether the list of all records can be in the order of the field.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub order: bool,
    /// Whether the monolith has the route.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub in_monolith: bool,
    /// Whether the route will be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecation>,
}

/// The announcement that clients should use something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deprecation {
    /// The day from which on they should.
    pub since: Day,
    /// The day on which it will be gone, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset: Option<Day>,
    /// The address of a page that says what to use instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Box<str>>,
}

impl Deprecation {
    fn find_fault(&self) -> Option<String> {
        if self.sunset.is_some_and(|sunset| sunset < self.since) {
            return Some("what is deprecated is gone before it is deprecated: `sunset` is before `since`".to_owned());
        }
        let is_odd = |byte: u8| !byte.is_ascii_graphic() || b"<>\"\\".contains(&byte);
        let odd = self.link.as_ref().filter(|link| link.is_empty() || link.bytes().any(is_odd))?;
        Some(format!("the link {odd:?} of what is deprecated is no address"))
    }
}

/// The beginning of a day in UTC, from 1970 on. In JSON it is a text such as `2027-06-01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(SystemTime);

impl Day {
    /// Returns its first moment.
    pub fn time(self) -> SystemTime {
        self.0
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = humantime::format_rfc3339_seconds(self.0).to_string();
        serializer.serialize_str(text.split('T').next().unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<str>>::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&format!("{text}T00:00:00Z"));
        let wrong = || D::Error::custom(format!("{text:?} is no day, which is written as 2027-06-01"));
        time.ok().filter(|time| *time >= SystemTime::UNIX_EPOCH).map(Self).ok_or_else(wrong)
    }
}

/// The records that answer to a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answers {
    /// All that match, as a list.
    #[default]
    Many,
    /// The match with the lowest id, or 404.
    One,
}

impl Answers {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::Many
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(flag: &bool) -> bool {
    *flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The number of an index in its database. Declared indexes have numbers from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Index(pub u8);

impl Index {
    /// The index of every collection with text ids: from an id's text to the record's number.
    pub const IDS: Self = Self(0);

    /// The index of the words of a collection that can be searched.
    pub const WORDS: Self = Self(u8::MAX);

    /// Returns the declared index with that number; `None` for 0.
    pub fn numbered(number: u8) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// Returns its number.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::numbered(u8::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("indexes are numbered from 1"))
    }
}

/// A field that refers to records of another collection.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// The collection that has the field.
    pub from: Collection,
    /// The field's name.
    pub field: &'static str,
    /// The name of the other collection.
    pub to: &'static str,
    /// The index of the field.
    pub index: &'static IndexDeclaration,
}

/// The reason why a declaration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum DeclarationError {
    /// The text is not the JSON of a declaration.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The declaration contradicts itself, or has an invalid name.
    #[error("{0}")]
    Wrong(String),
}

impl Declaration {
    /// Reads a declaration from the text of a `collection.json`.
    ///
    /// # Errors
    /// The text is not a declaration, or contradicts itself.
    pub fn read(json: &str) -> Result<Self, DeclarationError> {
        let declaration: Self = serde_json::from_str(json)?;
        declaration.check()?;
        Ok(declaration)
    }

    /// Checks for contradictions.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), DeclarationError> {
        self.find_fault().map_or(Ok(()), |fault| Err(DeclarationError::Wrong(fault)))
    }

    /// Tells whether a write has the same outcome by both. They may differ in how records are found (indexes that are not
    /// unique, routes, order, searched fields), in what the monolith has, and in what is deprecated.
    pub fn decides_like(&self, other: &Self) -> bool {
        let fields =
            |of: &Self| of.fields.iter().map(|field| Field { search: false, ..field.clone() }).collect::<Vec<_>>();
        let unique = |of: &Self| {
            let unique = of.indexes.iter().filter(|index| index.unique);
            unique.map(|index| (index.number, index.field.clone(), index.order)).collect::<Vec<_>>()
        };
        (&self.name, self.ids, &self.owner) == (&other.name, other.ids, &other.owner)
            && fields(self) == fields(other)
            && unique(self) == unique(other)
    }

    fn find_fault(&self) -> Option<String> {
        let is_unreserved = |character: char| character.is_ascii_alphanumeric() || "-._~".contains(character);
        let begins = |first: char| first.is_ascii_alphanumeric() || first == '_';
        let is_short = self.name.len() <= NAME_CHARACTERS;
        if !is_short || !self.name.starts_with(begins) || !self.name.chars().all(is_unreserved) {
            return Some(format!(
                "the name {:?} must be 1 to {NAME_CHARACTERS} of a-z, A-Z, 0-9, `-`, `.`, `_` and `~`, and begin with a \
                 letter, a digit or `_`",
                self.name
            ));
        }
        for (nth, field) in self.fields.iter().enumerate() {
            if &*field.name == "id" {
                return Some("the field \"id\" must not be declared: `ids` declares it".to_owned());
            }
            if field.name.is_empty() || field.name.contains(|c: char| c.is_control() || "\"\\".contains(c)) {
                return Some(format!("the field {:?} has a name that JSON escapes, or none", field.name));
            }
            if field.search && field.shape.is_of() != Some(TermKind::Text) {
                return Some(format!("the field {:?} is no text, so it cannot be searched", field.name));
            }
            if self.fields[..nth].iter().any(|other| other.name == field.name) {
                return Some(format!("the field {:?} is declared twice", field.name));
            }
        }
        for (nth, index) in self.indexes.iter().enumerate() {
            let before = &self.indexes[..nth];
            if self.field(&index.field).is_none() {
                return Some(format!(
                    "the index {:?} is of the field {:?}, which is not declared",
                    index.route, index.field
                ));
            }
            if self.field(&index.field).is_some_and(|field| field.shape.is_of().is_none()) {
                return Some(format!(
                    "the field {:?} is neither a text nor a number nor a reference, so no index lists it",
                    index.field
                ));
            }
            let fits_order = |field: &Field| field.required && field.shape.is_of() != Some(TermKind::TextId);
            if index.order && !self.field(&index.field).is_some_and(fits_order) {
                return Some(format!(
                    "the index {:?} has no order: the field {:?} may be absent, or refers to text ids",
                    index.route, index.field
                ));
            }
            if !is_segment(&index.route) {
                return Some(format!(
                    "the route {:?} must be of a-z, A-Z, 0-9, `_` and `-`, and begin with a letter",
                    index.route
                ));
            }
            if before.iter().any(|other| other.route == index.route) {
                return Some(format!("the route {:?} is declared twice", index.route));
            }
            if index.number == Index::WORDS && self.fields.iter().any(|field| field.search) {
                return Some(format!(
                    "the index {} is that of searched fields; give it a lower number",
                    index.number.0
                ));
            }
            if before.iter().any(|other| other.number == index.number) {
                return Some(format!("the index {} is declared twice", index.number.0));
            }
        }
        let announced = self.deprecated.iter().chain(self.indexes.iter().filter_map(|index| index.deprecated.as_ref()));
        if let Some(fault) = announced.into_iter().find_map(Deprecation::find_fault) {
            return Some(fault);
        }
        if let Some(owner) = self.owner.as_deref() {
            let is_one = match owner {
                "id" => self.ids != IdRule::Single,
                name => {
                    self.field(name).and_then(|field| field.shape.is_of()).is_some_and(|kind| kind != TermKind::Number)
                }
            };
            if !is_one {
                return Some(format!(
                    "the owner {owner:?} is neither \"id\", which names no single record, nor a declared text or reference"
                ));
            }
        }
        let is_listed = |field: &&Field| self.indexes.iter().any(|index| index.field == field.name);
        let mut references = self.fields.iter().filter(|field| field.shape.is_reference());
        if let Some(field) = references.find(|field| !is_listed(field)) {
            return Some(format!(
                "the reference {:?} has no index, which it needs to find references to missing records",
                field.name
            ));
        }
        None
    }

    /// Returns the declared field with that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| &*field.name == name)
    }
}

/// Tells whether a name can be a route's segment of a URL.
fn is_segment(name: &str) -> bool {
    let is_known = |character: char| character.is_ascii_alphanumeric() || "_-".contains(character);
    name.len() <= NAME_CHARACTERS
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(is_known)
}

impl Shape {
    /// Tells whether the field refers to a record by its id.
    pub fn is_reference(&self) -> bool {
        matches!(self, Shape::Reference { .. })
    }

    /// Returns the kind of the field's terms in an index; `None` if no index can list it.
    pub fn is_of(&self) -> Option<TermKind> {
        match self {
            Shape::Reference { text: false, .. } => Some(TermKind::Id),
            Shape::Reference { text: true, .. } => Some(TermKind::TextId),
            Shape::Username | Shape::Line { .. } | Shape::Text { .. } => Some(TermKind::Text),
            Shape::Number => Some(TermKind::Number),
            Shape::Boolean | Shape::Any => None,
        }
    }

    /// Checks that `value`, in canonical form, may be written. The error is the requirement.
    pub(crate) fn check(&self, value: &str) -> Result<(), String> {
        let is_so = match self {
            Shape::Reference { text: false, .. } => Some(value.parse::<Id>().is_ok()),
            Shape::Reference { text: true, .. } => Some(read_id_text(value).is_some()),
            Shape::Number => Some(value.starts_with(|c: char| c == '-' || c.is_ascii_digit())),
            Shape::Boolean => Some(value == "true" || value == "false"),
            Shape::Any => Some(true),
            Shape::Username | Shape::Line { .. } | Shape::Text { .. } => None,
        };
        if let Some(is_so) = is_so {
            return if is_so { Ok(()) } else { Err(self.expected()) };
        }
        let text: String =
            serde_json::from_str(value).map_err(|_| format!("must be a string, but is {}", kind(value)))?;
        let length = text.chars().count();
        let fits = match self {
            Shape::Username => {
                let known = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
                (1..=USERNAME_CHARACTERS).contains(&length) && text.chars().all(known) && !text.starts_with(['.', '-'])
            }
            Shape::Line { least, most } => {
                let breaks = |character: char| character.is_control() || "\u{2028}\u{2029}".contains(character);
                (*least..=*most).contains(&length) && !text.contains(breaks)
            }
            Shape::Text { most } => text.len() <= *most,
            _ => true,
        };
        if fits { Ok(()) } else { Err(self.expected()) }
    }

    fn expected(&self) -> String {
        match self {
            Shape::Reference { text: false, .. } => format!("must be {}", Id::EXPECTED),
            Shape::Reference { text: true, .. } => format!("must be {EXPECTED_ID_TEXT}"),
            Shape::Number => "must be a number".to_owned(),
            Shape::Boolean => "must be true or false".to_owned(),
            Shape::Any => "must be JSON".to_owned(),
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

/// The kind of an indexed field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermKind {
    /// Ids of a collection whose ids are integers.
    Id,
    /// Ids of a collection whose ids are texts.
    TextId,
    /// Texts.
    Text,
    /// Numbers.
    Number,
}

/// The longest text id, in bytes. It is shorter than the terms that an index holds in full.
pub const ID_TEXT_BYTES: usize = 255;

/// The description of a text id, for messages.
pub(crate) const EXPECTED_ID_TEXT: &str = "a string of 1 to 255 bytes, or an integer";

/// Reads the text of a text id from its JSON. An integer stands for its digits.
pub fn read_id_text(value: &str) -> Option<Cow<'_, str>> {
    let text = if value.starts_with('"') {
        crate::json::read_text(value)?
    } else {
        let digits = value.strip_prefix('-').unwrap_or(value);
        Some(value).filter(|_| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))?.into()
    };
    (1..=ID_TEXT_BYTES).contains(&text.len()).then_some(text)
}

/// A collection: the records of one service. Collections with the same name are equal.
#[derive(Clone, Copy)]
pub struct Collection(&'static Declaration);

impl Collection {
    /// Returns the collection with this declaration. Each declaration stays in memory, once, until the program ends.
    pub fn of(declaration: Declaration) -> Self {
        static KNOWN: Mutex<Vec<&'static Declaration>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known.iter().copied().find(|known| **known == declaration);
        Self(same.unwrap_or_else(|| {
            known.push(Box::leak(Box::new(declaration)));
            known[known.len() - 1]
        }))
    }

    /// Reads the declaration that is compiled into a program.
    ///
    /// # Panics
    /// The declaration is invalid.
    pub fn embedded(json: &str) -> Self {
        Self::of(Declaration::read(json).unwrap_or_else(|error| panic!("the embedded declaration is wrong: {error}")))
    }

    /// Returns its declaration.
    pub fn declaration(self) -> &'static Declaration {
        self.0
    }

    /// Returns its name in files, URLs and messages.
    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Returns the word for one of its records, if its name is a regular English plural; else its name.
    pub fn singular(self) -> Cow<'static, str> {
        match (self.name().strip_suffix("ies"), self.name().strip_suffix('s')) {
            (Some(stem), _) => format!("{stem}y").into(),
            (None, Some(stem)) => stem.into(),
            (None, None) => self.name().into(),
        }
    }

    /// Tells whether the monolith's records may lack ids, so that the split gives them some.
    pub fn may_lack_ids(self) -> bool {
        matches!(self.0.ids, IdRule::Position | IdRule::Text)
    }

    /// Tells whether its ids are texts.
    pub fn has_text_ids(self) -> bool {
        self.0.ids == IdRule::Text
    }

    /// Tells whether it is a single record.
    pub fn is_single(self) -> bool {
        self.0.ids == IdRule::Single
    }

    /// Returns its declared indexes.
    pub fn indexes(self) -> &'static [IndexDeclaration] {
        &self.0.indexes
    }

    /// Returns the index with this `route`.
    pub fn index_at(self, route: &str) -> Option<&'static IndexDeclaration> {
        self.0.indexes.iter().find(|index| &*index.route == route)
    }

    /// Returns the kind of an index's terms.
    pub fn terms_of(self, index: &IndexDeclaration) -> TermKind {
        self.0.field(&index.field).and_then(|field| field.shape.is_of()).unwrap_or(TermKind::Text)
    }

    /// Lists the numbers of all its indexes.
    pub fn index_numbers(self) -> impl Iterator<Item = Index> {
        let ids = self.has_text_ids().then_some(Index::IDS);
        ids.into_iter().chain(self.0.indexes.iter().map(|index| index.number))
    }

    /// Lists its references to records of other collections.
    pub fn references(self) -> impl Iterator<Item = Reference> {
        self.0.fields.iter().filter_map(move |field| {
            let Shape::Reference { to, .. } = &field.shape else { return None };
            let index = self.0.indexes.iter().find(|index| index.field == field.name)?;
            Some(Reference { from: self, field: &field.name, to, index })
        })
    }
}

impl PartialEq for Collection {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Collection {}

impl PartialOrd for Collection {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Collection {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl fmt::Debug for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_decide_alike_that_differ_only_in_how_records_are_found() {
        const BASE: &str = concat!(
            r#"{"name":"notes","ids":"record","owner":"by","fields":[{"name":"by","shape":{"reference":{"to":"users"}}},"#,
            r#"{"name":"text","shape":{"text":{"most":9}}},{"name":"slug","shape":{"line":{"most":9}},"required":false}],"#,
            r#""indexes":[{"number":1,"field":"by","route":"of"},{"number":2,"field":"slug","route":"by-slug","unique":true}]}"#
        );
        let decides_like = |from: &str, to: &str| {
            assert!(BASE.contains(from), "{from}");
            let read = |json: &str| Declaration::read(json).unwrap_or_else(|error| panic!("{error}: {json}"));
            let [base, other] = [read(BASE), read(&BASE.replacen(from, to, 1))];
            assert_eq!(base.decides_like(&other), other.decides_like(&base));
            base.decides_like(&other)
        };
        for (from, to) in [
            (r#"[{"number":1,"#, r#"[{"number":3,"field":"text","route":"with-text","order":true},{"number":1,"#),
            (r#""route":"of""#, r#""route":"of-user","in_monolith":false"#),
            (r#""route":"by-slug""#, r#""route":"named","answers":"one""#),
            (r#"{"text":{"most":9}}"#, r#"{"text":{"most":9}},"search":true"#),
            (r#""ids":"record""#, r#""ids":"record","in_monolith":false,"deprecated":{"since":"2027-06-01"}"#),
        ] {
            assert!(decides_like(from, to), "{to}");
        }
        for (from, to) in [
            (r#""name":"notes""#, r#""name":"drafts""#),
            (r#""ids":"record""#, r#""ids":"position""#),
            (r#""owner":"by","#, ""),
            (r#"{"text":{"most":9}}"#, r#"{"text":{"most":8}}"#),
            (r#","required":false"#, ""),
            (r#""unique":true"#, r#""unique":false"#),
            (r#""number":2"#, r#""number":3"#),
            (r#"{"name":"text","shape":{"text":{"most":9}}},"#, ""),
        ] {
            assert!(!decides_like(from, to), "{to}");
        }
    }
}
