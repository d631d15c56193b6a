//! The operators' listener: what a service counts, why it is not ready, and how much it logs. Off by default; it asks for
//! no token, so it belongs on a Unix socket or into a network of its own, never behind the entrance.
//!
//! ```text
//! GET /metrics     for Prometheus; without its database's figures before that is open
//! GET /ready       the state in JSON: 200 while the service takes requests, else 503
//! GET /log-level   how much is logged
//! PUT /log-level   error, warn, info, debug, trace or off; default is what RUST_LOG said at the start
//! ```

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{self, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net as unix;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use record::model::Collection;
use serde_json::json;
use store::StoreError;
use tokio::net::{TcpListener, UnixListener};
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use crate::answer_cache::AnswerCache;
use crate::brief::Places;
use crate::changes::Listeners;
use crate::config::REVISION;
use crate::exposition::{CONTENT_TYPE as EXPOSITION, Exposition};
use crate::loading::Loading;
use crate::metrics::Metrics;
use crate::parameters::Parameters;
use crate::problem::{Problem, READS};
use crate::reply::{self, Answer};
use crate::routes::Routes;
use crate::state::State;
use crate::{access_log, logging};

/// The most connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 8;

/// The time that each has.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most bytes of a request's body.
const BODY_BYTES: usize = 64;

/// A Unix socket's name begins with this, unless it has a slash.
const UNIX: &str = "unix:";

/// A listener that is open and not served yet.
pub enum AdminListener {
    /// At an address.
    Tcp(net::TcpListener),
    /// At a path.
    Unix(unix::UnixListener),
}

impl AdminListener {
    /// Listens at `place`: `HOST:PORT`, `unix:PATH`, or a path with a slash. Call it before the sandbox, which forbids
    /// it.
    ///
    /// # Errors
    /// The place is taken, or is not one of this machine's.
    pub fn open(place: &str) -> io::Result<Self> {
        let path = place.strip_prefix(UNIX).or_else(|| place.contains('/').then_some(place));
        if let Some(path) = path {
            remove_abandoned(Path::new(path))?;
            let listener = unix::UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            return Ok(Self::Unix(listener));
        }
        let listener = net::TcpListener::bind(place)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// Returns the address, unless it is a path.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Answers requests with `admin` for ever.
    ///
    /// # Errors
    /// The listener cannot be registered with the runtime.
    pub async fn serve(self, admin: Admin) -> io::Result<()> {
        let (admin, places) = (Arc::new(admin), Places::new(CONNECTIONS, PATIENCE));
        let answer = || {
            let admin = Arc::clone(&admin);
            move |request| {
                let admin = Arc::clone(&admin);
                async move { admin.answer(request).await }
            }
        };
        match self {
            Self::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    places.serve(async || listener.accept().await.map(|(stream, _)| stream), answer()).await;
                }
            }
            Self::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                loop {
                    places.serve(async || listener.accept().await.map(|(stream, _)| stream), answer()).await;
                }
            }
        }
    }
}

/// Removes the socket at `path` if the process that made it has ended: sockets outlive their process, and a sandbox lets
/// none remove its own.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    match unix::UnixStream::connect(path) {
        Err(error) if is_socket && error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Answers operators. Clones share what it tells.
#[derive(Clone)]
pub struct Admin {
    collection: Collection,
    metrics: Metrics,
    loading: Loading,
    serving: Arc<OnceLock<Serving>>,
}

/// A service that has its database.
struct Serving {
    state: State,
    cache: AnswerCache,
    listeners: Listeners,
}

impl Admin {
    /// Tells what `metrics` count, and what a service of `collection` does to have a database.
    pub(crate) fn new(collection: Collection, metrics: Metrics, loading: Loading) -> Self {
        Self { collection, metrics, loading, serving: Arc::default() }
    }

    /// From now on tells the state of a service with these `routes`, too.
    pub(crate) fn begin_serving(&self, state: &State, routes: &Routes) {
        let Routes { cache, listeners, .. } = routes.clone();
        // It begins once.
        let _ = self.serving.set(Serving { state: state.clone(), cache, listeners });
    }

