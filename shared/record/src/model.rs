//! A record that fits its collection's declaration, and the keys by which it is found.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use smallvec::SmallVec;

pub use crate::declaration::{Collection, Index};
use crate::declaration::{EXPECTED_ID_TEXT, Field, IdRule, IndexDeclaration, Shape, TermKind, read_id_text};
use crate::id::Id;
use crate::json::{self, Fault, Member};
use crate::number::Number;

impl Collection {
    /// Returns the keys of a record in canonical form; `None` if it does not fit its declaration. A record without an
    /// id gets `given`. If the record `lies` in a database already, only its id must fit.
    fn keys(self, json: &str, members: &[Member], given: Option<Id>, lies: bool) -> Option<Keys> {
        let value_of = |name: &str| {
            let is_named = |key: Range<usize>| key.len() == name.len() && json.as_bytes()[key] == *name.as_bytes();
            let member = members.iter().find(|member| is_named(member.key.clone()));
            member.map(|member| &json[member.value.clone()])
        };
        self.keys_of(value_of, given, lies)
    }

    /// Returns the terms of the record `id`, whose members were read from a canonical text; `None` if it does not fit
    /// its declaration.
    pub fn terms(self, members: &[(&str, &str)], id: Id) -> Option<Terms> {
        let value_of = |name: &str| members.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        // If ids are texts, the record's text does not have its number.
        let keys = self.keys_of(value_of, self.has_text_ids().then_some(id), false)?;
        (keys.id == id && !keys.id_from_position).then_some(keys.terms)
    }

    /// Returns the owner of the record `json`, which is in canonical form: a text, or the digits of an id. Returns `None` if
    /// it names nobody.
    pub fn owner_of(self, json: &str) -> Option<Box<str>> {
        let declaration = self.declaration();
        let owner = declaration.owner.as_deref()?;
        let (_, value) = json::members(json).find(|(key, _)| *key == owner)?;
        if owner == "id" && self.has_text_ids() {
            return read_id_text(value).map(Box::from);
        }
        let term = match owner {
            "id" => Term::Id(value.parse().ok()?),
            name => Value::read(&declaration.field(name)?.shape, value)?.term()?,
        };
        Some(match term {
            Term::Id(id) => id.to_string().into(),
            Term::Text(text) | Term::Ordered(text) => text,
            Term::Number(_) => return None,
        })
    }

    fn keys_of<'v>(self, value_of: impl Fn(&str) -> Option<&'v str>, given: Option<Id>, lies: bool) -> Option<Keys> {
        let declaration = self.declaration();
        let mut terms = Terms::new();
        let (id, id_from_position) = match (declaration.ids, value_of("id")) {
            (IdRule::Position, None) => (given?, true),
            (IdRule::Record | IdRule::Position, id) => (id?.parse().ok()?, false),
            (IdRule::Single, _) => (Id::FIRST, false),
            (IdRule::Text, id) => {
                let number = given?;
                let text = id.map_or_else(|| Some(number.to_string().into()), read_id_text)?;
                terms.push((Index::IDS, Term::Text(text.into())));
                (number, id.is_none())
            }
        };
        for field in &declaration.fields {
            let value = match value_of(&field.name) {
                None | Some("null") if !field.required => continue,
                value => match value.and_then(|value| Value::read(&field.shape, value)) {
                    None if lies => continue,
                    value => value?,
                },
            };
            for index in declaration.indexes.iter().filter(|index| index.field == field.name) {
                terms.push((index.number, index.term(value.term()?)));
            }
        }
        Some(Keys { id, id_from_position, position: None, terms })
    }

    /// Returns the reason why the record `json` with `members` does not fit its declaration, and its place in the
    /// source.
    fn misfit(self, json: &str, members: &[Member]) -> Fault {
        let declaration = self.declaration();
        for member in members {
            let (name, value) = (&json[member.key.clone()], &json[member.value.clone()]);
            let reason = match (name, declaration.ids, declaration.field(name)) {
                ("id", IdRule::Record | IdRule::Position, _) => misfit_of::<Id>(value),
                ("id", IdRule::Text, _) => misfit_of_text_id(value),
                ("id", ..) | (_, _, None) => None,
                (_, _, Some(Field { required: false, .. })) if value == "null" => None,
                (_, _, Some(Field { shape, .. })) => match shape.is_of() {
                    Some(TermKind::Id) => misfit_of::<Id>(value),
                    Some(TermKind::Text) => misfit_of::<Cow<str>>(value),
                    Some(TermKind::TextId) => misfit_of_text_id(value),
                    Some(TermKind::Number) | None => {
                        shape.check(value).err().map(|must| expected(must.trim_start_matches("must be "), value))
                    }
                },
            };
            if let Some(reason) = reason {
                let mut pointer = String::new();
                json::push_pointer(&mut pointer, name);
                return Fault { pointer, offset: member.offset, reason };
            }
        }
        let is_there = |name: &str| members.iter().any(|member| &json[member.key.clone()] == name);
        // The keys were `None` although no member misfits: a required one is missing, or there was no id to give.
        let id = ("id", declaration.ids == IdRule::Record);
        let fields = declaration.fields.iter().map(|field| (&*field.name, field.required));
        let missing = std::iter::once(id).chain(fields).find(|(name, required)| *required && !is_there(name));
        let missing = missing.map_or("id", |(name, _)| name);
        Fault { pointer: String::new(), offset: 0, reason: format!("missing field `{missing}`") }
    }
}

