//! Serves HTTP on a bound listener until a shutdown future ends.
//!
//! It runs warp's filters on hyper's connections, because `warp::serve` has no header timeout, no connection limit, no
//! TCP_NODELAY and no drain deadline.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt::Display;
use std::future::ready;
use std::io;
use std::net::{self, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::Either;
use hyper::body::{Body, Incoming};
use hyper::header::HeaderValue;
use hyper::http::uri::PathAndQuery;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Method, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use record::token;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use warp::reply::Response;

use crate::access_log::{self, Line};
use crate::problem::Problem;
use crate::routes::Routes;
use crate::workers::Workers;

/// The most connections served at once; more wait in the listener's queue.
pub const CONNECTIONS: usize = 1024;

/// The time a connection has to send a request's head, counted from when it could begin. It ends idle connections
/// too, so it exceeds the idle timeout of the load balancers in front (60 s on AWS): they close first and never send a
/// request into a closing connection.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// The time requests under way have to end after a shutdown begins.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The header with a load balancer's request id.
const REQUEST_ID: &str = "x-request-id";

/// The longest request id that is logged, in bytes.
const REQUEST_ID_BYTES: usize = 64;

/// The pause after a failed accept, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` on `listener` with `workers` until `shutdown` ends, then gives requests under way
/// [`DRAIN_TIMEOUT`] to end. Returns the output of `shutdown`.
pub async fn serve<T>(listener: TcpListener, routes: Routes, workers: Workers, shutdown: impl Future<Output = T>) -> T {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut shutdown = pin!(shutdown);
    let ended = loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            ended = &mut shutdown => break ended,
        };
        let (stream, client) = match accepted.and_then(|(stream, client)| Ok((stream.into_std()?, client))) {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn!("a connection could not be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (http, routes, watcher) = (http.clone(), routes.clone(), graceful.watcher());
        // Its own task: a panic in the middle of a body cuts off this connection only.
        workers.spawn(async move {
            let served = async {
                let connection = http.serve_connection(register(stream)?, log_requests(routes, client));
                watcher.watch(connection).await.map_err(io::Error::other)
            };
            if let Err(error) = served.await {
                log::debug!("client={client} the connection failed: {error}");
            }
            drop(permit);
        });
    };
    drop(listener);
    // hyper closes connections from which it has read nothing, even if a request waits in them.
    workers.catch_up().await;
    log::info!("draining {} connections", graceful.count());
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        log::warn!("requests were still under way after {} s; they are cut off", DRAIN_TIMEOUT.as_secs());
    }
    ended
}

/// Registers `stream` with the current runtime.
fn register(stream: net::TcpStream) -> io::Result<TokioIo<TcpStream>> {
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream).map(TokioIo::new)
}

/// Wraps `routes` so that known answers are repeated, and each request writes a line to the [access log](access_log).
/// A handler can put the name of a token into its response's extensions for that line. If a handler panics, its request
/// gets a 500; the panic hook logs why.
fn log_requests(
    routes: Routes,
    client: SocketAddr,
) -> impl Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send> {
    let Routes { filter, answers } = routes;
    let filter = TowerToHyperService::new(warp::service(filter));
    let client: Arc<str> = client.to_string().into();
    service_fn(move |request: hyper::Request<Incoming>| {
        let begin = Instant::now();
        if let Some(response) = answers.find(&request) {
            let id = request.headers().get(REQUEST_ID);
            log_request(request.method(), request.uri(), id, &client, begin, &response);
            return Either::Left(ready(Ok(response)));
        }
        let (method, uri, client, answers) =
            (request.method().clone(), request.uri().clone(), client.clone(), answers.clone());
        let id = request.headers().get(REQUEST_ID).cloned();
        // Unwind safe: handlers share no state that a panic could leave half-changed. The records are in the store.
        let answer = AssertUnwindSafe(filter.call(request)).catch_unwind();
        Either::Right(async move {
            let mut response = answer.await.unwrap_or_else(|_panic| Ok(Problem::Panicked.into_response(&method)))?;
            answers.keep(uri.path(), &mut response);
            log_request(&method, &uri, id.as_ref(), &client, begin, &response);
            Ok(response)
        })
    })
}

/// Writes the request's line to the access log, if that is on.
fn log_request(
    method: &Method,
    uri: &Uri,
    id: Option<&HeaderValue>,
    client: &str,
    begin: Instant,
    response: &Response,
) {
    // Load balancers ask for health every second.
    let level = if matches!(uri.path(), "/live" | "/ready") { log::Level::Debug } else { log::Level::Info };
    if !log::log_enabled!(target: access_log::TARGET, level) {
        return;
    }
    let path = match uri.scheme() {
        None => uri.path_and_query().map_or("", PathAndQuery::as_str).into(),
        Some(_) => Cow::Owned(uri.to_string()),
    };
    let line = Line {
        method: method.as_str(),
        path: &path,
        status: response.status().as_u16(),
        bytes: response.body().size_hint().exact(),
        took: begin.elapsed(),
        client,
        id: id.and_then(readable_id),
        token: response.extensions().get::<token::Name>().map(|name| name as &dyn Display),
    };
    log::log!(target: access_log::TARGET, level, "{line}");
}

/// Returns the text of a load balancer's request id, or `None` if it is not safe to log as it is.
fn readable_id(id: &HeaderValue) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    id.to_str().ok().filter(|id| (1..=REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(plain))
}
