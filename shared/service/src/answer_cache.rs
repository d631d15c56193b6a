//! A cache of answers to GET and HEAD, by path, and of the parts of answers that are too long for that.
//!
//! It lies in front of the routes, as a caching proxy would, and knows nothing of them: a handler marks an answer with
//! [`Cacheable`] if it follows from the path and the database alone. Such an answer is repeated while it is current, which
//! the database's [stamps](Stamp) tell. A client finds its own write as soon as that is answered.
//!
//! The list of all records is sent in chunks while it is read. Each chunk is cached by itself, so that a write makes one
//! of them old.
//!
//! Pages of the database lie in the same memory if all of them fit. A page holds sixteen records in less than half of the
//! room of their answers, and a record whose page is in memory is answered from it, without the routes. Where not all fit,
//! a page would hold one record that is asked for, and fifteen that are not. Lists are kept as answers: the pages of one's
//! records would take ten times its room. But with room for all pages and half as much for answers, the pages of lists stay
//! too, so that a list is read from memory the first time.

use std::borrow::Cow;
use std::hash::{Hash, Hasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use headers::ETag;
use http_body_util::Full;
use hyper::Request;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use record::id::Id;
use store::{PageCache, PageGroup, Stamp, Store};
use warp::http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use warp::http::{Method, StatusCode, Uri};
use warp::reply::Response;

use crate::condition::Condition;
use crate::health::Health;
use crate::routes::Route;
use crate::{memory, read, reply};

/// The memory of an answer beside its path and its body, in bytes, by measurement.
const ENVELOPE: u64 = 500;

/// The memory of a group of pages beside its bytes, in bytes.
const GROUP_ENVELOPE: u64 = 300;

/// The body of an answer in JSON, and the stamps of all that it was read from. A handler puts it into the extensions of
/// its response, which may be a 304.
#[derive(Clone)]
pub(crate) struct Cacheable {
    pub(crate) stamps: Vec<Stamp>,
    pub(crate) body: Bytes,
}

#[derive(PartialEq, Eq)]
enum Key {
    /// The answer to this path.
    Answer(Box<str>),
    /// The chunk of the list of all records that begins with this id.
    Chunk(Id),
    /// The group of the database's pages with this number.
    Pages(u64),
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Answer(path) => path.hash(state),
            Self::Chunk(from) => from.hash(state),
            Self::Pages(number) => number.hash(state),
        }
    }
}

impl Equivalent<Key> for str {
    fn equivalent(&self, key: &Key) -> bool {
        matches!(key, Key::Answer(path) if **path == *self)
    }
}

struct Cached {
    cacheable: Cacheable,
    /// What a request for it counts as.
    route: Route,
    /// The headers of an answer, which is in JSON, with status 200. A clone takes less than to insert them again.
    headers: HeaderMap,
    /// Where the chunk behind this one begins.
    next: Option<Id>,
}

#[derive(Clone)]
enum Kept {
    Answer(Arc<Cached>),
    Pages(PageGroup),
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Kept> for ByBytes {
    fn weight(&self, key: &Key, kept: &Kept) -> u64 {
        let path = if let Key::Answer(path) = key { path.len() } else { 0 };
        match kept {
            Kept::Answer(cached) => {
                let stamps = size_of_val(&*cached.cacheable.stamps);
                ENVELOPE + (path + stamps + cached.cacheable.body.len()) as u64
            }
            Kept::Pages(group) => weight_of_group(group.bytes()),
        }
    }
}

fn weight_of_group(bytes: usize) -> u64 {
    // An allocator has sizes an eighth apart.
    GROUP_ENVELOPE + bytes as u64 / 16 * 17
}

/// Estimates the memory that all pages of `store` would take.
fn weight_of_pages(store: &Store) -> u64 {
    let (groups, mean) = store.estimate_groups();
    groups.saturating_mul(weight_of_group(mean))
}

fn pages(kept: Kept) -> Option<PageGroup> {
    if let Kept::Pages(group) = kept { Some(group) } else { None }
}

/// The memory that answers and pages share.
struct Memory {
    cache: Cache<Key, Kept, ByBytes, RandomState>,
    is_roomy: bool,
}

impl PageCache for Memory {
    fn find(&self, number: u64) -> Option<PageGroup> {
        pages(self.cache.get(&Key::Pages(number))?)
    }

    fn peek(&self, number: u64) -> Option<PageGroup> {
        pages(self.cache.peek(&Key::Pages(number))?)
    }

    fn keep(&self, number: u64, group: PageGroup) {
        self.cache.insert(Key::Pages(number), Kept::Pages(group));
    }

    fn has_room(&self) -> bool {
        self.cache.weight() < self.cache.capacity() / 16 * 15
    }

    fn is_roomy(&self) -> bool {
        self.is_roomy
    }
}

/// The cache of a service. Clones share it.
#[derive(Clone)]
pub(crate) struct AnswerCache {
    memory: Arc<Memory>,
    store: Store,
    health: Health,
    /// What the path of a record begins with, if a number follows that names it.
    records: Option<Arc<str>>,
}

impl AnswerCache {
    /// Creates an empty cache that takes up to `bytes` of memory. `store` keeps its pages there if they fit.
    /// `has_own`: the service has routes of its own, which may be for any path.
    pub(crate) fn new(store: &Store, health: &Health, bytes: u64, has_own: bool) -> Self {
        let answers = (bytes / (2 * ENVELOPE)) as usize;
        let options = OptionsBuilder::new().estimated_items_capacity(answers).weight_capacity(bytes).build();
        let options = options.expect("both capacities are set");
        // Paths and ids come from clients, so the hash has random keys.
        let cache = Cache::with_options(options, ByBytes, RandomState::new(), DefaultLifecycle::default());
        let (collection, pages) = (store.collection(), weight_of_pages(store));
        let memory = Arc::new(Memory { cache, is_roomy: pages <= bytes / 3 * 2 });
        let keeps_pages = bytes > 0 && pages <= bytes;
        if keeps_pages {
            store.keep_pages_in(memory.clone());
        }
        let has_numbers = !has_own && !collection.has_text_ids() && !collection.is_single();
        let records = (keeps_pages && has_numbers).then(|| format!("/api/{}/", collection.name()).into());
        Self { memory, store: store.clone(), health: health.clone(), records }
    }

