//! Commands as bytes, as a stream has them.
//!
//! A replica trusts the messages of its stream no more than a client's requests: what it reads is checked again. A
//! command that does not pass has no effect on any replica.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};
use record::edit::{self, New, RecordName};
use record::id::Id;
use record::json::Object;
use record::limits::{BATCH_RECORDS, BODY_BYTES};
use record::model::Collection;
use warp::http::header::HeaderValue;

use crate::authorize::Rights;
use crate::command::{Batch, Command, Target};
use crate::condition::Condition;

/// The encoding. A command is at most as long as a message.
const CONFIG: Configuration<LittleEndian, Varint, Limit<{ 64 << 20 }>> =
    bincode::config::standard().with_limit::<{ 64 << 20 }>();

/// A [`Command`], in the order of its variants and fields.
#[derive(Encode, Decode)]
enum Wire {
    Create(WireNew, Option<String>),
    CreateAll { request: [u8; 32], records: Vec<WireNew>, key: Option<String> },
    Replace(WireTarget, String),
    Merge(WireTarget, String),
    Delete(WireTarget),
}

/// A [`New`]: its body, and the JSON of the id that the service has made.
#[derive(Encode, Decode)]
struct WireNew {
    body: String,
    made: Option<String>,
}

/// A [`Target`].
#[derive(Encode, Decode)]
struct WireTarget {
    name: WireName,
    /// The values of `If-Match` and `If-None-Match`.
    condition: [Option<Vec<u8>>; 2],
    /// The user whose records may be written, or `None` for all.
    user: Option<String>,
}

/// A [`RecordName`].
#[derive(Encode, Decode)]
enum WireName {
    Number(u64),
    Text(String),
    Single,
}

/// Encodes a command.
pub(crate) fn encode(command: &Command) -> Vec<u8> {
    let wire = match command {
        Command::Create(new, key) => Wire::Create(new.into(), key.clone()),
        Command::CreateAll(batch, key) => Wire::CreateAll {
            request: batch.request,
            records: batch.records.iter().map(WireNew::from).collect(),
            key: key.clone(),
        },
        Command::Replace(target, body) => Wire::Replace(target.into(), body.text().to_owned()),
        Command::Merge(target, body) => Wire::Merge(target.into(), body.text().to_owned()),
        Command::Delete(target) => Wire::Delete(target.into()),
    };
    bincode::encode_to_vec(wire, bincode::config::standard()).expect("memory takes every command")
}

/// Decodes and checks a command. Returns `None` if no replica would publish it.
pub(crate) fn decode(collection: Collection, bytes: &[u8]) -> Option<Command> {
    let (wire, length) = bincode::decode_from_slice(bytes, CONFIG).ok()?;
    if length != bytes.len() {
        return None;
    }
    Some(match wire {
        Wire::Create(new, key) => Command::Create(new.read(collection)?, key),
        Wire::CreateAll { request, records, key } => {
            if !(1..=BATCH_RECORDS).contains(&records.len()) {
                return None;
            }
            let records = records.into_iter().map(|new| new.read(collection)).collect::<Option<_>>()?;
            Command::CreateAll(Batch { request, records }, key)
        }
        Wire::Replace(target, body) => Command::Replace(target.read(collection)?, read_body(&body)?),
        Wire::Merge(target, body) => Command::Merge(target.read(collection)?, read_body(&body)?),
        Wire::Delete(target) => Command::Delete(target.read(collection)?),
    })
}

fn read_body(body: &str) -> Option<Object> {
    (body.len() <= BODY_BYTES).then(|| edit::read(body.as_bytes()).ok()).flatten()
}

impl From<&New> for WireNew {
    fn from(new: &New) -> Self {
        Self { body: new.body().to_owned(), made: new.made_id().map(str::to_owned) }
    }
}

impl WireNew {
    fn read(self, collection: Collection) -> Option<New> {
        edit::create_again(collection, read_body(&self.body)?, self.made).ok()
    }
}

impl From<&Target> for WireTarget {
    fn from(Target { name, condition, rights }: &Target) -> Self {
        let name = match name {
            RecordName::Number(id) => WireName::Number(id.get()),
            RecordName::Text(text) => WireName::Text(text.to_string()),
            RecordName::Single => WireName::Single,
        };
        let condition = condition.values().map(|value| value.map(|value| value.as_bytes().to_vec()));
        Self { name, condition, user: rights.user.as_deref().map(str::to_owned) }
    }
}

