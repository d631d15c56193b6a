//! Serves HTTP on a bound listener until a shutdown future ends.
//!
//! It runs warp's filters on hyper's connections, because `warp::serve` has no header timeout, no connection limit, no
//! TCP_NODELAY and no drain deadline.

use std::convert::Infallible;
use std::io;
use std::net::{self, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hyper::body::{Body, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use record::token;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use warp::reply::Response;

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

/// Wraps `routes` so that each request writes a line to the access log: method, path, status, bytes of the body (`-`
/// for a list sent in chunks), milliseconds until the answer's head, the load balancer's request id if it gave one, and
/// the token's name if the handler put one into the response's extensions.
/// If a handler panics, its request gets a 500; the panic hook logs why.
fn log_requests(
    routes: Routes,
    client: SocketAddr,
) -> impl Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send> {
    let routes = TowerToHyperService::new(warp::service(routes));
    service_fn(move |request: hyper::Request<Incoming>| {
        let begin = Instant::now();
        // Load balancers ask for health every second.
        let level = match request.uri().path() {
            "/live" | "/ready" => log::Level::Debug,
            _ => log::Level::Info,
        };
        let method = request.method().clone();
        let asked = log::log_enabled!(target: "access", level)
            .then(|| (method.clone(), request.uri().clone(), format_request_id(request.headers())));
        // Unwind safe: handlers share no state that a panic could leave half-changed. The records are in the store.
        let answer = AssertUnwindSafe(routes.call(request)).catch_unwind();
        async move {
            let response = answer.await.unwrap_or_else(|_panic| Ok(Problem::Panicked.into_response(&method)))?;
            if let Some((method, uri, id)) = asked {
                let bytes = response.body().size_hint().exact().map_or("-".to_owned(), |bytes| bytes.to_string());
                let token = response.extensions().get::<token::Name>();
                let token = token.map_or_else(String::new, |name| format!(" token={name}"));
                // Quoted, so that no client can forge a line of the log.
                log::log!(
                    target: "access",
                    level,
                    "method={:?} path={:?} status={} bytes={bytes} ms={:.3} client={client}{id}{token}",
                    method.as_str(),
                    uri.to_string(),
                    response.status().as_u16(),
                    begin.elapsed().as_secs_f64() * 1e3,
                );
            }
            Ok(response)
        }
    })
}

/// Formats ` id=…` for the access log. Returns `""` if the request has no id or one that is not safe to log as it is.
fn format_request_id(headers: &HeaderMap) -> String {
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).filter(|id| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(plain)
    });
    id.map_or_else(String::new, |id| format!(" id={id}"))
}
