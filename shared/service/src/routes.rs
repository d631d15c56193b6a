//! Every route of a service, in one table.
//!
//! ```text
//! GET    /                                 Ready to receive requests
//! GET    /api/                             API ready to receive requests
//! GET    /live                             the process runs
//! GET    /ready                            it serves, too
//! GET    /api/{collection}                 every record, in id order; the record, where the collection is one
//! POST   /api/{collection}                 a new record                      201, Location
//! GET    /api/{collection}/:id             one record
//! PUT    /api/{collection}/:id             the record is to be this          200; 201 with If-None-Match: *
//! PATCH  /api/{collection}/:id             a merge patch (RFC 7396)          200
//! DELETE /api/{collection}/:id             the record is to be gone          204
//! GET    /api/{collection}/in-thread/7     the records that an index lists, or the one; as the declaration has it
//! GET    /api/{collection}/-/backup        all records at one revision; see [`operate`](crate::operate)
//! POST   /scrub                            has everything read and checked; not behind the entrance
//! ```
//!
//! Where a collection is one record, PUT and PATCH are at its own path. Whatever answers to GET answers to HEAD, too, and
//! everything to OPTIONS and with a slash at its end.

use std::borrow::Cow;
use std::convert::Infallible;

use percent_encoding::percent_decode_str;
use record::declaration::{IndexDeclaration, TermKind};
use record::edit::RecordName;
use record::id::Id;
use record::model::{Collection, Term};
use store::Store;
use warp::filters::BoxedFilter;
use warp::filters::path::FullPath;
use warp::http::Method;
use warp::http::header::{CONNECTION, HeaderMap, HeaderValue};
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::health::Health;
use crate::problem::{Problem, READS};
use crate::reply::{self, Answer};
use crate::state::{Body, Query, State};
use crate::{read, write};

/// Everything a service answers to. It never rejects.
pub type Routes = BoxedFilter<(Response,)>;

/// What only one service has below `/api/{collection}/`. It rejects all else.
pub type OwnRoutes = BoxedFilter<(Answer,)>;

/// A service's own routes, over its store.
pub type Own = fn(&Store) -> OwnRoutes;

/// The routes of a service, with those that are its `own`.
pub fn routes(state: &State, own: Option<Own>) -> Routes {
    let mut answers = table(state).boxed();
    if let Some(own) = own {
        let own = warp::path("api").and(warp::path(state.store.collection().name())).and(own(&state.store));
        answers = own.or(answers).unify().boxed();
    }
    let answers = wait(&state.health).or(answers).unify();
    let answers = answers.recover(async |rejection| Ok::<Answer, Infallible>(Err(Problem::from(rejection)))).unify();
    let health = state.health.clone();
    let respond = move |method: Method, answer: Answer| {
        let mut response = answer.unwrap_or_else(|problem| problem.into_response(&method));
        if health.is_draining() {
            // So that no connection is idle, and about to be used, when it has to be closed.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    };
    warp::method().and(answers).map(respond).boxed()
}

/// Answers whatever comes while indexes are being built.
fn wait(health: &Health) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let health = health.clone();
    warp::path::full().and_then(move |path: FullPath| {
        let waits = health.is_building() && !matches!(path.as_str(), "/live" | "/live/");
        async move { if waits { Ok(Err(Problem::Building)) } else { Err(warp::reject::not_found()) } }
    })
}

/// What every service answers to.
fn table(state: &State) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let state = state.clone();
    // One that cannot be read asks for nothing.
    let query = warp::query::<Query>().or(warp::any().map(Query::new)).unify();
    let request = warp::method().and(warp::path::full()).and(query).and(warp::header::headers_cloned());
    request.and(warp::body::stream()).and_then(
        move |method: Method, path: FullPath, query: Query, headers: HeaderMap, body| {
            let state = state.clone();
            async move {
                let resource = Resource::at(path.as_str(), state.store.collection());
                let resource = resource.ok_or_else(warp::reject::not_found)?;
                Ok::<Answer, Rejection>(state.answer(&method, resource, &query, &headers, body).await)
            }
        },
    )
}

/// What a path names.
enum Resource<'p> {
    Root,
    Api,
    Live,
    Ready,
    Scrub,
    /// A collection that is a list.
    All,
    /// A collection that is one record.
    Single,
    One(&'p str),
    Found(&'static IndexDeclaration, &'p str),
    Backup,
}

