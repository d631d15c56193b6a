//! Answers to writes.
//!
//! A request is checked in this order: its token, then its body, and then, in the committer's one thread, the record's
//! owner, the request's condition, and whether the resulting record fits the model and has the same owner.

use std::collections::HashSet;
use std::fmt::Write;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use headers::HeaderMapExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use record::declaration::read_id_text;
use record::edit::{self, New, RecordName};
use record::id::Id;
use record::json::{Fault, Object, members};
use record::limits::{BATCH_BYTES, BATCH_RECORDS, BODY_BYTES, Violation};
use record::model::{Collection, Index, Record, Term};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use store::{Found, KeptRecord, Transaction};
use tokio::time::{Instant, timeout_at};
use warp::http::header::{
    CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue, LOCATION,
};
use warp::http::{Method, StatusCode};
use warp::reply::{Reply, Response};

use crate::authorize::Writer;
use crate::condition::{Condition, entity_tag, tag_text};
use crate::problem::Problem;
use crate::reply::{self, Answer, LINES};
use crate::state::{Body, State};

/// The header that lets a client repeat a POST safely.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The time a body has to arrive, beside a second for each [`BODY_PACE`] bytes that have come.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The least bytes of a body a second.
const BODY_PACE: usize = 4 << 10;

/// The most bytes of an answer's line beside id and location: names, signs, a revision and a checksum.
const ANSWER_LINE: usize = 72;

/// The longest idempotency key, in bytes.
const KEY_BYTES: usize = 255;

/// `POST /api/posts`
pub(crate) async fn post(state: State, headers: &HeaderMap, body: impl Body) -> Answer {
    let body = pin!(body);
    let mut body = Arriving::new(body);
    let answer = create_posted(state, headers, &mut body).await;
    body.discard(headers).await;
    answer
}

async fn create_posted(state: State, headers: &HeaderMap, body: &mut Arriving<'_, impl Body>) -> Answer {
    let writer = state.may_write(headers)?;
    let collection = state.store.collection();
    let answer = async {
        if !Condition::read(headers).allows_addition() {
            return Err(Problem::ConditionFailed);
        }
        let key = read_idempotency_key(headers, &writer)?;
        if read_kind(headers) == LINES {
            let batch = Batch::read(collection, &state.body(&writer, headers, body, BATCH_BYTES).await?)?;
            batch.check_owners(&writer)?;
            return state.commit.write(move |now| batch.create(now, collection, key)).await?;
        }
        let body = state.json_body(&writer, headers, body, false).await?;
        // Checked before an id is given, and outside the committer's one thread.
        let new = edit::create(collection, body).map_err(Problem::Invalid)?;
        writer.check_new(&new)?;
        state.commit.write(move |now| create(now, collection, key, &new)).await?
    };
    let answer = answer.await;
    sign(writer, &Method::POST, answer)
}

/// Refuses a write for a reason that its body has no part in.
pub(crate) async fn refuse(headers: &HeaderMap, body: impl Body, problem: Problem) -> Answer {
    Arriving::new(pin!(body)).discard(headers).await;
    Err(problem)
}

/// `PUT`, `PATCH` or `DELETE /api/posts/7`
pub(crate) async fn change(
    state: State,
    method: &Method,
    name: Result<RecordName, Problem>,
    headers: &HeaderMap,
    body: impl Body,
) -> Answer {
    let body = pin!(body);
    let mut body = Arriving::new(body);
    let answer = change_named(state, method, name, headers, &mut body).await;
    body.discard(headers).await;
    answer
}

async fn change_named(
    state: State,
    method: &Method,
    name: Result<RecordName, Problem>,
    headers: &HeaderMap,
    body: &mut Arriving<'_, impl Body>,
) -> Answer {
    let writer = state.may_write(headers)?;
    let answer = async {
        let (collection, condition) = (state.store.collection(), Condition::read(headers));
        let target = Target { collection, name: name?, condition, writer: writer.clone() };
        if *method == Method::DELETE {
            return state.commit.write(move |now| target.delete(now)).await?;
        }
        let is_patch = *method == Method::PATCH;
        if !is_patch && headers.contains_key(CONTENT_RANGE) {
            return Err(Problem::PartOfRecord);
        }
        let body = state.json_body(&writer, headers, body, is_patch).await?;
        state
            .commit
            .write(move |now| if is_patch { target.merge(now, &body) } else { target.replace(now, &body) })
            .await?
    };
    let answer = answer.await;
    sign(writer, method, answer)
}

