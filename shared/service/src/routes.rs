//! Every route of a service, in one table.
//!
//! ```text
//! GET    /                                 Ready to receive requests
//! GET    /api/                             API ready to receive requests
//! GET    /live                             200 while the process runs
//! GET    /ready                            200 while it can serve
//! GET    /api/{collection}                 every record, in id order; the record, if the collection is a single one
//! POST   /api/{collection}                 a new record                      201, Location
//! GET    /api/{collection}/:id             one record
//! PUT    /api/{collection}/:id             replaces the record               200; 201 with If-None-Match: *
//! PATCH  /api/{collection}/:id             a merge patch (RFC 7396)          200
//! DELETE /api/{collection}/:id             deletes the record                204
//! GET    /api/{collection}/in-thread/7     the records, or the one record, of an index that the declaration names
//! GET    /api/{collection}/changes         each change as it happens; see [`changes`](crate::changes). Where ids are
//!                                          texts, this may be a record; /api/{collection}/-/changes always works
//! GET    /api/{collection}/-/openapi.json  what this table says, for programs; see [`openapi`](crate::openapi)
//! GET    /api/{collection}/openapi.json    the same, unless ids are texts
//! GET    /api/{collection}/-/docs          a page that shows it; see `reference`
//! GET    /api/{collection}/docs            the same, unless ids are texts
//! GET    /api/{collection}/-/backup        all records at one revision; see [`operate`](crate::operate)
//! POST   /scrub                            reads and checks everything; not reachable through the load balancer
//! ```
//!
//! If a collection is a single record, PUT and PATCH go to the collection's path. Every path that answers GET answers
//! HEAD too, except the backup. Every path answers OPTIONS, and a slash at its end changes nothing.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use record::declaration::{Answers, IndexDeclaration, TermKind};
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

use crate::answer_cache::AnswerCache;
use crate::changes::Listeners;
use crate::connection::Bounds;
use crate::cors::{Cors, Origin};
use crate::deprecation::Announcements;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::parameters::{Parameters, Wanted};
use crate::problem::{Problem, READS};
use crate::replica::Replica;
use crate::reply::{self, Answer};
use crate::state::{Body, State};
use crate::{openapi, page, parameters, read, reference, write};

/// A service's complete routes. They never reject.
#[derive(Clone)]
pub struct Routes {
    pub(crate) filter: BoxedFilter<(Response,)>,
    /// The answers that are repeated without these routes.
    pub(crate) cache: AnswerCache,
    /// Those who follow the changes.
    pub(crate) listeners: Listeners,
    /// The origins whose pages may read the answers.
    pub(crate) cors: Option<Cors>,
    /// What will be gone.
    pub(crate) announcements: Option<Announcements>,
    pub(crate) metrics: Metrics,
    /// The link of a replicated service to its stream.
    pub(crate) replica: Option<Replica>,
    pub(crate) collection: Collection,
}

impl Routes {
    /// Lets pages of these origins use the API.
    #[must_use]
    pub fn allow(self, origins: &[Origin]) -> Self {
        Self { cors: Cors::new(origins), ..self }
    }

    /// Goes on with what was counted so far, and with the connections that there are.
    #[must_use]
    pub(crate) fn count_in(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }
}

/// A service's own routes below `/api/{collection}/`. They reject every other path.
pub type OwnRoutes = BoxedFilter<(Answer,)>;

/// A function that makes a service's own routes from its store.
pub type Own = fn(&Store) -> OwnRoutes;

