//! Answers to reads: a record, or a list of records.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use headers::HeaderMapExt;
use record::declaration::IndexDeclaration;
use record::edit::RecordName;
use record::id::Id;
use record::json::members;
use record::model::{Collection, Term};
use store::{Portion, Stamp, Store, StoreError, Stored};
use warp::http::header::{CONTENT_TYPE, ETAG, HeaderMap, IF_MATCH, IF_NONE_MATCH};
use warp::http::{Method, StatusCode};
use warp::reply::{Reply, Response};

use crate::answer_cache::{AnswerCache, Cacheable};
use crate::condition::{Condition, Revisions, entity_tag_header, lines_tag, list_tag};
use crate::problem::Problem;
use crate::reply::{self, Answer};

/// The bytes of a list that are collected before they are sent. A list that fits is sent with its length.
const LIST_CHUNK: usize = 64 << 10;

/// `GET /api/{collection}`, if that is a list
pub(crate) fn all(store: &Store, cache: &AnswerCache) -> Answer {
    // Taken first: a list that is newer than its tag is only sent once too often.
    let (revision, records) = store.state()?;
    let tag = list_tag(revision, &records);
    let (all, first) = store.read_whole(|| {
        let mut all = All { store: store.clone(), cache: cache.clone(), next: Some(Id::FIRST) };
        let first = all.next().unwrap_or_else(|| Ok(Bytes::new()));
        (all, first)
    });
    let first = first?;
    let mut response = match all.next {
        None => reply::list(Response::new(first.into())),
        Some(_) => reply::list(respond_in_chunks(first, all)),
    };
    response.headers_mut().typed_insert(tag);
    Ok(response)
}

/// `GET /api/{collection}`, as lines of JSON
pub(crate) fn all_lines(store: &Store) -> Answer {
    let shape = Shape { fields: None, lines: true };
    respond_with_list(store, || store.records().map(|record| record.map(|(_, stored)| stored)), None, shape)
}

/// Some records of a store, in the order of an answer.
pub(crate) type Selection = Box<dyn Iterator<Item = Result<Stored, StoreError>> + Send + Sync>;

/// Answers with the `fields` of `records`; with all, if none are named.
pub(crate) fn selected(
    store: &Store,
    records: impl Fn(&Store) -> Selection,
    fields: Option<Vec<String>>,
    lines: bool,
) -> Answer {
    respond_with_list(store, || records(store), None, Shape { fields, lines })
}

/// The shape of a list.
#[derive(Clone, Default)]
struct Shape {
    /// The fields of the records; all, if none are named.
    fields: Option<Vec<String>>,
    /// Whether each record is a line, instead of an element of an array.
    lines: bool,
}

impl Shape {
    fn head<B>(&self, response: hyper::Response<B>) -> hyper::Response<B> {
        if self.lines { reply::lines(response) } else { reply::list(response) }
    }
}

/// Returns the record without the members that are not among `fields`.
fn project(json: &[u8], fields: &[String]) -> String {
    let json = str::from_utf8(json).unwrap_or_default();
    let mut text = String::from("{");
    for (key, value) in members(json).filter(|(key, _)| fields.iter().any(|field| field == key)) {
        let comma = if text.len() > 1 { "," } else { "" };
        text.extend([comma, "\"", key, "\":", value]);
    }
    text + "}"
}

/// `GET /api/{collection}/7`, or the `fields` of that record
pub(crate) fn one(store: &Store, name: RecordName, fields: Option<&[String]>) -> Answer {
    get(store, name)?.map(|stored| respond_with_one(stored, Vec::new(), fields)).ok_or(Problem::NoSuchRecord)
}

/// Parts of a record have no tag: it stands for the whole.
fn respond_with_one(stored: Stored, stamps: Vec<Stamp>, fields: Option<&[String]>) -> Response {
    match fields {
        None => respond_cacheably(stored, stamps),
        Some(fields) => reply::json(Response::new(project(stored.json(), fields).into())),
    }
}

fn get(store: &Store, name: RecordName) -> Result<Option<Stored>, StoreError> {
    match name {
        RecordName::Number(id) => store.read_whole(|| store.get(id)),
        RecordName::Text(text) => store.read_whole(|| store.get_named(&text)),
        RecordName::Single => store.read_whole(|| store.get(Id::FIRST)),
    }
}

