//! What a write does, decided in the committer's one thread.
//!
//! A `Command` is what a client asked for, as data, checked as far as that goes without the database. Deciding it looks at
//! nothing but the records and the [time](Transaction::time): on the same records at the same time it does the same.

use std::collections::HashSet;
use std::fmt::Write;

use headers::HeaderMapExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use record::declaration::read_id_text;
use record::edit::{self, New, RecordName};
use record::id::Id;
use record::json::{Fault, Object, members};
use record::limits::{BATCH_RECORDS, BODY_BYTES, Violation};
use record::model::{Collection, Index, Record, Term};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use store::{Found, KeptRecord, Transaction};
use warp::http::StatusCode;
use warp::http::header::{HeaderValue, LOCATION};
use warp::reply::{Reply, Response};

use crate::authorize::Rights;
use crate::condition::{Condition, entity_tag, tag_text};
use crate::problem::Problem;
use crate::reply::{self, Answer, LINES};

/// The most bytes of an answer's line beside id and location: names, signs, a revision and a checksum.
const ANSWER_LINE: usize = 72;

/// A write.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// `POST` of a record. The answer is kept under the key, if there is one.
    Create(New, Option<String>),
    /// `POST` of lines, likewise.
    CreateAll(Batch, Option<String>),
    /// `PUT`
    Replace(Target, Object),
    /// `PATCH`
    Merge(Target, Object),
    /// `DELETE`
    Delete(Target),
}

impl Command {
    /// Decides the write from the records as they are `now`, and makes its answer.
    pub(crate) fn decide(self, now: &mut Transaction, collection: Collection) -> Answer {
        match self {
            Self::Create(new, key) => create(now, collection, key, &new),
            Self::CreateAll(batch, key) => batch.create(now, collection, key),
            Self::Replace(target, body) => target.replace(now, &body),
            Self::Merge(target, body) => target.merge(now, &body),
            Self::Delete(target) => target.delete(now),
        }
    }
}

/// Creates the record, or returns the kept answer of an earlier request with that key.
fn create(now: &mut Transaction, collection: Collection, key: Option<String>, new: &New) -> Answer {
    let request = || Sha256::digest(new.body()).into();
    if let Some(kept) = key.as_ref().map(|key| now.kept(key)).transpose()?.flatten() {
        if kept.request != request() {
            return Err(Problem::KeyReused);
        }
        return Ok(respond_created(collection, kept.revision, kept.json));
    }
    if key.is_some() && !now.can_keep() {
        return Err(Problem::Busy);
    }
    let (id, Found { revision, json }) = put(now, collection, None, |id| new.with_id(id))?;
    if let Some(key) = key {
        now.keep_answer(key, KeptRecord::new(now.time(), request(), id, revision, json.clone()));
    }
    Ok(respond_created(collection, revision, json))
}

/// New records, each a line of a body. All of them are created, or none.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch {
    /// The digest of the request.
    pub(crate) request: [u8; 32],
    pub(crate) records: Vec<New>,
}

