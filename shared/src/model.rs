//! The three collections, their records' models, and what each is indexed by.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::Id;
use crate::json::{self, Fault};

/// Somebody who writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's id.
    pub id: Id,
    /// The name in URLs.
    pub username: String,
    /// The name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A line about the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bio: Option<String>,
}

/// A subject that posts belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thread {
    /// The thread's id.
    pub id: Id,
    /// The subject.
    pub title: String,
    /// The user who began it.
    pub created_by: Id,
}

/// What a user wrote in a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post {
    /// The post's id. The monolith's posts have none; the split gives them one.
    pub id: Id,
    /// The thread it belongs to.
    pub thread: Id,
    /// What was written.
    pub text: String,
    /// The user who wrote it.
    pub user: Id,
}

impl User {
    /// Users by their `username`.
    pub const BY_USERNAME: Index = Index(1);
}

impl Thread {
    /// Threads by their `createdBy`.
    pub const BY_USER: Index = Index(1);
}

impl Post {
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

    /// The collection of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|collection| collection.name() == name)
    }

    /// Whether the monolith's records lack an id, so that their position in the file stands for it.
    pub fn takes_positions_as_ids(self) -> bool {
        self == Collection::Posts
    }

    /// Reads a record of this collection. `position` is the id of a record that has none, where the collection
    /// [takes positions as ids](Self::takes_positions_as_ids).
    ///
    /// # Errors
    /// The text is not a JSON object or not such a record; the fault's pointer starts at the record.
    pub fn parse(self, text: &str, position: Option<Id>) -> Result<Record, Fault> {
        match self {
            Collection::Users => parse(text, None, |user: &User| {
                (user.id, vec![(User::BY_USERNAME, Term::from(user.username.as_str()))])
            }),
            Collection::Threads => {
                parse(text, None, |thread: &Thread| (thread.id, vec![(Thread::BY_USER, Term::from(thread.created_by))]))
            }
            Collection::Posts => parse(text, position, |post: &Post| {
                (post.id, vec![(Post::IN_THREAD, Term::from(post.thread)), (Post::BY_USER, Term::from(post.user))])
            }),
        }
    }
}

/// A way to find records other than by id. The number tells a collection's indexes apart in its database: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub(crate) u8);

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

/// A record that fits its model, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The record's id.
    pub id: Id,
    /// Whether the id is the record's position in the file, not its own.
    pub id_from_position: bool,
    /// The record as it is sent: one JSON object in canonical form.
    pub json: Vec<u8>,
    /// Where the record is found beside its id.
    pub terms: Vec<(Index, Term)>,
}

impl Record {
    /// The record as the source had it, without an id from its position: two pieces that belong together.
    pub fn json_of_the_source(&self) -> [&[u8]; 2] {
        // Put there by `parse` as the first member, and before others: a record of its id alone fits no model.
        let member = if self.id_from_position { format!("\"id\":{},", self.id).len() } else { 0 };
        [b"{", &self.json[1 + member..]]
    }
}

fn parse<M: DeserializeOwned>(
    text: &str,
    position: Option<Id>,
    keys: impl FnOnce(&M) -> (Id, Vec<(Index, Term)>),
) -> Result<Record, Fault> {
    let position = position.map(|id| id.to_string());
    let (json, id_from_position) = json::canonical_object(text, position.as_deref().map(|id| ("id", id)))?;
    match serde_json::from_slice::<M>(&json) {
        Ok(model) => {
            let (id, terms) = keys(&model);
            Ok(Record { id, id_from_position, json, terms })
        }
        Err(_) => Err(misfit::<M>(text, &json)),
    }
}

/// Why well-formed `json` is not an `M`, with the place in `text`, which it was made from.
fn misfit<M: DeserializeOwned>(text: &str, json: &[u8]) -> Fault {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let Err(error) = serde_path_to_error::deserialize::<_, M>(&mut deserializer) else {
        unreachable!("it was refused a moment ago");
    };
    let mut pointer = String::new();
    let mut offset = 0;
    if let Some(serde_path_to_error::Segment::Map { key }) = error.path().iter().next() {
        json::push_pointer(&mut pointer, key);
        offset = json::member_offset(text, key).unwrap_or_default();
    }
    Fault { pointer, offset, reason: json::reason_of(error.inner()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(text: &str) -> Result<Record, Fault> {
        Collection::Posts.parse(text, Id::try_from(7).ok())
    }

    #[test]
    fn a_post_without_an_id_gets_its_position_and_gives_it_back() {
        let source = r#"{"thread":1,"text":"t","user":2,"more":[1.0]}"#;
        let record = post(source).unwrap();
        assert_eq!(record.json, br#"{"id":7,"thread":1,"text":"t","user":2,"more":[1.0]}"#);
        assert!(record.id_from_position);
        assert_eq!(record.json_of_the_source().concat(), source.as_bytes());
        let [thread, user] = [1, 2].map(|id| Term::Id(Id::try_from(id).unwrap()));
        assert_eq!(record.terms, [(Post::IN_THREAD, thread), (Post::BY_USER, user)]);

        let source = r#"{"thread":1,"id":9,"text":"t","user":2}"#;
        let record = post(source).unwrap();
        assert_eq!((record.id.get(), record.id_from_position), (9, false));
        assert_eq!(record.json_of_the_source().concat(), source.as_bytes());
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
            let fault = post(source).unwrap_err();
            assert_eq!((fault.pointer.as_str(), fault.offset), (pointer, offset), "{source}: {fault}");
            assert!(fault.reason.contains(reason), "{source}: {fault}");
        }
        let user = Collection::Users.parse(r#"{"username":"a"}"#, None).unwrap_err();
        assert_eq!(user.reason, "missing field `id`");
    }
}