/// `GET /api/{collection}/in-thread/7`
pub(crate) fn found(store: &Store, index: &IndexDeclaration, term: &Term, lines: bool) -> Answer {
    // Lines are not kept: the path alone does not tell them from the array.
    let stamp = (!lines).then(|| store.stamp_of(index.number, term));
    respond_with_list(store, || store.find(index.number, term), stamp, Shape { fields: None, lines })
}

/// `GET /api/{collection}/by-username/a`, or the `fields` of that record
pub(crate) fn found_one(store: &Store, index: &IndexDeclaration, term: &Term, fields: Option<&[String]>) -> Answer {
    let stamp = store.stamp_of(index.number, term);
    let stored = store.read_whole(|| store.find(index.number, term).next().transpose());
    stored?.map(|stored| respond_with_one(stored, vec![stamp], fields)).ok_or(Problem::NoSuchRecord)
}

/// Replaces the answer with 304 if `headers` say that the client has it already, and with 412 if they ask for another.
pub(crate) fn spare(collection: Collection, headers: &HeaderMap, mut response: Response) -> Response {
    if headers.contains_key(IF_MATCH) && response.status().is_success() {
        let tag = response.headers().typed_get();
        if !Condition::read(headers).allows_read(tag.as_ref()) {
            return Problem::ConditionFailed.into_response(collection, &Method::GET);
        }
    }
    if headers.contains_key(IF_NONE_MATCH)
        && response.headers().typed_get().is_some_and(|tag| Condition::read(headers).has(&tag))
    {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Default::default();
        response.headers_mut().remove(CONTENT_TYPE);
    }
    response
}

/// Answers with the record that `find` finds in `store`. Its bytes are sent from the store's memory, without a copy.
pub fn record(store: &Store, find: impl Fn() -> Result<Option<Stored>, StoreError>) -> Answer {
    store.read_whole(find)?.map(respond).ok_or(Problem::NoSuchRecord)
}

fn respond(stored: Stored) -> Response {
    let headers = headers_of(&stored);
    let mut response = Response::new(stored.into_json().into());
    *response.headers_mut() = headers;
    response
}

/// Returns the headers of an answer with the record `stored`.
pub(crate) fn headers_of(stored: &Stored) -> HeaderMap {
    let tag = entity_tag_header(stored.revision, stored.json());
    HeaderMap::from_iter([(CONTENT_TYPE, reply::JSON), (ETAG, tag)])
}

/// Responds with `stored`, and marks the response for the cache: it follows from the record and from what `stamps` stand
/// for.
pub(crate) fn respond_cacheably(stored: Stored, mut stamps: Vec<Stamp>) -> Response {
    stamps.push(stored.stamp);
    let body = (stored.json().len() <= LIST_CHUNK).then(|| Bytes::copy_from_slice(stored.json()));
    let mut response = respond(stored);
    if let Some(body) = body {
        response.extensions_mut().insert(Cacheable { stamps, body });
    }
    response
}

/// Answers with a JSON array of records, in bounded memory for any length. If the store fails in the middle of it, the
/// connection is cut, so that no client takes a part for the whole.
///
/// A list that fits into one chunk shows each group of an update's changes wholly or not at all. A longer list is sent
/// while it is read, and others may write meanwhile.
pub fn list<I>(store: &Store, records: impl Fn() -> I) -> Answer
where
    I: Iterator<Item = Result<Stored, StoreError>> + Send + Sync + 'static,
{
    respond_with_list(store, records, None, Shape::default())
}

