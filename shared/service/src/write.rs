//! The routes that write: laid over those that read, since every collection has the same.
//!
//! ```text
//! POST   /api/{collection}       a new record               201, Location
//! PUT    /api/{collection}/:id   the record is to be this   200; 201 with If-None-Match: *
//! PATCH  /api/{collection}/:id   a merge patch (RFC 7396)   200
//! DELETE /api/{collection}/:id   the record is to be gone   204
//! ```
//!
//! A request is looked at in this order: may it write, is its body what it says it is, and then, in the committer's one
//! thread, does its condition hold and does the outcome fit the model.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::{Stream, StreamExt};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use record::declaration::read_id_text;
use record::edit::{self, New, RecordName};
use record::id::Id;
use record::json::{Object, members};
use record::limits::BODY_BYTES;
use record::model::{Collection, Index, Records, Term};
use record::token::Name;
use sha2::{Digest, Sha256};
use store::{Commit, Found, KeptRecord, Transaction};
use tokio::time::timeout;
use warp::http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LOCATION};
use warp::http::{Method, StatusCode};
use warp::reply::{Reply, Response};
use warp::{Filter, Rejection};

use crate::api::{self, IdInPath, Routes};
use crate::authorize::Tokens;
use crate::condition::{Condition, entity_tag};
use crate::problem::Problem;

/// What a collection answers to.
const ON_ALL: &str = "GET, HEAD, POST";
/// What a collection that is one record answers to.
const ON_SINGLE: &str = "GET, HEAD, PUT, PATCH";
/// What a record answers to.
const ON_ONE: &str = "GET, HEAD, PUT, PATCH, DELETE";

/// The header that makes a repeated POST harmless.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an idempotency key may be, in bytes.
const KEY_BYTES: usize = 255;

/// Who may write, and where it goes.
#[derive(Clone)]
pub struct Writes {
    /// The collection.
    pub collection: Collection,
    /// Who hands writes in.
    pub commit: Commit,
    /// Who may.
    pub tokens: Arc<Tokens>,
    /// Whether nobody may after all: there is nothing to write to.
    pub read_only: bool,
}

impl Writes {
    /// `routes` and those that write. `/ready` says when writes have failed.
    pub fn over(&self, routes: Routes) -> Routes {
        let writes = self.clone();
        let collection = warp::path("api").and(warp::path(self.collection.name()));
        let one = warp::path::param().and(warp::path::end()).map(|id: IdInPath| Some(id));
        let all = warp::path::end().map(|| None);
        let asked = not_reading().and(collection).and(one.or(all).unify());
        let asked = asked.and(warp::header::headers_cloned()).and(warp::body::stream());
        let write = asked.then(move |method: Method, id: Option<IdInPath>, headers: HeaderMap, body| {
            let writes = writes.clone();
            async move {
                let allowed = match id {
                    Some(_) => ON_ONE,
                    None if writes.collection.is_single() => ON_SINGLE,
                    None => ON_ALL,
                };
                let answer = writes.answer(&method, id, &headers, body).await;
                answer.unwrap_or_else(|problem| problem.into_response_allowing(&method, allowed))
            }
        });
        let commit = self.commit.clone();
        let unready = warp::path("ready").and(api::read()).and(warp::method()).and_then(move |method: Method| {
            let answer = commit.is_broken().then(|| Problem::WritesFailed.into_response(&method));
            async { answer.ok_or_else(warp::reject::not_found) }
        });
        write.or(unready).unify().or(routes).unify().boxed()
    }

    async fn answer(
        self,
        method: &Method,
        id: Option<IdInPath>,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
    ) -> api::Answer {
        let is_single = self.collection.is_single();
        let asks = match (method, &id) {
            (_, Some(_)) if is_single => return Err(Problem::NoSuchRecord),
            (&Method::PUT | &Method::PATCH, None) if is_single => method.clone(),
            (&Method::POST, None) if !is_single => method.clone(),
            (&Method::PUT | &Method::PATCH | &Method::DELETE, Some(_)) => method.clone(),
            _ => return Err(Problem::MethodNotAllowed),
        };
        let name = self.tokens.authorize(headers)?;
        if self.read_only {
            return Err(Problem::DiskReadOnly);
        }
        let answer = self.written(asks, id, headers, body, &name).await;
        let mut response = answer.unwrap_or_else(|problem| problem.into_response(method));
        response.extensions_mut().insert(name);
        Ok(response)
    }

