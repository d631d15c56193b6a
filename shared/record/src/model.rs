//! A record, and what it is found by, as its collection's declaration has it.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use smallvec::SmallVec;

pub use crate::declaration::{Collection, Index};
use crate::declaration::{EXPECTED_ID_TEXT, Field, IdRule, Shape, TermKind, read_id_text};
use crate::id::Id;
use crate::json::{self, Fault, Member};

impl Collection {
    /// What a record, in canonical form, is found by; nothing where it does not fit its declaration. `given` is the id of
    /// one that has none. Of one that `lies` in a database already, the id alone has to fit.
    fn keys(self, json: &str, members: &[Member], given: Option<Id>, lies: bool) -> Option<Keys> {
        let declaration = self.declaration();
        let value_of = |name: &str| {
            let member = members.iter().find(|member| &json[member.key.clone()] == name);
            member.map(|member| &json[member.value.clone()])
        };
        let mut terms = Terms::new();
        let (id, id_from_position) = match (declaration.ids, value_of("id")) {
            (IdRule::Position, None) => (given?, true),
            (IdRule::Record | IdRule::Position, id) => (id?.parse().ok()?, false),
            (IdRule::Single, _) => (Id::FIRST, false),
            (IdRule::Text, id) => {
                let number = given?;
                let text = id.map_or_else(|| Some(number.to_string().into()), read_id_text)?;
                terms.push((Index::IDS, Term::Text(text)));
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
                terms.push((index.number, value.term()?));
            }
        }
        Some(Keys { id, id_from_position, position: None, terms })
    }

    /// Why the record in `json`, whose `members` these are, does not fit its declaration, with the place in the source.
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
                    None => shape.check(value).err().map(|must| expected(must.trim_start_matches("must be "), value)),
                },
            };
            if let Some(reason) = reason {
                let mut pointer = String::new();
                json::push_pointer(&mut pointer, name);
                return Fault { pointer, offset: member.offset, reason };
            }
        }
        let is_there = |name: &str| members.iter().any(|member| &json[member.key.clone()] == name);
        // What lacks its number was read as something else than it is.
        let id = ("id", declaration.ids == IdRule::Record);
        let fields = declaration.fields.iter().map(|field| (&*field.name, field.required));
        let missing = std::iter::once(id).chain(fields).find(|(name, required)| *required && !is_there(name));
        let missing = missing.map_or("id", |(name, _)| name);
        Fault { pointer: String::new(), offset: 0, reason: format!("missing field `{missing}`") }
    }
}

/// Why `value` is no `T`.
fn misfit_of<'v, T: Deserialize<'v>>(value: &'v str) -> Option<String> {
    serde_json::from_str::<T>(value).err().map(|error| json::reason_of(&error))
}

/// Why `value` is no id that is a text.
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

/// Whether `value`, in canonical form, is of the kind that a field has, whatever its limits are.
pub(crate) fn is_of_kind(shape: &Shape, value: &str) -> bool {
    Value::read(shape, value).is_some()
}

/// What an index of such a field lists `value` under, in canonical form; nothing where it is of another kind.
pub fn term_of(shape: &Shape, value: &str) -> Option<Term> {
    Value::read(shape, value)?.term()
}

/// A field's value as it stands in a record.
enum Value<'r> {
    Id(Id),
    TextId(Box<str>),
    /// With its quotes.
    Text(&'r str),
    /// No index lists it.
    Other,
}

impl<'r> Value<'r> {
    /// What `value` is; nothing where it is not of the field's kind.
    fn read(shape: &Shape, value: &'r str) -> Option<Self> {
        match shape.is_of() {
            Some(TermKind::Id) => value.parse().ok().map(Value::Id),
            Some(TermKind::TextId) => read_id_text(value).map(Value::TextId),
            Some(TermKind::Text) => value.starts_with('"').then_some(Value::Text(value)),
            None => shape.check(value).is_ok().then_some(Value::Other),
        }
    }

    fn term(&self) -> Option<Term> {
        match self {
            Value::Id(id) => Some(Term::Id(*id)),
            Value::TextId(text) => Some(Term::Text(text.clone())),
            Value::Text(text) => json::read_text(text).map(Term::Text),
            Value::Other => None,
        }
    }
}

/// What an index is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// A reference to a record.
    Id(Id),
    /// A text, compared exactly.
    Text(Box<str>),
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

/// What a record is found by, beside its id.
pub type Terms = SmallVec<[(Index, Term); 2]>;

/// Everything a record is found by.
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
    /// Whether the split gave the record its id, from its position in the file: it has none of its own.
    pub id_from_position: bool,
    /// Its place among the source's records, from 1, if it comes from one.
    pub position: Option<Id>,
    /// The record as the source has it, in canonical form: without an id from its position.
    pub source: &'r str,
    /// Where the record is found beside its id.
    pub terms: &'r Terms,
}

