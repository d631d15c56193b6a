//! The routes every service has, and the parts that its own are made of.
//!
//! ```text
//! GET /api/{collection}          every record, in id order
//! GET /api/{collection}/:id      one record
//! GET /api/{collection}/in-thread/7    the records that an index lists, or the one; as the declaration has it
//! GET /                          Ready to receive requests
//! GET /api/                      API ready to receive requests
//! GET /live                      the process runs
//! GET /ready                     the store answers
//! ```
//!
//! Every route answers to HEAD too, and with a slash at its end.

use std::convert::Infallible;
use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use percent_encoding::percent_decode_str;
use record::declaration::{Answers, IndexDeclaration, TermKind};
use record::edit::RecordName;
use record::id::Id;
use record::model::{Collection, Index, Term};
use store::{Store, StoreError, Stored};
use warp::filters::BoxedFilter;
use warp::http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use warp::http::{Method, StatusCode};
use warp::reply::{Reply, Response};
use warp::{Filter, Rejection};

use crate::condition::{Condition, entity_tag};
use crate::problem::Problem;

/// Everything a service answers to. It never rejects.
pub type Routes = BoxedFilter<(Response,)>;

/// What an endpoint answers.
pub type Answer = Result<Response, Problem>;

/// How much of a list is put together before it is sent, in bytes. A list that fits is sent with its length.
const LIST_CHUNK: usize = 64 << 10;

/// An id in a path. Kept as a result, so that a bad one is answered 400 and not passed over as another route's path.
pub struct IdInPath {
    number: Option<Id>,
    /// Where it is no number.
    text: Option<Box<str>>,
}

impl FromStr for IdInPath {
    type Err = Infallible;

    fn from_str(segment: &str) -> Result<Self, Infallible> {
        let text = percent_decode_str(segment).decode_utf8().ok();
        let number = text.as_ref().and_then(|text| text.parse().ok());
        let text = text.filter(|_| number.is_none()).map(|text| text.into());
        Ok(Self { number, text })
    }
}

impl IdInPath {
    /// The id of a collection whose ids are integers.
    pub fn id(self) -> Result<Id, Problem> {
        self.number.ok_or(Problem::NotAnId)
    }

    /// The id of a record of `collection`.
    pub fn name(self, collection: Collection) -> Result<RecordName, Problem> {
        if !collection.has_text_ids() {
            return self.id().map(RecordName::Number);
        }
        let text = self.number.map(|number| number.to_string().into()).or(self.text);
        text.map(RecordName::Text).ok_or(Problem::NotAText)
    }
}

/// What an index is asked for, in a path.
struct TermInPath(Option<String>);

impl FromStr for TermInPath {
    type Err = Infallible;

    fn from_str(segment: &str) -> Result<Self, Infallible> {
        Ok(Self(percent_decode_str(segment).decode_utf8().ok().map(String::from)))
    }
}

impl TermInPath {
    /// As what the index lists.
    fn read(self, kind: TermKind) -> Result<Term, Problem> {
        match (kind, self.0) {
            (TermKind::Id, text) => text.and_then(|text| text.parse().ok()).map(Term::Id).ok_or(Problem::NotAnId),
            (_, text) => text.map(|text| Term::Text(text.into())).ok_or(Problem::NotAText),
        }
    }
}

/// What a collection's declaration says that its service answers to.
pub fn routes(store: &Store) -> Routes {
    answer(store, one(store).or(found(store)).unify().or(all(store)).unify())
}

/// The same of a store that is handed over.
pub fn routes_of(store: Store) -> Routes {
    routes(&store)
}

/// The same, and `own` is what only this service has below `/api/{collection}/`.
pub fn routes_with<F>(store: &Store, own: F) -> Routes
where
    F: Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static,
{
    answer(store, own.or(one(store)).unify().or(found(store)).unify().or(all(store)).unify())
}

/// Everything a service answers to: `records` is what it has below `/api/{collection}`.
fn answer<F>(store: &Store, records: F) -> Routes
where
    F: Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static,
{
    let found = warp::path("api").and(warp::path(store.collection().name())).and(records);
    let answers = found.or(texts()).unify().or(health(store)).unify();
    let answers = answers.recover(async |rejection| Ok::<Answer, Infallible>(Err(Problem::from(rejection)))).unify();
    let respond = |method: Method, known: Option<Known>, answer: Answer| match (answer, known) {
        (Ok(response), Some(known)) => known.spare(response),
        (answer, _) => answer.unwrap_or_else(|problem| problem.into_response(&method)),
    };
    // One that is no text names no tag of ours.
    let known = warp::header::optional("if-none-match").or(warp::any().map(|| None)).unify();
    warp::method().and(known).and(answers).map(respond).boxed()
}

/// The value of `If-None-Match`.
struct Known(HeaderMap);

impl FromStr for Known {
    type Err = Infallible;

    fn from_str(value: &str) -> Result<Self, Infallible> {
        Ok(Self(HeaderValue::from_str(value).map(|value| (IF_NONE_MATCH, value)).into_iter().collect()))
    }
}

impl Known {
    /// The response without what the client has already.
    fn spare(self, mut response: Response) -> Response {
        if response.headers().get(ETAG).is_some_and(|tag| Condition::read(&self.0).has(tag)) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Default::default();
            response.headers_mut().remove(CONTENT_TYPE);
        }
        response
    }
}