impl<'p> Resource<'p> {
    fn at(path: &'p str, collection: Collection) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        if path.is_empty() {
            return Some(Self::Root);
        }
        let segments: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
        if segments.contains(&"") {
            return None;
        }
        Some(match segments[..] {
            ["api"] => Self::Api,
            ["live"] => Self::Live,
            ["ready"] => Self::Ready,
            ["scrub"] => Self::Scrub,
            ["api", name, ..] if name != collection.name() => return None,
            ["api", _] if collection.is_single() => Self::Single,
            ["api", _] => Self::All,
            ["api", _, "-", "backup"] => Self::Backup,
            ["api", _, id] => Self::One(id),
            ["api", _, route, term] => Self::Found(collection.index_at(route)?, term),
            _ => return None,
        })
    }

    /// What it answers to, for `Allow`.
    fn allowed(&self) -> &'static str {
        match self {
            Self::Root | Self::Api | Self::Live | Self::Ready | Self::Found(..) => READS,
            Self::All => "GET, HEAD, POST",
            Self::Single => "GET, HEAD, PUT, PATCH",
            Self::One(_) => "GET, HEAD, PUT, PATCH, DELETE",
            Self::Backup => "GET",
            Self::Scrub => "POST",
        }
    }
}

impl State {
    async fn answer(
        self,
        method: &Method,
        resource: Resource<'_>,
        query: &Query,
        headers: &HeaderMap,
        body: impl Body,
    ) -> Answer {
        let collection = self.store.collection();
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match resource {
            Resource::Backup if *method == Method::GET => self.operator.backup(headers, query).await,
            Resource::Scrub if *method == Method::POST => self.operator.answer_scrub().await,
            Resource::One(_) if collection.is_single() => Err(Problem::NoSuchRecord),
            resource if is_read => self.read(resource).map(|response| read::spare(headers, response)),
            Resource::All if *method == Method::POST => write::post(self, headers, body).await,
            Resource::Single if matches!(*method, Method::PUT | Method::PATCH) => {
                write::change(self, method, Ok(RecordName::Single), headers, body).await
            }
            Resource::One(id) if matches!(*method, Method::PUT | Method::PATCH | Method::DELETE) => {
                write::change(self, method, read_name(collection, id), headers, body).await
            }
            other => Err(Problem::MethodNotAllowed(other.allowed())),
        }
    }

    fn read(self, resource: Resource) -> Answer {
        let (store, collection) = (&self.store, self.store.collection());
        match resource {
            Resource::Root => reply::text("Ready to receive requests"),
            Resource::Api => reply::text("API ready to receive requests"),
            Resource::Live => reply::text("live"),
            Resource::Ready => self.health.check(store, &self.commit),
            Resource::All => read::all(store),
            Resource::Single => read::one(store, RecordName::Single),
            Resource::One(id) => read::one(store, read_name(collection, id)?),
            Resource::Found(index, term) => read::found(store, index, &read_term(collection.terms_of(index), term)?),
            Resource::Backup | Resource::Scrub => Err(Problem::MethodNotAllowed(resource.allowed())),
        }
    }
}

/// What a path's segment says, if it is the percent-encoding of a text.
fn decode(segment: &str) -> Result<Cow<'_, str>, Problem> {
    percent_decode_str(segment).decode_utf8().map_err(|_| Problem::NotAText)
}

/// An id in a path.
fn read_id(segment: &str) -> Result<Id, Problem> {
    decode(segment).ok().and_then(|text| text.parse().ok()).ok_or(Problem::NotAnId)
}

/// A record's id in a path, as `collection` has them.
fn read_name(collection: Collection, segment: &str) -> Result<RecordName, Problem> {
    if collection.has_text_ids() {
        decode(segment).map(|text| RecordName::Text(text.into()))
    } else {
        read_id(segment).map(RecordName::Number)
    }
}

/// What an index is asked for, in a path.
fn read_term(kind: TermKind, segment: &str) -> Result<Term, Problem> {
    match kind {
        TermKind::Id => read_id(segment).map(Term::Id),
        _ => decode(segment).map(|text| Term::Text(text.into())),
    }
}