    /// Returns the memory that a service with `store` takes by itself, in MiB.
    pub(crate) fn share(store: &Store) -> u64 {
        let share = memory::share();
        if weight_of_pages(store) <= share << 20 { share } else { share.min(memory::MOST_OF_MANY) }
    }

    /// Answers `request` if the answer is known and current. Returns the request's route, too.
    pub(crate) fn find<B>(&self, request: &Request<B>) -> Option<(hyper::Response<Full<Bytes>>, Route)> {
        if !matches!(*request.method(), Method::GET | Method::HEAD)
            || has_query(request.uri())
            || request.headers().contains_key(IF_MATCH)
            || self.health.is_draining()
        {
            return None;
        }
        let path = request.uri().path();
        let kept = self.get(path);
        let (body, headers, route) = match &kept {
            Some(kept) => (kept.cacheable.body.clone(), Cow::Borrowed(&kept.headers), kept.route),
            None => {
                let (body, headers) = self.read_record(path)?;
                (body, Cow::Owned(headers), Route::One)
            }
        };
        let is_list = body.first() == Some(&b'[');
        if is_list && reply::accepts_lines(request.headers()) {
            return None;
        }
        if let Some(tag) = headers.get(ETAG)
            && let Some(known) = request.headers().get(IF_NONE_MATCH)
            && (known == tag || tag_of(tag).is_some_and(|tag| Condition::read(request.headers()).has(&tag)))
        {
            let mut response = hyper::Response::default();
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().insert(ETAG, tag.clone());
            let response = if is_list { reply::vary(response) } else { response };
            return Some((response, route));
        }
        let mut response = hyper::Response::new(body.into());
        *response.headers_mut() = headers.into_owned();
        Some((response, route))
    }

    /// Keeps `response`, the answer of `route` to a request for `uri`, if its handler has marked it.
    pub(crate) fn keep(&self, uri: &Uri, route: Route, response: &mut Response) {
        let Some(cacheable) = response.extensions_mut().remove::<Cacheable>() else { return };
        if has_query(uri) {
            return;
        }
        let mut headers = response.headers().clone();
        if response.status() == StatusCode::NOT_MODIFIED {
            headers.insert(CONTENT_TYPE, reply::JSON);
        }
        let answer = Arc::new(Cached { cacheable, route, headers, next: None });
        self.memory.cache.insert(Key::Answer(uri.path().into()), Kept::Answer(answer));
    }

    /// Returns the body and the headers of the answer to a request for `path`, if that names a record by its number, and
    /// its page is in memory. Such an answer is kept only in memory that nothing else needs.
    fn read_record(&self, path: &str) -> Option<(Bytes, HeaderMap)> {
        let id = path.strip_prefix(&**self.records.as_ref()?)?.parse().ok()?;
        if self.health.is_building() {
            return None;
        }
        let stored = self.store.read_whole(|| self.store.get_from_memory(id))?;
        // A copy: a client that takes its time would hold the page.
        let (body, headers) = (Bytes::copy_from_slice(stored.json()), read::headers_of(&stored));
        if self.memory.has_room() {
            let cacheable = Cacheable { stamps: vec![stored.stamp], body: body.clone() };
            let answer = Cached { cacheable, route: Route::One, headers: headers.clone(), next: None };
            self.memory.cache.insert(Key::Answer(path.into()), Kept::Answer(Arc::new(answer)));
        }
        Some((body, headers))
    }

    /// Returns the bytes that it takes, and those that it may take.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.memory.cache.weight(), self.memory.cache.capacity())
    }

    /// Returns the chunk of the list of all records that begins with id `from`, and where the next one begins, if the
    /// chunk is known and current.
    pub(crate) fn find_chunk(&self, from: Id) -> Option<(Bytes, Option<Id>)> {
        let chunk = self.get(&Key::Chunk(from))?;
        Some((chunk.cacheable.body.clone(), chunk.next))
    }

    /// Keeps the chunk that begins with id `from`; behind it comes `next`.
    pub(crate) fn keep_chunk(&self, from: Id, cacheable: Cacheable, next: Option<Id>) {
        let chunk = Arc::new(Cached { cacheable, route: Route::All, headers: HeaderMap::new(), next });
        self.memory.cache.insert(Key::Chunk(from), Kept::Answer(chunk));
    }

    /// Returns what is cached under `key` if it is current.
    fn get<Q: Hash + Equivalent<Key> + ?Sized>(&self, key: &Q) -> Option<Arc<Cached>> {
        let Kept::Answer(cached) = self.memory.cache.get(key)? else { return None };
        cached.cacheable.stamps.iter().all(|stamp| self.store.is_current(*stamp)).then_some(cached)
    }
}

/// Returns whether the answer may follow from more than the path.
fn has_query(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| !query.is_empty())
}

fn tag_of(value: &HeaderValue) -> Option<ETag> {
    value.to_str().ok()?.parse().ok()
}
