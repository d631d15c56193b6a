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
use hyper::Uri;
use hyper::body::{Body, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use percent_encoding::percent_decode_str;
use record::token;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep};
use warp::reply::Response;

use crate::connection::{BUFFER, CONNECTIONS, Connections, SEND_BUFFER, SWEEP, Watch};
use crate::problem::Problem;
use crate::routes::Routes;
use crate::workers::Workers;

/// The time requests under way have to end after a shutdown begins.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

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
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = Connections::new();
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    // Slow heads are the connections' own business.
    http.header_read_timeout(None).max_buf_size(BUFFER).max_headers(FIELDS);
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    // A connection that has no permit yet.
    let mut next = None;
    let ended = loop {
        if next.is_some() && permits.available_permits() == 0 {
            connections.end_longest_waiting();
        }
        let permit = tokio::select! {
            accepted = listener.accept(), if next.is_none() => {
                match accepted.and_then(|(stream, client)| Ok((stream.into_std()?, client))) {
                    Ok(accepted) => next = Some(accepted),
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
            ended = &mut shutdown => break ended,
        };
        let Some((stream, client)) = next.take() else { continue };
        let (http, routes, watcher, watch) = (http.clone(), routes.clone(), graceful.watcher(), connections.watch());
        // Its own task: a panic in the middle of a body cuts off this connection only.
        workers.spawn(async move {
            let served = async {
                let requests = log_requests(routes, client, &watch);
                let connection = http.serve_connection(TokioIo::new(watch.stream(register(stream)?)), requests);
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
    let sweep = async {
        loop {
            sweeps.tick().await;
            connections.sweep();
        }
    };
    tokio::select! {
        () = graceful.shutdown() => {}
        () = sweep => {}
        () = sleep(DRAIN_TIMEOUT) => {
            log::warn!("requests were still under way after {} s; they are cut off", DRAIN_TIMEOUT.as_secs());
        }
    }
    ended
}

/// Registers `stream` with the current runtime.
fn register(stream: net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
    TcpStream::from_std(stream)
}

/// Wraps `routes` so that each request writes a line to the access log: method, path, status, bytes of the body (`-`
/// for a list sent in chunks), milliseconds until the answer's head, the load balancer's request id if it gave one, and
/// the token's name if the handler put one into the response's extensions.
/// If a handler panics, its request gets a 500; the panic hook logs why.
fn log_requests(
    routes: Routes,
    client: SocketAddr,
    watch: &Watch,
) -> impl Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + use<> {
    let routes = watch.guard(TowerToHyperService::new(warp::service(routes)));
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
                    format_target(&uri),
                    response.status().as_u16(),
                    begin.elapsed().as_secs_f64() * 1e3,
                );
            }
            Ok(response)
        }
    })
}

/// Formats a path for the access log, without a query that may hold a secret.
fn format_target(uri: &Uri) -> String {
    let query = uri.query().map(|query| percent_decode_str(query).decode_utf8_lossy().to_ascii_lowercase());
    if query.is_some_and(|query| SECRETS.iter().any(|secret| query.contains(secret))) {
        format!("{}?...", uri.path())
    } else {
        uri.to_string()
    }
}

/// Formats ` id=…` for the access log. Returns `""` if the request has no id or one that is not safe to log as it is.
fn format_request_id(headers: &HeaderMap) -> String {
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).filter(|id| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(plain)
    });
    id.map_or_else(String::new, |id| format!(" id={id}"))
}
