//! The answers of a service that has no database to serve yet: it is being filled, loaded or recovered.
//!
//! The service listens all the same, so that whoever watches over it knows that it lives, and why it is not ready. Each
//! connection gets one answer. Those that come later are the server's, on the same listener.

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request};
use record::model::Collection;
use tokio::net::TcpListener;
use tokio::time::sleep;
use warp::reply::Response;

use crate::brief::Places;
use crate::problem::{Problem, READS};
use crate::reply;

/// The time in which most databases are open. Those who come meanwhile wait for the server.
const SOON: Duration = Duration::from_secs(1);

/// The most connections at once, and the time that each has: those who send nothing must not keep others from hearing that the
/// service lives.
const CONNECTIONS: usize = 512;
const PATIENCE: Duration = Duration::from_secs(1);

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

/// Answers requests until it is dropped.
pub(crate) async fn answer(listener: &TcpListener, collection: Collection, loading: &Loading) -> Infallible {
    sleep(SOON).await;
    let places = Places::new(CONNECTIONS, PATIENCE);
    loop {
        let loading = loading.clone();
        let answer = move |request| answer_one(request, collection, loading.clone());
        places.serve(async || listener.accept().await.map(|(stream, _)| stream), answer).await;
    }
}

async fn answer_one(request: Request<Incoming>, collection: Collection, loading: Loading) -> Response {
    let (head, mut body) = request.into_parts();
    // A client that is still sending might not see the answer.
    while let Some(Ok(_)) = body.frame().await {}
    let answer = match head.uri.path() {
        "/live" | "/live/" if matches!(head.method, Method::GET | Method::HEAD) => reply::text("live"),
        "/live" | "/live/" => Err(Problem::MethodNotAllowed(READS)),
        _ => Err(Problem::Loading(format!("The service {loading}."))),
    };
    answer.unwrap_or_else(|problem| problem.into_response(collection, &head.method))
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