/// Returns the reason why `value` is not a `T`; `None` if it is one.
fn misfit_of<'v, T: Deserialize<'v>>(value: &'v str) -> Option<String> {
    serde_json::from_str::<T>(value).err().map(|error| json::reason_of(&error))
}

/// Returns the reason why `value` is not a text id; `None` if it is one.
fn misfit_of_text_id(value: &str) -> Option<String> {
    if read_id_text(value).is_some() {
        return None;
    }
    let text = if value.starts_with('"') { json::read_text(value) } else { None };
    Some(match text.map(|text| text.len()) {
        Some(0) => format!("expected {EXPECTED_ID_TEXT}, found an empty string"),
        Some(bytes) => format!("expected {EXPECTED_ID_TEXT}, found a string of {bytes} bytes"),
        None => expected(EXPECTED_ID_TEXT, value),
    })
}

fn expected(what: &str, value: &str) -> String {
    format!("expected {what}, found {}", json::kind(value))
}

/// Tells whether `value`, in canonical form, is of the field's kind, without regard to its limits.
pub(crate) fn is_of_kind(shape: &Shape, value: &str) -> bool {
    Value::read(shape, value).is_some()
}

/// A field's value in a record.
enum Value<'r> {
    Id(Id),
    TextId(Cow<'r, str>),
    /// With its quotes.
    Text(&'r str),
    /// As it is spelled.
    Number(&'r str),
    /// A value that no index lists.
    Other,
}

impl<'r> Value<'r> {
    /// Reads `value`; returns `None` if it is not of the field's kind.
    fn read(shape: &Shape, value: &'r str) -> Option<Self> {
        match shape.is_of() {
            Some(TermKind::Id) => value.parse().ok().map(Value::Id),
            Some(TermKind::TextId) => read_id_text(value).map(Value::TextId),
            Some(TermKind::Text) => value.starts_with('"').then_some(Value::Text(value)),
            Some(TermKind::Number) => shape.check(value).is_ok().then_some(Value::Number(value)),
            None => shape.check(value).is_ok().then_some(Value::Other),
        }
    }

    fn term(&self) -> Option<Term> {
        match self {
            Value::Id(id) => Some(Term::Id(*id)),
            Value::TextId(text) => Some(Term::from(&**text)),
            Value::Text(text) => json::read_text(text).map(|text| Term::Text(text.into())),
            Value::Number(number) => Number::read(number).map(Term::Number),
            Value::Other => None,
        }
    }
}

/// The value that an index is searched for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// A reference to a record.
    Id(Id),
    /// A text, compared exactly.
    Text(Box<str>),
    /// A text in an index with an order.
    Ordered(Box<str>),
    /// A number, compared by its value.
    Number(Number),
}

impl IndexDeclaration {
    /// Returns the term under which this index lists `value`, in canonical form; `None` if it is of another kind than the
    /// field, which has this `shape`.
    pub fn term_of(&self, shape: &Shape, value: &str) -> Option<Term> {
        Value::read(shape, value)?.term().map(|term| self.term(term))
    }

    /// Returns `term` as this index lists it.
    pub fn term(&self, term: Term) -> Term {
        match term {
            Term::Text(text) if self.order => Term::Ordered(text),
            other => other,
        }
    }
}

impl From<Id> for Term {
    fn from(id: Id) -> Self {
        Term::Id(id)
    }
}

impl From<&str> for Term {
    fn from(text: &str) -> Self {
        Term::Text(text.into())
    }
}

/// The terms by which a record is found, besides its id.
pub type Terms = SmallVec<[(Index, Term); 3]>;

/// The id and the terms by which a record is found.
struct Keys {
    id: Id,
    id_from_position: bool,
    position: Option<Id>,
    terms: Terms,
}

/// A record that fits its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'r> {
    /// The record's id.
    pub id: Id,
    /// Whether the split gave the record its id, from its position in the file, because it has none of its own.
    pub id_from_position: bool,
    /// Its place among the source's records, from 1, if it comes from a source.
    pub position: Option<Id>,
    /// The record as in the source, in canonical form, without an id from its position.
    pub source: &'r str,
    /// The terms by which the record is found, besides its id.
    pub terms: &'r Terms,
}

