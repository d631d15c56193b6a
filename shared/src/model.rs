//! The three collections, their records' models, and what each is indexed by.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use crate::id::Id;
use crate::json::{self, Fault, Member};

/// Somebody who writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User<'a> {
    /// The user's id.
    pub id: Id,
    /// The name in URLs.
    #[serde(borrow)]
    pub username: Cow<'a, str>,
    /// The name for people.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    /// A line about the user.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub bio: Option<Cow<'a, str>>,
}

/// A subject that posts belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thread<'a> {
    /// The thread's id.
    pub id: Id,
    /// The subject.
    #[serde(borrow)]
    pub title: Cow<'a, str>,
    /// The user who began it.
    pub created_by: Id,
}

/// What a user wrote in a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post<'a> {
    /// The post's id. The monolith's posts have none; the split gives them one, which is then their first member.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// The thread it belongs to.
    pub thread: Id,
    /// What was written.
    #[serde(borrow)]
    pub text: Cow<'a, str>,
    /// The user who wrote it.
    pub user: Id,
}

/// A field that may be absent, but not null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Id>, D::Error> {
    Id::deserialize(deserializer).map(Some)
}

impl User<'_> {
    /// Users by their `username`.
    pub const BY_USERNAME: Index = Index(1);
}

impl Thread<'_> {
    /// Threads by their `createdBy`.
    pub const BY_USER: Index = Index(1);
}

impl Post<'_> {
    /// Posts by their `thread`.
    pub const IN_THREAD: Index = Index(1);
    /// Posts by their `user`.
    pub const BY_USER: Index = Index(2);
}

/// A collection of the monolith: one top-level array of its file, one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// Of [`User`]s.
    Users,
    /// Of [`Thread`]s.
    Threads,
    /// Of [`Post`]s.
    Posts,
}

impl Collection {
    /// All of them, in the monolith's order.
    pub const ALL: [Collection; 3] = [Collection::Users, Collection::Threads, Collection::Posts];

    /// The name in files, URLs and messages.
    pub fn name(self) -> &'static str {
        match self {
            Collection::Users => "users",
            Collection::Threads => "threads",
            Collection::Posts => "posts",
        }
    }

    /// This collection alone, as a list.
    pub fn alone(self) -> &'static [Collection] {
        match self {
            Collection::Users => &[Collection::Users],
            Collection::Threads => &[Collection::Threads],
            Collection::Posts => &[Collection::Posts],
        }
    }

    /// Whether the monolith's records may have no ids, so that the split gives them some.
    pub fn may_lack_ids(self) -> bool {
        self == Collection::Posts
    }

    /// What a record, in canonical form, is found by; nothing where it does not fit its model. `given` is the id of a
    /// post that has none.
    ///
    /// serde could say the same, and does where it has to say why not: but it would read each text once more, and that
    /// would be a fifth of the time of a split. A test holds the two together.
    fn keys(self, json: &str, members: &[Member], given: Option<Id>) -> Option<Keys> {
        let found = |name: &str| {
            let member = members.iter().find(|member| &json[member.key.clone()] == name);
            member.map(|member| &json[member.value.clone()])
        };
        let id = |name| found(name).and_then(|value| value.parse::<Id>().ok());
        let text = |name| found(name).filter(|value| value.starts_with('"'));
        let text_or_none = |name| found(name).is_none_or(|value| value.starts_with('"') || value == "null");
        let keys = |id, terms| Keys { id, id_from_position: false, position: None, terms };
        match self {
            Collection::Users => {
                let username = text("username")?;
                let username = match username.contains('\\') {
                    false => username[1..username.len() - 1].into(),
                    true => serde_json::from_str(username).ok()?,
                };
                let terms = [Some((User::BY_USERNAME, Term::Text(username))), None];
                (text_or_none("name") && text_or_none("bio")).then_some(keys(id("id")?, terms))
            }
            Collection::Threads => {
                text("title")?;
                Some(keys(id("id")?, [Some((Thread::BY_USER, Term::Id(id("createdBy")?))), None]))
            }
            Collection::Posts => {
                text("text")?;
                let terms = [(Post::IN_THREAD, Term::Id(id("thread")?)), (Post::BY_USER, Term::Id(id("user")?))];
                let id_from_position = found("id").is_none();
                let id = if id_from_position { given? } else { id("id")? };
                Some(Keys { id_from_position, ..keys(id, terms.map(Some)) })
            }
        }
    }

    /// Why the record that begins in `json` at `begin` does not fit its model, with the place in the source.
    fn misfit(self, json: &str, begin: usize, members: &[Member]) -> Fault {
        let deserializer = &mut serde_json::Deserializer::from_str(&json[begin..]);
        let error = match self {
            Collection::Users => serde_path_to_error::deserialize::<_, User>(deserializer).err(),
            Collection::Threads => serde_path_to_error::deserialize::<_, Thread>(deserializer).err(),
            Collection::Posts => serde_path_to_error::deserialize::<_, Post>(deserializer).err(),
        };
        let Some(error) = error else {
            return Fault { pointer: String::new(), offset: 0, reason: "missing field `id`".to_owned() };
        };
        let mut pointer = String::new();
        let mut offset = 0;
        if let Some(serde_path_to_error::Segment::Map { key }) = error.path().iter().next() {
            json::push_pointer(&mut pointer, key);
            let member = members.iter().find(|member| &json[member.key.clone()] == key);
            offset = member.map_or(0, |member| member.offset);
        }
        Fault { pointer, offset, reason: json::reason_of(error.inner()) }
    }
}