    /// Returns why the service takes no requests.
    fn find_obstacles(&self) -> Vec<Problem> {
        match self.serving.get() {
            Some(serving) => serving.state.find_obstacles(),
            None => vec![self.loading.to_problem()],
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response {
        let method = request.method().clone();
        let query = request.uri().query().unwrap_or_default();
        let parameters = Parameters::read(query).and_then(|given| given.finish(&[]));
        let answer = match (request.uri().path(), &method) {
            ("/metrics" | "/ready" | "/log-level", _) if let Err(problem) = parameters => Err(problem),
            ("/metrics", &Method::GET | &Method::HEAD) => self.write_metrics().map_err(Problem::from),
            ("/ready", &Method::GET | &Method::HEAD) => Ok(self.describe_readiness()),
            ("/log-level", &Method::GET | &Method::HEAD) => reply::text(logging::level() + "\n"),
            ("/log-level", &Method::PUT) => set_log_level(request.into_body()).await,
            ("/log-level", _) => Err(Problem::MethodNotAllowed("GET, HEAD, PUT")),
            ("/metrics" | "/ready", _) => Err(Problem::MethodNotAllowed(READS)),
            _ => Err(Problem::NoSuchPath),
        };
        answer.unwrap_or_else(|problem| problem.into_response(self.collection(), &method))
    }

    /// `GET /ready`
    fn describe_readiness(&self) -> Response {
        let obstacles = self.find_obstacles();
        let reasons = obstacles
            .iter()
            .map(|problem| json!({ "reason": problem.reason(), "detail": problem.detail(&Method::GET) }));
        let is_ready = obstacles.is_empty();
        let state = json!({
            "ready": is_ready,
            "reasons": reasons.collect::<Vec<_>>(),
            "remarks": self.serving.get().map(|serving| serving.state.list_remarks()).unwrap_or_default(),
        });
        let mut response = reply::json(Response::new(format!("{state}\n").into()));
        *response.status_mut() = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response
    }

    /// `GET /metrics`
    fn write_metrics(&self) -> Result<Response, StoreError> {
        let mut text = Exposition::default();
        self.write_requests(&mut text);
        if let Some(serving) = self.serving.get() {
            serving.write_reads(&mut text);
            serving.write_writes(&mut text);
            serving.write_store(&mut text)?;
        }
        let mut response = Response::new(text.into_text().into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(EXPOSITION));
        Ok(response)
    }

    fn write_requests(&self, text: &mut Exposition) {
        let version = env!("CARGO_PKG_VERSION");
        let labels = [("version", version), ("revision", REVISION), ("collection", self.collection().name())];
        text.begin("service_build_info", "gauge", "The program, in labels; always 1.");
        text.sample("service_build_info", &labels, 1);
        let is_ready = self.find_obstacles().is_empty();
        text.one("service_ready", "gauge", "1 while the service takes requests, else 0.", u8::from(is_ready));

        let name = "service_request_duration_seconds";
        text.begin(name, "histogram", "Times up to an answer's head, by method, route and class of status.");
        for answers in self.metrics.answers() {
            let labels = [("method", answers.method), ("route", answers.route), ("status", answers.class)];
            text.spread(name, &labels, &answers.times, 1e6);
        }
        let name = "service_refused_requests_total";
        text.begin(name, "counter", "Requests that were answered with a problem, by its reason.");
        for (reason, count) in self.metrics.refused() {
            text.sample(name, &[("reason", reason)], count);
        }
        let repeated = self.metrics.repeated();
        text.one("service_repeated_answers_total", "counter", "Answers from memory, without the routes.", repeated);

        let figures = self.metrics.connections.figures();
        text.one("service_requests_in_flight", "gauge", "Requests under way.", figures.busy);
        text.one("service_connections", "gauge", "Open connections.", figures.open);
        text.one("service_connections_total", "counter", "Connections so far.", figures.accepted);
        text.one("service_received_bytes_total", "counter", "Bytes that clients have sent.", figures.received);
        text.one("service_sent_bytes_total", "counter", "Bytes that were sent to clients.", figures.sent);
        let lost = access_log::lost();
        text.one("service_access_log_lost_lines_total", "counter", "Lines that the access log has lost.", lost);
    }

    /// Returns the collection as its database declares it, once it is open.
    fn collection(&self) -> Collection {
        self.serving.get().map_or(self.collection, |serving| serving.state.store.collection())
    }
}

impl Serving {
    fn write_reads(&self, text: &mut Exposition) {
        let (bytes, limit) = self.cache.bytes();
        text.one("service_answer_cache_bytes", "gauge", "The memory of answers and of pages of records.", bytes);
        text.one("service_answer_cache_limit_bytes", "gauge", "The most memory of these.", limit);
        let listeners = self.listeners.count();
        text.one("service_listeners", "gauge", "Clients that follow the changes; requests under way, too.", listeners);
    }

    fn write_writes(&self, text: &mut Exposition) {
        let figures = self.state.commit.figures();
        let name = "service_write_group_size";
        text.begin(name, "histogram", "Writes that were made durable together.");
        text.spread(name, &[], &figures.group_writes.read(), 1.0);
        let name = "service_write_disk_wait_seconds";
        text.begin(name, "histogram", "The time that a group of writes waited for the disk.");
        text.spread(name, &[], &figures.disk_wait.read(), 1e6);
        let name = "service_write_commit_seconds";
        text.begin(name, "histogram", "The time of a group of writes, from its first decision to its answers.");
        text.spread(name, &[], &figures.commit_time.read(), 1e6);
        let bytes = figures.journal_bytes.get();
        text.one("service_journal_bytes_total", "counter", "Bytes appended to the journal.", bytes);
        let replica = self.state.replica.as_ref();
        let (applied, takes) = replica.map_or((0, true), |replica| (replica.applied(), replica.reaches_broker()));
        let what = "The number of the last message of its stream that a replica has applied; else 0.";
        text.one("service_stream_sequence", "gauge", what, applied);
        let what = "1 while the broker of a replica takes writes, and of a single service; else 0.";
        text.one("service_broker_reached", "gauge", what, u8::from(takes));
    }

    fn write_store(&self, text: &mut Exposition) -> Result<(), StoreError> {
        let store = &self.state.store;
        let (revision, records) = store.state()?;
        text.one("service_records", "gauge", "Records.", records.count);
        text.one("service_revision", "gauge", "The database's revision.", revision);
        let damaged = store.damage().unwrap_or(0);
        text.one("service_damaged_values", "gauge", "Values that could not be read since the start.", damaged);
        text.one("service_read_only", "gauge", "1 on a read-only file system.", u8::from(store.is_read_only()));
        text.one("service_database_bytes", "gauge", "The database's files.", store.size_on_disk()?);
        if let Some((bytes, time)) = self.state.operator.last_scrub() {
            text.one("service_live_bytes", "gauge", "The values in the database, as the last scrub read them.", bytes);
            let time = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            text.one("service_last_scrub_timestamp_seconds", "gauge", "When the last scrub ended.", time);
        }
        let (size, free) = store.room()?;
        text.one("service_disk_size_bytes", "gauge", "The file system that the database lies on.", size);
        text.one("service_disk_free_bytes", "gauge", "What is free of it.", free);
        Ok(())
    }
}

/// `PUT /log-level`
async fn set_log_level(body: Incoming) -> Answer {
    let body =
        Limited::new(body, BODY_BYTES).collect().await.map_err(|_| Problem::BodyTooLarge(BODY_BYTES))?.to_bytes();
    let level = str::from_utf8(&body).unwrap_or_default().trim();
    if logging::set_level(level) {
        log::warn!("the admin listener has set what is logged: {}", logging::level());
        return reply::text(logging::level() + "\n");
    }
    Err(Problem::Parameter("A level is one of error, warn, info, debug, trace, off and default.".to_owned()))
}