impl<'r> Record<'r> {
    /// Returns the text of its id, if ids are texts.
    pub fn id_text(&self) -> Option<&'r str> {
        self.terms.iter().find_map(|(index, term)| match term {
            Term::Text(text) if *index == Index::IDS => Some(&**text),
            _ => None,
        })
    }

    /// Returns the record as it is sent: with an id from its position as the first member.
    pub fn json(&self) -> Cow<'r, str> {
        if self.id_from_position { Cow::Owned(with_id(self.source, self.id)) } else { Cow::Borrowed(self.source) }
    }
}

/// Puts `id` as the first member into the record `source`, which has no id.
pub(crate) fn with_id(source: &str, id: Id) -> String {
    let comma = if source == "{}" { "" } else { "," };
    format!("{{\"id\":{id}{comma}{}", &source[1..])
}

/// Returns the rest of the record `json` after its opening brace and the `id` that [`Record::json`] put there.
pub fn without_id(json: &[u8], id: Id) -> &[u8] {
    let rest = &json[format!("{{\"id\":{id}").len()..];
    rest.strip_prefix(b",").unwrap_or(rest)
}

/// Returns the record `json` without its first member, if that is `id`.
pub fn strip_id(json: &str, id: Id) -> Option<String> {
    let rest = json.strip_prefix(&format!("{{\"id\":{id}"))?;
    let rest = rest.strip_prefix(',').or(Some(rest).filter(|rest| *rest == "}"))?;
    Some(format!("{{{rest}"))
}

/// Consecutive records of one collection, in one allocation.
pub struct Records {
    collection: Collection,
    /// The records' canonical JSON, with commas between them.
    text: String,
    rows: Vec<(Keys, Range<usize>)>,
    /// A buffer for the members of the current record.
    members: Vec<Member>,
}

impl Records {
    /// Returns an empty list with room for `bytes` of JSON.
    pub fn new(collection: Collection, bytes: usize) -> Self {
        Self { collection, text: String::with_capacity(bytes), rows: Vec::new(), members: Vec::new() }
    }

