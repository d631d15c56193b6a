//! Differences, for people and for programs.

use std::borrow::Cow;

use record::model::Collection;
use serde::{Deserialize, Serialize};

use super::address::Secrets;
use super::client::FailureKind;
use super::route::Route;
use crate::plan::Plan;

/// The greatest length of a printed value, in characters; a report has all of it.
const PRINTED: usize = 160;

/// An intended difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expected {
    /// A record has the id that the split gave it, as its first member.
    GivenId(Collection),
    /// A list is in id order.
    Order,
    /// The services send 404 for the monolith's 204.
    NotFound,
    /// A number has the source's digits, which JavaScript rounds or rewrites.
    Digits,
    /// Members whose keys are array indexes are in the source's order; JavaScript sends them first.
    IntegerKeys,
    /// The services send 400 for an invalid id, of which the monolith parses a valid beginning.
    NotAnId,
    /// The services send 404 for a path in another case.
    PathCase,
    /// A route that the monolith does not have.
    AddedRoute,
}

impl Expected {
    /// Returns all intended differences, in their printed order.
    pub fn all(plan: &Plan) -> Vec<Self> {
        let given = plan.iter().filter(|collection| collection.may_lack_ids()).map(Expected::GivenId);
        let others = [
            Expected::Order,
            Expected::NotFound,
            Expected::Digits,
            Expected::IntegerKeys,
            Expected::NotAnId,
            Expected::PathCase,
            Expected::AddedRoute,
        ];
        given.chain(others).collect()
    }

    /// Returns the key in reports.
    pub fn key(self) -> Cow<'static, str> {
        let key = match self {
            Expected::GivenId(collection) => return format!("{}_id", collection.singular()).into(),
            Expected::Order => "order",
            Expected::NotFound => "not_found",
            Expected::Digits => "digits",
            Expected::IntegerKeys => "integer_keys",
            Expected::NotAnId => "not_an_id",
            Expected::PathCase => "path_case",
            Expected::AddedRoute => "added_route",
        };
        key.into()
    }

    /// Returns the words for people: "as expected, 3 differ in …".
    pub fn meaning(self) -> Cow<'static, str> {
        let meaning = match self {
            Expected::GivenId(collection) => {
                let singular = collection.singular();
                let article = if singular.starts_with(|first| "aeioAEIO".contains(first)) { "an" } else { "a" };
                return format!("{article} {singular}'s added id").into();
            }
            Expected::Order => "the order of a list",
            Expected::NotFound => "404 for 204",
            Expected::Digits => "a number's digits, which are the source's own",
            Expected::IntegerKeys => "the place of keys that are array indexes, which is the source's own",
            Expected::NotAnId => "400 for an invalid id",
            Expected::PathCase => "404 for another case of a path",
            Expected::AddedRoute => "a route that the monolith does not have",
        };
        meaning.into()
    }
}

/// The kind of an unintended difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The statuses differ.
    Status,
    /// The content types differ.
    ContentType,
    /// The services' body is not encoded as its header says, or in a way that was not asked for.
    ContentEncoding,
    /// The services do not answer.
    NoAnswer,
    /// The services do not answer in time.
    TimedOut,
    /// The services' body ends too early.
    Truncated,
    /// The services' body is too long.
    TooLong,
    /// The services' body begins as JSON but is malformed.
    Malformed,
    /// One side sends a list, the other does not.
    Shape,
    /// The services' list is not in id order.
    Order,
    /// The services lack a record of the monolith.
    Missing,
    /// The services have a record that the monolith lacks.
    Added,
    /// The services have a record more than once.
    Repeated,
    /// A record has a wrong id.
    Id,
    /// A record has no id.
    NoId,
    /// A value differs.
    Value,
    /// The values mean the same but are spelled differently.
    Spelling,
    /// A number has other digits than in the source.
    Digits,
}

impl From<FailureKind> for Kind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::NoAnswer => Kind::NoAnswer,
            FailureKind::TimedOut => Kind::TimedOut,
            FailureKind::Truncated => Kind::Truncated,
            FailureKind::TooLong | FailureKind::NeedsRoom => Kind::TooLong,
            FailureKind::ContentEncoding => Kind::ContentEncoding,
            FailureKind::Malformed => Kind::Malformed,
        }
    }
}

