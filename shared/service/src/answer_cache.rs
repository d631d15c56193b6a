//! A cache of answers to GET and HEAD, by path.
//!
//! It lies in front of the routes, as a caching proxy would, and knows nothing of them: a handler marks an answer with
//! [`Cacheable`] if it follows from the path and the database alone. Such an answer is repeated while it is current, which
//! the database's [stamps](Stamp) tell. A client finds its own write as soon as that is answered.

use std::hash::RandomState;
use std::sync::Arc;

use bytes::Bytes;
use headers::ETag;
use hyper::Request;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use store::{Stamp, Store};
use warp::http::header::{ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::condition::Condition;
use crate::health::Health;
use crate::reply;

/// The memory of an answer beside its path and its body, in bytes, by measurement.
const ENVELOPE: u64 = 300;

/// The body of an answer in JSON, and the stamps of all that it was read from. A handler puts it into the extensions of
/// its response, which may be a 304.
#[derive(Clone)]
pub(crate) struct Cacheable {
    pub(crate) stamps: Vec<Stamp>,
    pub(crate) body: Bytes,
}

/// An answer in JSON, with status 200.
struct CachedAnswer {
    cacheable: Cacheable,
    tag: Option<HeaderValue>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Box<str>, Arc<CachedAnswer>> for ByBytes {
    fn weight(&self, path: &Box<str>, answer: &Arc<CachedAnswer>) -> u64 {
        let stamps = size_of_val(&*answer.cacheable.stamps);
        ENVELOPE + (path.len() + stamps + answer.cacheable.body.len()) as u64
    }
}

/// The cache of a service. Clones share it.
#[derive(Clone)]
pub(crate) struct AnswerCache {
    cache: Arc<Cache<Box<str>, Arc<CachedAnswer>, ByBytes, RandomState>>,
    store: Store,
    health: Health,
}

impl AnswerCache {
    /// Creates an empty cache that takes up to `bytes` of memory.
    pub(crate) fn new(store: &Store, health: &Health, bytes: u64) -> Self {
        let answers = (bytes / (2 * ENVELOPE)) as usize;
        let options = OptionsBuilder::new().estimated_items_capacity(answers).weight_capacity(bytes).build();
        let options = options.expect("both capacities are set");
        // Paths come from clients, so the hash has random keys.
        let cache = Cache::with_options(options, ByBytes, RandomState::new(), DefaultLifecycle::default());
        Self { cache: Arc::new(cache), store: store.clone(), health: health.clone() }
    }

    /// Answers `request` if the answer is known and current.
    pub(crate) fn find<B>(&self, request: &Request<B>) -> Option<Response> {
        if !matches!(*request.method(), Method::GET | Method::HEAD)
            || request.headers().contains_key(IF_MATCH)
            || self.health.is_draining()
        {
            return None;
        }
        let answer = self.cache.get(request.uri().path())?;
        if !answer.cacheable.stamps.iter().all(|stamp| self.store.is_current(*stamp)) {
            return None;
        }
        let tag = answer.tag.as_ref();
        if let Some(tag) = tag
            && let Some(known) = request.headers().get(IF_NONE_MATCH)
            && (known == tag || tag_of(tag).is_some_and(|tag| Condition::read(request.headers()).has(&tag)))
        {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().insert(ETAG, tag.clone());
            return Some(response);
        }
        let mut response = reply::json(Response::new(answer.cacheable.body.clone().into()));
        if let Some(tag) = tag {
            response.headers_mut().insert(ETAG, tag.clone());
        }
        Some(response)
    }

    /// Keeps `response`, the routes' answer to a request for `path`, if its handler has marked it.
    pub(crate) fn keep(&self, path: &str, response: &mut Response) {
        let Some(cacheable) = response.extensions_mut().remove::<Cacheable>() else { return };
        let tag = response.headers().get(ETAG).cloned();
        self.cache.insert(path.into(), Arc::new(CachedAnswer { cacheable, tag }));
    }
}

fn tag_of(value: &HeaderValue) -> Option<ETag> {
    value.to_str().ok()?.parse().ok()
}