    async fn written(
        self,
        method: Method,
        id: Option<IdInPath>,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
        token: &Name,
    ) -> api::Answer {
        let collection = self.collection;
        let condition = Condition::read(headers);
        let name = match id {
            Some(id) => Some(id.name(collection)),
            None => collection.is_single().then_some(Ok(RecordName::Single)),
        };
        let Some(record) = name else {
            let key = idempotency_key(headers, token)?;
            let body = json_body(headers, body, false).await?;
            // A body may take its time. Whoever was revoked meanwhile writes nothing.
            self.tokens.authorize(headers)?;
            // Refused before an id is given, and not by the committer's one thread.
            let new = edit::create(collection, body).map_err(Problem::Invalid)?;
            return self.commit.write(move |now| create(now, collection, key, &new)).await?;
        };
        let record = record?;
        if method == Method::DELETE {
            return self.commit.write(move |now| delete(now, &record, &condition)).await?;
        }
        let patch = method == Method::PATCH;
        let body = json_body(headers, body, patch).await?;
        self.tokens.authorize(headers)?;
        self.commit
            .write(move |now| {
                if patch {
                    merge(now, collection, &record, &condition, &body)
                } else {
                    replace(now, collection, &record, &condition, &body)
                }
            })
            .await?
    }
}

/// Any method but those that read, with which nothing here is concerned.
fn not_reading() -> impl Filter<Extract = (Method,), Error = Rejection> + Clone {
    warp::method().and_then(|method: Method| async move {
        if method == Method::GET || method == Method::HEAD { Err(warp::reject::not_found()) } else { Ok(method) }
    })
}

/// `POST /api/posts`
fn create(now: &mut Transaction, collection: Collection, key: Option<String>, new: &New) -> api::Answer {
    let request = || Sha256::digest(new.body()).into();
    if let Some(kept) = key.as_ref().map(|key| now.kept(key)).transpose()?.flatten() {
        if kept.request != request() {
            return Err(Problem::KeyReused);
        }
        return Ok(created(collection, kept.revision, kept.json));
    }
    if key.is_some() && !now.can_keep() {
        return Err(Problem::Busy);
    }
    // A user who is refused takes no id.
    unique(now, collection, Id::MAX, || new.with_id(Id::MAX))?;
    let id = now.next_id().ok_or(Problem::NoIdsLeft)?;
    let json = new.with_id(id);
    let revision = now.put(id, &json);
    if let Some(key) = key {
        now.keep_answer(key, KeptRecord::new(request(), id, revision, json.clone()));
    }
    Ok(created(collection, revision, json))
}

/// What a request names, as it is now, if its condition allows to write to it.
struct Named {
    /// Nothing where ids are texts and no record has this one.
    id: Option<Id>,
    found: Option<Found>,
}

impl Named {
    fn find(now: &Transaction, name: &RecordName, condition: &Condition) -> Result<Self, Problem> {
        let id = match name {
            RecordName::Number(id) => Some(*id),
            RecordName::Text(text) => now.ids(Index::IDS, &Term::Text(text.clone()))?.first().copied(),
            RecordName::Single => Some(Id::FIRST),
        };
        let found = id.map(|id| now.get(id)).transpose()?.flatten();
        let tag = found.as_ref().map(|found| entity_tag(found.revision, found.json.as_bytes()));
        if condition.allows_write(tag.as_ref()) { Ok(Self { id, found }) } else { Err(Problem::ConditionFailed) }
    }

    /// The record, which has to be there.
    fn there(self) -> Result<(Id, Found), Problem> {
        self.id.zip(self.found).ok_or(Problem::NoSuchRecord)
    }
}

