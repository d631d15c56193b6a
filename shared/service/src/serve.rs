//! Serves HTTP on a bound listener until a shutdown future ends.
//!
//! It runs warp's filters on hyper's connections, because `warp::serve` has no header timeout, no connection limit, no
//! TCP_NODELAY and no drain deadline.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;
use std::future::ready;
use std::io;
use std::net::{self, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Either;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Method, Uri};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use log::Level;
use percent_encoding::percent_decode_str;
use record::words::agree;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::access_log::{self, Line};
use crate::authorize::Writer;
use crate::connection::{self, BUFFER, Bounds, Connections, GRACE, Guard, SEND_BUFFER, SWEEP};
use crate::metrics::{Metrics, Tally};
use crate::problem::Problem;
use crate::routes::{Route, Routes};
use crate::workers::Workers;

/// The time requests under way have to end after a shutdown begins.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The header with a load balancer's request id.
const REQUEST_ID: &str = "x-request-id";

/// The header with the trace that a request is a part of (W3C Trace Context).
const TRACE: &str = "traceparent";

/// The longest request id that is logged, in bytes.
const REQUEST_ID_BYTES: usize = 64;

/// Words of queries that hold secrets.
const SECRETS: [&str; 8] = ["token", "secret", "passw", "key", "auth", "session", "sig", "code"];

/// The most fields of a request. The entrance adds some to those of a client.
const FIELDS: usize = 128;

/// The pause after a failed accept, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` on `listener` with `workers` until `shutdown` ends, then gives requests under way
/// [`DRAIN_TIMEOUT`] to end. Returns the output of `shutdown`.
pub async fn serve<T>(listener: TcpListener, routes: Routes, workers: Workers, shutdown: impl Future<Output = T>) -> T {
    let mut server = Server::new(listener, routes.metrics.clone());
    server.workers = workers;
    server.serve(routes, shutdown).await
}

/// A listener, and the connections that it has accepted.
pub(crate) struct Server {
    listener: TcpListener,
    /// None until they are needed: an idle service is the smaller the later they start.
    workers: Workers,
    metrics: Metrics,
    graceful: GracefulShutdown,
    sweeps: Interval,
    /// A connection that has no permit yet.
    next: Option<(net::TcpStream, SocketAddr)>,
}

impl Server {
    /// Accepts nothing yet.
    pub(crate) fn new(listener: TcpListener, metrics: Metrics) -> Self {
        let (workers, graceful, mut sweeps) = (Workers::default(), GracefulShutdown::new(), interval(SWEEP));
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { listener, workers, metrics, graceful, sweeps, next: None }
    }

    /// Starts `count` workers, unless there are some.
    pub(crate) fn start_workers(&mut self, count: usize) -> io::Result<()> {
        if self.workers.count() == 0 {
            self.workers = Workers::start(count)?;
        }
        Ok(())
    }

    /// Serves `routes` as [`serve`] does.
    pub(crate) async fn serve<T>(mut self, routes: Routes, shutdown: impl Future<Output = T>) -> T {
        let listeners = routes.listeners.clone();
        let answers = move |guard, tally, client| answer_requests(routes, guard, tally, client);
        let end = async {
            tokio::select! {
                never = listeners.call() => match never {},
                ended = shutdown => ended,
            }
        };
        let ended = self.answer_until(&http(), answers, end).await;
        listeners.end();
        self.drain().await;
        ended
    }

