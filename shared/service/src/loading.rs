//! The answers of a service that has no database to serve yet: it is being filled, loaded or recovered.
//!
//! The service listens all the same, so that whoever watches over it knows that it lives, and why it is not ready. Each
//! connection gets one answer. It is one of the server's, which counts it, may end it, and serves the routes to later ones.

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request};
use record::model::Collection;
use tokio::time::{sleep, timeout};
use warp::reply::Response;

use crate::connection::Guard;
use crate::cors::{Cors, Permission};
use crate::metrics::Tally;
use crate::problem::{Problem, READS};
use crate::reply;
use crate::routes::Route;
use crate::serve::{Server, find_ids, http, log_request};

/// The time in which most databases are open. Those who come meanwhile wait for the routes.
const SOON: Duration = Duration::from_secs(1);

/// The time that a request's body has: a client that is still sending might not see the answer.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// What a page of another origin may ask before it knows the routes.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";

/// What a service does to have a database, and how far it is. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Loading(Arc<Mutex<Stage>>);

#[derive(Debug, Default)]
struct Stage {
    /// In words that follow "The service".
    what: String,
    /// How many bytes it has to read.
    bytes: u64,
    /// How many of them it has read.
    read: Arc<AtomicU64>,
}

impl Loading {
    /// Notes what it does from now on, in words that follow "The service".
    pub(crate) fn begin(&self, what: impl Into<String>) {
        self.note(Stage { what: what.into(), ..Stage::default() });
    }

    /// Notes what it does from now on, how many bytes it reads for that, and where it counts them.
    pub(crate) fn begin_reading(&self, what: impl Into<String>, bytes: u64, read: Arc<AtomicU64>) {
        self.note(Stage { what: what.into(), bytes, read });
    }

    /// Tells a client why its request cannot be answered.
    pub(crate) fn to_problem(&self) -> Problem {
        Problem::Loading(format!("The service {self}."))
    }

    fn note(&self, stage: Stage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

impl Display for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Stage { what, bytes, read } = &*stage;
        f.write_str(what)?;
        match read.load(Ordering::Relaxed) * 100 {
            _ if *bytes == 0 => Ok(()),
            read => write!(f, ", of which {} % is read", read / bytes),
        }
    }
}

/// Answers what the server's clients ask, until it is dropped.
pub(crate) async fn answer(
    server: &mut Server,
    workers: usize,
    collection: Collection,
    cors: Option<&Cors>,
    loading: &Loading,
) -> io::Result<Infallible> {
    sleep(SOON).await;
    server.start_workers(workers)?;
    let (cors, loading) = (cors.cloned(), loading.clone());
    let answers = move |guard: Guard, tally: Arc<Tally>, client: SocketAddr| {
        let answerer = Arc::new(Answerer { collection, cors, loading, guard, tally, client: client.to_string() });
        service_fn(move |request| {
            let answerer = Arc::clone(&answerer);
            async move { Ok(answerer.answer(request).await) }
        })
    };
    Ok(Box::pin(server.answer_until(http().keep_alive(false), answers, pending())).await)
}

/// Answers one client.
struct Answerer {
    collection: Collection,
    cors: Option<Cors>,
    loading: Loading,
    guard: Guard,
    tally: Arc<Tally>,
    client: String,
}

impl Answerer {
    async fn answer(&self, request: Request<Incoming>) -> Response {
        let (begin, _busy) = (Instant::now(), self.guard.begin(&request));
        let (head, mut body) = request.into_parts();
        let _ = timeout(BODY_PATIENCE, async { while let Some(Ok(_)) = body.frame().await {} }).await;
        let permission = self.cors.as_ref().map(|cors| cors.decide(&head.method, &head.headers));
        let answer = match head.uri.path() {
            "/live" | "/live/" if matches!(head.method, Method::GET | Method::HEAD) => reply::text("live"),
            "/live" | "/live/" => Err(Problem::MethodNotAllowed(READS)),
            // Otherwise a browser would not ask, and its page not see why.
            _ if permission.as_ref().is_some_and(Permission::asks_before) => Err(Problem::MethodNotAllowed(METHODS)),
            _ => Err(self.loading.to_problem()),
        };
        let mut response = answer.unwrap_or_else(|problem| problem.into_response(self.collection, &head.method));
        if let Some(permission) = permission {
            permission.add_to(response.headers_mut());
        }
        let took = begin.elapsed();
        self.tally.add(&head.method, Route::of(head.uri.path(), self.collection), &response, took);
        log_request(&head.method, &head.uri, find_ids(&head.headers), &self.client, took, &response);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_how_much_is_read_of_what_has_a_length() {
        let (loading, read) = (Loading::default(), Arc::new(AtomicU64::new(0)));
        loading.begin_reading("reads a book", 300, Arc::clone(&read));
        assert_eq!(loading.to_string(), "reads a book, of which 0 % is read");
        read.fetch_add(299, Ordering::Relaxed);
        assert_eq!(loading.to_string(), "reads a book, of which 99 % is read");
        loading.begin("opens it");
        assert_eq!(loading.to_string(), "opens it");
    }
}