/// A difference, with both sides' values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding<'f> {
    /// The name of the path's route.
    pub route: Cow<'f, str>,
    /// The path, without its query's values.
    pub path: Cow<'f, str>,
    /// The kind of difference.
    pub kind: Kind,
    /// The id of the record.
    pub id: Option<u64>,
    /// The place in the record, as a JSON pointer.
    pub pointer: Option<Cow<'f, str>>,
    /// The monolith's value.
    pub monolith: Option<Cow<'f, str>>,
    /// The services' value.
    pub services: Option<Cow<'f, str>>,
    /// A remark.
    pub note: Option<Cow<'f, str>>,
}

impl<'f> Finding<'f> {
    /// Makes a difference without details.
    pub fn new(route: Route, path: &'f str, kind: Kind) -> Self {
        let (route, path) = (route.name(), Cow::Borrowed(path));
        Self { route, path, kind, id: None, pointer: None, monolith: None, services: None, note: None }
    }

    /// Replaces the record's key by its text id in the note, since the key means nothing to a reader.
    pub fn name<'t>(&mut self, text_of: impl Fn(u64) -> Option<&'t str>) {
        let Some(id) = self.id.take() else { return };
        if let Some(text) = text_of(id) {
            let note = self.note.take().map(|note| format!(": {note}")).unwrap_or_default();
            self.note = Some(Cow::Owned(format!("id {text:?}{note}")));
        }
    }

    /// Replaces the secrets in all texts.
    pub fn hide(&mut self, secrets: &Secrets) {
        let texts = [&mut self.pointer, &mut self.monolith, &mut self.services, &mut self.note];
        for text in texts.into_iter().flatten().chain([&mut self.path]) {
            if let Cow::Owned(hidden) = secrets.hide(text) {
                *text = Cow::Owned(hidden);
            }
        }
    }

    /// Returns the difference with cut values, for printing and for memory.
    pub fn cut(&self) -> Finding<'static> {
        let cut = |text: &Option<Cow<str>>| text.as_ref().map(|text| Cow::Owned(cut(text)));
        Finding {
            route: Cow::Owned(self.route.to_string()),
            path: Cow::Owned(cut_at(&self.path, 4 * PRINTED)),
            kind: self.kind,
            id: self.id,
            pointer: self.pointer.as_ref().map(|pointer| Cow::Owned(cut_at(pointer, 4 * PRINTED))),
            monolith: cut(&self.monolith),
            services: cut(&self.services),
            note: self.note.as_ref().map(|note| Cow::Owned(cut_at(note, 4 * PRINTED))),
        }
    }

    /// Describes the difference in one line.
    pub fn text(&self) -> String {
        let mut text = self.id.map(|id| format!("id {id}: ")).unwrap_or_default();
        if let Some(note) = &self.note {
            text += note;
        }
        if self.monolith.is_none() && self.services.is_none() && self.note.is_some() {
            return text;
        }
        if self.note.is_some() {
            text += ": ";
        }
        let what = match self.kind {
            Kind::Status => "status ".to_owned(),
            Kind::ContentType => "content type ".to_owned(),
            _ => self.pointer.as_ref().filter(|at| !at.is_empty()).map(|at| format!("at {at}: ")).unwrap_or_default(),
        };
        let [monolith, services] = [&self.monolith, &self.services].map(|side| side.as_deref().unwrap_or("nothing"));
        text + &format!("{what}{monolith} from the monolith, {services} from the services")
    }
}

/// Returns the beginning of a value.
fn cut(text: &str) -> String {
    cut_at(text, PRINTED)
}

fn cut_at(text: &str, length: usize) -> String {
    // Control characters could move a terminal's cursor.
    let clean = |part: &str| part.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    match text.char_indices().nth(length) {
        None => clean(text),
        Some((end, _)) => format!("{}… ({} bytes)", clean(&text[..end]), text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expected_difference_has_its_own_key() {
        let all = Expected::all(&Plan::workspace());
        let keys: Vec<_> = all.iter().map(|kind| kind.key()).collect();
        let expected =
            ["post_id", "order", "not_found", "digits", "integer_keys", "not_an_id", "path_case", "added_route"];
        assert_eq!(keys, expected);
        assert!(all.is_sorted());
        assert_eq!(all[0].meaning(), "a post's added id");
        let entries = Collection::embedded(r#"{"name":"Entries","ids":"position","fields":[]}"#);
        assert_eq!(Expected::GivenId(entries).meaning(), "an Entry's added id");
    }
}
