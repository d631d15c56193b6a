//! Answers to writes.
//!
//! A request is checked in this order: its token, then its body, and then, as a `Command` in the committer's one thread,
//! the record's owner, the request's condition, and whether the resulting record fits the model and has the same owner.

use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use record::edit::{self, RecordName};
use record::json::Object;
use record::limits::{BATCH_BYTES, BODY_BYTES};
use tokio::time::{Instant, timeout_at};
use warp::http::Method;
use warp::http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName};

use crate::authorize::Writer;
use crate::command::{Batch, Command, Target};
use crate::condition::Condition;
use crate::problem::Problem;
use crate::reply::{Answer, LINES};
use crate::state::{Body, State};
use crate::workers;

/// The header that lets a client repeat a POST safely.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The time a body has to arrive, beside a second for each [`BODY_PACE`] bytes that have come.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The least bytes of a body a second.
const BODY_PACE: usize = 4 << 10;

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
            batch.check_owners(&writer.rights())?;
            return state.decide(Command::CreateAll(batch, key)).await;
        }
        let body = state.json_body(&writer, headers, body, false).await?;
        // Checked before an id is given, and outside the committer's one thread.
        let new = edit::create(collection, body).map_err(Problem::Invalid)?;
        writer.rights().check_new(&new)?;
        state.decide(Command::Create(new, key)).await
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
        let target = Target { name: name?, condition: Condition::read(headers), rights: writer.rights() };
        if *method == Method::DELETE {
            return state.decide(Command::Delete(target)).await;
        }
        let is_patch = *method == Method::PATCH;
        if !is_patch && headers.contains_key(CONTENT_RANGE) {
            return Err(Problem::PartOfRecord);
        }
        let body = state.json_body(&writer, headers, body, is_patch).await?;
        let command = if is_patch { Command::Merge(target, body) } else { Command::Replace(target, body) };
        state.decide(command).await
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
    /// Has the committer decide `command`, or those of all replicas; returns its answer once the write is durable.
    async fn decide(&self, command: Command) -> Answer {
        if let Some(replica) = &self.replica {
            if self.commit.is_broken() {
                return Err(Problem::WritesFailed);
            }
            return replica.submit(&command).await;
        }
        let collection = self.store.collection();
        self.commit.write_from(move |now| command.decide(now, collection), workers::serves_one()).await?
    }

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
    use warp::http::HeaderValue;

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