impl Batch {
    /// Reads the lines of `body`. Fails at the first that is no JSON, or with the violations of all.
    pub(crate) fn read(collection: Collection, body: &[u8]) -> Result<Self, Problem> {
        let (mut records, mut violations, mut offset) = (Vec::new(), Vec::new(), 0);
        for (nth, line) in body.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if nth == BATCH_RECORDS {
                return Err(Problem::BatchTooLong);
            }
            let pointer = |pointer: &str| format!("/{nth}{pointer}");
            let place =
                |fault: Fault| Fault { pointer: pointer(&fault.pointer), offset: offset + fault.offset, ..fault };
            if line.len() > BODY_BYTES {
                return Err(Problem::BodyTooLarge(BODY_BYTES));
            }
            let record = edit::read(line).map_err(|fault| Problem::Malformed(place(fault)))?;
            match edit::create(collection, record) {
                Ok(record) => records.push(record),
                Err(found) => violations.extend(
                    found.into_iter().map(|violation| Violation { pointer: pointer(&violation.pointer), ..violation }),
                ),
            }
            offset += line.len();
        }
        if !violations.is_empty() {
            return Err(Problem::Invalid(violations));
        }
        if records.is_empty() {
            let reason = "there is no record".to_owned();
            return Err(Problem::Malformed(Fault { pointer: String::new(), offset: 0, reason }));
        }
        let request = Sha256::new().chain_update(LINES).chain_update(body).finalize().into();
        Ok(Self { request, records })
    }

    /// Checks that `rights` include all records.
    pub(crate) fn check_owners(&self, rights: &Rights) -> Result<(), Problem> {
        let mut lines = (1..).zip(&self.records);
        lines.try_for_each(|(line, new)| rights.check_new(new).map_err(|problem| problem.at_line(line)))
    }

    /// Creates the records, or returns the kept answer of an earlier request with that key.
    fn create(&self, now: &mut Transaction, collection: Collection, key: Option<String>) -> Answer {
        if let Some(kept) = key.as_ref().map(|key| now.kept(key)).transpose()?.flatten() {
            return if kept.request == self.request { Ok(Self::respond(kept.json)) } else { Err(Problem::KeyReused) };
        }
        if key.is_some() && !now.can_keep() {
            return Err(Problem::Busy);
        }
        // Nothing is put before it is known that all can be.
        let mut taken = HashSet::new();
        for (nth, new) in self.records.iter().enumerate() {
            let draft = now.read(Id::MAX, &new.with_id(Id::MAX));
            check_unique(now, collection, &draft.record(), &mut taken).map_err(|problem| problem.at_line(nth + 1))?;
        }
        if now.last_id() > Id::MAX.get() - self.records.len() as u64 {
            return Err(Problem::NoIdsLeft);
        }
        if key.is_some() && self.longest_answer(collection, now.last_id()) > KeptRecord::MOST_BYTES {
            return Err(Problem::AnswerTooLong);
        }
        let (mut lines, mut last) = (String::new(), None);
        for new in &self.records {
            let id = now.next_id().ok_or(Problem::NoIdsLeft)?;
            let json = new.with_id(id);
            let revision = now.put(now.read(id, &json));
            last = Some((id, revision));
            let (id, location) = name_of(collection, &json);
            let etag = tag_text(&entity_tag(revision, json.as_bytes()));
            let _ = writeln!(lines, "{}", serde_json::json!({ "id": id, "location": location, "etag": etag }));
        }
        if let Some((key, (id, revision))) = key.zip(last) {
            now.keep_answer(key, KeptRecord::new(now.time(), self.request, id, revision, lines.clone()));
        }
        Ok(Self::respond(lines))
    }

    /// Returns the most bytes that the answer may have if the ids begin behind `last_id`.
    fn longest_answer(&self, collection: Collection, last_id: u64) -> usize {
        let line = |(id, new): (u64, &New)| {
            let json = new.with_id(Id::try_from(id).unwrap_or(Id::MAX));
            let (id, location) = name_of(collection, &json);
            ANSWER_LINE + id.map_or(4, |id| id.get().len()) + location.len()
        };
        (last_id + 1..).zip(&self.records).map(line).sum()
    }

    fn respond(lines: String) -> Response {
        let mut response = reply::lines(Response::new(lines.into()));
        *response.status_mut() = StatusCode::CREATED;
        response
    }
}

/// The record that a request names, the condition that must hold for it, and what its writer may write.
#[derive(Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) name: RecordName,
    pub(crate) condition: Condition,
    pub(crate) rights: Rights,
}

impl Target {
    /// Returns the record's id and current state if its owner and the condition allow the write. The id is `None` if ids are texts
    /// and no record has this one.
    fn find(&self, now: &Transaction) -> Result<(Option<Id>, Option<Found>), Problem> {
        let id = match &self.name {
            RecordName::Number(id) => Some(*id),
            RecordName::Text(text) => now.ids(Index::IDS, &Term::Text(text.clone()))?.first().copied(),
            RecordName::Single => Some(Id::FIRST),
        };
        let found = id.map(|id| now.get(id)).transpose()?.flatten();
        if let Some(found) = &found {
            self.rights.check_record(&found.json)?;
        }
        let tag = found.as_ref().map(|found| entity_tag(found.revision, found.json.as_bytes()));
        if self.condition.allows_write(tag.as_ref()) { Ok((id, found)) } else { Err(Problem::ConditionFailed) }
    }

    /// Like [`find`](Self::find), but fails if the record does not exist.
    fn find_there(&self, now: &Transaction) -> Result<(Id, Found), Problem> {
        let (id, found) = self.find(now)?;
        id.zip(found).ok_or(Problem::NoSuchRecord)
    }