impl<'r> Record<'r> {
    /// What its id says, where ids are texts.
    pub fn id_text(&self) -> Option<&'r str> {
        self.terms.iter().find_map(|(index, term)| match term {
            Term::Text(text) if *index == Index::IDS => Some(&**text),
            _ => None,
        })
    }

    /// The record as it is sent: an id from its position is its first member.
    pub fn json(&self) -> Cow<'r, str> {
        if self.id_from_position { Cow::Owned(with_id(self.source, self.id)) } else { Cow::Borrowed(self.source) }
    }
}

/// The record `source`, which has no id of its own, with one as its first member.
pub(crate) fn with_id(source: &str, id: Id) -> String {
    let comma = if source == "{}" { "" } else { "," };
    format!("{{\"id\":{id}{comma}{}", &source[1..])
}

/// What stands behind the bracket of the record `json` and the id that [`Record::json`] put there.
pub fn without_id(json: &[u8], id: Id) -> &[u8] {
    let rest = &json[format!("{{\"id\":{id}").len()..];
    rest.strip_prefix(b",").unwrap_or(rest)
}

/// The record `json` without its first member, where that is `id`.
pub fn strip_id(json: &str, id: Id) -> Option<String> {
    let rest = json.strip_prefix(&format!("{{\"id\":{id}"))?;
    let rest = rest.strip_prefix(',').or(Some(rest).filter(|rest| *rest == "}"))?;
    Some(format!("{{{rest}"))
}

/// Consecutive records of one collection, in one piece of memory.
pub struct Records {
    collection: Collection,
    /// The records' canonical JSON, with commas between them.
    text: String,
    rows: Vec<(Keys, Range<usize>)>,
    /// Room for the members of the record at hand.
    members: Vec<Member>,
}

impl Records {
    /// No records yet, and room for `bytes` of JSON.
    pub fn new(collection: Collection, bytes: usize) -> Self {
        Self { collection, text: String::with_capacity(bytes), rows: Vec::new(), members: Vec::new() }
    }

    /// Reads a record and adds it. `position` is its place in the source, and the id of a post that has none.
    ///
    /// # Errors
    /// The text is not a JSON object or not such a record; the fault's pointer starts at the record. It is not added.
    pub fn push(&mut self, text: &str, position: Option<Id>) -> Result<(), Fault> {
        self.push_given(text, position, position)
    }

    /// The same, where a post that has no id is to have the id `given`, which need not be its position.
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
        // Its number does not stand in it where ids are texts.
        self.push_given(text, None, self.collection.has_text_ids().then_some(id))
    }

    /// Adds the record `id` as it lies in a database, whose declaration may have been wider when it was written: a field
    /// that does not fit is in no index. `given` says that the id does not stand in the text.
    ///
    /// # Errors
    /// The text is not a JSON object, or its id is none.
    pub fn push_lying(&mut self, text: &str, id: Id, given: bool) -> Result<(), Fault> {
        self.read(text, None, (given || self.collection.has_text_ids()).then_some(id), true)
    }

    /// Whose records these are.
    pub fn collection(&self) -> Collection {
        self.collection
    }

    /// The records as the source has them, with commas between them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Keeps the records that `keep` says to keep.
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

    /// The records.
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

    // What serde would make of them.
    #[derive(Deserialize)]
    struct User {
        id: Id,
        username: String,
        #[serde(default)]
        #[expect(dead_code, reason = "it is there to be refused")]
        name: Option<String>,
        #[serde(default)]
        #[expect(dead_code, reason = "it is there to be refused")]
        bio: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Thread {
        id: Id,
        #[expect(dead_code, reason = "it is there to be refused")]
        title: String,
        created_by: Id,
    }

    #[derive(Deserialize)]
    struct Post {
        #[serde(default, deserialize_with = "present")]
        id: Option<Id>,
        thread: Id,
        #[expect(dead_code, reason = "it is there to be refused")]
        text: String,
        #[expect(dead_code, reason = "it is there to be refused")]
        user: Id,
    }

    /// A field that may be absent, but not null.
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
    fn a_record_that_is_refused_leaves_no_trace() {
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
        /// The quick look at a record says what serde says.
        #[test]
        fn a_record_fits_if_serde_takes_it(
            values in prop::collection::vec(prop::option::weighted(0.8, prop_oneof![
                Just("1"), Just("7"), Just("0"), Just("-1"), Just("1.0"), Just("1e0"), Just("9223372036854775808"),
                Just("null"), Just("true"), Just("[1]"), Just("{}"), Just(r#""""#), Just(r#""a""#), Just(r#""\"\\\n\u0000é""#),
            ]), 11),
            text in any::<String>(),
        ) {
            let text = serde_json::to_string(&text).unwrap();
            let names = ["id", "username", "name", "bio", "title", "createdBy", "thread", "text", "user", "\\\"id", "ids"];
            // Mostly a good record; then some of its members are something else.
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
    fn what_lies_in_a_database_is_found_by_what_fits() {
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
    fn some_records_are_kept_and_others_not() {
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
    fn a_misfit_is_named_with_its_place() {
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