impl WireTarget {
    fn read(self, collection: Collection) -> Option<Target> {
        let name = match self.name {
            WireName::Number(id) if !collection.has_text_ids() => RecordName::Number(Id::try_from(id).ok()?),
            WireName::Text(text) if collection.has_text_ids() => RecordName::Text(text.into()),
            WireName::Single if collection.is_single() => RecordName::Single,
            _ => return None,
        };
        let [if_match, if_none_match] = self.condition.map(|value| value.map(|value| HeaderValue::from_bytes(&value)));
        let condition = Condition::with_values([if_match.transpose().ok()?, if_none_match.transpose().ok()?]);
        let rights = Rights { collection, user: self.user.map(String::into_boxed_str) };
        Some(Target { name, condition, rights })
    }
}

#[cfg(test)]
mod tests {
    use record::sample;
    use warp::http::header::{HeaderMap, IF_MATCH, IF_NONE_MATCH};

    use super::*;

    const POST: &str = r#"{"thread":1,"text":"a","user":2}"#;

    fn object(text: &str) -> Object {
        edit::read(text.as_bytes()).unwrap()
    }

    fn target(name: RecordName, condition: Condition, user: Option<&str>) -> Target {
        Target { name, condition, rights: Rights { collection: sample::posts(), user: user.map(Into::into) } }
    }

    #[test]
    fn a_command_is_the_same_on_every_replica() {
        let collection = sample::posts();
        let new = || edit::create(collection, object(POST)).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(IF_MATCH, HeaderValue::from_static("\"1-a\", junk"));
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        let condition = Condition::read(&headers);
        let name = || RecordName::Number(Id::MAX);
        for command in [
            Command::Create(new(), None),
            Command::Create(new(), Some("ci/é".to_owned())),
            Command::CreateAll(Batch { request: [7; 32], records: vec![new(), new()] }, Some("k".to_owned())),
            Command::Replace(target(name(), Condition::default(), None), object(POST)),
            Command::Merge(target(name(), condition.clone(), Some("2")), object(r#"{"text":null}"#)),
            Command::Delete(target(name(), condition, None)),
        ] {
            let bytes = encode(&command);
            assert_eq!(decode(collection, &bytes).as_ref(), Some(&command));
            for length in 0..bytes.len() {
                assert!(decode(collection, &bytes[..length]).is_none(), "{command:?} to {length}");
            }
        }
    }

    /// A change to these bytes needs a new version of the messages: replicas of two versions read the same stream.
    #[test]
    fn the_bytes_do_not_change() {
        let new = edit::create(sample::posts(), object(POST)).unwrap();
        assert_eq!(
            encode(&Command::Create(new, Some("k".into()))),
            [b"\0\x20", POST.as_bytes(), b"\0\x01\x01k"].concat()
        );
        let delete = Command::Delete(target(RecordName::Number(Id::FIRST), Condition::default(), Some("2")));
        assert_eq!(encode(&delete), b"\x04\0\x01\0\0\x01\x012");
    }

    #[test]
    fn what_no_replica_publishes_is_refused() {
        let collection = sample::posts();
        let new = |body: &str, made: Option<&str>| WireNew { body: body.to_owned(), made: made.map(str::to_owned) };
        let wire = |name| WireTarget { name, condition: [None, None], user: None };
        for wire in [
            Wire::Create(new("{", None), None),
            Wire::Create(new(r#"{"text":1}"#, None), None),
            Wire::Create(new(POST, Some("\"a\"")), None),
            Wire::Create(new(r#"{"id":3,"thread":1,"text":"a","user":2}"#, None), None),
            Wire::CreateAll { request: [0; 32], records: vec![], key: None },
            Wire::Replace(wire(WireName::Number(0)), POST.to_owned()),
            Wire::Replace(wire(WireName::Text("a".to_owned())), POST.to_owned()),
            Wire::Replace(wire(WireName::Single), POST.to_owned()),
            Wire::Merge(wire(WireName::Number(1)), "[]".to_owned()),
            Wire::Merge(wire(WireName::Number(1)), format!("{{\"a\":\"{}\"}}", "a".repeat(BODY_BYTES))),
            Wire::Delete(WireTarget { condition: [Some(b"\n".to_vec()), None], ..wire(WireName::Number(1)) }),
        ] {
            let bytes = bincode::encode_to_vec(wire, bincode::config::standard()).unwrap();
            assert!(decode(collection, &bytes).is_none(), "{bytes:?}");
        }
    }
}