/// Returns the routes of a service, including its `own`. Answers are kept in up to `cache` bytes.
pub fn routes(state: &State, own: Option<Own>, cache: u64) -> Routes {
    let cache = AnswerCache::new(&state.store, &state.health, cache, own.is_some());
    let listeners = Listeners::new(&state.store);
    let mut answers = table(state, &cache, &listeners).boxed();
    if let Some(own) = own {
        let own = warp::path("api").and(warp::path(state.store.collection().name())).and(own(&state.store));
        answers = own.or(answers).unify().boxed();
    }
    let answers = wait(&state.health).or(answers).unify();
    let answers = answers.recover(async |rejection| Ok::<Answer, Infallible>(Err(Problem::from(rejection)))).unify();
    let (health, collection) = (state.health.clone(), state.store.collection());
    let respond = move |method: Method, answer: Answer| {
        let mut response = answer.unwrap_or_else(|problem| problem.into_response(collection, &method));
        if health.is_draining() {
            // An idle connection could get its next request just as it is closed.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    };
    let filter = warp::method().and(answers).map(respond).boxed();
    let (metrics, announcements) = (Metrics::new(Bounds::default()), Announcements::new(collection));
    let replica = state.replica.clone();
    Routes { filter, cache, listeners, cors: None, announcements, metrics, replica, collection }
}

/// Answers every path but `/live` with 503 while indexes are being built.
fn wait(health: &Health) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let health = health.clone();
    warp::path::full().and_then(move |path: FullPath| {
        let waits = health.is_building() && !matches!(path.as_str(), "/live" | "/live/");
        async move { if waits { Ok(Err(Problem::Building)) } else { Err(warp::reject::not_found()) } }
    })
}

/// Returns the routes that every service has.
fn table(
    state: &State,
    cache: &AnswerCache,
    listeners: &Listeners,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    // One count a request instead of one for each part.
    let shared = Arc::new((state.clone(), cache.clone(), listeners.clone()));
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let request = warp::method().and(warp::path::full()).and(query).and(warp::header::headers_cloned());
    request.and(warp::body::stream()).and_then(
        move |method: Method, path: FullPath, query: String, headers: HeaderMap, body| {
            let shared = Arc::clone(&shared);
            async move {
                let (state, cache, listeners) = &*shared;
                let resource = Resource::at(path.as_str(), state.store.collection());
                let resource = resource.ok_or_else(warp::reject::not_found)?;
                let target = Target { path: path.as_str(), resource, given: Parameters::read(&query) };
                if matches!(target.resource, Resource::Changes) && matches!(method, Method::GET | Method::HEAD) {
                    if let Some(replica) = &state.replica
                        && let Err(problem) = replica.wait(&headers).await
                    {
                        return Ok(Err(problem));
                    }
                    return Ok(target.given.and_then(|given| listeners.answer(&headers, given)));
                }
                Ok::<Answer, Rejection>(state.answer(cache, &method, target, &headers, body).await)
            }
        },
    )
}

/// What a request asks for.
struct Target<'p> {
    path: &'p str,
    resource: Resource<'p>,
    given: Result<Parameters, Problem>,
}

/// The resource that a path names.
enum Resource<'p> {
    Root,
    Api,
    Live,
    Ready,
    Scrub,
    /// A collection that is a list.
    All,
    /// A collection that is a single record.
    Single,
    One(&'p str),
    Found(&'static IndexDeclaration, &'p str),
    Changes,
    OpenApi,
    Docs(reference::File),
    Backup,
}

/// The most segments of a path that names something.
const SEGMENTS: usize = 5;

/// The template of a path, by which requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Root,
    Api,
    Live,
    Ready,
    Scrub,
    All,
    One,
    Found,
    Changes,
    Backup,
    OpenApi,
    Docs,
    Unknown,
}

impl Route {
    /// All of them, in their order.
    pub(crate) const ALL: [Self; 13] = [
        Self::Root,
        Self::Api,
        Self::Live,
        Self::Ready,
        Self::Scrub,
        Self::All,
        Self::One,
        Self::Found,
        Self::Changes,
        Self::Backup,
        Self::OpenApi,
        Self::Docs,
        Self::Unknown,
    ];

    /// Returns the route that `path` takes.
    pub(crate) fn of(path: &str, collection: Collection) -> Self {
        Resource::at(path, collection).map_or(Self::Unknown, |resource| resource.route())
    }