    /// Accepts connections until `end`, and answers the requests of each with a service that `answers` makes.
    pub(crate) async fn answer_until<A, S, B, T>(
        &mut self,
        http: &http1::Builder,
        answers: A,
        end: impl Future<Output = T>,
    ) -> T
    where
        A: FnOnce(Guard, Arc<Tally>, SocketAddr) -> S + Clone + Send + 'static,
        S: Service<hyper::Request<Incoming>, Response = hyper::Response<B>, Error = Infallible, Future: Send> + Send,
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let Self { listener, workers, metrics, graceful, sweeps, next } = self;
        let tallies: Vec<_> = (0..workers.count()).map(|_| metrics.add_worker()).collect();
        let connections = &mut metrics.connections;
        let permits = Arc::clone(connections.permits());
        let mut end = pin!(end);
        loop {
            if next.is_some() && permits.available_permits() == 0 {
                connections.make_room();
            }
            let permit = tokio::select! {
                accepted = listener.accept(), if next.is_none() => {
                    match accepted.and_then(|(stream, client)| Ok((stream.into_std()?, client))) {
                        Ok(accepted) => *next = Some(accepted),
                        Err(error) => {
                            log::warn!("a connection could not be accepted: {error}");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                    continue;
                }
                permit = permits.clone().acquire_owned(), if next.is_some() => permit.expect("it is never closed"),
                _ = sweeps.tick() => {
                    connections.sweep();
                    continue;
                }
                // One that may be given up is looked for again.
                () = sleep(GRACE), if next.is_some() => continue,
                ended = &mut end => break ended,
            };
            let Some((stream, client)) = next.take() else { continue };
            let (http, answers, watcher, watch) =
                (http.clone(), answers.clone(), graceful.watcher(), connections.watch());
            watch.keep(permit);
            // Its own task: a panic in the middle of a body cuts off this connection only.
            workers.spawn(|number| {
                let tally = Arc::clone(&tallies[number]);
                async move {
                    let served = async {
                        let requests = answers(watch.guard(), tally, client);
                        let connection = http.serve_connection(TokioIo::new(watch.stream(register(stream)?)), requests);
                        watcher.watch(connection).await.map_err(io::Error::other)
                    };
                    if let Err(error) = served.await {
                        log::debug!("client={client} the connection failed: {error}");
                    }
                }
            });
        }
    }

    /// Stops listening, and gives requests under way [`DRAIN_TIMEOUT`] to end.
    async fn drain(self) {
        let Self { listener, workers, metrics, graceful, mut sweeps, .. } = self;
        drop(listener);
        // hyper closes connections from which it has read nothing, even if a request waits in them.
        workers.catch_up().await;
        let count = graceful.count();
        log::info!("draining {count} {}", agree(count as u64, "connection", "connections"));
        let sweep = async {
            loop {
                sweeps.tick().await;
                metrics.connections.sweep();
            }
        };
        tokio::select! {
            () = graceful.shutdown() => {}
            () = sweep => {}
            () = sleep(DRAIN_TIMEOUT) => {
                log::warn!("requests were still under way after {} s; they are cut off", DRAIN_TIMEOUT.as_secs());
            }
        }
    }
}

/// Serves `routes` on one stream that is no socket, so that instructions can be counted. Does all that [`serve`] does for
/// each request; only bytes are not watched.
pub fn serve_stream<S>(
    stream: S,
    routes: Routes,
    client: SocketAddr,
) -> impl Future<Output = hyper::Result<()>> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (guard, tally) = (Connections::new(Bounds::default()).watch().guard(), Arc::new(Tally::new()));
    let requests = answer_requests(routes, guard, tally, client);
    http().serve_connection(TokioIo::new(stream), requests)
}

/// Returns the settings of all connections.
pub(crate) fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    // Slow heads are the connections' own business.
    http.header_read_timeout(None).max_buf_size(BUFFER).max_headers(FIELDS);
    http
}

/// Registers `stream` with the current runtime.
fn register(stream: net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
    TcpStream::from_std(stream)
}

/// Answers the requests of one client: with known answers, or by `routes`. If a handler panics, its request gets a 500; the
/// panic hook logs why. Each request writes a line to the [access log](access_log).
fn answer_requests(
    routes: Routes,
    guard: Guard,
    tally: Arc<Tally>,
    client: SocketAddr,
) -> impl Service<
    hyper::Request<Incoming>,
    Response = hyper::Response<impl Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static>,
    Error = Infallible,
    Future: Send,
