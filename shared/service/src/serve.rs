//! Serving HTTP on a bound listener until a shutdown future ends.
//!
//! warp's filters over hyper's own connection, because `warp::serve` has no header timeout, no connection limit, no
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

/// How many connections are served at once; more wait in the listener's queue.
pub const CONNECTIONS: usize = 1024;

/// How long a connection may take to send a request's head, from when it could have begun. It ends idle connections
/// too, so it outlasts the idle timeout of the load balancers in front (60 s for AWS's): they close first, and never
/// send a request into a closing connection.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// How long requests under way may take to end after a shutdown was asked for.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request's id may be, in bytes.
const REQUEST_ID_BYTES: usize = 64;

/// How long to leave a listener alone that has no more file descriptors to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` on `listener` with `workers` until `shutdown` ends, then lets requests under way end, within
/// [`DRAIN_TIMEOUT`]. Returns what `shutdown` said.
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
        // A task of its own: a panic while a body is sent ends this connection, before the body's end, and nothing else.
        workers.spawn(async move {
            let served = async {
                let connection = http.serve_connection(io(stream)?, logged(routes, client));
                watcher.watch(connection).await.map_err(io::Error::other)
            };
            if let Err(error) = served.await {
                log::debug!("client={client} the connection failed: {error}");
            }
            drop(permit);
        });
    };
    drop(listener);
    // hyper closes what it has read nothing of, though a request may wait there.
    workers.catch_up().await;
    log::info!("draining {} connections", graceful.count());
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        log::warn!("requests were still under way after {} s; they are cut off", DRAIN_TIMEOUT.as_secs());
    }
    ended
}

/// `stream`, on the runtime that this is called on.
fn io(stream: net::TcpStream) -> io::Result<TokioIo<TcpStream>> {
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream).map(TokioIo::new)
}

/// `routes` with a line in the access log for each request: what was asked, what was answered, how many bytes (`-`
/// for a list sent in chunks), how long until the answer's head, the id that the load balancer gave it, if it did, and
/// the name of the token that it showed, if the handler left one in the response's extensions.
/// A handler that panics is this request's 500; the panic hook has logged why.
fn logged(
    routes: Routes,
    client: SocketAddr,
) -> impl Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send> {
    let routes = TowerToHyperService::new(warp::service(routes));
    service_fn(move |request: hyper::Request<Incoming>| {
        let begin = Instant::now();
        // Load balancers ask for health each second: that is no news.
        let level = match request.uri().path() {
            "/live" | "/ready" => log::Level::Debug,
            _ => log::Level::Info,
        };
        let method = request.method().clone();
        let asked = log::log_enabled!(target: "access", level)
            .then(|| (method.clone(), request.uri().clone(), request_id(request.headers())));
        // The handlers share nothing that a panic could leave half-changed: what they read lies in the store.
        let answer = AssertUnwindSafe(routes.call(request)).catch_unwind();
        async move {
            let response = answer.await.unwrap_or_else(|_panic| Ok(Problem::Panicked.into_response(&method)))?;
            if let Some((method, uri, id)) = asked {
                let bytes = response.body().size_hint().exact().map_or("-".to_owned(), |bytes| bytes.to_string());
                let token = response.extensions().get::<token::Name>();
                let token = token.map_or_else(String::new, |name| format!(" token={name}"));
                // Quoted, so that no client can write a line of its own into the log.
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

/// ` id=…` for the access log where the request has an id; nothing where it is none that we would write there as it is.
fn request_id(headers: &HeaderMap) -> String {
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).filter(|id| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(plain)
    });
    id.map_or_else(String::new, |id| format!(" id={id}"))
}