    pub(crate) fn template(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::Api => "/api",
            Self::Live => "/live",
            Self::Ready => "/ready",
            Self::Scrub => "/scrub",
            Self::All => "/api/{collection}",
            Self::One => "/api/{collection}/{id}",
            Self::Found => "/api/{collection}/{index}/{term}",
            Self::Changes => "/api/{collection}/changes",
            Self::Backup => "/api/{collection}/-/backup",
            Self::OpenApi => "/api/{collection}/openapi.json",
            Self::Docs => "/api/{collection}/docs",
            Self::Unknown => "unknown",
        }
    }
}

impl<'p> Resource<'p> {
    fn at(path: &'p str, collection: Collection) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        if path.is_empty() {
            return Some(Self::Root);
        }
        let (mut segments, mut count) = ([""; SEGMENTS], 0);
        for segment in path.strip_suffix('/').unwrap_or(path).split('/') {
            if segment.is_empty() || count == SEGMENTS {
                return None;
            }
            segments[count] = segment;
            count += 1;
        }
        Some(match segments[..count] {
            ["api"] => Self::Api,
            ["live"] => Self::Live,
            ["ready"] => Self::Ready,
            ["scrub"] => Self::Scrub,
            ["api", name, ..] if name != collection.name() => return None,
            ["api", _] if collection.is_single() => Self::Single,
            ["api", _] => Self::All,
            ["api", _, "-", "backup"] => Self::Backup,
            ["api", _, "-", "changes"] => Self::Changes,
            ["api", _, "changes"] if !collection.has_text_ids() => Self::Changes,
            ["api", _, "-", "openapi.json"] => Self::OpenApi,
            ["api", _, "-", "docs"] => Self::Docs(reference::File::Page),
            ["api", _, "-", "problems"] => Self::Docs(reference::File::Problems),
            ["api", _, "-", "docs", file] => Self::Docs(reference::File::named(file)?),
            ["api", _, "openapi.json"] if !collection.has_text_ids() => Self::OpenApi,
            ["api", _, "docs"] if !collection.has_text_ids() => Self::Docs(reference::File::Page),
            ["api", _, id] => Self::One(id),
            ["api", _, route, term] => Self::Found(collection.index_at(route)?, term),
            _ => return None,
        })
    }

    /// Returns what it counts as.
    fn route(&self) -> Route {
        match self {
            Self::Root => Route::Root,
            Self::Api => Route::Api,
            Self::Live => Route::Live,
            Self::Ready => Route::Ready,
            Self::Scrub => Route::Scrub,
            Self::All | Self::Single => Route::All,
            Self::One(_) => Route::One,
            Self::Found(..) => Route::Found,
            Self::Changes => Route::Changes,
            Self::Backup => Route::Backup,
            Self::OpenApi => Route::OpenApi,
            Self::Docs(_) => Route::Docs,
        }
    }

    /// Returns the methods that it answers, for `Allow`.
    fn allowed(&self) -> &'static str {
        match self {
            Self::Root | Self::Api | Self::Live | Self::Ready | Self::Found(..) => READS,
            Self::Changes | Self::OpenApi | Self::Docs(_) => READS,
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
        &self,
        cache: &AnswerCache,
        method: &Method,
        target: Target<'_>,
        headers: &HeaderMap,
        body: impl Body,
    ) -> Answer {
        let collection = self.store.collection();
        let Target { path, resource, given } = target;
        if let Some(replica) = &self.replica {
            replica.wait(headers).await?;
        }
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        if matches!(resource, Resource::One(_)) && collection.is_single() {
            return Err(Problem::NoSuchRecord);
        }
        if is_read && !matches!(resource, Resource::Backup | Resource::Scrub) {
            let response = self.read(cache, path, resource, given?, headers)?;
            return Ok(read::spare(collection, headers, response));
        }
        if !resource.allowed().split(", ").any(|allowed| allowed == *method) {
            return Err(Problem::MethodNotAllowed(resource.allowed()));
        }
        match resource {
            Resource::Backup => return self.operator.clone().backup(headers, given?).await,
            _ => {
                // No write has parameters.
                if let Err(problem) = given.and_then(|given| given.finish(&[])) {
                    return write::refuse(headers, body, problem).await;
                }
            }
        }
        match resource {
            Resource::Scrub => self.operator.clone().answer_scrub().await,
            Resource::All => write::post(self.clone(), headers, body).await,
            Resource::Single => write::change(self.clone(), method, Ok(RecordName::Single), headers, body).await,
            Resource::One(id) => write::change(self.clone(), method, read_name(collection, id), headers, body).await,
            other => Err(Problem::MethodNotAllowed(other.allowed())),
        }
    }

    fn read(
        &self,
        cache: &AnswerCache,
        path: &str,
        resource: Resource,
        mut given: Parameters,
        headers: &HeaderMap,
    ) -> Answer {
        let (store, collection) = (&self.store, self.store.collection());
        let name = match resource {
            Resource::All => {
                let mut wanted = Wanted::read(collection, true, given)?;
                wanted.lines = reply::accepts_lines(headers);
                return if wanted.is_everything() {
                    if wanted.lines { read::all_lines(store) } else { read::all(store, cache) }
                } else {
                    page::part(store, path, None, wanted)
                };
            }
            Resource::Found(index, term) if index.answers == Answers::Many => {
                let term = index.term(read_term(collection, index, term)?);
                let mut wanted = Wanted::read(collection, false, given)?;
                wanted.lines = reply::accepts_lines(headers);
                return if wanted.is_everything() {
                    read::found(store, index, &term, wanted.lines)
                } else {
                    page::part(store, path, Some((index.number, term)), wanted)
                };
            }
            Resource::Found(index, term) => {
                let fields = parameters::read_fields(collection, &mut given)?;
                given.finish(&["fields"])?;
                let term = index.term(read_term(collection, index, term)?);
                return read::found_one(store, index, &term, fields.as_deref());
            }
            Resource::Single => RecordName::Single,
            Resource::One(id) => read_name(collection, id)?,
            _ => {
                given.finish(&[])?;
                return match resource {
                    Resource::Root => reply::text("Ready to receive requests"),
                    Resource::Api => reply::text("API ready to receive requests"),
                    Resource::Live => reply::text("live"),
                    Resource::OpenApi => openapi::answer(collection),
                    Resource::Docs(file) => file.answer(collection),
                    Resource::Ready => self.check_ready(),
                    other => Err(Problem::MethodNotAllowed(other.allowed())),
                };
            }
        };
        let fields = parameters::read_fields(collection, &mut given)?;
        given.finish(&["fields"])?;
        read::one(store, name, fields.as_deref())
    }
}

/// Decodes a path's segment. Fails if it is not percent-encoded UTF-8.
fn decode(segment: &str) -> Result<Cow<'_, str>, Problem> {
    percent_decode_str(segment).decode_utf8().map_err(|_| Problem::NotAText)
}

/// Reads an id from a path.
fn read_id(segment: &str) -> Result<Id, Problem> {
    decode(segment).ok().and_then(|text| text.parse().ok()).ok_or(Problem::NotAnId)
}

/// Reads a record's id from a path: a text or an integer, as `collection` declares.
fn read_name(collection: Collection, segment: &str) -> Result<RecordName, Problem> {
    if collection.has_text_ids() {
        decode(segment).map(|text| RecordName::Text(text.into()))
    } else {
        read_id(segment).map(RecordName::Number)
    }
}

/// Reads an index's term from a path.
fn read_term(collection: Collection, index: &IndexDeclaration, segment: &str) -> Result<Term, Problem> {
    match collection.terms_of(index) {
        TermKind::Id => read_id(segment).map(Term::Id),
        TermKind::TextId | TermKind::Text => decode(segment).map(|text| Term::Text(text.into())),
        TermKind::Number => decode(segment).and_then(|number| parameters::read_number_of(&index.field, &number)),
    }
}