    /// `PUT`
    fn replace(&self, now: &mut Transaction, body: &Object) -> Answer {
        let (id, found) = self.find(now)?;
        if found.is_none() {
            self.check_creation(now)?;
        }
        let current = found.as_ref().map(|found| &*found.json);
        let json = edit::replace(self.rights.collection, body, &self.name, current).map_err(Problem::Invalid)?;
        self.rights.check_record(&json)?;
        let (_, Found { revision, json }) = put(now, self.rights.collection, id, |_| json)?;
        if found.is_none() {
            Ok(respond_created(self.rights.collection, revision, json))
        } else {
            Ok(respond_written(revision, json))
        }
    }

    /// Checks that the record, which does not exist, may be created.
    fn check_creation(&self, now: &Transaction) -> Result<(), Problem> {
        if !self.condition.creates() {
            return Err(Problem::NoSuchRecord);
        }
        match &self.name {
            RecordName::Number(id) if id.get() > now.last_id() => Err(Problem::IdNotGiven),
            RecordName::Number(_) => self.rights.check_revival(),
            RecordName::Text(text) => {
                let json = serde_json::to_string(text).unwrap_or_default();
                edit::check_new_id(&json).map_err(|violation| Problem::Invalid(vec![violation]))
            }
            _ => Ok(()),
        }
    }

    /// `PATCH`
    fn merge(&self, now: &mut Transaction, body: &Object) -> Answer {
        let (id, found) = self.find_there(now)?;
        let json = edit::patch(self.rights.collection, &found.json, body, &self.name).map_err(Problem::Invalid)?;
        self.rights.check_record(&json)?;
        let (_, Found { revision, json }) = put(now, self.rights.collection, Some(id), |_| json)?;
        Ok(respond_written(revision, json))
    }

    /// `DELETE`
    fn delete(&self, now: &mut Transaction) -> Answer {
        let (id, found) = self.find_there(now)?;
        now.remove(id, found);
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}

/// Puts the record `id`, or a new one, if its unique fields are free. `json` makes its checked text from its id.
fn put(
    now: &mut Transaction,
    collection: Collection,
    id: Option<Id>,
    json: impl FnOnce(Id) -> String,
) -> Result<(Id, Found), Problem> {
    let id = id.or_else(|| now.next_id());
    let json = json(id.unwrap_or(Id::MAX));
    let draft = now.read(id.unwrap_or(Id::MAX), &json);
    // A refused record uses up no id.
    check_unique(now, collection, &draft.record(), &mut HashSet::new())?;
    let id = id.ok_or(Problem::NoIdsLeft)?;
    Ok((id, Found { revision: now.put(draft), json }))
}

/// Checks that no other record has a unique value of this one, nor is it among those `taken` by the same request. The
/// monolith may have let duplicates through.
fn check_unique(
    now: &Transaction,
    collection: Collection,
    record: &Record,
    taken: &mut HashSet<(Index, Term)>,
) -> Result<(), Problem> {
    for (index, term) in record.terms {
        let declared = collection.indexes().iter().find(|declared| declared.unique && declared.number == *index);
        let field = declared.map(|index| &*index.field).or((*index == Index::IDS).then_some("id"));
        if let Some(field) = field
            && (!taken.insert((*index, term.clone())) || now.ids(*index, term)?.iter().any(|other| *other != record.id))
        {
            return Err(Problem::Taken { singular: collection.singular(), field, line: None });
        }
    }
    Ok(())
}

/// Answers a request that created a record.
fn respond_created(collection: Collection, revision: u64, json: String) -> Response {
    let (_, location) = name_of(collection, &json);
    let mut response = respond_written(revision, json);
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&location).expect("it is encoded"));
    response
}

/// Returns the JSON of a record's id, and its path.
fn name_of(collection: Collection, json: &str) -> (Option<&RawValue>, String) {
    let value = members(json).find(|(key, _)| *key == "id").map(|(_, value)| value);
    let id = value.and_then(read_id_text).filter(|_| !collection.is_single()).unwrap_or_default();
    let id = utf8_percent_encode(&id, IN_PATHS);
    (value.and_then(|value| serde_json::from_str(value).ok()), format!("/api/{}/{id}", collection.name()))
}

/// The characters of an id that are percent-encoded in a path.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn respond_written(revision: u64, json: String) -> Response {
    let tag = entity_tag(revision, json.as_bytes());
    let mut response = reply::json(Response::new(json.into()));
    response.headers_mut().typed_insert(tag);
    response
}