/// Puts the writer into the answer's extensions, for the access log.
fn sign(writer: Writer, method: &Method, answer: Answer) -> Answer {
    let mut response = answer.unwrap_or_else(|problem| problem.into_response(writer.collection(), method));
    response.extensions_mut().insert(writer);
    Ok(response)
}

impl State {
    /// Returns who writes, if the request may.
    fn may_write(&self, headers: &HeaderMap) -> Result<Writer, Problem> {
        let writer = self.writers.authorize(headers)?;
        if self.store.is_read_only() { Err(Problem::DiskReadOnly) } else { Ok(writer) }
    }

    /// Reads a JSON body into canonical text.
    async fn json_body(
        &self,
        writer: &Writer,
        headers: &HeaderMap,
        body: &mut Arriving<'_, impl Body>,
        is_patch: bool,
    ) -> Result<Object, Problem> {
        if !is_json(headers, is_patch) {
            return Err(Problem::MediaType);
        }
        edit::read(&self.body(writer, headers, body, BODY_BYTES).await?).map_err(Problem::Malformed)
    }

    /// Reads a body of at most `most` bytes.
    async fn body(
        &self,
        writer: &Writer,
        headers: &HeaderMap,
        body: &mut Arriving<'_, impl Body>,
        most: usize,
    ) -> Result<BytesMut, Problem> {
        if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Problem::Encoded);
        }
        let bytes = body.collect(most).await?;
        self.writers.check_again(writer, headers)?;
        Ok(bytes)
    }
}

/// Tells whether the headers declare JSON, or a merge patch if `is_patch`. The crate `mime` is not used: it refuses the
/// space that may precede a parameter (RFC 9110, section 5.6.6).
fn is_json(headers: &HeaderMap, is_patch: bool) -> bool {
    match &*read_kind(headers) {
        "application/json" => true,
        "application/merge-patch+json" => is_patch,
        _ => false,
    }
}

/// Returns the media type of the body, in lower case and without parameters.
fn read_kind(headers: &HeaderMap) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A body that has to arrive at a minimum pace.
struct Arriving<'b, B> {
    body: Pin<&'b mut B>,
    began: Instant,
    received: usize,
}

impl<'b, B: Body> Arriving<'b, B> {
    fn new(body: Pin<&'b mut B>) -> Self {
        Self { body, began: Instant::now(), received: 0 }
    }

    /// Returns the next chunk, or `None` at the body's end.
    async fn next(&mut self) -> Result<Option<B::Chunk>, Problem> {
        let allowed = BODY_TIMEOUT + Duration::from_secs((self.received / BODY_PACE) as u64);
        let chunk = timeout_at(self.began + allowed, self.body.next()).await.map_err(|_elapsed| Problem::BodySlow)?;
        let chunk = chunk.transpose().map_err(|_broken| Problem::BodyBroken)?;
        self.received += chunk.as_ref().map_or(0, Buf::remaining);
        Ok(chunk)
    }

    /// Collects the whole body, up to `most` bytes.
    async fn collect(&mut self, most: usize) -> Result<BytesMut, Problem> {
        let mut bytes = BytesMut::new();
        while let Some(mut chunk) = self.next().await? {
            if bytes.len() + chunk.remaining() > most {
                return Err(Problem::BodyTooLarge(most));
            }
            bytes.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
        }
        Ok(bytes)
    }

    /// Drops what is still to come of a refused body, up to [`BATCH_BYTES`]. An answer that comes before the body's end
    /// may be lost on its way through a load balancer. A client that waits for `100 Continue` sends no body.
    async fn discard(&mut self, headers: &HeaderMap) {
        let end = self.received + BATCH_BYTES;
        while !headers.contains_key(EXPECT) && self.received < end && matches!(self.next().await, Ok(Some(_))) {}
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
        now.keep_answer(key, KeptRecord::new(request(), id, revision, json.clone()));
    }
    Ok(respond_created(collection, revision, json))
}