/// Answers as [`list`] does. If the records follow from what `stamp` stands for, a list that fits into one chunk is
/// marked for the cache.
fn respond_with_list<I>(store: &Store, records: impl Fn() -> I, stamp: Option<Stamp>, shape: Shape) -> Answer
where
    I: Iterator<Item = Result<Stored, StoreError>> + Send + Sync + 'static,
{
    let begin = || {
        store.read_whole(|| {
            let stamps = stamp.map(|stamp| vec![stamp]);
            let shape = shape.clone();
            let mut list =
                List { records: records(), begun: false, done: false, stamps, shape, revisions: Revisions::default() };
            let first = list.next().unwrap_or_else(|| Ok(Bytes::new()));
            (list, first)
        })
    };
    let (mut list, mut first) = begin();
    let mut state = None;
    if !list.done {
        // A long list has the tag of the collection, which is taken first: a list that is newer than its tag is only sent
        // once too often.
        state = Some(store.state()?);
        (list, first) = begin();
    }
    let first = first?;
    if list.done {
        let tag = list.revisions.tag(&first);
        let cacheable = list.stamps.map(|stamps| Cacheable { stamps, body: Bytes::copy_from_slice(&first) });
        let mut response = shape.head(Response::new(first.into()));
        response.headers_mut().typed_insert(tag);
        cacheable.and_then(|cacheable| response.extensions_mut().insert(cacheable));
        return Ok(response);
    }
    list.stamps = None;
    let tag = state.map(
        |(revision, records)| {
            if shape.lines { lines_tag(revision, &records) } else { list_tag(revision, &records) }
        },
    );
    let mut response = shape.head(respond_in_chunks(first, list));
    if let Some(tag) = tag {
        response.headers_mut().typed_insert(tag);
    }
    Ok(response)
}

/// Responds with a list of which the `first` chunk has been read.
fn respond_in_chunks<I>(first: Bytes, rest: I) -> Response
where
    I: Iterator<Item = Result<Bytes, StoreError>> + Send + Sync + 'static,
{
    let rest = rest.inspect(|chunk| {
        if let Err(error) = chunk {
            log::error!("a list was cut short: {error}");
        }
    });
    // A client that reads as fast as its list is read must not keep others waiting.
    let rest = stream::iter(rest).then(|chunk| async {
        tokio::task::yield_now().await;
        chunk
    });
    let chunks = stream::once(async { Ok(first) }).chain(rest);
    warp::reply::stream(chunks).into_response()
}

/// The JSON array of all records, in chunks.
struct All {
    store: Store,
    cache: AnswerCache,
    /// The first id of the next chunk.
    next: Option<Id>,
}

impl Iterator for All {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.next.take()?;
        if let Some((chunk, next)) = self.cache.find_chunk(from) {
            self.next = next;
            return Some(Ok(chunk));
        }
        let Portion { mut json, stamps, next } = match self.store.portion(from, LIST_CHUNK) {
            Ok(portion) => portion,
            Err(error) => return Some(Err(error)),
        };
        self.next = next;
        match json.first_mut() {
            Some(comma) if from == Id::FIRST => *comma = b'[',
            None if from == Id::FIRST => json.push(b'['),
            _ => {}
        }
        if next.is_none() {
            json.push(b']');
        }
        // The cache counts the bytes, not the room for more.
        json.shrink_to_fit();
        let body = Bytes::from(json);
        if let Some(stamps) = stamps {
            self.cache.keep_chunk(from, Cacheable { stamps, body: body.clone() }, next);
        }
        Some(Ok(body))
    }
}

/// A JSON array, or lines of JSON, in chunks.
struct List<I> {
    records: I,
    begun: bool,
    done: bool,
    /// The stamps of all that is in the list so far, if they are wanted.
    stamps: Option<Vec<Stamp>>,
    shape: Shape,
    /// The revisions in the list so far.
    revisions: Revisions,
}

impl<I: Iterator<Item = Result<Stored, StoreError>>> Iterator for List<I> {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let (mut chunk, mut read) = (BytesMut::new(), 0);
        let [begin, between, end, empty]: [&[u8]; 4] =
            if self.shape.lines { [b"", b"\n", b"\n", b""] } else { [b"[", b",", b"]", b"[]"] };
        // Counts what is read, not what is sent: of long records, a few fields may be wanted.
        while read < LIST_CHUNK {
            let stored = match self.records.next() {
                Some(Ok(stored)) => stored,
                Some(Err(error)) => {
                    self.done = true;
                    return Some(Err(error));
                }
                None => {
                    chunk.put_slice(if self.begun { end } else { empty });
                    self.done = true;
                    break;
                }
            };
            chunk.put_slice(if self.begun { between } else { begin });
            match &self.shape.fields {
                None => chunk.put_slice(stored.json()),
                Some(fields) => chunk.put_slice(project(stored.json(), fields).as_bytes()),
            }
            if let Some(stamps) = &mut self.stamps
                && stamps.last() != Some(&stored.stamp)
            {
                stamps.push(stored.stamp);
            }
            self.begun = true;
            self.revisions.add(stored.id, stored.revision);
            read += stored.json().len();
        }
        Some(Ok(chunk.freeze()))
    }
}