/// `PUT /api/posts/7`
fn replace(
    now: &mut Transaction,
    collection: Collection,
    name: &RecordName,
    condition: &Condition,
    body: &Object,
) -> api::Answer {
    let Named { id, found } = Named::find(now, name, condition)?;
    if found.is_none() && !condition.creates() {
        return Err(Problem::NoSuchRecord);
    }
    match name {
        RecordName::Number(id) if found.is_none() && id.get() > now.last_id() => return Err(Problem::IdNotGiven),
        RecordName::Text(text) if found.is_none() => {
            let json = serde_json::to_string(text).unwrap_or_default();
            edit::check_new_id(&json).map_err(|violation| Problem::Invalid(vec![violation]))?;
        }
        _ => {}
    }
    let current = found.as_ref().map(|found| &*found.json);
    let json = edit::replace(collection, body, name, current).map_err(Problem::Invalid)?;
    unique(now, collection, id.unwrap_or(Id::MAX), || json.clone())?;
    let id = id.or_else(|| now.next_id()).ok_or(Problem::NoIdsLeft)?;
    let revision = now.put(id, &json);
    if found.is_none() { Ok(created(collection, revision, json)) } else { Ok(written(revision, json)) }
}

/// `PATCH /api/posts/7`
fn merge(
    now: &mut Transaction,
    collection: Collection,
    name: &RecordName,
    condition: &Condition,
    body: &Object,
) -> api::Answer {
    let (id, found) = Named::find(now, name, condition)?.there()?;
    let json = edit::patch(collection, &found.json, body, name).map_err(Problem::Invalid)?;
    unique(now, collection, id, || json.clone())?;
    let revision = now.put(id, &json);
    Ok(written(revision, json))
}

/// `DELETE /api/posts/7`
fn delete(now: &mut Transaction, name: &RecordName, condition: &Condition) -> api::Answer {
    let (id, _) = Named::find(now, name, condition)?.there()?;
    now.remove(id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Whether a record, which has been checked, has for itself what only one may have; the monolith may have let others.
fn unique(now: &Transaction, collection: Collection, id: Id, json: impl FnOnce() -> String) -> Result<(), Problem> {
    let declared = collection.indexes().iter().filter(|index| index.unique);
    let mut unique: Vec<(Index, &str)> = declared.map(|index| (index.number, &*index.field)).collect();
    if collection.has_text_ids() {
        unique.push((Index::IDS, "id"));
    }
    if unique.is_empty() {
        return Ok(());
    }
    let mut records = Records::new(collection, 0);
    records.push(&json(), Some(id)).expect("the record was checked against its model");
    for (index, term) in records.iter().flat_map(|record| record.terms) {
        if let Some((_, field)) = unique.iter().find(|(number, _)| number == index)
            && now.ids(*index, term)?.iter().any(|other| *other != id)
        {
            return Err(Problem::Taken { singular: collection.singular(), field });
        }
    }
    Ok(())
}

/// The answer to a request that made a record.
fn created(collection: Collection, revision: u64, json: String) -> Response {
    let id = members(&json).find(|(key, _)| *key == "id").and_then(|(_, value)| read_id_text(value));
    let id = id.filter(|_| !collection.is_single()).unwrap_or_default();
    let id = utf8_percent_encode(&id, IN_PATHS);
    let location = format!("/api/{}/{id}", collection.name());
    let mut response = written(revision, json);
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&location).expect("it is encoded"));
    response
}

/// What an id does not have in a path as it is.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn written(revision: u64, json: String) -> Response {
    let tag = entity_tag(revision, json.as_bytes());
    let mut response = api::json(Response::new(json.into()));
    response.headers_mut().insert(ETAG, tag);
    response
}

/// The key under which the answer is kept, if the request has one. Each token has its own.
fn idempotency_key(headers: &HeaderMap, name: &Name) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=KEY_BYTES).contains(&key.len()) && values.next().is_none() => Ok(Some(format!("{name}/{key}"))),
        _ => Err(Problem::NotAKey),
    }
}

/// A body that is JSON, in canonical text.
async fn json_body(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
    patch: bool,
) -> Result<Object, Problem> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" && !(patch && kind == "application/merge-patch+json") {
        return Err(Problem::MediaType);
    }
    let bytes = timeout(BODY_TIMEOUT, collect(body)).await.map_err(|_elapsed| Problem::BodySlow)??;
    edit::read(&bytes).map_err(Problem::Malformed)
}

/// The whole body, up to [`BODY_BYTES`].
async fn collect(body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send) -> Result<BytesMut, Problem> {
    let mut body = std::pin::pin!(body);
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|_broken| Problem::BodyBroken)?;
        if bytes.len() + chunk.remaining() > BODY_BYTES {
            return Err(Problem::BodyTooLarge);
        }
        bytes.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
    }
    Ok(bytes)
}