    /// Makes room for so many records more.
    #[must_use]
    pub fn with_room_for(mut self, records: usize) -> Self {
        self.rows.reserve_exact(records);
        self
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Reads a record and adds it. `position` is its place in the source, and becomes its id if it may lack one and
    /// does.
    ///
    /// # Errors
    /// The text is not a JSON object, or does not fit the declaration. The fault's pointer starts at the record, which
    /// is not added.
    pub fn push(&mut self, text: &str, position: Option<Id>) -> Result<(), Fault> {
        self.push_given(text, position, position)
    }

    /// Like [`push`](Self::push), but a record without an id gets `given`, which may differ from its position.
    ///
    /// # Errors
    /// See [`push`](Self::push).
    pub fn push_given(&mut self, text: &str, position: Option<Id>, given: Option<Id>) -> Result<(), Fault> {
        self.read(text, position, given, false)
    }

    fn read(&mut self, text: &str, position: Option<Id>, given: Option<Id>, lies: bool) -> Result<(), Fault> {
        let before = self.text.len();
        if !self.rows.is_empty() {
            self.text.push(',');
        }
        let begin = self.text.len();
        let read = json::canonical_object(text, &mut self.text, &mut self.members).and_then(|()| {
            let keys = self.collection.keys(&self.text, &self.members, given, lies);
            let keys = keys.map(|keys| Keys { position, ..keys });
            keys.ok_or_else(|| self.collection.misfit(&self.text, &self.members))
        });
        match read {
            Ok(keys) => self.rows.push((keys, begin..self.text.len())),
            Err(fault) => {
                self.text.truncate(before);
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Reads the record `id` as it is stored and sent, and adds it.
    ///
    /// # Errors
    /// See [`push`](Self::push).
    pub fn push_stored(&mut self, text: &str, id: Id) -> Result<(), Fault> {
        // If ids are texts, the record's text does not have its number.
        self.push_given(text, None, self.collection.has_text_ids().then_some(id))
    }

    /// Adds the record `id` as it lies in a database. The declaration may have been wider when it was written, so a
    /// field that does not fit is left out of the indexes. `given` says that the text lacks the id.
    ///
    /// # Errors
    /// The text is not a JSON object, or its id is invalid.
    pub fn push_lying(&mut self, text: &str, id: Id, given: bool) -> Result<(), Fault> {
        self.read(text, None, (given || self.collection.has_text_ids()).then_some(id), true)
    }

    /// Returns the collection of these records.
    pub fn collection(&self) -> Collection {
        self.collection
    }

    /// Returns the records' text as in the source, with commas between them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Keeps only the records for which `keep` returns `true`.
    pub fn retain(&mut self, mut keep: impl FnMut(Record) -> bool) {
        let keep: Vec<bool> = self.iter().map(&mut keep).collect();
        if keep.iter().all(|keep| *keep) {
            return;
        }
        let text = std::mem::take(&mut self.text);
        let rows = std::mem::take(&mut self.rows);
        for ((keys, range), _) in rows.into_iter().zip(keep).filter(|(_, keep)| *keep) {
            if !self.rows.is_empty() {
                self.text.push(',');
            }
            let begin = self.text.len();
            self.text.push_str(&text[range]);
            self.rows.push((keys, begin..self.text.len()));
        }
    }

    /// Lists the records.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.rows.iter().map(|(keys, range)| Record {
            id: keys.id,
            id_from_position: keys.id_from_position,
            position: keys.position,
            source: &self.text[range.clone()],
            terms: &keys.terms,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Deserializer};

    use super::*;
    use crate::sample;

    // The models as serde would read them.
    #[derive(Deserialize)]
    struct User {
        id: Id,
        username: String,
        #[serde(default)]
        #[expect(dead_code, reason = "it only makes serde check the field")]
        name: Option<String>,
        #[serde(default)]
        #[expect(dead_code, reason = "it only makes serde check the field")]
        bio: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Thread {
        id: Id,
        #[expect(dead_code, reason = "it only makes serde check the field")]
        title: String,
        created_by: Id,
    }

    #[derive(Deserialize)]
    struct Post {
        #[serde(default, deserialize_with = "present")]
        id: Option<Id>,
        thread: Id,
        #[expect(dead_code, reason = "it only makes serde check the field")]
        text: String,
        #[expect(dead_code, reason = "it only makes serde check the field")]
        user: Id,
    }

    /// Reads a field that may be absent, but not null.
    fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Id>, D::Error> {
        Id::deserialize(deserializer).map(Some)
    }

    fn read(collection: Collection, text: &str, position: Option<u64>) -> Result<Records, Fault> {
        let mut records = Records::new(collection, 0);
        records.push(text, position.and_then(|position| position.try_into().ok()))?;
        Ok(records)
    }

    #[test]
    fn a_post_without_an_id_gets_its_position() {
        let source = r#"{"thread":1,"text":"t","user":2,"more":[1.0]}"#;
        let records = read(sample::posts(), source, Some(7)).unwrap();
        let record = records.iter().next().unwrap();
        assert_eq!(record.json(), r#"{"id":7,"thread":1,"text":"t","user":2,"more":[1.0]}"#);
        assert!(record.id_from_position);
        assert_eq!(record.source, source);
        let [thread, user] = [1, 2].map(|id| Term::Id(Id::try_from(id).unwrap()));
        assert_eq!(record.terms[..], [(sample::IN_THREAD, thread), (sample::BY_USER, user)]);

        let source = r#"{"thread":1,"id":9,"text":"t","user":2}"#;
        let records = read(sample::posts(), source, Some(7)).unwrap();
        let record = records.iter().next().unwrap();
        assert_eq!((record.id.get(), record.id_from_position), (9, false));
        assert_eq!(record.json(), source);
    }

    #[test]
    fn a_refused_record_leaves_no_trace() {
        let mut records = Records::new(sample::users(), 0);
        for (text, fits) in [
            ("{", false),
            (r#"{"id":1,"username":"a"}"#, true),
            ("{}", false),
            (r#"{"id":2,"username":"b"}"#, true),
            ("7", false),
        ] {
            assert_eq!(records.push(text, None).is_ok(), fits, "{text}");
        }
        assert_eq!(records.text(), r#"{"id":1,"username":"a"},{"id":2,"username":"b"}"#);
        assert_eq!(records.iter().map(|record| record.id.get()).collect::<Vec<_>>(), [1, 2]);
    }

    proptest! {
        /// Our check of a record agrees with serde's.
        #[test]
        fn a_record_fits_if_and_only_if_serde_accepts_it(
            values in prop::collection::vec(prop::option::weighted(0.8, prop_oneof![
                Just("1"), Just("7"), Just("0"), Just("-1"), Just("1.0"), Just("1e0"), Just("9223372036854775808"),
                Just("null"), Just("true"), Just("[1]"), Just("{}"), Just(r#""""#), Just(r#""a""#), Just(r#""\"\\\n\u0000é""#),
            ]), 11),
            text in any::<String>(),
        ) {
            let text = serde_json::to_string(&text).unwrap();
            let names = ["id", "username", "name", "bio", "title", "createdBy", "thread", "text", "user", "\\\"id", "ids"];
            // A good record, some of whose members are replaced or removed.
            for (collection, good) in sample::all().into_iter().zip([
                vec![("id", "1"), ("username", &text)],
                vec![("id", "1"), ("title", &text), ("createdBy", "2")],
                vec![("thread", "1"), ("text", &text), ("user", "2")],
            ]) {
                for spoilt in 0..=names.len() {
                    let mut members: BTreeMap<&str, &str> = good.iter().copied().collect();
                    let odd = if spoilt < names.len() { spoilt..spoilt + 1 } else { 0..names.len() };
                    for (name, value) in names[odd.clone()].iter().zip(&values[odd]) {
                        match value {
                            Some(value) => members.insert(name, value),
                            None => members.remove(name),
                        };
                    }
                    let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                    let json = format!("{{{}}}", members.join(","));
                    let theirs = match collection.name() {
                        "users" => serde_json::from_str::<User>(&json).ok().map(|user| (user.id, Some(Term::from(&*user.username)))),
                        "threads" => serde_json::from_str::<Thread>(&json).ok().map(|thread| (thread.id, Some(Term::Id(thread.created_by)))),
                        _ => serde_json::from_str::<Post>(&json).ok()
                            .map(|post| (post.id.unwrap_or(Id::MAX), Some(Term::Id(post.thread)))),
                    };
                    let ours = read(collection, &json, Some(Id::MAX.get())).ok();
                    let ours = ours.as_ref().and_then(|records| records.iter().next())
                        .map(|record| (record.id, record.terms.first().map(|(_, term)| term.clone())));
                    prop_assert_eq!(ours, theirs, "{}", json);
                }
            }
        }
    }

    #[test]
    fn a_record_in_a_database_is_found_by_the_fields_that_fit() {
        for (source, expected) in [
            (r#"{"id":7,"thread":"x","user":2}"#, Some(1)),
            (r#"{"id":7,"thread":null,"text":5,"user":2}"#, Some(1)),
            (r#"{"id":7}"#, Some(0)),
            (r#"{"id":"7","thread":1,"user":2}"#, None),
            (r#"{"thread":1,"user":2}"#, None),
        ] {
            assert!(read(sample::posts(), source, None).is_err());
            let mut records = Records::new(sample::posts(), 0);
            let read = records.push_lying(source, Id::try_from(7).unwrap(), false).is_ok();
            let terms = records.iter().next().map(|record| record.terms.len());
            assert_eq!((read, terms), (expected.is_some(), expected), "{source}");
        }
    }

    #[test]
    fn a_record_is_found_by_the_value_of_a_number() {
        let json = r#"{"name":"goods","ids":"record","fields":[{"name":"price","shape":"number","required":false}],
            "indexes":[{"number":1,"field":"price","route":"for"}]}"#;
        let goods = Collection::of(crate::declaration::Declaration::read(json).unwrap());
        let terms = |value: &str| -> Option<Vec<(Index, Term)>> {
            let records = read(goods, &format!(r#"{{"id":1,"price":{value}}}"#), None).ok()?;
            records.iter().next().map(|record| record.terms.to_vec())
        };
        let number = |text: &str| Some(vec![(Index(1), Term::Number(Number::read(text).unwrap()))]);
        assert_eq!((terms("9.50"), terms("-0E5"), terms("null")), (number("95e-1"), number("0"), Some(vec![])));
        assert_ne!(terms("9007199254740993"), terms("9007199254740992"));
        assert_eq!([terms("\"9.5\""), terms("true"), terms("[1]")], [None, None, None]);
        let owned = json.replace("\"ids\"", "\"owner\":\"price\",\"ids\"");
        assert!(crate::declaration::Declaration::read(&owned).is_err(), "a number owns nothing");
    }

    #[test]
    fn retain_keeps_the_chosen_records() {
        let mut records = Records::new(sample::users(), 0);
        for number in 1..=4 {
            records.push(&format!(r#"{{"id":{number},"username":"a"}}"#), Id::try_from(number).ok()).unwrap();
        }
        records.retain(|record| record.id.get() % 2 == 0);
        assert_eq!(records.text(), r#"{"id":2,"username":"a"},{"id":4,"username":"a"}"#);
        let places: Vec<u64> = records.iter().map(|record| record.position.unwrap().get()).collect();
        assert_eq!(places, [2, 4]);
        assert_eq!(records.iter().last().unwrap().source, r#"{"id":4,"username":"a"}"#);
    }

    #[test]
    fn a_misfit_is_reported_with_its_place() {
        for (source, pointer, offset, reason) in [
            (r#"{"thread":1,"text":"t"}"#, "", 0, "missing field `user`"),
            (
                r#"{"thread":"1","text":"t","user":2}"#,
                "/thread",
                10,
                "expected an integer from 1 to 9223372036854775807",
            ),
            (r#"{"thread":0,"text":"t","user":2}"#, "/thread", 10, "invalid value: integer `0`"),
            (r#"{"thread":1, "text" : 5,"user":2}"#, "/text", 22, "invalid type: integer `5`, expected a string"),
            (r#"{"id":1.5,"thread":1,"text":"","user":2}"#, "/id", 6, "invalid type: floating point `1.5`"),
            (r#"{"id":null,"thread":1,"text":"","user":2}"#, "/id", 6, "invalid type: null"),
        ] {
            let fault = read(sample::posts(), source, Some(7)).err().unwrap();
            assert_eq!((fault.pointer.as_str(), fault.offset), (pointer, offset), "{source}: {fault}");
            assert!(fault.reason.contains(reason), "{source}: {fault}");
        }
        let reason = |collection, source| read(collection, source, None).err().unwrap().reason;
        assert_eq!(reason(sample::users(), r#"{"username":"a"}"#), "missing field `id`");
        assert_eq!(reason(sample::posts(), r#"{"thread":1,"text":"t","user":2}"#), "missing field `id`");
    }
}