> {
    let Routes { filter, cache, cors, announcements, replica, collection, .. } = routes;
    let filter = TowerToHyperService::new(warp::service(filter));
    let client: Arc<str> = client.to_string().into();
    service_fn(move |request: hyper::Request<Incoming>| {
        let begin = Instant::now();
        let busy = guard.begin(&request);
        let host = connection::check_host(&request).and_then(|()| connection::check_path(&request));
        let permission = cors.as_ref().map(|cors| cors.decide(request.method(), request.headers()));
        let is_behind = replica.as_ref().is_some_and(|replica| replica.is_behind(request.headers()));
        if host.is_ok()
            && !is_behind
            && let Some((mut response, route)) = cache.find(&request)
        {
            if let Some(replica) = &replica {
                replica.add_sequence(response.headers_mut());
            }
            if let Some(permission) = permission {
                permission.add_to(response.headers_mut());
            }
            if let Some(announcements) = &announcements {
                announcements.add_to(request.uri(), response.headers_mut());
            }
            if busy.is_last() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let took = begin.elapsed();
            tally.add_repeated();
            tally.add(request.method(), route, &response, took);
            let ids = find_ids(request.headers());
            log_request(request.method(), request.uri(), ids, &client, took, &response);
            return Either::Left(ready(Ok(response.map(http_body_util::Either::Left))));
        }
        let (cache, client, method, uri) =
            (cache.clone(), Arc::clone(&client), request.method().clone(), request.uri().clone());
        let (tally, announcements, replica) = (Arc::clone(&tally), announcements.clone(), replica.clone());
        let [id, trace] = find_ids(request.headers());
        let (id, trace) = (id.cloned(), trace.cloned());
        // Unwind safe: handlers share no state that a panic could leave half-changed. The records are in the store.
        let answer = host.map(|()| AssertUnwindSafe(filter.call(request)).catch_unwind());
        Either::Right(async move {
            let mut response = match answer {
                Ok(answer) => {
                    answer.await.unwrap_or_else(|_panic| Ok(Problem::Panicked.into_response(collection, &method)))?
                }
                Err(problem) => problem.into_response(collection, &method),
            };
            let route = Route::of(uri.path(), collection);
            cache.keep(&uri, route, &mut response);
            let is_last = busy.is_last();
            let mut response = busy.limit_list(response, collection);
            if let Some(replica) = &replica {
                replica.add_sequence(response.headers_mut());
            }
            if let Some(permission) = permission {
                permission.add_to(response.headers_mut());
            }
            if let Some(announcements) = &announcements {
                announcements.add_to(&uri, response.headers_mut());
            }
            if is_last {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let took = begin.elapsed();
            tally.add(&method, route, &response, took);
            log_request(&method, &uri, [id.as_ref(), trace.as_ref()], &client, took, &response);
            Ok(response.map(http_body_util::Either::Right))
        })
    })
}

/// Finds a request's id and its trace. To look at each field is quicker than to look up two: there are few.
pub(crate) fn find_ids(headers: &HeaderMap) -> [Option<&HeaderValue>; 2] {
    let (mut id, mut trace) = (None, None);
    for (name, value) in headers {
        match name.as_str() {
            REQUEST_ID => id = id.or(Some(value)),
            TRACE => trace = trace.or(Some(value)),
            _ => {}
        }
    }
    [id, trace]
}

/// Writes a request's line to the access log. A handler can put the writer into its response's extensions for
/// that line.
pub(crate) fn log_request<B: Body>(
    method: &Method,
    uri: &Uri,
    [id, trace]: [Option<&HeaderValue>; 2],
    client: &str,
    took: Duration,
    response: &hyper::Response<B>,
) {
    // Load balancers ask for health every second.
    let level = if matches!(uri.path(), "/live" | "/ready") { Level::Debug } else { Level::Info };
    if log::log_enabled!(target: access_log::TARGET, level) {
        let line = Line {
            method: method.as_str(),
            path: &format_target(uri),
            status: response.status().as_u16(),
            bytes: response.body().size_hint().exact(),
            took,
            client,
            id: id.and_then(read_request_id),
            trace: trace.and_then(read_trace),
            token: response.extensions().get::<Writer>().map(|writer| writer as &dyn Display),
        };
        line.log(level);
    }
}

/// Formats a path for the access log, without a query that may hold a secret.
fn format_target(uri: &Uri) -> Cow<'_, str> {
    let Some(query) = uri.query() else { return uri.path().into() };
    let query = percent_decode_str(query).decode_utf8_lossy().to_ascii_lowercase();
    if SECRETS.iter().any(|secret| query.contains(secret)) {
        format!("{}?...", uri.path()).into()
    } else {
        uri.path_and_query().map_or("", PathAndQuery::as_str).into()
    }
}

/// Returns the trace's id, or `None` if the header is not well formed: version, trace, parent and flags, in lower case.
fn read_trace(header: &HeaderValue) -> Option<&str> {
    let header = header.to_str().ok()?;
    let mut parts = header.splitn(5, '-');
    let mut next = |length: usize| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts.next().filter(|part| part.len() == length && part.bytes().all(is_digit))
    };
    let (version, trace, parent, _flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    // A later version may have more parts.
    let is_version = version != "ff" && (version != "00" || parts.next().is_none());
    (is_version && !is_zero(trace) && !is_zero(parent)).then_some(trace)
}

/// Returns the text of a load balancer's request id, or `None` if it is not safe to log as it is.
fn read_request_id(id: &HeaderValue) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    id.to_str().ok().filter(|id| (1..=REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(plain))
}