/// The end of a path that is read.
pub fn read() -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::path::end().and(warp::get().or(warp::head()).unify())
}

/// `GET /api/{collection}/7`
fn one(store: &Store) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let (collection, store) = (store.collection(), store.clone());
    warp::path::param().and(read()).map(move |id: IdInPath| match id.name(collection)? {
        _ if collection.is_single() => Err(Problem::NoSuchRecord),
        RecordName::Text(text) => {
            let term = Term::Text(text);
            record(&store, || store.find(Index::IDS, &term).next().transpose())
        }
        RecordName::Number(id) => record(&store, || store.get(id)),
        RecordName::Single => record(&store, || store.get(Id::FIRST)),
    })
}

/// `GET /api/{collection}/in-thread/7`
fn found(store: &Store) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let (collection, store) = (store.collection(), store.clone());
    let index = warp::path::param().and_then(move |route: String| {
        let index = collection.index_at(&route);
        async move { index.ok_or_else(warp::reject::not_found) }
    });
    index.and(warp::path::param()).and(read()).map(move |index: &'static IndexDeclaration, term: TermInPath| {
        let term = term.read(collection.terms_of(index))?;
        match index.answers {
            Answers::Many => list(&store, || store.find(index.number, &term)),
            Answers::One => record(&store, || store.find(index.number, &term).next().transpose()),
        }
    })
}

/// `GET /api/{collection}`
fn all(store: &Store) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let store = store.clone();
    read().map(move || {
        if store.collection().is_single() {
            return record(&store, || store.get(Id::FIRST));
        }
        list(&store, || store.records().map(|record| Ok(record?.1)))
    })
}

/// `GET /` and `GET /api/`, in the monolith's words.
fn texts() -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone {
    let root = read().map(|| text("Ready to receive requests"));
    let api = warp::path("api").and(read()).map(|| text("API ready to receive requests"));
    root.or(api).unify()
}

/// `GET /live` and `GET /ready`
fn health(store: &Store) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let store = store.clone();
    let live = warp::path("live").and(read()).map(|| text("live"));
    let ready = warp::path("ready").and(read()).map(move || {
        store.check()?;
        // Whoever balances load looks at the status alone: what can be served is.
        let remarks = [
            store.is_read_only().then(|| "for reads alone: its file system can only be read".to_owned()),
            store.damage().map(|found| format!("damaged: {found} values could not be read; the log names them")),
        ];
        let remarks: Vec<String> = remarks.into_iter().flatten().collect();
        if remarks.is_empty() { text("ready") } else { text(format!("ready; {}\n", remarks.join("; "))) }
    });
    live.or(ready).unify()
}

/// Answers with the record that `find` finds in `store`, straight from the store's memory.
pub fn record(store: &Store, find: impl Fn() -> Result<Option<Stored>, StoreError>) -> Answer {
    let stored = store.read_whole(find)?.ok_or(Problem::NoSuchRecord)?;
    let tag = entity_tag(stored.revision, stored.json());
    let mut response = json(Response::new(stored.into_json().into()));
    response.headers_mut().insert(ETAG, tag);
    Ok(response)
}

/// Answers with a JSON array of records. A list of any length is sent in bounded memory; if the store fails in its
/// midst, the connection is cut, so that no client takes the part for the whole.
///
/// A list that fits into one chunk has all of a group of an update's changes, or nothing of it; a longer one is sent as it
/// is read, while others write.
pub fn list<I>(store: &Store, records: impl Fn() -> I) -> Answer
where
    I: Iterator<Item = Result<Stored, StoreError>> + Send + Sync + 'static,
{
    let (list, first) = store.read_whole(|| {
        let mut list = List { records: records(), begun: false, done: false };
        let first = list.next().unwrap_or_else(|| Ok(Bytes::new()));
        (list, first)
    });
    let first = first?;
    if list.done {
        return Ok(json(Response::new(first.into())));
    }
    let rest = list.inspect(|chunk| {
        if let Err(error) = chunk {
            log::error!("a list was cut short: {error}");
        }
    });
    let chunks = stream::once(async { Ok(first) }).chain(stream::iter(rest));
    Ok(json(warp::reply::stream(chunks).into_response()))
}

/// A JSON array in chunks.
struct List<I> {
    records: I,
    begun: bool,
    done: bool,
}

impl<I: Iterator<Item = Result<Stored, StoreError>>> Iterator for List<I> {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut chunk = BytesMut::new();
        while chunk.len() < LIST_CHUNK {
            let stored = match self.records.next() {
                Some(Ok(stored)) => stored,
                Some(Err(error)) => {
                    self.done = true;
                    return Some(Err(error));
                }
                None => {
                    chunk.put_slice(if self.begun { b"]" } else { b"[]" });
                    self.done = true;
                    break;
                }
            };
            chunk.put_u8(if self.begun { b',' } else { b'[' });
            chunk.put_slice(stored.json());
            self.begun = true;
        }
        Some(Ok(chunk.freeze()))
    }
}

pub(crate) fn json(response: Response) -> Response {
    with_type(response, "application/json; charset=utf-8")
}

fn text(text: impl Into<Bytes>) -> Answer {
    Ok(with_type(Response::new(text.into().into()), "text/plain; charset=utf-8"))
}

fn with_type(mut response: Response, content_type: &'static str) -> Response {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