/// New records, each a line of a body. All of them are created, or none.
struct Batch {
    /// The digest of the request.
    request: [u8; 32],
    records: Vec<New>,
}

impl Batch {
    /// Reads the lines of `body`. Fails at the first that is no JSON, or with the violations of all.
    fn read(collection: Collection, body: &[u8]) -> Result<Self, Problem> {
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

    /// Checks that `writer` may create all records.
    fn check_owners(&self, writer: &Writer) -> Result<(), Problem> {
        let mut lines = (1..).zip(&self.records);
        lines.try_for_each(|(line, new)| writer.check_new(new).map_err(|problem| problem.at_line(line)))
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
            now.keep_answer(key, KeptRecord::new(self.request, id, revision, lines.clone()));
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

/// The record that a request names, the condition that must hold for it, and who asks.
struct Target {
    collection: Collection,
    name: RecordName,
    condition: Condition,
    writer: Writer,
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
            self.writer.check_record(&found.json)?;
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
        let json = edit::replace(self.collection, body, &self.name, current).map_err(Problem::Invalid)?;
        self.writer.check_record(&json)?;
        let (_, Found { revision, json }) = put(now, self.collection, id, |_| json)?;
        if found.is_none() {
            Ok(respond_created(self.collection, revision, json))
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
            RecordName::Number(_) => self.writer.check_revival(),
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
        let json = edit::patch(self.collection, &found.json, body, &self.name).map_err(Problem::Invalid)?;
        self.writer.check_record(&json)?;
        let (_, Found { revision, json }) = put(now, self.collection, Some(id), |_| json)?;
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

/// Returns the key under which the answer is kept, if the request has one. Each writer has its own keys.
fn read_idempotency_key(headers: &HeaderMap, writer: &Writer) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().and_then(read_key).ok_or(Problem::NotAKey)?;
    if values.next().is_some() { Err(Problem::NotAKey) } else { Ok(Some(writer.own_key(&key))) }
}

/// Reads a key: a quoted string of RFC 9651, as the draft of the header has it, or its text alone.
fn read_key(value: &str) -> Option<String> {
    let mut key = String::new();
    match value.strip_prefix('"') {
        None => key.push_str(value),
        Some(quoted) => {
            let mut inside = quoted.strip_suffix('"')?.chars();
            while let Some(char) = inside.next() {
                key.push(match char {
                    '"' => return None,
                    '\\' => inside.next().filter(|char| matches!(char, '"' | '\\'))?,
                    char => char,
                });
            }
        }
    }
    (1..=KEY_BYTES).contains(&key.len()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_quoted_string_or_its_text() {
        for (value, key) in [
            ("a-1", Some("a-1")),
            ("\"a-1\"", Some("a-1")),
            (r#""a \"b\" \\""#, Some(r#"a "b" \"#)),
            ("a\"b", Some("a\"b")),
            ("", None),
            ("\"", None),
            ("\"\"", None),
            ("\"a", None),
            ("\"a\"b\"", None),
            ("\"a\\b\"", None),
            ("\"a\\\"", None),
            ("\"a\";b=1", None),
        ] {
            assert_eq!(read_key(value).as_deref(), key, "{value}");
        }
        assert_eq!(read_key(&format!("\"{}\"", "k".repeat(KEY_BYTES))).map(|key| key.len()), Some(KEY_BYTES));
        assert_eq!(read_key(&"k".repeat(KEY_BYTES + 1)), None);
    }

    #[test]
    fn json_is_recognized_in_every_spelling_of_its_media_type() {
        for (value, of_a_record, of_a_patch) in [
            ("application/json", true, true),
            ("Application/JSON", true, true),
            ("application/json; charset=utf-8", true, true),
            ("application/json;charset=\"UTF-8\"", true, true),
            ("application/json ; charset=utf-8", true, true),
            ("application/json;", true, true),
            ("application/merge-patch+json", false, true),
            ("application/jsonx", false, false),
            ("application/json+x", false, false),
            ("text/plain", false, false),
            ("json", false, false),
            ("", false, false),
        ] {
            let mut headers = HeaderMap::new();
            assert!(!is_json(&headers, true));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!((is_json(&headers, false), is_json(&headers, true)), (of_a_record, of_a_patch), "{value:?}");
        }
    }
}
