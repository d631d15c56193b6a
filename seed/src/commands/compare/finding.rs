//! What differs, for people and for programs.

use std::borrow::Cow;

use record::model::Collection;
use serde::{Deserialize, Serialize};

use super::address::Secrets;
use super::client::FailureKind;
use super::route::Route;
use crate::plan::Plan;

/// How much of a value is printed, in characters; a report has all of it.
const PRINTED: usize = 160;

/// A difference that is there on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expected {
    /// A record has the id that the split gave it, as first member.
    GivenId(Collection),
    /// A list is in id order.
    Order,
    /// 404 where the monolith sends 204.
    NotFound,
    /// A number has the source's digits, which JavaScript rounds or rewrites.
    Digits,
    /// Members whose keys are array indexes stand where the source has them; JavaScript sends them first.
    IntegerKeys,
    /// 400 for an id that the monolith parses as far as it goes.
    NotAnId,
    /// 404 for a path that is right but for upper and lower case.
    PathCase,
    /// A route that the monolith does not have.
    AddedRoute,
}

impl Expected {
    /// All that there are, in the order in which they are printed.
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

    /// The key in reports.
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

    /// For people: "as expected, 3 differ in …".
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
            Expected::NotAnId => "400 for an id that is none",
            Expected::PathCase => "404 for another case of a path",
            Expected::AddedRoute => "a route that the monolith does not have",
        };
        meaning.into()
    }
}

/// In what two answers differ though they should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The statuses.
    Status,
    /// What the bodies say they are.
    ContentType,
    /// The services' body is not encoded as it says, or as nobody asked for.
    ContentEncoding,
    /// The services do not answer.
    NoAnswer,
    /// They do not in time.
    TimedOut,
    /// Their body ends too early.
    Truncated,
    /// It goes on for too long.
    TooLong,
    /// It is not the JSON that it begins as.
    Malformed,
    /// One side sends a list, the other does not.
    Shape,
    /// The services' list is not in id order.
    Order,
    /// A record that the monolith has is missing.
    Missing,
    /// The services have a record that the monolith has not.
    Added,
    /// The services have a record more than once.
    Repeated,
    /// A record has another id than it should.
    Id,
    /// A record has no id.
    NoId,
    /// A value.
    Value,
    /// The values mean the same and are spelled in different ways.
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

/// One difference, with both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding<'f> {
    /// The name of the path's route.
    pub route: Cow<'f, str>,
    /// The path, without its query's values.
    pub path: Cow<'f, str>,
    /// What kind of difference.
    pub kind: Kind,
    /// The record that differs.
    pub id: Option<u64>,
    /// Where in the record, as a JSON pointer.
    pub pointer: Option<Cow<'f, str>>,
    /// What the monolith has there.
    pub monolith: Option<Cow<'f, str>>,
    /// What the services have there.
    pub services: Option<Cow<'f, str>>,
    /// What else there is to say.
    pub note: Option<Cow<'f, str>>,
}

impl<'f> Finding<'f> {
    /// A difference with no more to it than this.
    pub fn new(route: Route, path: &'f str, kind: Kind) -> Self {
        let (route, path) = (route.name(), Cow::Borrowed(path));
        Self { route, path, kind, id: None, pointer: None, monolith: None, services: None, note: None }
    }

    /// Says which record it is by its id, which is a text: the key that stands for that says nothing.
    pub fn name<'t>(&mut self, text_of: impl Fn(u64) -> Option<&'t str>) {
        let Some(id) = self.id.take() else { return };
        if let Some(text) = text_of(id) {
            let note = self.note.take().map(|note| format!(": {note}")).unwrap_or_default();
            self.note = Some(Cow::Owned(format!("id {text:?}{note}")));
        }
    }

    /// Takes the secrets out.
    pub fn hide(&mut self, secrets: &Secrets) {
        let texts = [&mut self.pointer, &mut self.monolith, &mut self.services, &mut self.note];
        for text in texts.into_iter().flatten().chain([&mut self.path]) {
            if let Cow::Owned(hidden) = secrets.hide(text) {
                *text = Cow::Owned(hidden);
            }
        }
    }

    /// The same with its values cut, to be printed and kept.
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

    /// What differs, in a line.
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

/// The beginning of a value.
fn cut(text: &str) -> String {
    cut_at(text, PRINTED)
}

fn cut_at(text: &str, length: usize) -> String {
    // Control characters would write elsewhere on a terminal.
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
    fn what_is_expected_has_a_key_of_its_own() {
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