/// A way to find records other than by id. The number tells a collection's indexes apart in its database: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub(crate) u8);

impl Index {
    /// Its number.
    pub fn number(self) -> u8 {
        self.0
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

/// How many indexes a collection has at most; they are numbered from 1.
pub(crate) const INDEXES: usize = 2;

/// What a record is found by, beside its id.
pub type Terms = [Option<(Index, Term)>; INDEXES];

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
    /// The record as it is sent: an id from its position is its first member.
    pub fn json(&self) -> Cow<'r, str> {
        if self.id_from_position {
            // There are other members: a record without any fits no model.
            Cow::Owned(format!("{{\"id\":{},{}", self.id, &self.source[1..]))
        } else {
            Cow::Borrowed(self.source)
        }
    }
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
        let before = self.text.len();
        if !self.rows.is_empty() {
            self.text.push(',');
        }
        let begin = self.text.len();
        let read = json::canonical_object(text, &mut self.text, &mut self.members).and_then(|()| {
            let keys = self.collection.keys(&self.text, &self.members, given);
            let keys = keys.map(|keys| Keys { position, ..keys });
            keys.ok_or_else(|| self.collection.misfit(&self.text, begin, &self.members))
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

    use super::*;

    fn read(collection: Collection, text: &str, position: Option<u64>) -> Result<Records, Fault> {
        let mut records = Records::new(collection, 0);
        records.push(text, position.and_then(|position| position.try_into().ok()))?;
        Ok(records)
    }

    #[test]
    fn a_post_without_an_id_gets_its_position() {
        let source = r#"{"thread":1,"text":"t","user":2,"more":[1.0]}"#;
        let records = read(Collection::Posts, source, Some(7)).unwrap();
        let record = records.iter().next().unwrap();
        assert_eq!(record.json(), r#"{"id":7,"thread":1,"text":"t","user":2,"more":[1.0]}"#);
        assert!(record.id_from_position);
        assert_eq!(record.source, source);
        let [thread, user] = [1, 2].map(|id| Term::Id(Id::try_from(id).unwrap()));
        assert_eq!(*record.terms, [Some((Post::IN_THREAD, thread)), Some((Post::BY_USER, user))]);

        let source = r#"{"thread":1,"id":9,"text":"t","user":2}"#;
        let records = read(Collection::Posts, source, Some(7)).unwrap();
        let record = records.iter().next().unwrap();
        assert_eq!((record.id.get(), record.id_from_position), (9, false));
        assert_eq!(record.json(), source);
    }

    #[test]
    fn a_record_that_is_refused_leaves_no_trace() {
        let mut records = Records::new(Collection::Users, 0);
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
            for (collection, good) in Collection::ALL.into_iter().zip([
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
                    let theirs = match collection {
                        Collection::Users => serde_json::from_str::<User>(&json).ok().map(|user| (user.id, Some(Term::from(&*user.username)))),
                        Collection::Threads => serde_json::from_str::<Thread>(&json).ok().map(|thread| (thread.id, Some(Term::Id(thread.created_by)))),
                        Collection::Posts => serde_json::from_str::<Post>(&json).ok()
                            .map(|post| (post.id.unwrap_or(Id::MAX), Some(Term::Id(post.thread)))),
                    };
                    let ours = read(collection, &json, Some(Id::MAX.get())).ok();
                    let ours = ours.as_ref().and_then(|records| records.iter().next())
                        .map(|record| (record.id, record.terms[0].clone().map(|(_, term)| term)));
                    prop_assert_eq!(ours, theirs, "{}", json);
                }
            }
        }
    }

    #[test]
    fn some_records_are_kept_and_others_not() {
        let mut records = Records::new(Collection::Users, 0);
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
            let fault = read(Collection::Posts, source, Some(7)).err().unwrap();
            assert_eq!((fault.pointer.as_str(), fault.offset), (pointer, offset), "{source}: {fault}");
            assert!(fault.reason.contains(reason), "{source}: {fault}");
        }
        let reason = |collection, source| read(collection, source, None).err().unwrap().reason;
        assert_eq!(reason(Collection::Users, r#"{"username":"a"}"#), "missing field `id`");
        assert_eq!(reason(Collection::Posts, r#"{"thread":1,"text":"t","user":2}"#), "missing field `id`");
    }
}
